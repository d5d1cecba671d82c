//! How far MongoDB is. It reaches the state through the log, or nodes would trim differently.

use crate::types::IntervalId;

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::elections;
use super::keys;
use super::keyspace::Keyspace;
use super::records::{Checkpoint, IntervalState, Totals};
use super::table;

/// [`super::command::Command::Projected`]. Each field only moves forward, so that late and overlapping writers do no
/// harm; a checkpoint beyond what exists is refused, or records would be skipped.
pub(super) fn projected(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    claimed: &Checkpoint,
    happenings: &mut Vec<Happening>,
) -> Step {
    let totals: Totals = table::read_or_default(&*space, keys::TOTALS)?;
    let state: Option<IntervalState> = table::read(&*space, keys::INTERVALS)?;
    let next_settle = state.map_or(IntervalId(1), |state| state.next_settle);
    let beyond = claimed.rewards > totals.records
        || claimed.intervals >= next_settle
        || claimed.elections > elections::newest(&*space)?
        || claimed.members > entry.index;
    if beyond {
        return Err(
            Rejection::BadRequest("the checkpoint is beyond what the ledger holds".to_string()).into()
        );
    }
    let before: Checkpoint = table::read_or_default(&*space, keys::CHECKPOINT)?;
    let after = Checkpoint {
        rewards: before.rewards.max(claimed.rewards),
        intervals: before.intervals.max(claimed.intervals),
        elections: before.elections.max(claimed.elections),
        members: before.members.max(claimed.members),
    };
    if after != before {
        table::write(space, keys::CHECKPOINT, &after)?;
        happenings.push(Happening::Projected(after));
    }
    Ok(Answer::Done)
}
