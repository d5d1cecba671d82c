//! The hash chains: canonical bytes of movements and intervals, and the hash over an interval's observations.
//!
//! Everything that is hashed stands in the MongoDB document too, so anybody can recompute it from there. The table
//! of bytes is in `docs/ledger.md`; it and this file change together or not at all, because recorded hashes stay.

use crate::codec::{Canonical, Hash};

use super::records::{Interval, Movement, Observation};

/// Domain text of a movement.
pub const MOVEMENT_DOMAIN: &str = "super-node/movement/1";
/// Domain text of an interval.
pub const INTERVAL_DOMAIN: &str = "super-node/interval/1";
/// Domain text of one observation.
pub const OBSERVATION_DOMAIN: &str = "super-node/observation/1";
/// Domain text of the list of an interval's observations.
pub const EVIDENCE_DOMAIN: &str = "super-node/evidence/1";

/// What a movement's hash is computed over: everything but the hash itself, the previous hash first.
pub fn movement_bytes(movement: &Movement) -> Canonical {
    let mut bytes = Canonical::new(MOVEMENT_DOMAIN);
    bytes
        .hash(movement.prev_hash)
        .u64(movement.seq)
        .text(movement.member.as_str())
        .text(movement.kind.as_str())
        .i64(movement.amount.0)
        .i64(movement.balance.0)
        .option_u64(movement.interval.map(|interval| interval.0))
        .text(&movement.reason)
        .u64(movement.index.0)
        .u64(movement.term.0)
        .i64(movement.at.0);
    bytes
}

/// What an interval's hash is computed over: everything but the hash itself, the previous hash first.
pub fn interval_bytes(interval: &Interval) -> Canonical {
    let mut bytes = Canonical::new(INTERVAL_DOMAIN);
    bytes
        .hash(interval.prev_hash)
        .u64(interval.id.0)
        .i64(interval.opened_at.0)
        .i64(interval.cut_at.0)
        .i64(interval.settled_at.0)
        .text(interval.leader.as_str())
        .u64(interval.term.0)
        .u64(interval.index.0)
        .u64(interval.policy)
        .text(interval.verdict.as_str())
        .length(interval.observers.len());
    for observer in &interval.observers {
        bytes.text(observer.id.as_str()).bool(observer.used).text(&observer.why);
    }
    bytes
        .u64(interval.members)
        .i64(interval.rewarded.0)
        .i64(interval.penalised.0)
        .u64(interval.last_seq)
        .hash(interval.evidence_hash);
    // Last, and only if there is one: the bytes of an interval without are those of before there were reasons.
    if !interval.reason.is_empty() {
        bytes.text(&interval.reason);
    }
    bytes
}

/// What an observation's hash is computed over.
pub fn observation_bytes(observation: &Observation) -> Canonical {
    let mut bytes = Canonical::new(OBSERVATION_DOMAIN);
    bytes
        .u64(observation.interval.0)
        .text(observation.member.as_str())
        .u64(observation.sent)
        .u64(observation.answered)
        .u64(observation.missed)
        .u64(observation.availability_ppm.into())
        .u64(observation.p50_us.into())
        .u64(observation.p90_us.into())
        .u64(observation.max_us.into())
        .u64(observation.score_ppm.into())
        .i64(observation.reward.0)
        .i64(observation.penalty.0)
        .u64(observation.strikes.into())
        .text(observation.status.as_str())
        .length(observation.by.len());
    for (observer, counts) in &observation.by {
        bytes
            .text(observer.as_str())
            .u64(counts.sent.into())
            .u64(counts.answered.into())
            .u64(counts.missed.into())
            .u64(counts.p90_us.into());
    }
    // As with the reason of an interval.
    if observation.excused {
        bytes.bool(true);
    }
    bytes
}

/// The hash of one observation. It is not stored; the interval's [`Interval::evidence_hash`] covers it.
pub fn observation_hash(observation: &Observation) -> Hash {
    observation_bytes(observation).digest()
}

/// The hash over an interval's observations, which must be ordered by member (in byte order).
pub fn evidence_hash(observations: &[Observation]) -> Hash {
    let hashes: Vec<Hash> = observations.iter().map(observation_hash).collect();
    evidence_hash_of(&hashes)
}

