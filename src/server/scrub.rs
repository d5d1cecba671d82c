//! Reads the log and the state again in the background, at a slow rate, and tells what it finds.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ledger::backwards::verify_from_newest;
use crate::ledger::keyspace::KeyspaceError;
use crate::metrics::{KindLabel, Metrics};
use crate::node::events::EventLog;
use crate::node::ports::{StateStore, StorageError};
use crate::storage::directory::condemn_state;
use crate::storage::{RealDisk, scrub};
use crate::types::UnixMillis;

/// Bytes of rows that are checked at a time.
const STEP_BYTES: u64 = 64 << 10;
/// The pause after everything was read once.
const ROUND_PAUSE: Duration = Duration::from_secs(10);
/// A round without damage is told at most so often.
const DONE_EVERY: Duration = Duration::from_secs(3_600);
/// How many of the newest intervals are computed again in each round.
const CHAIN_INTERVALS: u64 = 10;
/// How often a waiting scrub looks whether the node ends.
const GLANCE: Duration = Duration::from_millis(200);

/// What is read, and whom to tell.
pub(super) struct Scrub {
    pub disk: RealDisk,
    pub salt: u64,
    pub state: Arc<dyn StateStore>,
    /// Bytes a second.
    pub rate: u64,
    pub events: Arc<EventLog>,
    pub metrics: Arc<Metrics>,
    /// The data directory: damage in the state is marked there, so that the next start does without it.
    pub directory: PathBuf,
    pub stop: CancellationToken,
    /// Bytes read so far.
    pub read: Cell<u64>,
    /// Whether damage was found since the start.
    pub damaged: Cell<bool>,
}

fn wall() -> UnixMillis {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
}

impl Scrub {
    /// Runs until the node ends. Damage in the state ends the reading of the state: it is told once, and stays until the
    /// next start.
    pub fn run(self) {
        let (mut state_is_sound, mut chain_is_sound) = (true, true);
        let mut told_at: Option<Instant> = None;
        while !self.stop.is_cancelled() {
            let begun = Instant::now();
            let before = self.read.get();
            self.read_log();
            state_is_sound = state_is_sound && self.read_state();
            chain_is_sound = chain_is_sound && self.check_chain();
            let whole = !self.stop.is_cancelled();
            if whole && told_at.is_none_or(|at| at.elapsed() >= DONE_EVERY) {
                told_at = Some(Instant::now());
                self.done(begun.elapsed(), self.read.get() - before, chain_is_sound && !self.damaged.get());
            }
            self.pause(ROUND_PAUSE);
        }
    }

    /// Whether the newest intervals and their movements fit together: what lies there may be read well and be wrong.
    fn check_chain(&self) -> bool {
        let report = match self.state.view() {
            Ok(view) => verify_from_newest(view.as_ref(), Some(CHAIN_INTERVALS), &mut |_, _| {}),
            Err(error) => {
                tracing::warn!("the ledger cannot be checked again: {error}");
                return true;
            }
        };
        if report.ok {
            return true;
        }
        let message = format!(
            "the records of the ledger do not fit together: {}; compare with the other nodes by super-node ledger verify",
            report.problems.first().map_or("no reason given", String::as_str)
        );
        tracing::error!(event = "chain_mismatch", "{message}");
        let data = json!({"where": "ledger", "count": report.problems.len(),
            "problems": report.problems.iter().take(10).collect::<Vec<_>>()});
        self.events.publish(wall(), "chain_mismatch", message, data);
        false
    }

    fn done(&self, took: Duration, bytes: u64, sound: bool) {
        let word = if sound { "no damage" } else { "damage was found" };
        let message = format!("what lies on disk was read again, {bytes} bytes: {word}");
        tracing::info!(event = "scrub_done", "{message}");
        let data = json!({"bytes": bytes, "ms": took.as_millis(), "sound": sound});
        self.events.publish(wall(), "scrub_done", message, data);
    }

    fn read_log(&self) {
        let segments = match scrub::closed_segments(&self.disk) {
            Ok(segments) => segments,
            Err(error) => return tracing::warn!("the log cannot be read again: {error}"),
        };
        for name in segments {
            match scrub::check_segment(&self.disk, self.salt, &name) {
                Ok(bytes) => self.passed("log", bytes.unwrap_or_default()),
                Err(error @ StorageError::Damaged { .. }) => {
                    let remedy = "this node goes on with what it has in memory; the segment goes with the next compaction; \
                                  if it is restarted before, it comes back as a new node, for which the others must be up";
                    self.found("log", &error.to_string(), remedy);
                }
                Err(error) => tracing::warn!("the log cannot be read again: {error}"),
            }
            if self.stop.is_cancelled() {
                return;
            }
        }
    }

    /// `false`: damage was found.
    fn read_state(&self) -> bool {
        let mut after: Option<Vec<u8>> = None;
        loop {
            // A new view for each step: an old one would keep pages from being used again.
            let step = self
                .state
                .view()
                .and_then(|view| scrub::check_rows(view.as_ref(), after.as_deref(), STEP_BYTES));
            match step {
                Ok(checked) => {
                    self.passed("state", checked.bytes);
                    match checked.last {
                        Some(last) => after = Some(last),
                        None => return true,
                    }
                }
                Err(error @ KeyspaceError::Damaged { .. }) => {
                    let why = error.to_string();
                    if let Err(error) = condemn_state(&self.directory, &why) {
                        tracing::error!("the damaged state could not be marked: {error}");
                    }
                    let remedy = "restart this node: it sets the state aside and has it again from its log or from the leader";
                    self.found("state", &why, remedy);
                    return false;
                }
                Err(error) => {
                    tracing::warn!("the state cannot be read again: {error}");
                    return true;
                }
            }
            if self.stop.is_cancelled() {
                return true;
            }
        }
    }

    /// Counts what was read, and waits as long as the rate wants.
    fn passed(&self, what: &str, bytes: u64) {
        self.read.set(self.read.get() + bytes);
        self.metrics.scrub_bytes.get_or_create(&KindLabel { kind: what.to_string() }).inc_by(bytes);
        self.pause(Duration::from_secs_f64(bytes as f64 / self.rate as f64));
    }

    fn found(&self, what: &str, why: &str, remedy: &str) {
        self.metrics.scrub_damage.get_or_create(&KindLabel { kind: what.to_string() }).inc();
        let message = format!("damage in the {what}: {why}; {remedy}");
        tracing::error!(event = "scrub_damage", "{message}");
        self.damaged.set(true);
        self.events.publish(wall(), "scrub_damage", message, json!({"where": what, "why": why}));
    }

    fn pause(&self, span: Duration) {
        let mut left = span;
        while !left.is_zero() && !self.stop.is_cancelled() {
            let part = left.min(GLANCE);
            std::thread::sleep(part);
            left -= part;
        }
    }
}
