//! Forgetting: settled intervals that are old enough, with their evidence and all movements up to their ends.
//!
//! How long history is kept is a setting of each node, but what is forgotten is decided by log entries, which the leader
//! proposes: so all nodes forget the same at the same place of the log, whatever their settings, and their states stay equal.
//! Once anything has been projected, nothing is forgotten that MongoDB does not have.
//!
//! What remains of the forgotten part are its sums and the heads of both chains ([`Trimmed`]): the chains that are kept go
//! on from there, and a check of the ledger begins there. Members, their balances, elections and policies are never
//! forgotten.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::types::IntervalId;

use super::accounts;
use super::apply::{Happening, Step};
use super::command::{Answer, Rejection};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::records::{Checkpoint, Interval, Movement, Totals, Verdict};
use super::table;
use super::verify;

/// So many settled intervals are always kept: what the rules look back at, and what somebody may still ask about.
pub const KEPT_INTERVALS_MIN: u64 = 10;
/// Most intervals that one log entry forgets, so that none takes long to apply.
pub const TRIM_INTERVALS_MAX: u64 = 4;

/// What is left of the history that was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// The last interval that was forgotten; 0: none.
    pub through: IntervalId,
    /// Sums and heads of the chains as of its end.
    pub totals: Totals,
    /// How many intervals in a row were correlated up to there.
    pub correlated: u64,
}

/// What was forgotten so far.
pub fn trimmed(reader: &dyn Reader) -> Result<Trimmed, KeyspaceError> {
    table::read_or_default(reader, keys::TRIMMED)
}

/// [`super::command::Command::Trim`].
pub(super) fn trim(
    space: &mut dyn Keyspace,
    through: IntervalId,
    projected: bool,
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = super::intervals::state(&*space)?;
    let mut trimmed = trimmed(&*space)?;
    if through <= trimmed.through {
        return Err(Rejection::Stale(format!("interval {through} is forgotten already")).into());
    }
    if through.0.saturating_add(KEPT_INTERVALS_MIN) >= state.next_settle.0 {
        let why =
            format!("the last {KEPT_INTERVALS_MIN} settled intervals are kept, and {through} is among them");
        return Err(Rejection::BadRequest(why).into());
    }
    let last = IntervalId(through.0.min(trimmed.through.0.saturating_add(TRIM_INTERVALS_MAX)));
    let checkpoint: Checkpoint = table::read_or_default(&*space, keys::CHECKPOINT)?;
    let record: Interval = table::expect(&*space, &keys::interval(last))?;
    let follows = projected || checkpoint != Checkpoint::default();
    if follows && (checkpoint.intervals < last || checkpoint.rewards < record.last_seq) {
        return Err(Rejection::Conflict(format!("interval {last} is not projected yet")).into());
    }
    while trimmed.through < last {
        forget(space, &mut trimmed)?;
    }
    table::write(space, keys::TRIMMED, &trimmed)?;
    happenings.push(Happening::HistoryTrimmed { through: last, records: trimmed.totals.records });
    Ok(Answer::Done)
}

/// Forgets the oldest interval that is left, and the movements up to its end.
fn forget(space: &mut dyn Keyspace, trimmed: &mut Trimmed) -> Result<(), KeyspaceError> {
    let id = trimmed.through.next();
    let record: Interval = table::expect(&*space, &keys::interval(id))?;
    forget_movements(space, &mut trimmed.totals, record.last_seq)?;
    for table in [keys::HEAD_TABLE, keys::ROWS_TABLE, keys::JUDGEMENT_TABLE] {
        let prefix = keys::numbered(table, id.0);
        for key in keys_between(&*space, &prefix, &keys::prefix_end(&prefix))? {
            space.delete(&key)?;
        }
    }
    space.delete(&keys::cut(id))?;
    space.delete(&keys::interval(id))?;
    trimmed.through = id;
    trimmed.totals.interval_hash = record.hash;
    trimmed.correlated =
        if record.verdict == Verdict::Correlated { trimmed.correlated.saturating_add(1) } else { 0 };
    Ok(())
}

/// Forgets the movements up to a sequence, at which an interval ends, so that no block reaches beyond it. `totals` are
/// those before the first of them, and become those after the last.
fn forget_movements(
    space: &mut dyn Keyspace,
    totals: &mut Totals,
    last_seq: u64,
) -> Result<(), KeyspaceError> {
    let end = keys::movement(last_seq.saturating_add(1));
    for key in keys_between(&*space, &[keys::MOVEMENT_TABLE], &end)? {
        let movements: Vec<Movement> = table::expect(&*space, &key)?;
        for movement in &movements {
            let after = accounts::tally(totals, movement.kind, movement.amount);
            *totals = after.ok_or_else(|| table::damaged(&key, "no amount for its kind"))?;
            totals.head_hash = movement.hash;
            if !verify::is_payment(movement) {
                space.delete(&keys::statement(&movement.member, movement.seq))?;
            }
        }
        space.delete(&key)?;
    }
    if totals.records == last_seq {
        return Ok(());
    }
    let why = format!("the movements that are left end at {}", totals.records);
    Err(table::damaged(&keys::movement(last_seq), why))
}

fn keys_between(reader: &dyn Reader, from: &[u8], end: &[u8]) -> Result<Vec<Vec<u8>>, KeyspaceError> {
    let mut found = Vec::new();
    table::visit(reader, Bound::Included(from), end, Direction::Forward, &mut |key, _| {
        found.push(key.to_vec());
        Ok(true)
    })?;
    Ok(found)
}
