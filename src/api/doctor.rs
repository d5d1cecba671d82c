//! `GET /v1/doctor`: what a node can tell of its own health. Answered from local state: it needs no quorum.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::network::peers::Link;
use crate::node::status::{ProjectionStatus, WebhookStatus};
use crate::storage::probe::{SyncLatency, sync_latency};
use crate::types::NodeId;

use super::ApiState;
use super::extract::Params;
use super::problem::Problem;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfReport {
    /// The node.
    pub id: NodeId,
    /// The configured name of its cluster.
    pub cluster: String,
    /// What that was founded with.
    pub identity: Option<String>,
    /// Its software.
    pub version: String,
    /// The oldest version of the peer protocol that it speaks.
    pub peer_protocol: u16,
    /// The newest.
    pub peer_protocol_max: u16,
    /// Its wall clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// How many files it may open; `None`: as many as it likes.
    pub open_files_max: Option<u64>,
    /// How long its disk takes for a small synced write now; `None` if that could not be measured.
    pub disk: Option<SyncLatency>,
    /// Whether its disk confirmed writes suspiciously late of late.
    pub disk_degraded: bool,
    /// Its shortest election timeout, in milliseconds: what the disk must stay far below.
    pub election_min_ms: u64,
    /// How it is connected with the others.
    pub links: Vec<Link>,
    /// Its projection into MongoDB.
    pub projection: ProjectionStatus,
    /// How its webhooks fare.
    #[serde(default)]
    pub webhooks: Vec<WebhookStatus>,
}

/// How many files this process may open; `None`: no limit.
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The wall clock, in milliseconds since 1970.
pub fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The report of this node.
pub async fn report(State(state): State<ApiState>, uri: Uri) -> Result<Json<SelfReport>, Problem> {
    Params::parse(&uri, &[])?;
    let about = state.about.clone();
    let disk = match about.data_dir {
        // A disk that hangs must not hold up the thread that serves others.
        Some(directory) => {
            tokio::task::spawn_blocking(move || sync_latency(&directory).ok()).await.ok().flatten()
        }
        None => None,
    };
    let links = (about.links)();
    let status = state.handle.status.borrow().clone();
    Ok(Json(SelfReport {
        id: status.id,
        cluster: status.cluster,
        identity: status.identity,
        version: status.version,
        peer_protocol: status.peer_protocol,
        peer_protocol_max: status.peer_protocol_max,
        open_files_max: open_files_max(),
        disk,
        disk_degraded: status.disk_degraded,
        election_min_ms: about.election_min_ms,
        links,
        projection: status.projection,
        webhooks: status.webhooks,
        // Last: what it took to find the rest out must not look like a wrong clock.
        clock_ms: clock_ms(),
    }))
}
