//! While a leader may read by its lease, nobody else commits anything (Raft dissertation, section 6.4.1): the lease is
//! over before a rival can be elected, whatever clocks, pauses, restarts and transfers do.
//!
//! A stale read needs a client that asks at the right moment; here it is enough that it could. And a rival in power needs
//! a second voter that does the wrong thing; [`Promises`] looks at each by itself.

use std::collections::BTreeMap;

use crate::node::frame::Frame;
use crate::raft::{Body, Message, Role, Status};
use crate::types::{Micros, NodeId, Term};

use crate::sim::host::Host;

/// A host has committed something new. `now`: the world's time.
pub fn is_over(hosts: &[Host], host: &Host, status: &Status, now: Micros) -> Result<(), String> {
    if status.role != Role::Leader {
        return Ok(());
    }
    for other in hosts.iter().filter(|other| other.id != host.id) {
        let Some(alive) = &other.alive else { continue };
        let rival = alive.node.raft_status();
        let own_time = other.clock.monotonic(now);
        let left = rival.lease_until.map_or(0, |until| until.0.saturating_sub(own_time.0));
        if rival.term < status.term && left > 0 {
            return Err(format!(
                "lease outlived: {} commits in term {} while {} may read by its lease of term {} for {left} µs more",
                host.id, status.term, other.id, rival.term
            ));
        }
    }
    Ok(())
}

/// What one voter owes.
#[derive(Debug, Default)]
struct Promise {
    /// Who leads the newest term in which it heard a leader, and when it heard that one last, by its own clock.
    leader: Option<(Term, NodeId, Micros)>,
    /// As of its last answer: to whom it owes it to help nobody else to power, and from when on.
    owed: Option<(NodeId, Micros)>,
    /// Who stands, in which term, because a leader that has given up its lease asked for that.
    excused: Option<(NodeId, Term)>,
}

/// A voter that has answered a leader helps nobody else to power while that one may count on the answer: not after a
/// restart either, and whatever a detector says.
#[derive(Debug, Default)]
pub struct Promises {
    voters: BTreeMap<NodeId, Promise>,
}

impl Promises {
    /// A host hears something from another. `now`: the world's time.
    pub fn heard(&mut self, host: &Host, from: &NodeId, frame: &Frame, now: Micros) {
        let Frame::Raft(Message { term, body }) = frame else { return };
        let promise = self.voters.entry(host.id.clone()).or_default();
        match body {
            Body::AppendRequest { .. } | Body::Heartbeat { .. }
                if promise.leader.as_ref().is_none_or(|(known, _, _)| known <= term) =>
            {
                promise.leader = Some((*term, from.clone(), host.clock.monotonic(now)));
            }
            Body::VoteRequest { transfer: true, .. } => promise.excused = Some((from.clone(), *term)),
            _ => {}
        }
    }

    /// A host says something to another. `now`: the world's time.
    pub fn said(&mut self, host: &Host, to: &NodeId, frame: &Frame, now: Micros) -> Result<(), String> {
        let Frame::Raft(Message { term, body }) = frame else { return Ok(()) };
        let config = &host.settings.raft;
        let Some(lease) = config.lease else { return Ok(()) };
        let promised = config.promise.map_or(config.election_min, |span| span.min(config.election_min));
        let lease = lease.min(promised * 9 / 10);
        let Some(promise) = self.voters.get_mut(&host.id) else { return Ok(()) };
        let helps = match body {
            Body::AppendAccepted { .. } | Body::HeartbeatResponse { .. } => {
                if let Some((of, leader, heard)) = &promise.leader
                    && (of, leader) == (term, to)
                {
                    promise.owed = Some((leader.clone(), *heard));
                }
                return Ok(());
            }
            Body::VoteResponse { granted: true } => to,
            Body::VoteRequest { transfer: false, .. } => &host.id,
            _ => return Ok(()),
        };
        let Some((leader, since)) = promise.owed.as_ref().filter(|(leader, _)| leader != helps) else {
            return Ok(());
        };
        let past = host.clock.monotonic(now).since(*since);
        if past >= lease || promise.excused.as_ref() == Some(&(helps.clone(), *term)) {
            return Ok(());
        }
        Err(format!(
            "lease promised: {} helps {helps} to power in term {term}, {} µs after it heard {leader}, which may count on \
             {} µs",
            host.id,
            past.as_micros(),
            lease.as_micros()
        ))
    }

    /// A node has lost everything.
    pub fn forget(&mut self, node: &NodeId) {
        self.voters.remove(node);
    }
}
