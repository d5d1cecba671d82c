//! Changing the policy: revisions, and from which interval on each judges.

use crate::types::{Amount, IntervalId};

use super::apply::{Happening, Step, Stop};
use super::command::{Answer, Rejection};
use super::intervals;
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::policy::{ACTIVATION_AHEAD, Policy, Revision};
use super::table;

/// A revision that another record names.
pub(super) fn revision(reader: &dyn Reader, number: u64) -> Result<Revision, KeyspaceError> {
    table::expect(reader, &keys::policy(number))
}

/// [`super::command::Command::SetPolicy`].
pub(super) fn set(
    space: &mut dyn Keyspace,
    policy: &Policy,
    budget: Amount,
    activate_at: Option<IntervalId>,
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = intervals::state(&*space)?;
    let newest: u64 = table::expect(&*space, keys::POLICY_NEWEST)?;
    let before = revision(&*space, newest)?;
    let earliest = IntervalId(state.open.0.saturating_add(ACTIVATION_AHEAD)).max(before.activate_at);
    let activate_at = activate_at.unwrap_or(earliest);
    let after = Revision { policy: policy.clone(), budget, activate_at };
    after.check()?;
    if newest.checked_add(1) != Some(policy.revision) {
        let why =
            format!("the newest revision of the policy is {newest}, so the next is not {}", policy.revision);
        return Err(Rejection::Conflict(why).into());
    }
    if activate_at < earliest {
        let why = format!(
            "interval {} is open: revision {} comes into force with interval {earliest} at the earliest, not {activate_at}",
            state.open, policy.revision
        );
        return Err(Rejection::Conflict(why).into());
    }
    table::write(space, &keys::policy(policy.revision), &after)?;
    table::write(space, keys::POLICY_NEWEST, &policy.revision)?;
    happenings.push(Happening::PolicySet { revision: policy.revision, activate_at });
    Ok(Answer::PolicySet { revision: policy.revision, activate_at })
}

/// Brings the newest revision into force that is due with the interval `open`, which opens now.
pub(super) fn activate(
    space: &mut dyn Keyspace,
    open: IntervalId,
    happenings: &mut Vec<Happening>,
) -> Result<(), Stop> {
    let current: u64 = table::expect(&*space, keys::POLICY_REVISION)?;
    let newest: u64 = table::expect(&*space, keys::POLICY_NEWEST)?;
    // Each comes into force with or after the one before, so the first that is not due ends the search.
    let mut due = current;
    while due < newest && revision(&*space, due + 1)?.activate_at <= open {
        due += 1;
    }
    if due > current {
        table::write(space, keys::POLICY_REVISION, &due)?;
        happenings.push(Happening::PolicyActivated { revision: due, interval: open });
    }
    Ok(())
}
