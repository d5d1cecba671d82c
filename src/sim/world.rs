//! The simulated world: virtual time, the queue of events, the hosts, and what their effects come to.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec;
use crate::database::errors::ProjectionError;
use crate::ledger::apply::Happening;
use crate::ledger::command::{Command, Request};
use crate::ledger::idempotency::stamped;
use crate::ledger::policy::Policy;
use crate::network::gate::Judgement;
use crate::node::applier::Intake;
use crate::node::core::Settings;
use crate::node::frame::Frame;
use crate::node::frame::PROTOCOL;
use crate::node::io::{Effect, Input, Notice};
use crate::node::ports::AgentPing;
use crate::node::requests::{AskId, Outcome, PARKED_FOR, Want};
use crate::node::snapshot::{Received, WantPart};
use crate::raft::{Configuration, Entry, Persist};
use crate::types::{Index, IntervalId, MemberId, Micros, NodeId, UnixMillis};
use crate::{health, raft};

use super::clock::Clock;
use super::database::{Database, DatabaseEvent};
use super::dice::Dice;
use super::evidence::Evidence;
use super::fleet::Fleet;
use super::host::{Death, Host, StartError, Wrote};
use super::invariants::Watch;
use super::library;
use super::mongodb::Reply;
use super::network::Network;
use super::plan::Plan;
use super::projection::CallId;
use super::tell;
use super::trace::{Trace, Weight};

/// From so long a pause on, a process notices that it stood still (as the driver does).
const STALL: Duration = Duration::from_millis(250);
/// When a write that found no room is tried again.
const ROOM_EVERY: Duration = Duration::from_millis(100);
/// Within which time after a pause what waited at different sockets is taken, in any order.
const UNORDERED_AFTER_PAUSE: Duration = Duration::from_millis(3);
/// How often an input is taken together with those that follow it, in parts per million.
const BATCHED_PPM: u64 = 300_000;
/// Most steps of a node within a second of virtual time; one that takes more wakes itself without end.
const STEPS_MAX: u64 = 30_000;
/// The stream of a seed for whatever belongs to no host and no link.
const WORLD_STREAM: u64 = 2;
/// How long a supervisor waits before it starts a process again that stopped by itself.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(600));