/// [`evidence_hash`] from the hashes of the observations, for whoever does not hold all of them at once.
pub fn evidence_hash_of(hashes: &[Hash]) -> Hash {
    let mut bytes = Canonical::new(EVIDENCE_DOMAIN);
    bytes.length(hashes.len());
    for hash in hashes {
        bytes.hash(*hash);
    }
    bytes.digest()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::records::{Counts, MemberStatus, MovementKind, Observer, Verdict};
    use crate::types::{Amount, Index, IntervalId, Term, UnixMillis};

    fn movement() -> Movement {
        Movement {
            seq: 7,
            member: "worker-1".parse().expect("name"),
            kind: MovementKind::Penalty,
            amount: Amount(-370_372),
            balance: Amount(5_879_618),
            interval: Some(IntervalId(3)),
            reason: "availability 833333 ppm".to_string(),
            index: Index(41),
            term: Term(2),
            at: UnixMillis(1_700_000_000_123),
            prev_hash: Hash([0xab; 32]),
            hash: Hash::ZERO,
        }
    }

    fn observation() -> Observation {
        Observation {
            interval: IntervalId(3),
            member: "worker-1".parse().expect("name"),
            sent: 24,
            answered: 19,
            missed: 5,
            availability_ppm: 833_333,
            p50_us: 562_500,
            p90_us: 1_125_000,
            max_us: 1_125_000,
            score_ppm: 624_999,
            reward: Amount(6_249_990),
            penalty: Amount(370_372),
            strikes: 0,
            status: MemberStatus::Active,
            by: BTreeMap::from([
                (
                    "n1".parse().expect("name"),
                    Counts { sent: 12, answered: 10, missed: 2, p90_us: 1_125_000 },
                ),
                ("n2".parse().expect("name"), Counts { sent: 12, answered: 9, missed: 3, p90_us: 1_125_000 }),
            ]),
            excused: false,
        }
    }

    fn interval() -> Interval {
        let observer = |id: &str, why: &str| Observer {
            id: id.parse().expect("name"),
            used: why.is_empty(),
            why: why.to_string(),
        };
        Interval {
            id: IntervalId(3),
            opened_at: UnixMillis(1_699_999_940_000),
            cut_at: UnixMillis(1_700_000_000_000),
            settled_at: UnixMillis(1_700_000_000_123),
            leader: "n1".parse().expect("name"),
            term: Term(2),
            index: Index(41),
            policy: 1,
            verdict: Verdict::Settled,
            reason: String::new(),
            observers: vec![observer("n1", ""), observer("n2", ""), observer("n3", "absent")],
            members: 1,
            rewarded: Amount(6_249_990),
            penalised: Amount(370_372),
            last_seq: 7,
            evidence_hash: evidence_hash(&[observation()]),
            prev_hash: Hash([0xcd; 32]),
            hash: Hash::ZERO,
        }
    }

    /// The values are those of `docs/ledger.md`, computed by a script in another language from the table there.
    #[test]
    fn hashes_are_those_of_the_documentation() {
        for (what, hash, expected) in [
            (
                "movement",
                movement_bytes(&movement()).digest(),
                "23dfed780c429bfeaa3cc45c80d8ed6c8e6b0b9aaa47f8bb2cfbe63b182fd3ac",
            ),
            (
                "observation",
                observation_hash(&observation()),
                "c754365e3ec08125bdfa79fc4456f8541887578c2d3e90716a3e9eadf912481c",
            ),
            (
                "evidence",
                evidence_hash(&[observation()]),
                "fa8ce31e0aff51161c03d9747c3b87a68a864e62a72a50ae974e38cd46f6d472",
            ),
            (
                "interval",
                interval_bytes(&interval()).digest(),
                "5b5069bdc7064d0e2dfbbdd421476120c0d6a03512c91182c9fa843296218491",
            ),
        ] {
            assert_eq!(hash.to_hex(), expected, "{what}");
        }
    }

    #[test]
    fn the_order_and_number_of_observations_count() {
        let other = Observation { sent: 25, ..observation() };
        let one_way = evidence_hash(&[observation(), other.clone()]);
        assert_ne!(one_way, evidence_hash(&[other, observation()]));
        assert_ne!(evidence_hash(&[]), evidence_hash(&[observation()]));
    }
}
