//! What a node tells its operator: each notice becomes an event, a log line and a metric, in one place.

use serde_json::{Value, json};

use crate::health::{Level, Outcome};
use crate::ledger::apply::Happening;
use crate::ledger::records::{MovementKind, Verdict};
use crate::metrics::{ElectionLabels, KindLabel, MemberLabel, Metrics, ResultLabel, VerdictLabel};
use crate::raft::{self, ElectionReason};
use crate::types::{Amount, NodeId, UnixMillis};

use super::autopilot::Replacement;
use super::events::EventLog;
use super::io::Notice;
use super::snapshot::NEEDS_MAX;
use super::status::{NodeStatus, RoleName};

/// Tells a notice everywhere.
pub fn tell(notice: &Notice, at: UnixMillis, events: &EventLog, metrics: &Metrics) {
    measure(notice, metrics);
    let Some((kind, message, data)) = describe(notice) else { return };
    match notice {
        // Good news is no warning.
        Notice::Level { to: Level::Up, .. } => tracing::info!(event = kind, "{message}"),
        Notice::Level { .. }
        | Notice::Stalled(_)
        | Notice::Removed
        | Notice::FallsBehind { .. }
        | Notice::DiskRoom { .. }
        | Notice::StateLost { .. }
        | Notice::StateMended { .. }
        | Notice::Replaced { .. }
        | Notice::Raft(raft::Event::TransferAborted { .. } | raft::Event::DiskDegraded { .. }) => {
            tracing::warn!(event = kind, "{message}");
        }
        Notice::Raft(
            raft::Event::BecameLeader { .. }
            | raft::Event::ElectionStarted { pre_vote: false, .. }
            | raft::Event::ElectionLost { .. }
            | raft::Event::FollowsLeader { .. }
            | raft::Event::SteppedDown { .. }
            | raft::Event::TransferStarted { .. }
            | raft::Event::DiskRecovered
            | raft::Event::ConfigurationChanged { .. }
            | raft::Event::LearnerPromoted { .. },
        ) => {
            tracing::info!(event = kind, "{message}");
        }
        _ => tracing::debug!(event = kind, "{message}"),
    }
    events.publish(at, kind, message, data);
}

/// Lets what is counted by label begin at zero: a first failure must be seen as an increase.
pub fn begin_at_zero(metrics: &Metrics) {
    let reasons = [
        ElectionReason::Startup,
        ElectionReason::Timeout,
        ElectionReason::ConnectionLost,
        ElectionReason::PingsSilent,
        ElectionReason::Transfer,
    ];
    for reason in reasons {
        for result in ["started", "won"] {
            let labels = ElectionLabels { reason: reason.as_str().to_string(), result: result.to_string() };
            drop(metrics.raft_elections.get_or_create(&labels));
        }
    }
    let kinds = [
        MovementKind::Reward,
        MovementKind::Penalty,
        MovementKind::Claim,
        MovementKind::ClaimPenalty,
        MovementKind::Adjustment,
    ];
    for kind in kinds {
        drop(metrics.ledger_records_by_kind.get_or_create(&KindLabel { kind: kind.as_str().to_string() }));
    }
    for result in ["answered", "missed"] {
        drop(metrics.pings.get_or_create(&ResultLabel { result: result.to_string() }));
    }
    for verdict in [Verdict::Settled, Verdict::Void, Verdict::Correlated] {
        drop(metrics.intervals.get_or_create(&VerdictLabel { verdict: verdict.as_str().to_string() }));
    }
}

