//! The life of a key over HTTP: what the management routes do, for whom, and
//! whether they are what their description says.

#[path = "../common/mod.rs"]
mod common;

mod openapi;
