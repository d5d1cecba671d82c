//! Bytes: the canonical form that hashes are computed over, and the compact form for the wire and the disk.
//!
//! * [`Canonical`] writes fields in a fixed order, each with a fixed or length-prefixed width, so that two
//!   different values never give the same bytes and any language can recompute them. Documented in
//!   `docs/architecture.md`.
//! * [`encode`] and [`decode`] are postcard with a leading format byte. Variants and fields may only be
//!   appended; a newer format byte is refused with a clear word.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The format byte that [`encode`] writes first.
pub const FORMAT: u8 = 1;

/// Bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Nothing at all.
    #[error("empty input where format {FORMAT} was expected")]
    Empty,
    /// Written by a version that this one does not know.
    #[error("format {found} is unknown (this version reads up to {FORMAT}): upgrade super-node")]
    UnknownFormat {
        /// The format byte that was found.
        found: u8,
    },
    /// Cut off, or not what it claims to be.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
}

/// Memory that is kept for the next [`encode`] of a thread, in bytes; more is given back.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

thread_local! {
    /// Where values take shape, so that what is kept of them is allocated once, in its final size.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Compact bytes of a value, with the format byte first.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    encode_onto(value, &mut scratch);
    let bytes = scratch.as_slice().to_vec();
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    bytes
}

/// Appends what [`encode`] gives.
pub fn encode_onto<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    out.push(FORMAT);
    append(value, out);
}

/// Appends the compact bytes of a value without a format byte, for formats that have one of their own.
pub fn append<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    postcard::serialize_with_flavor(value, Onto(out)).expect("our own types always serialise");
}

/// Where postcard writes to: texts and byte strings go there in one piece.
struct Onto<'v>(&'v mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Onto<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads what [`encode`] wrote. Trailing bytes are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_borrowed(bytes)
}

/// As [`decode`], for values that borrow their texts from the bytes: reading many rows costs no allocation each.
pub fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let what = std::any::type_name::<T>();
    let (&format, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat { found: format });
    }
    let malformed = |why: String| CodecError::Malformed { what, why };
    let (value, rest) = postcard::take_from_bytes(body).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes too many", rest.len())));
    }
    Ok(value)
}

/// Reads the first field of what [`encode`] wrote and leaves the rest unread: a large value can be asked one thing
/// cheaply.
pub fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let what = std::any::type_name::<T>();
    let (&format, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat { found: format });
    }
    let first = postcard::take_from_bytes(body);
    first.map(|(value, _)| value).map_err(|error| CodecError::Malformed { what, why: error.to_string() })
}

/// A SHA-256 digest. Text formats carry 64 hexadecimal digits, binary formats the 32 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.to_hex())
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Hash::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Hash)
        }
    }
}

impl Hash {
    /// The hash before the first record of a chain: 32 zero bytes.
    pub const ZERO: Hash = Hash([0; 32]);

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`Hash::to_hex`] wrote; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Hash> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Hash(bytes))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Builds canonical bytes. Integers are big-endian with their full width; text and bytes are preceded by their
/// length as `u32`; an option is a byte 0, or 1 and the value; a list is its length as `u32` and its items.
#[derive(Debug, Default)]
pub struct Canonical(Vec<u8>);

impl Canonical {
    /// Starts with a domain text, so that records of different kinds never share bytes.
    pub fn new(domain: &str) -> Self {
        let mut canonical = Canonical(Vec::with_capacity(256));
        canonical.text(domain);
        canonical
    }

    /// An unsigned integer: 8 bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A signed integer: 8 bytes, two's complement.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A truth: one byte, 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.0.push(u8::from(value));
        self
    }

    /// Text: its length in bytes as `u32`, then UTF-8.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// Bytes: their number as `u32`, then themselves.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.length(value.len());
        self.0.extend_from_slice(value);
        self
    }

    /// An optional unsigned integer.
    pub fn option_u64(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            None => self.bool(false),
            Some(value) => self.bool(true).u64(value),
        }
    }

    /// The length of a list whose items follow.
    pub fn length(&mut self, items: usize) -> &mut Self {
        let items = u32::try_from(items).expect("lists and texts in records are bounded far below 4 GiB");
        self.0.extend_from_slice(&items.to_be_bytes());
        self
    }

    /// A digest: its 32 bytes.
    pub fn hash(&mut self, value: Hash) -> &mut Self {
        self.0.extend_from_slice(&value.0);
        self
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 over the bytes.
    pub fn digest(&self) -> Hash {
        Hash(Sha256::digest(&self.0).into())
    }
}

/// Whether bytes are one JSON value that a reader of values can read: numbers in range, not nested too deep. Keeps
/// nothing of it.
pub fn check_json(bytes: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<Readable>(bytes).map(|Readable| ())
}

/// A JSON value that is read to its end and not kept.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Readable, D::Error> {
        deserializer.deserialize_any(Readable)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Readable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Readable, A::Error> {
        while items.next_element::<Readable>()?.is_some() {}
        Ok(Readable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Readable, A::Error> {
        while fields.next_entry::<Readable, Readable>()?.is_some() {}
        Ok(Readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let bytes = encode(&(7_u64, "seven".to_string()));
        assert_eq!(decode::<(u64, String)>(&bytes), Ok((7, "seven".to_string())));
        assert_eq!(decode::<u64>(&[]), Err(CodecError::Empty));
        assert_eq!(decode::<u64>(&[9, 1]), Err(CodecError::UnknownFormat { found: 9 }));
        let mut long = bytes.clone();
        long.push(0);
        assert!(matches!(decode::<(u64, String)>(&long), Err(CodecError::Malformed { .. })));
        assert!(matches!(decode::<(u64, String)>(&bytes[..3]), Err(CodecError::Malformed { .. })));
    }

    #[test]
    fn canonical_fields_do_not_run_together() {
        let mut left = Canonical::new("d");
        left.text("ab").text("c");
        let mut right = Canonical::new("d");
        right.text("a").text("bc");
        assert_ne!(left.digest(), right.digest());
    }

    #[test]
    fn hashes_print_and_parse() {
        let hash = Canonical::new("x").digest();
        assert_eq!(Hash::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(Hash::from_hex("zz"), None);
    }
}
