//! Runs a node for real: one task owns the machine, one thread writes the log, one applies.
//!
//! The task drains its whole inbox, steps, and hands *one* batch to the disk thread; that thread writes and syncs
//! whatever has piled up since (group commit), so that throughput grows with load and a lone write pays one sync.
//! All channels towards the task are bounded; those from it to its two threads are bounded by what the core
//! keeps in flight (`raft::Config::uncommitted_bytes_max`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::ledger::command::Applied;
use crate::ledger::keyspace::KeyspaceError;
use crate::metrics::{Metrics, PeerLabel, ResultLabel};
use crate::raft::{Entry, Payload, Persist, RecoveryError, Seq};
use crate::types::{Index, Micros, Term, UnixMillis};

use super::applier::Applier;
use super::core::{Node, Settings};
use super::events::EventLog;
use super::frame::Frame;
use super::handle::{Ask, Changed, Failure, Handle, Reply, Transferred};
use super::io::{Effect, Input};
use super::mending;
use super::moment::Moment;
use super::notices;
use super::ports::{LogStore, Network, OpenedLog, Pinger, StateStore, StorageError};
use super::requests::{AskId, Outcome, Want};
use super::snapshot::{Received, WantPart};
use super::status::{NodeStatus, RoleName};
use super::trail::{Asker, Story, Trail};

/// Asks that wait for the driver; more are refused as overloaded.
const ASKS_MAX: usize = 8_192;
/// Inputs of one kind taken into one batch.
const BATCH_MAX: usize = 1_024;
/// Applied entries wait at most so long to be made durable. The log can replay them; and the longer they gather, the more
/// of them share a page of the state's file.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// So many bytes of applied commands are made durable at once, so that a restart after a crash has little to replay.
const FLUSH_BYTES: usize = 16 << 20;
/// The flush thread's niceness: it has seconds, while others have clients that wait.
const FLUSH_NICENESS: i32 = 10;
/// The status is renewed at most this often, unless role, term, leader or configuration changed.
const STATUS_EVERY: Duration = Duration::from_millis(20);
/// How often the disk thread looks how much room there is, and tries again to write what found none.
const ROOM_EVERY: Duration = Duration::from_millis(200);
/// A wake-up that comes so much too late is a stall of this process.
const STALL: Duration = Duration::from_millis(250);
/// How often a log of level debug hears how things stand.
const STANDING_EVERY: Duration = Duration::from_secs(1);

