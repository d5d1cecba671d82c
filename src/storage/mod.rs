//! Everything on disk: the Raft log, the applied state and the directory that holds them.
//!
//! | file | subject |
//! |---|---|
//! | `directory` | the data directory: whose it is, who uses it now |
//! | `log`, `recovery`, `record`, `segment`, `positions` | the segmented log behind [`LogStore`](crate::node::ports::LogStore) |
//! | `scrub` | reading again what lies on disk, to find damage |
//! | `disk`, `disk_memory` | the port below the log: real files, or memory that forgets what was not synced |
//! | `snapshot`, `recover` | the file that holds a whole state; what operators make of it, and of a last survivor |
//! | `spool` | the rows of a snapshot that is arriving |
//! | `probe` | how long a disk takes for a small synced write |
//! | `state`, `overlay`, `state_memory` | the stores behind [`StateStore`](crate::node::ports::StateStore): new rows over a redb file, or memory |
//!
//! The formats and the recovery rules are written down in `docs/storage.md`.

pub mod directory;
pub mod disk;
pub mod disk_memory;
pub mod log;
mod overlay;
mod positions;
pub mod probe;
mod record;
pub mod recover;
mod recovery;
pub mod scrub;
mod segment;
pub mod snapshot;
pub mod spool;
pub mod state;
pub mod state_memory;

pub use directory::{DataDirectory, Identity};
pub use disk::{Disk, RealDisk};
pub use disk_memory::MemoryDisk;
pub use log::{Inspection, Log, LogOptions, inspect};
pub use state::{State, StateOptions};
pub use state_memory::MemoryState;

use std::ops::Bound;

/// What an operator can do about damage; ends every message that reports it.
pub(crate) const REMEDY: &str = "stop using this data directory: restore it from a backup, or, if a majority of \
     the other super-nodes is healthy, remove it and let this node join again";

/// Whether no key can lie between the bounds, which ordered maps must not be asked for.
fn range_is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}
