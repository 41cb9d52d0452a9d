//! The program as a person and a script meet it: the real binary, its exit
//! codes, what it prints, and what it leaves behind.
//!
//! Nothing sleeps: a test waits for a line, for an answer or for the end of a
//! process, with a deadline that only a failure reaches.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod flags;
mod keys;
#[path = "../common/program.rs"]
mod program;
mod rules;
mod start;
mod stop;