fn measure(notice: &Notice, metrics: &Metrics) {
    match notice {
        Notice::Raft(raft::Event::ElectionStarted { reason, pre_vote: false, .. }) => {
            let labels =
                ElectionLabels { reason: reason.as_str().to_string(), result: "started".to_string() };
            metrics.raft_elections.get_or_create(&labels).inc();
        }
        Notice::Raft(raft::Event::BecameLeader { reason, leaderless, .. }) => {
            let labels = ElectionLabels { reason: reason.as_str().to_string(), result: "won".to_string() };
            metrics.raft_elections.get_or_create(&labels).inc();
            metrics.raft_leader_changes.inc();
            metrics.election_leaderless_seconds.observe(leaderless.as_secs_f64());
        }
        Notice::Raft(raft::Event::ElectionLost { reason, .. }) => {
            let labels = ElectionLabels { reason: reason.as_str().to_string(), result: "lost".to_string() };
            metrics.raft_elections.get_or_create(&labels).inc();
        }
        Notice::Raft(raft::Event::FollowsLeader { .. }) => {
            metrics.raft_leader_changes.inc();
        }
        // The lag of a node that is no peer any more would stand still for ever; those of the others come again at once.
        Notice::Raft(raft::Event::ConfigurationChanged { .. }) => metrics.raft_follower_lag_entries.clear(),
        // Likewise, a member that has left is neither up nor down.
        Notice::Ledger(Happening::MemberLeft { member }) => {
            metrics.member_up.remove(&MemberLabel { member: member.to_string() });
        }
        Notice::Ledger(Happening::IntervalSettled { verdict, .. }) => {
            metrics.intervals.get_or_create(&VerdictLabel { verdict: verdict.as_str().to_string() }).inc();
        }
        Notice::Ledger(Happening::Movement { kind, .. }) => count_records(metrics, *kind, 1),
        Notice::Ledger(Happening::Paid { rewards, penalties, .. }) => {
            count_records(metrics, MovementKind::Reward, *rewards);
            count_records(metrics, MovementKind::Penalty, *penalties);
        }
        Notice::Level { member, to, .. } => {
            let label = MemberLabel { member: member.to_string() };
            metrics.member_up.get_or_create(&label).set(i64::from(*to == Level::Up));
        }
        Notice::Pinged(outcome) => {
            let result = match outcome {
                Outcome::Answered { .. } => "answered",
                Outcome::Missed => "missed",
            };
            metrics.pings.get_or_create(&ResultLabel { result: result.to_string() }).inc();
            if let Outcome::Answered { round_trip_us: Some(micros) } = outcome {
                metrics.ping_rtt_seconds.observe(f64::from(*micros) / 1e6);
            }
        }
        Notice::DiskRoom { full } => {
            metrics.storage_full.set(i64::from(*full));
        }
        Notice::Committed(wait) => metrics.raft_commit_seconds.observe(wait.as_secs_f64()),
        _ => {}
    }
}

fn count_records(metrics: &Metrics, kind: MovementKind, count: u64) {
    let label = KindLabel { kind: kind.as_str().to_string() };
    metrics.ledger_records_by_kind.get_or_create(&label).inc_by(count);
}

