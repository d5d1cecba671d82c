//! The shared dictionary, and the replicated addition.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ledger::command::{
    Answer, Applied, Command, KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, KvOperation,
};
use crate::ledger::query;
use crate::ledger::records::KvEntry;
use crate::types::{Index, Term};

use super::extract::{Params, compact_json, parse_json, precondition, read_body, revision_of};
use super::problem::{Code, Problem};
use super::{ApiState, ReadWish, unexpected};

/// Longest `wait` of a long poll.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// A page of the dictionary ends early once its values exceed this many bytes.
pub(super) const PAGE_BYTES_MAX: usize = 4 << 20;
/// Entries fetched at a time while a page is filled, so that large values do not pile up beyond the page's bound.
const PAGE_STEP: usize = 16;

/// What stands before a key in a path.
pub(super) const PREFIX: &str = "/v1/kv/";
/// The route of one key.
pub(super) const ROUTE: &str = "/v1/kv/{*key}";

/// A path parameter holding a key.
type KeyPath = Result<Path<String>, PathRejection>;

fn key_of(path: KeyPath) -> Result<String, Problem> {
    let Path(key) = path.map_err(|error| Problem::bad_request(format!("the key cannot be read: {error}")))?;
    check_key(&key)?;
    Ok(key)
}

pub(super) fn check_key(key: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KV_KEY_BYTES_MAX {
        return Err(Problem::bad_request(format!(
            "a key has 1 to {KV_KEY_BYTES_MAX} bytes, this one has {}",
            key.len()
        )));
    }
    Ok(())
}

pub(super) fn check_value(key: &str, value: &str) -> Result<(), Problem> {
    if value.len() > KV_VALUE_BYTES_MAX {
        let detail =
            format!("the value of '{key}' has {} bytes of JSON, more than {KV_VALUE_BYTES_MAX}", value.len());
        return Err(Problem::new(Code::TooLarge, detail)
            .hint("store large things elsewhere and keep their address here"));
    }
    Ok(())
}

pub(super) fn check_batch(operations: usize) -> Result<(), Problem> {
    if operations == 0 {
        return Err(Problem::bad_request("the batch is empty"));
    }
    if operations > KV_BATCH_MAX {
        let detail = format!("the batch has {operations} operations, more than {KV_BATCH_MAX}");
        return Err(Problem::new(Code::TooLarge, detail).hint("send several batches"));
    }
    Ok(())
}

/// An entry with its value as it was written: digits and order included.
pub(super) fn entry_json(entry: &KvEntry) -> String {
    let KvEntry { key, value, revision } = entry;
    format!("{{\"key\":{},\"value\":{value},\"revision\":{revision}}}", Value::from(key.as_str()))
}

fn etag(revision: u64) -> (header::HeaderName, String) {
    (header::ETAG, format!("\"{revision}\""))
}

pub(super) fn json_text(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}

/// `/v1/kv/`: a key is missing.
pub async fn no_key() -> Problem {
    Problem::bad_request("the key is empty").hint("PUT /v1/kv/KEY; GET /v1/kv lists all keys")
}

/// `GET /v1/kv/{key}`: `?level=`, `?max_stale=`; with `?after=REV&wait=30s` it waits for a newer revision, and says 304
/// when none came.
pub async fn get_key(
    State(state): State<ApiState>,
    path: KeyPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(path)?;
    let params = Params::parse(&uri, &["level", "max_stale", "forward", "after", "wait"])?;
    let wish = ReadWish::parse(&params, &uri)?;
    let after = params.parsed::<u64>("after")?;
    let wait = params.duration("wait", WAIT_MAX)?;
    if wait.is_some() && after.is_none() {
        return Err(Problem::bad_request("wait only goes with after=REVISION"));
    }
    let deadline = Instant::now() + wait.unwrap_or_default();
    state.fresh(&wish).await?;
    let mut applied = state.handle.applied.clone();
    loop {
        applied.borrow_and_update();
        let entry = state.glance(|reader| query::kv_get(reader, &key))?;
        match &entry {
            Some(entry) if after.is_none_or(|after| entry.revision > after) => {
                return Ok(found(entry, &headers));
            }
            // A key that had a revision and is gone was deleted: that is news too.
            None if after != Some(0) => return Err(Problem::not_found(format!("no key '{key}'"))),
            _ => {}
        }
        tokio::select! {
            changed = applied.changed() => {
                changed.map_err(|_| Problem::new(Code::Draining, "this node is stopping"))?;
            }
            () = state.stopping.cancelled() => return Err(Problem::new(Code::Draining, "this node is stopping")),
            () = tokio::time::sleep_until(deadline) => return match entry {
                Some(entry) => Ok((StatusCode::NOT_MODIFIED, [etag(entry.revision)]).into_response()),
                None => Err(Problem::not_found(format!("no key '{key}'"))),
            },
        }
    }
}

