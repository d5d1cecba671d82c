//! What the ledger holds: movements, intervals, evidence, elections. All lists are newest last.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ledger::explain::{self, Explanation};
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query::{self, IntervalFilter, RewardFilter};
use crate::ledger::records::{Election, Interval, Movement, MovementKind, Verdict};
use crate::types::{IntervalId, MemberId, NodeId, Term, UnixMillis};

use super::extract::Params;
use super::members::member_of;
use super::problem::{Code, Problem};
use super::{ApiState, Page, READ_PARAMETERS, ReadWish};

fn wish(uri: &Uri) -> Result<ReadWish, Problem> {
    ReadWish::parse(&Params::parse(uri, &READ_PARAMETERS)?, uri)
}

/// A number in a path.
pub(super) fn number_of(text: &str, what: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::bad_request(format!("'{text}' is not the number of {what}")))
}

/// One word of several, by its name in documents.
fn word<T: Copy>(params: &Params, name: &str, known: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some(text) = params.get(name) else { return Ok(None) };
    match known.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            Err(Problem::bad_request(format!("{name}={text} is not known: {}", words.join(", "))))
        }
    }
}

/// `GET /v1/rewards?member=&kind=&from=&to=&after=&limit=`: `from` is inclusive, `to` exclusive, both RFC 3339.
pub async fn rewards(State(state): State<ApiState>, uri: Uri) -> Result<Json<Page<Movement>>, Problem> {
    use MovementKind::{Adjustment, Claim, ClaimPenalty, Penalty, Reward};
    let known = ["member", "kind", "from", "to", "after", "limit", "level", "max_stale", "forward"];
    let params = Params::parse(&uri, &known)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let limit = params.limit()?;
    let kinds = [Reward, Penalty, Claim, ClaimPenalty, Adjustment].map(|kind| (kind.as_str(), kind));
    let filter = RewardFilter {
        member: params.parsed::<MemberId>("member")?,
        kind: word(&params, "kind", &kinds)?,
        from: params.parsed("from")?,
        to: params.parsed("to")?,
        after: params.parsed("after")?.unwrap_or(0),
        limit: limit + 1,
    };
    let movements = state.read(&wish, move |reader| Ok(query::rewards(reader, &filter)?)).await?;
    Ok(Json(Page::new(movements, limit, |movement| movement.seq.into())))
}

/// Entries that are looked at in one go while a filter looks for matches.
const SCAN_STEP: usize = 256;

