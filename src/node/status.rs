//! What a node says about itself: the body of `GET /v1/status`.

use serde::{Deserialize, Serialize};

use crate::types::{Index, IntervalId, NodeId, Term, UnixMillis};

/// The role of a node in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Orders the log.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes (or pre-votes).
    Candidate,
    /// Receives the log without a vote.
    Learner,
}

/// The body of `GET /v1/status`, from local state alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The configured name of the cluster.
    pub cluster: String,
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// Its commit index.
    pub commit: Index,
    /// Its applied index.
    pub applied: Index,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// Those that receive the log and do not vote.
    #[serde(default)]
    pub learners: Vec<NodeId>,
    /// Every super-node as seen from here.
    pub nodes: Vec<PeerStatus>,
    /// Counts of members.
    pub members: MemberCounts,
    /// The interval counters.
    pub interval: IntervalCounts,
    /// The ledger.
    pub ledger: LedgerHead,
    /// The projection into MongoDB.
    pub projection: ProjectionStatus,
    /// Software version.
    pub version: String,
    /// This node's client URL.
    pub url: String,
    /// What the cluster was founded with, 32 hexadecimal digits; `None` before this node has heard of it.
    #[serde(default)]
    pub identity: Option<String>,
    /// The oldest version of the peer protocol that it speaks. Nodes without a version in common refuse each other.
    #[serde(default)]
    pub peer_protocol: u16,
    /// Whether the voters are being changed (joint consensus).
    #[serde(default)]
    pub changing: bool,
    /// Whether this node was removed from the cluster, and is idle.
    #[serde(default)]
    pub removed: bool,
    /// To whom this leader is handing over.
    #[serde(default)]
    pub transfer: Option<NodeId>,
    /// Whether this node's disk confirms writes suspiciously late.
    #[serde(default)]
    pub disk_degraded: bool,
    /// The newest version of the peer protocol that it speaks, if it speaks several; 0 of a node that knew only one.
    #[serde(default)]
    pub peer_protocol_max: u16,
    /// What its log holds.
    #[serde(default)]
    pub log: LogWindow,
    /// Whether this node's disk has no room for further entries.
    #[serde(default)]
    pub disk_full: bool,
    /// Whether this node's applied state is gone and is being fetched from the leader.
    #[serde(default)]
    pub lacks_state: bool,
    /// Whether this node keeps log and state in memory, and loses them when it ends.
    #[serde(default)]
    pub in_memory: bool,
    /// The webhooks that are configured on this node, in order of their names. The one that leads tells most.
    #[serde(default)]
    pub webhooks: Vec<WebhookStatus>,
    /// The state that this node is fetching.
    #[serde(default)]
    pub receiving: Option<Receiving>,
}

/// A state that a node fetches, because it is too far behind for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// From whom.
    pub from: NodeId,
    /// What it covers.
    pub index: Index,
    /// So much is here. How much there is, nobody knows before the end.
    pub bytes: u64,
}

/// How a webhook fares on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookStatus {
    /// Its name.
    pub hook: String,
    /// Scheme, host and port of the receiver.
    pub place: String,
    /// Whether the receiver took nothing at the last try.
    pub failing: bool,
    /// What went wrong last, since this node started.
    pub last_error: Option<WebhookError>,
}

impl WebhookStatus {
    /// How it fares, for people.
    pub fn in_words(&self) -> String {
        let state = if self.failing { "takes nothing" } else { "in order" };
        match &self.last_error {
            None => state.to_string(),
            Some(WebhookError { at, what, .. }) if self.failing => format!("{state}: {what} ({at})"),
            Some(WebhookError { at, what, .. }) => format!("{state}; last error {at}: {what}"),
        }
    }
}

/// Something went wrong with a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookError {
    /// When, by the node's clock.
    pub at: UnixMillis,
    /// What, without secrets.
    pub what: String,
    /// Whether the receiver will not be told of something because of it. Otherwise it is tried again.
    pub lost: bool,
}

/// What a node's log holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWindow {
    /// The last entry that was forgotten, because the state holds its effect; 0: none.
    pub base_index: Index,
    /// That entry's term.
    pub base_term: Term,
    /// The last entry.
    pub last_index: Index,
    /// On disk up to here.
    pub durable_index: Index,
}

/// A super-node as seen from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The node.
    pub id: NodeId,
    /// Its peer address.
    pub address: String,
    /// What is known of its role.
    pub role: RoleName,
    /// Highest entry known to be on it; only the leader knows, others say `None`.
    #[serde(rename = "match")]
    pub matched: Option<Index>,
    /// Entries it lacks; only the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since it was last heard; `None` if never.
    pub contact_ms: Option<u64>,
    /// Whether the detector holds it up, or has no answer yet while this node heard it a moment ago.
    pub up: bool,
    /// Its client URL, once it has introduced itself.
    pub url: Option<String>,
    /// Whether it is a learner that becomes a voter once it has caught up.
    #[serde(default)]
    pub joining: bool,
    /// The voter that leaves when it becomes one.
    #[serde(default)]
    pub replaces: Option<NodeId>,
    /// Whether it needs one snapshot after the other; only the leader knows.
    #[serde(default)]
    pub falls_behind: bool,
}

/// Counts of members by what the detector and the ledger say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCounts {
    /// All that have not left.
    pub total: u64,
    /// Answering.
    pub up: u64,
    /// Missing the first answers.
    pub suspect: u64,
    /// Silent.
    pub down: u64,
    /// Suspended by the ledger.
    pub suspended: u64,
}

/// The interval counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalCounts {
    /// Being observed.
    pub open: IntervalId,
    /// Next to be settled.
    pub next_settle: IntervalId,
}

/// The head of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Movements so far.
    pub records: u64,
    /// Hash of the last, hexadecimal.
    pub head_hash: String,
}

/// How far the projection has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionStatus {
    /// Whether a MongoDB is configured on this node.
    pub enabled: bool,
    /// Last projected ledger sequence.
    pub checkpoint: u64,
    /// Movements, intervals and elections not yet projected.
    pub lag_records: u64,
    /// What keeps it from going on, if anything.
    pub error: Option<String>,
}
