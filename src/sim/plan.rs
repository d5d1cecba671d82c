//! What will happen in a history, decided before it begins: a value that can be written down, cut to pieces and
//! run again.
//!
//! A plan is drawn from a seed by `generate`. Its acts are numbered, each has an end of its own, and each makes sense
//! without the others; so a failure is made small by leaving acts out (`shrink`), and kept as a file that does not
//! change its meaning when the generator does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ledger::limits::Limits;
use crate::node::core::Bounds;
use crate::raft;

/// Bounds that are tighter than a real node's, so that a short history meets them; a missing one is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tight {
    /// See `node::core::Bounds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_part_bytes: Option<usize>,
    /// See `node::core::Bounds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<usize>,
    /// See `node::core::Bounds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<usize>,
    /// See `raft::Config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_bytes: Option<usize>,
    /// See `raft::Config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_messages: Option<usize>,
    /// See `raft::Config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncommitted_bytes: Option<usize>,
    /// See `raft::Config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_messages: Option<usize>,
    /// See `raft::Config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<usize>,
    /// See `ledger::limits::Limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// See `ledger::limits::Limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// See `ledger::limits::Limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_bytes: Option<u64>,
}

/// One history, before it is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it shows, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The seed of everything that is not in the plan: latencies, timeouts, what clients do.
    pub seed: u64,
    /// Super-nodes that found the cluster.
    pub nodes: u32,
    /// For how long things go wrong, in milliseconds.
    pub faults_ms: u64,
    /// Within which time after the last fault the cluster must be live again, in milliseconds.
    pub live_within_ms: u64,
    /// Clients that read and write.
    pub clients: u32,
    /// Applied entries that a log keeps for followers that are behind.
    pub keep_entries: u64,
    /// The lease of leaders, in milliseconds; without one there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Nodes (by number, from 1) that prefer not to lead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reluctant: Vec<u32>,
    /// How much too fast the monotonic clock of each node runs, in parts per million; the last holds for all further ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift_ppm: Vec<i64>,
    /// How far the wall clock of each node is off, in milliseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skew_ms: Vec<i64>,
    /// What is bounded more tightly than outside.
    #[serde(default, skip_serializing_if = "Tight::is_none")]
    pub tight: Tight,
    /// Whether hosts also crash by themselves at the worst moments, such as between a snapshot and its record.
    pub worst_moments: bool,
    /// Whether the leader projects into a MongoDB, which misbehaves by its own dice.
    #[serde(default)]
    pub database: bool,
    /// From when on, in milliseconds, the cluster must take writes all the time, whatever goes wrong then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_from_ms: Option<u64>,
    /// The only operations that clients begin before the faults end; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<BTreeSet<u32>>,
    /// What goes wrong, in order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
}

/// Something that goes wrong, or that the operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Names it within its plan.
    pub number: u32,
    /// When it begins, in milliseconds.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds; without meaning for what has no end.
    #[serde(default)]
    pub for_ms: u64,
    /// What it is.
    pub fault: Fault,
}

