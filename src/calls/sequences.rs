//! The sequences of one session, on the client's side.

use std::collections::BTreeSet;

use crate::types::SessionId;

/// Gives out sequences, and knows the lowest whose answer is still awaited.
#[derive(Debug, Clone)]
pub struct Sequences {
    session: SessionId,
    /// How far a sequence may be ahead of the lowest unanswered one.
    window: u64,
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl Sequences {
    /// Of a session that was just opened. `window` is the state's bound.
    pub fn new(session: SessionId, window: u64) -> Sequences {
        Sequences { session, window, next: 1, outstanding: BTreeSet::new() }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The sequence of the next request; `None` while it would be too far ahead of the lowest unanswered one.
    pub fn begin(&mut self) -> Option<u64> {
        let sequence = self.next;
        if sequence - self.lowest_unanswered() >= self.window {
            return None;
        }
        self.next += 1;
        self.outstanding.insert(sequence);
        Some(sequence)
    }

    /// What is below is answered or given up.
    pub fn lowest_unanswered(&self) -> u64 {
        self.outstanding.first().copied().unwrap_or(self.next)
    }

    /// Its client has the answer, or wants it no more. Once a later request of the session has been applied, a try of it
    /// that is still on its way cannot happen any more.
    pub fn end(&mut self, sequence: u64) {
        self.outstanding.remove(&sequence);
    }
}
