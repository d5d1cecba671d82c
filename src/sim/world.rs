//! The simulated world: virtual time, the queue of events, the hosts, the network between them, the agents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::codec;
use crate::database::errors::ProjectionError;
use crate::ledger::command::Command;
use crate::ledger::policy::Policy;
use crate::node::core::Settings;
use crate::node::frame::Frame;
use crate::node::io::{Effect, Input};
use crate::node::moment::Moment;
use crate::node::requests::{AskId, Outcome, PARKED_FOR, Want};
use crate::node::snapshot::{Received, WantPart};
use crate::raft::Entry;
use crate::types::{MemberId, Micros, NodeId, UnixMillis, Version};
use crate::{health, raft};

use super::database::{Database, DatabaseEvent};
use super::dice::Dice;
use super::host::Host;
use super::invariants::Watch;
use super::mongodb::Reply;
use super::projection::CallId;

/// Lines of the trace that are kept for the report of a failure.
const TRACE_KEPT: usize = 400;
/// Where virtual wall-clock time begins: 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// From so long a pause on, a process notices that it stood still (as the driver does).
const STALL: Duration = Duration::from_millis(250);
/// How often an input is taken together with those that follow it, in parts per million.
const BATCHED_PPM: u64 = 300_000;

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// A node asked to be woken.
    Wake,
    /// A frame arrives.
    Deliver {
        /// The sending host.
        from: usize,
        /// The encoded frame.
        bytes: Vec<u8>,
    },
    /// The disk has finished.
    DiskDone,
    /// A worker has finished.
    Result(Box<Input>),
    /// The state is to be flushed.
    Flush,
    /// An agent's answer arrives.
    Pong {
        /// Of whom.
        member: MemberId,
        /// The number of the ping.
        seq: u64,
    },
    /// A connection was reset and the new one refused.
    Gone {
        /// Whose.
        node: NodeId,
    },
    /// Somebody above asks for something.
    Ask {
        /// Names the answer.
        ask: AskId,
        /// What is wanted.
        want: Want,
    },
    /// A batch of steps ends.
    Turn,
    /// The apply thread takes its next job.
    Work,
    /// The projector may go on.
    Project,
    /// MongoDB has answered the projector.
    Answered {
        /// What.
        call: CallId,
        /// How.
        reply: Box<Result<Reply, ProjectionError>>,
    },
}

/// What waits for a host's apply thread, in order.
#[derive(Debug)]
pub enum Job {
    /// See [`Effect::Apply`].
    Apply(Vec<Entry>),
    /// See [`Effect::Export`].
    Export(WantPart),
    /// See [`Effect::CloseExport`].
    CloseExport(u64),
    /// See [`Effect::Install`].
    Install(Box<Received>),
    /// Makes the state durable.
    Flush,
}

/// Something that is due.
#[derive(Debug)]
pub enum Due {
    /// At a host, in one of its lives.
    Host {
        /// Which.
        host: usize,
        /// In which life.
        life: u64,
        /// What.
        event: Event,
    },
    /// A client does its next operation.
    Client(usize),
    /// The fault plan goes on.
    Fault,
    /// At MongoDB.
    Database(DatabaseEvent),
}

/// How bad the network is, in parts per million.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Frames lost.
    pub loss_ppm: u64,
    /// Frames delivered twice.
    pub double_ppm: u64,
    /// Frames delayed by up to 300 ms.
    pub slow_ppm: u64,
}

/// An answer to a client's ask.
#[derive(Debug)]
pub struct Answered {
    /// The ask.
    pub ask: AskId,
    /// Where it was asked.
    pub host: usize,
    /// The answer.
    pub outcome: Outcome,
}