/// What can happen at a host.
#[derive(Debug)]
pub enum Event {
    /// A node asked to be woken.
    Wake,
    /// A frame arrives.
    Deliver {
        /// The sending host.
        from: usize,
        /// Its incarnation: what a machine said before it lost everything is not heard after.
        incarnation: u64,
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
        /// The datagram.
        bytes: Vec<u8>,
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
        /// Whether to pass it on when another node leads.
        forward: bool,
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

impl Event {
    fn number(&self) -> u64 {
        match self {
            Event::Wake => 1,
            Event::Deliver { .. } => 2,
            Event::DiskDone => 3,
            Event::Result(_) => 4,
            Event::Flush => 5,
            Event::Pong { .. } => 6,
            Event::Gone { .. } => 7,
            Event::Ask { .. } => 8,
            Event::Turn => 9,
            Event::Work => 10,
            Event::Project => 11,
            Event::Answered { .. } => 12,
        }
    }
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
    /// A dead host is started, if nothing holds it.
    Start(usize),
    /// A client's turn.
    Client(usize),
    /// The treasury's turn.
    Treasury,
    /// Something between the hosts and a client that uses the library.
    Library(library::Event),
    /// An act of the plan (by its place there) begins.
    Begin(usize),
    /// An act of the plan ends.
    End(usize),
    /// The operator looks after what is to be done.
    Operator,
    /// At MongoDB.
    Database(DatabaseEvent),
}

/// An answer to an ask.
#[derive(Debug)]
pub struct Answered {
    /// The ask.
    pub ask: AskId,
    /// Where it was asked.
    pub host: usize,
    /// The answer.
    pub outcome: Outcome,
}

/// What all nodes of a history have in common.
#[derive(Debug)]
struct Common {
    policy: Policy,
    identity: String,
    founders: BTreeMap<NodeId, String>,
}

/// See the module's head.
pub struct World {
    /// The plan of the history.
    pub plan: Plan,
    /// Virtual time.
    pub now: Micros,
    /// Randomness that belongs to no host and no link.
    pub dice: Dice,
    /// The super-nodes.
    pub hosts: Vec<Host>,
    /// What is between them.
    pub network: Network,
    /// The agents.
    pub fleet: Fleet,
    /// Agents that do not answer at the moment, with the number of faults that keep each silent.
    pub silent_agents: BTreeMap<MemberId, u32>,
    /// Answers that nobody has seen yet.
    pub answers: Vec<Answered>,
    /// Every invariant that is watched at each step.
    pub watch: Watch,
    /// Steps so far.
    pub steps: u64,
    /// Whether hosts crash at the worst moments.
    pub worst_moments: bool,
    /// Snapshots installed so far.
    pub installed: u64,
    /// How often each bound was met.
    pub met: BTreeMap<&'static str, u64>,
    /// The MongoDB that the leader projects into; `None`: this cluster has none.
    pub database: Option<Database>,
    /// Where the log binds each node to its data directory.
    pub bound: BTreeMap<NodeId, Index>,
    /// The newest position of the log that a client was told of.
    pub told_of: Index,
    /// What the acts of the plan have come to.
    pub evidence: Evidence,
    /// How many states were lost because of a bit.
    pub states_lost: u64,
    /// How many processes were ended while they led.
    pub leaders_killed: u64,
    /// What is told of all this.
    pub trace: Trace,
    common: Common,
    queue: BTreeMap<(Micros, u64), Due>,
    number: u64,
    last_ask: AskId,
}

/// The name of the host with that index.
pub fn name(host: usize) -> NodeId {
    format!("n{}", host + 1).parse().expect("a valid name")
}

/// The first address of the host with that index.
pub fn address(host: usize) -> String {
    format!("sim:n{}", host + 1)
}

impl World {
    /// The machines that found the cluster; none has ever run.
    pub fn new(plan: &Plan, policy: &Policy, recording: bool) -> World {
        let mut dice = Dice::stream(plan.seed, WORLD_STREAM);
        let founders = usize::try_from(plan.nodes).expect("few nodes");
        let founders = (0..founders).map(|host| (name(host), address(host))).collect();
        let identity = format!("{:032x}", dice.word());
        let common = Common { policy: policy.clone(), identity, founders };
        let mut world = World {
            plan: plan.clone(),
            now: Micros(1_000_000),
            dice,
            hosts: Vec::new(),
            network: Network::new(plan.seed),
            fleet: Fleet::default(),
            silent_agents: BTreeMap::new(),
            answers: Vec::new(),
            watch: Watch::default(),
            steps: 0,
            worst_moments: plan.worst_moments,
            installed: 0,
            met: BTreeMap::new(),
            database: None,
            bound: BTreeMap::new(),
            told_of: Index(0),
            evidence: Evidence::default(),
            states_lost: 0,
            leaders_killed: 0,
            trace: Trace::new(recording),
            common,
            queue: BTreeMap::new(),
            number: 0,
            last_ask: 0,
        };
        for _ in 0..plan.nodes {
            world.add_host(true);
        }
        world
    }

    /// A new machine. One that founds the cluster knows the others; one that joins later waits to be found.
    pub fn add_host(&mut self, founder: bool) -> usize {
        let host = self.hosts.len();
        let of = |list: &[i64]| list.get(host).or(list.last()).copied().unwrap_or(0);
        let origin = 1_000_000 * Dice::stream(self.plan.seed, 3 + host as u64).below(3_600);
        let clock = Clock { origin, drift_ppm: of(&self.plan.drift_ppm), skew_ms: of(&self.plan.skew_ms) };
        let settings = self.settings(host, founder);
        self.hosts.push(Host::new(host, settings, self.plan.tight.limits(), clock, self.plan.seed));
        host
    }

    /// What the node of a host is made of.
    pub fn settings(&self, host: usize, founder: bool) -> Settings {
        let Common { policy, identity, founders } = &self.common;
        let id = name(host);
        let number = u32::try_from(host).expect("few hosts") + 1;
        Settings {
            protocol_max: PROTOCOL,
            cluster: "sim".to_string(),
            peers: if founder { founders.clone() } else { BTreeMap::new() },
            raft: raft::Config {
                id: id.clone(),
                lease: self.plan.lease_ms.map(Duration::from_millis),
                reluctant: self.plan.reluctant.contains(&number),
                ..self.plan.tight.raft()
            },
            bounds: self.plan.tight.bounds(),
            health: health::Config::new((&id).into()),
            retention: None,
            genesis: Command::Genesis {
                cluster: "sim".to_string(),
                identity: identity.clone(),
                policy: policy.clone(),
                nodes: founders.iter().map(|(id, address)| (id.clone(), address.clone())).collect(),
            },
            keep_entries: self.plan.keep_entries,
            // So few that it is now the number that counts, now the bytes.
            keep_bytes: self.plan.keep_entries * 150,
            snapshot_rate: 0,
            in_memory: false,
            replace_dead_after: None,
            address: address(host),
            url: format!("http://{id}"),
            incarnation: format!("disk-{id}-{}", self.hosts.get(host).map_or(0, |host| host.incarnation)),
            id,
        }
    }

    /// A bound was met.
    pub fn meet(&mut self, bound: &'static str, times: u64) {
        *self.met.entry(bound).or_default() += times;
    }

    /// A line of the trace that matters.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.tell(self.now, Weight::Main, None, text);
    }

    /// A line of the trace for those who want to see everything.
    pub fn detail(&mut self, text: impl FnOnce() -> String) {
        self.trace.tell(self.now, Weight::Detail, None, text);
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

    /// Starts a dead host, unless something holds it. If its disk lets it not start, it tries again.
    pub fn start(&mut self, host: usize) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.hosts[host];
        if machine.alive.is_some() || machine.held > 0 || machine.retired {
            return Ok(());
        }
        let moment = machine.moment(now);
        let id = machine.id.clone();
        match machine.start(moment, now) {
            Ok(()) => {
                self.watch.durable(&id, &self.hosts[host].acknowledged.hard_state)?;
                let last = self.hosts[host].issued.last();
                self.note(|| format!("{id} starts, its log ends at {last}"));
                self.turn(host)
            }
            Err(StartError::Refused(why)) => {
                self.note(|| format!("{id} refuses to start: {why}"));
                for kind in ["disk_full", "disk_error", "read_error", "bit_flip"] {
                    self.evidence.felt_at(kind, host);
                }
                self.hosts[host].die(Death::Killed, 0);
                self.start_later(host);
                Ok(())
            }
            Err(StartError::Broken(what)) => Err(what),
        }
    }

    /// As a supervisor of processes does.
    pub fn start_later(&mut self, host: usize) {
        let (least, most) = RESTART_AFTER;
        let after = self.hosts[host].dice.span(least, most);
        self.schedule(after, Due::Start(host));
    }

    /// A process ends without its doing. The others notice the reset of its connections, mostly, if the machine lives.
    pub fn die(&mut self, host: usize, death: Death, entropy: u64) {
        if self.hosts[host].alive.is_none() {
            return;
        }
        self.hosts[host].die(death, entropy);
        let id = self.hosts[host].id.clone();
        if death == Death::PowerCut {
            self.note(|| format!("{id} loses power"));
            return;
        }
        self.note(|| format!("{id} is dead"));
        for other in 0..self.hosts.len() {
            let dice = &mut self.hosts[host].dice;
            let (noticed, after) =
                (dice.chance(700_000), dice.span(Duration::from_millis(1), Duration::from_millis(20)));
            if other != host && noticed && !self.network.is_cut(host, other) {
                self.at_host(after, other, Event::Gone { node: id.clone() });
            }
        }
    }

    /// Freezes a host, as SIGSTOP does.
    pub fn pause(&mut self, host: usize, until: Micros) {
        let (since, now) = (self.hosts[host].paused.map(|(since, _)| since), self.now);
        self.hosts[host].paused = Some((since.unwrap_or(now), until));
    }

    /// Asks a host for something, as a client does; the answer comes to `answers`.
    pub fn ask(&mut self, host: usize, want: Want) -> AskId {
        self.ask_with(host, want, true)
    }

    /// As [`World::ask`]. Without `forward` the host says who leads instead of asking it.
    pub fn ask_with(&mut self, host: usize, want: Want, forward: bool) -> AskId {
        let ask = self.new_ask();
        self.at_host(Duration::ZERO, host, Event::Ask { ask, want, forward });
        ask
    }

    /// A request under a key that says how far clients have seen the log reach.
    pub fn keyed(&self, key: &str, command: Command) -> Request {
        Request::keyed(stamped(self.told_of, key), command)
    }

    pub(super) fn new_ask(&mut self) -> AskId {
        self.last_ask += 1;
        self.last_ask
    }

    /// What the wall clock of a host shows.
    pub(super) fn wall(&self, host: usize) -> UnixMillis {
        self.hosts[host].clock.wall(self.now)
    }

    /// Hosts whose process runs (or is frozen).
    pub fn living(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|host| self.hosts[*host].alive.is_some()).collect()
    }

