//! A leader whose disk finishes nothing does not go on leading: after the longest election timeout it steps down, without
//! needing the disk (safety rule 10, hazard 37).

use std::time::Duration;

use crate::raft::{Role, Status};
use crate::types::Micros;

use crate::sim::host::Host;

/// How much later than at the very moment a leader may be seen to step down: its steps are not continuous.
const GRACE: Duration = Duration::from_millis(20);

/// After every step of a host; `now`: by its own clock.
pub fn gives_way(host: &Host, status: &Status, now: Micros) -> Result<(), String> {
    let Some(since) = host.writing_since().filter(|_| status.role == Role::Leader) else { return Ok(()) };
    let pending = now.since(since);
    if pending <= host.settings.raft.election_max + GRACE {
        return Ok(());
    }
    Err(format!(
        "a stuck leader gives way: {} leads term {} while its disk has been writing for {} ms",
        host.id,
        status.term,
        pending.as_millis()
    ))
}
