//! The metrics of a node (prefix `super_node_`), as `GET /metrics` shows them.
//!
//! One registry per node, so that several nodes in one process do not mix.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: String),+
        }
    };
}

labels!(
    /// One super-node as seen from here.
    PeerLabel {
        /// Its id.
        peer
    }
);
labels!(
    /// One member.
    MemberLabel {
        /// Its id.
        member
    }
);
labels!(
    /// An election.
    ElectionLabels {
        /// Which detector fired.
        reason,
        /// `started`, `won`, `lost`.
        result
    }
);
labels!(
    /// A result.
    ResultLabel {
        /// What came of it.
        result
    }
);
labels!(
    /// A kind of ledger movement.
    KindLabel {
        /// As in the documents.
        kind
    }
);
labels!(
    /// How a settled interval was judged.
    VerdictLabel {
        /// As in the documents.
        verdict
    }
);
labels!(
    /// A MongoDB collection.
    CollectionLabel {
        /// Its name.
        collection
    }
);
labels!(
    /// An HTTP request.
    RouteLabels {
        /// The route's pattern.
        route,
        /// The status code.
        code
    }
);
labels!(
    /// A webhook.
    HookLabel {
        /// Its name.
        hook
    }
);
labels!(
    /// A delivery to a webhook.
    HookResultLabels {
        /// The hook's name.
        hook,
        /// `delivered`, `failed`, `refused`, `given_up`, `dropped`.
        result
    }
);
labels!(
    /// This build.
    BuildLabel {
        /// The package version.
        version
    }
);

/// The collections of MongoDB that documents are counted of.
const COLLECTIONS: [&str; 5] = ["rewards", "intervals", "observations", "members", "elections"];

