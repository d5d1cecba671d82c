//! A write is executed at most once, one that was refused never, and one that was acknowledged is committed.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec;
use crate::ledger::command::{Answer, Applied, Command, Envelope};
use crate::raft::{Entry, Payload};
use crate::types::Index;

/// Watches the writes of the clients, each of which has a value of its own.
#[derive(Debug, Default)]
pub struct Watch {
    /// Where each value was written.
    executed: BTreeMap<u64, Index>,
    /// Values whose writers were told that they were not and never will be written.
    refused: BTreeSet<u64>,
    /// The last position that was looked at: what one node applied there, all do (`replicas agree`).
    looked_at: Index,
}

impl Watch {
    /// A node has applied an entry, with this answer.
    pub fn applied(&mut self, entry: &Entry, answer: Option<&Applied>) -> Result<(), String> {
        if entry.index <= self.looked_at {
            return Ok(());
        }
        self.looked_at = entry.index;
        // An entry that repeats an earlier one is answered with the place of the first, and changes nothing.
        let written = answer.is_some_and(|applied| {
            matches!(applied.answer, Answer::Kv { .. }) && applied.index == entry.index
        });
        let Payload::Command(bytes) = &entry.payload else { return Ok(()) };
        if !written {
            return Ok(());
        }
        let envelope: Envelope = codec::decode(bytes).map_err(|error| format!("codec: {error}"))?;
        let Command::KvPut { value, .. } = &envelope.request.command else { return Ok(()) };
        let Ok(value) = value.parse::<u64>() else { return Ok(()) };
        if let Some(before) = self.executed.insert(value, entry.index) {
            return Err(format!("applied twice: {value} is written at {} and was at {before}", entry.index));
        }
        self.check_refused(value)
    }

    fn check_refused(&self, value: u64) -> Result<(), String> {
        match self.executed.get(&value) {
            Some(index) if self.refused.contains(&value) => Err(format!(
                "refused and applied: {value} is written at {index}, its writer was told it was not"
            )),
            _ => Ok(()),
        }
    }

    /// A client was told that its write was done at a position.
    pub fn acknowledged(&self, value: Option<u64>, index: Index, committed: Index) -> Result<(), String> {
        let known = value.map_or(Some(index), |value| self.executed.get(&value).copied());
        if index <= committed && known == Some(index) {
            return Ok(());
        }
        Err(format!(
            "acknowledged and not committed: {value:?} at {index}, executed at {known:?}, committed up to {committed}"
        ))
    }

    /// A client was told that its write was not done.
    pub fn refused(&mut self, value: Option<u64>) -> Result<(), String> {
        let Some(value) = value else { return Ok(()) };
        self.refused.insert(value);
        self.check_refused(value)
    }
}
