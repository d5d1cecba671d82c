//! The two datagrams of the agent protocol; `docs/agent-protocol.md` is their description for other languages.
//!
//! All integers are big-endian. Each datagram ends with the first [`MAC_BYTES`] bytes of HMAC-SHA-256, under the agent's
//! key, over everything before them (RFC 2104; RFC 4868 for cutting it to half). A ping is padded to [`PING_BYTES`], more than
//! any pong has, so that an agent cannot be used to flood somebody whose address was forged.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::types::{AgentKey, IntervalId, MemberId, NAME_BYTES_MAX, Version};

/// The first four bytes of every datagram.
const MAGIC: [u8; 4] = *b"SNOD";
/// Version of the agent protocol. In version 1 nobody had a key.
pub const PROTOCOL: u8 = 2;
const KIND_PING: u8 = 1;
const KIND_PONG: u8 = 2;
/// Size of every ping.
pub const PING_BYTES: usize = 192;
/// Size of what authenticates a datagram.
pub const MAC_BYTES: usize = 16;
/// Longest cluster name that fits into a ping, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;
/// Size of the longest pong.
pub const PONG_BYTES_MAX: usize = 37 + NAME_BYTES_MAX + MAC_BYTES;
const _: () = assert!(PONG_BYTES_MAX < PING_BYTES, "a pong is never longer than the ping that asked for it");
const _: () = assert!(38 + 1 + CLUSTER_BYTES_MAX + 1 + NAME_BYTES_MAX + MAC_BYTES <= PING_BYTES);

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
    /// The agent that is asked.
    pub member: &'a str,
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
}

impl Ping<'_> {
    /// The datagram. Names that are too long are our own mistake, refused at start.
    pub fn encode(&self, key: &AgentKey) -> [u8; PING_BYTES] {
        assert!(self.cluster.len() <= CLUSTER_BYTES_MAX, "refused at start");
        let mut bytes = Vec::with_capacity(PING_BYTES);
        header(&mut bytes, KIND_PING, self.seq, &self.nonce);
        bytes.extend_from_slice(&self.interval.0.to_be_bytes());
        text(&mut bytes, self.cluster);
        text(&mut bytes, self.member);
        bytes.resize(PING_BYTES - MAC_BYTES, 0);
        seal(&mut bytes, key);
        bytes.try_into().expect("resized to this length")
    }

    /// `None` for anything that is not a ping of this version. Says nothing about who made it: see [`is_authentic`].
    pub fn decode(bytes: &[u8]) -> Option<Ping<'_>> {
        if bytes.len() != PING_BYTES {
            return None;
        }
        let mut cursor = Cursor(&bytes[..PING_BYTES - MAC_BYTES]);
        let (seq, nonce) = cursor.header(KIND_PING)?;
        let interval = IntervalId(u64::from_be_bytes(cursor.array()?));
        Some(Ping { seq, nonce, interval, cluster: cursor.text()?, member: cursor.text()? })
    }
}

impl Pong {
    /// The datagram.
    pub fn encode(&self, key: &AgentKey) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PONG_BYTES_MAX);
        header(&mut bytes, KIND_PONG, self.seq, &self.nonce);
        for part in [self.version.major, self.version.minor, self.version.patch] {
            bytes.extend_from_slice(&part.to_be_bytes());
        }
        text(&mut bytes, self.member.as_str());
        seal(&mut bytes, key);
        bytes
    }

    /// `None` for anything that is not exactly a pong of this version. Says nothing about who made it: see
    /// [`is_authentic`].
    pub fn decode(bytes: &[u8]) -> Option<Pong> {
        let mut cursor = Cursor(&bytes[..bytes.len().checked_sub(MAC_BYTES)?]);
        let (seq, nonce) = cursor.header(KIND_PONG)?;
        let mut part = || cursor.array().map(u16::from_be_bytes);
        let version = Version { major: part()?, minor: part()?, patch: part()? };
        let member = cursor.text()?.parse().ok()?;
        cursor.0.is_empty().then_some(Pong { seq, nonce, version, member })
    }
}

