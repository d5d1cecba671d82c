//! The loop that follows the ledger while this node leads.
//!
//! Four things go on at once, each with a batch of its own: a batch is read from the state, the records of the one before
//! it are inserted, the intervals and members that conclude the one before that are written, and the checkpoint moves over
//! the one before that. A failure ends the session; the next session starts from the checkpoint document, which is the
//! only memory that counts. Nothing here is awaited by consensus, pinging or paying.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{join4, select};

use crate::ledger::records::Checkpoint;
use crate::node::status::ProjectionStatus;
use crate::types::{Index, Micros, Term};

use super::errors::{Class, ProjectionError};
use super::feed::Batch;
use super::piece::Piece;
use super::ports::{Gap, News, Surroundings, Written};
use super::target::Target;

/// How long the projector waits after the first sign of news, so that one batch carries several entries.
pub const COALESCE: Duration = Duration::from_millis(10);
/// How often a quiet projector looks around and reports.
pub const IDLE_TICK: Duration = Duration::from_secs(1);
/// Shortest time between two reports while batches are written.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two proposals of [`crate::ledger::command::Command::Projected`].
pub const PROPOSE_EVERY: Duration = Duration::from_secs(1);
/// The first pause after a failure that may pass; doubled up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause after a failure that may pass.
pub const RETRY_MAX: Duration = Duration::from_secs(3);
/// The pause after a failure that somebody must repair.
pub const OPERATOR_RETRY: Duration = Duration::from_secs(5);

/// Projects whenever this node leads, until dropped. `database` is its name, for people.
///
/// Never fails: what keeps it from going on is told, shown in the status ([`ProjectionStatus::error`]), and tried
/// again.
pub async fn follow(surroundings: &impl Surroundings, database: &str) -> Infallible {
    let mut projector = Projector {
        surroundings,
        database,
        confirmed: None,
        error: None,
        reported: None,
        progressed: false,
        agreed: Checkpoint::default(),
        proposed_at: None,
        telling: Telling::Nothing,
        went_back: None,
    };
    loop {
        let term = surroundings.leading();
        // What was under way is dropped with the leadership; what it has sent may still arrive.
        select(pin!(surroundings.leading_changed(term)), pin!(projector.serve(term))).await;
    }
}

struct Projector<'a, S> {
    surroundings: &'a S,
    database: &'a str,
    /// What MongoDB has for good, as far as this session knows; `None` before the session has moved the checkpoint.
    confirmed: Option<Checkpoint>,
    error: Option<String>,
    reported: Option<(ProjectionStatus, Micros)>,
    /// Whether the present session has written a batch or found nothing to write.
    progressed: bool,
    /// What the cluster knew of it when the ledger was last asked.
    agreed: Checkpoint,
    proposed_at: Option<Micros>,
    telling: Telling,
    /// Where MongoDB was when people were last told that it had gone back.
    went_back: Option<Checkpoint>,
}

/// What a session has begun and not finished, oldest first.
#[derive(Default)]
struct UnderWay {
    /// Where the checkpoint stands for good.
    confirmed: Checkpoint,
    /// All of it up to here is in MongoDB, and the checkpoint has not moved there yet.
    concluded: Option<Checkpoint>,
    /// Its records are in MongoDB, its intervals and members are not.
    recorded: Option<Piece>,
}

/// What people were told of this term's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    Nothing,
    Started,
    CaughtUp,
}

