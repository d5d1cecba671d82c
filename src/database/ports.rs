//! What the projection needs of the world: a clock, a MongoDB, a node.
//!
//! [`super::target`] and [`super::projector`] are written against these three and know neither the driver of MongoDB nor
//! tokio. [`super::mongo`] and [`super::shell`] provide them for real, `sim::mongodb` and `sim::projection` in virtual time,
//! so that the code that projects in production is the code that the simulator torments.
//!
//! A future of a port may be dropped at any point. What it asked for may still happen afterwards, late.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bson::Document;
use bson::raw::RawDocumentBuf;
use futures_util::future::{BoxFuture, Either, select};

use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::records::Checkpoint;
use crate::node::status::ProjectionStatus;
use crate::types::{Index, Micros, NodeId, Term, UnixMillis};

use super::errors::{Class, ProjectionError};
use super::feed::Feed;

/// How long one operation may take before it is given up and reconciled through the checkpoint.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// What a port has not answered yet. Boxed, because the compiler cannot yet see that the unnamed futures of a generic
/// port may be sent between threads whatever they borrow.
pub type Pending<'a, T> = BoxFuture<'a, T>;

/// Time.
pub trait Clock: Send + Sync {
    /// A clock that only moves forward.
    fn now(&self) -> Micros;

    /// The wall clock, for the `at` of documents; nothing is decided by it.
    fn wall(&self) -> UnixMillis;

    /// Ends after a while.
    fn sleep(&self, span: Duration) -> Pending<'_, ()>;
}

/// Runs an operation that may take so long, and no longer.
///
/// # Errors
/// [`ProjectionError::Timeout`] with the name of the action, or the operation's own error.
pub async fn bounded<T>(
    clock: &impl Clock,
    patience: Duration,
    action: &'static str,
    operation: impl Future<Output = Result<T, ProjectionError>>,
) -> Result<T, ProjectionError> {
    match select(pin!(operation), pin!(clock.sleep(patience))).await {
        Either::Left((result, _)) => result,
        Either::Right(((), _)) => Err(ProjectionError::Timeout { action, seconds: patience.as_secs() }),
    }
}

/// Which documents a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Whatever the server shows first, even if a failover may take it back.
    Any,
    /// With majority writes: only what a majority of the servers has.
    Settled,
}

/// What an update of one document did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Updated {
    /// Whether a document matched the filter.
    pub matched: bool,
    /// Whether none matched and one was inserted.
    pub inserted: bool,
}

/// A document that takes the place of the one that its filter finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    /// Which document.
    pub filter: RawDocumentBuf,
    /// The new one, with the same `_id`.
    pub document: RawDocumentBuf,
}

/// What replacing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Documents that are new or changed.
    pub changed: u64,
    /// Positions of the replacements that found no match and whose `_id` was there already.
    pub duplicates: Vec<usize>,
}

/// One MongoDB database, as far as the projection uses it. A write that answers `Ok` is durable under the configured
/// write concern, and so is everything that it found there already.
///
/// Every call fails with what the driver or the server says; a call that failed may have happened, wholly or in part.
pub trait Server: Clock {
    /// Makes collections, validators and indexes as they should be. Bounds each of its own operations, so that the
    /// whole of it needs no bound.
    fn prepare(&self) -> Pending<'_, Result<(), ProjectionError>>;

    /// The documents that match a filter.
    fn find(
        &self,
        collection: &'static str,
        filter: Document,
        visibility: Visibility,
    ) -> Pending<'_, Result<Vec<RawDocumentBuf>, ProjectionError>>;

    /// Inserts documents in no particular order, each whether or not the others succeed. Returns the positions of
    /// those whose `_id` was there already.
    fn insert<'a>(
        &'a self,
        collection: &'static str,
        documents: &'a [RawDocumentBuf],
    ) -> Pending<'a, Result<Vec<usize>, ProjectionError>>;

    /// Changes the document that matches, or, with `upsert`, makes one if none does.
    fn update(
        &self,
        collection: &'static str,
        filter: Document,
        change: Document,
        upsert: bool,
    ) -> Pending<'_, Result<Updated, ProjectionError>>;

    /// Removes the document that matches.
    fn delete(&self, collection: &'static str, filter: Document) -> Pending<'_, Result<(), ProjectionError>>;

    /// Replaces documents in no particular order; with `upsert`, those that no filter finds are inserted.
    fn replace<'a>(
        &'a self,
        collection: &'static str,
        replacements: &'a [Replacement],
        upsert: bool,
    ) -> Pending<'a, Result<Replaced, ProjectionError>>;
}

