//! Client sessions: each request of a session is executed at most once, for as long as the cluster lives (Raft
//! dissertation, section 6.3).
//!
//! A session remembers the answers that its client may not have. The client says which those are: everything below its
//! lowest unanswered sequence is dropped, and refused if it still arrives. So a session costs little, and a request that
//! was held up on its way for an hour does no harm.
//!
//! Sessions end by log time and by number, so that every node ends the same ones. Whoever comes to a session that has
//! ended hears so. It is never opened again by itself: a request whose answer went with it would be executed twice.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::codec::Hash;
use crate::types::{Index, SessionId, UnixMillis};

use super::apply::{Entry, Step, Stop};
use super::command::{Answer, InSession, Rejection};
use super::idempotency::{Found, Remembered};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::limits::Limits;
use super::table;

/// A session ends when it was not used for so long, in milliseconds of log time.
pub const SESSION_IDLE_MS: i64 = 3_600_000;
/// How many sessions there are; the one that was not used for longest goes first.
pub const SESSIONS_MAX: u64 = 10_000;
/// Bytes of all remembered answers together; again the session that was not used for longest goes first.
pub const SESSION_BYTES_MAX: u64 = 16 << 20;
/// How far sequences may be ahead of the lowest unanswered one, and so how many answers one session holds.
pub const SESSION_WINDOW: u64 = 1_024;
/// How many sessions one command clears away at most, so that no single command pays for an hour of others. More than one
/// command can open, so the bounds hold all the same.
const CLEARED_AT_ONCE_MAX: usize = 16;
/// What an answer costs besides its own bytes: its key, and what the store adds.
const ANSWER_OVERHEAD_BYTES: u64 = 32;

/// A session, without its answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    /// The position of its last use: its place in the order of age.
    used: Index,
    /// Log time of its last use.
    used_at: UnixMillis,
    /// What is below is forgotten.
    lowest_unanswered: u64,
    /// Bytes of its answers.
    bytes: u64,
}

/// All sessions together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionTotals {
    /// How many there are.
    pub sessions: u64,
    /// Bytes of their answers.
    pub bytes: u64,
}

fn is_expired(used_at: UnixMillis, now: UnixMillis) -> bool {
    now.0.saturating_sub(used_at.0) >= SESSION_IDLE_MS
}

fn gone(id: SessionId) -> Rejection {
    Rejection::SessionExpired(format!(
        "session {id} is not known: it was not used for too long, had to make room, was closed, or never was. This try \
         did nothing; whether an earlier one did is not known any more"
    ))
}

/// The session, if it has not ended.
fn open_session(reader: &dyn Reader, id: SessionId, now: UnixMillis) -> Result<Session, Stop> {
    match table::read::<Session>(reader, &keys::session(id))? {
        Some(session) if !is_expired(session.used_at, now) => Ok(session),
        _ => Err(gone(id).into()),
    }
}

/// What is known of a request of a session. Everything that may not be executed is refused here.
pub(super) fn find(
    reader: &dyn Reader,
    place: InSession,
    command: Hash,
    now: UnixMillis,
) -> Result<Found, Stop> {
    let InSession { session: id, sequence, lowest_unanswered } = place;
    if sequence == 0 || lowest_unanswered > sequence {
        let why = format!(
            "sequences begin at 1, and the lowest unanswered one ({lowest_unanswered}) is at most this one ({sequence})"
        );
        return Err(Rejection::BadRequest(why).into());
    }
    let session = open_session(reader, id, now)?;
    if sequence < session.lowest_unanswered {
        let why = format!(
            "sequence {sequence} of session {id}: its client has said that it waits for none below {}. This try did \
             nothing",
            session.lowest_unanswered
        );
        return Err(Rejection::OutsideWindow(why).into());
    }
    if let Some(known) = table::read::<Remembered>(reader, &keys::session_answer(id, sequence))? {
        return Ok(known.answer_to(command));
    }
    let lowest = session.lowest_unanswered.max(lowest_unanswered);
    if sequence - lowest >= SESSION_WINDOW {
        let why = format!(
            "sequence {sequence} of session {id} is {SESSION_WINDOW} or more ahead of the lowest unanswered one, {lowest}"
        );
        return Err(Rejection::OutsideWindow(why).into());
    }
    Ok(Found::Nothing)
}

/// The session was used at this position and log time: it is young again, and forgets what its client has.
pub(super) fn touch(
    space: &mut dyn Keyspace,
    place: InSession,
    at: (Index, UnixMillis),
    limits: Limits,
) -> Result<(), KeyspaceError> {
    change(space, place, at, None, limits)
}

/// Remembers the answer to a request that [`find`] knew nothing of.
pub(super) fn remember(
    space: &mut dyn Keyspace,
    place: InSession,
    answer: &Remembered,
    limits: Limits,
) -> Result<(), KeyspaceError> {
    change(space, place, (answer.applied.index, answer.at), Some(answer), limits)
}