/// A node stopped because it could not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log.
    #[error(transparent)]
    Log(#[from] StorageError),
    /// The applied state.
    #[error(transparent)]
    State(#[from] KeyspaceError),
    /// What the log holds cannot be.
    #[error("the log is damaged: {0}")]
    Recovery(#[from] RecoveryError),
    /// A thread of the node is gone.
    #[error("the {0} thread ended unexpectedly")]
    Thread(&'static str),
}

/// Where inputs come from, and how they are understood: lets the layers above bring their own event types.
pub struct Inlet<T> {
    /// The source; its bound is its owner's choice.
    pub receiver: mpsc::Receiver<T>,
    /// What an event means; `None`: nothing.
    pub translate: fn(T) -> Option<Input>,
}

/// All that a node runs on.
pub struct Parts<L, P, A> {
    /// What it is made of.
    pub settings: Settings,
    /// Its log.
    pub log: OpenedLog<L>,
    /// Its applied state.
    pub state: Arc<dyn StateStore>,
    /// The way to the other super-nodes.
    pub network: Arc<dyn Network>,
    /// The way to the agents.
    pub pinger: Arc<dyn Pinger>,
    /// What comes from the other super-nodes.
    pub peers: Inlet<P>,
    /// What comes from the agents.
    pub agents: Inlet<A>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// While the disk has less room than this, in bytes, it counts as full.
    pub reserve: u64,
    /// Where the stories of followed writes go; `None`: none is followed.
    pub stories: Option<mpsc::Sender<Story>>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// A node that has been started.
pub struct Running {
    /// How to use it.
    pub handle: Handle,
    /// Ends when the node has stopped: after `stop`, or with the error that stopped it.
    pub ended: tokio::task::JoinHandle<Result<(), NodeError>>,
}

/// Starts a node. Must be called within a tokio runtime.
pub fn start<L: LogStore, P: Send + 'static, A: Send + 'static>(
    parts: Parts<L, P, A>,
) -> Result<Running, NodeError> {
    let mut clock = Clock::new();
    let mut applier = Applier::new(Arc::clone(&parts.state))?;
    let OpenedLog { log, recovered, notes: _ } = parts.log;
    if !mending::state_is_lost(&recovered, applier.standing()) {
        applier.found(&parts.settings.bootstrap())?;
    }
    let facts = applier.facts()?;
    let node = Node::new(parts.settings, recovered, applier.standing(), facts, clock.moment())?;
    let events = Arc::new(EventLog::default());
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (status, status_seen) = watch::channel(node.status(clock.moment().now));
    let (applied, applied_seen) = watch::channel(applier.standing().applied.index);
    let (leading, leading_seen) = watch::channel(None);
    let handle = Handle {
        asks,
        status: status_seen,
        applied: applied_seen,
        leading: leading_seen,
        state: Arc::clone(&parts.state),
        events: Arc::clone(&events),
    };
    let (results, from_threads) = mpsc::unbounded_channel();
    let Moment { now: expected_by, entropy, .. } = clock.moment();
    let disk = DiskThread::start(log, parts.reserve, results.clone(), Arc::clone(&parts.metrics));
    let apply = ApplyThread::start(applier, Arc::clone(&parts.state), parts.reserve, results);
    let driver = Driver {
        lacks_state: node.lacks_state(),
        proposals: Proposals::new(&parts.metrics),
        node,
        clock,
        network: parts.network,
        pinger: parts.pinger,
        metrics: parts.metrics,
        trail: parts.stories.map(|stories| (Trail::new(entropy), stories)),
        events,
        state: parts.state,
        disk,
        apply,
        waiters: BTreeMap::new(),
        last_ask: 0,
        status,
        status_at: None,
        told_at: None,
        membership_changes: 0,
        applied,
        leading,
        dirty: None,
        flushing: false,
        expected_by,
    };
    let inlets = Inlets { threads: from_threads, peers: parts.peers, agents: parts.agents, asks: asked };
    let ended = tokio::spawn(driver.run(inlets, parts.stop));
    Ok(Running { handle, ended })
}

struct Inlets<P, A> {
    threads: mpsc::UnboundedReceiver<FromThread>,
    peers: Inlet<P>,
    agents: Inlet<A>,
    asks: mpsc::Receiver<Ask>,
}

enum FromThread {
    Input(Input),
    /// There was no room for the state: a flush that began would have failed, for good.
    NotFlushed,
    Failed(NodeError),
}

/// Reports the end of a thread that ends by a panic: without it the node would go on, and never hear of its work again.
struct Obituary {
    thread: &'static str,
    results: mpsc::UnboundedSender<FromThread>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _driver_gone = self.results.send(FromThread::Failed(NodeError::Thread(self.thread)));
        }
    }
}

enum Waiter {
    Write(Reply<Applied>),
    Read(Reply<Index>),
    Change(tokio::sync::oneshot::Sender<Result<Changed, Failure>>),
    Transfer(tokio::sync::oneshot::Sender<Result<Transferred, Failure>>),
}

/// Counters of answered proposals, looked up once.
struct Proposals {
    applied: Counter,
    unknown: Counter,
    not_applied: Counter,
}

impl Proposals {
    fn new(metrics: &Metrics) -> Proposals {
        notices::begin_at_zero(metrics);
        let counter = |result: &str| {
            metrics.raft_proposals.get_or_create(&ResultLabel { result: result.to_string() }).clone()
        };
        Proposals {
            applied: counter("applied"),
            unknown: counter("unknown"),
            not_applied: counter("not_applied"),
        }
    }
}

struct Driver {
    node: Node,
    proposals: Proposals,
    clock: Clock,
    network: Arc<dyn Network>,
    pinger: Arc<dyn Pinger>,
    metrics: Arc<Metrics>,
    /// Of followed writes, and where their stories go.
    trail: Option<(Trail, mpsc::Sender<Story>)>,
    events: Arc<EventLog>,
    state: Arc<dyn StateStore>,
    disk: DiskThread,
    apply: ApplyThread,
    waiters: BTreeMap<AskId, Waiter>,
    last_ask: AskId,
    status: watch::Sender<NodeStatus>,
    status_at: Option<Instant>,
    /// When the log heard last how things stand.
    told_at: Option<Instant>,
    /// As of the last status; see [`Node::membership_changes`].
    membership_changes: u64,
    /// As of the last turn; see [`Node::lacks_state`].
    lacks_state: bool,
    applied: watch::Sender<Index>,
    leading: watch::Sender<Option<Term>>,
    /// Since when applied entries wait to be made durable, and their bytes.
    dirty: Option<(Instant, usize)>,
    /// A flush is under way; the next one waits for its end.
    flushing: bool,
    /// When the clock should be read again at the latest: now, while there is work; the next deadline during a sleep.
    expected_by: Micros,
}

impl Driver {
    async fn run<P, A>(mut self, mut inlets: Inlets<P, A>, stop: CancellationToken) -> Result<(), NodeError> {
        let (mut threads, mut peers, mut agents, mut asks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        self.turn();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = inlets.threads.recv_many(&mut threads, BATCH_MAX) => {}
                Some(first) = inlets.peers.receiver.recv() => peers.push(first),
                Some(first) = inlets.agents.receiver.recv() => agents.push(first),
                Some(first) = inlets.asks.recv() => asks.push(first),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            // Whoever else is ready speaks first. Without this the task that woke this one would get an answer of its
            // own, a disk write and a message to each peer, before the next could ask.
            tokio::task::yield_now().await;
            // One batch of everything that is there: one disk write, one round of messages.
            drain(&mut inlets.peers.receiver, &mut peers);
            drain(&mut inlets.agents.receiver, &mut agents);
            drain(&mut inlets.asks, &mut asks);
            while let Ok(more) = inlets.threads.try_recv() {
                threads.push(more);
            }
            for result in threads.drain(..) {
                match result {
                    FromThread::Input(input) => {
                        self.flushing &= !matches!(input, Input::Flushed { .. });
                        self.step(input);
                    }
                    FromThread::NotFlushed => {
                        self.flushing = false;
                        self.dirty.get_or_insert_with(|| (Instant::now(), 0));
                    }
                    FromThread::Failed(error) => return Err(error),
                }
            }
            peers.drain(..).filter_map(inlets.peers.translate).for_each(|input| self.step(input));
            agents.drain(..).filter_map(inlets.agents.translate).for_each(|input| self.step(input));
            asks.drain(..).for_each(|ask| self.ask(ask));
            self.step(Input::Tick);
            self.turn();
        }
        self.finish()
    }

    fn step(&mut self, input: Input) {
        let moment = self.moment();
        if let Some((trail, _)) = &mut self.trail {
            match &input {
                Input::Persisted { seq } => trail.persisted(*seq, moment.now),
                Input::Frame { from, frame } => trail.received(from, frame, moment.now),
                Input::Applied(batch) => trail.applied(batch.upto.index, moment.now),
                _ => {}
            }
        }
        self.node.step(moment, input);
    }

    /// Hands the stories of followed writes on. Nobody waits for a trace: what does not fit into the queue is dropped.
    fn tell_stories(&mut self, moment: Moment) {
        let Some((trail, stories)) = &mut self.trail else { return };
        let spans = trail.finished(moment.now);
        if !spans.is_empty() {
            // The clock of this very instant: the moment is as old as the turn.
            let story = Story { spans, origin_ns: origin_ns(self.clock.now()) };
            let _dropped = stories.try_send(story);
        }
    }

    /// The present moment. If it comes much later than it should, this process stood still: the node hears of that
    /// before it hears of anything that waited meanwhile, whatever woke the task and wherever it stood.
    fn moment(&mut self) -> Moment {
        let moment = self.clock.moment();
        let late = moment.now.since(self.expected_by);
        self.expected_by = moment.now;
        if late >= STALL {
            self.node.step(moment, Input::Stalled(late));
        }
        moment
    }

    fn ask(&mut self, ask: Ask) {
        let (waiter, want, forward, patience) = match ask {
            Ask::Submit { request, forward, patience, reply, traced } => {
                if let (Some((trail, _)), Some(traced)) = (&mut self.trail, traced) {
                    let now = self.clock.now();
                    let queued = Micros(traced.queued_ns.saturating_sub(origin_ns(now)).div_ceil(1_000));
                    trail.taken(self.last_ask + 1, traced.origin, queued, now);
                }
                (Waiter::Write(reply), Want::Write(request), forward, patience)
            }
            Ask::ReadBarrier { lease, forward, patience, reply } => {
                (Waiter::Read(reply), Want::Read { lease }, forward, patience)
            }
            Ask::Change { change, forward, patience, reply } => {
                (Waiter::Change(reply), Want::Change(change), forward, patience)
            }
            Ask::Transfer { to, forward, patience, reply } => {
                (Waiter::Transfer(reply), Want::Transfer(to), forward, patience)
            }
            Ask::Projection(status) => return self.step(Input::Projection(status)),
            Ask::Webhook(status) => return self.step(Input::Webhook(status)),
        };
        self.last_ask += 1;
        let ask = self.last_ask;
        self.waiters.insert(ask, waiter);
        self.step(Input::Ask { ask, want, forward, patience });
    }

    /// Ends a batch: carries the effects out and publishes what changed.
    fn turn(&mut self) {
        let moment = self.moment();
        if self.lacks_state != self.node.lacks_state() {
            // Before anything is answered: whether the state may be looked at is in the status.
            self.lacks_state = self.node.lacks_state();
            self.status.send_replace(self.node.status(moment.now));
        }
        for effect in self.node.take_effects(moment) {
            self.carry_out(effect, moment);
        }
        // A state that cannot be written to a full disk is kept in memory; the log has everything.
        let may_flush = !self.flushing && !self.node.disk_is_full();
        let due = |(since, bytes): (Instant, usize)| since.elapsed() >= FLUSH_EVERY || bytes >= FLUSH_BYTES;
        if may_flush && self.dirty.is_some_and(due) {
            self.dirty = None;
            self.flushing = true;
            self.apply.send(ApplyJob::Flush);
        }
        self.tell_stories(moment);
        self.publish(moment);
    }

    fn carry_out(&mut self, effect: Effect, moment: Moment) {
        if let Some((trail, _)) = &mut self.trail {
            match &effect {
                Effect::Persist(persist) => trail.persist(persist, moment.now),
                Effect::Send { to, frame: Frame::Forward { id, .. } } => {
                    let asked = self.node.passed_on(*id);
                    let followed = asked.and_then(|ask| trail.passed_on(ask, *id, to, moment.now));
                    followed.into_iter().for_each(|frame| self.network.send(to, frame));
                }
                Effect::Send { to, frame: Frame::ForwardAnswer { id, result } } => {
                    trail.answered(&Asker::Peer(to.clone(), *id), place(result), moment.now);
                }
                Effect::Send { to, frame } => trail.sent(to, frame, moment.now),
                Effect::Apply(entries) => trail.committed(entries, moment.now),
                Effect::Reply { ask, outcome: Outcome::Write(result) } => {
                    trail.answered(&Asker::Ask(*ask), place(result), moment.now);
                }
                _ => {}
            }
        }
        match effect {
            Effect::Persist(persist) => self.disk.send(persist),
            Effect::Send { to, frame } => {
                if matches!(frame, Frame::Raft(_)) {
                    self.metrics.raft_messages.inc();
                }
                self.network.send(&to, frame);
            }
            Effect::Ping { member, address, key, seq } => self.pinger.ping(&member, &address, &key, seq),
            Effect::Apply(entries) => {
                let (_, bytes) = self.dirty.get_or_insert_with(|| (Instant::now(), 0));
                *bytes += entries.iter().map(command_bytes).sum::<usize>();
                self.apply.send(ApplyJob::Apply(entries));
            }
            Effect::Export(part) => self.apply.send(ApplyJob::Export(part)),
            Effect::CloseExport { transfer } => self.apply.send(ApplyJob::CloseExport(transfer)),
            Effect::Install(received) => self.apply.send(ApplyJob::Install(received)),
            Effect::Reply { ask, outcome } => self.reply(ask, outcome),
            Effect::SetBook(book) => self.network.set_book(&book),
            Effect::Tell(notice) => notices::tell(&notice, moment.wall, &self.events, &self.metrics),
        }
    }

    /// A receiver that is gone has stopped waiting; its answer is dropped.
    fn reply(&mut self, ask: AskId, outcome: Outcome) {
        match (self.waiters.remove(&ask), outcome) {
            (Some(Waiter::Write(reply)), Outcome::Write(result)) => {
                match &result {
                    Ok(_) => self.proposals.applied.inc(),
                    Err(Failure::Unknown(_)) => self.proposals.unknown.inc(),
                    Err(_) => self.proposals.not_applied.inc(),
                };
                let _gone = reply.send(result);
            }
            (Some(Waiter::Read(reply)), Outcome::Read(result)) => {
                let _gone = reply.send(result);
            }
            (Some(Waiter::Change(reply)), Outcome::Change(result)) => {
                let _gone = reply.send(result);
            }
            (Some(Waiter::Transfer(reply)), Outcome::Transfer(result)) => {
                let _gone = reply.send(result);
            }
            _ => {}
        }
    }

    /// When to wake up. Asked as of the last turn: what has become due since then was not done by it, and must not be
    /// taken for done.
    fn next_wake(&mut self) -> Instant {
        let deadline = self.node.deadline(self.expected_by);
        self.expected_by = self.expected_by.max(deadline);
        let mut wake = self.clock.instant(deadline);
        if let Some((since, _)) = self.dirty.filter(|_| !self.flushing && !self.node.disk_is_full()) {
            wake = wake.min(since + FLUSH_EVERY);
        }
        if let Some(at) = self.status_at {
            wake = wake.min(at);
        }
        wake
    }

    /// Moves the watches that others wait on.
    fn publish(&mut self, moment: Moment) {
        let applied = self.node.applied_index();
        self.applied.send_if_modified(|seen| std::mem::replace(seen, applied) != applied);
        let leading = self.node.leading();
        self.leading.send_if_modified(|seen| std::mem::replace(seen, leading) != leading);
        let now = Instant::now();
        let role_changed = {
            let (seen, (term, leader)) = (self.status.borrow(), self.node.term_and_leader());
            let membership = self.node.membership_changes();
            let moved = std::mem::replace(&mut self.membership_changes, membership) != membership;
            moved || seen.term != term || seen.leader.as_ref() != leader
        };
        match self.status_at {
            // Something has happened since the last renewal: make sure that another comes.
            None if !role_changed => self.status_at = Some(now + STATUS_EVERY),
            Some(at) if now < at && !role_changed => {}
            _ => {
                self.status_at = None;
                let status = self.node.status(moment.now);
                self.measure(&status);
                self.tell_standing(&status, now);
                self.status.send_replace(status);
            }
        }
    }

    fn tell_standing(&mut self, status: &NodeStatus, now: Instant) {
        let due = self.told_at.is_none_or(|told| now.duration_since(told) >= STANDING_EVERY);
        if due && tracing::enabled!(tracing::Level::DEBUG) {
            self.told_at = Some(now);
            tracing::debug!(event = "standing", "{}", notices::standing(status));
        }
    }

    fn measure(&self, status: &NodeStatus) {
        let metrics = &self.metrics;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.raft_term.set(gauge(status.term.0));
        metrics.raft_role.set(match status.role {
            RoleName::Learner => 0,
            RoleName::Follower => 1,
            RoleName::Candidate => 2,
            RoleName::Leader => 3,
        });
        metrics.raft_has_leader.set(i64::from(status.leader.is_some()));
        metrics.raft_commit_index.set(gauge(status.commit.0));
        metrics.raft_applied_index.set(gauge(status.applied.0));
        metrics.ledger_records.set(gauge(status.ledger.records));
        metrics.projection_lag_records.set(gauge(status.projection.lag_records));
        metrics.snapshot_index.set(gauge(self.node.log_base().index.0));
        metrics.storage_bytes.set(gauge(self.state.bytes() + self.disk.bytes()));
        let contact = status.nodes.iter().find(|node| Some(&node.id) == status.leader.as_ref());
        let contact_ms = contact.and_then(|node| node.contact_ms).unwrap_or(0);
        metrics.raft_leader_contact_seconds.set(contact_ms as f64 / 1_000.0);
        for node in status.nodes.iter().filter(|node| node.id != status.id) {
            let label = PeerLabel { peer: node.id.to_string() };
            metrics.raft_follower_lag_entries.get_or_create(&label).set(gauge(node.lag.unwrap_or(0)));
        }
    }

    fn finish(self) -> Result<(), NodeError> {
        self.disk.finish();
        self.apply.finish();
        Ok(())
    }
}

fn place(result: &Result<Applied, Failure>) -> Option<Index> {
    result.as_ref().ok().map(|applied| applied.index)
}

fn command_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Command(command) => command.len(),
        Payload::Noop | Payload::Configuration(_) => 0,
    }
}

