//! The projector of a real node: tokio, the driver of MongoDB, and the node's handle around [`super::projector`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::command::{Command, Request};
use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::records::Checkpoint;
use crate::metrics::{CollectionLabel, Metrics};
use crate::node::handle::{Ask, Handle};
use crate::node::status::ProjectionStatus;
use crate::types::{Index, Micros, NodeId, Term, UnixMillis};

use super::errors::{Class, ProjectionError, Redactor};
use super::feed::{Feed, LedgerFeed};
use super::mongo::{Mongo, MongoSettings, SystemClock};
use super::ports::{Clock, Gap, Limits, News, Pending, Surroundings, Written};
use super::projector;

/// How long the proposal of a checkpoint waits for its answer.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Projects what the node applies; see [`run_with_feed`].
pub async fn run(
    settings: MongoSettings,
    handle: Handle,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let feed = Arc::new(LedgerFeed::new(handle.clone()));
    run_with_feed(settings, feed, handle, metrics, shutdown).await;
}

/// Projects `feed` into MongoDB whenever this node leads, until `shutdown` or the end of the node.
///
/// Never fails: what keeps it from going on is logged, shown in the status ([`ProjectionStatus::error`]), and tried
/// again.
pub async fn run_with_feed(
    settings: MongoSettings,
    feed: Arc<dyn Feed>,
    handle: Handle,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut leading = handle.leading.clone();
    let node_gone = async { while leading.changed().await.is_ok() {} };
    let redactor = Redactor::new(&settings.uri);
    let database = settings.database.clone();
    let clock = SystemClock::default();
    let shell = Shell { settings, feed, handle, metrics, redactor, clock, proposal: Mutex::new(None) };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = node_gone => {}
        never = projector::follow(&shell, &database) => match never {},
    }
}

struct Shell {
    settings: MongoSettings,
    feed: Arc<dyn Feed>,
    handle: Handle,
    metrics: Arc<Metrics>,
    redactor: Redactor,
    clock: SystemClock,
    /// The last proposal of a checkpoint.
    proposal: Mutex<Option<JoinHandle<()>>>,
}

impl Clock for Shell {
    fn now(&self) -> Micros {
        self.clock.now()
    }

    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }

    fn sleep(&self, span: Duration) -> Pending<'_, ()> {
        self.clock.sleep(span)
    }
}

impl Surroundings for Shell {
    type Server = Mongo;

    fn connect(&self) -> Pending<'_, Result<Mongo, ProjectionError>> {
        Box::pin(Mongo::connect(&self.settings))
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn node(&self) -> NodeId {
        self.handle.status.borrow().id.clone()
    }

    fn leading(&self) -> Option<Term> {
        *self.handle.leading.borrow()
    }

    fn leading_changed(&self, from: Option<Term>) -> Pending<'_, ()> {
        let mut leading = self.handle.leading.clone();
        Box::pin(async move {
            if leading.wait_for(|now| *now != from).await.is_err() {
                // The driver has ended; `run_with_feed` sees it too and ends everything here.
                std::future::pending::<()>().await;
            }
        })
    }

    fn applied(&self) -> Index {
        *self.handle.applied.borrow()
    }

    fn applied_changed(&self, from: Index) -> Pending<'_, ()> {
        let mut applied = self.handle.applied.clone();
        Box::pin(async move {
            if applied.wait_for(|now| *now != from).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&dyn Feed) -> Result<T, KeyspaceError> + Send + 'static,
    ) -> Pending<'_, Result<T, ProjectionError>> {
        let feed = self.feed.clone();
        let read = tokio::task::spawn_blocking(move || reading(&*feed));
        Box::pin(async move {
            let read = read.await;
            let read = read.map_err(|error| KeyspaceError::Store(format!("reader failed: {error}")))?;
            Ok(read?)
        })
    }

    fn propose(&self, checkpoint: Checkpoint) -> bool {
        let mut proposal = self.proposal.lock().unwrap_or_else(PoisonError::into_inner);
        if proposal.as_ref().is_some_and(|task| !task.is_finished()) {
            return false;
        }
        let handle = self.handle.clone();
        *proposal = Some(tokio::spawn(async move {
            let request = Request::new(Command::Projected(checkpoint));
            if let Err(failure) = handle.submit(request, false, PROPOSE_TIMEOUT).await {
                tracing::debug!(%failure, "checkpoint not proposed");
            }
        }));
        true
    }

    fn report(&self, status: &ProjectionStatus) -> bool {
        self.metrics.projection_lag_records.set(i64::try_from(status.lag_records).unwrap_or(i64::MAX));
        // A full inbox drops the report.
        self.handle.asks.try_send(Ask::Projection(status.clone())).is_ok()
    }

    fn count(&self, written: &Written, took: Duration) {
        self.metrics.projection_batch_seconds.observe(took.as_secs_f64());
        for (collection, documents) in written {
            let label = CollectionLabel { collection: (*collection).to_string() };
            self.metrics.projection_documents.get_or_create(&label).inc_by(*documents);
        }
    }

    fn redact(&self, text: &str) -> String {
        self.redactor.clean(text)
    }

    fn tell(&self, news: News) {
        let database = &self.settings.database;
        let (kind, message, data) = match news {
            News::Started { checkpoint, lag } => {
                let message =
                    format!("MongoDB is written from movement {} on: {lag} records", checkpoint.rewards + 1);
                tracing::info!(event = "projection_started", "{message}");
                let data = json!({ "database": database, "checkpoint": checkpoint, "lag_records": lag });
                ("projection_started", message, data)
            }
            News::CaughtUp { checkpoint } => {
                let message = format!("MongoDB has everything up to movement {}", checkpoint.rewards);
                tracing::info!(event = "projection_caught_up", "{message}");
                ("projection_caught_up", message, json!({ "database": database, "checkpoint": checkpoint }))
            }
            News::Stopped => {
                let message = "MongoDB is left to the next leader".to_string();
                ("projection_stopped", message, json!({ "database": database }))
            }
            News::Failing { gap, class, error, first } => {
                match class {
                    Class::Retry => tracing::warn!(%error, "projection is waiting"),
                    Class::Operator => tracing::error!(%error, "projection needs an operator"),
                    Class::Bug => tracing::error!(%error, "projection failed unexpectedly"),
                }
                if let Some(Gap { what, from, first }) = gap {
                    let data = json!({ "database": database, "what": what, "from": from, "first": first });
                    self.publish("projection_gap", error.clone(), data);
                }
                if !first {
                    return;
                }
                let message = format!("MongoDB is not being written: {error}");
                ("projection_failing", message, json!({ "database": database, "error": error }))
            }
            News::WentBack { found, agreed } => {
                let message = format!(
                    "MongoDB is at movement {} and was at {}: it was emptied or restored from an older backup, or it is \
                     another one; it is filled from the ledger, as far as that reaches back",
                    found.rewards, agreed.rewards
                );
                tracing::warn!(event = "projection_went_back", "{message}");
                let data = json!({ "database": database, "checkpoint": found, "agreed": agreed });
                ("projection_went_back", message, data)
            }
            News::Recovered => {
                tracing::info!("projection goes on");
                let data = json!({ "database": database, "error": null });
                ("projection_recovered", "MongoDB is being written again".to_string(), data)
            }
        };
        self.publish(kind, message, data);
    }
}

impl Shell {
    fn publish(&self, kind: &str, message: String, data: Value) {
        self.handle.events.publish(self.wall(), kind, message, data);
    }
}
