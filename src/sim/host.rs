//! One simulated machine: a node with its disk, its state and its clocks, alive or dead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::limits::Limits;
use crate::network::gate::Gate;
use crate::node::applier::Applier;
use crate::node::core::{Node, Settings};
use crate::node::io::Effect;
use crate::node::mending::state_is_lost;
use crate::node::moment::Moment;
use crate::node::ports::{LogStore, StateStore, StorageError};
use crate::raft::{Base, Configuration, HardState, Persist, Recovered, Seq};
use crate::storage::MemoryState;
use crate::storage::disk_memory::MemoryDisk;
use crate::storage::log::{Log, LogOptions};
use crate::types::{Index, Micros, NodeId, Term};

use super::clock::Clock;
use super::dice::Dice;
use super::world::Job;

/// Small segments, so that short histories fill several.
const SEGMENT_BYTES: u64 = 64 << 10;
/// What the streams of hosts are numbered from.
const HOST_STREAMS: u64 = 1 << 20;

/// What runs while the machine is up.
pub struct Alive {
    /// The machine under test.
    pub node: Node,
    /// Its log, on the simulated disk.
    pub log: Log<MemoryDisk>,
    /// Its state.
    pub applier: Applier,
    /// Batches that the disk has not written yet, with the host's own time of their handing over.
    pub writing: VecDeque<(Micros, Persist)>,
    /// What agents' answers pass.
    pub gate: Gate,
    /// How many of them the log has taken, and keeps in memory until there is room.
    pub without_room: usize,
    /// What waits for the apply thread.
    pub jobs: VecDeque<Job>,
    /// When (in the world's time) the last queued apply job will be done; jobs end in order.
    pub apply_done_at: Micros,
    /// Whether inputs were taken in and the batch has not ended.
    pub turn_scheduled: bool,
    /// Whether a flush is scheduled.
    pub flush_scheduled: bool,
    /// Whom it can reach: the nodes of its address book, and those that it has heard, which told it where they are.
    pub reachable: BTreeSet<NodeId>,
    /// The data directories that it lets speak for nodes, where the log says which.
    pub bound: BTreeMap<NodeId, String>,
    /// As of which position of the log it does.
    pub bound_as_of: Index,
    /// Whom it has met, with which data directory.
    pub met: BTreeSet<(NodeId, String)>,
    /// The configuration at the end of the last batch of steps that wrote.
    pub configuration: Configuration,
}

/// What is wrong with a disk at the moment.
#[derive(Debug, Default)]
pub struct DiskTrouble {
    /// It takes writes and finishes none until then.
    pub stuck_until: Option<Micros>,
    /// By how long writes are delayed at most, by act.
    pub slow: Vec<(u32, Duration)>,
    /// How many acts keep it full.
    pub full: u32,
    /// How many acts make a call fail.
    pub errors: u32,
    /// How many acts keep it from being read.
    pub unreadable: u32,
    /// Bits that changed: file, byte, mask.
    pub flips: Vec<(String, u64, u8)>,
}

impl DiskTrouble {
    /// Whether writes take their time now.
    pub fn is_slow_or_stuck(&self, now: Micros) -> bool {
        self.full > 0 || !self.slow.is_empty() || self.stuck_until.is_some_and(|until| now < until)
    }

    /// Whether a process that cannot go on, or not start, is as it should be.
    pub fn explains_failure(&self) -> bool {
        self.full > 0 || self.errors > 0 || self.unreadable > 0 || !self.flips.is_empty()
    }
}

/// Why a process did not start.
#[derive(Debug)]
pub enum StartError {
    /// It refused, and was right.
    Refused(String),
    /// It should not have refused, or should have: an invariant is broken.
    Broken(String),
}

/// What became of a write.
#[derive(Debug)]
pub enum Wrote {
    /// Nothing was waiting.
    Nothing,
    /// Durable up to this batch, with these terms and votes on the way.
    Durable(Seq, Vec<HardState>),
    /// There is no room; it is to be tried again.
    NoRoom,
    /// It failed, as was planned: the process must stop.
    Failed(String),
}

