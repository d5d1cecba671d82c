//! The super-nodes: adding, promoting, removing them, and who leads.
//!
//! A change is answered when it is complete. Asked for twice it is answered twice: a client whose answer was lost may
//! repeat it, and hears that it is so.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ledger::query;
use crate::ledger::records::{Member, MemberKind};
use crate::node::handle::{Changed, Failure};
use crate::node::status::{NodeStatus, PeerStatus};
use crate::raft::{Change, ChangeError};
use crate::types::{MemberId, NodeId};

use super::ApiState;
use super::extract::{Params, parse_json, patience, read_body};
use super::problem::{Code, Outcome, Problem};

/// What a new super-node is.
pub(super) struct NewNode {
    pub id: NodeId,
    pub address: String,
    pub replaces: Option<NodeId>,
    pub learner_only: bool,
}

/// A super-node's name, from a member's.
pub(super) fn node_of(member: &MemberId) -> NodeId {
    member.as_str().parse().expect("both kinds of name have one alphabet")
}

/// Whether others could dial this address.
fn can_be_dialled(address: &str) -> bool {
    !address.is_empty() && !address.starts_with("0.0.0.0:") && !address.starts_with("[::]:")
}

/// A super-node joins as a learner, and becomes a voter by itself once it has caught up.
pub(super) async fn add(
    state: &ApiState,
    node: NewNode,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Json<Value>, Problem> {
    let NewNode { id, address, replaces, learner_only } = node;
    if learner_only && replaces.is_some() {
        return Err(Problem::bad_request("a learner that is not to be promoted cannot replace a voter")
            .hint("leave out `learner_only` or `replaces`"));
    }
    if !can_be_dialled(&address) {
        return Err(Problem::bad_request(format!("{address} is no address that others could dial")));
    }
    let member = MemberId::from(&id);
    let taken = state.look(move |reader| Ok(query::member(reader, &member)?)).await?;
    if taken.is_some_and(|member| member.kind == MemberKind::Agent) {
        return Err(Problem::new(Code::Conflict, format!("{id} is the name of an agent"))
            .hint("give the super-node another id"));
    }
    let status = state.handle.status.borrow().clone();
    if let Some(peer) = status.nodes.iter().find(|peer| !can_be_dialled(&peer.address)) {
        let detail = format!("{} does not know under which address others reach it", peer.id);
        return Err(Problem::new(Code::Conflict, detail)
            .hint("set listen.advertise (--advertise) of that node and restart it"));
    }
    let change = Change::AddLearner {
        node: id.clone(),
        address: address.clone(),
        promote: !learner_only,
        replaces: replaces.clone(),
    };
    match submit(state, change, headers, uri).await {
        Ok(Ok(changed)) => {
            let configuration = &changed.configuration;
            Ok(Json(json!({ "id": id, "kind": MemberKind::Node, "address": address, "role": "learner",
                "joining": configuration.joining.contains_key(&id), "replaces": replaces,
                "index": changed.index, "voters": configuration.voters, "learners": configuration.learners })))
        }
        Ok(Err(Failure::Change(ChangeError::AlreadyMember))) => {
            let status = state.handle.status.borrow().clone();
            let stays = |leaver: &&NodeId| status.voters.contains(*leaver);
            match status.nodes.iter().find(|peer| peer.id == id) {
                Some(peer) if peer.address == address => match replaces.as_ref().filter(stays) {
                    // It came by another word, which did not say so: to call that done would be wrong.
                    Some(leaver) if peer.replaces.as_ref() != Some(leaver) => {
                        let detail =
                            format!("{id} is a super-node already, and {leaver} does not leave for it");
                        let remedy = format!("once {id} votes: super-node member remove {leaver}");
                        Err(Problem::new(Code::Conflict, detail).hint(remedy))
                    }
                    _ => Ok(Json(already(&status, peer))),
                },
                found => {
                    let place = found.map_or(String::new(), |peer| format!(" at {}", peer.address));
                    Err(Problem::new(Code::Conflict, format!("{id} is a super-node already{place}"))
                        .hint("choose another id, or remove that node first"))
                }
            }
        }
        Ok(Err(failure)) => Err(refused(state, failure, &id, uri)),
        Err(problem) => Err(problem),
    }
}

/// It was so before.
fn already(status: &NodeStatus, peer: &PeerStatus) -> Value {
    json!({ "id": peer.id, "kind": MemberKind::Node, "address": peer.address, "role": peer.role,
        "joining": peer.joining, "replaces": peer.replaces, "already": true, "voters": status.voters })
}

/// A super-node leaves: voter, learner, or the leader itself.
pub(super) async fn remove(
    state: &ApiState,
    member: &MemberId,
    known: Option<Member>,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Json<Value>, Problem> {
    let id = node_of(member);
    match submit(state, Change::Remove { node: id.clone() }, headers, uri).await? {
        Ok(changed) => Ok(Json(described(&id, &changed))),
        Err(Failure::Change(ChangeError::NotMember)) if known.is_some() => {
            Ok(Json(json!({ "id": id, "already": true })))
        }
        Err(Failure::Change(ChangeError::NotMember)) => Err(Problem::not_found(format!("no member '{id}'"))),
        Err(failure) => Err(refused(state, failure, &id, uri)),
    }
}

fn described(id: &NodeId, changed: &Changed) -> Value {
    let configuration = &changed.configuration;
    json!({ "id": id, "index": changed.index, "voters": configuration.voters,
        "learners": configuration.learners })
}

/// `POST /v1/members/{id}:promote`: a learner that has caught up becomes a voter, now. `:demote`: a voter becomes a
/// learner. `:maintain`: see `super::money`, `:approve` and `:refuse`: `super::agents`.
pub async fn act(
    State(state): State<ApiState>,
    Path(path): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let (name, action) = path.rsplit_once(':').unwrap_or((&path, ""));
    let member = super::members::member_of(name)?;
    match action {
        "maintain" => return super::money::maintain(&state, member, &uri, &headers, body).await,
        "approve" => return super::agents::approve(&state, member, &uri, &headers, body).await,
        "refuse" => return super::agents::refuse(&state, member, &uri, &headers).await,
        _ => {}
    }
    let id = node_of(&member);
    let (change, done, is_so) = match action {
        "promote" => (Change::Promote { node: id.clone() }, "voter", ChangeError::NotLearner),
        "demote" => (Change::Demote { node: id.clone() }, "learner", ChangeError::NotVoter),
        _ => {
            return Err(Problem::not_found(format!("no such path: {}", uri.path()))
                .hint("POST /v1/members/{id}:promote, :demote, :maintain, :approve or :refuse"));
        }
    };
    match submit(&state, change, &headers, &uri).await? {
        Ok(changed) => {
            let mut body = described(&id, &changed);
            body["role"] = done.into();
            Ok(Json(body))
        }
        Err(Failure::Change(error)) if error == is_so => {
            let status = state.handle.status.borrow().clone();
            match status.nodes.iter().find(|peer| peer.id == id) {
                Some(peer) => Ok(Json(already(&status, peer))),
                None => Err(Problem::not_found(format!("no super-node '{id}'"))),
            }
        }
        Err(failure) => Err(refused(&state, failure, &id, &uri)),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    to: Option<NodeId>,
}

/// `POST /v1/leader:transfer` `{"to":"n2"}`, or without a body to whom the leader likes. Answers when another node leads.
pub async fn transfer(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let TransferBody { to } = if empty { TransferBody::default() } else { parse_json(&bytes)? };
    let before = state.handle.status.borrow().leader.clone();
    let forward = Params::parse(&uri, &["forward"])?.truth("forward", true)?;
    let patience = patience(&headers)?.map_or(state.http.timeout, |asker| asker.min(state.http.timeout));
    match state.handle.transfer(to.clone(), forward, patience).await {
        Ok(done) => Ok(Json(json!({ "leader": done.leader, "term": done.term, "previous": before }))),
        Err(Failure::NoTarget) => {
            let status = state.handle.status.borrow().clone();
            if to.is_some() && status.leader == to {
                return Ok(Json(json!({ "leader": to, "term": status.term, "already": true })));
            }
            let detail = match to {
                Some(to) => format!("{to} cannot take over: it is no voter, or is not heard"),
                None => "nobody can take over: no other voter is heard, caught up and fit".to_string(),
            };
            Err(Problem::new(Code::Conflict, detail).hint("super-node status shows who has caught up"))
        }
        Err(failure) => {
            let mut problem = state.failed(failure, &uri);
            if problem.outcome == Outcome::Unknown {
                problem.hint = Some("super-node leader show says who leads".to_string());
            }
            Err(problem)
        }
    }
}

/// Asks for a change. `Ok(Err(_))`: refused for a reason that the caller may know better.
async fn submit(
    state: &ApiState,
    change: Change,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Result<Changed, Failure>, Problem> {
    let forward = Params::parse(uri, &["forward"])?.truth("forward", true)?;
    let patience = patience(headers)?.map_or(state.http.timeout, |asker| asker.min(state.http.timeout));
    Ok(state.handle.change(change, forward, patience).await)
}

fn refused(state: &ApiState, failure: Failure, id: &NodeId, uri: &Uri) -> Problem {
    let error = match failure {
        Failure::Change(error) => error,
        failure => {
            let mut problem = state.failed(failure, uri);
            if problem.outcome == Outcome::Unknown {
                problem.hint = Some(
                    "super-node status shows voters, learners, and whether a change is under way".to_string(),
                );
            }
            return problem;
        }
    };
    let detail = format!("{id}: {error}");
    let (code, hint) = match error {
        ChangeError::NotMember => (Code::NotFound, "super-node status lists the super-nodes"),
        ChangeError::BadAddress | ChangeError::ReplacesWithoutPromotion => {
            (Code::BadRequest, "give the address as HOST:PORT")
        }
        ChangeError::NotCaughtUp => (Code::Conflict, "wait until super-node status shows lag 0 for it"),
        ChangeError::LastVoter => (Code::Conflict, "add another super-node first"),
        ChangeError::QuorumOutOfReach => {
            (Code::Conflict, "start the nodes that are down first, or remove those that are dead first")
        }
        ChangeError::AlreadyMember
        | ChangeError::NotLearner
        | ChangeError::NotVoter
        | ChangeError::TooManyVoters
        | ChangeError::TooManyNodes
        | ChangeError::AlreadyReplaced
        | ChangeError::SameAddress => (Code::Conflict, "super-node status shows voters and learners"),
    };
    Problem::new(code, detail).hint(hint)
}
