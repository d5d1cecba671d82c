//! What a node remembers for its pages and nowhere else has: a sample of its counters every second, who led when as it
//! saw it, and whom its detector does not hold up. In memory, bounded, and gone when the process ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::metrics::{MemberLabel, Metrics};
use crate::node::events::NodeEvent;
use crate::node::status::NodeStatus;
use crate::types::{NodeId, Term, UnixMillis};

use super::super::ApiState;
use super::super::events::Reading;
use super::text;

/// Time between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples that are kept: ten minutes.
pub const SAMPLES_MAX: usize = 600;
/// Changes of the leadership that are kept.
const CHANGES_MAX: usize = 1_000;
/// Members that are remembered as silent.
const SILENT_MAX: usize = 100_000;

/// The counts of a histogram: upper bounds in seconds, and how many observations are at most that; the last bound is
/// infinite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, u64)>);

impl Buckets {
    /// Reads those of one family out of the text of a registry.
    fn parse(text: &str, family: &str) -> Buckets {
        let read = |line: &str| {
            let rest = line.strip_prefix(family)?.strip_prefix("_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.split(' ').next()?.parse().ok()?))
        };
        Buckets(text.lines().filter_map(read).collect())
    }

    /// All observations.
    pub fn total(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// What was added since.
    pub fn since(&self, earlier: &Buckets) -> Buckets {
        let before = |at: usize| earlier.0.get(at).map_or(0, |(_, count)| *count);
        let added = |(at, (bound, count)): (usize, &(f64, u64))| (*bound, count.saturating_sub(before(at)));
        Buckets(self.0.iter().enumerate().map(added).collect())
    }

    /// The value that a share of the observations does not exceed, in seconds: interpolated within its bucket, so it is
    /// exact to the width of that. `None` without observations.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = share * total as f64;
        let (mut low, mut below) = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count as f64 >= rank && *count > below {
                if bound.is_infinite() {
                    return Some(low);
                }
                let part = (rank - below as f64) / (*count - below) as f64;
                return Some(low + (bound - low) * part.clamp(0.0, 1.0));
            }
            (low, below) = (*bound, *count);
        }
        Some(low)
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// When, by this node's wall clock.
    pub at: UnixMillis,
    /// The commit index.
    pub commit: u64,
    /// Proposal to application, of the writes that this node ordered.
    pub commits: Buckets,
    /// Writes and syncs of this node's log.
    pub syncs: Buckets,
    /// Records that MongoDB lacks.
    pub projection_lag: u64,
}

/// Who led, as this node saw it from a time on.
#[derive(Debug, Clone, PartialEq)]
pub struct Leadership {
    /// From when on.
    pub at: UnixMillis,
    /// This node's term.
    pub term: Term,
    /// The leader that it knew of.
    pub leader: Option<NodeId>,
}

/// What this node's detector says of a member now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It was not pinged from here yet.
    Unknown,
    /// It answers.
    Up,
    /// It missed the first answers.
    Suspect,
    /// It is silent, since then if that is known.
    Down(Option<UnixMillis>),
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Unknown => "not pinged yet",
            Level::Up => "up",
            Level::Suspect => "suspect",
            Level::Down(_) => "down",
        }
    }

    /// The class of its mark.
    pub fn class(self) -> &'static str {
        match self {
            Level::Unknown => "unknown",
            Level::Up => "up",
            Level::Suspect => "suspect",
            Level::Down(_) => "down",
        }
    }
}

#[derive(Default)]
struct Kept {
    samples: VecDeque<Sample>,
    changes: VecDeque<Leadership>,
    silent: BTreeMap<String, Level>,
}

impl Kept {
    fn sample(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    fn leadership(&mut self, at: UnixMillis, status: &NodeStatus) {
        let known = self.changes.back();
        if known.is_some_and(|last| last.term == status.term && last.leader == status.leader) {
            return;
        }
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Leadership { at, term: status.term, leader: status.leader.clone() });
    }

    /// Tolerant: an event that it does not know, or that lacks a field, changes nothing.
    fn event(&mut self, event: &NodeEvent) {
        let level = match event.kind.as_str() {
            "member_up" => Level::Up,
            "member_suspect" => Level::Suspect,
            "member_down" => Level::Down(Some(event.at)),
            _ => return,
        };
        let Some(member) = event.data.get("member").and_then(|member| member.as_str()) else { return };
        if level == Level::Up {
            self.silent.remove(member);
        } else if self.silent.len() < SILENT_MAX || self.silent.contains_key(member) {
            self.silent.insert(member.to_string(), level);
        }
    }
}

/// See the module's head.
#[derive(Default)]
pub struct Recorder(Mutex<Kept>);

impl Recorder {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The samples not older than so many seconds, oldest first.
    pub fn samples(&self, seconds: usize) -> Vec<Sample> {
        let kept = self.kept();
        kept.samples.iter().skip(kept.samples.len().saturating_sub(seconds)).cloned().collect()
    }

