//! Announced maintenance: intervals in which a member may be dark without losing anything, and earns nothing.
//!
//! It is announced for intervals that have not begun, so that nobody excuses what has already happened. What was
//! announced stays on record: it is part of the evidence.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::types::{IntervalId, MemberId, UnixMillis};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::intervals;
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::records::{Member, MemberStatus};
use super::roster;
use super::table;

/// How many intervals of maintenance a member may announce within [`WITHIN_MS`].
pub const INTERVALS_MAX: u64 = 60;
/// Thirty days of log time.
pub const WITHIN_MS: i64 = 30 * 24 * 3_600_000;
/// How far ahead of the open interval maintenance may begin, in intervals.
pub const AHEAD_MAX: u64 = 100_000;

/// Some intervals in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first.
    pub from: IntervalId,
    /// The last.
    pub to: IntervalId,
    /// Log time of the announcement.
    pub at: UnixMillis,
}

impl Window {
    /// How many intervals it has.
    pub fn length(&self) -> u64 {
        (self.to.0 - self.from.0).saturating_add(1)
    }

    fn holds(&self, interval: IntervalId) -> bool {
        self.from <= interval && interval <= self.to
    }
}

/// What a member has announced, in the order of the announcements.
pub fn windows(reader: &dyn Reader, member: &MemberId) -> Result<Vec<Window>, KeyspaceError> {
    table::read_or_default(reader, &keys::maintenance(member))
}

/// The names of the members that are excused in an interval.
pub fn excused(reader: &dyn Reader, interval: IntervalId) -> Result<BTreeSet<String>, KeyspaceError> {
    let prefix = [keys::MAINTENANCE_TABLE];
    let mut excused = BTreeSet::new();
    let end = keys::prefix_end(&prefix);
    table::visit(reader, Bound::Included(&prefix), &end, Direction::Forward, &mut |key, value| {
        let windows: Vec<Window> = table::parse(key, value)?;
        if windows.iter().any(|window| window.holds(interval)) {
            let name = std::str::from_utf8(&key[1..]).map_err(|_| table::damaged(key, "not a name"))?;
            excused.insert(name.to_string());
        }
        Ok(true)
    })?;
    Ok(excused)
}

/// [`super::command::Command::Maintain`].
pub(super) fn maintain(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    id: &MemberId,
    (from, intervals): (Option<IntervalId>, u64),
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = intervals::state(&*space)?;
    let present = |member: &Member| member.status != MemberStatus::Left;
    if !roster::get(&*space, id)?.as_ref().is_some_and(present) {
        return Err(Rejection::NotFound(format!("member {id}")).into());
    }
    let next = state.open.next();
    let from = from.unwrap_or(next);
    if intervals == 0 || intervals > INTERVALS_MAX {
        let why = format!("maintenance takes 1 to {INTERVALS_MAX} intervals, not {intervals}");
        return Err(Rejection::BadRequest(why).into());
    }
    if from < next || from.0 > next.0.saturating_add(AHEAD_MAX) {
        let why = format!(
            "maintenance is announced ahead: it begins with interval {next} to {}, not {from}",
            next.0.saturating_add(AHEAD_MAX)
        );
        return Err(Rejection::BadRequest(why).into());
    }
    let window = Window { from, to: IntervalId(from.0.saturating_add(intervals - 1)), at: entry.at };
    let mut windows = windows(&*space, id)?;
    if let Some(other) = windows.iter().find(|other| other.from <= window.to && window.from <= other.to) {
        let why =
            format!("{id} has announced maintenance for intervals {} to {} already", other.from, other.to);
        return Err(Rejection::Conflict(why).into());
    }
    let recent = windows.iter().filter(|window| entry.at.0.saturating_sub(window.at.0) < WITHIN_MS);
    let announced: u64 = recent.map(Window::length).sum();
    if announced + intervals > INTERVALS_MAX {
        let why = format!(
            "{id} has announced {announced} intervals of maintenance within 30 days, and {INTERVALS_MAX} is the limit: {} \
             are left",
            INTERVALS_MAX.saturating_sub(announced)
        );
        return Err(Rejection::Conflict(why).into());
    }
    windows.push(window);
    table::write(space, &keys::maintenance(id), &windows)?;
    let Window { from, to, .. } = window;
    happenings.push(Happening::MaintenanceAnnounced { member: id.clone(), from, to });
    Ok(Answer::Maintenance { from, to, left: INTERVALS_MAX - announced - intervals })
}
