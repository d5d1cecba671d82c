//! Two more pairs of eyes: what an observer asks other super-nodes about a silent member, and what it is asked.
//!
//! After the first miss two other super-nodes are asked to try, and again when the member becomes suspect. They answer even if the
//! member does not (SWIM with Lifeguard's nack): so silence of the *helper* is a sign that the observer's own line is bad.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::{MemberId, Micros, NodeId};

/// How many are asked at once.
pub(super) const HELPERS: usize = 2;
/// Questions under way in each direction; more are not asked, and answered with "no" at once.
pub(super) const QUESTIONS_MAX: usize = 1_024;

/// A question to a helper.
#[derive(Debug)]
pub(super) struct Asked {
    pub id: u64,
    pub member: MemberId,
    pub helper: NodeId,
    pub due: Micros,
}

/// Questions under way.
#[derive(Debug, Default)]
pub(super) struct Help {
    /// Oldest first, so also the first due first: all wait equally long.
    asked: VecDeque<Asked>,
    next_id: u64,
    /// Probes that are made for somebody, by the number of the ping.
    pub for_others: BTreeMap<u64, (NodeId, u64)>,
    /// Whose turn it is.
    turn: usize,
}

impl Help {
    /// Chooses whom to ask among those that are up, in turn.
    pub fn choose(&mut self, candidates: &[NodeId]) -> Vec<NodeId> {
        let room = QUESTIONS_MAX.saturating_sub(self.asked.len());
        let count = HELPERS.min(candidates.len()).min(room);
        let chosen =
            (0..count).filter_map(|more| candidates.get((self.turn + more) % candidates.len()).cloned());
        let chosen = chosen.collect();
        self.turn = (self.turn + count) % candidates.len().max(1);
        chosen
    }

    /// A question goes out; returns its number.
    pub fn ask(&mut self, member: MemberId, helper: NodeId, now: Micros, patience: Duration) -> u64 {
        self.next_id += 1;
        // A shorter patience than before must not overtake.
        let due = now.after(patience).max(self.asked.back().map_or(Micros(0), |last| last.due));
        self.asked.push_back(Asked { id: self.next_id, member, helper, due });
        self.next_id
    }

    /// The question that this is the answer to.
    pub fn answered(&mut self, from: &NodeId, id: u64) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.id == id && asked.helper == *from)?;
        self.asked.remove(at)
    }

    /// A question whose answer is overdue.
    pub fn overdue(&mut self, now: Micros) -> Option<Asked> {
        if self.asked.front()?.due > now {
            return None;
        }
        self.asked.pop_front()
    }

    /// When the next one is.
    pub fn deadline(&self) -> Option<Micros> {
        self.asked.front().map(|asked| asked.due)
    }
}
