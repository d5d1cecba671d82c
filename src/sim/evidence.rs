//! What the acts of a plan came to: an act that hit nobody is no evidence of anything.
//!
//! An act is *felt* when what it stands for has happened at least once: a frame was lost by its cut, a write had to wait for
//! its disk, a process that ran was killed. A partition that nobody spoke across, or the death of a process that was dead
//! already, is not.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Act;

/// An act that is in force.
#[derive(Debug)]
struct Active {
    kind: &'static str,
    /// The hosts that it is about; empty: all.
    hosts: Vec<usize>,
    /// Whether it has a span, and so is in force for a while.
    lasts: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Evidence {
    /// By the number of the act.
    active: BTreeMap<u32, Active>,
    kinds: BTreeMap<u32, &'static str>,
    felt: BTreeSet<u32>,
}

impl Evidence {
    /// An act begins, at these hosts; none: it is about no host in particular.
    pub fn begins(&mut self, act: &Act, hosts: Vec<usize>) {
        let kind = act.fault.kind();
        self.kinds.insert(act.number, kind);
        let lasts = act.for_ms > 0 && !act.fault.is_operator();
        self.active.insert(act.number, Active { kind, hosts, lasts });
    }

    /// An act ends.
    pub fn ends(&mut self, act: u32) {
        self.active.remove(&act);
    }

    /// All acts end.
    pub fn all_end(&mut self) {
        self.active.clear();
    }

    /// An act took effect.
    pub fn felt(&mut self, act: u32) {
        if self.kinds.contains_key(&act) {
            self.felt.insert(act);
        }
    }

    /// Whatever acts of a kind are in force at a host took effect.
    pub fn felt_at(&mut self, kind: &str, host: usize) {
        let here = |active: &&Active| {
            active.kind == kind && (active.hosts.is_empty() || active.hosts.contains(&host))
        };
        let acts = self.active.iter().filter(|(_, active)| here(active)).map(|(act, _)| *act);
        self.felt.extend(acts);
    }

    /// Whether something that lasts, and has taken effect, is in force.
    pub fn is_under_fault(&self) -> bool {
        self.active.iter().any(|(act, active)| active.lasts && self.felt.contains(act))
    }

    /// How many acts of each kind began.
    pub fn begun(&self) -> BTreeMap<&'static str, u64> {
        count(self.kinds.values().copied())
    }

    /// How many acts of each kind took effect.
    pub fn effective(&self) -> BTreeMap<&'static str, u64> {
        count(self.felt.iter().filter_map(|act| self.kinds.get(act).copied()))
    }
}

fn count(kinds: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for kind in kinds {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}
