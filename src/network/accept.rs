//! Incoming connections: greet, check who it is, hand frames to the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::node::frame::Frame;

use super::peers::{Peer, PeerEvent, Shared};
use super::wire::{self, GREETING_BYTES_MAX, Greeting, WireError};

/// Connections that may be without a greeting at once; more are closed as they come. Together with the time and
/// the bytes that a greeting may take, this bounds what strangers cost.
pub(super) const STRANGERS_MAX: usize = 64;
/// Pause after the system could not accept (too many open files), which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the shutdown.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(held) = shared.refusals.pass() {
                    tracing::warn!(held, "cannot accept a peer connection: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match strangers.clone().try_acquire_owned() {
            Ok(permit) => {
                shared.tasks.spawn(incoming(shared.clone(), stream, address, permit));
            }
            Err(_full) => {
                shared.counts.too_many.inc();
            }
        }
    }
}

/// One incoming connection, from its greeting to its end.
async fn incoming(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
    let admitted = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        admitted = greet(&shared, stream) => admitted,
    };
    drop(permit);
    let (peer, mut reader, writer) = match admitted {
        Ok(admitted) => admitted,
        Err(end) => return log_refusal(&shared, address, end),
    };
    shared.counts.accepted.inc();
    let ended = peer.admit();
    let error = tokio::select! {
        // The peer was removed, has dialled again, or the node ends.
        () = ended.cancelled() => return,
        error = read_frames(&shared, &peer, &mut reader) => error,
    };
    drop((reader, writer));
    peer.dismiss(&ended);
    if error.is_malformed() {
        shared.counts.malformed.inc();
        if let Some(held) = peer.refusals.pass() {
            tracing::warn!(peer = %peer.id, %address, held, "closed a peer connection that makes no sense: {error}");
        }
    } else {
        tracing::debug!(peer = %peer.id, %address, "incoming connection ended: {error}");
    }
    peer.nudge.notify_one();
}

/// Why a connection was not admitted.
enum NotAdmitted {
    Wire(WireError),
    Refused(String),
}

impl From<WireError> for NotAdmitted {
    fn from(error: WireError) -> Self {
        NotAdmitted::Wire(error)
    }
}

type Admitted = (Arc<Peer>, FramedRead<OwnedReadHalf, LengthDelimitedCodec>, OwnedWriteHalf);

async fn greet(shared: &Shared, stream: TcpStream) -> Result<Admitted, NotAdmitted> {
    wire::tune(&stream).map_err(WireError::from)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = wire::reader(reader, GREETING_BYTES_MAX);
    let hello = match wire::read_greeting(&mut reader).await? {
        Greeting::Hello(hello) => hello,
        Greeting::Refused { .. } => return Err(NotAdmitted::Refused("it began with a refusal".to_string())),
    };
    let admission = shared.check(&hello).and_then(|()| {
        let peer = shared.peer(&hello.from).ok_or_else(|| {
            format!("{} does not know a node {}: add it to the cluster first", shared.id, hello.from)
        })?;
        if peer.may_be(&hello.incarnation) {
            return Ok(peer);
        }
        Err(format!(
            "another process with the id {} runs at {}: stop one of the two, or give this one an --id of its own",
            hello.from, peer.address
        ))
    });
    match admission {
        Ok(peer) => {
            wire::write_greeting(&mut writer, &Greeting::Hello(shared.hello(&hello.from))).await?;
            wire::lift_limit(&mut reader);
            Ok((peer, reader, writer))
        }
        Err(reason) => {
            let refusal = Greeting::Refused { reason: reason.clone() };
            wire::write_greeting(&mut writer, &refusal).await?;
            // Best effort: the dialler reads the reason, then the end.
            let _gone_already = writer.shutdown().await;
            Err(NotAdmitted::Refused(format!("{} at cluster {:?}: {reason}", hello.from, hello.cluster)))
        }
    }
}

fn log_refusal(shared: &Shared, address: SocketAddr, end: NotAdmitted) {
    let why = match end {
        NotAdmitted::Refused(reason) => {
            shared.counts.refused.inc();
            reason
        }
        NotAdmitted::Wire(error) if error.is_malformed() => {
            shared.counts.malformed.inc();
            format!("not a super-node's greeting: {error}")
        }
        NotAdmitted::Wire(WireError::Slow) => {
            shared.counts.slow.inc();
            WireError::Slow.to_string()
        }
        // Somebody looked whether we listen, and went away: a peer's probe, a port check.
        NotAdmitted::Wire(error) => {
            tracing::debug!(%address, "a connection ended before its greeting: {error}");
            return;
        }
    };
    if let Some(held) = shared.refusals.pass() {
        tracing::warn!(%address, held, "refused a peer connection: {why}");
    }
}

/// Hands frames to the node; returns why the connection is of no more use.
async fn read_frames(
    shared: &Shared,
    peer: &Peer,
    reader: &mut FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
) -> WireError {
    loop {
        match wire::read::<Frame, _>(reader).await {
            Ok(frame) => {
                shared.counts.received.inc();
                shared.tell(PeerEvent::Frame { from: peer.id.clone(), frame }).await;
            }
            Err(error) => return error,
        }
    }
}
