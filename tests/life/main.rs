//! The life of a key over HTTP: what the management routes do, for whom, and
//! whether they are what their description says.

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
