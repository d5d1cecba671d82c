//! Status, probes and metrics: all from local state, none needs a quorum.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::node::status::NodeStatus;

use super::extract::Params;
use super::problem::Problem;
use super::{ApiState, exposition};

/// A node that lacks more entries than this is not ready: what it answers is old.
const READY_LAG_MAX: u64 = 1_000;

/// `GET /v1/status`
pub async fn status(State(state): State<ApiState>, uri: Uri) -> Result<Json<NodeStatus>, Problem> {
    Params::parse(&uri, &[])?;
    Ok(Json(state.handle.status.borrow().clone()))
}

/// `GET /livez`: 200 while the node's driver runs.
pub async fn livez(State(state): State<ApiState>) -> Response {
    if state.handle.asks.is_closed() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the driver has stopped\n").into_response();
    }
    "ok\n".into_response()
}

struct Check {
    name: &'static str,
    good: bool,
    detail: String,
}

fn checks(state: &ApiState) -> Vec<Check> {
    let status = state.handle.status.borrow().clone();
    let lag = status.commit.0.saturating_sub(status.applied.0);
    let alive = !state.handle.asks.is_closed() && !state.stopping.is_cancelled();
    vec![
        Check { name: "running", good: alive, detail: if alive { "yes" } else { "stopping" }.to_string() },
        Check {
            name: "leader",
            good: status.leader.is_some(),
            detail: status.leader.map_or("none known".to_string(), String::from),
        },
        Check {
            name: "state",
            good: !status.lacks_state,
            detail: if status.lacks_state { "lost, and being fetched" } else { "there" }.to_string(),
        },
        Check {
            name: "applied",
            good: lag <= READY_LAG_MAX,
            detail: format!("{} of {} committed", status.applied, status.commit),
        },
        Check {
            name: "storage",
            good: true,
            detail: if status.in_memory { "in memory: nothing outlives this process" } else { "on disk" }
                .to_string(),
        },
    ]
}

/// `GET /readyz?verbose`: 200 when the node can take requests.
pub async fn readyz(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let verbose = Params::parse(&uri, &["verbose"])?.truth("verbose", false)?;
    let checks = checks(&state);
    let ready = checks.iter().all(|check| check.good);
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || !check.good) {
        let mark = if check.good { '+' } else { '-' };
        writeln!(text, "[{mark}] {}: {}", check.name, check.detail)
            .expect("writing to a string does not fail");
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, text).into_response())
}

/// `GET /metrics`: Prometheus text.
pub async fn metrics(State(state): State<ApiState>) -> Response {
    let text = exposition::to_text(&state.metrics.render());
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}
