//! The client listener: tells HTTP from the framed protocol by a connection's first bytes.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::network::native::{PREFACE, tune};

use super::{ApiState, native};

/// A connection that says nothing for so long is taken for HTTP, whose clients may open one before they need it.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// Pause before a look at a preface of which a part has come.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Pause after the system could not accept (too many open files), which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Sorted connections that wait for the HTTP server; it takes them at once.
const SORTED_MAX: usize = 64;

/// The connections of a listener that speak HTTP. Those that speak frames are served beside it.
pub(super) struct HttpConnections {
    address: SocketAddr,
    sorted: mpsc::Receiver<(TcpStream, SocketAddr)>,
}

impl HttpConnections {
    /// Accepts and sorts until the node stops.
    pub fn of(listener: TcpListener, state: ApiState) -> std::io::Result<HttpConnections> {
        let address = listener.local_addr()?;
        let (http, sorted) = mpsc::channel(SORTED_MAX);
        tokio::spawn(accept(listener, state, http));
        Ok(HttpConnections { address, sorted })
    }
}

impl Listener for HttpConnections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        match self.sorted.recv().await {
            Some(connection) => connection,
            // The node is stopping: nobody comes any more.
            None => pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(listener: TcpListener, state: ApiState, http: mpsc::Sender<(TcpStream, SocketAddr)>) {
    let stopping: CancellationToken = state.stopping.clone();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                tokio::spawn(sort(stream, client, state.clone(), http.clone()));
            }
            Err(error) => {
                tracing::debug!("cannot accept a client connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn sort(
    stream: TcpStream,
    client: SocketAddr,
    state: ApiState,
    http: mpsc::Sender<(TcpStream, SocketAddr)>,
) {
    // Answers are small and whole: waiting for more to send only delays them. And who vanished must be noticed.
    if let Err(error) = tune(&stream) {
        tracing::debug!(%client, "a socket option was refused: {error}");
    }
    let framed = tokio::time::timeout(SILENT_MAX, begins_with_preface(&stream)).await;
    match framed {
        Ok(Ok(true)) => native::serve(state, stream, client).await,
        Ok(Ok(false)) | Err(_) => {
            // A server that no longer takes connections is stopping.
            let _stopping = http.send((stream, client)).await;
        }
        Ok(Err(error)) => tracing::debug!(%client, "a connection ended before it said anything: {error}"),
    }
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