    /// Who led when, oldest first.
    pub fn leaderships(&self) -> Vec<Leadership> {
        self.kept().changes.iter().cloned().collect()
    }

    /// What the detector says of a member; of the node itself that it is up.
    pub fn level(&self, metrics: &Metrics, own: &NodeId, member: &str) -> Level {
        if member == own.as_str() {
            return Level::Up;
        }
        if let Some(level) = self.kept().silent.get(member) {
            return *level;
        }
        let label = MemberLabel { member: member.to_string() };
        match metrics.member_up.get(&label).map(|gauge| gauge.get()) {
            None => Level::Unknown,
            Some(0) => Level::Down(None),
            Some(_) => Level::Up,
        }
    }
}

/// Reads the two histograms of which quantiles are shown, without the rest of a node's metrics.
struct Histograms(Registry);

impl Histograms {
    fn new(metrics: &Metrics) -> Histograms {
        let mut registry = Registry::default();
        registry.register("commits", "", metrics.raft_commit_seconds.clone());
        registry.register("syncs", "", metrics.wal_sync_seconds.clone());
        Histograms(registry)
    }

    fn read(&self) -> (Buckets, Buckets) {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)
            .expect("writing to a string does not fail");
        (Buckets::parse(&text, "commits"), Buckets::parse(&text, "syncs"))
    }
}

/// Records until the node stops.
pub async fn record(state: ApiState) {
    let recorder: Arc<Recorder> = state.recorder();
    let histograms = Histograms::new(&state.metrics);
    let mut events = Reading::new(state.handle.events.clone(), 0, None, state.stopping.clone());
    let mut status = state.handle.status.clone();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let seen = status.borrow_and_update().clone();
    recorder.kept().leadership(text::now(), &seen);
    loop {
        tokio::select! {
            () = state.stopping.cancelled() => return,
            _ = ticks.tick() => {
                let (commits, syncs) = histograms.read();
                let (commit, projection_lag) = {
                    let status = state.handle.status.borrow();
                    (status.commit.0, status.projection.lag_records)
                };
                let at = text::now();
                recorder.kept().sample(Sample { at, commit, commits, syncs, projection_lag });
            }
            event = events.next() => match event {
                Some(event) => recorder.kept().event(&event),
                None => return,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let seen = status.borrow_and_update();
                recorder.kept().leadership(text::now(), &seen);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantiles_are_read_off_what_the_metrics_count() {
        let metrics = Metrics::new();
        let histograms = Histograms::new(&metrics);
        let (before, _) = histograms.read();
        assert_eq!((before.total(), before.quantile(0.5)), (0, None));
        for _ in 0..99 {
            metrics.raft_commit_seconds.observe(0.003);
        }
        metrics.raft_commit_seconds.observe(1.0);
        let (after, syncs) = histograms.read();
        let added = after.since(&before);
        assert_eq!((added.total(), syncs.total()), (100, 0));
        let (half, most) = (added.quantile(0.5).expect("a median"), added.quantile(0.999).expect("a tail"));
        assert!((0.001_6..=0.003_2).contains(&half) && (0.8..=1.7).contains(&most), "{half} {most}");
        assert_eq!(after.since(&after).quantile(0.5), None, "nothing was added");
    }

    fn event(kind: &str, data: serde_json::Value) -> NodeEvent {
        NodeEvent { id: 1, at: UnixMillis(7), kind: kind.to_string(), message: String::new(), data }
    }

    #[test]
    fn the_detector_is_followed_and_unknown_events_change_nothing() {
        let (recorder, metrics) = (Recorder::default(), Metrics::new());
        let own: NodeId = "n1".parse().expect("a name");
        let level = |member: &str| recorder.level(&metrics, &own, member);
        assert_eq!((level("n1"), level("n2")), (Level::Up, Level::Unknown));
        metrics.member_up.get_or_create(&MemberLabel { member: "n2".to_string() }).set(1);
        assert_eq!(level("n2"), Level::Up);
        for (kind, data, wanted) in [
            ("member_suspect", json!({"member": "n2"}), Level::Suspect),
            ("member_down", json!({"member": "n2"}), Level::Down(Some(UnixMillis(7)))),
            ("member_up", json!({"node": "n2"}), Level::Down(Some(UnixMillis(7)))),
            ("member_fried", json!({"member": "n2"}), Level::Down(Some(UnixMillis(7)))),
            ("member_up", json!({"member": "n2"}), Level::Up),
        ] {
            recorder.kept().event(&event(kind, data));
            assert_eq!(level("n2"), wanted, "{kind}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let recorder = Recorder::default();
        for at in 0..SAMPLES_MAX as i64 + 5 {
            recorder.kept().sample(Sample { at: UnixMillis(at), ..Sample::default() });
        }
        let samples = recorder.samples(usize::MAX);
        assert_eq!((samples.len(), samples[0].at), (SAMPLES_MAX, UnixMillis(5)));
        assert_eq!(recorder.samples(3).len(), 3);
    }
}