/// How many documents of a batch were not there before, per collection.
pub type Written = BTreeMap<&'static str, u64>;

/// How much goes in one piece, and how long that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Movements per batch.
    pub batch_records: usize,
    /// Documents per insert command, and members per update command.
    pub chunk_documents: usize,
    /// Insert commands of one collection in flight at once.
    pub chunks_in_flight: usize,
    /// How long one operation may take.
    pub patience: Duration,
}

/// Movements in one batch of the real projector: enough that the waits for the journal at the ends of a batch are few.
pub const BATCH_RECORDS: usize = 8_000;
/// Documents in one command of the real projector: some hundred kilobytes.
pub const CHUNK_DOCUMENTS: usize = 1_000;
/// Commands of one collection that the real projector has under way at once. Two collections grow together, so twice as
/// many meet at the server; more of them only wait for each other there.
pub const CHUNKS_IN_FLIGHT: usize = 2;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_records: BATCH_RECORDS,
            chunk_documents: CHUNK_DOCUMENTS,
            chunks_in_flight: CHUNKS_IN_FLIGHT,
            patience: OPERATION_TIMEOUT,
        }
    }
}

/// Something about the projection that people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It cannot go on for now. Told when the reason changes.
    Failing {
        /// What is missing, if that is the reason: from where on, and where the ledger here begins.
        gap: Option<Gap>,
        /// What must be done about it.
        class: Class,
        /// The reason, without secrets.
        error: String,
        /// Whether it went well before.
        first: bool,
    },
    /// MongoDB is behind what the cluster knows that it had: it was emptied, or restored from an older backup.
    WentBack {
        /// Where MongoDB stands.
        found: Checkpoint,
        /// Where it stood once.
        agreed: Checkpoint,
    },
    /// It goes on.
    Recovered,
    /// This node has taken the database up, and writes what follows the checkpoint.
    Started {
        /// Where MongoDB stands.
        checkpoint: Checkpoint,
        /// Movements, intervals and elections that it lacks.
        lag: u64,
    },
    /// For the first time since then MongoDB has everything.
    CaughtUp {
        /// Where MongoDB stands.
        checkpoint: Checkpoint,
    },
    /// This node writes no more, since it leads no more.
    Stopped,
}

/// What MongoDB lacks, and the ledger here has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// `ledger records` or `intervals`.
    pub what: &'static str,
    /// The first that is missing.
    pub from: u64,
    /// The first that is left.
    pub first: u64,
}

/// The node around the projector, and the way to its MongoDB.
pub trait Surroundings: Clock {
    /// What [`Surroundings::connect`] gives.
    type Server: Server;

    /// A fresh connection; nothing need have been sent yet.
    fn connect(&self) -> Pending<'_, Result<Self::Server, ProjectionError>>;

    /// How much goes in one piece, and how long that may take.
    fn limits(&self) -> Limits;

    /// This node.
    fn node(&self) -> NodeId;

    /// The term that this node leads; `None` while it does not.
    fn leading(&self) -> Option<Term>;

    /// Ends when [`Surroundings::leading`] is no longer `from`.
    fn leading_changed(&self, from: Option<Term>) -> Pending<'_, ()>;

    /// How far this node has applied the log.
    fn applied(&self) -> Index;

    /// Ends when [`Surroundings::applied`] is no longer `from`.
    fn applied_changed(&self, from: Index) -> Pending<'_, ()>;

    /// Reads the ledger, where blocking is allowed.
    fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&dyn Feed) -> Result<T, KeyspaceError> + Send + 'static,
    ) -> Pending<'_, Result<T, ProjectionError>>;

    /// Proposes [`crate::ledger::command::Command::Projected`], if this node still leads, and does not wait for the
    /// answer. False if the proposal before has not been answered yet; then nothing was done.
    fn propose(&self, checkpoint: Checkpoint) -> bool;

    /// Shows the status. False if that must be tried again.
    fn report(&self, status: &ProjectionStatus) -> bool;

    /// Counts a written batch and the time that it took.
    fn count(&self, written: &Written, took: Duration);

    /// A text without secrets.
    fn redact(&self, text: &str) -> String;

    /// Tells people.
    fn tell(&self, news: News);
}