    /// What the cluster is made of: the configuration that was committed last, or the one that it was founded with.
    pub fn members(&self) -> Configuration {
        self.watch.configuration().cloned().unwrap_or_else(|| Configuration {
            voters: self.common.founders.keys().cloned().collect(),
            ..Configuration::default()
        })
    }

    pub(super) fn at_host(&mut self, after: Duration, host: usize, event: Event) {
        let life = self.hosts[host].life;
        self.schedule(after, Due::Host { host, life, event });
    }

    /// Lets something happen at a host. `Err`: an invariant is broken.
    pub fn happen(&mut self, host: usize, life: u64, event: Event) -> Result<(), String> {
        if self.hosts[host].life != life || self.hosts[host].alive.is_none() {
            return Ok(());
        }
        self.trace.mark(&[self.now.0, host as u64, event.number()]);
        if let Some((since, until)) = self.hosts[host].paused {
            if self.now < until {
                self.evidence.felt_at("pause", host);
                let mut after = until.since(self.now);
                // What waited at different sockets is then taken in any order.
                if matches!(event, Event::Deliver { .. } | Event::Ask { .. }) {
                    after += self.hosts[host].dice.span(Duration::ZERO, UNORDERED_AFTER_PAUSE);
                }
                self.schedule(after, Due::Host { host, life, event });
                return Ok(());
            }
            self.hosts[host].paused = None;
            let machine = &mut self.hosts[host];
            let now = machine.clock.monotonic(self.now);
            let span = now.since(machine.clock.monotonic(since));
            if span < STALL {
                // Too short a stop to be noticed: the disk seems that much slower.
                machine.troubled_at = Some(self.now);
            } else {
                machine.stood_still(span, now);
                self.step(host, Input::Stalled(span))?;
            }
        }
        match event {
            Event::Wake => {
                // Another wake-up was asked for since, or this one was held up by a pause.
                if self.hosts[host].wake_at.is_none_or(|at| at > self.now) {
                    return Ok(());
                }
                self.hosts[host].wake_at = None;
                self.step(host, Input::Tick)
            }
            Event::Deliver { from, incarnation, bytes } => self.deliver(host, from, incarnation, &bytes),
            Event::DiskDone => self.disk_done(host, life),
            Event::Ask { ask, want, forward } => {
                self.step(host, Input::Ask { ask, want, forward, patience: PARKED_FOR })
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
            Event::Pong { bytes } => {
                let now = self.now;
                let gate = self.hosts[host].alive.as_mut().map(|alive| alive.gate.judge(&bytes, now));
                match gate {
                    Some(Judgement::Pong { member, seq, version }) => {
                        self.step(host, Input::AgentPong { member, seq, version })
                    }
                    Some(Judgement::Limited | Judgement::Junk) | None => Ok(()),
                }
            }
            Event::Gone { node } => self.step(host, Input::PeerGone { node }),
            Event::Project => self.project(host),
            Event::Answered { call, reply } => self.database_answered(host, call, *reply),
        }
    }

    fn deliver(&mut self, host: usize, from: usize, incarnation: u64, bytes: &[u8]) -> Result<(), String> {
        if self.is_cut_off(from, host) || self.hosts[from].incarnation != incarnation {
            return Ok(());
        }
        if self.refuses(host, from) {
            self.learn_bindings(host, from);
        }
        if self.refuses(host, from) || self.refuses(from, host) {
            return Ok(());
        }
        let said_by = self.hosts[from].settings.incarnation.clone();
        let frame: Frame = codec::decode(bytes).map_err(|error| format!("codec: {error}"))?;
        let (from, to) = (self.hosts[from].id.clone(), self.hosts[host].id.clone());
        self.detail(|| format!("{to} hears {from}: {}", tell::frame(&frame)));
        self.watch.heard(&self.hosts[host], &from, &frame, self.now);
        if let Some(alive) = self.hosts[host].alive.as_mut() {
            alive.reachable.insert(from.clone());
            if alive.met.insert((from.clone(), said_by.clone())) {
                let (node, url) = (from.clone(), format!("http://{from}"));
                self.step(host, Input::PeerMet { node, url, incarnation: said_by })?;
            }
        }
        self.step(host, Input::Frame { from, frame })
    }

    /// Whether a frame between two hosts is lost because their link is cut.
    fn is_cut_off(&mut self, from: usize, to: usize) -> bool {
        let acts = self.network.cut_by(from, to);
        for act in &acts {
            self.evidence.felt(*act);
        }
        !acts.is_empty()
    }

    /// Whether a host lets no process of another one's name speak for it but that of the disk that it knows.
    fn refuses(&self, host: usize, other: usize) -> bool {
        let (me, other) = (&self.hosts[host], &self.hosts[other]);
        let bound = me.alive.as_ref().and_then(|alive| alive.bound.get(&other.id));
        bound.is_some_and(|known| *known != other.settings.incarnation)
    }

    /// A host that refuses another is told by that one which data directories the log binds nodes to, and believes it if it
    /// knows more of the log.
    fn learn_bindings(&mut self, host: usize, other: usize) {
        let teacher = &self.hosts[other];
        let Some(told) = teacher.alive.as_ref().map(|alive| (alive.bound_as_of, alive.bound.clone())) else {
            return;
        };
        let speaks_for_itself = told.1.get(&teacher.id) == Some(&teacher.settings.incarnation);
        if let Some(alive) = self.hosts[host].alive.as_mut().filter(|alive| alive.bound_as_of < told.0)
            && speaks_for_itself
        {
            (alive.bound_as_of, alive.bound) = told;
        }
    }

    fn disk_done(&mut self, host: usize, life: u64) -> Result<(), String> {
        if let Some(until) = self.hosts[host].trouble.stuck_until.filter(|until| self.now < *until) {
            self.evidence.felt_at("disk_stuck", host);
            self.hosts[host].troubled_at = Some(until);
            self.schedule(until.since(self.now), Due::Host { host, life, event: Event::DiskDone });
            return Ok(());
        }
        match self.hosts[host].write()? {
            Wrote::Nothing => Ok(()),
            Wrote::Durable(seq, hard_states) => {
                let id = self.hosts[host].id.clone();
                hard_states.iter().try_for_each(|stored| self.watch.durable(&id, stored))?;
                self.detail(|| format!("{id}: its disk has batch {seq}"));
                self.step(host, Input::DiskRoom { full: false })?;
                self.step(host, Input::Persisted { seq })
            }
            Wrote::NoRoom => {
                self.at_host(ROOM_EVERY, host, Event::DiskDone);
                self.evidence.felt_at("disk_full", host);
                self.hosts[host].troubled_at = Some(self.now);
                self.step(host, Input::DiskRoom { full: true })
            }
            Wrote::Failed(why) => {
                let id = self.hosts[host].id.clone();
                self.note(|| format!("{id} stops: {why}"));
                self.evidence.felt_at("disk_error", host);
                self.die(host, Death::Killed, 0);
                self.start_later(host);
                Ok(())
            }
        }
    }

    fn step(&mut self, host: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let moment = self.hosts[host].moment(now);
        let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
        alive.node.step(moment, input);
        if alive.turn_scheduled {
            return Ok(());
        }
        // Like the driver, now and then it takes several inputs before it ends the batch.
        if self.hosts[host].dice.chance(BATCHED_PPM) {
            if let Some(alive) = self.hosts[host].alive.as_mut() {
                alive.turn_scheduled = true;
            }
            let after = self.hosts[host].dice.span(Duration::from_micros(10), Duration::from_millis(2));
            self.at_host(after, host, Event::Turn);
            return Ok(());
        }
        self.turn(host)
    }

    fn turn(&mut self, host: usize) -> Result<(), String> {
        self.steps += 1;
        let now = self.now;
        let (since, steps) = &mut self.hosts[host].busy;
        if now.since(*since) >= Duration::from_secs(1) {
            (*since, *steps) = (now, 0);
        }
        *steps += 1;
        if *steps > STEPS_MAX {
            return Err(format!("no rest: {} takes {STEPS_MAX} steps within a second", name(host)));
        }
        let moment = self.hosts[host].moment(now);
        if let Some(alive) = self.hosts[host].alive.as_mut() {
            alive.turn_scheduled = false;
        }
        let effects = self.hosts[host].take_effects(moment);
        // What the disk is given is looked at first: what is committed by this step stands in the log by now.
        let (writes, others): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Persist(_)));
        let wrote = !writes.is_empty();
        for effect in writes {
            self.carry_out(host, effect)?;
        }
        let machine = &self.hosts[host];
        let Some(alive) = machine.alive.as_ref() else { return Ok(()) };
        let status = alive.node.raft_status();
        self.trace.mark(&[status.term.0, status.commit.0, status.last.0]);
        self.watch.after_step(&self.hosts, machine, &status, &alive.configuration, self.now)?;
        let wake = alive.node.deadline(moment.now);
        let wake = machine.clock.world(wake).max(Micros(self.now.0 + 1));
        if wrote && let Some(alive) = self.hosts[host].alive.as_mut() {
            alive.configuration = status.configuration;
        }
        for effect in others {
            self.carry_out(host, effect)?;
        }
        self.projector_hears(host);
        if self.hosts[host].wake_at.is_none_or(|at| wake < at) {
            self.hosts[host].wake_at = Some(wake);
            self.at_host(wake.since(self.now), host, Event::Wake);
        }
        Ok(())
    }

    fn carry_out(&mut self, host: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Persist(batch) => {
                let head = Persist { entries: Vec::new(), hard_state: batch.hard_state.clone(), ..batch };
                self.hosts[host].issued.record(&head);
                self.watch.issued(&self.hosts, &self.hosts[host], &batch)?;
                let machine = &mut self.hosts[host];
                machine.issued.record(&batch);
                let local = machine.clock.monotonic(self.now);
                let (after, slow) = machine.write_takes();
                if let Some(alive) = machine.alive.as_mut() {
                    alive.writing.push_back((local, batch));
                }
                if slow {
                    self.evidence.felt_at("disk_slow", host);
                    self.hosts[host].troubled_at = Some(self.now);
                }
                self.at_host(after, host, Event::DiskDone);
            }
            Effect::Send { to, frame } => {
                self.watch.said(&self.hosts[host], &to, &frame, self.now)?;
                self.send(host, &to, &frame);
            }
            Effect::Ping(AgentPing { member, address: _, key, seq }) => {
                let loss = self.network.loss_ppm();
                let dice = &mut self.hosts[host].dice;
                let silent = self.silent_agents.contains_key(&member);
                let lost = silent || dice.chance(loss);
                let after = dice.span(Duration::from_micros(200), Duration::from_millis(8));
                if silent {
                    self.evidence.felt_at("agent_silent", host);
                }
                let now = self.now;
                let ping = self.hosts[host]
                    .alive
                    .as_mut()
                    .map(|alive| alive.gate.ping((&member, &key), seq, IntervalId(0), now));
                if let Some(ping) = ping.filter(|_| !lost)
                    && let Some(bytes) = self.fleet.hear(&member, &ping, now)
                {
                    self.at_host(after, host, Event::Pong { bytes });
                }
            }
            Effect::SetBook(book) => {
                if let Some(alive) = self.hosts[host].alive.as_mut() {
                    alive.reachable.extend(book.nodes.into_keys());
                    if book.as_of >= alive.bound_as_of {
                        alive.bound_as_of = book.as_of;
                        alive.bound = book.incarnations;
                    }
                }
            }
            Effect::Apply(entries) => {
                self.watch.committed(&self.hosts[host].id, &entries)?;
                self.job(host, Job::Apply(entries));
            }
            Effect::Export(part) => self.job(host, Job::Export(part)),
            Effect::CloseExport { transfer } => self.job(host, Job::CloseExport(transfer)),
            Effect::Install(received) => self.job(host, Job::Install(received)),
            Effect::Reply { ask, outcome } => {
                if let Outcome::Write(Ok(applied)) = &outcome {
                    self.told_of = self.told_of.max(applied.index);
                }
                if let Some(bound) = tell::bound(&outcome) {
                    self.meet(bound, 1);
                }
                self.answers.push(Answered { ask, host, outcome });
            }
            Effect::Tell(notice) => self.tell(host, &notice)?,
        }
        Ok(())
    }

    fn tell(&mut self, host: usize, notice: &Notice) -> Result<(), String> {
        self.watch.notice(&self.hosts[host], notice, self.now)?;
        let id = self.hosts[host].id.clone();
        match tell::notice(notice) {
            Some(Weight::Main) => self.note(|| format!("{id} {}", tell::words(notice))),
            Some(Weight::Detail) => self.detail(|| format!("{id} {}", tell::words(notice))),
            None => {}
        }
        Ok(())
    }

    /// Hands a job to the apply thread, which takes one after the other.
    fn job(&mut self, host: usize, job: Job) {
        let most = match job {
            Job::Apply(_) | Job::CloseExport(_) => Duration::from_micros(500),
            Job::Flush | Job::Export(_) => Duration::from_millis(5),
            Job::Install(ref received) if !received.last => Duration::from_millis(5),
            // A whole state is written and synced; much else may happen meanwhile.
            Job::Install(_) => Duration::from_millis(400),
        };
        let takes = self.hosts[host].dice.span(Duration::from_micros(10), most);
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
                let chunk =
                    alive.applier.export(&part).map_err(|error| format!("storage: export: {error}"))?;
                let (to, transfer) = (part.to, part.transfer);
                self.result(host, Input::Exported { to, transfer, chunk: chunk.map(Box::new) });
            }
            Job::CloseExport(transfer) => alive.applier.close_export(transfer),
            Job::Install(received) => self.install(host, received)?,
            Job::Flush => {
                let index = alive.applier.flush().map_err(|error| format!("storage: flush: {error}"))?;
                self.hosts[host].flushed = index;
                self.result(host, Input::Flushed { index });
            }
        }
        Ok(())
    }

    fn install(&mut self, host: usize, mut received: Box<Received>) -> Result<(), String> {
        let Some(alive) = self.hosts[host].alive.as_mut() else { return Ok(()) };
        let (base, parts) = (received.base, u64::from(received.parts));
        let intake =
            alive.applier.install(&mut received).map_err(|error| format!("storage: install: {error}"))?;
        if matches!(intake, Intake::Replaced(_)) {
            self.installed += 1;
            *self.met.entry("parts of a snapshot").or_default() += parts.saturating_sub(1);
            self.hosts[host].flushed = base.index;
            self.hosts[host].flushed_term = base.term;
            self.hosts[host].state_lost = false;
            self.watch.installed(&self.hosts[host], base)?;
        }
        self.result(host, Input::Installed { snapshot: received, intake });
        // The worst moment: the state is replaced, and the log does not know.
        if self.worst_moments && self.hosts[host].dice.chance(200_000) {
            let entropy = self.hosts[host].dice.word();
            let death = if entropy & 1 == 0 { Death::Killed } else { Death::PowerCut };
            self.die(host, death, entropy >> 1);
            self.start_later(host);
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
                .map_err(|error| format!("storage: apply at {}: {error}", entry.index))?;
            let Some(batch) = batch else { continue };
            self.watch.applied(&self.hosts[host], entry, &batch)?;
            for happening in &batch.happenings {
                if let Happening::NodeSeen { node, .. } = happening {
                    self.bound.insert(node.clone(), entry.index);
                }
            }
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
        let fate = self.network.fate(host, to);
        if self.hosts[to].alive.is_none() || self.is_cut_off(host, to) {
            return;
        }
        for kind in fate.met.into_iter().flatten() {
            self.evidence.felt_at(kind, host);
        }
        let incarnation = self.hosts[host].incarnation;
        for after in fate.copies.into_iter().flatten() {
            let bytes = codec::encode(frame);
            self.at_host(after, to, Event::Deliver { from: host, incarnation, bytes });
        }
    }
}
