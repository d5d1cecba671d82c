//! Real processes under load, tormented, with an oracle: no acknowledged write is lost, no linearizable read is stale.
//!
//! Each test does one kind of harm for a few seconds, or for `TORMENT_SECONDS`, by dice whose seed is printed
//! (`TORMENT_SEED` repeats it). Then it mends everything, waits until the cluster serves, and judges everything that
//! the clients were told (`support/oracle.rs`), what every node holds, and the books.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/field.rs"]
mod field;
mod harness;
#[path = "../support/load.rs"]
mod load;
mod membership;
mod network;
#[path = "../support/oracle.rs"]
mod oracle;
mod oracle_checks;
mod processes;
