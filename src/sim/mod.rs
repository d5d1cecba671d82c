//! The simulator: whole nodes in virtual time, on a network, disks and clocks that misbehave, from one seed.
//!
//! Nothing here is a model of a node. The machine (`node::core`), the log's code (`storage::log`), the ledger and the wire
//! format are the real ones; only the ports below them are simulated. One seed gives one history, byte for byte: there
//! is one queue of events ordered by (time, number), every die is drawn from a stream of the seed, and there is no
//! thread.
//!
//! A seed and a *scenario* give a *plan*: a value that lists what will go wrong, and when. The plan gives a *history* in
//! three parts: the faults, while clients read and write; then everything is mended; and the *verdict*: every
//! invariant was checked after every step, and at the end the cluster must have become live again. Because the plan
//! is a value, a failure can be made small by leaving things out of it, and kept as a file for ever.
//!
//! | file | what |
//! |---|---|
//! | `dice`, `clock` | seeded random numbers; clocks that run fast, slow and off |
//! | `scenario`, `generate`, `plan` | what histories are to be like; the plan of a seed; plans as values and files |
//! | `cuts` | the plans of every directed cut |
//! | `world` | the queue, the nodes, what their effects come to |
//! | `host`, `network` | one node with its disk, state and clocks, alive or dead; the links and the weather |
//! | `faults` | carries out the acts of a plan |
//! | `operator` | adds, removes, replaces, hands over |
//! | `clients` | who reads and writes |
//! | `treasury` | who claims and adjusts |
//! | `library` | who does so through the client library |
//! | `projection` | the projector of a node, polled by hand |
//! | `mongodb` | the documents of a MongoDB, and what requests mean |
//! | `database` | the server around them, and what goes wrong with it |
//! | `evidence` | which acts of a plan took effect |
//! | `invariants` | one file per safety property |
//! | `history` | one plan from beginning to verdict |
//! | `intervals` | counts what became of the intervals |
//! | `amid` | whether writes are taken while a majority is well |
//! | `assertion` | catches the nodes' own assertions |
//! | `trace`, `tell` | what is told of a history, and in which words |
//! | `shrink` | makes a failure small |

pub mod amid;
pub mod assertion;
pub mod clients;
pub mod clock;
pub mod cuts;
pub mod database;
pub mod dice;
pub mod evidence;
pub mod faults;
mod fleet;
pub mod generate;
pub mod history;
pub mod host;
pub mod intervals;
pub mod invariants;
pub mod library;
pub mod mongodb;
pub mod network;
pub mod operator;
pub mod plan;
pub mod projection;
pub mod scenario;
pub mod shrink;
pub mod tell;
pub mod trace;
pub mod treasury;
pub mod world;

pub use generate::generate;
pub use history::{History, Summary, Violation, run, run_plan};
pub use intervals::Intervals;
pub use plan::Plan;
pub use scenario::Scenario;
