//! While a leader may read by its lease, nobody else commits anything (Raft dissertation, section 6.4.1): the lease is
//! over before a rival can be elected, whatever clocks, pauses, restarts and transfers do.
//!
//! A stale read needs a client that asks at the right moment; here it is enough that it could.

use crate::raft::{Role, Status};
use crate::types::Micros;

use crate::sim::host::Host;

/// A host has committed something new. `now`: the world's time.
pub fn is_over(hosts: &[Host], host: &Host, status: &Status, now: Micros) -> Result<(), String> {
    if status.role != Role::Leader {
        return Ok(());
    }
    for other in hosts.iter().filter(|other| other.id != host.id) {
        let Some(alive) = &other.alive else { continue };
        let rival = alive.node.raft_status();
        let own_time = other.clock.monotonic(now);
        let left = rival.lease_until.map_or(0, |until| until.0.saturating_sub(own_time.0));
        if rival.term < status.term && left > 0 {
            return Err(format!(
                "lease outlived: {} commits in term {} while {} may read by its lease of term {} for {left} µs more",
                host.id, status.term, other.id, rival.term
            ));
        }
    }
    Ok(())
}
