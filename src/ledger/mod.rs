//! The replicated machine: members, accounts, intervals, policy, the shared dictionary.

pub mod command;
pub mod keyspace;
pub mod policy;
pub mod records;
