//! The policy: what is in force, the next revision, and a rehearsal of it on recorded intervals.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::value::parse_duration;
use crate::ledger::command::{Answer, Command};
use crate::ledger::keyspace::Reader;
use crate::ledger::policy::{Policy, PolicyKind, Revision};
use crate::ledger::query;
use crate::ledger::rehearse::{Rehearsal, Wish, rehearse};
use crate::types::{Amount, IntervalId};

use super::extract::{Params, parse_json, read_body};
use super::problem::Problem;
use super::{ApiState, READ_PARAMETERS, ReadWish, unexpected};

/// Intervals that a rehearsal takes unless it is told: the newest day at one a minute.
const REHEARSED_DEFAULT: u64 = 1_440;
/// Most intervals of one rehearsal.
const REHEARSED_MAX: u64 = 10_000;
/// Most revisions that are listed as coming.
const PENDING_MAX: usize = 100;

fn no_policy() -> Problem {
    Problem::not_found("the cluster has no policy before its first command")
}

/// The fields of a revision, flat.
fn shown(revision: &Revision) -> Value {
    let Policy { revision: number, kind, interval_ms, ping_ms, ping_timeout_ms, reward, penalty } =
        &revision.policy;
    json!({ "revision": number, "kind": kind, "interval_ms": interval_ms, "ping_ms": ping_ms,
        "ping_timeout_ms": ping_timeout_ms, "reward": reward, "penalty": penalty, "budget": revision.budget,
        "activate_at": revision.activate_at })
}

/// `GET /v1/policy?revision=`: the policy of the open interval, and in `pending` those that are to come; or any revision.
pub async fn show(State(state): State<ApiState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::parse(&uri, &["revision", "level", "max_stale", "forward"])?;
    let wish = ReadWish::parse(&params, &uri)?;
    if let Some(number) = params.parsed::<u64>("revision")? {
        let found = state.read(&wish, move |reader| Ok(query::revision(reader, number)?)).await?;
        let missing = || Problem::not_found(format!("the policy has no revision {number}"));
        return found.map(|revision| Json(shown(&revision))).ok_or_else(missing);
    }
    let found = state
        .read(&wish, |reader| {
            let Some(current) = query::revision_in_force(reader)? else { return Ok(None) };
            let pending = query::revisions(reader, current.policy.revision, PENDING_MAX)?;
            Ok(Some((current, pending)))
        })
        .await?;
    let (current, pending) = found.ok_or_else(no_policy)?;
    let mut answer = shown(&current);
    answer["pending"] = pending.iter().map(shown).collect();
    Ok(Json(answer))
}

/// A span of time: milliseconds, or text such as `60s`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Span {
    Millis(u64),
    Text(String),
}

impl Span {
    fn millis(&self, name: &str) -> Result<u64, Problem> {
        let text = match self {
            Span::Millis(millis) => return Ok(*millis),
            Span::Text(text) => text,
        };
        let span = parse_duration(text).map_err(|problem| {
            Problem::bad_request(format!("{name}: {text} {}", problem.what)).hint(problem.hint)
        })?;
        let whole = span == Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        match u64::try_from(span.as_millis()) {
            Ok(millis) if whole => Ok(millis),
            _ => Err(Problem::bad_request(format!("{name}: {text} is no whole number of milliseconds"))),
        }
    }
}

/// What is to be different; all that is not named stays as in the newest revision.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    revision: Option<u64>,
    kind: Option<PolicyKind>,
    #[serde(alias = "interval_ms")]
    interval: Option<Span>,
    #[serde(alias = "ping_ms")]
    ping: Option<Span>,
    #[serde(alias = "ping_timeout_ms")]
    ping_timeout: Option<Span>,
    reward: Option<Amount>,
    penalty: Option<Amount>,
    budget: Option<Amount>,
    activate_at: Option<IntervalId>,
    from: Option<IntervalId>,
    to: Option<IntervalId>,
}

impl Changes {
    /// Whether the policy itself is to be another.
    fn any(&self) -> bool {
        self.kind.is_some()
            || [&self.interval, &self.ping, &self.ping_timeout].iter().any(|span| span.is_some())
            || [self.reward, self.penalty, self.budget].iter().any(Option::is_some)
    }