fn drain<T>(receiver: &mut mpsc::Receiver<T>, into: &mut Vec<T>) {
    while into.len() < BATCH_MAX {
        match receiver.try_recv() {
            Ok(more) => into.push(more),
            Err(_) => return,
        }
    }
}

/// The real clock and the real dice.
struct Clock {
    /// The first reading. It counts as one second, so that "a while ago" is never before the origin.
    origin: Duration,
    dice: rand::rngs::SmallRng,
}

/// The clock that counts the time during which the machine was suspended; elsewhere the monotonic one does.
#[cfg(target_os = "linux")]
const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

/// The machine's time since its start, the time during which it was suspended included (`Instant` leaves that out):
/// a leader that wakes from a sleep must find its lease over. The resolution is that of the system's clock, nanoseconds.
fn time_since_boot() -> Duration {
    let time = rustix::time::clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The Unix time, in nanoseconds, at which the node's clock would have read zero, if it is `now` now.
fn origin_ns(now: Micros) -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
    wall_ns.saturating_sub(now.0.saturating_mul(1_000))
}

impl Clock {
    fn new() -> Clock {
        Clock { origin: time_since_boot(), dice: rand::rngs::SmallRng::from_rng(&mut rand::rng()) }
    }

    fn now(&self) -> Micros {
        Micros::default().after(Duration::from_secs(1) + time_since_boot().saturating_sub(self.origin))
    }

