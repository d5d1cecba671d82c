//! The policy: how an interval is judged and paid.

use serde::{Deserialize, Serialize};

use crate::types::Amount;

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

impl Policy {
    /// Pings of one member that one observer makes in a full interval; at least 1.
    pub fn pings_per_interval(&self) -> u64 {
        (self.interval_ms / self.ping_ms.max(1)).max(1)
    }
}
