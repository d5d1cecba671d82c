//! What a log must hold, computed the simple way, and helpers to write batches.

use bytes::Bytes;
use super_node::node::ports::{OpenedLog, StorageError};
use super_node::raft::{Base, Entry, HardState, Payload, Persist, Recovered};
use super_node::storage::{Disk, Log, LogOptions};
use super_node::types::{Index, Term};

/// The salt of every log that [`small`] opens.
pub const SALT: u64 = 7;

/// A log as plain values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model(pub Recovered);

impl Model {
    pub fn last(&self) -> Index {
        self.0.entries.last().map_or(self.0.base.index, |entry| entry.index)
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.0.hard_state = hard_state;
    }

    pub fn set_base(&mut self, base: Base) {
        if base.index <= self.0.base.index {
            return;
        }
        let keeps = self.0.entries.iter().any(|entry| entry.index == base.index && entry.term == base.term);
        self.0.entries.retain(|entry| keeps && entry.index > base.index);
        self.0.base = base;
    }

    pub fn push(&mut self, entry: Entry) {
        self.0.entries.retain(|existing| existing.index < entry.index);
        self.0.entries.push(entry);
    }

    pub fn apply(&mut self, batch: &Persist) {
        self.stages(batch);
    }

    /// Applies a batch and returns every state on the way, one per item: what a crash inside may leave.
    pub fn stages(&mut self, batch: &Persist) -> Vec<Model> {
        let mut stages = Vec::new();
        if let Some(hard_state) = &batch.hard_state {
            self.set_hard_state(hard_state.clone());
            stages.push(self.clone());
        }
        if let Some(base) = batch.base {
            self.set_base(base);
            stages.push(self.clone());
        }
        for entry in &batch.entries {
            self.push(entry.clone());
            stages.push(self.clone());
        }
        stages
    }
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let fill = u8::try_from(index % 200 + 1).expect("small");
    Entry { index: Index(index), term: Term(term), payload: Payload::Command(Bytes::from(vec![fill; bytes])) }
}

pub fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64, bytes: usize) -> Persist {
    let entries = indexes.map(|index| entry(index, term, bytes)).collect();
    Persist { seq: 1, hard_state: None, base: None, entries }
}

pub fn base(index: u64, term: u64) -> Persist {
    let base = Base { index: Index(index), term: Term(term) };
    Persist { seq: 1, hard_state: None, base: Some(base), entries: Vec::new() }
}

pub fn vote(term: u64, vote: &str) -> Persist {
    let hard_state = HardState { term: Term(term), vote: vote.parse().ok() };
    Persist { seq: 1, hard_state: Some(hard_state), base: None, entries: Vec::new() }
}

/// Segments of a few records, so that small histories cross many of them.
pub fn small() -> LogOptions {
    LogOptions { segment_bytes: 2048, zero_fill_bytes: 512, record_bytes: 1024, salt: SALT, create: true }
}

pub fn open<D: Disk + Clone>(disk: &D) -> OpenedLog<Log<D>> {
    try_open(disk).expect("the log opens")
}

pub fn try_open<D: Disk + Clone>(disk: &D) -> Result<OpenedLog<Log<D>>, StorageError> {
    Log::open(disk.clone(), small())
}

/// Numbers for tests, reproducible from the seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
