//! super-node

pub mod agent;
pub mod codec;
pub mod health;
pub mod ledger;
pub mod metrics;
pub mod network;
pub mod node;
pub mod raft;
pub mod types;