/// How a process ends without its doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is killed: the system keeps what it wrote.
    Killed,
    /// The machine loses power.
    PowerCut,
}

/// See the module's head.
pub struct Host {
    /// Its name.
    pub id: NodeId,
    /// What its node is made of.
    pub settings: Settings,
    /// What the ledger keeps at most.
    pub limits: Limits,
    /// Its clocks.
    pub clock: Clock,
    /// Its randomness.
    pub dice: Dice,
    /// Its disk: survives crashes, as far as it was synced.
    pub disk: MemoryDisk,
    /// What is wrong with the disk.
    pub trouble: DiskTrouble,
    /// When its disk last kept a write waiting, by the world's time.
    pub troubled_at: Option<Micros>,
    /// Its state: survives crashes, as far as it was flushed.
    pub state: MemoryState,
    /// Whether the state was lost and has not come back.
    pub state_lost: bool,
    /// How far the state is durable for sure.
    pub flushed: Index,
    /// The term that its durable state tells of. After the installation of a snapshot the log may not know it yet.
    pub flushed_term: Term,
    /// `None` while it is dead.
    pub alive: Option<Alive>,
    /// Counts starts; events for an earlier life are dropped.
    pub life: u64,
    /// Whether its log was made; from then on its absence is damage.
    pub made: bool,
    /// How many faults keep it from starting.
    pub held: u32,
    /// It never starts again: it left the cluster, or its machine died.
    pub retired: bool,
    /// What it had is gone for good, and nobody may count on it before it has joined anew.
    pub lost: bool,
    /// Counts the times that it lost everything: another data directory each time.
    pub incarnation: u64,
    /// Frozen (as by SIGSTOP) since and until then.
    pub paused: Option<(Micros, Micros)>,
    /// Since when its steps are counted, and how many there were.
    pub busy: (Micros, u64),
    /// The next wake-up that is scheduled, in the world's time.
    pub wake_at: Option<Micros>,
    /// What its disk has acknowledged, as a plain value.
    pub acknowledged: Recovered,
    /// What it had acknowledged when it lost everything, if it did: a leader may count that, it was true when it was said.
    pub lost_log: Recovered,
    /// What its disk was given, written or not, as a plain value: the log that the core has.
    pub issued: Recovered,
    /// The batches that a crash interrupted: some of the first may be on disk, whole.
    pub interrupted: Vec<Persist>,
}

impl Host {
    /// A machine that has never run.
    pub fn new(number: usize, settings: Settings, limits: Limits, clock: Clock, seed: u64) -> Host {
        Host {
            id: settings.id.clone(),
            settings,
            limits,
            clock,
            dice: Dice::stream(seed, HOST_STREAMS + number as u64),
            disk: MemoryDisk::default(),
            trouble: DiskTrouble::default(),
            troubled_at: None,
            state: MemoryState::new(),
            state_lost: false,
            flushed: Index(0),
            flushed_term: Term(0),
            alive: None,
            life: 0,
            made: false,
            held: 0,
            retired: false,
            lost: false,
            incarnation: 0,
            paused: None,
            busy: (Micros(0), 0),
            wake_at: None,
            acknowledged: Recovered::default(),
            lost_log: Recovered::default(),
            issued: Recovered::default(),
            interrupted: Vec::new(),
        }
    }

    /// What a step at this host is told.
    pub fn moment(&mut self, now: Micros) -> Moment {
        let entropy = self.dice.word();
        Moment { now: self.clock.monotonic(now), wall: self.clock.wall(now), entropy }
    }

