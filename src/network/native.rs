//! The framed protocol of clients: what HTTP offers for the dictionary, with many requests under way on one connection.
//!
//! `docs/native-protocol.md` is the description for people. A connection begins with [`PREFACE`], by which the client
//! listener tells it from HTTP; then come frames as between super-nodes (length, CRC-32, body), first a hello in each
//! direction, then [`Request`]s one way and [`Response`]s the other, in any order.

use std::io;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::codec::{self, CodecError};
use crate::ledger::command::KvOperation;
use crate::types::{Index, NodeId, Term};

use super::wire::{self, WireError};

/// The first bytes of a connection. No HTTP method begins like this.
pub const PREFACE: [u8; 8] = *b"SNATIVE1";
/// The newest version of the protocol.
pub const PROTOCOL: u16 = 2;
/// The oldest version that is still spoken.
pub const PROTOCOL_MIN: u16 = 1;
/// The version of a client that shows a token: its [`Credentials`] follow its hello.
pub const PROTOCOL_WITH_TOKEN: u16 = 2;
/// Largest frame of a client, in bytes: the largest batch, and what surrounds it.
pub const FRAME_BYTES_MAX: usize = 9 << 20;
/// Most requests under way on one connection; more are refused as overloaded.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// Largest hello, in bytes. Nobody is known before it, so nobody may make us set more memory aside.
const HELLO_BYTES_MAX: usize = 4 << 10;
/// How long the other side may take for its hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// The other side closed it between two frames.
    #[error("closed by the other side")]
    Closed,
    /// No hello in time.
    #[error("no hello within {HELLO_TIMEOUT:?}")]
    Slow,
    /// The system's word.
    #[error("{0}")]
    Io(io::Error),
    /// Not what belongs here: too long, a wrong checksum, not decodable.
    #[error("{0}")]
    Malformed(String),
}

impl From<WireError> for NativeError {
    fn from(error: WireError) -> NativeError {
        match error {
            WireError::Closed => NativeError::Closed,
            WireError::Slow => NativeError::Slow,
            error if error.is_malformed() => NativeError::Malformed(error.to_string()),
            WireError::Io(error) => NativeError::Io(error),
            other => NativeError::Malformed(other.to_string()),
        }
    }
}

impl From<CodecError> for NativeError {
    fn from(error: CodecError) -> NativeError {
        NativeError::Malformed(error.to_string())
    }
}

/// The first frame of a client that speaks one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that it speaks.
    pub protocol: u16,
    /// The configured name of the cluster that it means.
    pub cluster: String,
    /// Its software, for the node's log.
    pub software: String,
}

/// The client's second frame, in [`PROTOCOL_WITH_TOKEN`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// What it would show as a bearer token over HTTP.
    pub token: String,
}

/// The first frame of a client that speaks several versions, `oldest` to that of its hello: the bytes of a [`Hello`], and one
/// number more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its version is the newest.
    pub hello: Hello,
    /// The oldest version that the client speaks.
    pub oldest: u16,
}

/// The newest version that a node of this software and a client which speaks `oldest` to `newest` have in common.
///
/// # Errors
/// There is none: what to do, in words.
pub fn common_protocol(oldest: u16, newest: u16) -> Result<u16, String> {
    let common = newest.min(PROTOCOL);
    if common >= oldest.max(PROTOCOL_MIN) {
        return Ok(common);
    }
    let range = |oldest: u16, newest: u16| {
        if oldest == newest { oldest.to_string() } else { format!("{oldest} to {newest}") }
    };
    let remedy =
        if oldest > PROTOCOL { "upgrade the node, or use an older client" } else { "use a newer client" };
    let (ours, theirs) = (range(PROTOCOL_MIN, PROTOCOL), range(oldest, newest));
    Err(format!("it speaks native protocol {ours}, not {theirs}: {remedy}"))
}

