//! super-node: a supervisor for a fleet of machines.
//!
//! A small cluster of super-nodes agrees through Raft. Together they ping every member of the fleet, replace a
//! leader that went silent, judge every member's answers once per interval, and commit the reward, the penalty
//! and the evidence through the replicated log. The log feeds a ledger that lives on each super-node and is
//! projected into MongoDB.
//!
//! # Functional core, imperative shell
//!
//! `raft`, `ledger` and `health` are synchronous state machines: an input and the current time go in, effects
//! come out. They never wait, read a clock, draw a random number or touch a disk. `node` composes the three and
//! says in its ports what it needs of the world. The layers above provide that: for real in `storage`, `network`
//! and `database`, simulated in `sim`. So the code that runs in production is the code that runs in a seeded
//! history, and one seed is one history.
//!
//! # Layers
//!
//! Imports point only to a lower row; modules of one row do not know each other. `tests/architecture.rs` reads
//! every import and fails on one that points up.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | L0 | `types` | names, times, log coordinates, money |
//! | L0 | `codec` | canonical bytes for hashes, compact bytes for wire and disk |
//! | L0 | `metrics` | the metrics of one node |
//! | L1 | `raft` | consensus; commands are opaque bytes |
//! | L1 | `ledger` | the replicated machine: members, accounts, intervals, policy, the dictionary |
//! | L1 | `health` | ping schedule, failure detector, interval counters |
//! | L1 | `calls` | what a client decides: whom to ask, when to give up, what it may then claim |
//! | L2 | `node` | the three composed; the ports; the driver |
//! | L3 | `storage` | the ports to the disk: log and state |
//! | L3 | `network` | the ports to peers and agents |
//! | L3 | `database` | the projection into MongoDB |
//! | L3 | `webhooks` | what happens, told to receivers over HTTP |
//! | L3 | `traces` | the way of sampled writes, told to a collector |
//! | L3 | `sim` | whole nodes on simulated ports, above the storage and the projector whose code it runs |
//! | L4 | `config` | settings: flags, environment, file, defaults |
//! | L4 | `api` | HTTP |
//! | L4 | `client` | talks to a cluster over HTTP |
//! | L4 | `agent` | a fleet member that answers pings |
//! | L4 | `replica` | the course protocol: a key-value store on the consensus core |
//! | L4 | `scenario` | runs replicas of that protocol through scenarios, and judges them |
//! | L4 | `server` | puts one real node together |
//! | L4 | `local` | a cluster of child processes on this machine |
//! | L4 | `bench` | load, and what is measured under it |
//! | L5 | `cli` | one file per subcommand |
//!
//! # What the layers may do
//!
//! `clippy.toml` forbids clocks, random numbers, threads and hash maps, with the reason for each. L0 to L2 obey;
//! a module from L3 up opts out at its `mod` line below.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod agent;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod api;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod bench;
pub mod calls;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod client;
pub mod codec;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod config;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod database;
pub mod health;
pub mod ledger;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod local;
pub mod metrics;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod network;
pub mod node;
pub mod raft;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod replica;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod scenario;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod server;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod sim;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod storage;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod traces;
pub mod types;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod webhooks;
