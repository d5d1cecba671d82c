//! A TCP proxy that a test can cut or silence: the network between two processes on one machine.

#![allow(dead_code, reason = "each test file uses its own part")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// They go through.
    Open,
    /// They wait on the way; connections stay, and new ones are accepted and hear nothing.
    Silent,
    /// Connections break, with what is on the way, and new ones are closed at once.
    Cut,
}

/// A running proxy; gone when dropped.
pub struct Proxy {
    port: u16,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.line.send_replace(Line::Cut);
    }
}

impl Proxy {
    /// In front of a server on loopback.
    pub async fn to(server_port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (line, seen) = watch::channel(Line::Open);
        let task = tokio::spawn(async move {
            while let Ok((inward, _)) = listener.accept().await {
                if *seen.borrow() != Line::Cut {
                    tokio::spawn(join(inward, server_port, seen.clone()));
                }
            }
        });
        Proxy { port, line, task }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the line, for all connections at once.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn join(inward: TcpStream, server_port: u16, line: watch::Receiver<Line>) {
    let Ok(outward) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
    let (from_client, to_client) = inward.into_split();
    let (from_server, to_server) = outward.into_split();
    // Either direction's end is the end of both.
    tokio::select! {
        () = pump(from_client, to_server, line.clone()) => {}
        () = pump(from_server, to_client, line.clone()) => {}
        () = cut(line) => {}
    }
}

async fn cut(mut line: watch::Receiver<Line>) {
    let _cut_or_the_proxy_is_gone = line.wait_for(|line| *line == Line::Cut).await;
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if line.wait_for(|line| *line != Line::Silent).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
