//! The host.
pub mod engine;
pub mod facts;
pub mod secret;

pub mod storage {
    #[derive(Clone,Copy)]
    pub enum Mode { Test, Live }
}
