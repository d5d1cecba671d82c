//! Claim: whatever the network loses, doubles and delays, and whatever a crash takes that was not synced, no two
//! nodes lead one term, logs match, leaders are complete, and what is committed sits on a quorum of disks and never
//! changes; and once the faults end, the cluster serves again.
//!
//! A failure names its seed: `RAFT_SEED=17 cargo test --test raft_random` runs that history alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super_node::raft::{
    Base, Body, Config, Configuration, Effect, ElectionReason, Entry, Event, Input, Message, Persist, Raft,
    Recovered, Role,
};
use super_node::types::{Index, Micros, NodeId, Term};

/// SplitMix64: the whole history follows from the seed.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

enum Happening {
    Wake { node: usize, run: u64 },
    Deliver { from: usize, to: usize, message: Message },
    Synced { node: usize, run: u64 },
    SnapshotArrives { from: usize, from_run: u64, to: usize, base: Base, lost: bool },
    Client,
    Fault,
    Restart { node: usize },
}

struct Machine {
    raft: Option<Raft>,
    run: u64,
    /// What survives a crash.
    disk: Recovered,
    /// Handed to the disk, not yet synced.
    queue: Vec<Persist>,
    /// The log as the core has it in memory, by its own batches.
    log: Recovered,
    /// The state: which entries were applied is in the world's book; a machine only knows how far.
    applied: Base,
    applied_durably: Base,
    /// Reads under way, each with what it must see at least.
    reads: BTreeMap<u64, Index>,
    commit: Index,
    /// When it will be woken next.
    wake_at: u64,
}

#[derive(Default, Debug)]
struct Seen {
    elections: u64,
    crashes: u64,
    reads: u64,
    snapshots: u64,
    truncations: u64,
    committed: u64,
    reconciled: u64,
}

struct World {
    seed: u64,
    random: Random,
    now: u64,
    order: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    configuration: Configuration,
    machines: Vec<Machine>,
    cut: BTreeSet<(usize, usize)>,
    loss: u64,
    faults: bool,
    requests: u64,
    leaders: BTreeMap<Term, usize>,
    votes: BTreeMap<(usize, Term), NodeId>,
    book: BTreeMap<Index, Entry>,
    seen: Seen,
}

fn name(node: usize) -> NodeId {
    format!("n{node}").parse().expect("a valid name")
}

fn number(id: &NodeId) -> usize {
    id.as_str()[1..].parse().expect("a number")
}

