//! Puts what happens in a history into words that a person can follow.

use crate::ledger::apply::Happening;
use crate::ledger::command::{Answer, Rejection};
use crate::node::frame::Frame;
use crate::node::handle::Failure;
use crate::node::io::Notice;
use crate::node::requests::Outcome;
use crate::raft::{Body, Entry, Event, Message, Payload, Position};

use super::trace::Weight;

fn position(at: Position) -> String {
    format!("{}/{}", at.index, at.term)
}

/// A frame.
pub fn frame(frame: &Frame) -> String {
    match frame {
        Frame::Raft(message) => raft(message),
        Frame::Snapshot(chunk) => {
            let last = if chunk.last { ", the last" } else { "" };
            format!("snapshot of {} part {}{last}", chunk.base.index, chunk.part)
        }
        other => format!("{other:?}"),
    }
}

fn raft(message: &Message) -> String {
    let term = message.term;
    match &message.body {
        Body::PreVoteRequest { last, .. } => {
            format!("would you vote for me after term {term}? my log ends at {}", position(*last))
        }
        Body::PreVoteResponse { granted: true, .. } => format!("I would vote for you (term {term})"),
        Body::PreVoteResponse { granted: false, .. } => format!("I would not vote for you (term {term})"),
        Body::VoteRequest { last, .. } => {
            format!("vote for me in term {term}! my log ends at {}", position(*last))
        }
        Body::VoteResponse { granted: true } => format!("my vote of term {term} is yours"),
        Body::VoteResponse { granted: false } => format!("no vote in term {term}"),
        Body::AppendRequest { previous, entries, commit, round } => {
            let what = match (entries.first(), entries.last()) {
                (Some(first), Some(last)) if first.index != last.index => {
                    format!("entries {} to {}", first.index, last.index)
                }
                (Some(only), _) => format!("entry {} ({})", only.index, payload(only)),
                _ => "no entries".to_string(),
            };
            format!("term {term}: after {} {what}; committed {commit}, round {round}", position(*previous))
        }
        Body::AppendAccepted { matched, round, .. } => {
            format!("term {term}: I have all up to {matched}, round {round}")
        }
        Body::AppendRejected { previous, hint, .. } => {
            format!("term {term}: nothing fits at {previous}; try {}", position(*hint))
        }
        Body::Heartbeat { commit, round } => {
            format!("term {term}: I lead; committed {commit}, round {round}")
        }
        Body::HeartbeatResponse { matched, round, .. } => {
            format!("term {term}: I follow, and have all up to {matched}, round {round}")
        }
        Body::NewerTerm => format!("your term is over, this is {term}"),
        Body::TimeoutNow { .. } => format!("term {term}: stand at once, you are to lead"),
    }
}

fn payload(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Noop => "empty".to_string(),
        Payload::Configuration(configuration) => format!("voters {:?}", configuration.voters),
        Payload::Command(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// How much a notice matters in a trace; `None`: it is not told.
pub fn notice(notice: &Notice) -> Option<Weight> {
    match notice {
        Notice::Pinged(_) | Notice::Committed(_) => None,
        Notice::Raft(Event::ElectionStarted { pre_vote: true, .. } | Event::VoteCast { .. }) => {
            Some(Weight::Detail)
        }
        Notice::Raft(_) | Notice::SnapshotInstalled { .. } | Notice::Stalled(_) => Some(Weight::Main),
        Notice::Ledger(Happening::IntervalSettled { .. }) => Some(Weight::Main),
        _ => Some(Weight::Detail),
    }
}

/// A notice in words.
pub fn words(notice: &Notice) -> String {
    match notice {
        Notice::Raft(event) => match event {
            Event::ElectionStarted { term, pre_vote: true, reason } => {
                format!("asks whether it could lead term {term} ({})", reason.as_str())
            }
            Event::ElectionStarted { term, reason, .. } => {
                format!("stands in term {term} ({})", reason.as_str())
            }
            Event::BecameLeader { term, votes, .. } => {
                let votes: Vec<&str> = votes.iter().map(|node| node.as_str()).collect();
                format!("LEADS term {term}, with the votes of {}", votes.join(", "))
            }
            Event::FollowsLeader { term, leader } => format!("follows {leader} in term {term}"),
            Event::SteppedDown { term, reason } => format!("leads term {term} no more: {reason:?}"),
            Event::ConfigurationChanged { index, configuration } => {
                let voters: Vec<&str> = configuration.voters.iter().map(|node| node.as_str()).collect();
                let learners: Vec<&str> = configuration.learners.iter().map(|node| node.as_str()).collect();
                format!(
                    "holds the configuration at {index} committed: voters {voters:?}, learners {learners:?}"
                )
            }
            other => format!("{other:?}"),
        },
        Notice::Ledger(Happening::IntervalSettled { interval, .. }) => format!("settles interval {interval}"),
        Notice::SnapshotInstalled { from, index } => {
            format!("replaces its state by a snapshot of {from} up to {index}")
        }
        Notice::Stalled(span) => format!("notices that it stood still for {} ms", span.as_millis()),
        other => format!("{other:?}"),
    }
}

/// Which bound an answer tells of, if one.
pub fn bound(outcome: &Outcome) -> Option<&'static str> {
    let failure = match outcome {
        Outcome::Write(Ok(applied)) => {
            return match &applied.answer {
                Answer::Rejected(Rejection::KeyExpired(_)) => Some("answers remembered"),
                Answer::Rejected(Rejection::SessionExpired(_)) => Some("sessions"),
                _ => None,
            };
        }
        Outcome::Read(Ok(_)) | Outcome::Change(Ok(_)) | Outcome::Transfer(Ok(_)) => return None,
        Outcome::Write(Err(failure)) => (failure, "requests or uncommitted bytes"),
        Outcome::Read(Err(failure)) => (failure, "requests or reads"),
        Outcome::Change(Err(failure)) | Outcome::Transfer(Err(failure)) => (failure, "requests"),
    };
    (*failure.0 == Failure::Overloaded).then_some(failure.1)
}