/// See the module's head.
pub struct World {
    /// Virtual time.
    pub now: Micros,
    /// All randomness.
    pub dice: Dice,
    /// The super-nodes.
    pub hosts: Vec<Host>,
    /// Directed links that are cut.
    pub cut: BTreeSet<(usize, usize)>,
    /// The network's weather.
    pub weather: Weather,
    /// Agents that do not answer at the moment.
    pub silent_agents: BTreeSet<MemberId>,
    /// Answers that clients have not seen yet.
    pub answers: Vec<Answered>,
    /// Every invariant that is watched at each step.
    pub watch: Watch,
    /// Steps so far.
    pub steps: u64,
    /// Whether hosts crash at the worst moments.
    pub worst_moments: bool,
    /// Snapshots installed so far.
    pub installed: u64,
    /// The MongoDB that the leader projects into; `None`: this cluster has none.
    pub database: Option<Database>,
    /// FNV-1a over all trace lines: one seed, one value.
    pub trace_hash: u64,
    trace: std::collections::VecDeque<String>,
    queue: BTreeMap<(Micros, u64), Due>,
    number: u64,
    last_ask: AskId,
}

impl World {
    /// `nodes` machines that have never run.
    pub fn new(seed: u64, nodes: usize, policy: &Policy) -> World {
        let mut dice = Dice::new(seed);
        let ids: Vec<NodeId> = (1..=nodes).map(|n| format!("n{n}").parse().expect("a valid name")).collect();
        let peers: BTreeMap<NodeId, String> =
            ids.iter().map(|id| (id.clone(), format!("sim:{id}"))).collect();
        let identity = format!("{:032x}", dice.word());
        // Sometimes so few that whoever is away needs the whole state.
        let keep_entries = *dice.pick(&[4, 16, 64]);
        let hosts = ids
            .iter()
            .map(|id| {
                let settings = settings(id, &peers, &identity, policy, keep_entries);
                let skew = i64::try_from(dice.below(4_000)).expect("small") - 2_000;
                Host::new(id.clone(), settings, skew)
            })
            .collect();
        World {
            now: Micros(1_000_000),
            dice,
            hosts,
            cut: BTreeSet::new(),
            weather: Weather::default(),
            silent_agents: BTreeSet::new(),
            answers: Vec::new(),
            watch: Watch::default(),
            steps: 0,
            worst_moments: true,
            installed: 0,
            database: None,
            trace_hash: 0xcbf2_9ce4_8422_2325,
            trace: std::collections::VecDeque::new(),
            queue: BTreeMap::new(),
            number: 0,
            last_ask: 0,
        }
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, line: &str) {
        let line = format!("{:>11.6}  {line}", self.now.0 as f64 / 1e6);
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.trace.len() == TRACE_KEPT {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    /// Puts something into the queue.
    pub fn schedule(&mut self, after: Duration, due: Due) {
        self.number += 1;
        self.queue.insert((self.now.after(after), self.number), due);
    }

    /// The next thing that is due, with time moved to it; `None` when nothing is due before `until`.
    pub fn next(&mut self, until: Micros) -> Option<Due> {
        let (&(at, number), _) = self.queue.first_key_value()?;
        if at > until {
            self.now = until;
            return None;
        }
        self.now = at;
        self.queue.remove(&(at, number))
    }

    /// Starts a dead host.
    pub fn start(&mut self, host: usize) -> Result<(), String> {
        let moment = self.moment(host);
        self.hosts[host].start(moment)?;
        let id = self.hosts[host].id.clone();
        self.note(&format!("{id} starts"));
        self.turn(host)
    }

    /// Kills a host; the others may notice the reset of its connections.
    pub fn crash(&mut self, host: usize) {
        let entropy = self.dice.word();
        self.hosts[host].crash(entropy);
        let id = self.hosts[host].id.clone();
        self.note(&format!("{id} crashes"));
        for other in 0..self.hosts.len() {
            if other != host && !self.cut.contains(&(host, other)) && self.dice.chance(700_000) {
                let after = self.dice.span(Duration::from_millis(1), Duration::from_millis(20));
                self.at_host(after, other, Event::Gone { node: id.clone() });
            }
        }
    }

    /// Freezes a host, as SIGSTOP does.
    pub fn pause(&mut self, host: usize, span: Duration) {
        let id = self.hosts[host].id.clone();
        self.note(&format!("{id} is frozen for {} ms", span.as_millis()));
        self.hosts[host].paused_until = Some(self.now.after(span));
        self.hosts[host].paused_for = span;
    }

    /// Asks a host for something, as a client does; the answer comes to `answers`.
    pub fn ask(&mut self, host: usize, want: Want) -> AskId {
        let ask = self.new_ask();
        self.at_host(Duration::ZERO, host, Event::Ask { ask, want });
        ask
    }

    pub(super) fn new_ask(&mut self) -> AskId {
        self.last_ask += 1;
        self.last_ask
    }

    pub(super) fn at_host(&mut self, after: Duration, host: usize, event: Event) {
        let life = self.hosts[host].life;
        self.schedule(after, Due::Host { host, life, event });
    }

    fn moment(&mut self, host: usize) -> Moment {
        Moment { now: self.now, wall: self.wall(host), entropy: self.dice.word() }
    }

    /// The wall clock of a host.
    pub(super) fn wall(&self, host: usize) -> UnixMillis {
        let millis = i64::try_from(self.now.0 / 1_000).expect("virtual time is short");
        UnixMillis(EPOCH_MS + millis + self.hosts[host].clock_skew_ms)
    }

    /// Lets something happen at a host. `Err`: an invariant is broken.
    pub fn happen(&mut self, host: usize, life: u64, event: Event) -> Result<(), String> {
        if self.hosts[host].life != life || self.hosts[host].alive.is_none() {
            return Ok(());
        }
        if let Some(until) = self.hosts[host].paused_until {
            if self.now < until {
                let wait = until.since(self.now);
                self.schedule(wait, Due::Host { host, life, event });
                return Ok(());
            }
            self.hosts[host].paused_until = None;
            let span = self.hosts[host].paused_for;
            if span >= STALL {
                self.step(host, Input::Stalled(span))?;
            }
        }
        match event {
            Event::Wake => {
                if self.hosts[host].wake_at != Some(self.now) {
                    // Another wake-up was asked for since, or this one was held up by a pause.
                    if self.hosts[host].wake_at.is_none_or(|at| at > self.now) {
                        return Ok(());
                    }
                }
                self.hosts[host].wake_at = None;
                self.step(host, Input::Tick)
            }
            Event::Deliver { from, bytes } => {
                if self.cut.contains(&(from, host)) {
                    return Ok(());
                }
                let frame: Frame = codec::decode(&bytes).map_err(|error| format!("codec: {error}"))?;
                let from = self.hosts[from].id.clone();
                if let Some(alive) = self.hosts[host].alive.as_mut() {
                    alive.reachable.insert(from.clone());
                }
                self.step(host, Input::Frame { from, frame })
            }
            Event::DiskDone => {
                if let Some(until) = self.hosts[host].disk_stuck_until.filter(|until| self.now < *until) {
                    let wait = until.since(self.now);
                    self.schedule(wait, Due::Host { host, life, event: Event::DiskDone });
                    return Ok(());
                }
                match self.hosts[host].write()? {
                    Some(seq) => self.step(host, Input::Persisted { seq }),
                    None => Ok(()),
                }
            }
            Event::Ask { ask, want } => {
                self.step(host, Input::Ask { ask, want, forward: true, patience: PARKED_FOR })
            }
            Event::Turn => self.turn(host),
            Event::Work => self.work(host),
            Event::Result(input) => self.step(host, *input),
            Event::Flush => {
                if let Some(alive) = self.hosts[host].alive.as_mut() {
                    alive.flush_scheduled = false;
                    self.job(host, Job::Flush);
                }
                Ok(())
            }
            Event::Pong { member, seq } => {
                self.step(host, Input::AgentPong { member, seq, version: Version::current() })
            }
            Event::Gone { node } => self.step(host, Input::PeerGone { node }),
            Event::Project => self.project(host),
            Event::Answered { call, reply } => self.database_answered(host, call, *reply),
        }
    }

    fn step(&mut self, host: usize, input: Input) -> Result<(), String> {
        let moment = self.moment(host);
        let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
        alive.node.step(moment, input);
        if alive.turn_scheduled {
            return Ok(());
        }
        // Like the driver, now and then it takes several inputs before it ends the batch.
        if self.dice.chance(BATCHED_PPM) {
            if let Some(alive) = self.hosts[host].alive.as_mut() {
                alive.turn_scheduled = true;
            }
            let after = self.dice.span(Duration::from_micros(10), Duration::from_millis(2));
            self.at_host(after, host, Event::Turn);
            return Ok(());
        }
        self.turn(host)
    }

    fn turn(&mut self, host: usize) -> Result<(), String> {
        self.steps += 1;
        if let Some(alive) = self.hosts[host].alive.as_mut() {
            alive.turn_scheduled = false;
        }
        let moment = self.moment(host);
        let effects = self.hosts[host].take_effects(moment);
        for effect in effects {
            self.carry_out(host, effect)?;
        }
        self.watch.after_step(&self.hosts[host])?;
        self.projector_hears(host);
        let Some(alive) = self.hosts[host].alive.as_ref() else { return Ok(()) };
        let wake = alive.node.deadline(self.now).max(Micros(self.now.0 + 1));
        if self.hosts[host].wake_at.is_none_or(|at| wake < at) {
            self.hosts[host].wake_at = Some(wake);
            self.at_host(wake.since(self.now), host, Event::Wake);
        }
        Ok(())
    }

    fn carry_out(&mut self, host: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Persist(persist) => {
                let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
                alive.writing.push_back(persist);
                // Mostly fast, now and then a hiccup.
                let slow = self.dice.chance(20_000);
                let most = Duration::from_millis(if slow { 80 } else { 2 });
                let after = self.dice.span(Duration::from_micros(80), most);
                self.at_host(after, host, Event::DiskDone);
            }
            Effect::Send { to, frame } => {
                self.watch.said(&self.hosts[host], &to, &frame)?;
                self.send(host, &to, &frame);
            }
            Effect::Ping { member, address: _, seq } => {
                let lost = self.silent_agents.contains(&member) || self.dice.chance(self.weather.loss_ppm);
                if !lost {
                    let after = self.dice.span(Duration::from_micros(200), Duration::from_millis(8));
                    self.at_host(after, host, Event::Pong { member, seq });
                }
            }
            Effect::SetBook(book) => {
                if let Some(alive) = self.hosts[host].alive.as_mut() {
                    alive.reachable.extend(book.nodes.into_keys());
                }
            }
            Effect::Apply(entries) => {
                self.watch.committed(&self.hosts, &self.hosts[host].id, &entries)?;
                self.job(host, Job::Apply(entries));
            }
            Effect::Export(part) => self.job(host, Job::Export(part)),
            Effect::CloseExport { transfer } => self.job(host, Job::CloseExport(transfer)),
            Effect::Install(received) => self.job(host, Job::Install(received)),
            Effect::Reply { ask, outcome } => self.answers.push(Answered { ask, host, outcome }),
            Effect::Tell(notice) => {
                let id = self.hosts[host].id.clone();
                self.watch.notice(&id, &notice)?;
                if !matches!(
                    notice,
                    crate::node::io::Notice::Pinged(_) | crate::node::io::Notice::Committed(_)
                ) {
                    self.note(&format!("{id} {notice:?}"));
                }
            }
        }
        Ok(())
    }

    /// Hands a job to the apply thread, which takes one after the other.
    fn job(&mut self, host: usize, job: Job) {
        let most = match job {
            Job::Apply(_) | Job::CloseExport(_) => Duration::from_micros(500),
            Job::Flush | Job::Export(_) => Duration::from_millis(5),
            // A whole state is written and synced; much else may happen meanwhile.
            Job::Install(_) => Duration::from_millis(400),
        };
        let takes = self.dice.span(Duration::from_micros(10), most);
        let Some(alive) = self.hosts[host].alive.as_mut() else { return };
        alive.jobs.push_back(job);
        alive.apply_done_at = alive.apply_done_at.max(self.now).after(takes);
        let after = alive.apply_done_at.since(self.now);
        self.at_host(after, host, Event::Work);
    }

    /// The apply thread does the job that has waited longest; the node hears of it a little later.
    fn work(&mut self, host: usize) -> Result<(), String> {
        let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
        let Some(job) = alive.jobs.pop_front() else { return Ok(()) };
        match job {
            Job::Apply(entries) => return self.apply(host, &entries),
            Job::Export(part) => {
                let chunk = alive.applier.export(&part).map_err(|error| format!("export: {error}"))?;
                let (to, transfer) = (part.to, part.transfer);
                self.result(host, Input::Exported { to, transfer, chunk: chunk.map(Box::new) });
            }
            Job::CloseExport(transfer) => alive.applier.close_export(transfer),
            Job::Install(mut received) => {
                let rows = std::mem::take(&mut received.rows);
                let facts = alive
                    .applier
                    .install(received.base, rows)
                    .map_err(|error| format!("install: {error}"))?;
                if facts.is_some() {
                    self.installed += 1;
                    self.watch.installed(&self.hosts[host], received.base)?;
                }
                self.result(host, Input::Installed { snapshot: received, facts: facts.map(Box::new) });
                // The worst moment: the state is replaced, and the log does not know.
                if self.worst_moments && self.dice.chance(200_000) {
                    self.crash(host);
                }
            }
            Job::Flush => {
                let index = alive.applier.flush().map_err(|error| format!("flush: {error}"))?;
                self.result(host, Input::Flushed { index });
            }
        }
        Ok(())
    }

    /// Applies one entry at a time, so that the states of all nodes can be compared at every position.
    fn apply(&mut self, host: usize, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
            let batch = alive
                .applier
                .apply(std::slice::from_ref(entry))
                .map_err(|error| format!("apply at {}: {error}", entry.index))?;
            let Some(batch) = batch else { continue };
            self.watch.applied(&self.hosts[host], entry.index, &batch.happenings)?;
            self.projection_applied(host, entry.index, &batch.happenings)?;
            self.result(host, Input::Applied(Box::new(batch)));
        }
        let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
        if !alive.flush_scheduled {
            alive.flush_scheduled = true;
            self.at_host(Duration::from_secs(1), host, Event::Flush);
        }
        Ok(())
    }

