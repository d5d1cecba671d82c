//! The fleet: members and their balances.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::value::remote_address;
use crate::ledger::command::{Answer, Command};
use crate::ledger::query;
use crate::ledger::records::{Member, MemberKind, MemberStatus};
use crate::types::{Amount, MemberId, NodeId};

use super::extract::{LIMIT_MAX, Params, parse_json, read_body};
use super::nodes::{self, NewNode};
use super::problem::Problem;
use super::{ApiState, Page, ReadWish, unexpected};

const LIST_PARAMETERS: [&str; 6] = ["member", "after", "limit", "level", "max_stale", "forward"];

async fn page(state: &ApiState, uri: &Uri) -> Result<Page<Member>, Problem> {
    let params = Params::parse(uri, &LIST_PARAMETERS)?;
    let wish = ReadWish::parse(&params, uri)?;
    let limit = params.limit()?;
    let only = params.parsed::<MemberId>("member")?;
    let after = params.parsed::<MemberId>("after")?;
    let members = state
        .read(&wish, move |reader| {
            Ok(match only {
                Some(id) => query::member(reader, &id)?.into_iter().collect(),
                None => query::members(reader, after.as_ref(), limit + 1)?,
            })
        })
        .await?;
    Ok(Page::new(members, limit, |member| member.id.as_str().into()))
}

/// `GET /v1/members?after=&limit=`, ordered by name.
pub async fn list(State(state): State<ApiState>, uri: Uri) -> Result<Json<Page<Member>>, Problem> {
    page(&state, &uri).await.map(Json)
}

/// An account.
#[derive(Debug, Serialize)]
pub struct Balance {
    member: MemberId,
    balance: Amount,
    status: MemberStatus,
    strikes: u32,
    as_of: u64,
}

/// `GET /v1/balances?member=&after=&limit=`, ordered by name; `?top=N`: the highest, highest first.
pub async fn balances(State(state): State<ApiState>, uri: Uri) -> Result<Json<Page<Balance>>, Problem> {
    let params = Params::parse(&uri, &["top", "member", "after", "limit", "level", "max_stale", "forward"])?;
    let balance = |member: Member| Balance {
        member: member.id,
        balance: member.balance,
        status: member.status,
        strikes: member.strikes,
        as_of: member.as_of,
    };
    if let Some(top) = params.parsed::<usize>("top")? {
        if ["member", "after", "limit"].iter().any(|other| params.get(other).is_some()) {
            return Err(Problem::bad_request("`top` goes with neither member, after nor limit"));
        }
        if top == 0 || top > LIMIT_MAX {
            return Err(Problem::bad_request(format!("top={top} is out of range: 1 to {LIMIT_MAX}")));
        }
        let wish = ReadWish::parse(&params, &uri)?;
        let richest = state.read(&wish, move |reader| Ok(query::richest(reader, top)?)).await?;
        return Ok(Json(Page::new(richest, top, |member| member.id.as_str().into()).map(balance)));
    }
    Ok(Json(page(&state, &uri).await?.map(balance)))
}

/// The name of somebody who comes in.
pub(super) fn given(id: &MemberId) -> Result<MemberId, Problem> {
    MemberId::given(id.as_str()).map_err(|error| Problem::bad_request(error.to_string()))
}

/// Reads a member's name from a path.
pub(super) fn member_of(text: &str) -> Result<MemberId, Problem> {
    text.parse().map_err(|error: crate::types::NameError| Problem::bad_request(error.to_string()))
}

/// `GET /v1/members/{id}`.
pub async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Member>, Problem> {
    let id = member_of(&id)?;
    let params = Params::parse(&uri, &super::READ_PARAMETERS)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let wanted = id.clone();
    let member = state.read(&wish, move |reader| Ok(query::member(reader, &wanted)?)).await?;
    member.map(Json).ok_or_else(|| Problem::not_found(format!("no member '{id}'")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    #[serde(alias = "member")]
    id: MemberId,
    address: String,
    kind: Option<Kind>,
    #[serde(default)]
    replaces: Option<NodeId>,
    #[serde(default)]
    learner_only: bool,
}

/// What joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[serde(alias = "node")]
    SuperNode,
    Agent,
}

/// `POST /v1/members` `{"id":"worker-1","address":"10.0.0.9:7500"}`: an agent joins, or comes back with another address.
/// With `"kind":"super_node"` a super-node joins, see `nodes::add`.
pub async fn join(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Join { id, address, kind, replaces, learner_only } = parse_json(&bytes)?;
    let id = given(&id)?;
    remote_address(&address)
        .map_err(|problem| Problem::bad_request(format!("the member {}", problem.what)).hint(problem.hint))?;
    if kind == Some(Kind::SuperNode) {
        let node = NewNode { id: nodes::node_of(&id), address, replaces, learner_only };
        return nodes::add(&state, node, &headers, &uri).await;
    }
    if replaces.is_some() || learner_only {
        return Err(Problem::bad_request("`replaces` and `learner_only` are for super-nodes")
            .hint("say \"kind\":\"super_node\", or leave them out"));
    }
    let kind = MemberKind::Agent;
    let command = Command::MemberJoin { member: id.clone(), kind, address: address.clone() };
    let applied = state.submit(command, &headers, &uri, false).await?;
    let Answer::Done = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(
        json!({ "id": id, "kind": kind, "address": address, "index": applied.index, "term": applied.term }),
    ))
}

/// `DELETE /v1/members/{id}`: the member leaves; its account stays. A super-node leaves the configuration.
pub async fn leave(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let member = member_of(&id)?;
    let known = member.clone();
    let known = state.look(move |reader| Ok(query::member(reader, &known)?)).await?;
    // A learner is no member of the fleet, but can be removed all the same.
    if known.as_ref().is_none_or(|member| member.kind == MemberKind::Node) {
        return nodes::remove(&state, &member, known, &headers, &uri).await;
    }
    let applied = state.submit(Command::MemberLeave { member }, &headers, &uri, false).await?;
    let Answer::Done = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "id": id, "index": applied.index, "term": applied.term })))
}
