//! The two datagrams of the agent protocol; `docs/agent-protocol.md` is their description for other languages.
//!
//! All integers are big-endian. A ping is padded to [`PING_BYTES`], more than any pong has, so that an agent cannot be
//! used to flood somebody whose address was forged.

use crate::types::{IntervalId, MemberId, NAME_BYTES_MAX, Version};

/// The first four bytes of every datagram.
const MAGIC: [u8; 4] = *b"SNOD";
/// Version of the agent protocol.
const PROTOCOL: u8 = 1;
const KIND_PING: u8 = 1;
const KIND_PONG: u8 = 2;
/// Size of every ping.
pub const PING_BYTES: usize = 128;
/// Longest cluster name that fits into a ping, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;
/// Size of the longest pong.
pub const PONG_BYTES_MAX: usize = 37 + NAME_BYTES_MAX;
const _: () = assert!(PONG_BYTES_MAX < PING_BYTES, "a pong is never longer than the ping that asked for it");

/// Ties a pong to its ping; nobody but its receiver can know it.
pub type Nonce = [u8; 16];

/// "Do you answer?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping<'a> {
    /// The pinger's number.
    pub seq: u64,
    /// To be echoed.
    pub nonce: Nonce,
    /// The interval that is open; 0 if the pinger does not know.
    pub interval: IntervalId,
    /// The pinger's cluster.
    pub cluster: &'a str,
}

/// "I do."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// The ping's number.
    pub seq: u64,
    /// The ping's nonce.
    pub nonce: Nonce,
    /// The agent's software version.
    pub version: Version,
    /// The agent's name.
    pub member: MemberId,
    /// Whether the datagram was exactly a pong; `false` when more followed. Always `true` in one to be sent.
    pub exact: bool,
}

impl Ping<'_> {
    /// The datagram. A cluster name beyond [`CLUSTER_BYTES_MAX`] is our own mistake, refused at start.
    pub fn encode(&self) -> [u8; PING_BYTES] {
        assert!(self.cluster.len() <= CLUSTER_BYTES_MAX, "refused at start");
        let mut bytes = Vec::with_capacity(PING_BYTES);
        header(&mut bytes, KIND_PING, self.seq, &self.nonce);
        bytes.extend_from_slice(&self.interval.0.to_be_bytes());
        bytes.push(self.cluster.len() as u8);
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.resize(PING_BYTES, 0);
        bytes.try_into().expect("resized to this length")
    }

    /// `None` for anything that is not a ping of this version.
    pub fn decode(bytes: &[u8]) -> Option<Ping<'_>> {
        if bytes.len() != PING_BYTES {
            return None;
        }
        let mut cursor = Cursor(bytes);
        let (seq, nonce) = cursor.header(KIND_PING)?;
        let interval = IntervalId(u64::from_be_bytes(cursor.array()?));
        Some(Ping { seq, nonce, interval, cluster: cursor.text()? })
    }
}

impl Pong {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PONG_BYTES_MAX);
        header(&mut bytes, KIND_PONG, self.seq, &self.nonce);
        for part in [self.version.major, self.version.minor, self.version.patch] {
            bytes.extend_from_slice(&part.to_be_bytes());
        }
        let name = self.member.as_str().as_bytes();
        bytes.push(u8::try_from(name.len()).expect("names have at most 64 bytes"));
        bytes.extend_from_slice(name);
        bytes
    }

    /// `None` for anything that does not begin with a pong of this version.
    pub fn decode(bytes: &[u8]) -> Option<Pong> {
        let mut cursor = Cursor(bytes);
        let (seq, nonce) = cursor.header(KIND_PONG)?;
        let mut part = || cursor.array().map(u16::from_be_bytes);
        let version = Version { major: part()?, minor: part()?, patch: part()? };
        let member = cursor.text()?.parse().ok()?;
        Some(Pong { seq, nonce, version, member, exact: cursor.0.is_empty() })
    }
}

fn header(bytes: &mut Vec<u8>, kind: u8, seq: u64, nonce: &Nonce) {
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[PROTOCOL, kind]);
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(nonce);
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn header(&mut self, kind: u8) -> Option<(u64, Nonce)> {
        let magic: [u8; 4] = self.array()?;
        let [protocol, found] = self.array()?;
        if magic != MAGIC || protocol != PROTOCOL || found != kind {
            return None;
        }
        Some((u64::from_be_bytes(self.array()?), self.array()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let [length] = self.array()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong() -> Pong {
        Pong {
            seq: 258,
            nonce: [7; 16],
            version: Version { major: 1, minor: 2, patch: 3 },
            member: "w1".parse().unwrap(),
            exact: true,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_description() {
        let ping = Ping { seq: 258, nonce: [7; 16], interval: IntervalId(5), cluster: "c1" };
        let bytes = ping.encode();
        assert_eq!(bytes[..14], *b"SNOD\x01\x01\0\0\0\0\0\0\x01\x02");
        assert_eq!(bytes[14..30], [7; 16]);
        assert_eq!(bytes[30..41], *b"\0\0\0\0\0\0\0\x05\x02c1");
        assert!(bytes[41..].iter().all(|&byte| byte == 0));
        assert_eq!(Ping::decode(&bytes), Some(ping));
        let bytes = pong().encode();
        assert_eq!(bytes[..14], *b"SNOD\x01\x02\0\0\0\0\0\0\x01\x02");
        assert_eq!(bytes[30..], *b"\0\x01\0\x02\0\x03\x02w1");
        assert_eq!(Pong::decode(&bytes), Some(pong()));
    }

    #[test]
    fn the_longest_names_fit() {
        let long = "x".repeat(64);
        let ping = Ping { seq: u64::MAX, nonce: [0; 16], interval: IntervalId(0), cluster: &long };
        assert_eq!(Ping::decode(&ping.encode()), Some(ping));
        let pong = Pong { member: long.parse().unwrap(), ..pong() };
        assert_eq!(pong.encode().len(), PONG_BYTES_MAX);
        assert_eq!(Pong::decode(&pong.encode()), Some(pong));
    }

    #[test]
    fn whatever_is_cut_changed_or_longer_is_not_taken_for_a_datagram() {
        let whole = pong().encode();
        for end in 0..whole.len() {
            assert_eq!(Pong::decode(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..6 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(Pong::decode(&changed), None, "byte {at}");
        }
        let longer = [&whole[..], b"!"].concat();
        assert_eq!(Pong::decode(&longer), Some(Pong { exact: false, ..pong() }));
        let mut no_name = whole;
        no_name[37] = b' ';
        assert_eq!(Pong::decode(&no_name), None, "a name has no blanks");
        let ping = Ping { seq: 1, nonce: [0; 16], interval: IntervalId(1), cluster: "c" }.encode();
        assert_eq!(Ping::decode(&ping[..PING_BYTES - 1]), None);
        assert_eq!(Ping::decode(&[&ping[..], b"!"].concat()), None);
        let mut long = ping;
        long[38] = 255;
        assert_eq!(Ping::decode(&long), None, "a cluster name that leaves the datagram");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let with_header = [b"SNOD\x01\x02", &bytes[..]].concat();
            for input in [&bytes, &with_header] {
                let _either_way_is_fine = (Pong::decode(input), Ping::decode(input));
            }
            let mut padded = with_header;
            padded[5] = KIND_PING;
            padded.resize(PING_BYTES, 0);
            let _either_way_is_fine = Ping::decode(&padded);
        }
    }
}
