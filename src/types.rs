//! Newtypes that every layer shares: names, times, log coordinates and money.
//!
//! Each type says its unit. Nothing here reads a clock or draws a random number.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a super-node or member, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A name was refused; the message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a valid name: use 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -, other than . and ..")]
pub struct NameError {
    /// The text that was refused, cut to 80 characters.
    pub name: String,
}

fn check_name(text: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(NameError { name: text.chars().take(80).collect() });
    }
    Ok(())
}

/// Reads a text as a type that parses it, without a copy in between.
struct Parse<T>(PhantomData<T>);

impl<T: FromStr<Err = NameError>> Visitor<'_> for Parse<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parse(PhantomData))
            }
        }

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A name that somebody is to have from now on. Names stand in URLs and paths, where `.` and `..` mean something
            /// else: so nobody gets these, although a log may hold them from before they were refused.
            ///
            /// # Errors
            /// It is one of the two, or no name at all.
            pub fn given(text: &str) -> Result<Self, NameError> {
                match text {
                    "." | ".." => Err(NameError { name: text.to_string() }),
                    _ => text.parse(),
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok($name(Arc::from(text)))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A super-node: a process that takes part in consensus. 1 to 64 bytes of `a-z A-Z 0-9 . _ -`.
    NodeId
);
name_type!(
    /// A member of the fleet: a super-node or an agent. Same alphabet as [`NodeId`].
    MemberId
);

/// A secret that the super-nodes share with one agent: it authenticates their datagrams. Never shown, not even for debugging.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentKey(pub [u8; 32]);

impl AgentKey {
    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<AgentKey> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(AgentKey(bytes))
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentKey(…)")
    }
}

impl From<&NodeId> for MemberId {
    fn from(node: &NodeId) -> Self {
        MemberId(node.0.clone())
    }
}

macro_rules! counter_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next value. Panics on overflow, which 2^64 steps do not reach.
            pub fn next(self) -> Self {
                $name(self.0.checked_add(1).expect("a 64-bit counter does not overflow"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter_type!(
    /// Raft term (Raft paper, section 5.1). 0: before any election.
    Term
);
counter_type!(
    /// Position in the Raft log. The first entry is 1; 0 means "before the log".
    Index
);
counter_type!(
    /// Number of an interval. Contiguous from 1.
    IntervalId
);
counter_type!(
    /// A client session, named by the log position of the command that opened it.
    SessionId
);

/// Monotonic time in microseconds since an origin that the shell chose (process start, or the start of a
/// simulated history). Only differences mean anything; never compared between machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// `self + span`, saturating.
    pub fn after(self, span: Duration) -> Micros {
        Micros(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Micros) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z, as stamped by the leader that proposed a command.
///
/// Text formats (JSON) carry RFC 3339 in UTC with milliseconds; binary formats carry the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

/// The largest time that text can carry: 9999-12-31T23:59:59.999Z.
const UNIX_MILLIS_MAX: i64 = 253_402_300_799_999;

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.clamp(0, UNIX_MILLIS_MAX).unsigned_abs();
        let time = std::time::UNIX_EPOCH + Duration::from_millis(millis);
        f.pad(&humantime::format_rfc3339_millis(time).to_string())
    }
}

impl FromStr for UnixMillis {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_rfc3339_weak(text)
            .map_err(|error| format!("'{text}' is not a time like 2026-01-31T12:00:00Z: {error}"))?;
        let since =
            time.duration_since(std::time::UNIX_EPOCH).map_err(|_| format!("'{text}' is before 1970"))?;
        i64::try_from(since.as_millis()).map(UnixMillis).map_err(|_| format!("'{text}' is too late"))
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(UnixMillis)
        }
    }
}

