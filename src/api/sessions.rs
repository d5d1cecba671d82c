//! Client sessions: opened, kept and closed here; used by the headers of any write (see [`super::extract::once`]).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde_json::{Value, json};

use crate::ledger::command::{Answer, Applied, Command};
use crate::types::SessionId;

use super::problem::Problem;
use super::{ApiState, unexpected};

fn session_of(text: &str) -> Result<SessionId, Problem> {
    text.parse()
        .map(SessionId)
        .map_err(|_| Problem::bad_request(format!("'{text}' is not a session: it is a whole number")))
}

fn opened(applied: &Applied) -> Result<Json<Value>, Problem> {
    let Answer::Session { session, expires_after_ms } = applied.answer else {
        return Err(unexpected(applied));
    };
    Ok(Json(json!({
        "session": session,
        "expires_after_ms": expires_after_ms,
        "index": applied.index,
        "term": applied.term,
    })))
}

/// `POST /v1/sessions`: opens a session.
pub async fn open(
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    opened(&state.submit(Command::SessionOpen, &headers, &uri, false).await?)
}

/// `POST /v1/sessions/{id}`: an idle session begins its time anew.
pub async fn keep_alive(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let session = session_of(&id)?;
    let command = Command::SessionKeepAlive { session };
    opened(&state.submit(command, &headers, &uri, false).await?)
}

/// `DELETE /v1/sessions/{id}`: closes a session. Whatever of it is still on its way is refused when it arrives.
pub async fn close(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let session = session_of(&id)?;
    let applied = state.submit(Command::SessionClose { session }, &headers, &uri, false).await?;
    let Answer::Done = applied.answer else { return Err(unexpected(&applied)) };
    Ok(Json(json!({ "session": session, "index": applied.index, "term": applied.term })))
}
