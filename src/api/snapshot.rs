//! `GET /v1/snapshot`: the whole applied state as a file that can be restored; `GET /v1/recoveries`: what operators did.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::ledger::query;
use crate::ledger::recoveries::Recovery;
use crate::storage::snapshot::{Head, SnapshotWriter};
use crate::types::Index;

use super::extract::Params;
use super::problem::{Code, Problem};
use super::{ApiState, Page, READ_PARAMETERS, ReadWish};

/// Snapshots that a node sends at a time. Each keeps a view open, and with it the rows that have changed since.
pub(super) const SNAPSHOTS_MAX: usize = 2;
/// Pieces of about a megabyte that wait for a slow reader.
const PIECES_MAX: usize = 2;
/// The type of the body.
const MEDIA: HeaderValue = HeaderValue::from_static("application/vnd.super-node.snapshot");

/// Streams a snapshot of everything acknowledged before (`level=stale`: of what this node has applied). A body without
/// the trailer of the format was cut by an error, which the log of the node tells.
pub async fn save(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::parse(&uri, &READ_PARAMETERS)?;
    let wish = ReadWish::parse(&params, &uri)?;
    let Ok(permit) = Arc::clone(&state.0.snapshots).try_acquire_owned() else {
        let text = format!("this node sends {SNAPSHOTS_MAX} snapshots already");
        return Err(Problem::new(Code::Overloaded, text).hint("wait for them, or ask another node"));
    };
    let (cluster, id) = {
        let status = state.handle.status.borrow();
        (status.cluster.clone(), status.id.clone())
    };
    state.fresh(&wish).await?;
    let handle = state.handle.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let view = handle.view()?;
        let head = Head::of(&*view, &cluster, &id)?;
        Ok::<_, Problem>(SnapshotWriter::new(view, head))
    });
    let mut writer =
        begun.await.map_err(|error| Problem::new(Code::Damaged, format!("the read failed: {error}")))??;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        loop {
            let piece = match writer.next_piece() {
                Ok(Some(piece)) => Ok(Bytes::from(piece)),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("a snapshot was cut: {error}");
                    Err(io::Error::other(error))
                }
            };
            let failed = piece.is_err();
            // A receiver that is gone wants no more of it.
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    let pieces = stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, MEDIA);
    Ok(response)
}

/// `GET /v1/recoveries`: forced new clusters and restored snapshots, oldest first.
pub async fn recoveries(State(state): State<ApiState>, uri: Uri) -> Result<Json<Page<Recovery>>, Problem> {
    let params = Params::parse(&uri, &["level", "max_stale", "forward", "after", "limit"])?;
    let wish = ReadWish::parse(&params, &uri)?;
    let (after, limit) = (Index(params.parsed("after")?.unwrap_or(0)), params.limit()?);
    let items = state.read(&wish, move |reader| Ok(query::recoveries(reader, after, limit + 1)?)).await?;
    Ok(Json(Page::new(items, limit, |recovery| Value::from(recovery.index.0))))
}
