//! The simulator: whole nodes in virtual time, on a network and disks that misbehave, from one seed.
//!
//! Nothing here is a model of a node. The machine (`node::core`), the log's code (`storage::log`), the ledger and the wire
//! format are the real ones; only the ports below them are simulated. One seed gives one history, byte for byte: there
//! is one queue of events ordered by (time, number), one source of dice, and no thread.
//!
//! A history has three parts: *faults* (loss, delay, duplication, partitions, crashes with torn writes, pauses) while
//! clients read and write; *healing*, when all nodes run and the network is whole; and the *verdict*: every invariant
//! was checked after every step, and after healing the cluster must have become live again.
//!
//! | file | what |
//! |---|---|
//! | `dice` | seeded random numbers |
//! | `world` | the queue, the nodes, the network, the agents |
//! | `host` | one node with its disk and state, alive or dead |
//! | `faults` | what goes wrong, and when |
//! | `clients` | who reads and writes |
//! | `projection` | the projector of a node, polled by hand |
//! | `mongodb` | the documents of a MongoDB, and what requests mean |
//! | `database` | the server around them, and what goes wrong with it |
//! | `invariants` | one file per safety property |
//! | `history` | one seed from beginning to verdict |

pub mod clients;
pub mod database;
pub mod dice;
pub mod faults;
pub mod history;
pub mod host;
pub mod invariants;
pub mod mongodb;
pub mod projection;
pub mod world;

pub use history::{Scenario, Summary, Violation, run};
