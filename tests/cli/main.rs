//! The program as a person and a script meet it: the real binary, its exit
//! codes, what it prints, and what it leaves behind.
//!
//! Nothing sleeps: a test waits for a line, for an answer or for the end of a
//! process, with a deadline that only a failure reaches.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod backup;
mod codes;
mod flags;
#[expect(dead_code, reason = "another suite asks more of it")]
#[path = "../engine/guest.rs"]
mod guest;
mod keys;
mod life;
mod owners;
mod policies;
#[path = "../common/program.rs"]
mod program;
mod records;
mod rules;
mod signed;
mod start;
mod stop;