impl World {
    fn new(seed: u64) -> World {
        let (voters, learners) = [(3, 0), (5, 0), (3, 1), (1, 0), (3, 0), (5, 1)][(seed % 6) as usize];
        let configuration = Configuration {
            voters: (0..voters).map(name).collect(),
            learners: (voters..voters + learners).map(name).collect(),
            ..Configuration::default()
        };
        let machine = || Machine {
            raft: None,
            run: 0,
            disk: Recovered::default(),
            queue: Vec::new(),
            log: Recovered::default(),
            applied: Base::default(),
            applied_durably: Base::default(),
            reads: BTreeMap::new(),
            commit: Index(0),
            wake_at: 0,
        };
        let mut world = World {
            seed,
            random: Random(seed),
            now: 0,
            order: 0,
            agenda: BTreeMap::new(),
            configuration,
            machines: (0..voters + learners).map(|_| machine()).collect(),
            cut: BTreeSet::new(),
            loss: [0, 2, 10, 25][(seed / 6 % 4) as usize],
            faults: true,
            requests: 0,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            book: BTreeMap::new(),
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

    fn start(&mut self, node: usize) {
        let (entropy, now) = (self.random.word(), Micros(self.now));
        let configuration = self.configuration.clone();
        let machine = &mut self.machines[node];
        let config = Config {
            id: name(node),
            append_bytes_max: 300,
            append_messages_max: 4,
            uncommitted_bytes_max: 4_000,
            ..Config::default()
        };
        machine.run += 1;
        machine.wake_at = 0;
        machine.applied = machine.applied_durably;
        let repeat = machine.disk.agree_with(machine.applied);
        machine.log = machine.disk.clone();
        let mut raft = Raft::new(
            config,
            configuration.clone(),
            machine.disk.clone(),
            machine.applied.index,
            now,
            entropy,
        )
        .expect("a recoverable log");
        if repeat {
            self.seen.reconciled += 1;
            raft.step(now, entropy, Input::SnapshotInstalled { base: machine.applied, configuration });
        }
        machine.commit = machine.applied.index;
        machine.raft = Some(raft);
        self.collect(node);
    }

    fn crash(&mut self, node: usize) {
        self.seen.crashes += 1;
        let written = self.random.below(self.machines[node].queue.len() as u64 + 1) as usize;
        let machine = &mut self.machines[node];
        machine.raft = None;
        machine.reads.clear();
        // Some of what was not confirmed may have reached the disk all the same.
        for batch in machine.queue.drain(..).take(written) {
            machine.disk.record(&batch);
        }
        if self.random.percent(50) {
            for other in 0..self.machines.len() {
                let silent = Input::PeerSilent { node: name(node), reason: ElectionReason::ConnectionLost };
                self.step(other, silent);
            }
        }
        let after = 10_000 + self.random.below(600_000);
        self.plan(after, Happening::Restart { node });
    }

    fn step(&mut self, node: usize, input: Input) {
        let entropy = self.random.word();
        let now = Micros(self.now);
        let Some(raft) = &mut self.machines[node].raft else { return };
        raft.step(now, entropy, input);
        // A batch may hold several inputs.
        if self.random.percent(80) {
            self.collect(node);
        } else {
            self.wake(node, 100);
        }
    }

    fn wake(&mut self, node: usize, after: u64) {
        let run = self.machines[node].run;
        self.plan(after, Happening::Wake { node, run });
    }

    fn collect(&mut self, node: usize) {
        let Some(raft) = &mut self.machines[node].raft else { return };
        let effects = raft.take_effects(Micros(self.now));
        let deadline = raft.deadline();
        let (writes, others): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Persist(_)));
        writes.into_iter().for_each(|effect| self.carry_out(node, effect));
        self.check_commit(node);
        others.into_iter().for_each(|effect| self.carry_out(node, effect));
        let machine = &mut self.machines[node];
        let at = deadline.0.max(self.now + 1);
        if deadline.0 < u64::MAX && !(self.now < machine.wake_at && machine.wake_at <= at) {
            machine.wake_at = at;
            self.wake(node, at - self.now);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist(batch) => self.persist(node, batch),
            Effect::Send { to, message } => self.send(node, number(&to), message),
            Effect::Apply { entries } => self.apply(node, entries),
            Effect::ReadReady { request, index } => {
                let least = self.machines[node].reads.remove(&request).expect("a read that was asked for");
                assert!(index >= least, "a read at {index} misses what was committed at {least}");
                self.seen.reads += 1;
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
            Effect::Event(Event::BecameLeader { term, .. }) => self.became_leader(node, term),
            Effect::Proposed { .. } | Effect::Transferring { .. } | Effect::Event(_) => {}
        }
    }

    fn persist(&mut self, node: usize, batch: Persist) {
        let machine = &mut self.machines[node];
        let overwrites = batch.entries.first().is_some_and(|entry| entry.index <= machine.log.last());
        self.seen.truncations += u64::from(overwrites && batch.base.is_none());
        let term_before = machine.log.hard_state.term;
        machine.log.record(&batch);
        assert!(machine.log.hard_state.term >= term_before, "the term went back");
        machine.queue.push(batch);
        let run = machine.run;
        let slow = self.random.percent(3);
        let after = 50 + self.random.below(if slow { 300_000 } else { 3_000 });
        self.plan(after, Happening::Synced { node, run });
    }

    /// What a message says must be true of the sender's disk, not only of its memory.
    fn send(&mut self, from: usize, to: usize, message: Message) {
        let disk = &self.machines[from].disk;
        assert!(message.term <= disk.hard_state.term, "a term was revealed before it was durable");
        assert!(message.is_well_formed(), "{message:?}");
        match &message.body {
            Body::AppendAccepted { matched, .. } => {
                assert!(*matched <= disk.last(), "acknowledged {matched}, durable {}", disk.last());
            }
            Body::VoteResponse { granted: true } => {
                let vote = self.votes.entry((from, message.term)).or_insert_with(|| name(to));
                assert_eq!(*vote, name(to), "two votes in one term");
                assert_eq!(disk.hard_state.vote, Some(name(to)), "a vote that is not on disk");
            }
            _ => {}
        }
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

    fn became_leader(&mut self, node: usize, term: Term) {
        self.seen.elections += 1;
        let first = *self.leaders.entry(term).or_insert(node);
        assert_eq!(first, node, "two leaders in term {term}");
        let log = &self.machines[node].log;
        for (index, entry) in self.book.range(log.base.index.next()..) {
            assert_eq!(log.entry(*index), Some(entry), "the leader of {term} lacks a committed entry");
        }
    }

    /// Whatever a node takes for committed: enters the book once, must be on a quorum of disks then, and never differs.
    fn check_commit(&mut self, node: usize) {
        let machine = &self.machines[node];
        let Some(raft) = &machine.raft else { return };
        let commit = raft.status().commit;
        assert!(commit >= machine.commit, "the commit index went back");
        for index in (machine.commit.0 + 1..=commit.0).map(Index) {
            let Some(entry) = machine.log.entry(index).cloned() else {
                assert!(index <= machine.log.base.index, "committed beyond the log");
                continue;
            };
            if let Some(known) = self.book.get(&index) {
                assert_eq!(*known, entry, "a committed entry changed");
                continue;
            }
            let holds = |id: &&NodeId| {
                let disk = &self.machines[number(id)].disk;
                index <= disk.base.index || disk.entry(index) == Some(&entry)
            };
            let held = self.configuration.voters.iter().filter(holds).count();
            assert!(2 * held > self.configuration.voters.len(), "{index} committed on {held} disks");
            self.book.insert(index, entry);
            self.seen.committed += 1;
        }
        self.machines[node].commit = commit;
    }

    fn check_log_matching(&self) {
        for (position, left) in self.machines.iter().enumerate() {
            for right in &self.machines[position + 1..] {
                let (left, right) = (&left.log, &right.log);
                let from = left.base.index.max(right.base.index).next();
                let to = left.last().min(right.last());
                let pair = |index: u64| (left.entry(Index(index)), right.entry(Index(index)));
                let equal = |index: &u64| left.term_at(Index(*index)) == right.term_at(Index(*index));
                let agree = (from.0..=to.0).rev().find(equal).unwrap_or(0);
                for index in from.0..=agree {
                    assert_eq!(pair(index).0, pair(index).1, "logs differ before a place where they agree");
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
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
            Happening::Synced { node, run } => {
                let machine = &mut self.machines[node];
                if machine.run == run && machine.raft.is_some() && !machine.queue.is_empty() {
                    let batch = machine.queue.remove(0);
                    machine.disk.record(&batch);
                    self.step(node, Input::Persisted { seq: batch.seq });
                }
            }
            Happening::SnapshotArrives { from, from_run, to, base, lost } => {
                let installed = !lost && self.install(to, base);
                if self.machines[from].run == from_run {
                    let index = installed.then_some(base.index);
                    self.step(from, Input::SnapshotSent { to: name(to), index });
                }
            }
            Happening::Client => self.client(),
            Happening::Fault => self.fault(),
            Happening::Restart { node } => {
                if self.machines[node].raft.is_none() {
                    self.start(node);
                }
            }
        }
    }

    fn wake_up(&mut self, node: usize) {
        let due = self.machines[node].raft.as_ref().is_some_and(|raft| raft.deadline().0 <= self.now);
        if due {
            let (now, entropy) = (Micros(self.now), self.random.word());
            let raft = self.machines[node].raft.as_mut().expect("it runs");
            raft.step(now, entropy, Input::Tick);
        }
        self.collect(node);
    }

    fn install(&mut self, node: usize, base: Base) -> bool {
        self.collect(node);
        let machine = &mut self.machines[node];
        if machine.raft.is_none() || base.index <= machine.applied.index {
            return false;
        }
        (machine.applied, machine.applied_durably) = (base, base);
        self.seen.snapshots += 1;
        let configuration = self.configuration.clone();
        if self.faults && self.random.percent(20) {
            self.crash(node);
        } else {
            self.step(node, Input::SnapshotInstalled { base, configuration });
        }
        true
    }

    fn client(&mut self) {
        let node = self.random.below(self.machines.len() as u64) as usize;
        self.requests += 1;
        let request = self.requests;
        match self.random.below(10) {
            0..=6 => {
                let command = vec![request as u8; self.random.below(120) as usize].into();
                self.step(node, Input::Propose { request, command });
            }
            7 | 8 if self.machines[node].raft.is_some() => {
                let least = self.book.last_key_value().map_or(Index(0), |(index, _)| *index);
                self.machines[node].reads.insert(request, least);
                self.step(node, Input::Read { request, lease: false });
            }
            _ if self.random.percent(10) => {
                let machine = &mut self.machines[node];
                machine.applied_durably = machine.applied;
                let index = machine.applied.index;
                self.step(node, Input::Compact { index });
            }
            _ => {}
        }
        let after = 500 + self.random.below(6_000);
        self.plan(after, Happening::Client);
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let count = self.machines.len() as u64;
        let node = self.random.below(count) as usize;
        match self.random.below(8) {
            0..=2 if self.machines[node].raft.is_some() => self.crash(node),
            3 => {
                let other = self.random.below(count) as usize;
                self.cut.insert((node, other));
            }
            4 => (0..self.machines.len()).for_each(|other| {
                self.cut.extend([(node, other), (other, node)]);
            }),
            5 => {
                let of = self.random.below(count) as usize;
                let silent = Input::PeerSilent { node: name(of), reason: ElectionReason::PingsSilent };
                self.step(node, silent);
            }
            _ => self.cut.clear(),
        }
        let after = 20_000 + self.random.below(400_000);
        self.plan(after, Happening::Fault);
    }

    fn run_until(&mut self, end: u64) {
        let mut events = 0_u64;
        while let Some(next) = self.agenda.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), happening) = next.remove_entry();
            self.now = at;
            self.happen(happening);
            events += 1;
            if events.is_multiple_of(256) {
                self.check_log_matching();
            }
        }
        self.check_log_matching();
    }

    /// After the last fault the cluster must serve again.
    fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        self.run_until(self.now + 5_000_000);
        let before = self.book.len();
        self.run_until(self.now + 1_000_000);
        let seed = self.seed;
        assert!(self.book.len() > before, "seed {seed}: nothing is committed after the faults ended");
        let states: Vec<_> =
            self.machines.iter().map(|machine| machine.raft.as_ref().expect("all run").status()).collect();
        let leaders = states.iter().filter(|status| status.role == Role::Leader).count();
        assert_eq!(leaders, 1, "seed {seed}: one leader");
        let newest = states.iter().map(|status| status.commit.0).max().unwrap_or(0);
        for status in &states {
            assert!(status.applied.0 + 400 > newest, "seed {seed}: a node does not catch up: {status:?}");
            assert_eq!(status.term, states[0].term, "seed {seed}: one term");
        }
    }
}

