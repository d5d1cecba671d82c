//! A node: consensus, ledger and health composed into one machine, the ports it stands on, and the driver that
//! runs it for real.
//!
//! | file | what |
//! |---|---|
//! | `core`, `handlers`, `io` | the machine: inputs in, effects out; no clock, no IO |
//! | `requests` | who waits for what, and where each request is |
//! | `heard` | what others have passed on to this node, so that it is done once |
//! | `membership` | who belongs to the cluster: changes, the address book, and what a removed node does |
//! | `duties`, `report`, `facts` | what the node proposes by itself, from the replicated state as it sees it |
//! | `fleet` | the members as it sees them |
//! | `autopilot` | replaces voters that were silent for too long, if switched on |
//! | `snapshot` | transfers of a whole state |
//! | `applier` | applies entries in one transaction a batch |
//! | `view`, `status`, `events`, `notices` | what it says about itself |
//! | `ports`, `frame` | what it needs from below, and what nodes say to each other |
//! | `trail` | the way of sampled writes, as values |
//! | `handle` | how the layers above use it |
//! | `driver` | the task and the two threads that run it for real |

pub mod applier;
pub mod autopilot;
pub mod core;
// The driver is the shell: it reads the clock, rolls the dice and starts the threads.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod driver;
pub mod duties;
pub mod events;
pub mod facts;
pub mod fleet;
pub mod frame;
pub mod handle;
mod handlers;
pub mod heard;
pub mod io;
mod membership;
pub mod mending;
pub mod moment;
pub mod notices;
pub mod ports;
pub mod report;
pub mod requests;
pub mod snapshot;
pub mod spool;
pub mod status;
pub mod trail;
mod view;
