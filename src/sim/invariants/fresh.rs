//! A linearizable read is confirmed by words that were said after it arrived (Raft dissertation, section 6.4; hazard 18): a
//! leader that counts the echoes of a round that was under way proves that it led earlier, not that it leads.
//!
//! Looked at on the wire, where one node asks another for a read index. For a stale read a rival must also be elected and
//! commit while an old echo is under way, which a thousand histories need not show.

use std::collections::BTreeMap;

use crate::node::frame::Frame;
use crate::raft::{Body, Message};
use crate::types::{NodeId, Term};

use crate::sim::host::Host;

use super::configuration::is_quorum;

/// The rounds of one leadership, as others can see them.
#[derive(Debug, Default)]
struct Rounds {
    term: Term,
    /// The newest that was said to anybody.
    said: u64,
    /// The newest that came back, by peer.
    echoed: BTreeMap<NodeId, u64>,
}

/// Follows the rounds of every leadership and the reads that others asked it for.
#[derive(Debug, Default)]
pub struct Watch {
    rounds: BTreeMap<NodeId, Rounds>,
    /// By whom was asked, who asked, and its number: the term and the newest round said when the question came.
    asked: BTreeMap<(NodeId, NodeId, u64), (Term, u64)>,
}

impl Watch {
    /// A host hears something from another, before it acts on it.
    pub fn heard(&mut self, host: &Host, from: &NodeId, frame: &Frame) {
        match frame {
            Frame::ReadIndex { id } => {
                let before =
                    self.rounds.get(&host.id).map_or((Term(0), 0), |rounds| (rounds.term, rounds.said));
                self.asked.entry((host.id.clone(), from.clone(), *id)).or_insert(before);
            }
            Frame::Raft(Message { term, body }) => {
                let (Body::AppendAccepted { round, .. }
                | Body::AppendRejected { round, .. }
                | Body::HeartbeatResponse { round, .. }) = body
                else {
                    return;
                };
                if let Some(rounds) = self.rounds.get_mut(&host.id).filter(|rounds| rounds.term == *term) {
                    let newest = rounds.echoed.entry(from.clone()).or_default();
                    *newest = (*newest).max(*round);
                }
            }
            _ => {}
        }
    }

    /// A host says something to another.
    pub fn said(&mut self, host: &Host, to: &NodeId, frame: &Frame) -> Result<(), String> {
        match frame {
            Frame::Raft(Message {
                term,
                body: Body::AppendRequest { round, .. } | Body::Heartbeat { round, .. },
            }) => {
                let rounds = self.rounds.entry(host.id.clone()).or_default();
                if rounds.term != *term {
                    *rounds = Rounds { term: *term, ..Rounds::default() };
                }
                rounds.said = rounds.said.max(*round);
                Ok(())
            }
            Frame::ReadIndexAnswer { id, result: Ok(index) } => {
                let Some((term, round)) = self.asked.remove(&(host.id.clone(), to.clone(), *id)) else {
                    return Ok(());
                };
                let rounds = self.rounds.get(&host.id);
                // Of a later leadership every round will do: it began after the question came.
                let round = if rounds.is_some_and(|rounds| rounds.term == term) { round } else { 0 };
                let newer = |node: &NodeId| {
                    *node == host.id
                        || rounds
                            .is_some_and(|rounds| rounds.echoed.get(node).is_some_and(|echo| *echo > round))
                };
                // The one that was in force when its step began, or the one that is now.
                let enough = host.alive.as_ref().is_none_or(|alive| {
                    is_quorum(&alive.configuration, &newer)
                        || is_quorum(&alive.node.raft_status().configuration, &newer)
                });
                if enough {
                    return Ok(());
                }
                Err(format!(
                    "read asks afresh: {} tells {to} to read at {index}, and no quorum has echoed a round after {round} \
                     of term {term}, the newest when it was asked",
                    host.id
                ))
            }
            _ => Ok(()),
        }
    }

    /// A node has lost everything.
    pub fn forget(&mut self, node: &NodeId) {
        self.rounds.remove(node);
        self.asked.retain(|(asked, _, _), _| asked != node);
    }
}
