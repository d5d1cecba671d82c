//! A node: consensus, ledger and health composed, and the ports it stands on.

pub mod events;
pub mod frame;
pub mod handle;
pub mod ports;
pub mod status;
