//! The table of keys: one row per thing that can be set.

use std::path::PathBuf;
use std::time::Duration;

use crate::ledger::policy::PolicyKind;
use crate::ledger::retention::KEPT_INTERVALS_MIN;
use crate::node::frame::{PROTOCOL, PROTOCOL_MIN};
use crate::types::NodeId;

use super::value::{self, Problem, Raw};
use super::{Lease, LogFormat, Settings, WriteConcern};

/// One thing that can be set.
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// Reads a value into the settings. On an error the settings are unchanged.
    pub set: fn(&mut Settings, &Raw) -> Result<(), Problem>,
    /// The value as it may be printed: secrets are left out.
    pub show: fn(&Settings) -> String,
    /// Whether the raw value may hold a secret.
    pub secret: bool,
}

impl Key {
    /// The variable that sets it: `SUPER_NODE_RAFT__HEARTBEAT` for `raft.heartbeat`.
    pub fn variable(&self) -> String {
        format!("SUPER_NODE_{}", self.name.replace('.', "__").to_uppercase())
    }

    /// The value as an error may show it.
    pub fn shown(&self, raw: &Raw) -> String {
        match raw {
            Raw::Text(text) | Raw::String(text) if self.secret => format!("\"{}\"", value::redact_uri(text)),
            other => other.shown(),
        }
    }
}

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;
/// Longest interval.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Largest reward or penalty of one interval, points.
const POINTS_MAX: i64 = 1_000_000;

macro_rules! key {
    ($name:literal, $set:expr, $show:expr) => {
        Key { name: $name, set: $set, show: $show, secret: false }
    };
}