fn found(entry: &KvEntry, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tag| revision_of(tag.to_str().ok()?));
    if known == Some(entry.revision) {
        return (StatusCode::NOT_MODIFIED, [etag(entry.revision)]).into_response();
    }
    ([etag(entry.revision)], json_text(entry_json(entry))).into_response()
}

/// `PUT /v1/kv/{key}`: the body is any JSON value. `If-Match: "REV"`, `If-None-Match: *`, `Idempotency-Key`.
pub async fn put_key(
    State(state): State<ApiState>,
    path: KeyPath,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    put(&state, key_of(path), &uri, &headers, body).await
}

/// The same, however the request came here.
pub(super) async fn put(
    state: &ApiState,
    key: Result<String, Problem>,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // First the body, whatever is wrong with the rest: see `read_body`.
    let bytes = read_body(headers, body, state.http.body_bytes_max).await?;
    let key = key?;
    check_key(&key)?;
    let value = compact_json(bytes)?;
    check_value(&key, &value)?;
    let if_revision = precondition(headers)?;
    let command = Command::KvPut { key: key.clone(), value, if_revision };
    let applied = state.submit(command, headers, uri, if_revision.is_some()).await?;
    written(Some(&key), &applied)
}

/// `DELETE /v1/kv/{key}`: `If-Match: "REV"`, `Idempotency-Key`.
pub async fn delete_key(
    State(state): State<ApiState>,
    path: KeyPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(path)?;
    let if_revision = precondition(&headers)?;
    let command = Command::KvDelete { key: key.clone(), if_revision };
    let applied = state.submit(command, &headers, &uri, if_revision.is_some()).await?;
    written(Some(&key), &applied)
}

/// The answer to a write.
#[derive(Serialize)]
struct Written<'k> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'k str>,
    revision: u64,
    index: Index,
    term: Term,
}

fn written(key: Option<&str>, applied: &Applied) -> Result<Response, Problem> {
    let Answer::Kv { revision } = applied.answer else { return Err(unexpected(applied)) };
    let answer = Written { key, revision, index: applied.index, term: applied.term };
    Ok(([etag(revision)], Json(answer)).into_response())
}

/// One operation of a batch.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum BatchOperation {
    Put { key: String, value: Value },
    Delete { key: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    operations: Vec<BatchOperation>,
}

/// `POST /v1/kv:batch` `{"operations":[{"op":"put","key":"a","value":1},{"op":"delete","key":"b"}]}`: all or nothing.
pub async fn batch(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Batch { operations } = parse_json(&bytes)?;
    check_batch(operations.len())?;
    let check = |operation: BatchOperation| {
        Ok(match operation {
            BatchOperation::Put { key, value } => {
                let value = value.to_string();
                check_key(&key)?;
                check_value(&key, &value)?;
                KvOperation::Put { key, value }
            }
            BatchOperation::Delete { key } => {
                check_key(&key)?;
                KvOperation::Delete { key }
            }
        })
    };
    let operations = operations.into_iter().map(check).collect::<Result<Vec<_>, Problem>>()?;
    let applied = state.submit(Command::KvBatch { operations }, &headers, &uri, false).await?;
    written(None, &applied)
}

/// `GET /v1/kv?prefix=&after=&limit=`: keys in byte order. A page ends early when its values get large.
pub(super) async fn list(state: &ApiState, params: &Params, uri: &Uri) -> Result<Response, Problem> {
    let wish = ReadWish::parse(params, uri)?;
    let limit = params.limit()?;
    let prefix = params.get("prefix").unwrap_or_default().to_string();
    let mut after = params.get("after").map(str::to_string);
    let (items, next) = state
        .read(&wish, move |reader| {
            let (mut items, mut bytes) = (Vec::<String>::new(), 0);
            loop {
                // One more than fits tells whether there is another page.
                let entries = query::kv_list(reader, &prefix, after.as_deref(), PAGE_STEP)?;
                let more = entries.len() == PAGE_STEP;
                for entry in entries {
                    if items.len() == limit || bytes > PAGE_BYTES_MAX {
                        return Ok((items, after));
                    }
                    bytes += entry.value.len();
                    items.push(entry_json(&entry));
                    after = Some(entry.key);
                }
                if !more {
                    return Ok((items, None));
                }
            }
        })
        .await?;
    let text = format!("{{\"items\":[{}],\"next\":{}}}", items.join(","), json!(next));
    Ok(json_text(text).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summands {
    a: i64,
    b: i64,
}

/// `POST /v1/add` `{"a":5,"b":3}`.
pub async fn add(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Summands { a, b } = parse_json(&bytes)?;
    let applied = state.submit(Command::Add { a, b }, &headers, &uri, false).await?;
    let Answer::Sum { result } = applied.answer else { return Err(unexpected(&applied)) };
    let node = state.handle.status.borrow().id.clone();
    Ok(Json(json!({ "result": result, "leader": applied.leader, "node": node, "index": applied.index })))
}