/// All metrics of one node.
pub struct Metrics {
    registry: Registry,
    /// Current term.
    pub raft_term: Gauge,
    /// 0 learner, 1 follower, 2 candidate, 3 leader.
    pub raft_role: Gauge,
    /// 1 while a leader is known.
    pub raft_has_leader: Gauge,
    /// Commit index.
    pub raft_commit_index: Gauge,
    /// Applied index.
    pub raft_applied_index: Gauge,
    /// Entries that a follower lacks; only on the leader.
    pub raft_follower_lag_entries: Family<PeerLabel, Gauge>,
    /// Seconds since the leader was last heard.
    pub raft_leader_contact_seconds: Gauge<f64, AtomicU64>,
    /// 1 while the detector holds the member up.
    pub member_up: Family<MemberLabel, Gauge>,
    /// Log and state on disk.
    pub storage_bytes: Gauge,
    /// The log begins after this index.
    pub snapshot_index: Gauge,
    /// Ledger movements.
    pub ledger_records: Gauge,
    /// Records not yet in MongoDB.
    pub projection_lag_records: Gauge,
    /// Elections by reason and result.
    pub raft_elections: Family<ElectionLabels, Counter>,
    /// How often the known leader changed.
    pub raft_leader_changes: Counter,
    /// Consensus messages sent.
    pub raft_messages: Counter,
    /// Proposals by result.
    pub raft_proposals: Family<ResultLabel, Counter>,
    /// Pings by result: `answered`, `missed`.
    pub pings: Family<ResultLabel, Counter>,
    /// Frames between super-nodes: `sent`, `received`, `dropped`.
    pub peer_frames: Family<ResultLabel, Counter>,
    /// Connections between super-nodes: `dialled`, `accepted`, `lost`, `refused`, `malformed`, `slow`, `too_many`.
    pub peer_connections: Family<ResultLabel, Counter>,
    /// Datagrams of the agent protocol: `sent`, `unsent`, `answered`, `limited`, `junk`.
    pub agent_datagrams: Family<ResultLabel, Counter>,
    /// Native connections of clients by their end: `closed`, `lost`, `refused`, `malformed`, `slow`.
    pub native_connections: Family<ResultLabel, Counter>,
    /// Requests over native connections by result: `answered`, `refused`.
    pub native_requests: Family<ResultLabel, Counter>,
    /// HTTP requests.
    pub http_requests: Family<RouteLabels, Counter>,
    /// Ledger movements by kind, counted as this node applied them.
    pub ledger_records_by_kind: Family<KindLabel, Counter>,
    /// Settled intervals by verdict, counted as this node applied them.
    pub intervals: Family<VerdictLabel, Counter>,
    /// Documents written to MongoDB.
    pub projection_documents: Family<CollectionLabel, Counter>,
    /// Bytes read again to find damage: `log`, `state`.
    pub scrub_bytes: Family<KindLabel, Counter>,
    /// Damage found by reading again: `log`, `state`.
    pub scrub_damage: Family<KindLabel, Counter>,
    /// Tries to deliver news to webhooks by result: `delivered`, `failed` (tried again), `refused`, `given_up`, `dropped`.
    pub webhook_deliveries: Family<HookResultLabels, Counter>,
    /// Spans of followed writes by result: `exported`, `failed` (the collector did not take them), `dropped` (the queue was full).
    pub trace_spans: Family<ResultLabel, Counter>,
    /// News that waits in this node's memory for a webhook.
    pub webhook_queue: Family<HookLabel, Gauge>,
    /// 1 while the disk has less room than the reserve, and writes are refused.
    pub storage_full: Gauge,
    /// From proposal to application, on the leader.
    pub raft_commit_seconds: Histogram,
    /// One write and sync of the log.
    pub wal_sync_seconds: Histogram,
    /// Round trips of pings.
    pub ping_rtt_seconds: Histogram,
    /// HTTP requests, all routes.
    pub http_request_seconds: Histogram,
    /// Leaderless time of the elections that this node won.
    pub election_leaderless_seconds: Histogram,
    /// One batch to MongoDB.
    pub projection_batch_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        // 50 us to 26 s.
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 20));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("super_node"),
            raft_term: Gauge::default(),
            raft_role: Gauge::default(),
            raft_has_leader: Gauge::default(),
            raft_commit_index: Gauge::default(),
            raft_applied_index: Gauge::default(),
            raft_follower_lag_entries: Family::default(),
            raft_leader_contact_seconds: Gauge::default(),
            member_up: Family::default(),
            storage_bytes: Gauge::default(),
            snapshot_index: Gauge::default(),
            ledger_records: Gauge::default(),
            projection_lag_records: Gauge::default(),
            raft_elections: Family::default(),
            raft_leader_changes: Counter::default(),
            raft_messages: Counter::default(),
            raft_proposals: Family::default(),
            pings: Family::default(),
            peer_frames: Family::default(),
            peer_connections: Family::default(),
            agent_datagrams: Family::default(),
            native_connections: Family::default(),
            native_requests: Family::default(),
            http_requests: Family::default(),
            ledger_records_by_kind: Family::default(),
            intervals: Family::default(),
            projection_documents: Family::default(),
            scrub_bytes: Family::default(),
            scrub_damage: Family::default(),
            webhook_deliveries: Family::default(),
            webhook_queue: Family::default(),
            trace_spans: Family::default(),
            storage_full: Gauge::default(),
            raft_commit_seconds: seconds(),
            wal_sync_seconds: seconds(),
            ping_rtt_seconds: seconds(),
            http_request_seconds: seconds(),
            election_leaderless_seconds: seconds(),
            projection_batch_seconds: seconds(),
        };
        // What is counted by label is there from the beginning: a first failure must be seen as an increase.
        for collection in COLLECTIONS {
            drop(
                metrics
                    .projection_documents
                    .get_or_create(&CollectionLabel { collection: collection.to_string() }),
            );
        }
        for kind in ["log", "state"] {
            drop(metrics.scrub_damage.get_or_create(&KindLabel { kind: kind.to_string() }));
        }
        for result in ["answered", "refused"] {
            drop(metrics.native_requests.get_or_create(&ResultLabel { result: result.to_string() }));
        }
        for result in ["answered", "missed"] {
            drop(metrics.pings.get_or_create(&ResultLabel { result: result.to_string() }));
        }
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("raft_term", "Current term", self.raft_term.clone());
        r.register("raft_role", "0 learner, 1 follower, 2 candidate, 3 leader", self.raft_role.clone());
        r.register("raft_has_leader", "1 while a leader is known", self.raft_has_leader.clone());
        r.register("raft_commit_index", "Commit index", self.raft_commit_index.clone());
        r.register("raft_applied_index", "Applied index", self.raft_applied_index.clone());
        r.register(
            "raft_follower_lag_entries",
            "Entries a follower lacks",
            self.raft_follower_lag_entries.clone(),
        );
        // The unit is part of the name in the text format: `_seconds` is appended.
        let contact = self.raft_leader_contact_seconds.clone();
        r.register_with_unit(
            "raft_leader_contact",
            "Since the leader was last heard",
            Unit::Seconds,
            contact,
        );
        r.register("member_up", "1 while the detector holds the member up", self.member_up.clone());
        r.register("storage_bytes", "Log and state on disk", self.storage_bytes.clone());
        r.register("snapshot_index", "The log begins after this index", self.snapshot_index.clone());
        r.register("ledger_records", "Ledger movements", self.ledger_records.clone());
        r.register(
            "projection_lag_records",
            "Records not yet in MongoDB",
            self.projection_lag_records.clone(),
        );
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION").to_string() }).set(1);
        r.register("build_info", "This build", build);
        // `_total` is appended to counters.
        r.register("raft_elections", "Elections by reason and result", self.raft_elections.clone());
        r.register("raft_leader_changes", "Changes of the known leader", self.raft_leader_changes.clone());
        r.register("raft_messages", "Consensus messages sent", self.raft_messages.clone());
        r.register("raft_proposals", "Proposals by result", self.raft_proposals.clone());
        r.register("pings", "Pings by result", self.pings.clone());
        r.register("peer_frames", "Frames between super-nodes by result", self.peer_frames.clone());
        let connections = self.peer_connections.clone();
        r.register("peer_connections", "Connections between super-nodes by result", connections);
        let datagrams = self.agent_datagrams.clone();
        r.register("agent_datagrams", "Datagrams of the agent protocol by result", datagrams);
        let native = self.native_connections.clone();
        r.register("native_connections", "Native connections of clients by their end", native);
        let native = self.native_requests.clone();
        r.register("native_requests", "Requests over native connections by result", native);
        r.register("http_requests", "HTTP requests", self.http_requests.clone());
        r.register("ledger_records", "Ledger movements applied by kind", self.ledger_records_by_kind.clone());
        r.register("intervals", "Settled intervals applied by verdict", self.intervals.clone());
        r.register("projection_documents", "Documents written to MongoDB", self.projection_documents.clone());
        r.register("scrub_bytes", "Bytes read again to find damage", self.scrub_bytes.clone());
        r.register("scrub_damage", "Damage found by reading again", self.scrub_damage.clone());
        r.register(
            "webhook_deliveries",
            "Tries to deliver to webhooks by result",
            self.webhook_deliveries.clone(),
        );
        r.register("trace_spans", "Spans of followed writes by result", self.trace_spans.clone());
        r.register("webhook_queue", "News that waits for a webhook", self.webhook_queue.clone());
        r.register(
            "storage_full",
            "1 while the disk has less room than the reserve",
            self.storage_full.clone(),
        );
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            r.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds("raft_commit", "From proposal to application", &self.raft_commit_seconds);
        seconds("wal_sync", "One write and sync of the log", &self.wal_sync_seconds);
        seconds("ping_rtt", "Round trips of pings", &self.ping_rtt_seconds);
        seconds("http_request", "HTTP requests", &self.http_request_seconds);
        seconds("election_leaderless", "Leaderless time of won elections", &self.election_leaderless_seconds);
        seconds("projection_batch", "One batch to MongoDB", &self.projection_batch_seconds);
    }

    /// The OpenMetrics text of all metrics.
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_interface() {
        let metrics = Metrics::new();
        metrics.ledger_records_by_kind.get_or_create(&KindLabel { kind: "reward".to_string() }).inc();
        metrics.wal_sync_seconds.observe(0.001);
        let text = metrics.render();
        for name in [
            "super_node_raft_term 0",
            "super_node_raft_leader_contact_seconds 0.0",
            "super_node_ledger_records 0",
            "super_node_ledger_records_total{kind=\"reward\"} 1",
            "super_node_raft_leader_changes_total 0",
            "super_node_wal_sync_seconds_count 1",
            "super_node_build_info{version=",
        ] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
