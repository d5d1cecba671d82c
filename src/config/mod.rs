//! Settings: flag > environment > file > default.
//!
//! * [`keys`] is the table of everything that can be set: its name, its default, how it is read and shown.
//! * [`load`] lays the four sources over each other and remembers where each value came from.
//! * [`value`] turns text into durations, sizes, amounts and addresses.
//! * `webhooks` reads `[[webhooks]]`, a list, which no single key can hold.
//! * [`check`] looks at what single values cannot know: whether they fit together.
//!
//! A mistake is an [`Errors`] that names the key, the value, where it was written, what is allowed and what to do;
//! all mistakes are reported at once. The command line ends with exit code 2.

pub mod check;
pub mod keys;
pub mod load;
pub mod value;
mod webhooks;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ledger::policy::Policy;
use crate::network::tls::Files;
use crate::node::frame::PROTOCOL;
use crate::types::NodeId;
use crate::webhooks::Hook;

pub use load::{Inputs, Loaded, resolve};

/// Everything that a super-node can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[node]`
    pub node: NodeSettings,
    /// `[listen]`
    pub listen: ListenSettings,
    /// `[cluster]`
    pub cluster: ClusterSettings,
    /// `[raft]`
    pub raft: RaftSettings,
    /// `[storage]`
    pub storage: StorageSettings,
    /// `[ledger]`: the initial policy, read once when a cluster is first formed.
    pub ledger: Policy,
    /// `[mongodb]`
    pub mongodb: MongodbSettings,
    /// `[agents]`
    pub agents: AgentsSettings,
    /// `[tls]`
    pub tls: TlsSettings,
    /// `[auth]`
    pub auth: AuthSettings,
    /// `[http]`
    pub http: HttpSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[tracing]`
    pub tracing: TracingSettings,
    /// `[[webhooks]]`
    pub webhooks: Vec<Hook>,
    /// Whether listeners beyond loopback are allowed without TLS (`--insecure`, `SUPER_NODE_INSECURE`).
    pub insecure: bool,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// This node's name.
    pub id: NodeId,
    /// Where it keeps its log and state.
    pub data_dir: PathBuf,
    /// Whether it keeps them in memory instead, and loses them when it ends.
    pub in_memory: bool,
    /// The configured name of the cluster; nodes with different names refuse each other.
    pub cluster: String,
    /// The newest version of the peer protocol that it speaks.
    pub peer_protocol_max: u16,
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// HTTP for clients.
    pub client: SocketAddr,
    /// Other super-nodes.
    pub peer: SocketAddr,
    /// Pings between this node and the agents.
    pub agents: SocketAddr,
    /// The host name or IP address under which others reach this node; the ports are those of the listeners.
    pub advertise: Option<String>,
}

/// `[cluster]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Peer addresses of all first super-nodes, this one included. Empty: a one-node cluster.
    pub peers: BTreeMap<NodeId, String>,
    /// Client URL of a node of a running cluster that this node wants to join.
    pub join: Option<String>,
    /// The super-node that leaves when this one, which joins, becomes a voter.
    pub replaces: Option<NodeId>,
    /// While this node leads, it replaces a voter that was silent for so long by a learner. `None`: never.
    pub replace_dead_after: Option<Duration>,
}

/// `[raft]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSettings {
    /// Time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// Ask before raising the term (Raft dissertation, section 9.6).
    pub pre_vote: bool,
    /// A leader that hears no quorum steps down (Raft dissertation, section 6.2).
    pub check_quorum: bool,
    /// Applied log entries kept for followers that are behind.
    pub snapshot_entries: u64,
    /// Most bytes of entries in one message.
    pub max_batch_bytes: u64,
    /// Whether, and for how long, a leader answers reads by itself (Raft dissertation, section 6.4.1).
    pub lease: Lease,
    /// Whether this node prefers not to lead.
    pub reluctant: bool,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    /// How fast what lies on disk is read again in the background to find damage, bytes a second; 0: not at all.
    pub scrub_rate: u64,
    /// Most bytes of applied log entries kept for followers that are behind, in memory and on disk.
    pub log_keep: u64,
    /// How fast a snapshot is sent to one receiver, bytes a second.
    pub snapshot_rate: u64,
    /// Writes are refused as long as the disk has less room than this, in bytes.
    pub reserve: u64,
    /// For how long a node whose log is damaged tries to be taken back as a new one before it stops. `None`: not at all.
    pub rejoin_within: Option<Duration>,
    /// How many settled intervals are kept while this node leads; older ones are forgotten. `None`: none is.
    pub history: Option<u64>,
}

/// For how long a leader answers reads by itself after a quorum has answered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Never.
    Off,
    /// For three quarters of the shortest election timeout.
    On,
    /// For so long.
    Span(Duration),
}

impl RaftSettings {
    /// The span of the lease, if there is one.
    pub fn lease_span(&self) -> Option<Duration> {
        match self.lease {
            Lease::Off => None,
            Lease::On => Some(self.election_min * 3 / 4),
            Lease::Span(span) => Some(span),
        }
    }
}