/// Whether somebody who has the key made this datagram. Takes the same time wherever the difference lies.
pub fn is_authentic(bytes: &[u8], key: &AgentKey) -> bool {
    let Some((said, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else { return false };
    keyed(key).chain_update(said).verify_truncated_left(mac).is_ok()
}

fn keyed(key: &AgentKey) -> Hmac<Sha256> {
    Hmac::new_from_slice(&key.0).expect("HMAC takes keys of any length")
}

fn seal(bytes: &mut Vec<u8>, key: &AgentKey) {
    let mac = keyed(key).chain_update(&*bytes).finalize().into_bytes();
    bytes.extend_from_slice(&mac[..MAC_BYTES]);
}

fn header(bytes: &mut Vec<u8>, kind: u8, seq: u64, nonce: &Nonce) {
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[PROTOCOL, kind]);
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(nonce);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).expect("names have at most 64 bytes"));
    bytes.extend_from_slice(text.as_bytes());
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

    const KEY: AgentKey = AgentKey([0x11; 32]);
    const OTHER: AgentKey = AgentKey([0x12; 32]);

    fn ping() -> Ping<'static> {
        Ping { seq: 258, nonce: [7; 16], interval: IntervalId(5), cluster: "c1", member: "w1" }
    }

    fn pong() -> Pong {
        let version = Version { major: 1, minor: 2, patch: 3 };
        Pong { seq: 258, nonce: [7; 16], version, member: "w1".parse().unwrap() }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The two examples of `docs/agent-protocol.md`; their last 16 bytes were computed with Python's `hmac`.
    #[test]
    fn datagrams_are_these_bytes() {
        let bytes = ping().encode(&KEY);
        let head = format!("534e4f4402010000000000000102{}0000000000000005026331027731", "07".repeat(16));
        assert_eq!(hex(&bytes[..44]), head);
        assert!(bytes[44..PING_BYTES - MAC_BYTES].iter().all(|&byte| byte == 0));
        assert_eq!(hex(&bytes[PING_BYTES - MAC_BYTES..]), "30535cf9d3ff02d1a7aa103a03a9504d");
        let bytes = pong().encode(&KEY);
        let head = format!("534e4f4402020000000000000102{}000100020003027731", "07".repeat(16));
        assert_eq!(hex(&bytes), format!("{head}44817c18304a8caa99da6d8547ef6c7e"));
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(64);
        let ping = Ping { seq: u64::MAX, cluster: &long, member: &long, ..ping() };
        assert_eq!(Ping::decode(&ping.encode(&KEY)), Some(ping));
        let pong = Pong { member: long.parse().unwrap(), ..pong() };
        assert_eq!(pong.encode(&KEY).len(), PONG_BYTES_MAX);
        assert_eq!(Pong::decode(&pong.encode(&KEY)), Some(pong));
    }

    #[test]
    fn only_who_has_the_key_makes_an_authentic_datagram_and_every_byte_counts() {
        for whole in [ping().encode(&KEY).to_vec(), pong().encode(&KEY)] {
            assert!(is_authentic(&whole, &KEY));
            assert!(!is_authentic(&whole, &OTHER));
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                assert!(!is_authentic(&changed, &KEY), "byte {at}");
                assert!(!is_authentic(&whole[..at], &KEY), "cut at {at}");
            }
        }
    }

    #[test]
    fn whatever_is_cut_changed_or_longer_is_not_taken_for_a_datagram() {
        let whole = pong().encode(&KEY);
        for end in 0..whole.len() {
            assert_eq!(Pong::decode(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..6 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(Pong::decode(&changed), None, "byte {at}");
        }
        assert_eq!(Pong::decode(&[&whole[..], b"!"].concat()), None);
        let mut no_name = whole;
        no_name[37] = b' ';
        assert_eq!(Pong::decode(&no_name), None, "a name has no blanks");
        let bytes = ping().encode(&KEY);
        assert_eq!(Ping::decode(&bytes[..PING_BYTES - 1]), None);
        assert_eq!(Ping::decode(&[&bytes[..], b"!"].concat()), None);
        let mut long = bytes;
        long[38] = 255;
        assert_eq!(Ping::decode(&long), None, "a cluster name that leaves the datagram");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..220)) {
            let with_header = [b"SNOD\x02\x02", &bytes[..]].concat();
            for input in [&bytes, &with_header] {
                let _either_way_is_fine = (Pong::decode(input), Ping::decode(input), is_authentic(input, &KEY));
            }
            let mut padded = with_header;
            padded[5] = KIND_PING;
            padded.resize(PING_BYTES, 0);
            let _either_way_is_fine = Ping::decode(&padded);
        }
    }
}
