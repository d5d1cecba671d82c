//! What leaves the core: effects of the present batch, and the messages that must wait for the disk.

use std::collections::VecDeque;

use crate::types::NodeId;

use super::message::{Effect, Event, Seq};
use super::wire::Message;

/// Effects on their way out.
///
/// Invariant: no message leaves before the hard state that it was said under is durable. Every message carries the
/// sender's term, and vote answers speak of its vote, so one rule covers them all: while the newest hard state is not
/// confirmed by the disk, everything is held. (Acknowledgements of entries have a rule of their own: the follower does
/// not even write them before the entries are durable.)
#[derive(Debug)]
pub(super) struct Outbox {
    effects: Vec<Effect>,
    held: VecDeque<(NodeId, Message)>,
    /// See [`super::Config::held_messages_max`].
    held_max: usize,
    /// The batch that the next [`super::Persist`] will be.
    next_seq: Seq,
    /// Everything up to this batch is on disk.
    durable_seq: Seq,
    /// The batch that carries, or will carry, the newest hard state.
    hard_state_seq: Seq,
    hard_state_changed: bool,
}

impl Outbox {
    pub fn new(held_max: usize) -> Self {
        Outbox {
            effects: Vec::new(),
            held: VecDeque::new(),
            held_max,
            next_seq: 1,
            durable_seq: 0,
            hard_state_seq: 0,
            hard_state_changed: false,
        }
    }

    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub fn event(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    /// Sends a message, now or when the present hard state is durable. Returns whether it was dropped for want of room.
    pub fn send(&mut self, to: NodeId, message: Message) -> bool {
        if self.hard_state_is_durable() {
            self.effects.push(Effect::Send { to, message });
        } else if self.held.len() < self.held_max {
            self.held.push_back((to, message));
        } else {
            return true;
        }
        false
    }

    /// The vote changed within the term.
    pub fn hard_state_changed(&mut self) {
        self.hard_state_changed = true;
        self.hard_state_seq = self.next_seq;
    }

    /// The term changed: what was to be said in the old one interests nobody any more.
    pub fn term_changed(&mut self) {
        self.held.clear();
        self.hard_state_changed();
    }

    pub fn hard_state_is_durable(&self) -> bool {
        self.hard_state_seq <= self.durable_seq
    }

    /// The number for a batch that is about to leave, and whether it must carry the hard state.
    pub fn next_batch(&mut self) -> (Seq, bool) {
        let seq = self.next_seq;
        self.next_seq += 1;
        (seq, std::mem::take(&mut self.hard_state_changed))
    }

    pub fn needs_writing(&self) -> bool {
        self.hard_state_changed
    }

    /// The batch `seq` and all before it are durable: what waited for that may leave.
    pub fn written(&mut self, seq: Seq) {
        assert!(seq < self.next_seq, "the disk confirms batch {seq}, which was never handed to it");
        self.durable_seq = self.durable_seq.max(seq);
        if self.hard_state_is_durable() {
            self.effects.extend(self.held.drain(..).map(|(to, message)| Effect::Send { to, message }));
        }
    }

    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}
