//! A leader whose disk finishes nothing does not go on leading: after the longest election timeout it steps down, without
//! needing the disk (safety rule 10, hazard 37). Unless it is the only voter: nobody could lead in its place. And nobody
//! says that of a disk that was well: a process that stood still finds its last write unfinished only because it has not
//! heard yet.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::raft::{Role, Status};
use crate::types::{Micros, NodeId};

use crate::sim::host::Host;

/// How long a leader may be seen that should have stepped down: a process that stood still does first what was waiting.
const GRACE: Duration = Duration::from_millis(20);

/// A disk may be called degraded so long after it was last in trouble.
const BLAMED_WITHIN: Duration = Duration::from_secs(1);

/// A node calls its disk degraded at the world's time `now`: it must have been in trouble.
pub fn is_to_blame(host: &Host, pending: Duration, now: Micros) -> Result<(), String> {
    let troubled = host.troubled_at.is_some_and(|at| now.since(at) <= BLAMED_WITHIN);
    if troubled || host.trouble.is_slow_or_stuck(now) {
        return Ok(());
    }
    Err(format!(
        "a healthy disk is not blamed: {} says that its disk has been writing for {} ms, and nothing is wrong with it",
        host.id,
        pending.as_millis()
    ))
}

/// Watches leaders.
#[derive(Debug, Default)]
pub struct Watch {
    /// Since when a leader should have stepped down.
    overdue: BTreeMap<NodeId, Micros>,
}

impl Watch {
    /// After every step of a host; `now`: by its own clock.
    pub fn after_step(&mut self, host: &Host, status: &Status, now: Micros) -> Result<(), String> {
        let leads = status.role == Role::Leader && !status.configuration.is_sole_voter(&host.id);
        let pending = host.writing_since().filter(|_| leads).map(|since| now.since(since));
        let Some(pending) = pending.filter(|pending| *pending > host.settings.raft.election_max) else {
            self.overdue.remove(&host.id);
            return Ok(());
        };
        let since = *self.overdue.entry(host.id.clone()).or_insert(now);
        if now.since(since) <= GRACE {
            return Ok(());
        }
        let (id, term) = (&host.id, status.term);
        let pending = pending.as_millis();
        Err(format!(
            "a stuck leader gives way: {id} leads term {term} while its disk has been writing for {pending} ms"
        ))
    }
}