/// Money in micro-points: 1 point is 1 000 000.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub i64);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// Micro-points in one point.
    pub const POINT: i64 = 1_000_000;

    /// Reads points with up to six decimals, as they are printed: `9.5`, `-5`, `0.000001`.
    ///
    /// # Errors
    /// Anything else, and what does not fit.
    pub fn from_points(text: &str) -> Result<Amount, String> {
        let bad =
            || format!("'{text}' is no amount: points with up to six decimals, such as 9.5 or -0.000001");
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric(whole) || !numeric(part) || part.len() > 6 {
            return Err(bad());
        }
        let whole: i128 = whole.parse().map_err(|_| bad())?;
        let part: i128 = format!("{part:0<6}").parse().map_err(|_| bad())?;
        let micro = whole.checked_mul(i128::from(Amount::POINT)).and_then(|whole| whole.checked_add(part));
        let micro = micro.map(|micro| if negative { -micro } else { micro });
        micro.and_then(|micro| i64::try_from(micro).ok()).map(Amount).ok_or_else(bad)
    }

    /// `self + other`, or `None` on overflow.
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}u", self.0)
    }
}

/// Points with up to six decimals, trailing zeros removed: `9.5`, `-5`, `0.000001`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let (whole, part) = (magnitude / 1_000_000, magnitude % 1_000_000);
        let sign = if self.0 < 0 { "-" } else { "" };
        let mut text = format!("{sign}{whole}");
        if part != 0 {
            text.push_str(format!(".{part:06}").trim_end_matches('0'));
        }
        f.pad(&text)
    }
}

/// Software version of a member, compared for admission and pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Incompatible generations.
    pub major: u16,
    /// Compatible additions.
    pub minor: u16,
    /// Repairs.
    pub patch: u16,
}

impl Version {
    /// The version of this build, from the package manifest.
    pub fn current() -> Version {
        env!("CARGO_PKG_VERSION").parse().expect("the package version is numeric")
    }
}

impl FromStr for Version {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a version: expected MAJOR.MINOR.PATCH");
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let parts: Vec<u16> =
            core.split('.').map(|part| part.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        let [major, minor, patch] = parts[..] else { return Err(bad()) };
        Ok(Version { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_as_points() {
        for (micro, text) in [
            (0, "0"),
            (1, "0.000001"),
            (-5_000_000, "-5"),
            (9_500_000, "9.5"),
            (i64::MIN, "-9223372036854.775808"),
        ] {
            assert_eq!(Amount(micro).to_string(), text);
        }
    }

    #[test]
    fn points_are_read_as_they_are_printed() {
        for micro in [0, 1, -1, 9_500_000, -5_000_000, i64::MAX, i64::MIN] {
            assert_eq!(Amount::from_points(&Amount(micro).to_string()), Ok(Amount(micro)));
        }
        for bad in
            ["", "-", ".5", "5.", "1e3", "+1", "0.0000001", "1 000", "9223372036854.775808", &"9".repeat(60)]
        {
            assert!(Amount::from_points(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_never_shown() {
        let key = AgentKey(std::array::from_fn(|at| (at * 7) as u8));
        assert_eq!(AgentKey::from_hex(&key.to_hex()), Some(key));
        assert_eq!(AgentKey::from_hex(&key.to_hex().to_uppercase()), Some(key));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(AgentKey::from_hex(bad), None, "{bad}");
        }
        assert_eq!(format!("{key:?}"), "AgentKey(…)");
    }

    #[test]
    fn names_are_bounded() {
        assert!(["n1", "...", "a.b", ".n"].iter().all(|good| NodeId::given(good).is_ok()));
        for place in [".", ".."] {
            assert!(NodeId::given(place).is_err() && MemberId::given(place).is_err(), "{place}");
            assert!(place.parse::<MemberId>().is_ok(), "a log may hold it");
        }
        for bad in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err() && NodeId::given(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_parse() {
        assert_eq!("1.2.3-rc1".parse(), Ok(Version { major: 1, minor: 2, patch: 3 }));
        assert!("1.2".parse::<Version>().is_err());
    }
}