/// Milliseconds of a duration that the table's bounds keep below a day.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// All keys, in the order of `config/super-node.toml`.
pub const KEYS: &[Key] = &[
    key!("node.id", set_node_id, |s| s.node.id.to_string()),
    key!("node.data_dir", set_data_dir, |s| s.node.data_dir.display().to_string()),
    key!("node.in_memory", |s, raw| value::truth(raw).map(|v| s.node.in_memory = v), |s| s
        .node
        .in_memory
        .to_string()),
    key!("node.cluster", |s, raw| value::plain_text(raw, 64).map(|v| s.node.cluster = v), |s| s
        .node
        .cluster
        .clone()),
    key!("node.peer_protocol_max", set_protocol_max, |s| s.node.peer_protocol_max.to_string()),
    key!("listen.client", |s, raw| value::listener(raw).map(|v| s.listen.client = v), |s| s
        .listen
        .client
        .to_string()),
    key!("listen.peer", |s, raw| value::listener(raw).map(|v| s.listen.peer = v), |s| s
        .listen
        .peer
        .to_string()),
    key!("listen.agents", |s, raw| value::listener(raw).map(|v| s.listen.agents = v), |s| s
        .listen
        .agents
        .to_string()),
    key!("listen.advertise", set_advertise, |s| s.listen.advertise.clone().unwrap_or_default()),
    key!("cluster.peers", |s, raw| value::peers(raw).map(|v| s.cluster.peers = v), |s| value::show_peers(
        &s.cluster.peers
    )),
    key!("cluster.join", |s, raw| value::optional_url(raw).map(|v| s.cluster.join = v), |s| s
        .cluster
        .join
        .clone()
        .unwrap_or_default()),
    key!("cluster.replaces", set_replaces, |s| s
        .cluster
        .replaces
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()),
    key!("cluster.replace_dead_after", set_replace_dead_after, |s| s
        .cluster
        .replace_dead_after
        .map_or("false".to_string(), value::show_duration)),
    key!(
        "raft.heartbeat",
        |s, raw| value::duration(raw, MS(5), SECS(10)).map(|v| s.raft.heartbeat = v),
        |s| value::show_duration(s.raft.heartbeat)
    ),
    key!("raft.election", set_election, |s| {
        let (min, max) = (s.raft.election_min, s.raft.election_max);
        format!("{}..{}", value::show_duration(min), value::show_duration(max))
    }),
    key!("raft.pre_vote", |s, raw| value::truth(raw).map(|v| s.raft.pre_vote = v), |s| s
        .raft
        .pre_vote
        .to_string()),
    key!("raft.check_quorum", |s, raw| value::truth(raw).map(|v| s.raft.check_quorum = v), |s| s
        .raft
        .check_quorum
        .to_string()),
    key!(
        "raft.snapshot_entries",
        |s, raw| value::count(raw, 100, 10_000_000).map(|v| s.raft.snapshot_entries = v),
        |s| s.raft.snapshot_entries.to_string()
    ),
    key!(
        "raft.max_batch",
        |s, raw| value::size(raw, 4 << 10, 8 << 20).map(|v| s.raft.max_batch_bytes = v),
        |s| value::show_size(s.raft.max_batch_bytes)
    ),
    key!("raft.lease", set_lease, |s| match s.raft.lease {
        Lease::Off => "false".to_string(),
        Lease::On => "true".to_string(),
        Lease::Span(span) => value::show_duration(span),
    }),
    key!("raft.reluctant", |s, raw| value::truth(raw).map(|v| s.raft.reluctant = v), |s| s
        .raft
        .reluctant
        .to_string()),
    key!(
        "storage.scrub_rate",
        |s, raw| value::size(raw, 0, 1 << 30).map(|v| s.storage.scrub_rate = v),
        |s| value::show_size(s.storage.scrub_rate)
    ),
    key!(
        "storage.log_keep",
        |s, raw| value::size(raw, 1 << 20, 4 << 30).map(|v| s.storage.log_keep = v),
        |s| value::show_size(s.storage.log_keep)
    ),
    key!(
        "storage.snapshot_rate",
        |s, raw| value::size(raw, 64 << 10, 16 << 30).map(|v| s.storage.snapshot_rate = v),
        |s| value::show_size(s.storage.snapshot_rate)
    ),
    key!(
        "storage.reserve",
        |s, raw| value::size(raw, 1 << 20, 1 << 40).map(|v| s.storage.reserve = v),
        |s| value::show_size(s.storage.reserve)
    ),
    key!("storage.rejoin_within", set_rejoin_within, |s| s
        .storage
        .rejoin_within
        .map_or("false".to_string(), value::show_duration)),
    key!("storage.history", set_history, |s| s
        .storage
        .history
        .map_or("false".to_string(), |intervals| intervals.to_string())),
    key!(
        "ledger.interval",
        |s, raw| value::duration(raw, MS(100), INTERVAL_MAX).map(|v| s.ledger.interval_ms = millis(v)),
        |s| value::show_duration(MS(s.ledger.interval_ms))
    ),
    key!(
        "ledger.ping",
        |s, raw| value::duration(raw, MS(10), INTERVAL_MAX).map(|v| s.ledger.ping_ms = millis(v)),
        |s| value::show_duration(MS(s.ledger.ping_ms))
    ),
    key!(
        "ledger.ping_timeout",
        |s, raw| value::duration(raw, MS(5), SECS(60)).map(|v| s.ledger.ping_timeout_ms = millis(v)),
        |s| value::show_duration(MS(s.ledger.ping_timeout_ms))
    ),
    key!("ledger.reward", |s, raw| value::points(raw, POINTS_MAX).map(|v| s.ledger.reward = v), |s| s
        .ledger
        .reward
        .to_string()),
    key!("ledger.penalty", |s, raw| value::points(raw, POINTS_MAX).map(|v| s.ledger.penalty = v), |s| s
        .ledger
        .penalty
        .to_string()),
    key!("ledger.policy", set_policy, |s| match s.ledger.kind {
        PolicyKind::Standard => "standard".to_string(),
        PolicyKind::Classic => "classic".to_string(),
    }),
    Key {
        name: "mongodb.uri",
        set: |s, raw| value::mongodb_uri(raw).map(|v| s.mongodb.uri = v),
        show: |s| s.mongodb.uri.as_deref().map(value::redact_uri).unwrap_or_default(),
        secret: true,
    },
    key!("mongodb.database", set_database, |s| s.mongodb.database.clone()),
    key!("mongodb.write_concern", set_write_concern, |s| s.mongodb.write_concern.to_string()),
    key!("agents.admission", set_admission, |s| if s.agents.open { "open" } else { "approval" }.to_string()),
    Key {
        name: "agents.token",
        set: |s, raw| value::optional_text(raw, 256).map(|v| s.agents.token = v),
        show: |s| s.agents.token.as_deref().map_or("", |_| "…").to_string(),
        secret: true,
    },
    key!("tls.ca", |s, raw| path(raw).map(|v| s.tls.ca = v), |s| show_path(&s.tls.ca)),
    key!("tls.cert", |s, raw| path(raw).map(|v| s.tls.cert = v), |s| show_path(&s.tls.cert)),
    key!("tls.key", |s, raw| path(raw).map(|v| s.tls.key = v), |s| show_path(&s.tls.key)),
    key!("auth.tokens", |s, raw| path(raw).map(|v| s.auth.tokens = v), |s| show_path(&s.auth.tokens)),
    key!("auth.token_file", |s, raw| path(raw).map(|v| s.auth.token_file = v), |s| show_path(
        &s.auth.token_file
    )),
    key!(
        "http.timeout",
        |s, raw| value::duration(raw, MS(100), SECS(300)).map(|v| s.http.timeout = v),
        |s| value::show_duration(s.http.timeout)
    ),
    key!(
        "http.body_max",
        |s, raw| value::size(raw, 64 << 10, 8 << 20).map(|v| s.http.body_bytes_max = v),
        |s| value::show_size(s.http.body_bytes_max)
    ),
    key!(
        "http.keep_alive",
        |s, raw| value::duration(raw, SECS(1), SECS(300)).map(|v| s.http.keep_alive = v),
        |s| value::show_duration(s.http.keep_alive)
    ),
    key!("log.level", |s, raw| value::log_filter(raw).map(|v| s.log.level = v), |s| s.log.level.clone()),
    key!("log.format", set_log_format, |s| match s.log.format {
        LogFormat::Text => "text".to_string(),
        LogFormat::Json => "json".to_string(),
    }),
    key!("tracing.otlp", |s, raw| value::optional_url(raw).map(|v| s.tracing.otlp = v), |s| s
        .tracing
        .otlp
        .clone()
        .unwrap_or_default()),
    key!("tracing.ratio", |s, raw| value::ratio_ppm(raw).map(|v| s.tracing.ratio_ppm = v), |s| {
        (f64::from(s.tracing.ratio_ppm) / 1e6).to_string()
    }),
];