    /// Starts it from what its disk holds.
    pub fn start(&mut self, moment: Moment, now: Micros) -> Result<(), StartError> {
        let broken = StartError::Broken;
        let options =
            LogOptions { segment_bytes: SEGMENT_BYTES, create: !self.made, ..LogOptions::default() };
        self.disk.fail_reads(self.trouble.unreadable > 0);
        let opened = match Log::open(self.disk.clone(), options) {
            Ok(opened) => opened,
            Err(error) if self.trouble.explains_failure() => {
                return Err(StartError::Refused(error.to_string()));
            }
            Err(error) => {
                return Err(broken(format!("recovery: a log that only crashed is refused: {error}")));
            }
        };
        self.check_durability(&opened.recovered).map_err(broken)?;
        // What changed was not needed, and may have been overwritten by now.
        self.trouble.flips.clear();
        self.made = true;
        let store: Arc<dyn StateStore> = Arc::new(self.state.clone());
        let state_error = |error| broken(format!("recovery: the state: {error}"));
        let mut applier = Applier::within(store, self.limits).map_err(state_error)?;
        if !state_is_lost(&opened.recovered, applier.standing()) {
            applier.found(&self.settings.bootstrap()).map_err(state_error)?;
        }
        let facts = applier.facts().map_err(state_error)?;
        let Base { index: applied, term } = applier.standing().applied;
        if applied < self.flushed {
            let (id, flushed) = (&self.id, self.flushed);
            return Err(broken(format!(
                "durability: {id} made its state durable up to {flushed}, and has {applied}"
            )));
        }
        self.flushed = applied;
        self.flushed_term = term;
        self.issued = self.acknowledged.clone();
        let node = Node::new(self.settings.clone(), opened.recovered, applier.standing(), facts, moment)
            .map_err(|error| broken(format!("recovery: {error}")))?;
        self.state_lost = node.lacks_state();
        self.life += 1;
        self.paused = None;
        self.wake_at = None;
        let configuration = node.raft_status().configuration;
        // Of this life: what answers the pings of another is junk.
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&self.life.to_be_bytes());
        for (byte, letter) in secret[8..].iter_mut().zip(self.id.as_str().bytes()) {
            *byte = letter;
        }
        self.alive = Some(Alive {
            node,
            log: opened.log,
            applier,
            writing: VecDeque::new(),
            gate: Gate::new("sim", secret),
            without_room: 0,
            jobs: VecDeque::new(),
            apply_done_at: now,
            turn_scheduled: false,
            flush_scheduled: false,
            reachable: BTreeSet::new(),
            bound: BTreeMap::new(),
            bound_as_of: Index(0),
            met: BTreeSet::new(),
            configuration,
        });
        Ok(())
    }

    /// Term, vote and log are what the disk acknowledged, with as many of the interrupted batches as it likes.
    fn check_durability(&mut self, recovered: &Recovered) -> Result<(), String> {
        let mut expected = self.acknowledged.clone();
        let mut more = self.interrupted.iter();
        while expected != *recovered {
            match more.next() {
                Some(batch) => expected.record(batch),
                None => {
                    let damage = if self.trouble.flips.is_empty() { "" } else { " (a bit was changed)" };
                    return Err(format!(
                        "durability: {} acknowledged {:?} and a log up to {}, recovered {:?} and a log up to \
                         {}{damage}",
                        self.id,
                        self.acknowledged.hard_state,
                        self.acknowledged.last(),
                        recovered.hard_state,
                        recovered.last()
                    ));
                }
            }
        }
        self.acknowledged = expected;
        self.interrupted.clear();
        Ok(())
    }

    /// Ends its process: a write under way may be torn; without power, unsynced bytes may be lost.
    pub fn die(&mut self, death: Death, entropy: u64) {
        if let Some(mut alive) = self.alive.take() {
            let batches: Vec<Persist> = alive.writing.drain(..).map(|(_, batch)| batch).collect();
            if !batches.is_empty() && entropy & 1 == 1 {
                // The write was under way, and stops after so many calls to the disk.
                self.disk.fail_after((entropy >> 1) & 3);
                let _interrupted = alive.log.append(&batches[alive.without_room..]);
                self.interrupted.extend(batches);
            }
            // Whatever way a process ends, its store comes back with some whole transaction since the last flush.
            self.state.crash(entropy >> 24);
        }
        self.disk.mend();
        if death == Death::PowerCut {
            self.disk.crash(entropy >> 3);
        }
        self.issued = Recovered::default();
    }

    /// Everything it had is gone, as if the disk had been replaced.
    pub fn wipe(&mut self) {
        self.alive = None;
        self.disk = MemoryDisk::default();
        self.state = MemoryState::new();
        self.state_lost = false;
        self.flushed = Index(0);
        self.flushed_term = Term(0);
        self.made = false;
        self.incarnation += 1;
        self.trouble.flips.clear();
        self.lost_log = std::mem::take(&mut self.acknowledged);
        self.issued = Recovered::default();
        self.interrupted.clear();
    }

    /// Its applied state is gone: something in it had changed, and it was set aside. Only for a machine without power.
    pub fn lose_state(&mut self) {
        self.state = MemoryState::new();
        self.flushed = Index(0);
        self.flushed_term = Term(0);
        self.state_lost = true;
    }

    /// Changes one bit of what the log holds durably; `false`: it holds nothing. Only for a machine without power, whose
    /// disk has settled.
    pub fn flip(&mut self, entropy: u64) -> bool {
        let mut dice = Dice::new(entropy);
        let Some((name, offset, mask)) = self.disk.pick_byte(dice.word(), dice.word()) else { return false };
        self.disk.flip(&name, offset, mask);
        self.trouble.flips.push((name, offset, mask));
        true
    }

    /// The operator restores the disk.
    pub fn restore(&mut self) {
        for (name, offset, mask) in std::mem::take(&mut self.trouble.flips) {
            self.disk.flip(&name, offset, mask);
        }
    }

    /// The disk finishes what it was given. `Err`: a healthy disk was refused.
    pub fn write(&mut self) -> Result<Wrote, String> {
        let Some(alive) = self.alive.as_mut() else { return Ok(Wrote::Nothing) };
        let batches: Vec<Persist> = alive.writing.iter().map(|(_, batch)| batch.clone()).collect();
        let Some(last) = batches.last().map(|batch| batch.seq) else { return Ok(Wrote::Nothing) };
        let result = alive.log.append(&batches[alive.without_room..]);
        if let Err(StorageError::Full { path }) = &result {
            if self.trouble.full == 0 {
                return Err(format!("storage: no room for {path} on a disk that is not full"));
            }
            alive.without_room = batches.len();
            return Ok(Wrote::NoRoom);
        }
        alive.writing.clear();
        alive.without_room = 0;
        match result {
            Ok(()) => {
                batches.iter().for_each(|batch| self.acknowledged.record(batch));
                Ok(Wrote::Durable(last, batches.into_iter().filter_map(|batch| batch.hard_state).collect()))
            }
            Err(error) if self.trouble.explains_failure() => {
                self.interrupted.extend(batches);
                Ok(Wrote::Failed(error.to_string()))
            }
            Err(error) => Err(format!("storage: a write on a healthy disk failed: {error}")),
        }
    }

    /// Ends a batch of steps.
    pub fn take_effects(&mut self, moment: Moment) -> Vec<Effect> {
        self.alive.as_mut().map_or_else(Vec::new, |alive| alive.node.take_effects(moment))
    }

    /// Since when (by its own clock) the oldest write has been waiting for the disk.
    pub fn writing_since(&self) -> Option<Micros> {
        self.alive.as_ref()?.writing.front().map(|(since, _)| *since)
    }

    /// Its process stood still for so long: what it had given its disk counts as that much younger.
    pub fn stood_still(&mut self, span: Duration, now: Micros) {
        for (since, _) in self.alive.iter_mut().flat_map(|alive| &mut alive.writing) {
            *since = since.after(span).min(now);
        }
    }

    /// The last position that its node has applied.
    pub fn applied(&self) -> Index {
        self.alive.as_ref().map_or(Index(0), |alive| alive.node.applied_index())
    }

    /// How long its disk takes for the next write, and whether that is longer than a healthy one takes.
    pub fn write_takes(&mut self) -> (Duration, bool) {
        let hiccup = self.dice.chance(20_000);
        let usual = Duration::from_millis(if hiccup { 80 } else { 2 });
        let most = self.trouble.slow.iter().map(|(_, most)| *most).max().unwrap_or(usual).max(usual);
        let takes = self.dice.span(Duration::from_micros(80), most);
        (takes, takes > usual)
    }
}
