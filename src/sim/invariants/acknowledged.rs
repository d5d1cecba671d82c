//! What a follower has acknowledged it keeps within the term, and what a leader counts is there: on the disk of whom it
//! counts, in the form in which the leader holds it.
//!
//! Commitment rests on nothing else (Raft paper, sections 5.3 and 5.4). A count that is wrong becomes a lost write only if
//! the right nodes crash at the right moment; here it is seen when it is made.

use std::collections::BTreeMap;

use crate::node::frame::Frame;
use crate::raft::{Body, Recovered, Role, Status};
use crate::types::{Index, NodeId, Term};

use crate::sim::host::Host;

/// Watches acknowledgements.
#[derive(Debug, Default)]
pub struct Watch {
    /// How far each node has acknowledged, in the newest term in which it did.
    given: BTreeMap<NodeId, (Term, Index)>,
    /// What each leader (of a term) counted for each peer when it was last looked at.
    counted: BTreeMap<(Term, NodeId), Index>,
}

impl Watch {
    /// A host says something to another.
    pub fn said(&mut self, host: &Host, frame: &Frame) {
        let Frame::Raft(message) = frame else { return };
        let (Body::AppendAccepted { matched, .. } | Body::HeartbeatResponse { matched, .. }) = &message.body
        else {
            return;
        };
        let given = self.given.entry(host.id.clone()).or_default();
        *given = (*given).max((message.term, *matched));
    }

    /// After every step of a host.
    pub fn after_step(&mut self, hosts: &[Host], host: &Host, status: &Status) -> Result<(), String> {
        if let Some((term, index)) = self.given.get(&host.id)
            && *term == status.term
            && *index > status.last
        {
            let (id, last) = (&host.id, status.last);
            return Err(format!(
                "acknowledged and gone: {id} holds {index}, it said in term {term}; now it ends at {last}"
            ));
        }
        if status.role != Role::Leader {
            return Ok(());
        }
        for (peer, progress) in &status.peers {
            let counted = self.counted.entry((status.term, peer.clone())).or_default();
            if *counted == progress.matched {
                continue;
            }
            *counted = progress.matched;
            if let Some(other) = hosts.iter().find(|other| other.id == *peer) {
                // An acknowledgement was true when it was said, though its sender has lost everything since.
                let was_there = || is_there(host, status.term, other, &other.lost_log, progress.matched);
                is_there(host, status.term, other, &other.acknowledged, progress.matched)
                    .or_else(|breach| was_there().map_err(|_| breach))?;
            }
        }
        Ok(())
    }

    /// A node has lost everything and knows nothing of its former self.
    pub fn forget(&mut self, node: &NodeId) {
        self.given.remove(node);
    }
}

/// A leader counts `matched` for a peer, whose disk is, or was, `disk`.
fn is_there(leader: &Host, term: Term, peer: &Host, disk: &Recovered, matched: Index) -> Result<(), String> {
    // Whoever follows somebody newer may have replaced what it had acknowledged. And what is in a durable state is
    // committed, whether the log knows or not.
    if matched == Index(0) || disk.hard_state.term > term || matched <= disk.base.index.max(peer.flushed) {
        return Ok(());
    }
    let breach = |what: String| {
        Err(format!(
            "counted and not there: {} counts {matched} for {} in term {term}; {what}",
            leader.id, peer.id
        ))
    };
    // A snapshot that was installed just before a crash tells of a term that the log may not know.
    let come_to = disk.hard_state.term.max(peer.flushed_term);
    if come_to < term {
        return breach(format!("that one has only come to term {come_to}"));
    }
    let (held, own) = (disk.term_at(matched), leader.issued.term_at(matched));
    match own.is_none() || held == own {
        true => Ok(()),
        false => breach(format!("its disk holds {held:?} there, the leader {own:?}")),
    }
}
