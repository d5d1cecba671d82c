//! Incoming connections: greet, check who it is, hand frames to the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::codec::CodecError;
use crate::node::frame::{Frame, Hello};

use super::peers::{Peer, PeerEvent, Shared};
use super::tls::{self, ReadHalf, WriteHalf};
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
    let visitor = match admitted {
        Ok(visitor) => visitor,
        Err(end) => return log_refusal(&shared, address, end),
    };
    let peer = visitor.peer.clone();
    let ended = peer.admit();
    let error = tokio::select! {
        // The peer was removed, has dialled again, or the node ends.
        () = ended.cancelled() => return,
        error = visitor.stay(&shared, permit) => error,
    };
    shared.parted(&peer, &ended);
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

/// Somebody whose hello is in order.
struct Visitor {
    peer: Arc<Peer>,
    hello: Hello,
    /// The version of the protocol that will be spoken.
    protocol: u16,
    reader: FramedRead<ReadHalf, LengthDelimitedCodec>,
    writer: WriteHalf,
}

impl Visitor {
    /// Answers the hello and hands frames to the node; returns why the connection is of no more use.
    async fn stay(mut self, shared: &Shared, stranger: OwnedSemaphorePermit) -> WireError {
        let answer = Greeting::Hello(shared.hello(&self.peer.id, self.protocol));
        if let Err(error) = wire::write_greeting(&mut self.writer, &answer).await {
            return error;
        }
        drop(stranger);
        wire::lift_limit(&mut self.reader);
        shared.counts.accepted.inc();
        self.peer.introduced(&self.hello.address);
        self.peer.is_visited_by(self.hello.incarnation.clone());
        read_frames(shared, &self.peer, &mut self.reader).await
    }
}

async fn greet(shared: &Arc<Shared>, stream: TcpStream) -> Result<Visitor, NotAdmitted> {
    wire::tune(&stream).map_err(WireError::from)?;
    let (reader, mut writer) = match &shared.tls {
        None => tls::plain(stream),
        Some(own) => tls::accept_peer(own, stream).await.map_err(|error| match tls::explain(&error) {
            Some(why) => NotAdmitted::Refused(why),
            None => NotAdmitted::Wire(error.into()),
        })?,
    };
    let mut reader = wire::reader(reader, GREETING_BYTES_MAX);
    let mut greeting = wire::read_greeting(&mut reader).await?;
    if let Greeting::Bound { as_of, incarnations } = greeting {
        shared.told_bindings(as_of, incarnations);
        greeting = wire::read_greeting(&mut reader).await?;
    }
    let (who, reason) = match greeting {
        Greeting::Refused { .. } => return Err(NotAdmitted::Refused("it began with a refusal".to_string())),
        Greeting::Former(former) => {
            let reason = shared.common_protocol(former.protocol, former.protocol).err().unwrap_or_default();
            (former.from.to_string(), reason)
        }
        Greeting::Bound { .. } => {
            return Err(NotAdmitted::Refused("it told twice who is bound to what".to_string()));
        }
        // What a node that knows no ranges makes of an offer.
        Greeting::Offer { .. } if !shared.knows_ranges() => {
            let why = "an offer of versions, which this node is held not to know".to_string();
            return Err(WireError::from(CodecError::Malformed { what: "greeting", why }).into());
        }
        Greeting::Hello(hello) => match admit(shared, hello.protocol, &hello) {
            Ok((peer, protocol)) => return Ok(Visitor { peer, hello, protocol, reader, writer }),
            Err(reason) => (format!("{} at cluster {:?}", hello.from, hello.cluster), reason),
        },
        Greeting::Offer { oldest, hello } => match admit(shared, oldest, &hello) {
            Ok((peer, protocol)) => return Ok(Visitor { peer, hello, protocol, reader, writer }),
            Err(reason) => (format!("{} at cluster {:?}", hello.from, hello.cluster), reason),
        },
    };
    let refusal = Greeting::Refused { reason: reason.clone() };
    wire::write_greeting(&mut writer, &refusal).await?;
    // Best effort: the dialler reads the reason, then the end.
    let _gone_already = writer.shutdown().await;
    Err(NotAdmitted::Refused(format!("{who}: {reason}")))
}

/// The peer that a hello speaks for and the version to speak, or why it may not. `oldest`: the oldest version that it
/// speaks.
fn admit(shared: &Arc<Shared>, oldest: u16, hello: &Hello) -> Result<(Arc<Peer>, u16), String> {
    let protocol = shared.common_protocol(oldest, hello.protocol)?;
    shared.check(hello)?;
    let peer = shared.peer_or_guest(hello).ok_or_else(|| {
        format!("{} does not know a node {}, and hears too many of that kind", shared.id, hello.from)
    })?;
    if peer.may_be(&hello.incarnation) {
        return Ok((peer, protocol));
    }
    Err(format!(
        "another process with the id {} runs at {}: stop one of the two, or give this one an --id of its own",
        hello.from,
        peer.place(0)
    ))
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
    reader: &mut FramedRead<ReadHalf, LengthDelimitedCodec>,
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