/// Collects up to `limit` matches out of pages: `page` gives what comes after a cursor, `cursor` says where an entry is.
fn matching<T, C: Copy>(
    mut after: C,
    limit: usize,
    mut page: impl FnMut(C) -> Result<Vec<T>, KeyspaceError>,
    cursor: impl Fn(&T) -> C,
    mut keep: impl FnMut(&T) -> Result<bool, KeyspaceError>,
) -> Result<Vec<T>, KeyspaceError> {
    let mut found = Vec::new();
    loop {
        let entries = page(after)?;
        let Some(last) = entries.last() else { return Ok(found) };
        after = cursor(last);
        for entry in entries {
            if keep(&entry)? {
                found.push(entry);
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
}

/// `GET /v1/intervals?member=&verdict=&from=&to=&after=&limit=`: by the time of opening; `member` keeps those in which
/// the member was judged.
pub async fn intervals(State(state): State<ApiState>, uri: Uri) -> Result<Json<Page<Interval>>, Problem> {
    let known = ["member", "verdict", "from", "to", "after", "limit", "level", "max_stale", "forward"];
    let params = Params::parse(&uri, &known)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let limit = params.limit()?;
    let verdicts =
        [Verdict::Settled, Verdict::Void, Verdict::Correlated].map(|verdict| (verdict.as_str(), verdict));
    let filter = IntervalFilter {
        from: params.parsed("from")?,
        to: params.parsed("to")?,
        verdict: word(&params, "verdict", &verdicts)?,
    };
    let after = IntervalId(params.parsed("after")?.unwrap_or(0));
    let member = params.parsed::<MemberId>("member")?;
    let read = move |reader: &dyn Reader| {
        let Some(member) = member else { return Ok(query::intervals(reader, after, limit + 1, &filter)?) };
        Ok(matching(
            after,
            limit + 1,
            |after| query::intervals(reader, after, SCAN_STEP, &filter),
            |interval| interval.id,
            |interval| Ok(query::observation(reader, interval.id, &member)?.is_some()),
        )?)
    };
    let intervals = state.read(&wish, read).await?;
    Ok(Json(Page::new(intervals, limit, |interval| interval.id.0.into())))
}

/// `GET /v1/intervals/{id}`
pub async fn interval(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Interval>, Problem> {
    let id = IntervalId(number_of(&id, "an interval")?);
    let interval = state.read(&wish(&uri)?, move |reader| Ok(query::interval(reader, id)?)).await?;
    interval.map(Json).ok_or_else(|| not_settled(id))
}

fn not_settled(id: IntervalId) -> Problem {
    Problem::not_found(format!("interval {id} is not settled")).hint("super-node interval list")
}

/// `GET /v1/intervals/{id}/members/{member}`: the observation, and `explanation` with evidence and arithmetic.
pub async fn explain(
    State(state): State<ApiState>,
    Path((id, member)): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let id = IntervalId(number_of(&id, "an interval")?);
    let member = member_of(&member)?;
    let asked = member.clone();
    let (settled, explanation) = state
        .read(&wish(&uri)?, move |reader| {
            Ok((query::interval(reader, id)?.is_some(), explain::explain(reader, id, &asked)?))
        })
        .await?;
    match explanation {
        Some(explanation) => Ok(Json(explained(id, &explanation)?)),
        None if settled => Err(Problem::not_found(format!("'{member}' was not judged in interval {id}"))),
        None => Err(not_settled(id)),
    }
}

/// A record as JSON. Records are plain data, so a failure is a bug of ours; the asker is told, the node goes on.
pub(super) fn plain(value: Result<Value, serde_json::Error>) -> Result<Value, Problem> {
    value.map_err(|error| Problem::new(Code::Damaged, format!("the record cannot be shown: {error}")))
}

/// The observation's fields first, as in the documents; in a void interval there are none.
fn explained(id: IntervalId, explanation: &Explanation) -> Result<Value, Problem> {
    let member = &explanation.member;
    let mut answer = json!({ "id": { "i": id, "m": member }, "interval": id, "member": member });
    let observation = plain(serde_json::to_value(&explanation.observation))?;
    if let (Value::Object(fields), Value::Object(observed)) = (&mut answer, observation) {
        fields.extend(observed);
    }
    let mut details = plain(serde_json::to_value(explanation))?;
    if let Value::Object(details) = &mut details {
        // It stands above already.
        details.shift_remove("observation");
        details.shift_remove("member");
    }
    answer["explanation"] = details;
    Ok(answer)
}

/// An election as listed.
#[derive(Debug, Serialize)]
pub struct ListedElection {
    /// The term, by the name that `_id` has here.
    id: Term,
    #[serde(flatten)]
    election: Election,
}

impl From<Election> for ListedElection {
    fn from(election: Election) -> Self {
        ListedElection { id: election.term, election }
    }
}

/// `GET /v1/elections?member=&from=&to=&after=&limit=`: `member` keeps those that it won; `from` is inclusive, `to`
/// exclusive.
pub async fn elections(
    State(state): State<ApiState>,
    uri: Uri,
) -> Result<Json<Page<ListedElection>>, Problem> {
    let known = ["member", "from", "to", "after", "limit", "level", "max_stale", "forward"];
    let params = Params::parse(&uri, &known)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let limit = params.limit()?;
    let after = Term(params.parsed("after")?.unwrap_or(0));
    let winner = params.parsed::<NodeId>("member")?;
    let (from, to) = (params.parsed::<UnixMillis>("from")?, params.parsed::<UnixMillis>("to")?);
    let wanted = move |election: &Election| {
        winner.as_ref().is_none_or(|winner| *winner == election.leader)
            && from.is_none_or(|from| election.at >= from)
            && to.is_none_or(|to| election.at < to)
    };
    let read = move |reader: &dyn Reader| {
        Ok(matching(
            after,
            limit + 1,
            |after| query::elections(reader, after, SCAN_STEP),
            |election| election.term,
            |election| Ok(wanted(election)),
        )?)
    };
    let elections = state.read(&wish, read).await?;
    Ok(Json(Page::new(elections, limit, |election| election.term.0.into()).map(ListedElection::from)))
}

/// `GET /v1/elections/{term}`
pub async fn election(
    State(state): State<ApiState>,
    Path(term): Path<String>,
    uri: Uri,
) -> Result<Json<ListedElection>, Problem> {
    let term = Term(number_of(&term, "a term")?);
    let election = state.read(&wish(&uri)?, move |reader| Ok(query::election(reader, term)?)).await?;
    election.map(|found| Json(found.into())).ok_or_else(|| {
        Problem::not_found(format!("no election is recorded for term {term}"))
            .hint("super-node election list")
    })
}