/// The node's first frame. Must stay readable by every later version: variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Requests may come.
    Ready {
        /// The version that is spoken from here on: the newest that both know.
        protocol: u16,
        /// The node.
        node: NodeId,
        /// Most requests that may be under way on this connection.
        in_flight_max: u32,
    },
    /// The node will not speak with this client; then it closes.
    Refused {
        /// What is wrong and what to do about it, in words.
        reason: String,
    },
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Sees every write acknowledged before it began.
    Linearizable,
    /// What the node has applied.
    Stale,
    /// The same as linearizable as long as clocks run at about the same rate: the leader may answer from its lease.
    Lease,
}

/// What a client asks for. Variants may only be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Sets a key.
    Put {
        /// 1 to 512 bytes.
        key: String,
        /// JSON text.
        value: String,
        /// Only if the key has this revision (0: only if absent).
        if_revision: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        /// Only if the key has this revision.
        if_revision: Option<u64>,
    },
    /// Up to 1 000 puts and deletes, all or nothing.
    Batch {
        /// In order.
        operations: Vec<KvOperation>,
    },
    /// The replicated addition.
    Add {
        /// The first summand.
        a: i64,
        /// The second summand.
        b: i64,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
        /// How fresh.
        level: Level,
    },
}

impl Operation {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        !matches!(self, Operation::Get { .. })
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; must not be one that is under way on this connection.
    pub id: u64,
    /// How long the client will wait, in milliseconds; 0: as long as the node does.
    pub patience_ms: u32,
    /// Whether the node may pass it on when another one leads.
    pub forward: bool,
    /// A retry of a write with the same key and operation returns the first answer.
    pub idempotency_key: Option<String>,
    /// What to do.
    pub operation: Operation,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Of the request.
    pub id: u64,
    /// What came of it.
    pub result: Result<Done, Refusal>,
}

/// What was done. Variants may only be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// A write of the dictionary is applied.
    Written {
        /// The revision of the dictionary after it.
        revision: u64,
        /// The position of the log entry.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// The sum.
    Sum {
        /// `a + b`.
        result: i64,
        /// The position of the log entry.
        index: Index,
        /// The leader that accepted it.
        leader: NodeId,
    },
    /// The key has this value.
    Found {
        /// JSON text.
        value: String,
        /// Its revision.
        revision: u64,
    },
    /// There is no such key.
    Absent,
}

/// Whether a refused write happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It did not and will not.
    NotApplied,
    /// It did.
    Applied,
    /// It may have, or may still.
    Unknown,
}

/// Why a request did not do what was asked: the fields of an HTTP problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What programs decide on, as in HTTP: `no_leader`, `conflict`, ….
    pub code: String,
    /// In words, for this occurrence.
    pub detail: String,
    /// Whether the write happened.
    pub outcome: Outcome,
    /// Whether trying again later may help.
    pub retryable: bool,
    /// The position at which the replicated state refused it, for good: every other try of the same request gets the
    /// same answer.
    pub index: Option<Index>,
    /// What to do, if there is something.
    pub hint: Option<String>,
    /// Where the leader takes requests, if another node leads.
    pub leader_url: Option<String>,
}

/// Reads the frames of one direction.
pub struct Reader<R> {
    frames: FramedRead<R, LengthDelimitedCodec>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Of a connection whose preface is read with [`Reader::skip_preface`], or that has none in this direction.
    pub fn new(stream: R) -> Reader<R> {
        Reader { frames: wire::reader(stream, HELLO_BYTES_MAX) }
    }

    /// Takes the preface, which has arrived and been looked at, off the connection.
    pub async fn skip_preface(&mut self) -> Result<(), NativeError> {
        let mut preface = [0; PREFACE.len()];
        self.frames.get_mut().read_exact(&mut preface).await.map_err(NativeError::Io)?;
        Ok(())
    }

