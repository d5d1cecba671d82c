//! A world of pure cores: machines with disks, clocks of their own, a network that loses, doubles and delays, clients
//! that write, read and change the membership, and faults. Everything follows from a seed. What must never happen is checked
//! where it would (`checks`); what goes wrong on purpose is in `faults`.

mod checks;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::time::Duration;

use super_node::raft::{
    Base, Config, Configuration, Effect, Entry, Event, Input, Message, Payload, Persist, Raft, Recovered,
    StepDown,
};
use super_node::types::{Index, Micros, NodeId, Term};

/// SplitMix64: the whole history follows from the seed.
pub struct Random(u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

pub enum Happening {
    Wake { node: usize, run: u64 },
    Deliver { from: usize, to: usize, message: Message },
    Synced { node: usize, run: u64 },
    SnapshotArrives { from: usize, from_run: u64, to: usize, base: Base, lost: bool },
    Client,
    Asked { node: usize, input: Input },
    Fault,
    Restart { node: usize },
}

/// A read under way.
pub struct Read {
    /// What it must see at least.
    least: Index,
    /// Whether the lease may answer it.
    lease: bool,
}

pub struct Machine {
    pub raft: Option<Raft>,
    run: u64,
    config: Config,
    /// What survives a crash.
    disk: Recovered,
    /// Handed to the disk, not yet synced.
    queue: Vec<Persist>,
    /// The disk does nothing before.
    disk_hangs_until: u64,
    /// The process does nothing before.
    stopped_until: u64,
    /// How fast its clock goes, in parts per million, and where it began.
    clock: (i64, u64),
    /// The log as the core has it in memory, by its own batches.
    log: Recovered,
    /// The state: which entries were applied is in the world's book; a machine only knows how far.
    pub applied: Base,
    applied_durably: Base,
    /// The configuration with which it was set up.
    first: Configuration,
    reads: BTreeMap<u64, Read>,
    commit: Index,
    /// When it will be woken next.
    wake_at: u64,
}

/// What a history was about: one in which nothing happened proves nothing.
#[derive(Default, Debug)]
pub struct Seen {
    pub elections: u64,
    pub crashes: u64,
    pub reads: u64,
    pub leased: u64,
    pub snapshots: u64,
    pub truncations: u64,
    pub committed: u64,
    pub reconciled: u64,
    pub changes: u64,
    pub rolled_back: u64,
    pub promotions: u64,
    pub replacements: u64,
    pub removed: u64,
    pub transferred: u64,
    pub transfers_aborted: u64,
    pub degraded: u64,
    pub stuck: u64,
}

impl Seen {
    /// Every count, with its name.
    fn counts(&mut self) -> [(&'static str, &mut u64); 17] {
        [
            ("elections", &mut self.elections),
            ("crashes", &mut self.crashes),
            ("reads", &mut self.reads),
            ("leased reads", &mut self.leased),
            ("snapshots", &mut self.snapshots),
            ("truncations", &mut self.truncations),
            ("committed", &mut self.committed),
            ("reconciled", &mut self.reconciled),
            ("changes", &mut self.changes),
            ("changes rolled back", &mut self.rolled_back),
            ("promotions", &mut self.promotions),
            ("replacements", &mut self.replacements),
            ("leaders removed", &mut self.removed),
            ("transfers", &mut self.transferred),
            ("transfers given up", &mut self.transfers_aborted),
            ("degraded disks", &mut self.degraded),
            ("stuck leaders", &mut self.stuck),
        ]
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, mut other: Seen) {
        for ((_, total), (_, more)) in self.counts().into_iter().zip(other.counts()) {
            *total += *more;
        }
    }
}

impl IntoIterator for Seen {
    type Item = (&'static str, u64);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.counts().map(|(what, count)| (what, *count)).to_vec().into_iter()
    }
}

/// How a world begins.
pub struct Plan {
    pub seed: u64,
    pub voters: usize,
    pub learners: usize,
    /// Machines that wait to be added.
    pub spare: usize,
    /// Messages lost, in percent.
    pub loss: u64,
    pub lease: Option<Duration>,
    /// For how long followers are loyal, if not for the shortest election timeout.
    pub promise: Option<Duration>,
    /// Whether leaders save messages, and the shortest wait before they repeat one.
    pub thrift: Option<Duration>,
    /// Which nodes would rather not lead.
    pub reluctant: BTreeSet<usize>,
    /// Whether anything goes wrong by itself.
    pub faults: bool,
    /// The longest pause of the clients, in microseconds.
    pub pause_max: u64,
}

pub struct World {
    pub seed: u64,
    random: Random,
    pub now: u64,
    order: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    pub machines: Vec<Machine>,
    pub cut: BTreeSet<(usize, usize)>,
    loss: u64,
    pub faults: bool,
    pause_max: u64,
    requests: u64,
    leaders: BTreeMap<Term, usize>,
    votes: BTreeMap<(usize, Term), NodeId>,
    pub book: BTreeMap<Index, Entry>,
    /// In which term each entry of the book was committed.
    committed_in: BTreeMap<Index, Term>,
    pub seen: Seen,
}

pub fn name(node: usize) -> NodeId {
    format!("n{node}").parse().expect("a valid name")
}

pub fn number(id: &NodeId) -> usize {
    id.as_str()[1..].parse().expect("a number")
}

impl World {
    pub fn new(plan: Plan) -> World {
        let Plan {
            seed,
            voters,
            learners,
            spare,
            loss,
            lease,
            promise,
            thrift,
            reluctant,
            faults,
            pause_max,
        } = plan;
        let mut random = Random(seed);
        let configuration = Configuration {
            voters: (0..voters).map(name).collect(),
            learners: (voters..voters + learners).map(name).collect(),
            ..Configuration::default()
        };
        let mut machine = |node: usize| Machine {
            raft: None,
            run: 0,
            config: Config {
                id: name(node),
                append_bytes_max: 300,
                append_messages_max: 4,
                uncommitted_bytes_max: 4_000,
                lease,
                promise,
                thrift,
                reluctant: reluctant.contains(&node),
                ..Config::default()
            },
            disk: Recovered::default(),
            queue: Vec::new(),
            disk_hangs_until: 0,
            stopped_until: 0,
            // Two clocks differ by 6 % at most; a lease bears 10 %.
            clock: (random.below(60_000) as i64 - 30_000, random.below(1_000_000)),
            log: Recovered::default(),
            applied: Base::default(),
            applied_durably: Base::default(),
            first: if node < voters + learners { configuration.clone() } else { Configuration::default() },
            reads: BTreeMap::new(),
            commit: Index(0),
            wake_at: 0,
        };
        let mut world = World {
            seed,
            machines: (0..voters + learners + spare).map(&mut machine).collect(),
            random,
            now: 0,
            order: 0,
            agenda: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss,
            faults,
            pause_max,
            requests: 0,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            book: BTreeMap::new(),
            committed_in: BTreeMap::new(),
            seen: Seen::default(),
        };
        for node in 0..world.machines.len() {
            world.start(node);
        }
        world.plan(1_000, Happening::Client);
        world.plan(100_000, Happening::Fault);
        world
    }

    fn plan(&mut self, after: u64, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now + after, self.order), happening);
    }

    /// What a machine's clock says.
    fn clock(&self, node: usize) -> Micros {
        let (rate, began) = self.machines[node].clock;
        Micros(began + (self.now as i64 + self.now as i64 * rate / 1_000_000) as u64)
    }

    /// In how much time, by the world's clock, a machine's clock says `at`. At least 1.
    fn time_until(&self, node: usize, at: Micros) -> u64 {
        let ahead = at.0.saturating_sub(self.clock(node).0);
        let (rate, _) = self.machines[node].clock;
        (ahead * 1_000_000).div_ceil((1_000_000 + rate) as u64).max(1)
    }

    /// The configuration as of `index`, as a state that was applied up to there knows it.
    fn configuration_as_of(&self, node: usize, index: Index) -> Configuration {
        let mut entries = self.book.range(..=index).rev();
        let newest = entries.find_map(|(_, entry)| match &entry.payload {
            Payload::Configuration(configuration) => Some(configuration.clone()),
            Payload::Noop | Payload::Command(_) => None,
        });
        // A node that joined later got its state, if it has one, from somebody who was there from the beginning.
        let first = if index > Index(0) { &self.machines[0].first } else { &self.machines[node].first };
        newest.unwrap_or(first.clone())
    }

    fn start(&mut self, node: usize) {
        let (entropy, now) = (self.random.word(), self.clock(node));
        let applied = self.machines[node].applied_durably;
        // A node that has installed nothing and applied nothing knows what it was set up with.
        let configuration = if self.machines[node].first.is_empty() && applied == Base::default() {
            Configuration::default()
        } else {
            self.configuration_as_of(node, applied.index)
        };
        let machine = &mut self.machines[node];
        machine.run += 1;
        machine.wake_at = 0;
        machine.applied = applied;
        let repeat = machine.disk.agree_with(applied);
        machine.log = machine.disk.clone();
        let (config, disk) = (machine.config.clone(), machine.disk.clone());
        let mut raft = Raft::new(config, configuration.clone(), disk, applied.index, now, entropy)
            .expect("a recoverable log");
        if repeat {
            self.seen.reconciled += 1;
            raft.step(now, entropy, Input::SnapshotInstalled { base: applied, configuration });
        }
        let machine = &mut self.machines[node];
        machine.commit = applied.index;
        machine.raft = Some(raft);
        self.collect(node);
    }

    fn step(&mut self, node: usize, input: Input) {
        let entropy = self.random.word();
        let now = self.clock(node);
        let Some(raft) = &mut self.machines[node].raft else { return };
        raft.step(now, entropy, input);
        // What a leader commits, it commits under the configuration of this step; the next step may change it.
        if raft.leads().is_some() {
            self.check_commit(node);
        }
        // A batch may hold several inputs.
        if self.random.percent(80) {
            self.collect(node);
        } else {
            self.wake(node, 100);
        }
    }

    /// One input, as a batch of its own.
    pub fn do_now(&mut self, node: usize, input: Input) {
        self.step(node, input);
        self.collect(node);
    }

    fn wake(&mut self, node: usize, after: u64) {
        let run = self.machines[node].run;
        self.plan(after, Happening::Wake { node, run });
    }

    fn collect(&mut self, node: usize) {
        let now = self.clock(node);
        let Some(raft) = &mut self.machines[node].raft else { return };
        let effects = raft.take_effects(now);
        let deadline = raft.deadline();
        let (writes, others): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Persist(_)));
        writes.into_iter().for_each(|effect| self.carry_out(node, effect));
        self.check_commit(node);
        others.into_iter().for_each(|effect| self.carry_out(node, effect));
        if deadline.0 == u64::MAX {
            return;
        }
        let after = self.time_until(node, deadline);
        let (at, machine) = (self.now + after, &mut self.machines[node]);
        if !(self.now < machine.wake_at && machine.wake_at <= at) {
            machine.wake_at = at;
            self.wake(node, after);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist(batch) => self.persist(node, batch),
            Effect::Send { to, message } => self.send(node, number(&to), message),
            Effect::Apply { entries } => self.apply(node, entries),
            Effect::ReadReady { request, index } => {
                let read = self.machines[node].reads.remove(&request).expect("a read that was asked for");
                let least = read.least;
                assert!(index >= least, "a read at {index} misses what was committed at {least}");
                self.seen.reads += 1;
                self.seen.leased += u64::from(read.lease && self.leases(node));
            }
            Effect::Refused { request, .. } => {
                self.machines[node].reads.remove(&request);
            }
            Effect::SendSnapshot { to } => {
                let (from, to) = (node, number(&to));
                let machine = &self.machines[node];
                let (base, from_run) = (machine.applied, machine.run);
                let lost = self.faults && self.random.percent(20);
                let after = 1_000 + self.random.below(50_000);
                self.plan(after, Happening::SnapshotArrives { from, from_run, to, base, lost });
            }
            Effect::Event(event) => self.notice(node, &event),
            Effect::Proposed { .. } | Effect::Transferring { .. } => {}
        }
    }

    /// Whether a machine has a lease and is not alone: then nobody had to answer a read.
    fn leases(&self, node: usize) -> bool {
        let status = self.machines[node].raft.as_ref().map(Raft::status);
        status.is_some_and(|status| status.lease_until.is_some() && status.configuration.voters.len() > 1)
    }

    fn notice(&mut self, node: usize, event: &Event) {
        let seen = &mut self.seen;
        match event {
            Event::BecameLeader { term, .. } => self.became_leader(node, *term),
            Event::SteppedDown { reason, .. } => match reason {
                StepDown::Removed => seen.removed += 1,
                StepDown::DiskStuck => seen.stuck += 1,
                StepDown::Transferred => seen.transferred += 1,
                StepDown::HigherTerm | StepDown::QuorumLost => {}
            },
            Event::TransferAborted { .. } => seen.transfers_aborted += 1,
            Event::DiskDegraded { .. } => seen.degraded += 1,
            Event::LearnerPromoted { replaces, .. } => {
                seen.promotions += 1;
                seen.replacements += u64::from(replaces.is_some());
            }
            Event::ElectionStarted { .. }
            | Event::VoteCast { .. }
            | Event::FollowsLeader { .. }
            | Event::ElectionLost { .. }
            | Event::TransferStarted { .. }
            | Event::DiskRecovered
            | Event::ConfigurationChanged { .. } => {}
        }
    }

    fn persist(&mut self, node: usize, batch: Persist) {
        let machine = &mut self.machines[node];
        let first = batch.entries.first().map(|entry| entry.index);
        let overwritten =
            machine.log.entries.iter().filter(|entry| first.is_some_and(|first| entry.index >= first));
        let (mut overwrites, mut changes) = (false, false);
        for entry in overwritten {
            overwrites = true;
            changes |= matches!(entry.payload, Payload::Configuration(_));
        }
        self.seen.truncations += u64::from(overwrites && batch.base.is_none());
        self.seen.rolled_back += u64::from(changes && batch.base.is_none());
        let term_before = machine.log.hard_state.term;
        machine.log.record(&batch);
        assert!(machine.log.hard_state.term >= term_before, "the term went back");
        machine.queue.push(batch);
        let run = machine.run;
        let slow = self.faults && self.random.percent(3);
        let after = 50 + self.random.below(if slow { 300_000 } else { 3_000 });
        self.plan(after, Happening::Synced { node, run });
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.check_message(from, to, &message);
        let copies = 1 + usize::from(self.faults && self.random.percent(5));
        for _ in 0..copies {
            if self.faults && self.random.percent(self.loss) || self.cut.contains(&(from, to)) {
                continue;
            }
            let slow = self.faults && self.random.percent(3);
            let after = 50 + self.random.below(if slow { 400_000 } else { 4_000 });
            self.plan(after, Happening::Deliver { from, to, message: message.clone() });
        }
    }

    fn apply(&mut self, node: usize, entries: Vec<Entry>) {
        let lazily = self.random.percent(30);
        let machine = &mut self.machines[node];
        for entry in entries {
            assert_eq!(entry.index, machine.applied.index.next(), "applied out of order");
            assert!(machine.disk.term_at(entry.index) == Some(entry.term), "applied before durable");
            assert_eq!(self.book.get(&entry.index), Some(&entry), "applied what was not committed");
            machine.applied = Base { index: entry.index, term: entry.term };
        }
        if lazily {
            machine.applied_durably = machine.applied;
        }
    }

    fn happen(&mut self, happening: Happening) {
        // What happens to a process that stands still happens to it later.
        let stopped = match &happening {
            Happening::Wake { node, .. }
            | Happening::Deliver { to: node, .. }
            | Happening::Asked { node, .. }
            | Happening::Synced { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(until) = stopped.map(|node| self.machines[node].stopped_until)
            && until > self.now
        {
            return self.plan(until - self.now, happening);
        }
        match happening {
            Happening::Wake { node, run } => {
                let machine = &self.machines[node];
                if machine.run == run && machine.raft.is_some() {
                    self.wake_up(node);
                }
            }
            Happening::Deliver { from, to, message } => {
                self.step(to, Input::Message { from: name(from), message });
            }
            Happening::Synced { node, run } => self.synced(node, run),
            Happening::SnapshotArrives { from, from_run, to, base, lost } => {
                let installed = !lost && self.install(to, base);
                if self.machines[from].run == from_run {
                    let index = installed.then_some(base.index);
                    self.step(from, Input::SnapshotSent { to: name(to), index });
                }
            }
            Happening::Asked { node, input } => self.asked(node, input),
            Happening::Client => self.client(),
            Happening::Fault => self.fault(),
            Happening::Restart { node } => {
                if self.machines[node].raft.is_none() {
                    self.start(node);
                }
            }
        }
    }

    fn synced(&mut self, node: usize, run: u64) {
        let machine = &mut self.machines[node];
        if machine.run != run || machine.raft.is_none() || machine.queue.is_empty() {
            return;
        }
        if machine.disk_hangs_until > self.now {
            let after = machine.disk_hangs_until - self.now;
            return self.plan(after, Happening::Synced { node, run });
        }
        let batch = machine.queue.remove(0);
        machine.disk.record(&batch);
        self.step(node, Input::Persisted { seq: batch.seq });
    }

    fn wake_up(&mut self, node: usize) {
        let now = self.clock(node);
        let due = self.machines[node].raft.as_ref().is_some_and(|raft| raft.deadline() <= now);
        match due {
            true => self.do_now(node, Input::Tick),
            false => self.collect(node),
        }
    }

    fn install(&mut self, node: usize, base: Base) -> bool {
        self.collect(node);
        let machine = &mut self.machines[node];
        if machine.raft.is_none() || base.index <= machine.applied.index {
            return false;
        }
        (machine.applied, machine.applied_durably) = (base, base);
        self.seen.snapshots += 1;
        let configuration = self.configuration_as_of(node, base.index);
        if self.faults && self.random.percent(20) {
            self.crash(node);
        } else {
            self.step(node, Input::SnapshotInstalled { base, configuration });
        }
        true
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span.as_micros() as u64;
        let mut events = 0_u64;
        while let Some(next) = self.agenda.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), happening) = next.remove_entry();
            self.now = at;
            self.happen(happening);
            events += 1;
            if events.is_multiple_of(if self.faults { 256 } else { 4_096 }) {
                self.check_log_matching();
            }
        }
        self.now = end;
        self.check_log_matching();
    }
}

/// Prints the command that repeats a history, if it fails.
pub struct Announce(pub String);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("reproduce: {}", self.0);
        }
    }
}
