//! The loop that follows the ledger while this node leads.
//!
//! Three things go on at once: the present batch is written, the checkpoint of the batch before it moves, and the next
//! batch is read from the state. A failure ends the session; the next session starts from the checkpoint document,
//! which is the only memory that counts. Nothing here is awaited by consensus, pinging or paying.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::command::{Command, Request};
use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::records::Checkpoint;
use crate::metrics::{CollectionLabel, Metrics};
use crate::node::handle::{Ask, Handle};
use crate::node::status::ProjectionStatus;
use crate::types::{Term, UnixMillis};

use super::errors::{Class, ProjectionError, Redactor};
use super::feed::{Batch, Feed, LedgerFeed};
use super::target::{MongoSettings, Target, Written};

/// Movements per batch.
pub const BATCH_RECORDS: usize = 4_000;
/// How long the projector waits after the first sign of news, so that one batch carries several entries.
pub const COALESCE: Duration = Duration::from_millis(10);
/// How often a quiet projector looks around and reports.
pub const IDLE_TICK: Duration = Duration::from_secs(1);
/// Shortest time between two proposals of [`Command::Projected`].
pub const PROPOSE_EVERY: Duration = Duration::from_secs(1);
/// How long such a proposal waits for its answer.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause after a failure that may pass; doubled up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause after a failure that may pass.
pub const RETRY_MAX: Duration = Duration::from_secs(3);
/// The pause after a failure that somebody must repair.
pub const OPERATOR_RETRY: Duration = Duration::from_secs(5);

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
    let redactor = Redactor::new(&settings.uri);
    let mut projector = Projector {
        settings,
        feed,
        metrics,
        redactor,
        handle: handle.clone(),
        checkpoint: None,
        error: None,
        reported: None,
        progressed: false,
        proposed: Checkpoint::default(),
        proposed_at: None,
        proposal: None,
    };
    let mut leading = handle.leading.clone();
    loop {
        let term = *leading.borrow_and_update();
        let changed = async {
            loop {
                if leading.changed().await.is_err() {
                    return true;
                }
                if *leading.borrow_and_update() != term {
                    return false;
                }
            }
        };
        let node_gone = tokio::select! {
            () = shutdown.cancelled() => return,
            gone = changed => gone,
            () = projector.serve(term) => false,
        };
        if node_gone {
            return;
        }
    }
}

struct Projector {
    settings: MongoSettings,
    feed: Arc<dyn Feed>,
    handle: Handle,
    metrics: Arc<Metrics>,
    redactor: Redactor,
    /// What MongoDB is known to hold; `None` before it was asked in this term.
    checkpoint: Option<Checkpoint>,
    error: Option<String>,
    reported: Option<(ProjectionStatus, Instant)>,
    /// Whether the present session has moved the checkpoint or found nothing to do.
    progressed: bool,
    proposed: Checkpoint,
    proposed_at: Option<Instant>,
    proposal: Option<JoinHandle<()>>,
}

impl Projector {
    /// Leads or watches, until dropped.
    async fn serve(&mut self, term: Option<Term>) {
        self.checkpoint = None;
        self.error = None;
        match term {
            Some(term) => self.lead(term).await,
            None => loop {
                self.report(true).await;
                tokio::time::sleep(IDLE_TICK).await;
            },
        }
    }

    async fn lead(&mut self, term: Term) {
        let mut pause = RETRY_MIN;
        loop {
            self.progressed = false;
            let Err(error) = self.session(term).await;
            if self.progressed {
                pause = RETRY_MIN;
            }
            let text = self.redactor.clean(&error.to_string());
            let class = error.class();
            if self.error.as_ref() != Some(&text) {
                match class {
                    Class::Retry => tracing::warn!(error = %text, "projection is waiting"),
                    Class::Operator => tracing::error!(error = %text, "projection needs an operator"),
                    Class::Bug => tracing::error!(error = %text, "projection failed unexpectedly"),
                }
                if self.error.is_none() {
                    self.publish("projection_failing", format!("MongoDB is not being written: {text}"));
                }
                self.error = Some(text);
            }
            let wait = match class {
                Class::Retry => pause,
                Class::Operator | Class::Bug => OPERATOR_RETRY,
            };
            pause = (pause * 2).min(RETRY_MAX);
            let until = tokio::time::Instant::now() + wait;
            loop {
                self.report(true).await;
                let now = tokio::time::Instant::now();
                if now >= until {
                    break;
                }
                tokio::time::sleep_until(until.min(now + IDLE_TICK)).await;
            }
        }
    }