/// The row of a key.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn set_node_id(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let text = value::plain_text(raw, 80)?;
    settings.node.id = NodeId::given(&text).map_err(|_| {
        Problem::new(
            "is not a usable name",
            "write 1 to 64 of a-z A-Z 0-9 . _ -, other than . and .., such as n1",
        )
    })?;
    Ok(())
}

fn set_data_dir(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.node.data_dir = PathBuf::from(value::plain_text(raw, 4_096)?);
    Ok(())
}

/// A file, or none when empty.
fn path(raw: &Raw) -> Result<Option<PathBuf>, Problem> {
    Ok(value::optional_text(raw, 4_096)?.map(PathBuf::from))
}

fn show_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

fn set_protocol_max(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let version = value::count(raw, PROTOCOL_MIN.into(), PROTOCOL.into())?;
    settings.node.peer_protocol_max = u16::try_from(version).unwrap_or(PROTOCOL);
    Ok(())
}

fn set_advertise(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let host = value::optional_text(raw, 253)?;
    if let Some(host) = &host {
        // Brackets make an IPv6 address fit in front of a port.
        let probe = if host.contains(':') { format!("[{host}]:1") } else { format!("{host}:1") };
        value::remote_address(&probe).map_err(|_| {
            Problem::new(
                "is not a host",
                "write a host name or an IP address without a port, such as 10.0.0.1 or node-1",
            )
        })?;
    }
    settings.listen.advertise = host;
    Ok(())
}

