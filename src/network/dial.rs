//! The outgoing connection to one peer: dial, greet, write frames, notice the end, dial again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::frame::{Hello, PROTOCOL_MIN};

use super::peers::{Peer, PeerEvent, Shared};
use super::tls::{self, ReadHalf, Tls, WriteHalf};
use super::wire::{self, GREETING_BYTES_MAX, Greeting, WireError};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one write may take. The kernel's own limit on unacknowledged data is shorter where there is one.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that stood this long was a good one: after it, the next attempt is made at once.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// The first wait between attempts, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How much of a peer's reason is logged, in characters.
pub(super) const REASON_CHARS_MAX: usize = 300;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// A machine answered that nobody listens there.
    #[error("connection refused")]
    NobodyListens,
    /// Somebody listens, and does not want to talk.
    #[error("{0}")]
    Refused(String),
    /// Somebody listens, and no encrypted connection comes about.
    #[error("{0}")]
    NotSecured(String),
    /// Anything else; it says nothing about the peer's process.
    #[error("{0}")]
    Failed(String),
}

impl From<WireError> for DialError {
    fn from(error: WireError) -> DialError {
        DialError::Failed(error.to_string())
    }
}

/// Waits that double, each shortened at random by up to a half, so that peers do not dial in step.
#[derive(Default)]
struct Backoff(Option<Duration>);

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = self.0.map_or(BACKOFF.0, |wait| (wait * 2).min(BACKOFF.1));
        self.0 = Some(wait);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Keeps a connection to `peer` until it is removed or the node ends.
pub(super) async fn keep_connected(shared: Arc<Shared>, peer: Arc<Peer>) {
    tokio::select! {
        () = peer.stop.cancelled() => {}
        () = dial_forever(&shared, &peer) => {}
    }
    peer.lanes.close();
}

async fn dial_forever(shared: &Shared, peer: &Peer) {
    let mut backoff = Backoff::default();
    for attempt in 0.. {
        let address = peer.place(attempt);
        match connect(shared, peer, &address).await {
            Ok(conversation) => {
                let began = Instant::now();
                serve(shared, peer, &address, conversation).await;
                if began.elapsed() >= SETTLED_AFTER {
                    backoff = Backoff::default();
                    continue;
                }
            }
            Err(error) => attempt_failed(shared, peer, &address, error).await,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = peer.nudge.notified() => {}
        }
    }
}

async fn attempt_failed(shared: &Shared, peer: &Peer, address: &str, error: DialError) {
    let id = &peer.id;
    peer.tried(Some(error.to_string()));
    match error {
        DialError::NobodyListens => {
            tracing::debug!(peer = %id, %address, "nobody listens");
            if peer.has_gone() {
                tracing::info!(peer = %id, %address, "the peer's process is gone: its connection broke and a new one was refused");
                shared.tell(PeerEvent::Gone { node: id.clone() }).await;
            }
        }
        DialError::Refused(reason) => {
            shared.counts.refused.inc();
            if let Some(held) = peer.refusals.pass() {
                tracing::warn!(peer = %id, %address, held, "the peer refuses this node: {reason}");
            }
        }
        DialError::NotSecured(why) => {
            if let Some(held) = peer.refusals.pass() {
                tracing::warn!(peer = %id, %address, held, "no encrypted connection to the peer: {why}");
            }
        }
        DialError::Failed(why) => tracing::debug!(peer = %id, %address, "no connection: {why}"),
    }
}