    /// Projects until something fails.
    async fn session(&mut self, term: Term) -> Result<std::convert::Infallible, ProjectionError> {
        let mut applied = self.handle.applied.clone();
        let genesis = loop {
            applied.mark_unchanged();
            if let Some(genesis) = self.read(|feed| feed.genesis()).await? {
                break genesis;
            }
            wait_for_news(&mut applied).await;
        };
        let node = self.handle.status.borrow().id.clone();
        let (target, start) = Target::open(&self.settings, genesis, node).await?;
        self.checkpoint = Some(start);
        let mut batch = self.read(move |feed| feed.next(&start, BATCH_RECORDS)).await?;
        let mut after = start;
        // Written, while its checkpoint has not moved yet.
        let mut written: Option<Checkpoint> = None;
        loop {
            if batch.is_empty() {
                if let Some(upto) = written.take() {
                    target.advance(upto, term).await?;
                    self.moved(upto);
                }
                self.recovered();
                self.report(true).await;
                applied.mark_unchanged();
                batch = self.read(move |feed| feed.next(&after, BATCH_RECORDS)).await?;
                if batch.is_empty() {
                    wait_for_news(&mut applied).await;
                    self.propose();
                    batch = self.read(move |feed| feed.next(&after, BATCH_RECORDS)).await?;
                }
                continue;
            }
            contiguous(&after, &batch)?;
            let upto = batch.upto;
            let begun = Instant::now();
            let advance = async {
                match written {
                    Some(upto) => target.advance(upto, term).await,
                    None => Ok(()),
                }
            };
            let read = self.read(move |feed| feed.next(&upto, BATCH_RECORDS));
            let (wrote, advanced, next) = tokio::join!(target.write(&batch), advance, read);
            advanced?;
            if let Some(upto) = written.take() {
                self.moved(upto);
            }
            self.count(&wrote?, begun);
            written = Some(upto);
            after = upto;
            batch = next?;
            self.report(false).await;
        }
    }

    /// Reads from the feed where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&dyn Feed) -> Result<T, KeyspaceError> + Send + 'static,
    ) -> Result<T, ProjectionError> {
        let feed = self.feed.clone();
        let read = tokio::task::spawn_blocking(move || reading(&*feed)).await;
        let read = read.map_err(|error| KeyspaceError::Store(format!("reader failed: {error}")))?;
        Ok(read?)
    }

    fn count(&self, written: &Written, begun: Instant) {
        self.metrics.projection_batch_seconds.observe(begun.elapsed().as_secs_f64());
        for (collection, documents) in written {
            let label = CollectionLabel { collection: (*collection).to_string() };
            self.metrics.projection_documents.get_or_create(&label).inc_by(*documents);
        }
    }

    fn moved(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = Some(checkpoint);
        self.recovered();
        self.propose();
    }

    fn recovered(&mut self) {
        self.progressed = true;
        if self.error.take().is_some() {
            tracing::info!("projection goes on");
            self.publish("projection_recovered", "MongoDB is being written again".to_string());
        }
    }

    /// Tells the cluster how far MongoDB is: at most once a second, one proposal at a time. A lost one does not
    /// matter, because the next one says more.
    fn propose(&mut self) {
        let Some(checkpoint) = self.checkpoint else { return };
        let early = self.proposed_at.is_some_and(|at| at.elapsed() < PROPOSE_EVERY);
        let pending = self.proposal.as_ref().is_some_and(|task| !task.is_finished());
        if checkpoint == self.proposed || early || pending {
            return;
        }
        self.proposed = checkpoint;
        self.proposed_at = Some(Instant::now());
        let handle = self.handle.clone();
        self.proposal = Some(tokio::spawn(async move {
            let request = Request::new(Command::Projected(checkpoint));
            if let Err(failure) = handle.submit(request, false, PROPOSE_TIMEOUT).await {
                tracing::debug!(%failure, "checkpoint not proposed");
            }
        }));
    }

    /// Tells the node if anything changed; unless `always`, not more often than ten times a second.
    async fn report(&mut self, always: bool) {
        let recently =
            self.reported.as_ref().is_some_and(|(_, at)| at.elapsed() < Duration::from_millis(100));
        if recently && !always {
            return;
        }
        let known = self.checkpoint;
        let measured = self.read(move |feed| {
            let checkpoint = match known {
                Some(checkpoint) => checkpoint,
                None => feed.projected()?,
            };
            Ok((checkpoint, feed.remaining(&checkpoint)?))
        });
        let Ok((checkpoint, lag)) = measured.await else { return };
        self.metrics.projection_lag_records.set(i64::try_from(lag).unwrap_or(i64::MAX));
        let status = ProjectionStatus {
            enabled: true,
            checkpoint: checkpoint.rewards,
            lag_records: lag,
            error: self.error.clone(),
        };
        if self.reported.as_ref().is_none_or(|(last, _)| *last != status) {
            // A full inbox drops the report; the next tick brings another.
            if self.handle.asks.try_send(Ask::Projection(status.clone())).is_err() {
                return;
            }
        }
        self.reported = Some((status, Instant::now()));
    }

    fn publish(&self, kind: &str, message: String) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let data = serde_json::json!({ "database": self.settings.database, "error": self.error });
        self.handle.events.publish(at, kind, message, data);
    }
}

/// Returns when the state has moved (and a moment has passed), or after [`IDLE_TICK`].
async fn wait_for_news(applied: &mut tokio::sync::watch::Receiver<crate::types::Index>) {
    let moved = async {
        if applied.changed().await.is_err() {
            // The driver has ended; `run_with_feed` is about to see it too.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(COALESCE).await;
    };
    tokio::select! {
        () = moved => {}
        () = tokio::time::sleep(IDLE_TICK) => {}
    }
}

/// Refuses a batch that does not begin where MongoDB ends: the ledger here has been trimmed past it.
fn contiguous(after: &Checkpoint, batch: &Batch) -> Result<(), ProjectionError> {
    let gap = |what, from: u64, first: u64| match first == from {
        true => Ok(()),
        false => Err(ProjectionError::Gap { what, from, first }),
    };
    if let Some(first) = batch.rewards.first() {
        gap("ledger records", after.rewards + 1, first.seq)?;
    }
    if let Some(first) = batch.intervals.first() {
        gap("intervals", after.intervals.0 + 1, first.id.0)?;
    }
    Ok(())
}
