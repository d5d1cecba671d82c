//! The record of who led when, and why the leader changed.

use std::collections::BTreeSet;

use crate::types::{NodeId, Term};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::members::NODES_MAX;
use super::records::Election;
use super::table;

/// Longest reason of an election, in bytes.
pub const REASON_BYTES_MAX: usize = 64;

/// The term of the newest recorded election.
pub(super) fn newest(reader: &dyn Reader) -> Result<Term, KeyspaceError> {
    let last = table::edge(reader, &[keys::ELECTION_TABLE], Direction::Backward)?;
    Ok(last.and_then(|(key, _)| keys::last_number(&key)).map_or(Term(0), Term))
}

/// [`super::command::Command::Election`]. Terms only grow, so that readers and the projection can page by term.
pub(super) fn election(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    term: Term,
    previous: Option<&NodeId>,
    (reason, leaderless_ms): (&str, u64),
    votes: &BTreeSet<NodeId>,
    happenings: &mut Vec<Happening>,
) -> Step {
    if reason.len() > REASON_BYTES_MAX || !reason.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = format!("a reason has up to {REASON_BYTES_MAX} printable characters");
        return Err(Rejection::BadRequest(why).into());
    }
    if votes.len() > NODES_MAX || i64::try_from(leaderless_ms).is_err() {
        return Err(Rejection::BadRequest("votes or leaderless time out of range".to_string()).into());
    }
    if term > entry.term || term == Term(0) {
        let why = format!("term {term} cannot be recorded in term {}", entry.term);
        return Err(Rejection::BadRequest(why).into());
    }
    let newest = newest(&*space)?;
    if term <= newest {
        return Err(Rejection::Stale(format!("the election of term {newest} is already recorded")).into());
    }
    let election = Election {
        term,
        leader: entry.leader.clone(),
        previous: previous.cloned(),
        reason: reason.to_string(),
        votes: votes.clone(),
        leaderless_ms,
        at: entry.at,
        index: entry.index,
    };
    table::write(space, &keys::election(term), &election)?;
    happenings.push(Happening::ElectionRecorded(election));
    Ok(Answer::Done)
}
