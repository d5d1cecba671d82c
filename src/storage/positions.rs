//! Which positions the log holds, with their terms and the segments they lie in.

use std::collections::VecDeque;

use crate::raft::Base;
use crate::types::{Index, Term};

/// The segment of entries that were announced by a segment header and not read: those before the first segment.
const UNREAD: u64 = 0;
/// The segment of entries that are staged for the next write, before it is known where that goes.
const STAGED: u64 = u64::MAX;

/// The log's extent. Invariants: runs are contiguous and cover exactly `base.index + 1 ..= last`; their terms and
/// segments never decrease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Positions {
    pub base: Base,
    pub last: Index,
    runs: VecDeque<Run>,
}

/// Neighbouring entries of one term in one segment, from `first` up to the next run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    first: Index,
    term: Term,
    segment: u64,
}

impl Positions {
    /// As a segment header announces it: the entries are there, but not yet read.
    pub fn announced(base: Base, last: Index) -> Positions {
        let mut runs = VecDeque::new();
        if last > base.index {
            runs.push_back(Run { first: base.index.next(), term: base.term, segment: UNREAD });
        }
        Positions { base, last, runs }
    }

    /// Whether the log has this position with this term.
    pub fn holds(&self, position: Base) -> bool {
        if position.index == self.base.index {
            return position.term == self.base.term;
        }
        if position.index < self.base.index || position.index > self.last {
            return false;
        }
        let after = self.runs.partition_point(|run| run.first <= position.index);
        self.runs[after - 1].term == position.term
    }

    /// Appends an entry, removing the one at its index and all after it. The error says what is wrong with the
    /// index; nothing has changed then.
    pub fn append(&mut self, index: Index, term: Term, segment: u64) -> Result<(), String> {
        if index <= self.base.index || index > self.last.next() {
            return Err(format!("entry {index} does not follow the log, which ends at {}", self.last));
        }
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        match self.runs.back() {
            Some(run) if run.term == term && run.segment == segment => {}
            _ => self.runs.push_back(Run { first: index, term, segment }),
        }
        self.last = index;
        Ok(())
    }

    /// Appends an entry whose segment [`Positions::settle`] will name.
    pub fn stage(&mut self, index: Index, term: Term) -> Result<(), String> {
        self.append(index, term, STAGED)
    }

    /// The staged entries have been written to `segment`.
    pub fn settle(&mut self, segment: u64) {
        let staged = self.runs.partition_point(|run| run.segment != STAGED);
        for run in self.runs.range_mut(staged..) {
            run.segment = segment;
        }
        // The first of them may continue the run before it.
        if staged > 0 && staged < self.runs.len() {
            let (before, first) = (&self.runs[staged - 1], &self.runs[staged]);
            if before.term == first.term && before.segment == first.segment {
                self.runs.remove(staged);
            }
        }
    }

    /// Forgets everything up to `base`, and, unless `keep`, everything after it.
    pub fn set_base(&mut self, base: Base, keep: bool) {
        self.base = base;
        if !keep || base.index >= self.last {
            self.runs.clear();
            self.last = base.index;
            return;
        }
        while self.runs.get(1).is_some_and(|run| run.first <= base.index.next()) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(base.index.next());
        }
    }

    /// The first segment that holds an entry; `None` when the log is empty.
    pub fn first_segment(&self) -> Option<u64> {
        self.runs.front().map(|run| run.segment)
    }

    /// Whether some entries were announced and never read.
    pub fn has_unread(&self) -> bool {
        self.first_segment() == Some(UNREAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Base {
        Base { index: Index(index), term: Term(term) }
    }

    #[test]
    fn terms_and_segments_follow_appends_truncations_and_bases() {
        let mut positions = Positions::announced(Base::default(), Index(0));
        for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
            positions.stage(Index(index), Term(term)).unwrap();
        }
        positions.settle(7);
        positions.stage(Index(5), Term(2)).unwrap();
        positions.settle(7);
        assert_eq!(positions.runs.len(), 2, "equal neighbours are one run");
        assert!(positions.holds(at(0, 0)) && positions.holds(at(2, 1)) && positions.holds(at(5, 2)));
        assert!(!positions.holds(at(5, 1)) && !positions.holds(at(6, 2)));

        positions.stage(Index(3), Term(4)).unwrap();
        positions.settle(8);
        assert_eq!(positions.last, Index(3));
        assert!(positions.holds(at(3, 4)) && !positions.holds(at(4, 2)));
        assert!(positions.stage(Index(5), Term(4)).is_err(), "a gap");

        positions.set_base(at(2, 1), true);
        assert_eq!(positions.first_segment(), Some(8));
        assert!(positions.stage(Index(2), Term(4)).is_err(), "below the base");
        positions.set_base(at(9, 5), false);
        assert_eq!((positions.first_segment(), positions.last), (None, Index(9)));
    }

    #[test]
    fn unread_entries_stay_unread_until_forgotten_or_replaced() {
        let mut positions = Positions::announced(at(3, 1), Index(6));
        assert!(positions.has_unread());
        positions.append(Index(7), Term(2), 4).unwrap();
        positions.set_base(at(5, 1), true);
        assert!(positions.has_unread());
        positions.set_base(at(6, 1), true);
        assert!(!positions.has_unread());
    }
}
