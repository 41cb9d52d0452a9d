//! Can a policy do harm to the host that runs it?
//!
//! Policies here are written as text, in the test ([`guest`]): ones that the
//! host must not load ([`refused`]), ones that misbehave when they are asked
//! ([`hostile`]), ones that take long ([`budgets`]), and ones that are changed
//! while requests run ([`swap`]).

mod budgets;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing_storage.rs"]
mod failing_storage;
mod guest;
mod hostile;
mod refused;
mod swap;
