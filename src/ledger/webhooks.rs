//! How far each webhook has been told. It reaches the state through the log, so that the next leader goes on where the last
//! one was, and nothing that the ledger holds is left untold.
//!
//! A hook is told of elections, settled intervals and movements, in the order of each. Its cursor names the last of each
//! that it has confirmed. A hook that is new begins with what is there by then: its first cursor says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Index, IntervalId, Term, Version};

use super::apply::{Entry, Step};
use super::command::{Answer, Rejection};
use super::elections;
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::query;
use super::records::{IntervalState, Totals};
use super::table;

/// Longest name of a hook, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// So many hooks are remembered; then the one whose cursor has not moved for the longest is forgotten.
pub const HOOKS_MAX: usize = 32;
/// The first version that knows [`super::command::Command::Notified`].
pub const SINCE: Version = Version { major: 0, minor: 1, patch: 0 };

/// How far one hook is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCursor {
    /// The term of the last election that it was told of.
    pub elections: Term,
    /// The last interval, with all that was decided in it.
    pub intervals: IntervalId,
    /// The ledger sequence of the last movement.
    pub rewards: u64,
}

/// What is remembered of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// How far it is.
    pub cursor: HookCursor,
    /// The log entry that moved it last.
    pub index: Index,
}

/// All hooks by name; at most [`HOOKS_MAX`].
pub type Hooks = BTreeMap<String, HookState>;

/// All hooks.
pub(super) fn hooks(reader: &dyn Reader) -> Result<Hooks, KeyspaceError> {
    table::read_or_default(reader, keys::WEBHOOKS)
}

/// Where the ledger ends now: a hook that begins here is told of what comes.
pub fn newest(reader: &dyn Reader) -> Result<HookCursor, KeyspaceError> {
    let totals: Totals = query::totals(reader)?;
    let state: Option<IntervalState> = query::interval_state(reader)?;
    Ok(HookCursor {
        elections: elections::newest(reader)?,
        intervals: IntervalId(state.map_or(0, |state| state.next_settle.0.saturating_sub(1))),
        rewards: totals.records,
    })
}

/// Whether a name can be that of a hook: 1 to [`NAME_BYTES_MAX`] of a-z A-Z 0-9 . _ -
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

/// [`super::command::Command::Notified`]. Each field only moves forward, so that a proposal which comes late does no harm;
/// a cursor beyond what exists is refused, or something would be left out.
pub(super) fn notified(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    hook: &str,
    claimed: &HookCursor,
) -> Step {
    if !is_name(hook) {
        let why = format!("a webhook has a name of 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -");
        return Err(Rejection::BadRequest(why).into());
    }
    let end = newest(&*space)?;
    let beyond = claimed.elections > end.elections
        || claimed.intervals > end.intervals
        || claimed.rewards > end.rewards;
    if beyond {
        return Err(Rejection::BadRequest("the cursor is beyond what the ledger holds".to_string()).into());
    }
    let mut hooks = hooks(&*space)?;
    let before = hooks.get(hook).map(|state| state.cursor).unwrap_or_default();
    let cursor = HookCursor {
        elections: before.elections.max(claimed.elections),
        intervals: before.intervals.max(claimed.intervals),
        rewards: before.rewards.max(claimed.rewards),
    };
    hooks.insert(hook.to_string(), HookState { cursor, index: entry.index });
    if hooks.len() > HOOKS_MAX {
        let oldest = hooks.iter().min_by_key(|(_, state)| state.index).map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            hooks.remove(&oldest);
        }
    }
    table::write(space, keys::WEBHOOKS, &hooks)?;
    Ok(Answer::Done)
}
