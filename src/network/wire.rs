//! Bytes on a peer connection: length, checksum, body; and the greeting.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::codec::{self, CodecError};
use crate::node::frame::{FRAME_BYTES_MAX, Hello};
use crate::types::{Index, NodeId, Version};

/// Largest first frame. Nobody is known before it, so nobody may make us set more memory aside.
pub(super) const GREETING_BYTES_MAX: usize = 4 << 10;
/// How long the other side may take for its greeting.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of the checksum before a body.
const CRC_BYTES: usize = 4;
/// Data that is not acknowledged for so long ends an outgoing connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// Bytes that the kernel may hold unsent, so that urgent frames do not wait there behind bulk.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// A connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The other side closed it between two frames.
    #[error("closed by the other side")]
    Closed,
    /// No greeting in time.
    #[error("no greeting within {GREETING_TIMEOUT:?}")]
    Slow,
    /// The system's word; also a length beyond the bound, and an end within a frame.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The checksum does not fit the body.
    #[error("wrong checksum")]
    Checksum,
    /// Shorter than a checksum.
    #[error("frame of {0} bytes")]
    Short(usize),
    /// The body is not what belongs here.
    #[error("{0}")]
    Body(#[from] CodecError),
}

impl WireError {
    /// Whether the other side sent something that no super-node sends.
    pub(super) fn is_malformed(&self) -> bool {
        match self {
            WireError::Closed | WireError::Slow => false,
            WireError::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            WireError::Checksum | WireError::Short(_) | WireError::Body(_) => true,
        }
    }
}

/// The hello of peer protocol 1, which knew no addresses. Read only to be refused in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FormerHello {
    /// 1.
    pub(super) protocol: u16,
    cluster: String,
    /// The speaker.
    pub(super) from: NodeId,
    to: NodeId,
    version: Version,
    url: String,
    incarnation: String,
}

/// The first frame in each direction. Must stay readable by every later version: variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// Of an older version.
    Former(FormerHello),
    /// The acceptor will not speak with this dialler.
    Refused {
        /// What is wrong and what to do about it, in words.
        reason: String,
    },
    /// Who speaks to whom, in which version of the protocol. As an answer to an offer: in the newest that both know.
    Hello(Hello),
    /// Since protocol 3, from a dialler: it speaks all versions from `oldest` to that of the hello. An acceptor that does
    /// not know ranges cannot read it and closes the connection; then the dialler comes with a hello of the oldest.
    Offer {
        /// The oldest version that the dialler speaks.
        oldest: u16,
        /// Who speaks to whom; its version is the newest.
        hello: Hello,
    },
    /// Before the greeting of a dialler that was refused lately: which data directories the log binds nodes to. The
    /// acceptor may have been away while the dialler's node was removed and joined again with a new directory; and if that
    /// is so with all of its peers, there is nobody else to tell it.
    Bound {
        /// As of which position of the log.
        as_of: Index,
        /// By node.
        incarnations: BTreeMap<NodeId, String>,
    },
}

/// A reader of frames of up to `body_max` bytes.
pub(super) fn reader<R: AsyncRead>(stream: R, body_max: usize) -> FramedRead<R, LengthDelimitedCodec> {
    let codec = LengthDelimitedCodec::builder()
        .length_field_type::<u32>()
        .max_frame_length(body_max + CRC_BYTES)
        .new_codec();
    FramedRead::new(stream, codec)
}

/// Lets a reader that has seen a good greeting read frames of any allowed size.
pub(super) fn lift_limit<R>(reader: &mut FramedRead<R, LengthDelimitedCodec>) {
    set_limit(reader, FRAME_BYTES_MAX);
}

/// Lets a reader read bodies of up to `body_max` bytes from now on.
pub(super) fn set_limit<R>(reader: &mut FramedRead<R, LengthDelimitedCodec>, body_max: usize) {
    reader.decoder_mut().set_max_frame_length(body_max + CRC_BYTES);
}

