//! One simulated machine: a node with its disk and its state, alive or dead.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::node::applier::Applier;
use crate::node::core::{Node, Settings};
use crate::node::io::Effect;
use crate::node::moment::Moment;
use crate::node::ports::{LogStore, StateStore};
use crate::raft::{Persist, Recovered};
use crate::storage::MemoryState;
use crate::storage::disk_memory::MemoryDisk;
use crate::storage::log::{Log, LogOptions};
use crate::types::{Micros, NodeId};

use super::world::Job;

/// Small segments, so that short histories fill several.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What runs while the machine is up.
pub struct Alive {
    /// The machine under test.
    pub node: Node,
    /// Its log, on the simulated disk.
    pub log: Log<MemoryDisk>,
    /// Its state.
    pub applier: Applier,
    /// Batches that the disk has not written yet.
    pub writing: VecDeque<Persist>,
    /// What waits for the apply thread.
    pub jobs: VecDeque<Job>,
    /// When the last queued apply job will be done; jobs end in order.
    pub apply_done_at: Micros,
    /// Whether inputs were taken in and the batch has not ended.
    pub turn_scheduled: bool,
    /// Whether a flush is scheduled.
    pub flush_scheduled: bool,
    /// Whom it can reach: the nodes of its address book, and those that it has heard, which told it where they are.
    pub reachable: BTreeSet<NodeId>,
}

/// See the module's head.
pub struct Host {
    /// Its name.
    pub id: NodeId,
    /// What its node is made of.
    pub settings: Settings,
    /// Its disk: survives crashes, as far as it was synced.
    pub disk: MemoryDisk,
    /// Its state: survives crashes, as far as it was flushed.
    pub state: MemoryState,
    /// `None` while it is dead.
    pub alive: Option<Alive>,
    /// Counts starts; events for an earlier life are dropped.
    pub life: u64,
    /// Frozen (as by SIGSTOP) until then.
    pub paused_until: Option<Micros>,
    /// For how long it is, or last was.
    pub paused_for: Duration,
    /// Its disk takes writes and finishes none until then.
    pub disk_stuck_until: Option<Micros>,
    /// The next wake-up that is scheduled.
    pub wake_at: Option<Micros>,
    /// How far its wall clock is off, in milliseconds.
    pub clock_skew_ms: i64,
    /// What its disk has acknowledged, as a plain value.
    pub acknowledged: Recovered,
    /// The batches that a crash interrupted: some of the first may be on disk, whole.
    pub interrupted: Vec<Persist>,
}

impl Host {
    /// A machine that has never run.
    pub fn new(id: NodeId, settings: Settings, clock_skew_ms: i64) -> Host {
        Host {
            id,
            settings,
            disk: MemoryDisk::default(),
            state: MemoryState::new(),
            alive: None,
            life: 0,
            paused_until: None,
            paused_for: Duration::ZERO,
            disk_stuck_until: None,
            wake_at: None,
            clock_skew_ms,
            acknowledged: Recovered::default(),
            interrupted: Vec::new(),
        }
    }

    /// Starts it from what its disk holds. `Err`: it refuses to start, which after clean crashes is a violation.
    pub fn start(&mut self, moment: Moment) -> Result<(), String> {
        let options =
            LogOptions { segment_bytes: SEGMENT_BYTES, create: self.life == 0, ..LogOptions::default() };
        let opened = Log::open(self.disk.clone(), options).map_err(|error| format!("log: {error}"))?;
        let store: Arc<dyn StateStore> = Arc::new(self.state.clone());
        let applier = Applier::new(store).map_err(|error| format!("state: {error}"))?;
        let facts = applier.facts().map_err(|error| format!("state: {error}"))?;
        self.check_durability(&opened.recovered)?;
        let node = Node::new(self.settings.clone(), opened.recovered, applier.standing(), facts, moment)
            .map_err(|error| format!("recovery: {error}"))?;
        self.life += 1;
        self.paused_until = None;
        self.disk_stuck_until = None;
        self.wake_at = None;
        self.alive = Some(Alive {
            node,
            log: opened.log,
            applier,
            writing: VecDeque::new(),
            jobs: VecDeque::new(),
            apply_done_at: moment.now,
            turn_scheduled: false,
            flush_scheduled: false,
            reachable: BTreeSet::new(),
        });
        Ok(())
    }

    /// Term, vote and log are what the disk acknowledged, with as many of the interrupted batches as it likes.
    fn check_durability(&mut self, recovered: &Recovered) -> Result<(), String> {
        let mut expected = std::mem::take(&mut self.acknowledged);
        let mut more = std::mem::take(&mut self.interrupted).into_iter();
        while expected != *recovered {
            match more.next() {
                Some(batch) => expected.record(&batch),
                None => {
                    return Err(format!(
                        "durability: {:?} was acknowledged with a log up to {}, recovered {:?} with a log up to {}",
                        expected.hard_state,
                        expected.last(),
                        recovered.hard_state,
                        recovered.last()
                    ));
                }
            }
        }
        self.acknowledged = expected;
        Ok(())
    }

    /// Kills it: writes under way may be torn, unsynced bytes may be lost, the unflushed state is lost.
    pub fn crash(&mut self, entropy: u64) {
        if let Some(mut alive) = self.alive.take() {
            let batches: Vec<Persist> = alive.writing.drain(..).collect();
            if !batches.is_empty() && entropy & 1 == 1 {
                // The write was under way, and stops after so many calls to the disk.
                self.disk.fail_after((entropy >> 1) & 3);
                let _interrupted = alive.log.append(&batches);
                self.interrupted = batches;
            }
        }
        self.disk.crash(entropy >> 3);
        self.state.crash(entropy >> 24);
    }

    /// The disk has finished what it was given; returns the acknowledged sequence.
    pub fn write(&mut self) -> Result<Option<u64>, String> {
        let Some(alive) = self.alive.as_mut() else { return Ok(None) };
        let batches: Vec<Persist> = alive.writing.drain(..).collect();
        let Some(last) = batches.last().map(|batch| batch.seq) else { return Ok(None) };
        alive.log.append(&batches).map_err(|error| format!("log write on a healthy disk: {error}"))?;
        batches.iter().for_each(|batch| self.acknowledged.record(batch));
        Ok(Some(last))
    }

    /// Ends a batch of steps.
    pub fn take_effects(&mut self, moment: Moment) -> Vec<Effect> {
        self.alive.as_mut().map_or_else(Vec::new, |alive| alive.node.take_effects(moment))
    }
}
