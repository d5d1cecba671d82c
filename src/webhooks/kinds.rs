//! What a receiver can be told.

use std::fmt;

use serde::{Serialize, Serializer};

/// A kind of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An election was won.
    Election,
    /// An interval was void.
    Void,
    /// In an interval most members were dark at once.
    Correlated,
    /// The report of an observer did not count.
    ObserverRejected,
    /// A member is not paid for a while.
    Suspended,
    /// A member's cooldown is over.
    Probation,
    /// A member is paid again.
    Reinstated,
    /// A member lost something in an interval.
    Penalty,
    /// A member was penalised for claiming more than its balance.
    OverClaim,
    /// A claim was paid.
    ClaimPaid,
    /// An operator moved a balance.
    Adjustment,
    /// A member does not answer, and may be down.
    Suspected,
    /// A member is down.
    Down,
    /// A member answers again.
    Up,
    /// The records of a node do not fit together.
    ChainMismatch,
    /// The disk of a node is full, or slow, or damaged, or well again.
    Disk,
}

/// Where a kind comes from, and so who tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The ledger: told by the leader, after the replicated cursor.
    Decision,
    /// What the leader sees of members: told by the leader.
    LeaderSight,
    /// What a node finds about itself: told by that node.
    OwnSight,
}

/// All kinds.
pub const ALL: [Kind; 16] = [
    Kind::Election,
    Kind::Void,
    Kind::Correlated,
    Kind::ObserverRejected,
    Kind::Suspended,
    Kind::Probation,
    Kind::Reinstated,
    Kind::Penalty,
    Kind::OverClaim,
    Kind::ClaimPaid,
    Kind::Adjustment,
    Kind::Suspected,
    Kind::Down,
    Kind::Up,
    Kind::ChainMismatch,
    Kind::Disk,
];

/// What a hook is told that does not say what it wants: what somebody should look at.
pub const USUAL: [Kind; 8] = [
    Kind::Suspected,
    Kind::Down,
    Kind::Suspended,
    Kind::Void,
    Kind::ObserverRejected,
    Kind::OverClaim,
    Kind::ChainMismatch,
    Kind::Election,
];

impl Kind {
    /// The name in bodies and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Election => "election",
            Kind::Void => "void",
            Kind::Correlated => "correlated",
            Kind::ObserverRejected => "observer_rejected",
            Kind::Suspended => "suspended",
            Kind::Probation => "probation",
            Kind::Reinstated => "reinstated",
            Kind::Penalty => "penalty",
            Kind::OverClaim => "over_claim",
            Kind::ClaimPaid => "claim_paid",
            Kind::Adjustment => "adjustment",
            Kind::Suspected => "suspected",
            Kind::Down => "down",
            Kind::Up => "up",
            Kind::ChainMismatch => "chain_mismatch",
            Kind::Disk => "disk",
        }
    }

    /// The kind of a name.
    pub fn parse(name: &str) -> Option<Kind> {
        ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Who tells it.
    pub fn origin(self) -> Origin {
        match self {
            Kind::Suspected | Kind::Down | Kind::Up => Origin::LeaderSight,
            Kind::ChainMismatch | Kind::Disk => Origin::OwnSight,
            _ => Origin::Decision,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
