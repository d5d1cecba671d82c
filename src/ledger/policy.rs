//! The policy: how an interval is judged and paid.

use serde::{Deserialize, Serialize};

use crate::types::{Amount, IntervalId};

use super::command::Rejection;

/// Longest interval and longest time between pings: one day, in milliseconds.
pub const POLICY_TIME_MS_MAX: u64 = 86_400_000;
/// A revision comes into force no sooner than so many intervals after the open one: everybody can see it coming, and no
/// interval that is being observed changes its rules.
pub const ACTIVATION_AHEAD: u64 = 2;

/// Which rules judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Availability, latency, strikes: `docs/ledger.md`.
    Standard,
    /// The third source system's constants: reward per answered turn, penalty per missed turn.
    Classic,
}

/// The numbers of one revision of the policy, pinned in every interval record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// 1 for the initial policy.
    pub revision: u64,
    /// Which rules judge.
    pub kind: PolicyKind,
    /// Length of an interval, milliseconds.
    pub interval_ms: u64,
    /// Time between pings of one member, milliseconds.
    pub ping_ms: u64,
    /// How long one try of a ping waits, milliseconds.
    pub ping_timeout_ms: u64,
    /// Full pay of an interval.
    pub reward: Amount,
    /// Full penalty of an interval.
    pub penalty: Amount,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            revision: 1,
            kind: PolicyKind::Standard,
            interval_ms: 60_000,
            ping_ms: 5_000,
            ping_timeout_ms: 500,
            reward: Amount(10 * Amount::POINT),
            penalty: Amount(5 * Amount::POINT),
        }
    }
}

/// A policy with what belongs to its revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The numbers.
    pub policy: Policy,
    /// The most that all rewards of one interval may come to; 0: no limit.
    pub budget: Amount,
    /// The first interval that it judges.
    pub activate_at: IntervalId,
}

impl Revision {
    /// The policy that a cluster begins with.
    pub fn initial(policy: Policy) -> Revision {
        Revision { policy, budget: Amount::ZERO, activate_at: IntervalId(1) }
    }

    /// Whether its numbers can be judged by.
    pub fn check(&self) -> Result<(), Rejection> {
        if self.budget < Amount::ZERO {
            return Err(Rejection::BadRequest("policy: the budget is not negative".to_string()));
        }
        self.policy.check()
    }
}

impl Policy {
    /// Whether the numbers can be judged by.
    pub fn check(&self) -> Result<(), Rejection> {
        let times =
            [("interval", self.interval_ms), ("ping", self.ping_ms), ("ping timeout", self.ping_timeout_ms)];
        for (name, value) in times {
            if value == 0 || value > POLICY_TIME_MS_MAX {
                let why = format!("policy: {name} is 1 to {POLICY_TIME_MS_MAX} ms, not {value}");
                return Err(Rejection::BadRequest(why));
            }
        }
        if self.ping_ms > self.interval_ms {
            return Err(Rejection::BadRequest("policy: ping is longer than the interval".to_string()));
        }
        if self.reward < Amount::ZERO || self.penalty < Amount::ZERO {
            return Err(Rejection::BadRequest("policy: reward and penalty are not negative".to_string()));
        }
        if self.revision == 0 {
            return Err(Rejection::BadRequest("policy: revisions are numbered from 1".to_string()));
        }
        Ok(())
    }

    /// Pings of one member that one observer makes in a full interval; at least 1.
    pub fn pings_per_interval(&self) -> u64 {
        (self.interval_ms / self.ping_ms.max(1)).max(1)
    }
}
