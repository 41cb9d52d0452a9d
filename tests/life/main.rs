//! The life of a key: what the management routes do, for whom, whether they are
//! what their description says, and what is left of it after a crash.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing_storage.rs"]
mod failing_storage;
#[path = "../common/program.rs"]
mod program;
#[path = "../policy/random.rs"]
mod random;

mod crash;
mod expiry;
mod model;
mod openapi;