pub(super) async fn open(address: &str) -> Result<TcpStream, DialError> {
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Err(_elapsed) => return Err(DialError::Failed(format!("no connection within {CONNECT_TIMEOUT:?}"))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(DialError::NobodyListens);
        }
        Ok(Err(error)) => return Err(DialError::Failed(error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    // On loopback the kernel may give the outgoing socket the very port it dials and join it to itself. That is
    // nobody, and must be let go at once, or the peer could not listen there again.
    if stream.local_addr().ok() == stream.peer_addr().ok() {
        return Err(DialError::NobodyListens);
    }
    Ok(stream)
}

/// A connection whose hello was answered.
struct Conversation {
    reader: ReadHalf,
    writer: WriteHalf,
    /// Where clients find the peer.
    url: String,
    /// The incarnation of its data directory.
    incarnation: String,
}

async fn connect(shared: &Shared, peer: &Peer, address: &str) -> Result<Conversation, DialError> {
    let stream = open(address).await?;
    wire::tune(&stream).map_err(|error| DialError::Failed(error.to_string()))?;
    let (reader, mut writer) = secured(shared.tls.as_ref(), address, stream).await?;
    let offers = shared.knows_ranges() && !peer.wants_plain_hello();
    // Perhaps the peer was away while this node joined anew.
    if peer.refused.swap(false, Ordering::AcqRel)
        && let Some(bound) = shared.bound()
    {
        wire::write_greeting(&mut writer, &bound).await?;
    }
    let greeting = if offers {
        Greeting::Offer { oldest: PROTOCOL_MIN, hello: shared.hello(&peer.id, shared.protocol_max) }
    } else {
        Greeting::Hello(shared.hello(&peer.id, PROTOCOL_MIN))
    };
    wire::write_greeting(&mut writer, &greeting).await?;
    let mut reader = wire::reader(reader, GREETING_BYTES_MAX);
    match wire::read_greeting(&mut reader).await {
        Ok(Greeting::Hello(hello)) if hello.from != peer.id => Err(DialError::Refused(format!(
            "{} answers at the address of {}: correct it",
            hello.from, peer.id
        ))),
        Ok(Greeting::Hello(hello)) => match spoken(shared, offers, &hello) {
            Ok(protocol) => {
                peer.protocol.store(protocol, Ordering::Release);
                if offers {
                    peer.offered(true);
                }
                peer.found_at_its_address(hello.incarnation.clone());
                let (url, incarnation) = (hello.url, hello.incarnation);
                Ok(Conversation { reader: reader.into_inner(), writer, url, incarnation })
            }
            Err(reason) => Err(DialError::Refused(reason)),
        },
        Ok(Greeting::Former(former)) => {
            let (oldest, newest) = (former.protocol, former.protocol);
            Err(DialError::Refused(shared.common_protocol(oldest, newest).err().unwrap_or_default()))
        }
        Ok(Greeting::Bound { .. }) => {
            Err(DialError::Failed("the peer answered a hello by something else".to_string()))
        }
        Ok(Greeting::Offer { hello, .. }) => {
            Err(DialError::Failed(format!("{} answered an offer by an offer", hello.from)))
        }
        Ok(Greeting::Refused { reason }) => {
            peer.refused.store(true, Ordering::Release);
            Err(DialError::Refused(reason.chars().take(REASON_CHARS_MAX).collect()))
        }
        // Whether our certificate is good enough is only told now (RFC 8446, section 2).
        Err(WireError::Io(error)) if tls::explain(&error).is_some() => Err(not_secured(error)),
        Err(error) => {
            if error.is_malformed() {
                shared.counts.malformed.inc();
            }
            if offers {
                peer.offered(false);
            }
            Err(error.into())
        }
    }
}

/// Secures a connection, if that is wanted.
pub(super) async fn secured(
    tls: Option<&Tls>,
    address: &str,
    stream: TcpStream,
) -> Result<(ReadHalf, WriteHalf), DialError> {
    match tls {
        None => Ok(tls::plain(stream)),
        Some(own) => tls::connect(&own.dial, address, stream).await.map_err(not_secured),
    }
}

fn not_secured(error: io::Error) -> DialError {
    match tls::explain(&error) {
        Some(why) => DialError::NotSecured(why),
        None if error.kind() == io::ErrorKind::UnexpectedEof => DialError::NotSecured(
            "it ended the TLS handshake without a word: configure [tls] on both sides or on neither"
                .to_string(),
        ),
        None => DialError::Failed(error.to_string()),
    }
}

/// The version of the protocol that an answer settles on, if it is one that was offered and the speaker is in order.
fn spoken(shared: &Shared, offered: bool, hello: &Hello) -> Result<u16, String> {
    let protocol = shared.common_protocol(hello.protocol, hello.protocol)?;
    if !offered && protocol != PROTOCOL_MIN {
        return Err(format!("{} answered in protocol {protocol}, which was not asked for", hello.from));
    }
    shared.check(hello)?;
    Ok(protocol)
}

/// Uses a connection until it ends.
async fn serve(shared: &Shared, peer: &Peer, address: &str, conversation: Conversation) {
    let Conversation { reader, writer, url, incarnation } = conversation;
    let node = &peer.id;
    shared.counts.dialled.inc();
    peer.was_there.store(true, Ordering::Release);
    // Open first: what the node sends in answer to the event must not be dropped.
    peer.lanes.open();
    peer.tried(None);
    let protocol = peer.protocol.load(Ordering::Acquire);
    tracing::info!(peer = %node, %address, protocol, "connected");
    shared.tell(PeerEvent::Connected { node: node.clone(), url, incarnation }).await;
    let why = tokio::select! {
        why = write_frames(shared, peer, writer) => why,
        why = wait_for_end(reader) => why,
        why = look_when_nudged(peer, address) => why,
    };
    peer.lanes.close();
    shared.counts.lost.inc();
    tracing::info!(peer = %node, %address, "connection lost: {why}");
    shared.tell(PeerEvent::Lost { node: node.clone() }).await;
}

/// Writes what waits; returns why it could not go on.
async fn write_frames(shared: &Shared, peer: &Peer, mut writer: WriteHalf) -> String {
    let mut out = BytesMut::new();
    loop {
        let frames = peer.lanes.take(&mut out).await;
        let write = async {
            writer.write_all(&out).await?;
            writer.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Err(_elapsed) => return format!("a write took more than {WRITE_TIMEOUT:?}"),
            Ok(Err(error)) => return error.to_string(),
            Ok(Ok(())) => shared.counts.sent.inc_by(frames),
        };
        out.clear();
    }
}

/// Nothing comes this way after the greeting but the end.
async fn wait_for_end(mut reader: ReadHalf) -> String {
    match reader.read_u8().await {
        Ok(_) => "the peer spoke out of turn".to_string(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "closed by the peer".to_string(),
        Err(error) => error.to_string(),
    }
}

/// The incoming connection broke: looks whether the peer still listens. Returns only if it does not.
async fn look_when_nudged(peer: &Peer, address: &str) -> String {
    loop {
        peer.nudge.notified().await;
        if let Err(DialError::NobodyListens) = open(address).await {
            return "nobody listens at the peer's address any more".to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_equal_in_step() {
        let mut backoff = Backoff::default();
        for expected in [10, 20, 40, 80, 160, 320, 500, 500] {
            let longest = Duration::from_millis(expected);
            let wait = backoff.next();
            assert!(longest / 2 <= wait && wait <= longest, "{wait:?} for {longest:?}");
        }
    }
}
