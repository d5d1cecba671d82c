//! The course protocol: a replicated key-value store behind JSON datagrams, on the same consensus core as everything else.
//!
//! A simulator starts the replicas and carries every message; `docs/course-protocol.md` has the protocol. Messages are counted
//! and answers are timed, so this replica says little: the core is thrifty (`raft::Config::thrift`), gets are served by
//! lease, and a request is only ever sent on to a leader that was heard a moment ago.
//!
//! | file | subject |
//! |---|---|
//! | `machine` | one replica as a synchronous state machine: datagrams in, datagrams out |
//! | `requests` | what clients asked, and where each request stands; every one is answered once |
//! | `detector` | asks a leader that may be dead whether it lives |
//! | `wire` | the datagrams |
//! | `shell` | the machine on a real socket and a real clock |
//!
//! The state is in memory: a killed replica stays dead, so whatever the core wants on disk counts as written at once.

mod detector;
mod machine;
mod requests;
mod shell;
pub mod wire;

pub use machine::{FIRST_ELECTION, Replica};
pub use shell::run;
