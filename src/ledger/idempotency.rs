//! Idempotency keys: a retry gets the first answer instead of a second execution.
//!
//! Answers are forgotten by log time and by number, so that every node forgets the same ones. A key that is not known may
//! so be a new one, or an old one whose answer is forgotten; and where many write, a hundred thousand answers are a few
//! seconds' worth, less than a client tries for. So a key may say since when it can have been used: `@INDEX:ANYTHING` was
//! made by somebody who had seen that the log reaches to INDEX, so whatever was done under it was done after that. If an
//! answer may have been forgotten that was given after INDEX, an unknown key of that form is refused
//! ([`Rejection::KeyExpired`]) and never executed. A key of any other form is taken for a new one.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::codec::{self, Hash};
use crate::types::{Index, UnixMillis};

use super::command::{Applied, Command, IDEMPOTENCY_KEY_BYTES_MAX, Rejection};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::table;

/// How long an answer is remembered, in milliseconds of log time.
pub const REMEMBERED_MS: i64 = 3_600_000;
/// How many answers are remembered ([`super::limits::Limits::answers`]); the oldest goes first.
pub const REMEMBERED_MAX: u64 = 100_000;
/// How many old answers one new key clears away at most, so that no single command pays for an hour of others.
const CLEARED_AT_ONCE_MAX: usize = 256;

/// A remembered answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// Digest of the command that was answered.
    pub command: Hash,
    /// The answer. Its log index is an idempotency key's place in the order of age.
    pub applied: Applied,
    /// Log time of the answer.
    pub at: UnixMillis,
}

impl Remembered {
    /// What it says to somebody who comes with this command.
    pub fn answer_to(self, command: Hash) -> Found {
        if self.command == command { Found::Answer(self.applied) } else { Found::OtherCommand }
    }
}

fn is_expired(at: UnixMillis, now: UnixMillis) -> bool {
    now.0.saturating_sub(at.0) >= REMEMBERED_MS
}

/// What is known about a key, or about a sequence of a session.
pub(super) enum Found {
    /// Nothing: execute.
    Nothing,
    /// The same command was executed before.
    Answer(Applied),
    /// Another command was.
    OtherCommand,
    /// It is not known any more.
    Forgotten,
}

/// Digest of a command.
pub(super) fn digest(command: &Command) -> Hash {
    Hash(Sha256::digest(codec::encode(command)).into())
}

/// Whether a key may be used at all.
pub(super) fn check_key(key: &str) -> Result<(), Rejection> {
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !printable {
        let why = format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable characters");
        return Err(Rejection::BadRequest(why));
    }
    Ok(())
}

/// The position that the log had reached when a key was made, if the key says so: `@INDEX:ANYTHING`.
fn made_at(key: &str) -> Option<Index> {
    let (index, _) = key.strip_prefix('@')?.split_once(':')?;
    index.parse().ok().map(Index)
}

/// A key by somebody who has seen that the log reaches to `index`; see the module's head.
pub fn stamped(index: Index, key: &str) -> String {
    format!("@{index}:{key}")
}

/// Whether an answer that was given after `index` may be forgotten.
fn may_have_forgotten(reader: &dyn Reader, index: Index) -> Result<bool, KeyspaceError> {
    if reader.get(keys::FORGOTTEN)?.is_none() {
        return Ok(false);
    }
    // Whatever is forgotten was older than the oldest that is not.
    let oldest = table::edge(reader, &[keys::ANSWER_AGE_TABLE], Direction::Forward)?;
    Ok(oldest.is_none_or(|(age_key, _)| keys::answer_age(index.next()) < age_key))
}

/// Looks a key up.
pub(super) fn find(
    reader: &dyn Reader,
    key: &str,
    command: Hash,
    now: UnixMillis,
) -> Result<Found, KeyspaceError> {
    match table::read::<Remembered>(reader, &keys::answer(key))? {
        Some(found) if !is_expired(found.at, now) => Ok(found.answer_to(command)),
        expired => match made_at(key) {
            Some(made) if expired.is_some() || may_have_forgotten(reader, made)? => Ok(Found::Forgotten),
            _ => Ok(Found::Nothing),
        },
    }
}

/// Remembers an answer and forgets what is too old, or more than `most`.
pub(super) fn remember(
    space: &mut dyn Keyspace,
    key: &str,
    answer: &Remembered,
    most: u64,
) -> Result<(), KeyspaceError> {
    let now = answer.at;
    let mut count: u64 = table::read_or_default(&*space, keys::IDEMPOTENT_COUNT)?;
    // An expired answer under the same key that has not been cleared away yet.
    if let Some(old) = table::read::<Remembered>(&*space, &keys::answer(key))? {
        space.delete(&keys::answer_age(old.applied.index))?;
        table::write(space, keys::FORGOTTEN, &())?;
        count = count.saturating_sub(1);
    }
    let going = oldest(&*space, count, now, most)?;
    if !going.is_empty() && space.get(keys::FORGOTTEN)?.is_none() {
        table::write(space, keys::FORGOTTEN, &())?;
    }
    for (age_key, old_key) in going {
        space.delete(&age_key)?;
        space.delete(&keys::answer(&old_key))?;
        count = count.saturating_sub(1);
    }
    table::write(space, &keys::answer(key), answer)?;
    table::write(space, &keys::answer_age(answer.applied.index), &(now, key))?;
    table::write(space, keys::IDEMPOTENT_COUNT, &(count + 1))
}

/// The oldest answers that must go to make room for one more: the expired, and those above the bound.
fn oldest(
    reader: &dyn Reader,
    count: u64,
    now: UnixMillis,
    most: u64,
) -> Result<Vec<(Vec<u8>, String)>, KeyspaceError> {
    let prefix = [keys::ANSWER_AGE_TABLE];
    let excess = (count + 1).saturating_sub(most);
    let mut going = Vec::new();
    let end = keys::prefix_end(&prefix);
    table::visit(reader, Bound::Included(&prefix), &end, Direction::Forward, &mut |age_key, value| {
        let (at, key): (UnixMillis, String) = table::parse(age_key, value)?;
        if (going.len() as u64) >= excess && !is_expired(at, now) {
            return Ok(false);
        }
        going.push((age_key.to_vec(), key));
        Ok(going.len() < CLEARED_AT_ONCE_MAX)
    })?;
    Ok(going)
}
