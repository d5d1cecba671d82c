//! Whether the ledger of this node is sound.

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::ledger::backwards::verify_from_newest;
use crate::ledger::keyspace::Reader;
use crate::ledger::verify::{VerifyReport, verify};
use crate::types::UnixMillis;

use super::ApiState;
use super::extract::Params;
use super::history::plain;
use super::problem::{Code, Problem};

/// How often progress is told at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Lines that may wait for a slow reader; the check waits with them.
const LINES_MAX: usize = 16;

/// What to check.
#[derive(Debug, Clone, Copy)]
struct Wish {
    newest_first: bool,
    intervals: Option<u64>,
    mongodb: bool,
}

impl Wish {
    fn run(self, reader: &dyn Reader, progress: &mut dyn FnMut(u64, u64)) -> VerifyReport {
        if self.newest_first {
            verify_from_newest(reader, self.intervals, progress)
        } else {
            verify(reader, progress)
        }
    }
}

/// `GET /v1/ledger/verify?from=&intervals=&mongodb=&progress=`: recomputes hashes, sums and settlements of what this node
/// holds. `from=newest` begins at the newest record, and `intervals=N` ends there after so many. `progress`: one JSON
/// object per line, `{"done","total"}` again and again, and the report last.
pub async fn verify_ledger(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::parse(&uri, &["from", "intervals", "mongodb", "progress"])?;
    let newest_first = match params.get("from") {
        None | Some("oldest") => false,
        Some("newest") => true,
        Some(other) => {
            return Err(Problem::bad_request(format!("from={other} is not known: oldest or newest")));
        }
    };
    let intervals = params.parsed("intervals")?;
    if intervals.is_some() && !newest_first {
        return Err(Problem::bad_request("`intervals` only goes with from=newest")
            .hint("from the oldest record on, everything is checked"));
    }
    let wish = Wish { newest_first, intervals, mongodb: params.truth("mongodb", false)? };
    if wish.mongodb && state.compare.is_none() {
        return Err(Problem::bad_request("this node has no MongoDB configured").hint("set MONGODB_URI"));
    }
    if !params.truth("progress", false)? {
        let report = state.look(move |reader| Ok(wish.run(reader, &mut |_, _| {}))).await?;
        return Ok(Json(concluded(&state, wish, &report).await?).into_response());
    }
    let (lines, told) = mpsc::channel(LINES_MAX);
    tokio::spawn(tell(state, wish, lines));
    let stream = stream::unfold(told, async |mut told| {
        let line: Value = told.recv().await?;
        Some((Ok::<_, Infallible>(format!("{line}\n")), told))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

/// Checks, and tells how far it has come.
async fn tell(state: ApiState, wish: Wish, lines: mpsc::Sender<Value>) {
    let progress = lines.clone();
    let looked = state.look(move |reader| {
        let mut told_at = Instant::now();
        Ok(wish.run(reader, &mut |done, total| {
            if told_at.elapsed() >= PROGRESS_EVERY {
                told_at = Instant::now();
                // A reader that has gone away hears nothing; the check comes to its end all the same.
                let _told = progress.blocking_send(json!({ "done": done, "total": total }));
            }
        }))
    });
    let answer = match looked.await {
        Ok(report) => concluded(&state, wish, &report).await,
        Err(problem) => Err(problem),
    };
    let last = answer.unwrap_or_else(|problem| json!({ "ok": false, "problems": [problem.detail] }));
    let _told = lines.send(last).await;
}

/// How many problems an event lists; the answer has them all.
const EVENT_PROBLEMS_MAX: usize = 10;

/// A ledger that is not sound is news, whoever looked.
fn tell_mismatch(state: &ApiState, place: &str, problems: &[String]) {
    let first: Vec<&String> = problems.iter().take(EVENT_PROBLEMS_MAX).collect();
    let message = format!(
        "the records of the {place} do not fit together: {}",
        problems.first().map_or("no reason given", String::as_str)
    );
    tracing::error!(event = "chain_mismatch", "{message}");
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = UnixMillis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
    let data = json!({ "where": place, "count": problems.len(), "problems": first });
    state.handle.events.publish(at, "chain_mismatch", message, data);
}

/// The report, with that of MongoDB if it was asked for.
async fn concluded(state: &ApiState, wish: Wish, report: &VerifyReport) -> Result<Value, Problem> {
    let mut answer = plain(serde_json::to_value(report))?;
    if !report.ok {
        tell_mismatch(state, "ledger", &report.problems);
    }
    if let (true, Some(compare)) = (wish.mongodb, &state.compare) {
        let compared = compare().await.map_err(|error| Problem::new(Code::Timeout, error.to_string()))?;
        answer["ok"] = Value::Bool(report.ok && compared.ok);
        if !compared.ok {
            tell_mismatch(state, "mongodb", &compared.problems);
        }
        answer["mongodb"] = plain(serde_json::to_value(compared))?;
    }
    Ok(answer)
}
