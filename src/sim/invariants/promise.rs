//! Nothing is said before it is durable (Raft paper, section 5 and figure 2): a term, a vote, an acknowledged entry.
//!
//! Looked at where it happens, against what the disks have acknowledged; a crash in the worst moment is not needed to
//! find a breach.

use crate::node::frame::Frame;
use crate::raft::Body;
use crate::types::NodeId;

use crate::sim::host::Host;

/// A host says something to another.
pub fn kept(host: &Host, to: &NodeId, frame: &Frame) -> Result<(), String> {
    let Frame::Raft(message) = frame else { return Ok(()) };
    let disk = &host.acknowledged;
    let breach = |what: String| Err(format!("said before it is durable: {} tells {to} {what}", host.id));
    // As for entries below: a snapshot that was installed just before a crash tells of a term that the log may not know.
    if message.term > disk.hard_state.term.max(host.flushed_term) {
        return breach(format!("of term {}, its disk knows {}", message.term, disk.hard_state.term));
    }
    let of_this_term = message.term == disk.hard_state.term;
    match &message.body {
        Body::VoteResponse { granted: true } if of_this_term && disk.hard_state.vote.as_ref() != Some(to) => {
            breach(format!("that it votes for it in term {}", message.term))
        }
        Body::AppendAccepted { matched, .. } | Body::HeartbeatResponse { matched, .. }
            // A snapshot that was installed just before a crash is durable as a state before the log knows of it.
            if *matched > disk.last().max(host.flushed) =>
        {
            breach(format!("that it holds {matched}, its disk ends at {}", disk.last()))
        }
        _ => Ok(()),
    }
}
