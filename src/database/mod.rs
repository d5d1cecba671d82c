//! The projection of the ledger into MongoDB, and the proof that it is complete.
//!
//! The replicated log is the truth; MongoDB is a copy made for people who query. The copy is made by whichever
//! node leads (and for a moment, around a change of leaders, by two), so every write is one that may be repeated
//! and may overlap with another writer's:
//!
//! 1. immutable records (`rewards`, `observations`, `elections`, `intervals`) are inserted under a deterministic
//!    `_id`; a duplicate key means that the record is already there, and the two are compared;
//! 2. `members` holds absolute values, each guarded by the log index that it reflects, so that an older writer
//!    never moves a member back;
//! 3. the `projection` document moves last, and its cursors only ever grow.
//!
//! So delivery is at least once and the effect is exactly once, on a standalone server as well as on a replica set.
//!
//! The logic is written against three ports (a clock, a MongoDB, a node), so that the simulator runs it too, on a
//! MongoDB that fails, hangs, answers late and forgets.
//!
//! | file | subject |
//! |---|---|
//! | [`documents`] | records as BSON documents, and back |
//! | [`feed`] | where records come from: the applied state, or a list |
//! | [`errors`] | what a failure means: retry, call the operator, or our own fault |
//! | [`examine`] | a look at a server: is it there, does it let us in, is it new enough? |
//! | [`piece`] | a batch with its documents |
//! | [`ports`] | what the projection needs of the world |
//! | [`target`] | one database: claim it, write a batch, move the checkpoint |
//! | [`projector`] | the loop that follows the ledger while this node leads |
//! | [`mongo`] | MongoDB through its driver |
//! | [`schema`] | validators and indexes from the top-level `database/` |
//! | [`shell`] | the projector of a real node |
//! | [`verify`] | is MongoDB unbroken by itself, and equal to the ledger? |

pub mod documents;
pub mod errors;
pub mod examine;
pub mod feed;
pub mod mongo;
pub mod piece;
pub mod ports;
pub mod projector;
pub mod schema;
pub mod shell;
pub mod target;
pub mod verify;