    fn moment(&mut self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = UnixMillis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
        Moment { now: self.now(), wall, entropy: self.dice.next_u64() }
    }

    /// The instant of a monotonic time; a far future one is cut to a day, which only wakes the task once more. A
    /// suspended machine wakes the task late, by the clock that is read then.
    fn instant(&self, at: Micros) -> Instant {
        let day = Duration::from_secs(86_400);
        Instant::now() + at.since(self.now()).min(day)
    }
}

struct DiskThread {
    jobs: std::sync::mpsc::Sender<Persist>,
    bytes: Arc<std::sync::atomic::AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

/// Writes batches as they come, and watches the room on the disk.
struct Writer<L> {
    log: L,
    /// See [`Parts::reserve`].
    reserve: u64,
    full: bool,
    /// The last batch that was taken and not written, since there was no room.
    waiting: Option<Seq>,
    results: mpsc::UnboundedSender<FromThread>,
}

impl<L: LogStore> Writer<L> {
    /// `false`: the node is gone, or has been told that it must go.
    fn write(&mut self, batches: &[Persist]) -> bool {
        let last = batches.last().map(|batch| batch.seq).or(self.waiting);
        let result = match self.log.append(batches) {
            Ok(()) => {
                self.waiting = None;
                // Nothing was asked for, and nothing waited.
                let Some(seq) = last else { return true };
                FromThread::Input(Input::Persisted { seq })
            }
            Err(StorageError::Full { .. }) => {
                self.waiting = last;
                return self.tell_room(true);
            }
            Err(error) => FromThread::Failed(error.into()),
        };
        let failed = matches!(result, FromThread::Failed(_));
        self.results.send(result).is_ok() && !failed
    }

