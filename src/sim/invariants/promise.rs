//! Nothing is said before it is durable (Raft paper, section 5 and figure 2): a term, a vote, an acknowledged entry. And
//! nothing is committed that is not on the disks of a majority.
//!
//! Both are looked at where they happen, against what the disks have acknowledged; a crash in the worst moment is not
//! needed to find a breach.

use crate::node::frame::Frame;
use crate::raft::{Body, Entry, Recovered};
use crate::types::{Index, NodeId};

use crate::sim::host::Host;

/// A host says something to another.
pub fn kept(host: &Host, to: &NodeId, frame: &Frame) -> Result<(), String> {
    let Frame::Raft(message) = frame else { return Ok(()) };
    let disk = &host.acknowledged;
    let breach = |what: String| Err(format!("said before it is durable: {} tells {to} {what}", host.id));
    if message.term > disk.hard_state.term {
        return breach(format!("of term {}, its disk knows {}", message.term, disk.hard_state.term));
    }
    let of_this_term = message.term == disk.hard_state.term;
    match &message.body {
        Body::VoteResponse { granted: true } if of_this_term && disk.hard_state.vote.as_ref() != Some(to) => {
            breach(format!("that it votes for it in term {}", message.term))
        }
        Body::AppendAccepted { matched, .. } | Body::HeartbeatResponse { matched, .. }
            if *matched > disk.last() =>
        {
            breach(format!("that it holds {matched}, its disk ends at {}", disk.last()))
        }
        _ => Ok(()),
    }
}

/// An entry is seen committed for the first time.
pub fn on_a_majority(hosts: &[Host], entry: &Entry) -> Result<(), String> {
    let holders = hosts.iter().filter(|host| holds(&host.acknowledged, entry)).count();
    if holders * 2 > hosts.len() {
        return Ok(());
    }
    Err(format!(
        "committed on a majority: {} of term {} is on {holders} disks of {}",
        entry.index,
        entry.term,
        hosts.len()
    ))
}

fn holds(disk: &Recovered, entry: &Entry) -> bool {
    // Only what is committed is forgotten.
    let forgotten: Index = disk.base.index;
    entry.index <= forgotten || disk.term_at(entry.index) == Some(entry.term)
}