fn change(
    space: &mut dyn Keyspace,
    place: InSession,
    (index, now): (Index, UnixMillis),
    answer: Option<&Remembered>,
    limits: Limits,
) -> Result<(), KeyspaceError> {
    let id = place.session;
    let mut session: Session = table::expect(&*space, &keys::session(id))?;
    let mut totals: SessionTotals = table::read_or_default(&*space, keys::SESSION_TOTALS)?;
    totals.bytes = totals.bytes.saturating_sub(session.bytes);
    if place.lowest_unanswered > session.lowest_unanswered {
        let upto = keys::session_answer(id, place.lowest_unanswered);
        session.bytes = session.bytes.saturating_sub(forget(space, id, &upto)?);
        session.lowest_unanswered = place.lowest_unanswered;
    }
    if let Some(answer) = answer {
        let value = crate::codec::encode(answer);
        session.bytes += value.len() as u64 + ANSWER_OVERHEAD_BYTES;
        space.put(&keys::session_answer(id, place.sequence), &value)?;
    }
    totals.bytes += session.bytes;
    table::write(space, keys::SESSION_TOTALS, &totals)?;
    used(space, id, session, (index, now))?;
    make_room(space, now, limits)
}

/// Puts a session at the young end of the order.
fn used(
    space: &mut dyn Keyspace,
    id: SessionId,
    mut session: Session,
    (index, now): (Index, UnixMillis),
) -> Result<(), KeyspaceError> {
    space.delete(&keys::session_age(session.used))?;
    (session.used, session.used_at) = (index, now);
    table::write(space, &keys::session_age(index), &(now, id))?;
    table::write(space, &keys::session(id), &session)
}

/// Drops the answers of a session before the key `upto`; gives their bytes.
fn forget(space: &mut dyn Keyspace, id: SessionId, upto: &[u8]) -> Result<u64, KeyspaceError> {
    let (mut going, mut bytes) = (Vec::new(), 0);
    let from = keys::session_answer(id, 0);
    table::visit(&*space, Bound::Included(&from), upto, Direction::Forward, &mut |key, value| {
        bytes += value.len() as u64 + ANSWER_OVERHEAD_BYTES;
        going.push(key.to_vec());
        Ok(true)
    })?;
    going.iter().try_for_each(|key| space.delete(key))?;
    Ok(bytes)
}

/// Ends the oldest sessions: the expired ones, and as many as are beyond the bounds.
fn make_room(space: &mut dyn Keyspace, now: UnixMillis, limits: Limits) -> Result<(), KeyspaceError> {
    for _ in 0..CLEARED_AT_ONCE_MAX {
        let totals: SessionTotals = table::read_or_default(&*space, keys::SESSION_TOTALS)?;
        let full = totals.sessions > limits.sessions || totals.bytes > limits.session_bytes;
        let oldest = table::edge(&*space, &[keys::SESSION_AGE_TABLE], Direction::Forward)?;
        let Some((key, value)) = oldest else { return Ok(()) };
        let (used_at, id): (UnixMillis, SessionId) = table::parse(&key, &value)?;
        if !full && !is_expired(used_at, now) {
            return Ok(());
        }
        let session: Session = table::expect(&*space, &keys::session(id))?;
        end(space, id, &session)?;
    }
    Ok(())
}

fn end(space: &mut dyn Keyspace, id: SessionId, session: &Session) -> Result<(), KeyspaceError> {
    forget(space, id, &keys::session_answer(id.next(), 0))?;
    space.delete(&keys::session_age(session.used))?;
    space.delete(&keys::session(id))?;
    let mut totals: SessionTotals = table::read_or_default(&*space, keys::SESSION_TOTALS)?;
    totals.sessions = totals.sessions.saturating_sub(1);
    totals.bytes = totals.bytes.saturating_sub(session.bytes);
    table::write(space, keys::SESSION_TOTALS, &totals)
}

fn opened(id: SessionId) -> Answer {
    Answer::Session { session: id, expires_after_ms: SESSION_IDLE_MS.unsigned_abs() }
}

/// [`super::command::Command::SessionOpen`].
pub(super) fn open(space: &mut dyn Keyspace, entry: &Entry<'_>) -> Step {
    let id = SessionId(entry.index.0);
    let session = Session { used: entry.index, used_at: entry.at, lowest_unanswered: 1, bytes: 0 };
    let mut totals: SessionTotals = table::read_or_default(&*space, keys::SESSION_TOTALS)?;
    totals.sessions += 1;
    table::write(space, keys::SESSION_TOTALS, &totals)?;
    used(space, id, session, (entry.index, entry.at))?;
    make_room(space, entry.at, entry.limits)?;
    Ok(opened(id))
}

/// [`super::command::Command::SessionKeepAlive`].
pub(super) fn keep_alive(space: &mut dyn Keyspace, entry: &Entry<'_>, id: SessionId) -> Step {
    let session = open_session(&*space, id, entry.at)?;
    used(space, id, session, (entry.index, entry.at))?;
    make_room(space, entry.at, entry.limits)?;
    Ok(opened(id))
}

/// [`super::command::Command::SessionClose`].
pub(super) fn close(space: &mut dyn Keyspace, entry: &Entry<'_>, id: SessionId) -> Step {
    let session = open_session(&*space, id, entry.at)?;
    end(space, id, &session)?;
    make_room(space, entry.at, entry.limits)?;
    Ok(Answer::Done)
}
