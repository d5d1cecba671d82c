//! What a sequence of batches means: the content of a log store, as a plain value. The reference for real log stores, and
//! the disk of tests.

use crate::types::{Index, Term};

use super::message::{Base, Entry, Persist, Recovered};

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
    pub fn agree_with(&mut self, applied: Base) -> bool {
        if applied.index < self.base.index || self.term_at(applied.index) == Some(applied.term) {
            return false;
        }
        self.entries.clear();
        self.base = applied;
        true
    }
}
