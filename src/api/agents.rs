//! Agents enrol, wait, and are let in or sent away.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::value::remote_address;
use crate::ledger::agents::{self, fingerprint};
use crate::ledger::command::{Answer, Command};
use crate::ledger::query;
use crate::ledger::records::MemberStatus;
use crate::types::{AgentKey, MemberId, Version};

use super::extract::{Params, parse_json, read_body};
use super::problem::{Code, Problem};
use super::{ApiState, ReadWish, members, unexpected};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrol {
    id: MemberId,
    address: String,
    key: String,
    version: String,
    #[serde(default)]
    token: Option<String>,
}

/// `POST /v1/members:enrol` `{"id","address","key","version","token"}`: an agent wants to be a member. 200: it is; 202: it
/// waits for approval. Asking again changes nothing, and is how it learns that it was let in.
pub async fn enrol(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Enrol { id, address, key, version, token } = parse_json(&bytes)?;
    let id = members::given(&id)?;
    remote_address(&address)
        .map_err(|problem| Problem::bad_request(format!("the agent {}", problem.what)).hint(problem.hint))?;
    let key = AgentKey::from_hex(&key).ok_or_else(|| {
        Problem::bad_request("the key is not usable")
            .hint("draw 32 random bytes and write 64 hexadecimal digits")
    })?;
    check_version(&version)?;
    let approved = approves(&state, token.as_deref())?;
    let waiting = match standing(&state, &id, &address, key).await? {
        Some(waiting) if waiting && approved => None,
        other => other,
    };
    let waiting = match waiting {
        Some(waiting) => waiting,
        None => {
            let command = Command::AgentEnrol { member: id.clone(), address, key, approved };
            let applied = state.submit(command, &headers, &uri, false).await?;
            let Answer::Enrolled { waiting } = applied.answer else { return Err(unexpected(&applied)) };
            waiting
        }
    };
    let nodes: Vec<String> =
        state.handle.status.borrow().nodes.iter().filter_map(|node| node.url.clone()).collect();
    let (code, status) = if waiting { (StatusCode::ACCEPTED, "waiting") } else { (StatusCode::OK, "member") };
    let body = json!({ "id": id, "status": status, "fingerprint": fingerprint(&key), "endpoints": nodes });
    Ok((code, Json(body)))
}

/// Another major version is another protocol, and is not served.
fn check_version(text: &str) -> Result<(), Problem> {
    let ours = Version::current();
    let parts: Option<Vec<u16>> = text.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some([major, _, _]) if *major == ours.major => Ok(()),
        Some([_, _, _]) => Err(Problem::new(
            Code::Forbidden,
            format!("version {text} is not served here: another major version than {ours}"),
        )
        .hint(format!("run an agent of version {}", ours.major))),
        _ => Err(Problem::bad_request(format!("'{text}' is not a version"))
            .hint("write three numbers, such as 0.1.0")),
    }
}

/// Whether the asker may come in at once. A wrong token is refused rather than left to wait: it is a mistake.
fn approves(state: &ApiState, token: Option<&str>) -> Result<bool, Problem> {
    let settings = &state.agents;
    match (token, &settings.token) {
        (Some(said), Some(ours)) if same(said.as_bytes(), ours.as_bytes()) => Ok(true),
        (Some(_), Some(_)) => Err(Problem::new(Code::Unauthorized, "the token for agents is not that one")
            .hint("see `agents.token` in the configuration of the super-nodes")),
        _ => Ok(settings.open),
    }
}

/// Compares in a time that does not tell where the difference lies: both are hashed first.
fn same(a: &[u8], b: &[u8]) -> bool {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(a) == Sha256::digest(b)
}

/// What this node already knows of exactly this agent at exactly this address: whether it waits. Then nothing is written.
async fn standing(
    state: &ApiState,
    id: &MemberId,
    address: &str,
    key: AgentKey,
) -> Result<Option<bool>, Problem> {
    let (id, address) = (id.clone(), address.to_string());
    state
        .look(move |reader| {
            let member = query::member(reader, &id)?.filter(|member| member.status != MemberStatus::Left);
            if member.is_some_and(|member| member.address == address)
                && agents::key_in_force(reader, &id)? == Some(key)
            {
                return Ok(Some(false));
            }
            let found = agents::waiting(reader)?.into_iter().find(|waiting| waiting.member == id);
            Ok(found.filter(|waiting| waiting.key == key && waiting.address == address).map(|_| true))
        })
        .await
}

/// `GET /v1/members:waiting`: the agents that wait for approval, ordered by name.
pub async fn waiting(State(state): State<ApiState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::parse(&uri, &super::READ_PARAMETERS)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let found = state.read(&wish, |reader| Ok(agents::waiting(reader)?)).await?;
    let items: Vec<Value> = found
        .iter()
        .map(|agent| {
            json!({ "id": agent.member, "address": agent.address, "fingerprint": fingerprint(&agent.key),
                "since": agent.since })
        })
        .collect();
    Ok(Json(json!({ "items": items, "next": null })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    fingerprint: Option<String>,
}

/// `POST /v1/members/{id}:approve`, with `{"fingerprint":"…"}` if the operator compared it.
pub(super) async fn approve(
    state: &ApiState,
    member: MemberId,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(headers, body, state.http.body_bytes_max).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let Approval { fingerprint } = if empty { Approval::default() } else { parse_json(&bytes)? };
    let command = Command::AgentApprove { member: member.clone(), fingerprint };
    let applied = state.submit(command, headers, uri, false).await?;
    let Answer::Enrolled { waiting: false } = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "id": member, "status": "member", "index": applied.index, "term": applied.term })))
}

/// `POST /v1/members/{id}:refuse`: the agent waits no more. It may come again.
pub(super) async fn refuse(
    state: &ApiState,
    member: MemberId,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Json<Value>, Problem> {
    let applied = state.submit(Command::AgentRefuse { member: member.clone() }, headers, uri, false).await?;
    let Answer::Done = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "id": member, "status": "refused", "index": applied.index, "term": applied.term })))
}
