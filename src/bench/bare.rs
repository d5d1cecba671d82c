//! An HTTP server of the same stack that does nothing: it reads the same requests and answers the same JSON. What it
//! reaches in the same run is the ceiling for everything that speaks HTTP this way.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::put;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `stop` is cancelled.
pub async fn serve(listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new().route("/v1/kv/{*key}", put(answer));
    crate::api::serve(listener, router, stop).await
}

async fn answer(Path(key): Path<String>, body: Bytes) -> impl IntoResponse {
    let revision = body.len();
    let tag = [(header::ETAG, format!("\"{revision}\""))];
    (tag, axum::Json(json!({ "key": key, "revision": revision, "index": 4_183, "term": 7 })))
}
