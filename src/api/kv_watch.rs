//! `GET /v1/kv`: a page of the dictionary; with `wait`, a long poll on everything below a prefix.
//!
//! A poll keeps nothing on the node between two requests, so it may go on at any other node, or after a restart. The
//! asker says which revision it has seen (`after`) and how many keys it knows below the prefix (`keys`). If a key was
//! written since, its revision is higher; if none was, but some were removed, there are fewer keys. So the two numbers
//! together notice every change. Who is told a number of keys other than its own reads the list to see which are gone.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query;

use super::extract::Params;
use super::kv::{self, PAGE_BYTES_MAX, WAIT_MAX, entry_json, json_text};
use super::problem::{Code, Problem};
use super::{ApiState, ReadWish};

/// Most keys below a watched prefix: all of them are looked at after a change.
pub const WATCHED_KEYS_MAX: usize = 10_000;
/// Keys looked at in one step.
const STEP: usize = 256;
/// After a look that found nothing new, the next one waits so long: writes elsewhere in the dictionary come in bursts.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// `GET /v1/kv?prefix=&after=&limit=`, and `GET /v1/kv?prefix=&after=REV&keys=N&wait=30s`.
pub async fn list_or_watch(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let known = ["prefix", "after", "limit", "wait", "keys", "level", "max_stale", "forward"];
    let params = Params::parse(&uri, &known)?;
    let Some(wait) = params.duration("wait", WAIT_MAX)? else {
        return match params.get("keys") {
            Some(_) => Err(Problem::bad_request("keys only goes with wait")),
            None => kv::list(&state, &params, &uri).await,
        };
    };
    if params.get("limit").is_some() {
        return Err(Problem::bad_request("limit does not go with wait")
            .hint("with wait, after is a revision and everything newer is answered"));
    }
    let wish = ReadWish::parse(&params, &uri)?;
    let known = Known {
        prefix: params.get("prefix").unwrap_or_default().to_string(),
        after: params.parsed("after")?.unwrap_or(0),
        keys: params.parsed("keys")?,
    };
    watch(&state, &wish, &known, Instant::now() + wait).await
}

/// What the asker knows.
#[derive(Clone)]
struct Known {
    prefix: String,
    after: u64,
    keys: Option<usize>,
}

async fn watch(
    state: &ApiState,
    wish: &ReadWish,
    known: &Known,
    deadline: Instant,
) -> Result<Response, Problem> {
    state.fresh(wish).await?;
    let mut applied = state.handle.applied.clone();
    let mut looked_at = known.after;
    loop {
        applied.borrow_and_update();
        if state.glance(query::kv_revision)? > looked_at {
            let wanted = known.clone();
            let news = state.look(move |reader| News::read(reader, &wanted)).await?;
            if news.is_any(known) {
                return Ok(json_text(news.as_json()).into_response());
            }
            looked_at = news.revision;
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_PAUSE)).await;
        }
        tokio::select! {
            changed = applied.changed() => {
                changed.map_err(|_| Problem::new(Code::Draining, "this node is stopping"))?;
            }
            () = state.stopping.cancelled() => return Err(Problem::new(Code::Draining, "this node is stopping")),
            () = tokio::time::sleep_until(deadline) => return Ok(StatusCode::NOT_MODIFIED.into_response()),
        }
    }
}

/// What is below a prefix, compared with what the asker knows.
struct News {
    /// Entries newer than the asker's revision, as JSON, in the order of their revisions.
    items: Vec<String>,
    /// How many keys there are.
    keys: usize,
    /// The revision up to which `items` is complete.
    revision: u64,
    /// There is more after it.
    more: bool,
}

impl News {
    fn read(reader: &dyn Reader, known: &Known) -> Result<News, Problem> {
        let mut after = None::<String>;
        let (mut keys, mut newer) = (0, Vec::<(u64, String)>::new());
        loop {
            let entries = query::kv_list(reader, &known.prefix, after.as_deref(), STEP)?;
            keys += entries.len();
            if keys > WATCHED_KEYS_MAX {
                let detail = format!(
                    "more than {WATCHED_KEYS_MAX} keys begin with '{}', too many to watch",
                    known.prefix
                );
                return Err(Problem::new(Code::TooLarge, detail).hint("watch a longer prefix"));
            }
            let whole = entries.len() < STEP;
            for entry in entries {
                if entry.revision > known.after {
                    newer.push((entry.revision, entry.key.clone()));
                }
                after = Some(entry.key);
            }
            if whole {
                break;
            }
        }
        newer.sort();
        Ok(News::collect(reader, &newer, keys)?)
    }

    /// Reads the values, as many as fit into one answer. What was written under one revision stays together.
    fn collect(reader: &dyn Reader, newer: &[(u64, String)], keys: usize) -> Result<News, KeyspaceError> {
        let (mut items, mut bytes, mut last) = (Vec::new(), 0, 0);
        for (revision, key) in newer {
            if bytes > PAGE_BYTES_MAX && *revision > last {
                return Ok(News { items, keys, revision: last, more: true });
            }
            last = *revision;
            if let Some(entry) = query::kv_get(reader, key)? {
                bytes += entry.value.len();
                items.push(entry_json(&entry));
            }
        }
        Ok(News { items, keys, revision: query::kv_revision(reader)?, more: false })
    }

    fn is_any(&self, known: &Known) -> bool {
        !self.items.is_empty() || known.keys.is_some_and(|keys| keys != self.keys)
    }

    fn as_json(&self) -> String {
        format!(
            "{{\"items\":[{}],\"next\":null,\"keys\":{},\"revision\":{},\"more\":{}}}",
            self.items.join(","),
            self.keys,
            self.revision,
            json!(self.more)
        )
    }
}