impl<S: Surroundings> Projector<'_, S> {
    /// Leads or watches, until dropped.
    async fn serve(&mut self, term: Option<Term>) -> Infallible {
        self.confirmed = None;
        self.error = None;
        if std::mem::replace(&mut self.telling, Telling::Nothing) != Telling::Nothing {
            self.surroundings.tell(News::Stopped);
        }
        match term {
            Some(term) => self.lead(term).await,
            None => loop {
                self.report(true).await;
                self.surroundings.sleep(IDLE_TICK).await;
            },
        }
    }

    async fn lead(&mut self, term: Term) -> Infallible {
        let mut pause = RETRY_MIN;
        loop {
            self.progressed = false;
            let Err(error) = self.session(term).await;
            if self.progressed {
                pause = RETRY_MIN;
            }
            let class = error.class();
            let gap = match &error {
                ProjectionError::Gap { what, from, first } => Some(Gap { what, from: *from, first: *first }),
                _ => None,
            };
            self.failed(gap, class, self.surroundings.redact(&error.to_string()));
            let wait = match class {
                Class::Retry => pause,
                Class::Operator | Class::Bug => OPERATOR_RETRY,
            };
            pause = (pause * 2).min(RETRY_MAX);
            let until = self.surroundings.now().after(wait);
            loop {
                self.report(true).await;
                let now = self.surroundings.now();
                if now >= until {
                    break;
                }
                self.surroundings.sleep(until.since(now).min(IDLE_TICK)).await;
            }
        }
    }

    /// Projects until something fails.
    async fn session(&mut self, term: Term) -> Result<Infallible, ProjectionError> {
        let genesis = loop {
            let seen = self.surroundings.applied();
            if let Some(genesis) = self.surroundings.read(|feed| feed.genesis()).await? {
                break genesis;
            }
            self.wait_for_news(seen).await;
        };
        let server = self.surroundings.connect().await?;
        let (node, limits) = (self.surroundings.node(), self.surroundings.limits());
        let (target, start) = Target::claim(server, self.database, genesis, node, limits).await?;
        // Another writer may just be moving the checkpoint that was read, and a power cut may take that back. Once our
        // own move to the same place is acknowledged, it is there for good, and the cluster may be told.
        target.advance(start, start, term).await?;
        self.look_back(&target, start).await?;
        self.confirmed = Some(start);
        self.started(start).await?;
        let records = limits.batch_records;
        let mut piece = self.next(start, records).await?;
        let mut after = start;
        let mut under_way = UnderWay { confirmed: start, concluded: None, recorded: None };
        loop {
            if piece.batch.is_empty() && under_way.recorded.is_none() {
                if let Some(upto) = under_way.concluded.take() {
                    target.advance(under_way.confirmed, upto, term).await?;
                    under_way.confirmed = upto;
                    self.moved(upto);
                }
                self.recovered();
                self.report(true).await;
                let seen = self.surroundings.applied();
                piece = self.next(after, records).await?;
                if piece.batch.is_empty() {
                    self.caught_up(after);
                    self.wait_for_news(seen).await;
                    self.propose();
                    piece = self.next(after, records).await?;
                }
                continue;
            }
            contiguous(&after, &piece.batch)?;
            after = piece.batch.upto;
            piece = self.stage(&target, &mut under_way, piece, term).await?;
            self.report(false).await;
        }
    }

    /// One step of the pipeline: inserts the records of `piece`, concludes the batch before it, moves the checkpoint over
    /// the one before that, and reads the batch that comes next.
    async fn stage(
        &mut self,
        target: &Target<S::Server>,
        under_way: &mut UnderWay,
        piece: Piece,
        term: Term,
    ) -> Result<Piece, ProjectionError> {
        let upto = piece.batch.upto;
        let UnderWay { confirmed, concluded: written, recorded } = std::mem::take(under_way);
        let begun = self.surroundings.now();
        let advance = async {
            match written {
                Some(upto) => target.advance(confirmed, upto, term).await,
                None => Ok(()),
            }
        };
        let conclude = async {
            match &recorded {
                Some(piece) => target.write_conclusions(piece).await,
                None => Ok(Written::new()),
            }
        };
        let next = self.next(upto, self.surroundings.limits().batch_records);
        let (wrote, concluded, advanced, next) =
            join4(target.write_records(&piece), conclude, advance, next).await;
        advanced?;
        under_way.confirmed = written.unwrap_or(confirmed);
        if let Some(upto) = written {
            self.moved(upto);
        }
        let mut count = concluded?;
        under_way.concluded = recorded.map(|piece| piece.batch.upto);
        match wrote {
            Ok(records) => count.extend(records),
            Err(error) => {
                // What was concluded meanwhile need not be done again, however long this batch is refused.
                if let Some(upto) = under_way.concluded {
                    target.advance(under_way.confirmed, upto, term).await?;
                    self.moved(upto);
                }
                return Err(error);
            }
        }
        self.surroundings.count(&count, self.surroundings.now().since(begun));
        under_way.recorded = (!piece.batch.is_empty()).then_some(piece);
        next
    }

    async fn next(&self, after: Checkpoint, records: usize) -> Result<Piece, ProjectionError> {
        self.surroundings.read(move |feed| feed.next(&after, records).map(Piece::from)).await
    }

    /// Returns when the state has moved away from `seen` (and a moment has passed), or after [`IDLE_TICK`].
    async fn wait_for_news(&self, seen: Index) {
        let moved = async {
            self.surroundings.applied_changed(seen).await;
            self.surroundings.sleep(COALESCE).await;
        };
        select(pin!(moved), pin!(self.surroundings.sleep(IDLE_TICK))).await;
    }

    fn failed(&mut self, gap: Option<Gap>, class: Class, error: String) {
        if self.error.as_ref() == Some(&error) {
            return;
        }
        let first = self.error.is_none();
        self.surroundings.tell(News::Failing { gap, class, error: error.clone(), first });
        self.error = Some(error);
    }

    /// Tells when MongoDB is not as far as the cluster knows that it was: it was emptied, or restored from a backup.
    async fn look_back(
        &mut self,
        target: &Target<S::Server>,
        start: Checkpoint,
    ) -> Result<(), ProjectionError> {
        let agreed = self.surroundings.read(|feed| feed.projected()).await?;
        if start.covers(&agreed) {
            return Ok(());
        }
        // A server that has just become primary may show an older state for a moment. Our own write is in by now, so it
        // shows everything before that, too.
        let found = target.checkpoint().await?;
        if !found.covers(&agreed) && self.went_back != Some(found) {
            self.went_back = Some(found);
            self.surroundings.tell(News::WentBack { found, agreed });
        }
        Ok(())
    }

    /// Tells, once a term, that this node writes now, and from where.
    async fn started(&mut self, checkpoint: Checkpoint) -> Result<(), ProjectionError> {
        if self.telling != Telling::Nothing {
            return Ok(());
        }
        let lag = self.surroundings.read(move |feed| feed.remaining(&checkpoint)).await?;
        self.telling = Telling::Started;
        self.surroundings.tell(News::Started { checkpoint, lag });
        Ok(())
    }

    /// Tells, once a term, that MongoDB has everything.
    fn caught_up(&mut self, checkpoint: Checkpoint) {
        self.went_back = None;
        if std::mem::replace(&mut self.telling, Telling::CaughtUp) != Telling::CaughtUp {
            self.surroundings.tell(News::CaughtUp { checkpoint });
        }
    }

    /// The checkpoint stands here for good.
    fn moved(&mut self, checkpoint: Checkpoint) {
        self.confirmed = Some(checkpoint);
        self.recovered();
        self.propose();
    }

    /// A batch has gone through, or there was none to write. (That MongoDB can be reached is not enough: a document that
    /// it refuses would be told anew with every try.)
    fn recovered(&mut self) {
        self.progressed = true;
        if self.error.take().is_some() {
            self.surroundings.tell(News::Recovered);
        }
    }

    /// Tells the cluster how far MongoDB is: at most once a second, one proposal at a time, until the ledger says so
    /// too. A lost one does not matter.
    fn propose(&mut self) {
        let Some(checkpoint) = self.confirmed else { return };
        let now = self.surroundings.now();
        let early = self.proposed_at.is_some_and(|at| now.since(at) < PROPOSE_EVERY);
        if checkpoint == self.agreed || early || !self.surroundings.propose(checkpoint) {
            return;
        }
        self.proposed_at = Some(now);
    }

    /// Tells the node if anything changed; unless `always`, not more often than [`REPORT_EVERY`].
    async fn report(&mut self, always: bool) {
        let now = self.surroundings.now();
        let recently = self.reported.as_ref().is_some_and(|(_, at)| now.since(*at) < REPORT_EVERY);
        if recently && !always {
            return;
        }
        let known = self.confirmed;
        let measured = self.surroundings.read(move |feed| {
            let agreed = feed.projected()?;
            let checkpoint = known.unwrap_or(agreed);
            Ok((agreed, checkpoint, feed.remaining(&checkpoint)?))
        });
        let Ok((agreed, checkpoint, lag)) = measured.await else { return };
        self.agreed = agreed;
        let status = ProjectionStatus {
            enabled: true,
            checkpoint: checkpoint.rewards,
            lag_records: lag,
            error: self.error.clone(),
        };
        let changed = self.reported.as_ref().is_none_or(|(last, _)| *last != status);
        if changed && !self.surroundings.report(&status) {
            // The next tick brings another.
            return;
        }
        self.reported = Some((status, now));
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