    /// Looks how much room there is.
    fn look(&mut self) -> bool {
        let full = self.waiting.is_some() || self.log.room().is_some_and(|room| room < self.reserve);
        self.tell_room(full)
    }

    fn tell_room(&mut self, full: bool) -> bool {
        std::mem::replace(&mut self.full, full) == full
            || self.results.send(FromThread::Input(Input::DiskRoom { full })).is_ok()
    }
}

impl DiskThread {
    fn start<L: LogStore>(
        log: L,
        reserve: u64,
        results: mpsc::UnboundedSender<FromThread>,
        metrics: Arc<Metrics>,
    ) -> DiskThread {
        let (jobs, work) = std::sync::mpsc::channel::<Persist>();
        let bytes = Arc::new(std::sync::atomic::AtomicU64::new(log.bytes()));
        let size = Arc::clone(&bytes);
        let thread = named("disk", move || {
            let _obituary = Obituary { thread: "disk", results: results.clone() };
            let mut writer = Writer { log, reserve, full: false, waiting: None, results };
            let mut looked = None;
            loop {
                if looked.is_none_or(|at: Instant| at.elapsed() >= ROOM_EVERY) {
                    looked = Some(Instant::now());
                    if !writer.look() {
                        return;
                    }
                }
                let mut batches = match work.recv_timeout(ROOM_EVERY) {
                    Ok(first) => vec![first],
                    Err(RecvTimeoutError::Timeout) if writer.waiting.is_none() => continue,
                    Err(RecvTimeoutError::Timeout) => Vec::new(),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                batches.extend(work.try_iter());
                let begun = Instant::now();
                let goes_on = writer.write(&batches);
                metrics.wal_sync_seconds.observe(begun.elapsed().as_secs_f64());
                size.store(writer.log.bytes(), std::sync::atomic::Ordering::Relaxed);
                if !goes_on {
                    return;
                }
            }
        });
        DiskThread { jobs, bytes, thread }
    }

    /// The thread ends only after it has reported why, so a job that nobody takes any more needs no word here.
    fn send(&self, persist: Persist) {
        let _reported = self.jobs.send(persist);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the disk thread panicked");
        }
    }
}

enum ApplyJob {
    Apply(Vec<Entry>),
    Flush,
    Export(WantPart),
    CloseExport(u64),
    Install(Box<Received>),
}

/// Starts a thread that the tools of the system show by name.
fn named(name: &str, work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
    thread.expect("a system that cannot start a thread cannot run a node")
}

struct ApplyThread {
    jobs: std::sync::mpsc::Sender<ApplyJob>,
    thread: std::thread::JoinHandle<()>,
}

impl ApplyThread {
    fn start(
        mut applier: Applier,
        state: Arc<dyn StateStore>,
        reserve: u64,
        results: mpsc::UnboundedSender<FromThread>,
    ) -> ApplyThread {
        let (jobs, work) = std::sync::mpsc::channel::<ApplyJob>();
        let thread = named("apply", move || {
            let _obituary = Obituary { thread: "apply", results: results.clone() };
            let (flushes, flusher) = Self::start_flusher(state, reserve, results.clone());
            while let Ok(job) = work.recv() {
                if matches!(job, ApplyJob::Flush) {
                    // What is applied by now is flushed while more is applied.
                    let _reported = flushes.send(applier.standing().applied.index);
                    continue;
                }
                let result = match Self::work(&mut applier, job) {
                    Ok(None) => continue,
                    Ok(Some(input)) => FromThread::Input(input),
                    Err(error) => FromThread::Failed(error.into()),
                };
                let failed = matches!(result, FromThread::Failed(_));
                if results.send(result).is_err() || failed {
                    return;
                }
            }
            drop(flushes);
            if flusher.join().is_err() {
                tracing::error!("the flush thread panicked");
            }
            // A clean end leaves nothing to replay. If it fails, the log still has everything.
            if let Err(error) = applier.flush() {
                tracing::warn!("the state could not be flushed at the end: {error}");
            }
        });
        ApplyThread { jobs, thread }
    }

