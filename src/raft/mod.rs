//! Consensus.

pub mod message;
pub mod wire;

pub use message::*;
pub use wire::Message;
