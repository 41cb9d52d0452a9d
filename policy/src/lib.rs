//! Wardkey's standard policy: what keys mean and what they may do.
//!
//! Pure functions of what they are handed. Nothing here reads a clock, draws a
//! random number, opens a file or keeps anything from one call to the next;
//! time is an argument, and what is stored comes through [`Storage`]. The same
//! functions run natively, in tests, and in the component that the host loads.
//!
//! # The rules
//!
//! - [`authorize`] is the decision about a request, from top to bottom; the
//!   other modules are what it asks.
//! - [`kind`] is what kinds of keys there are; [`permission`] what permissions
//!   cover; [`network`] IP allowlists; [`context`] which account a request acts
//!   on; [`limited`] the 180-day rule.
//! - [`lifecycle`] is which keys are made, and for whom, and what may become of
//!   them: edited, rotated, revealed, restored, ended.
//! - [`denial`] is what a refusal says.
//! - [`catalogue`] is the API that all of it is about. It is data: see
//!   `catalogue.toml`.

// Code that decides who may do what must not stop half-way: nothing here can
// panic, but for what the compiler itself puts in.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod authorize;
pub mod catalogue;
pub mod context;
pub mod contract;
pub mod denial;
pub mod kind;
pub mod lifecycle;
pub mod limited;
pub mod network;
pub mod permission;

#[cfg(target_family = "wasm")]
mod component;

use contract::Account;

/// What the rules may ask for while they decide.
pub trait Storage {
    /// Returns the accounts of these ids, in the order asked.
    fn find_accounts(&self, ids: &[String]) -> Vec<Option<Account>>;
}