    /// The other side's hello, or what belongs to it, within its time.
    pub async fn hello<T: DeserializeOwned>(&mut self) -> Result<T, NativeError> {
        let hello = tokio::time::timeout(HELLO_TIMEOUT, self.next()).await;
        hello.map_err(|_elapsed| NativeError::Slow)?
    }

    /// The other side is known: from now on its frames may have any allowed size.
    pub fn lift_limit(&mut self) {
        wire::set_limit(&mut self.frames, FRAME_BYTES_MAX);
    }

    /// A client's hello, within its time, whichever form it has.
    pub async fn client_hello(&mut self) -> Result<Offer, NativeError> {
        let frame = tokio::time::timeout(HELLO_TIMEOUT, self.frames.next()).await;
        let frame = frame.map_err(|_elapsed| NativeError::Slow)?.ok_or(NativeError::Closed)?;
        let frame = frame.map_err(WireError::from)?;
        let body = wire::unseal(&frame)?;
        let offer = match codec::decode::<Hello>(body) {
            Ok(hello) => Offer { oldest: hello.protocol, hello },
            Err(_) => codec::decode(body)?,
        };
        Ok(offer)
    }

    /// The next frame's value. Dropping the future loses nothing.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, NativeError> {
        Ok(wire::read(&mut self.frames).await?)
    }

    /// The next frame's value, if all of it has been received.
    pub fn ready<T: DeserializeOwned>(&mut self) -> Option<Result<T, NativeError>> {
        let frame = self.frames.next().now_or_never()?;
        Some(frame.map_or(Err(NativeError::Closed), |frame| {
            let frame = frame.map_err(WireError::from)?;
            Ok(codec::decode(wire::unseal(&frame)?)?)
        }))
    }
}

/// Socket options of a client connection, as between super-nodes: small frames leave at once, and who vanished is noticed.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    wire::tune(stream)
}

/// Appends the frame of a value.
pub fn seal<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    wire::seal_value(value, out);
}

/// Sends the first bytes of a connection: the preface, if this is the client, and the hello.
pub async fn greet<T: Serialize, W: AsyncWrite + Unpin>(
    writer: &mut W,
    preface: &[u8],
    hello: &T,
) -> Result<(), NativeError> {
    let mut out = preface.to_vec();
    seal(hello, &mut out);
    let send = async {
        writer.write_all(&out).await?;
        writer.flush().await
    };
    let sent = tokio::time::timeout(HELLO_TIMEOUT, send).await;
    sent.map_err(|_elapsed| NativeError::Slow)?.map_err(NativeError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_that_have_arrived_are_read_without_waiting() {
        let (mut near, far) = tokio::io::duplex(1 << 10);
        let mut out = Vec::new();
        seal(&1_u64, &mut out);
        seal(&2_u64, &mut out);
        seal(&3_u64, &mut out);
        near.write_all(&out[..out.len() - 1]).await.expect("room");
        let mut reader = Reader::new(far);
        assert_eq!(reader.next::<u64>().await.expect("a number"), 1);
        assert_eq!(reader.ready::<u64>().expect("it is there").expect("a number"), 2);
        assert!(reader.ready::<u64>().is_none(), "a byte is missing");
        near.write_all(&out[out.len() - 1..]).await.expect("room");
        assert_eq!(reader.next::<u64>().await.expect("a number"), 3);
        drop(near);
        assert!(matches!(reader.ready::<u64>(), Some(Err(NativeError::Closed))));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_told_from_an_end() {
        for (bytes, why) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "a length beyond the bound"),
            (&[0, 0, 0, 5, 1, 2, 3, 4, 9][..], "a wrong checksum"),
            (&[0, 0, 0, 2, 1, 2][..], "no room for a checksum"),
        ] {
            let mut reader = Reader::new(bytes);
            let end = reader.hello::<Hello>().await;
            assert!(matches!(end, Err(NativeError::Malformed(_))), "{why}: {end:?}");
        }
        assert!(matches!(Reader::new(&[][..]).hello::<Hello>().await, Err(NativeError::Closed)));
    }
}
