//! super-node

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod api;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod client;
pub mod codec;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod config;
pub mod health;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod raft;
pub mod types;