/// Appends the frame of a body.
pub(super) fn seal(body: &[u8], out: &mut BytesMut) {
    let length = u32::try_from(body.len() + CRC_BYTES).expect("frames are bounded by FRAME_BYTES_MAX");
    out.reserve(body.len() + 2 * CRC_BYTES);
    out.put_u32(length);
    out.put_u32(crc32fast::hash(body));
    out.put_slice(body);
}

/// Appends the frame of a value, without a copy of its body in between.
pub(super) fn seal_value<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 2 * CRC_BYTES, 0);
    codec::encode_onto(value, out);
    let body = start + 2 * CRC_BYTES;
    let length = u32::try_from(out.len() - body + CRC_BYTES).expect("frames are bounded by FRAME_BYTES_MAX");
    let checksum = crc32fast::hash(&out[body..]);
    out[start..start + CRC_BYTES].copy_from_slice(&length.to_be_bytes());
    out[start + CRC_BYTES..body].copy_from_slice(&checksum.to_be_bytes());
}

/// The body of a frame whose length has been taken off.
pub(super) fn unseal(frame: &[u8]) -> Result<&[u8], WireError> {
    let (checksum, body) = frame.split_first_chunk().ok_or(WireError::Short(frame.len()))?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(WireError::Checksum);
    }
    Ok(body)
}

/// The next frame's value.
pub(super) async fn read<T, R>(reader: &mut FramedRead<R, LengthDelimitedCodec>) -> Result<T, WireError>
where
    T: serde::de::DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let frame = reader.next().await.ok_or(WireError::Closed)??;
    Ok(codec::decode(unseal(&frame)?)?)
}

/// The other side's greeting, within its time.
pub(super) async fn read_greeting<R: AsyncRead + Unpin>(
    reader: &mut FramedRead<R, LengthDelimitedCodec>,
) -> Result<Greeting, WireError> {
    tokio::time::timeout(GREETING_TIMEOUT, read(reader)).await.unwrap_or(Err(WireError::Slow))
}

/// Sends a greeting.
pub(super) async fn write_greeting<W: AsyncWrite + Unpin>(
    writer: &mut W,
    greeting: &Greeting,
) -> Result<(), WireError> {
    let mut out = BytesMut::new();
    seal(&codec::encode(greeting), &mut out);
    let write = async {
        writer.write_all(&out).await?;
        writer.flush().await
    };
    Ok(tokio::time::timeout(GREETING_TIMEOUT, write).await.map_err(|_elapsed| WireError::Slow)??)
}

/// Socket options of every peer connection; see the module's essay on half-open connections. A system that lacks one
/// of them works, only slower to notice.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keep_alive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    socket.set_tcp_keepalive(&keep_alive)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire_and_damage_is_noticed() {
        let mut out = BytesMut::new();
        seal(&codec::encode(&7_u64), &mut out);
        let mut value = Vec::new();
        seal_value(&8_u64, &mut value);
        out.extend_from_slice(&value);
        let mut good = reader(&out[..], 16);
        assert_eq!(read::<u64, _>(&mut good).await.ok(), Some(7));
        assert_eq!(read::<u64, _>(&mut good).await.ok(), Some(8));
        assert!(matches!(read::<u64, _>(&mut good).await, Err(WireError::Closed)));
        // One flipped bit, anywhere, is never taken for a frame.
        let whole = out.len() / 2;
        for bit in 0..whole * 8 {
            let mut bytes = out[..whole].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read::<u64, _>(&mut reader(&bytes[..], 16)).await.is_err(), "bit {bit}");
        }
        for cut in 1..whole {
            assert!(read::<u64, _>(&mut reader(&out[..cut], 16)).await.is_err(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_bound_is_refused_before_memory_is_set_aside() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let error = read::<u64, _>(&mut reader(&bytes[..], GREETING_BYTES_MAX)).await.unwrap_err();
        assert!(error.is_malformed(), "{error}");
        let error = read::<u64, _>(&mut reader(&[0, 0, 0, 2, 1, 1][..], 16)).await.unwrap_err();
        assert!(matches!(error, WireError::Short(2)), "{error}");
    }
}