/// What can go wrong, and what an operator can do meanwhile. Nodes and agents are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A process dies; what it wrote and did not sync stays in the system's memory. It starts again at the end.
    Kill {
        /// Whose.
        node: u32,
        /// How far a write that was under way had come.
        entropy: u64,
    },
    /// A machine loses power: unsynced bytes are lost, kept or torn. It starts again at the end.
    PowerCut {
        /// Which.
        node: u32,
        /// What becomes of unsynced bytes.
        entropy: u64,
    },
    /// All machines lose power at the same moment.
    Blackout {
        /// What becomes of unsynced bytes.
        entropy: u64,
    },
    /// A process does not run, as after SIGSTOP, until the end.
    Pause {
        /// Whose.
        node: u32,
    },
    /// No frame passes between two sides.
    Partition {
        /// One side; all others are the other.
        side: Vec<u32>,
    },
    /// As a partition, by a firewall that rejects: connections between the sides are reset and new ones refused, and each
    /// host takes those beyond for dead at once, though they live.
    Reject {
        /// One side; all others are the other.
        side: Vec<u32>,
    },
    /// No frame passes one way; the way back is whole.
    OneWay {
        /// From there.
        from: u32,
        /// To there.
        to: u32,
    },
    /// Frames are lost.
    Loss {
        /// How many in a million.
        ppm: u64,
    },
    /// Frames that may be are delivered twice.
    Duplication {
        /// How many in a million.
        ppm: u64,
    },
    /// Frames are late, and so overtake each other.
    Delay {
        /// How many in a million.
        ppm: u64,
        /// By how much at most, in milliseconds.
        up_to_ms: u64,
    },
    /// A disk takes writes and finishes none.
    DiskStuck {
        /// Whose.
        node: u32,
    },
    /// A disk takes its time for every write.
    DiskSlow {
        /// Whose.
        node: u32,
        /// How long at most, in milliseconds.
        up_to_ms: u64,
    },
    /// A disk is full: writes fail, the process stops and is started again and again until there is room.
    DiskFull {
        /// Whose.
        node: u32,
        /// How many bytes still fit.
        room: u64,
    },
    /// A write or sync fails, the process stops; it is started again at the end.
    DiskError {
        /// Whose.
        node: u32,
        /// How many calls to the disk still succeed.
        calls: u64,
    },
    /// A machine loses power, and then its disk cannot be read until the end.
    ReadError {
        /// Whose.
        node: u32,
        /// What becomes of unsynced bytes.
        entropy: u64,
    },
    /// A machine loses power, and a bit of what was durable changes. At the end the operator restores the disk.
    BitFlip {
        /// Whose.
        node: u32,
        /// What becomes of unsynced bytes, and which bit changes.
        entropy: u64,
    },
    /// A wall clock is set.
    ClockJump {
        /// Whose.
        node: u32,
        /// By how much, in milliseconds.
        by_ms: i64,
    },
    /// An agent does not answer pings.
    AgentSilent {
        /// Which.
        agent: u32,
    },
    /// An agent joins the fleet, or says again that it is there.
    AgentJoins {
        /// Which.
        agent: u32,
    },
    /// An agent leaves the fleet.
    AgentLeaves {
        /// Which.
        agent: u32,
    },
    /// A new node joins, and becomes a voter once it has caught up.
    Grow,
    /// A voter is removed. Its process runs on until the end.
    Shrink {
        /// Which, counted among the voters.
        pick: u32,
    },
    /// A new node takes a voter's place, in one change. The voter's process runs on until the end, or is dead.
    Replace {
        /// Which, counted among the voters.
        pick: u32,
        /// Whether the voter dies first, for good.
        dead: bool,
    },
    /// A voter becomes a learner.
    Demote {
        /// Which, counted among the voters.
        pick: u32,
    },
    /// A learner becomes a voter.
    Promote {
        /// Which, counted among the learners.
        pick: u32,
    },
    /// A node is reached elsewhere.
    Readdress {
        /// Which, counted among all nodes of the configuration.
        pick: u32,
    },
    /// Leadership is handed over.
    Transfer {
        /// To whom, counted among the voters; without it the leader chooses.
        pick: Option<u32>,
    },
    /// A machine loses everything it had. Its id is removed from the cluster and joins again, as a new node.
    Wipe {
        /// Which.
        node: u32,
    },
    /// The process that leads dies, whoever that is; nobody does while nobody leads. It starts again at the end.
    KillLeader {
        /// How far a write that was under way had come.
        entropy: u64,
    },
}

/// A kind of fault: its name, how often it is drawn beside the others, and how long one lasts, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// As in scenario files, plans and counts.
    pub name: &'static str,
    /// Relative frequency, if the scenario does not say otherwise.
    pub weight: u64,
    /// Shortest and longest.
    pub span_ms: (u64, u64),
    /// Whether it changes who is in the cluster, or who leads it, on purpose.
    pub operator: bool,
}