type Description = (&'static str, String, Value);

fn describe(notice: &Notice) -> Option<Description> {
    match notice {
        Notice::Raft(event) => Some(describe_raft(event)),
        Notice::Ledger(happening) => describe_ledger(happening),
        Notice::Level { member, from, to, misses } => {
            let (kind, words) = match to {
                Level::Suspect => ("member_suspect", format!("{member} missed {misses} pings in a row")),
                Level::Down => ("member_down", format!("{member} is down: {misses} pings missed in a row")),
                _ => ("member_up", format!("{member} answers")),
            };
            let data =
                json!({"member": member, "from": level_name(*from), "to": level_name(*to), "misses": misses});
            Some((kind, words, data))
        }
        Notice::SnapshotSent { to, complete } => {
            let words = if *complete {
                format!("snapshot sent to {to}")
            } else {
                format!("snapshot to {to} given up")
            };
            Some(("snapshot_sent", words, json!({"to": to, "complete": complete})))
        }
        Notice::SnapshotInstalled { from, index } => {
            let words = format!("state replaced by a snapshot of {from} up to index {index}");
            Some(("snapshot_installed", words, json!({"from": from, "index": index})))
        }
        Notice::Stalled(span) => {
            let words = format!("this process did not run for {} ms", span.as_millis());
            Some(("stalled", words, json!({"ms": span.as_millis()})))
        }
        Notice::Removed => Some((
            "removed",
            "this node was removed from the cluster: it stays idle until it is stopped, or added again"
                .to_string(),
            json!({}),
        )),
        Notice::DiskRoom { full: true } => {
            let words = "the disk has no room: writes are refused until there is; reads and elections go on"
                .to_string();
            Some(("disk_full", words, json!({})))
        }
        Notice::DiskRoom { full: false } => {
            Some(("disk_room", "the disk has room again: writes are taken".to_string(), json!({})))
        }
        Notice::FallsBehind { node, pause } => {
            let words = format!(
                "{node} falls behind for ever: it needed more than {NEEDS_MAX} snapshots without catching up, and waits {} s \
                 for the next; its disk or its processor is too slow, or raft.snapshot_entries or storage.log_keep is too small",
                pause.as_secs()
            );
            Some(("falls_behind", words, json!({"node": node, "pause_s": pause.as_secs()})))
        }
        Notice::StateLost { base } => {
            let words = format!(
                "the applied state is gone and is fetched from the leader; the log (from {base} on) and the votes are whole"
            );
            Some(("state_lost", words, json!({"base": base})))
        }
        Notice::StateMended { from, index } => {
            let words = format!("the applied state is there again, from {from}, up to index {index}");
            Some(("state_mended", words, json!({"from": from, "index": index})))
        }
        Notice::Replaced { replacement, done } => {
            let Replacement { voter, learner, silent, limit } = replacement;
            let why =
                format!("{voter} was silent for {} s, longer than {} s", silent.as_secs(), limit.as_secs());
            let data = json!({"voter": voter, "learner": learner, "silent_ms": silent.as_millis(),
                "limit_ms": limit.as_millis(), "reason": why});
            Some(if *done {
                ("voter_replaced", format!("{learner} votes in the place of {voter}: {why}"), data)
            } else {
                ("voter_replacing", format!("{learner} is to vote in the place of {voter}: {why}"), data)
            })
        }
        Notice::Pinged(_) | Notice::Committed(_) => None,
    }
}

/// How things stand, for a log that wants to hear it now and then.
pub fn standing(status: &NodeStatus) -> String {
    let heard = |id: &NodeId| {
        let found = status.nodes.iter().find(|node| node.id == *id);
        found
            .and_then(|node| node.contact_ms)
            .map_or("never".to_string(), |millis| format!("{millis} ms ago"))
    };
    let term = status.term;
    match (status.role, &status.leader) {
        (RoleName::Leader, _) => {
            let followers = status.nodes.iter().filter(|node| node.id != status.id);
            let followers: Vec<String> =
                followers.map(|node| format!("{} {}", node.id, heard(&node.id))).collect();
            let answered = if followers.is_empty() { "none".to_string() } else { followers.join(", ") };
            format!("leads term {term}, commit {}; heartbeats answered: {answered}", status.commit)
        }
        (RoleName::Follower | RoleName::Learner, Some(leader)) => {
            let applied = status.applied;
            format!("follows {leader} in term {term}, applied {applied}; last heartbeat {}", heard(leader))
        }
        (RoleName::Candidate, _) => format!("stands for election, term {term}"),
        (RoleName::Follower | RoleName::Learner, None) => format!("knows no leader, term {term}"),
    }
}

fn describe_raft(event: &raft::Event) -> Description {
    match event {
        raft::Event::ElectionStarted { term, pre_vote, reason } => {
            let what = if *pre_vote { "asks whether it could win" } else { "asks for votes in" };
            let why = match reason {
                ElectionReason::Timeout => "election timeout",
                other => other.as_str(),
            };
            let words = format!("{why}: {what} term {term}");
            let data = json!({"term": term, "pre_vote": pre_vote, "reason": reason.as_str()});
            ("election_started", words, data)
        }
        raft::Event::VoteCast { term, candidate, granted, pre_vote } => {
            let word = if *granted { "grants" } else { "refuses" };
            let what = if *pre_vote { "pre-vote" } else { "vote" };
            let data =
                json!({"term": term, "candidate": candidate, "granted": granted, "pre_vote": pre_vote});
            ("vote", format!("{word} {candidate} its {what} in term {term}"), data)
        }
        raft::Event::BecameLeader { term, reason, votes, previous, leaderless } => {
            let leaderless_ms = u64::try_from(leaderless.as_millis()).unwrap_or(u64::MAX);
            let voters = votes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let words = format!(
                "won election for term {term} ({}), votes of {voters}, nobody led for {leaderless_ms} ms",
                reason.as_str()
            );
            let data = json!({"term": term, "reason": reason.as_str(), "votes": votes, "previous": previous,
                "leaderless_ms": leaderless_ms});
            ("leader_elected", words, data)
        }
        raft::Event::ElectionLost { term, reason } => (
            "election_lost",
            format!("did not win the election for term {term} ({})", reason.as_str()),
            json!({"term": term, "reason": reason.as_str()}),
        ),
        raft::Event::FollowsLeader { term, leader } => (
            "follows_leader",
            format!("follows {leader} in term {term}"),
            json!({"term": term, "leader": leader}),
        ),
        raft::Event::SteppedDown { term, reason } => {
            let word = match reason {
                raft::StepDown::HigherTerm => "a newer term was seen",
                raft::StepDown::QuorumLost => "no quorum answered",
                raft::StepDown::Removed => "it is no longer a voter",
                raft::StepDown::DiskStuck => "its disk confirms nothing",
                raft::StepDown::Transferred => "it handed over",
            };
            let data = json!({"term": term, "reason": reason});
            ("stepped_down", format!("leads term {term} no more: {word}"), data)
        }
        raft::Event::TransferStarted { to } => {
            ("transfer_started", format!("hands leadership to {to}"), json!({"to": to}))
        }
        raft::Event::TransferAborted { to } => {
            ("transfer_aborted", format!("{to} did not take over in time"), json!({"to": to}))
        }
        raft::Event::DiskDegraded { pending } => {
            let words = format!("the disk has confirmed nothing for {} ms", pending.as_millis());
            ("disk_degraded", words, json!({"pending_ms": pending.as_millis()}))
        }
        raft::Event::DiskRecovered => ("disk_recovered", "the disk keeps up again".to_string(), json!({})),
        raft::Event::ConfigurationChanged { index, configuration } => {
            let names = |nodes: &std::collections::BTreeSet<crate::types::NodeId>| {
                nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let mut words = format!("the voters are {}", names(&configuration.voters));
            if !configuration.learners.is_empty() {
                words.push_str(&format!(", the learners {}", names(&configuration.learners)));
            }
            let data = json!({"index": index, "voters": configuration.voters,
                "learners": configuration.learners});
            ("configuration_changed", words, data)
        }
        raft::Event::LearnerPromoted { node, replaces } => {
            let words = match replaces {
                Some(replaced) => {
                    format!("{node} has caught up and becomes a voter in the place of {replaced}")
                }
                None => format!("{node} has caught up and becomes a voter"),
            };
            ("learner_promoted", words, json!({"node": node, "replaces": replaces}))
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Up => "up",
        Level::Suspect => "suspect",
        Level::Down => "down",
    }
}

fn describe_ledger(happening: &Happening) -> Option<Description> {
    let (kind, words) = match happening {
        Happening::GenesisDone { cluster, .. } => ("genesis", format!("cluster {cluster} is founded")),
        Happening::MemberJoined { member, kind, address } => {
            ("member_joined", format!("{} {member} joins at {address}", kind.as_str()))
        }
        Happening::MemberMoved { member, address } => {
            ("member_moved", format!("{member} answers at {address} now"))
        }
        Happening::MemberLeft { member } => ("member_left", format!("{member} leaves")),
        Happening::IntervalCut { interval, .. } => ("interval_cut", format!("interval {interval} is over")),
        Happening::ReportAccepted { interval, observer } => {
            ("report_accepted", format!("{observer} has reported on interval {interval}"))
        }
        Happening::IntervalSettled { interval, verdict, reason, members, rewarded, penalised } => (
            "interval_settled",
            format!(
                "interval {interval} {}: {members} members, rewarded {rewarded}, penalised {penalised}{}{reason}",
                verdict.as_str(),
                if reason.is_empty() { "" } else { "; " }
            ),
        ),
        Happening::MemberSuspended { member, intervals } => {
            ("member_suspended", format!("{member} is suspended for {intervals} intervals"))
        }
        Happening::MemberProbation { member } => ("member_probation", format!("{member} is on probation")),
        Happening::MemberReinstated { member } => ("member_reinstated", format!("{member} is paid again")),
        Happening::MovementRefused { member, kind, amount } => {
            ("movement_refused", format!("{} of {amount} for {member} does not fit", kind.as_str()))
        }
        Happening::ElectionRecorded(election) => (
            "election_recorded",
            format!("the election of {} in term {} is on record", election.leader, election.term),
        ),
        Happening::VersionStated { node, version } => {
            ("version_stated", format!("{node} runs version {version}"))
        }
        Happening::ObserverSetAside { interval, observer, why } => (
            "observer_set_aside",
            format!("the report of {observer} on interval {interval} does not count: {why}"),
        ),
        Happening::MostMembersDark { interval, intervals } => (
            "most_members_dark",
            format!(
                "most members have been dark for {intervals} intervals up to {interval}: strikes are given again from \
                 the next on"
            ),
        ),
        Happening::MaintenanceAnnounced { member, from, to } => {
            ("maintenance_announced", format!("{member} announces maintenance for intervals {from} to {to}"))
        }
        Happening::OverClaimed { member, amount, balance, penalty } => {
            ("over_claimed", format!("{member} claimed {amount} and holds {balance}: penalised by {penalty}"))
        }
        Happening::PolicySet { revision, activate_at } => (
            "policy_set",
            format!("revision {revision} of the policy will judge from interval {activate_at} on"),
        ),
        Happening::PolicyActivated { revision, interval } => (
            "policy_activated",
            format!("revision {revision} of the policy judges from interval {interval} on"),
        ),
        Happening::AgentAdmitted { member, fingerprint } => {
            ("agent_admitted", format!("agent {member} is let in; its key has the fingerprint {fingerprint}"))
        }
        Happening::AgentWaits { member, address, fingerprint } => (
            "agent_waits",
            format!(
                "agent {member} at {address} waits for approval; its key has the fingerprint {fingerprint}"
            ),
        ),
        Happening::NodeSeen { node, .. } => ("node_seen", format!("{node} is bound to its data directory")),
        Happening::ClusterRecovered(recovery) => (
            "cluster_recovered",
            format!("an operator made a new cluster of what {} held", recovery.act.node),
        ),
        Happening::HistoryTrimmed { through, records } => (
            "history_trimmed",
            format!("history up to interval {through} and movement {records} is forgotten"),
        ),
        Happening::Movement { kind: MovementKind::Claim, member, amount, seq } => (
            "claim_paid",
            format!("{member} is paid out {}, movement {seq}", Amount(amount.0.saturating_neg())),
        ),
        Happening::Movement { kind: MovementKind::Adjustment, member, amount, seq } => {
            ("adjusted", format!("an operator moves the balance of {member} by {amount}, movement {seq}"))
        }
        // One per key, per payment, per part and per second: they are data, not news. (A claim beyond the balance has news of
        // its own.)
        Happening::KvChanged { .. }
        | Happening::Paid { .. }
        | Happening::ReportPartAccepted { .. }
        | Happening::Movement {
            kind: MovementKind::Reward | MovementKind::Penalty | MovementKind::ClaimPenalty,
            ..
        }
        | Happening::Projected(_) => return None,
    };
    Some((kind, words, serde_json::to_value(happening).unwrap_or(Value::Null)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(role: &str, leader: Option<&str>) -> NodeStatus {
        let node = |id: &str, contact: Value| {
            json!({"id": id, "address": "", "role": "follower", "match": null, "lag": null,
                "contact_ms": contact, "up": true, "url": null})
        };
        let status = json!({
            "cluster": "c", "id": "n1", "role": role, "term": 3, "leader": leader, "commit": 7, "applied": 6,
            "voters": ["n1", "n2", "n3"],
            "nodes": [node("n1", json!(0)), node("n2", json!(12)), node("n3", Value::Null)],
            "members": {"total": 0, "up": 0, "suspect": 0, "down": 0, "suspended": 0},
            "interval": {"open": 0, "next_settle": 0}, "ledger": {"records": 0, "head_hash": ""},
            "projection": {"enabled": false, "checkpoint": 0, "lag_records": 0, "error": null},
            "version": "", "url": "",
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn the_standing_tells_role_and_age_of_the_last_heartbeat() {
        for (role, leader, words) in [
            ("leader", Some("n1"), "leads term 3, commit 7; heartbeats answered: n2 12 ms ago, n3 never"),
            ("follower", Some("n2"), "follows n2 in term 3, applied 6; last heartbeat 12 ms ago"),
            ("learner", Some("n3"), "follows n3 in term 3, applied 6; last heartbeat never"),
            ("follower", None, "knows no leader, term 3"),
            ("candidate", None, "stands for election, term 3"),
        ] {
            assert_eq!(standing(&status(role, leader)), words);
        }
    }
}