    /// Makes the applied state durable, on demand and off the path of every write. A demand names the index that was
    /// applied when it was made.
    fn start_flusher(
        state: Arc<dyn StateStore>,
        reserve: u64,
        results: mpsc::UnboundedSender<FromThread>,
    ) -> (std::sync::mpsc::Sender<Index>, std::thread::JoinHandle<()>) {
        let (demands, work) = std::sync::mpsc::channel::<Index>();
        let thread = named("flush", move || {
            let _obituary = Obituary { thread: "flush", results: results.clone() };
            // Of this thread only. Where it is refused, flushes are as urgent as everything else.
            if let Err(error) = rustix::process::setpriority_process(None, FLUSH_NICENESS) {
                tracing::debug!(%error, "the flush thread keeps its priority");
            }
            while let Ok(index) = work.recv() {
                if state.room().is_some_and(|room| room < reserve) {
                    if results.send(FromThread::NotFlushed).is_err() {
                        return;
                    }
                    continue;
                }
                let result = match state.flush() {
                    Ok(()) => FromThread::Input(Input::Flushed { index }),
                    Err(error) => FromThread::Failed(error.into()),
                };
                let failed = matches!(result, FromThread::Failed(_));
                if results.send(result).is_err() || failed {
                    return;
                }
            }
        });
        (demands, thread)
    }

    fn work(applier: &mut Applier, job: ApplyJob) -> Result<Option<Input>, KeyspaceError> {
        Ok(match job {
            ApplyJob::Apply(entries) => applier.apply(&entries)?.map(|batch| Input::Applied(Box::new(batch))),
            ApplyJob::Flush => None,
            ApplyJob::Export(part) => {
                let chunk = applier.export(&part)?.map(Box::new);
                Some(Input::Exported { to: part.to, transfer: part.transfer, chunk })
            }
            ApplyJob::CloseExport(transfer) => {
                applier.close_export(transfer);
                None
            }
            ApplyJob::Install(mut received) => {
                let intake = applier.install(&mut received)?;
                Some(Input::Installed { snapshot: received, intake })
            }
        })
    }

    fn send(&self, job: ApplyJob) {
        let _reported = self.jobs.send(job);
    }

    fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the apply thread panicked");
        }
    }
}
