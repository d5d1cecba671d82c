//! The client listener: tells HTTP from the framed protocol by a connection's first bytes, and serves both.
//!
//! HTTP goes straight to hyper, and what programs send most (a put of one key) straight to its handler: the router's
//! work would be a tenth of what such a request costs. Everything else takes the router. Before either, the guard looks whether
//! the asker may.
//!
//! On an encrypted listener the handshake says which of the two protocols is meant.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::network::native::{PREFACE, tune};
use crate::network::tls::{self, Tls};

use super::problem::Problem;
use super::{ApiState, Asked, GRACE, answering, dashboard, finished, kv, native, router};

/// A connection that says nothing for so long is taken for HTTP, whose clients may open one before they need it.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// Pause before a look at a preface of which a part has come.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Pause after the system could not accept (too many open files), which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP and the framed protocol on one listener until the node stops, then lets open requests end for a few
/// seconds.
pub async fn serve_clients(listener: TcpListener, state: ApiState) -> std::io::Result<()> {
    let routes = TowerToHyperService::new(router(state.clone()));
    let connections = TaskTracker::new();
    connections.spawn(dashboard::recorder::record(state.clone()));
    loop {
        let accepted = tokio::select! {
            () = state.stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                connections.spawn(serve(stream, client, state.clone(), routes.clone()));
            }
            Err(error) => {
                tracing::debug!("cannot accept a client connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    let _ended_or_slow = tokio::time::timeout(GRACE, connections.wait()).await;
    Ok(())
}

type Routes = TowerToHyperService<Router>;

async fn serve(stream: TcpStream, client: SocketAddr, state: ApiState, routes: Routes) {
    // Answers are small and whole: waiting for more to send only delays them. And who vanished must be noticed.
    if let Err(error) = tune(&stream) {
        tracing::debug!(%client, "a socket option was refused: {error}");
    }
    if let Some(own) = state.tls.clone() {
        return serve_encrypted(&own, stream, client, state, routes).await;
    }
    let framed = tokio::time::timeout(SILENT_MAX, begins_with_preface(&stream)).await;
    match framed {
        Ok(Ok(true)) => native::serve(state, tls::plain(stream), client).await,
        Ok(Ok(false)) | Err(_) => serve_http(stream, client, state, routes).await,
        Ok(Err(error)) => tracing::debug!(%client, "a connection ended before it said anything: {error}"),
    }
}

async fn serve_encrypted(own: &Tls, stream: TcpStream, client: SocketAddr, state: ApiState, routes: Routes) {
    let mut first = [0];
    let spoke = tokio::time::timeout(tls::HANDSHAKE_TIMEOUT, stream.peek(&mut first)).await;
    if !matches!(spoke, Ok(Ok(1))) {
        return tracing::debug!(%client, "a connection ended before it said anything");
    }
    if first[0].is_ascii_uppercase() {
        return refuse_plain(stream, client).await;
    }
    match own.accept_client(stream).await {
        Ok((stream, true)) => native::serve(state, tls::halves(stream), client).await,
        Ok((stream, false)) => serve_http(stream, client, state, routes).await,
        Err(error) => {
            let why = tls::explain(&error).unwrap_or_else(|| error.to_string());
            tracing::debug!(%client, "no TLS with a client: {why}");
        }
    }
}

/// Somebody speaks HTTP, or frames, where TLS is spoken: is told so in HTTP, which every tool shows.
async fn refuse_plain(mut stream: TcpStream, client: SocketAddr) {
    tracing::debug!(%client, "a client that does not speak TLS");
    let problem = Problem::bad_request("this port speaks TLS").hint("ask with https:// instead of http://");
    let body = serde_json::to_string(&problem.body(None, 0)).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    // What the client sent is read first: closing over it would reset the connection and lose the answer.
    let mut sent = [0; 4_096];
    let _read_or_slow = tokio::time::timeout(LOOK_AGAIN * 50, stream.read(&mut sent)).await;
    // Best effort, on its way out.
    let _gone_already = stream.write_all(answer.as_bytes()).await;
    let _gone_already = stream.shutdown().await;
}

/// Looks at the first bytes without taking them.
async fn begins_with_preface(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == PREFACE.len() || seen == 0 || first[..seen] != PREFACE[..seen] {
            return Ok(first[..seen] == PREFACE);
        }
        // The system reports again and again what is there already.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    client: SocketAddr,
    state: ApiState,
    routes: Routes,
) {
    let stopping = state.stopping.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let (state, routes) = (state.clone(), routes.clone());
        async move { answer(state, routes, request.map(Body::new)).await }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, "a connection ended: {error}");
    }
}

async fn answer(state: ApiState, routes: Routes, request: Request<Body>) -> Result<Response, Infallible> {
    let asked = Asked::of(request.headers());
    Ok(answering(asked, answer_within(state, routes, request)).await)
}

async fn answer_within(state: ApiState, routes: Routes, request: Request<Body>) -> Response {
    let started = Instant::now();
    if let Err(problem) = state.guard.check(request.method(), request.uri().path(), request.headers()) {
        let mut response = problem.into_response();
        if dashboard::wants_page(request.uri().path(), request.method(), request.headers()) {
            response = dashboard::explain(&state, response);
        }
        return finished(&state, "denied", started, response);
    }
    let Some(key) = plain_put(&request).map(str::to_string) else {
        return match routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    };
    let (parts, body) = request.into_parts();
    let response = kv::put(&state, Ok(key), &parts.uri, &parts.headers, body).await.into_response();
    finished(&state, kv::ROUTE, started, response)
}

/// The key of a put that needs no decoding.
fn plain_put(request: &Request<Body>) -> Option<&str> {
    let key = request.uri().path().strip_prefix(kv::PREFIX)?;
    (request.method() == Method::PUT && !key.is_empty() && !key.contains('%')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_router_would_take_for_the_same_key_goes_past_it() {
        let cases = [
            ("PUT", "/v1/kv/a", Some("a")),
            ("PUT", "/v1/kv/a/b?forward=false", Some("a/b")),
            ("PUT", "/v1/kv/a%2Fb", None),
            ("PUT", "/v1/kv/", None),
            ("PUT", "/v1/kv:batch", None),
            ("GET", "/v1/kv/a", None),
        ];
        for (method, path, key) in cases {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
            assert_eq!(plain_put(&request), key, "{method} {path}");
        }
    }
}
