//! What a sequence of batches means: the content of a log store, as a plain value. The reference for real log stores, and
//! the disk of tests.

use crate::types::{Index, Term};

use super::message::{Base, Entry, HardState, Persist, Recovered};

impl Recovered {
    /// Carries out a batch, in the order of its fields.
    pub fn record(&mut self, batch: &Persist) {
        if let Some(hard_state) = &batch.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(base) = batch.base {
            self.forget_up_to(base);
        }
        for entry in &batch.entries {
            if let Some(offset) = self.offset(entry.index) {
                self.entries.truncate(offset);
            }
            self.entries.push(entry.clone());
        }
    }

    fn forget_up_to(&mut self, base: Base) {
        let kept = match self.offset(base.index) {
            _ if base == self.base => 0,
            Some(offset) if self.entries[offset].term == base.term => offset + 1,
            _ => self.entries.len(),
        };
        self.entries.drain(..kept);
        self.base = base;
    }

    fn offset(&self, index: Index) -> Option<usize> {
        let offset = usize::try_from(index.0.checked_sub(self.base.index.0 + 1)?).ok()?;
        (offset < self.entries.len()).then_some(offset)
    }

    /// The entry at `index`, if the log holds it.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.offset(index).map(|offset| &self.entries[offset])
    }

    /// The term at `index`; `None` before the base and after the end.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// The index of the last entry, or of the base.
    pub fn last(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    /// Brings the log in line with a state whose last applied position is `applied`, before the core starts. They
    /// differ only after a crash between the installation of a snapshot and its record in the log; then the log is worth
    /// nothing before `applied`, and the base moves there. Returns whether that was so: the shell must then start the
    /// core and repeat [`super::Input::SnapshotInstalled`], so that the log records it too.
    ///
    /// Such a crash may also have taken the term in which the snapshot came. The state itself tells of it, at every start; and
    /// a vote in that term cannot have been given, since no vote is told before it is durable.
    pub fn agree_with(&mut self, applied: Base) -> bool {
        let known = applied.term.max(self.base.term);
        if self.hard_state.term < known {
            self.hard_state = HardState { term: known, vote: None };
        }
        if applied.index < self.base.index || self.term_at(applied.index) == Some(applied.term) {
            return false;
        }
        self.entries.clear();
        self.base = applied;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_may_take_the_term_that_a_snapshot_came_in() {
        let vote = |term, vote: Option<&str>| HardState {
            term: Term(term),
            vote: vote.map(|name| name.parse().expect("a name")),
        };
        let snapshot = Base { index: Index(407), term: Term(4) };
        let mut disk = Recovered { hard_state: vote(3, Some("n1")), ..Recovered::default() };
        assert!(disk.agree_with(snapshot), "the log knows nothing of the snapshot");
        assert_eq!((&disk.hard_state, disk.base), (&vote(4, None), snapshot));
        // The base was recorded, the term was not: the next start learns it anew.
        disk.hard_state = vote(3, Some("n1"));
        assert!(!disk.agree_with(snapshot));
        assert_eq!(disk.hard_state, vote(4, None));
        disk.hard_state = vote(4, Some("n2"));
        assert!(!disk.agree_with(snapshot));
        assert_eq!(disk.hard_state, vote(4, Some("n2")), "a vote that is on disk stays given");
    }
}
