//! Money that no interval moves: claims and adjustments. And announced maintenance, which keeps money where it is.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ledger::claims::Receipt;
use crate::ledger::command::{Answer, Command};
use crate::ledger::query;
use crate::types::{Amount, IntervalId, MemberId};

use super::extract::{Params, parse_json, read_body};
use super::problem::Problem;
use super::{ApiState, ReadWish, unexpected};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    member: MemberId,
    seq: u64,
    amount: Amount,
}

/// `POST /v1/claims` `{"member":"worker-1","seq":3,"amount":2500000}`: part of a balance is paid out. `seq` is one more than
/// that of the member's last claim; the last one again gets the same receipt.
pub async fn claim(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Receipt>, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Claim { member, seq, amount } = parse_json(&bytes)?;
    let applied = state.submit(Command::Claim { member, seq, amount }, &headers, &uri, false).await?;
    match applied.answer {
        Answer::Claimed(receipt) => Ok(Json(receipt)),
        _ => Err(unexpected(&applied)),
    }
}

/// `GET /v1/claims?member=worker-1`: the number of the last claim, and its receipt.
pub async fn claims(State(state): State<ApiState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::parse(&uri, &["member", "level", "max_stale", "forward"])?;
    let wish = ReadWish::parse(&params, &uri)?;
    let member = params.parsed::<MemberId>("member")?;
    let member =
        member.ok_or_else(|| Problem::bad_request("whose claims?").hint("GET /v1/claims?member=worker-1"))?;
    let asked = member.clone();
    let found = state
        .read(&wish, move |reader| Ok((query::member(reader, &asked)?, query::claims(reader, &asked)?)))
        .await?;
    match found {
        (Some(_), claims) => {
            Ok(Json(json!({ "member": member, "last_seq": claims.last_seq(), "receipt": claims.receipt })))
        }
        (None, _) => Err(Problem::not_found(format!("no member '{member}'"))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adjustment {
    member: MemberId,
    #[serde(alias = "amount")]
    delta: Amount,
    reason: String,
    operator: String,
}

/// `POST /v1/adjustments` `{"member":"worker-1","delta":-1000000,"reason":"paid twice","operator":"kim"}`: an operator moves
/// a balance. Nothing is rewritten; the movement stands beside what it puts right.
pub async fn adjust(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(&headers, body, state.http.body_bytes_max).await?;
    let Adjustment { member, delta, reason, operator } = parse_json(&bytes)?;
    let command = Command::Adjust { member: member.clone(), delta, reason, operator };
    let applied = state.submit(command, &headers, &uri, false).await?;
    let Answer::Adjusted { record, balance } = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "member": member, "delta": delta, "balance": balance, "record": record,
        "index": applied.index, "term": applied.term })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Maintenance {
    intervals: u64,
    #[serde(default)]
    from: Option<IntervalId>,
}

/// `POST /v1/members/{id}:maintain` `{"intervals":10,"from":120}`: the member is excused in these intervals, and not paid.
/// Without `from` they begin after the open one.
pub(super) async fn maintain(
    state: &ApiState,
    member: MemberId,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = read_body(headers, body, state.http.body_bytes_max).await?;
    let Maintenance { intervals, from } = parse_json(&bytes)?;
    let command = Command::Maintain { member: member.clone(), from, intervals };
    let applied = state.submit(command, headers, uri, false).await?;
    let Answer::Maintenance { from, to, left } = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "id": member, "from": from, "to": to, "left": left,
        "index": applied.index, "term": applied.term })))
}
