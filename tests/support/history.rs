//! A scripted ledger history with true hash chains, as long as a test wants it.

use std::collections::BTreeMap;

use super_node::codec::Hash;
use super_node::database::feed::MemoryFeed;
use super_node::ledger::chain;
use super_node::ledger::records::{
    Counts, Election, Genesis, Interval, Member, MemberKind, MemberStatus, Movement, MovementKind,
    Observation, Observer, Verdict,
};
use super_node::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

/// The beginning of the scripted log time.
const ORIGIN: i64 = 1_700_000_000_000;

/// A feed of an empty ledger of cluster `cluster`.
pub fn feed(cluster: &str, identity: &str) -> MemoryFeed {
    let feed = MemoryFeed::default();
    feed.records.write().expect("not poisoned").genesis = Some(Genesis {
        cluster: cluster.to_string(),
        identity: identity.to_string(),
        at: UnixMillis(ORIGIN),
    });
    feed
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a name")
}

/// Appends one settled interval that judges `members` members, and an election now and then.
pub fn append_interval(feed: &MemoryFeed, members: usize) {
    let mut records = feed.records.write().expect("not poisoned");
    let id = IntervalId(records.intervals.len() as u64 + 1);
    let index = Index(id.0 * 10);
    let at = UnixMillis(ORIGIN + i64::try_from(id.0).expect("small") * 1_000);
    let mut observations = Vec::new();
    let mut changed = Vec::new();
    for number in 0..members {
        let member: MemberId = format!("m-{number:05}").parse().expect("a name");
        let (seq, prev_hash) =
            records.rewards.last().map_or((1, Hash::ZERO), |last| (last.seq + 1, last.hash));
        let late = number % 7 == 3;
        let amount = Amount(if late { -250_000 } else { 9_000_000 + i64::try_from(number).expect("small") });
        let before = records.members.get(&member).map_or(0, |one| one.balance.0);
        let mut movement = Movement {
            seq,
            member: member.clone(),
            kind: if late { MovementKind::Penalty } else { MovementKind::Reward },
            amount,
            balance: Amount(before + amount.0),
            interval: Some(id),
            reason: format!("interval {id}"),
            index,
            term: Term(1),
            at,
            prev_hash,
            hash: Hash::ZERO,
        };
        movement.hash = chain::movement_bytes(&movement).digest();
        let counts = Counts {
            sent: 12,
            answered: if late { 9 } else { 12 },
            missed: if late { 3 } else { 0 },
            p90_us: 800,
        };
        observations.push(Observation {
            interval: id,
            member: member.clone(),
            sent: 24,
            answered: u64::from(counts.answered) * 2,
            missed: u64::from(counts.missed) * 2,
            availability_ppm: counts.answered * 1_000_000 / 12,
            p50_us: 400,
            p90_us: 800,
            max_us: 2_000,
            score_ppm: counts.answered * 1_000_000 / 12,
            reward: Amount(amount.0.max(0)),
            penalty: Amount((-amount.0).max(0)),
            strikes: 0,
            status: MemberStatus::Active,
            by: BTreeMap::from([(node("n1"), counts), (node("n2"), counts)]),
            excused: false,
        });
        changed.push(Member {
            id: member,
            kind: MemberKind::Agent,
            address: format!("127.0.0.1:{}", 10_000 + number),
            status: MemberStatus::Active,
            balance: movement.balance,
            strikes: 0,
            suspensions: 0,
            remaining: 0,
            joined_at: UnixMillis(ORIGIN),
            as_of: seq,
            index,
        });
        records.rewards.push(movement);
    }
    let prev_hash = records.intervals.last().map_or(Hash::ZERO, |last| last.hash);
    let mut interval = Interval {
        id,
        opened_at: UnixMillis(at.0 - 1_000),
        cut_at: at,
        settled_at: at,
        leader: node("n1"),
        term: Term(1),
        index,
        policy: 1,
        verdict: Verdict::Settled,
        reason: String::new(),
        observers: vec![
            Observer { id: node("n1"), used: true, why: String::new() },
            Observer { id: node("n3"), used: false, why: "absent".to_string() },
        ],
        members: members as u64,
        rewarded: observations.iter().fold(Amount::ZERO, |sum, one| Amount(sum.0 + one.reward.0)),
        penalised: observations.iter().fold(Amount::ZERO, |sum, one| Amount(sum.0 + one.penalty.0)),
        last_seq: records.rewards.last().map_or(0, |last| last.seq),
        evidence_hash: chain::evidence_hash(&observations),
        prev_hash,
        hash: Hash::ZERO,
    };
    interval.hash = chain::interval_bytes(&interval).digest();
    records.observations.insert(id, observations);
    records.intervals.push(interval);
    for member in changed {
        records.members.insert(member.id.clone(), member);
    }
    let term = Term(id.0);
    records.elections.push(Election {
        term,
        leader: node("n1"),
        previous: (id.0 > 1).then(|| node("n2")),
        reason: "timeout".to_string(),
        votes: [node("n1"), node("n2")].into(),
        leaderless_ms: 40 + id.0,
        at,
        index,
    });
}
