//! How a node that is asked to stop leaves: a leader hands over first, so that nobody has to notice its absence. Then new
//! requests are refused as `draining`, waiting ones are answered, and the state is flushed.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::node::handle::{Failure, Handle};
use crate::node::status::{NodeStatus, RoleName};

/// How long handing over may delay the end. A successor that is there takes over within milliseconds.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How long a leader that hears nobody waits for somebody: one that was elected a moment ago has not heard from the others yet.
const NOBODY_MAX: Duration = Duration::from_millis(500);
/// Between two looks for somebody.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether somebody else could lead.
fn leads_others(status: &NodeStatus) -> bool {
    status.role == RoleName::Leader && status.voters.iter().any(|voter| *voter != status.id)
}

/// Waits for `asked`, hands over, and cancels `stop`. Ends also when the parts are stopped for another reason.
pub(super) async fn hand_over(asked: CancellationToken, handle: Handle, stop: CancellationToken) {
    tokio::select! {
        () = asked.cancelled() => {}
        () = stop.cancelled() => return,
    }
    let begun = Instant::now();
    while leads_others(&handle.status.borrow()) {
        match handle.transfer(None, false, HAND_OVER_MAX).await {
            Err(Failure::NoTarget) if begun.elapsed() < NOBODY_MAX => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Ok(done) => {
                tracing::info!(
                    event = "drain",
                    "asked to stop: {} leads now, in term {}",
                    done.leader,
                    done.term
                );
            }
            // The others elect somebody when it is gone.
            Err(failure) => tracing::warn!(event = "drain", "asked to stop, and nobody took over: {failure}"),
        }
        break;
    }
    stop.cancel();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_leader_of_others_hands_over() {
        for (role, voters, hands_over) in [
            ("leader", &["n1", "n2"][..], true),
            ("leader", &["n1"], false),
            ("follower", &["n1", "n2"], false),
            ("learner", &[], false),
        ] {
            let status = json!({
                "cluster": "c", "id": "n1", "role": role, "term": 3, "leader": null, "commit": 0, "applied": 0,
                "voters": voters, "nodes": [],
                "members": { "total": 0, "up": 0, "suspect": 0, "down": 0, "suspended": 0 },
                "interval": { "open": 0, "next_settle": 0 }, "ledger": { "records": 0, "head_hash": "" },
                "projection": { "enabled": false, "checkpoint": 0, "lag_records": 0, "error": null },
                "version": "", "url": "",
            });
            let status = serde_json::from_value(status).expect("a status");
            assert_eq!(leads_others(&status), hands_over, "{role} {voters:?}");
        }
    }
}