    /// A worker's result reaches the node, in order.
    fn result(&mut self, host: usize, input: Input) {
        self.at_host(Duration::from_micros(5), host, Event::Result(Box::new(input)));
    }

    fn send(&mut self, host: usize, to: &NodeId, frame: &Frame) {
        let reachable = self.hosts[host].alive.as_ref().is_some_and(|alive| alive.reachable.contains(to));
        let Some(to) = self.hosts.iter().position(|other| reachable && &other.id == to) else { return };
        let copies =
            match (self.dice.chance(self.weather.loss_ppm), self.dice.chance(self.weather.double_ppm)) {
                (true, _) => 0,
                (false, true) => 2,
                (false, false) => 1,
            };
        let dead = self.hosts[to].alive.is_none() || self.cut.contains(&(host, to));
        for _ in 0..if dead { 0 } else { copies } {
            let slow = self.dice.chance(self.weather.slow_ppm);
            let most = if slow { Duration::from_millis(300) } else { Duration::from_millis(3) };
            let after = self.dice.span(Duration::from_micros(100), most);
            let bytes = codec::encode(frame);
            self.at_host(after, to, Event::Deliver { from: host, bytes });
        }
    }
}

fn settings(
    id: &NodeId,
    peers: &BTreeMap<NodeId, String>,
    identity: &str,
    policy: &Policy,
    keep_entries: u64,
) -> Settings {
    let genesis = Command::Genesis {
        cluster: "sim".to_string(),
        identity: identity.to_string(),
        policy: policy.clone(),
        nodes: peers.iter().map(|(id, address)| (id.clone(), address.clone())).collect(),
    };
    Settings {
        id: id.clone(),
        cluster: "sim".to_string(),
        peers: peers.clone(),
        raft: raft::Config { id: id.clone(), ..raft::Config::default() },
        health: health::Config::new(id.into()),
        genesis,
        keep_entries,
        address: format!("sim:{id}"),
        url: format!("http://{id}"),
    }
}