impl Kind {
    /// Whether it is a thing that goes wrong, and not what the operator does or what befalls an agent.
    pub fn is_fault(&self) -> bool {
        !self.operator && !self.name.starts_with("agent_")
    }
}

const fn fault(name: &'static str, weight: u64, span_ms: (u64, u64)) -> Kind {
    Kind { name, weight, span_ms, operator: false }
}

const fn deed(name: &'static str, weight: u64) -> Kind {
    Kind { name, weight, span_ms: (0, 0), operator: true }
}

/// All kinds, in the order of [`Fault`].
pub const KINDS: &[Kind] = &[
    fault("kill", 6, (100, 2_500)),
    fault("power_cut", 8, (100, 2_500)),
    fault("blackout", 2, (100, 1_000)),
    fault("pause", 6, (100, 1_500)),
    fault("partition", 8, (300, 4_000)),
    fault("reject", 4, (100, 1_500)),
    fault("one_way", 8, (300, 4_000)),
    fault("loss", 4, (500, 5_000)),
    fault("duplication", 4, (500, 5_000)),
    fault("delay", 4, (500, 5_000)),
    fault("disk_stuck", 6, (50, 2_500)),
    fault("disk_slow", 4, (300, 4_000)),
    fault("disk_full", 3, (200, 2_500)),
    fault("disk_error", 4, (100, 1_500)),
    fault("read_error", 2, (200, 2_000)),
    fault("bit_flip", 3, (500, 3_000)),
    fault("clock_jump", 3, (0, 0)),
    fault("agent_silent", 4, (500, 5_000)),
    fault("agent_joins", 3, (0, 0)),
    fault("agent_leaves", 2, (0, 0)),
    deed("grow", 6),
    deed("shrink", 5),
    deed("replace", 6),
    deed("demote", 2),
    deed("promote", 2),
    deed("readdress", 1),
    deed("transfer", 8),
    deed("wipe", 3),
    // Drawn only where a scenario gives it a weight.
    fault("kill_leader", 0, (50, 600)),
];

impl Tight {
    /// What the ledger keeps at most.
    pub fn limits(&self) -> Limits {
        Limits {
            answers: self.answers.unwrap_or(Limits::REAL.answers),
            sessions: self.sessions.unwrap_or(Limits::REAL.sessions),
            session_bytes: self.session_bytes.unwrap_or(Limits::REAL.session_bytes),
        }
    }

    /// How consensus is configured.
    pub fn raft(&self) -> raft::Config {
        let usual = raft::Config::default();
        raft::Config {
            append_bytes_max: self.append_bytes.unwrap_or(usual.append_bytes_max),
            append_messages_max: self.append_messages.unwrap_or(usual.append_messages_max),
            uncommitted_bytes_max: self.uncommitted_bytes.unwrap_or(usual.uncommitted_bytes_max),
            held_messages_max: self.held_messages.unwrap_or(usual.held_messages_max),
            reads_pending_max: self.reads.unwrap_or(usual.reads_pending_max),
            ..usual
        }
    }

    /// What a node takes at most.
    pub fn bounds(&self) -> Bounds {
        let usual = Bounds::default();
        Bounds {
            requests_max: self.requests.unwrap_or(usual.requests_max),
            parked_max: self.parked.unwrap_or(usual.parked_max),
            snapshot_part_bytes: self.snapshot_part_bytes.unwrap_or(usual.snapshot_part_bytes),
        }
    }

    /// Whether all bounds are as they are outside.
    pub fn is_none(&self) -> bool {
        *self == Tight::default()
    }
}