/// Prints the seed of a history that fails.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("reproduce: RAFT_SEED={} cargo test --test raft_random", self.0);
        }
    }
}

fn run(seed: u64) -> Seen {
    let _announce = Announce(seed);
    let mut world = World::new(seed);
    world.run_until(Duration::from_secs(4).as_micros() as u64);
    world.heal();
    world.seen
}

#[test]
fn safety_holds_under_faults_and_service_returns() {
    if let Ok(seed) = std::env::var("RAFT_SEED") {
        println!("{:?}", run(seed.parse().expect("RAFT_SEED is a number")));
        return;
    }
    let seeds: u64 = std::env::var("RAFT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(240);
    let mut total = Seen::default();
    for seed in 0..seeds {
        let seen = run(seed);
        total.elections += seen.elections;
        total.crashes += seen.crashes;
        total.reads += seen.reads;
        total.snapshots += seen.snapshots;
        total.truncations += seen.truncations;
        total.committed += seen.committed;
        total.reconciled += seen.reconciled;
    }
    println!("{total:?}");
    // A run in which nothing happened proves nothing.
    for count in [
        total.elections,
        total.crashes,
        total.reads,
        total.snapshots,
        total.truncations,
        total.committed,
        total.reconciled,
    ] {
        assert!(count >= seeds / 20, "{total:?}");
    }
}