    /// The revision after `newest`.
    fn applied_to(&self, newest: &Revision) -> Result<Revision, Problem> {
        let span = |wish: &Option<Span>, name: &str, before: u64| {
            wish.as_ref().map_or(Ok(before), |wish| wish.millis(name))
        };
        let before = &newest.policy;
        let policy = Policy {
            revision: self.revision.unwrap_or(before.revision.saturating_add(1)),
            kind: self.kind.unwrap_or(before.kind),
            interval_ms: span(&self.interval, "interval", before.interval_ms)?,
            ping_ms: span(&self.ping, "ping", before.ping_ms)?,
            ping_timeout_ms: span(&self.ping_timeout, "ping_timeout", before.ping_timeout_ms)?,
            reward: self.reward.unwrap_or(before.reward),
            penalty: self.penalty.unwrap_or(before.penalty),
        };
        let budget = self.budget.unwrap_or(newest.budget);
        Ok(Revision { policy, budget, activate_at: self.activate_at.unwrap_or(newest.activate_at) })
    }
}

/// The newest revision, in force or not.
fn newest(reader: &dyn Reader) -> Result<Revision, Problem> {
    let current = query::revision_in_force(reader)?.ok_or_else(no_policy)?;
    let pending = query::revisions(reader, current.policy.revision, usize::MAX)?;
    Ok(pending.into_iter().next_back().unwrap_or(current))
}

async fn changes(state: &ApiState, headers: &HeaderMap, body: Body) -> Result<Changes, Problem> {
    let bytes = read_body(headers, body, state.http.body_bytes_max).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) { Ok(Changes::default()) } else { parse_json(&bytes) }
}

/// `PUT /v1/policy` `{"reward":8000000,"interval":"60s","budget":0,"activate_at":120}`: the next revision. What is left out
/// stays as in the newest one; without `activate_at` it comes into force as soon as it may. With `revision` it is refused
/// unless that is the next number.
pub async fn set(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let changes = changes(&state, &headers, body).await?;
    if changes.from.is_some() || changes.to.is_some() {
        return Err(Problem::bad_request("`from` and `to` are for POST /v1/policy:simulate"));
    }
    let wish = ReadWish::parse(&Params::parse(&uri, &["forward"])?, &uri)?;
    let before = state.read(&wish, newest).await?;
    let wanted = changes.applied_to(&before)?;
    let (policy, budget) = (wanted.policy.clone(), wanted.budget);
    let command = Command::SetPolicy { policy, budget, activate_at: changes.activate_at };
    let conditional = changes.revision.is_some();
    let applied = state.submit(command, &headers, &uri, conditional).await?;
    let Answer::PolicySet { activate_at, .. } = applied.answer else { return Err(unexpected(&applied)) };
    let mut answer = shown(&Revision { activate_at, ..wanted });
    answer["index"] = json!(applied.index);
    answer["term"] = json!(applied.term);
    Ok(Json(answer))
}

/// `POST /v1/policy:simulate`, with a body as of `PUT /v1/policy` and perhaps `from` and `to`: judges recorded intervals
/// again, and says for each member what would have been different. With an empty body each interval is judged by its own
/// policy, and must come out as it was settled. Changes nothing.
pub async fn simulate(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Rehearsal>, Problem> {
    let changes = changes(&state, &headers, body).await?;
    let wish = ReadWish::parse(&Params::parse(&uri, &READ_PARAMETERS)?, &uri)?;
    let rehearsed = state
        .read(&wish, move |reader| {
            let revision = if changes.any() { Some(changes.applied_to(&newest(reader)?)?) } else { None };
            if let Some(revision) = &revision {
                revision.check().map_err(|refused| Problem::bad_request(refused.to_string()))?;
            }
            let settled = query::interval_state(reader)?.map_or(0, |state| state.next_settle.0 - 1);
            let to = changes.to.map_or(settled, |to| to.0.min(settled));
            let from = changes.from.map_or(to.saturating_sub(REHEARSED_DEFAULT - 1), |from| from.0).max(1);
            if to.saturating_sub(from) >= REHEARSED_MAX {
                let detail = format!("intervals {from} to {to} are more than {REHEARSED_MAX}");
                return Err(Problem::bad_request(detail).hint("rehearse them in several parts"));
            }
            Ok(rehearse(reader, &Wish { from: IntervalId(from), to: IntervalId(to), revision })?)
        })
        .await?;
    Ok(Json(rehearsed))
}