/// `[mongodb]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongodbSettings {
    /// Connection string; `None`: no projection. May hold a password: show it only through
    /// [`value::redact_uri`].
    pub uri: Option<String>,
    /// Name of the database.
    pub database: String,
    /// How many servers must have a write before it counts.
    pub write_concern: WriteConcern,
}

/// How many MongoDB servers must have a write before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteConcern {
    /// More than half.
    Majority,
    /// So many.
    Nodes(u32),
}

impl fmt::Display for WriteConcern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteConcern::Majority => f.write_str("majority"),
            WriteConcern::Nodes(count) => count.fmt(f),
        }
    }
}

/// `[agents]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentsSettings {
    /// Whether an agent that nobody expects is let in at once; otherwise it waits for an operator.
    pub open: bool,
    /// Whoever brings this is let in at once.
    pub token: Option<String>,
}

/// `[tls]`: all three, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate of the authority that vouches for all super-nodes of the cluster.
    pub ca: Option<PathBuf>,
    /// This node's certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl TlsSettings {
    /// The files, if connections are to be encrypted.
    pub fn files(&self) -> Option<Files> {
        let TlsSettings { ca, cert, key } = self.clone();
        Some(Files { ca: ca?, cert: cert?, key: key? })
    }
}

/// `[auth]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthSettings {
    /// The file of tokens that requests must show one of; `None`: everybody may do everything.
    pub tokens: Option<PathBuf>,
    /// The file with the token that this node shows to the cluster that it joins.
    pub token_file: Option<PathBuf>,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// How long a request may wait for the cluster.
    pub timeout: Duration,
    /// Largest request body, bytes.
    pub body_bytes_max: u64,
    /// Time between signs of life on an idle event stream.
    pub keep_alive: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or `target=level` parts.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `[tracing]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingSettings {
    /// The base URL of a collector of OpenTelemetry, OTLP over HTTP; `None`: no write is followed.
    pub otlp: Option<String>,
    /// How many of a million writes are followed.
    pub ratio_ppm: u32,
}

impl Default for TracingSettings {
    fn default() -> Self {
        TracingSettings { otlp: None, ratio_ppm: 10_000 }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Settings {
            node: NodeSettings {
                id: "n1".parse().expect("a valid name"),
                data_dir: PathBuf::from("data/n1"),
                in_memory: false,
                cluster: "super-node".to_string(),
                peer_protocol_max: PROTOCOL,
            },
            listen: ListenSettings {
                client: local(7400),
                peer: local(7401),
                agents: local(7402),
                advertise: None,
            },
            cluster: ClusterSettings::default(),
            raft: RaftSettings {
                heartbeat: Duration::from_millis(50),
                election_min: Duration::from_millis(300),
                election_max: Duration::from_millis(600),
                pre_vote: true,
                check_quorum: true,
                snapshot_entries: 100_000,
                max_batch_bytes: 256 << 10,
                lease: Lease::Off,
                reluctant: false,
            },
            storage: StorageSettings {
                scrub_rate: 1 << 20,
                log_keep: 64 << 20,
                snapshot_rate: 64 << 20,
                reserve: 64 << 20,
                rejoin_within: Some(Duration::from_secs(10)),
                history: None,
            },
            ledger: Policy::default(),
            mongodb: MongodbSettings {
                uri: None,
                database: "super_node".to_string(),
                write_concern: WriteConcern::Majority,
            },
            agents: AgentsSettings { open: true, token: None },
            tls: TlsSettings::default(),
            auth: AuthSettings::default(),
            http: HttpSettings {
                timeout: Duration::from_secs(5),
                body_bytes_max: 4 << 20,
                keep_alive: Duration::from_secs(15),
            },
            log: LogSettings { level: "info".to_string(), format: LogFormat::Text },
            tracing: TracingSettings::default(),
            webhooks: Vec::new(),
            insecure: false,
        }
    }
}

impl Settings {
    /// This node's client URL as others should use it.
    pub fn client_url(&self) -> String {
        let address = self.listen.client;
        let scheme = if self.tls.files().is_some() { "https" } else { "http" };
        match &self.listen.advertise {
            Some(host) if host.contains(':') => format!("{scheme}://[{host}]:{}", address.port()),
            Some(host) => format!("{scheme}://{host}:{}", address.port()),
            None => format!("{scheme}://{address}"),
        }
    }
}

/// The one token that a file holds.
///
/// # Errors
/// In words that name the file, when it cannot be read or holds no token.
pub fn token_in(path: &Path) -> Result<String, String> {
    let refused = |why: String| format!("{}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("holds no usable token".to_string()));
    }
    Ok(token.to_string())
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// Follows from another key.
    Derived(&'static str),
    /// A line of the file.
    File {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A variable in `.env`.
    DotEnv(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Derived(from) => write!(f, "from {from}"),
            Source::File { path, line } => write!(f, "{path}:{line}"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::DotEnv(name) => write!(f, ".env {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong: names the key, the value and where it was written.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.hint)
    }
}

/// All mistakes of a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<ConfigError>);

impl Errors {
    /// One mistake.
    pub fn one(message: impl Into<String>, hint: impl Into<String>) -> Errors {
        Errors(vec![ConfigError { message: message.into(), hint: hint.into() }])
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}
