//! Wardkey's host: HTTP, storage, randomness, hashing, encryption, time, logs,
//! and running policies. It holds no rule; what a key means and may do is the
//! policy's to say.
//!
//! In the order in which a request meets them:
//!
//! - [`server`] takes connections; [`gate`] is the life of a request, of which `cohort`
//!   does a part for all that are ready.
//! - [`path`], [`credential`], [`client_address`] and [`hygiene`] read what came
//!   over the wire; [`secret`] knows what a key looks like, and [`scrub`] finds
//!   keys where they do not belong.
//! - [`decide`] gets the decision: from the [`stack`] of policies that is in force
//!   ([`active_policy`]), run by [`engine`], on [`facts`] from [`cache`] and
//!   [`storage`].
//! - [`upstream`] or [`simulated`] serves what was let through; [`error`] says
//!   what became of the rest; [`request_log`], [`usage`] and [`metrics`] note it.
//! - [`policies`] keeps policies and puts them in force, if [`trust`] allows it and
//!   [`trial`] has tried them: for everybody, for a [`share`], or as a [`shadow`];
//!   `fallback` takes back what fails. [`throttle`] says when somebody has to wait.
//! - [`keys`] is all that can be done with keys, sealed by [`vault`]; [`audit`]
//!   proves what was done; [`verification`] has a person confirm what is dangerous;
//!   [`worker`] does what becomes due; [`api`] has the routes.
//! - [`host`] puts it together, for [`cli`] or for a service of your own.

pub mod active_policy;
mod address_text;
mod answer;
pub mod api;
pub mod audit;
pub mod cache;
pub mod cli;
pub mod client_address;
pub mod clock;
mod cohort;
pub mod credential;
pub mod data_dir;
pub mod decide;
pub mod engine;
pub mod error;
pub mod facts;
mod fallback;
pub mod gate;
mod health;
pub mod host;
pub mod hygiene;
mod key_bytes;
pub mod keys;
pub mod metrics;
pub mod path;
pub mod policies;
mod question;
pub mod request_log;
pub mod scrub;
pub mod secret;
pub mod secret_file;
pub mod server;
pub mod shadow;
pub mod share;
pub mod simulated;
pub mod stack;
pub mod storage;
pub mod throttle;
pub mod trial;
pub mod trust;
pub mod upstream;
pub mod usage;
pub mod vault;
pub mod verification;
pub mod worker;