fn set_election(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let (min, max) = value::duration_range(raw, MS(20), SECS(60))?;
    (settings.raft.election_min, settings.raft.election_max) = (min, max);
    Ok(())
}

fn set_lease(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.raft.lease = match value::truth(raw) {
        Ok(true) => Lease::On,
        Ok(false) => Lease::Off,
        Err(_) => match value::duration(raw, MS(10), SECS(60)) {
            Ok(span) => Lease::Span(span),
            Err(problem) => {
                let hint = format!("write true, false, or a duration; {}", problem.hint);
                return Err(Problem::new(problem.what, hint));
            }
        },
    };
    Ok(())
}

fn set_replaces(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| Problem::new("is not a usable name", "write the id of the super-node that leaves"))
    };
    settings.cluster.replaces = value::optional_text(raw, 80)?.map(parse).transpose()?;
    Ok(())
}

/// `false`, or a duration.
fn span_or_never(raw: &Raw, min: Duration, max: Duration) -> Result<Option<Duration>, Problem> {
    match value::truth(raw) {
        Ok(false) => Ok(None),
        _ => value::duration(raw, min, max).map(Some).map_err(|problem| {
            Problem::new(problem.what, format!("write false, or a duration; {}", problem.hint))
        }),
    }
}

fn set_replace_dead_after(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.cluster.replace_dead_after = span_or_never(raw, SECS(1), SECS(7 * 86_400))?;
    Ok(())
}

fn set_history(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.storage.history = match value::truth(raw) {
        Ok(false) => None,
        _ => Some(value::count(raw, KEPT_INTERVALS_MIN, 1_000_000_000).map_err(|problem| {
            Problem::new(problem.what, format!("write false, or a number of intervals; {}", problem.hint))
        })?),
    };
    Ok(())
}

fn set_rejoin_within(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.storage.rejoin_within = span_or_never(raw, SECS(1), SECS(86_400))?;
    Ok(())
}

fn set_policy(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.ledger.kind = match value::choice(raw, &["standard", "classic"])? {
        "classic" => PolicyKind::Classic,
        _standard => PolicyKind::Standard,
    };
    Ok(())
}

fn set_admission(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.agents.open = value::choice(raw, &["open", "approval"])? == "open";
    Ok(())
}

fn set_database(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let name = value::plain_text(raw, 63)?;
    if name.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?']) {
        return Err(Problem::new("is not a name for a MongoDB database", "use letters, digits, _ and -"));
    }
    settings.mongodb.database = name;
    Ok(())
}

fn set_write_concern(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    let text = match raw {
        Raw::Text(text) | Raw::String(text) | Raw::Integer(text) => text.trim(),
        _ => "",
    };
    settings.mongodb.write_concern = match text.parse::<u32>() {
        _ if text == "majority" => WriteConcern::Majority,
        Ok(count @ 1..=50) => WriteConcern::Nodes(count),
        _ => {
            let hint = "allowed: majority, or a number of servers from 1 to 50";
            return Err(Problem::new("is not a write concern", hint));
        }
    };
    Ok(())
}

fn set_log_format(settings: &mut Settings, raw: &Raw) -> Result<(), Problem> {
    settings.log.format = match value::choice(raw, &["text", "json"])? {
        "json" => LogFormat::Json,
        _text => LogFormat::Text,
    };
    Ok(())
}
