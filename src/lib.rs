//! super-node

pub mod api;
pub mod client;
pub mod codec;
pub mod config;
pub mod health;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod raft;
pub mod types;
