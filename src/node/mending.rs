//! A node whose applied state was lost while its log is whole: it fetches the state from the leader.
//!
//! The log holds its term, its vote and every entry that it acknowledged since the log's base, so it goes on voting and
//! acknowledging: nobody counts on anything that it does not have. What it cannot do is apply, lead or serve. A log
//! that was never compacted needs nobody: it is applied from its beginning.

use std::time::Duration;

use crate::raft::Recovered;
use crate::types::{Index, Micros, NodeId};

use super::applier::Standing;
use super::core::Node;
use super::frame::Frame;
use super::io::Effect;
use super::moment::Moment;

/// How long a node waits before it asks again for the state. A leader that is sending it already takes no notice.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Whether a state that stands like this cannot be brought up by the log: it is a new one (not even the first
/// configuration is recorded), and the log has forgotten its beginning.
pub fn state_is_lost(recovered: &Recovered, standing: &Standing) -> bool {
    standing.configuration.is_none() && recovered.base.index > Index(0)
}

impl Node {
    /// Whether this node waits for a state.
    pub fn lacks_state(&self) -> bool {
        self.ask_for_state_at.is_some()
    }

    /// Asks whoever leads for the state, if it is due.
    pub(super) fn ask_for_state(&mut self, moment: Moment) {
        if self.installing || self.ask_for_state_at.is_none_or(|at| at > moment.now) {
            return;
        }
        let Some(to) = self.raft.leader().cloned() else { return };
        self.ask_for_state_at = Some(moment.now.after(ASK_EVERY));
        let frame = Frame::WantState { base: self.raft.base().index };
        self.effects.push(Effect::Send { to, frame });
    }

    /// When [`Node::ask_for_state`] is due. Without a leader it waits for one.
    pub(super) fn state_deadline(&self) -> Option<Micros> {
        self.ask_for_state_at.filter(|_| !self.installing && self.raft.leader().is_some())
    }

    /// A member whose state is gone wants this one's.
    pub(super) fn wanted_state(&mut self, moment: Moment, from: &NodeId, base: Index) {
        let can_help = self.leading().is_some() && self.applied.index >= base;
        if can_help && !self.outgoing.is_sending_to(from) {
            self.send_snapshot(moment, from);
        }
    }
}