impl Fault {
    /// Its kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::PowerCut { .. } => "power_cut",
            Fault::Blackout { .. } => "blackout",
            Fault::Pause { .. } => "pause",
            Fault::Partition { .. } => "partition",
            Fault::Reject { .. } => "reject",
            Fault::OneWay { .. } => "one_way",
            Fault::Loss { .. } => "loss",
            Fault::Duplication { .. } => "duplication",
            Fault::Delay { .. } => "delay",
            Fault::DiskStuck { .. } => "disk_stuck",
            Fault::DiskSlow { .. } => "disk_slow",
            Fault::DiskFull { .. } => "disk_full",
            Fault::DiskError { .. } => "disk_error",
            Fault::ReadError { .. } => "read_error",
            Fault::BitFlip { .. } => "bit_flip",
            Fault::ClockJump { .. } => "clock_jump",
            Fault::AgentSilent { .. } => "agent_silent",
            Fault::AgentJoins { .. } => "agent_joins",
            Fault::AgentLeaves { .. } => "agent_leaves",
            Fault::Grow => "grow",
            Fault::Shrink { .. } => "shrink",
            Fault::Replace { .. } => "replace",
            Fault::Demote { .. } => "demote",
            Fault::Promote { .. } => "promote",
            Fault::Readdress { .. } => "readdress",
            Fault::Transfer { .. } => "transfer",
            Fault::Wipe { .. } => "wipe",
            Fault::KillLeader { .. } => "kill_leader",
        }
    }
}

impl Fault {
    /// Whether the operator does it.
    pub fn is_operator(&self) -> bool {
        KINDS.iter().any(|kind| kind.name == self.kind() && kind.operator)
    }
}

/// A plan cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

impl Plan {
    /// Reads a plan from TOML.
    ///
    /// # Errors
    /// The text says which key is wrong, and where.
    pub fn parse(text: &str) -> Result<Plan, PlanError> {
        let plan: Plan = toml::from_str(text).map_err(|error| PlanError(error.to_string()))?;
        let wrong = |key: &str, remedy: &str| Err(PlanError(format!("{key}: {remedy}")));
        if !(1..=7).contains(&plan.nodes) {
            return wrong("nodes", "give 1 to 7");
        }
        if !(1..=64).contains(&plan.clients) {
            return wrong("clients", "give 1 to 64");
        }
        if plan.drift_ppm.iter().any(|drift| drift.abs() > DRIFT_PPM_MAX) {
            return wrong("drift_ppm", "a clock may be off by 45000 parts per million, one way or the other");
        }
        if plan.faults_ms > 3_600_000 || plan.live_within_ms > 3_600_000 {
            return wrong("faults_ms, live_within_ms", "an hour is the longest");
        }
        let mut numbers = BTreeSet::new();
        for act in &plan.acts {
            if !numbers.insert(act.number) {
                return wrong(
                    &format!("acts: number {}", act.number),
                    "it is used twice: number the acts apart",
                );
            }
        }
        Ok(plan)
    }

    /// As TOML.
    ///
    /// # Errors
    /// A seed of 2^63 or more cannot be written in TOML.
    pub fn to_toml(&self) -> Result<String, PlanError> {
        toml::to_string(self).map_err(|error| PlanError(error.to_string()))
    }

    /// Whether an operation may begin now. Those after the faults always may: the verdict on liveness needs them.
    pub fn allows(&self, operation: u32, healed: bool) -> bool {
        healed || self.operations.as_ref().is_none_or(|allowed| allowed.contains(&operation))
    }
}

/// Most that a monotonic clock is off, in parts per million: two clocks drift apart by less than the tenth that leases bear.
pub const DRIFT_PPM_MAX: i64 = 45_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Scenario, generate};

    #[test]
    fn a_plan_is_what_it_was_after_it_was_written_down() {
        for seed in 0..50 {
            let plan = generate(seed, &Scenario::default());
            let text = plan.to_toml().expect("can be written");
            assert_eq!(Plan::parse(&text).expect("can be read"), plan, "{text}");
        }
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_told() {
        let text = generate(1, &Scenario::default()).to_toml().expect("can be written");
        for (find, replace, told) in [
            ("nodes = ", "nodes = 9 #", "nodes: give 1 to 7"),
            ("clients = ", "client = ", "unknown field `client`"),
            ("seed = ", "seed = -1 #", "seed"),
        ] {
            let error = Plan::parse(&text.replacen(find, replace, 1)).expect_err("is wrong").to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
