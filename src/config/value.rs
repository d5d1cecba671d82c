//! From text to values: durations, sizes, amounts, addresses, peers. Each refusal says what is allowed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::types::{Amount, NodeId};

/// Most voters of one cluster.
pub const VOTERS_MAX: usize = 7;

/// A value as it was written, before its meaning is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// From a flag or the environment, where everything is text.
    Text(String),
    /// A TOML string.
    String(String),
    /// A TOML integer.
    Integer(String),
    /// A TOML float.
    Float(String),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// Any other TOML value, by the name of its type.
    Other(&'static str),
}

impl Raw {
    /// The value as an operator would recognise it.
    pub fn shown(&self) -> String {
        match self {
            Raw::Text(text) | Raw::String(text) => format!("\"{text}\""),
            Raw::Integer(text) | Raw::Float(text) => text.clone(),
            Raw::Bool(truth) => truth.to_string(),
            Raw::List(items) => format!("{items:?}"),
            Raw::Other(kind) => format!("({kind})"),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) | Raw::String(_) => "text",
            Raw::Integer(_) => "an integer",
            Raw::Float(_) => "a float",
            Raw::Bool(_) => "a boolean",
            Raw::List(_) => "a list",
            Raw::Other(kind) => kind,
        }
    }

    fn text(&self, wanted: &str) -> Result<&str, Problem> {
        match self {
            Raw::Text(text) | Raw::String(text) => Ok(text.trim()),
            other => Err(Problem::new(
                format!("is {}, where {wanted} is expected", other.kind()),
                "put it in quotes",
            )),
        }
    }
}

/// Why a value was refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Follows the key and value: "is not a duration".
    pub what: String,
    /// The limits and the remedy.
    pub hint: String,
}

impl Problem {
    /// A refusal.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { what: what.into(), hint: hint.into() }
    }
}

/// Splits `250ms` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    Some((number, text[split..].trim()))
}

/// A duration such as `50ms`, `2s`, `1.5s`, `1m`, `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, Problem> {
    let hint = "write a number and a unit (us, ms, s, m, h), such as 50ms, 2s or 1m";
    let Some((number, unit)) = number_and_unit(text.trim()) else {
        return Err(Problem::new("is not a duration", hint));
    };
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        "" => return Err(Problem::new("has no unit", hint)),
        other => return Err(Problem::new(format!("has the unknown unit '{other}'"), hint)),
    };
    // Rounded, because 0.3 s in binary floating point is a nanosecond short.
    let micros = (seconds * 1e6).round();
    if micros > 1e15 {
        return Err(Problem::new("is too long", hint));
    }
    // In range: checked just above, and never negative because a sign is not a digit.
    Ok(Duration::from_micros(micros as u64))
}

/// A duration in the largest unit that shows it exactly: `50ms`, `2s`, `1m`.
pub fn show_duration(span: Duration) -> String {
    let micros = span.as_micros();
    for (unit, factor) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
        if micros != 0 && micros.is_multiple_of(factor) {
            return format!("{}{unit}", micros / factor);
        }
    }
    if micros == 0 { "0s".to_string() } else { format!("{micros}us") }
}

/// A duration between two bounds.
pub fn duration(raw: &Raw, min: Duration, max: Duration) -> Result<Duration, Problem> {
    let span = parse_duration(raw.text("a duration such as 50ms")?)?;
    in_range(span, min, max)?;
    Ok(span)
}

fn in_range(span: Duration, min: Duration, max: Duration) -> Result<(), Problem> {
    if span < min || span > max {
        let limits = format!("allowed: {} to {}", show_duration(min), show_duration(max));
        return Err(Problem::new("is out of range", limits));
    }
    Ok(())
}

/// Two durations `MIN..MAX`, the first shorter than the second.
pub fn duration_range(raw: &Raw, min: Duration, max: Duration) -> Result<(Duration, Duration), Problem> {
    let text = raw.text("a range such as 300ms..600ms")?;
    let hint = "write the shortest and the longest timeout, such as 300ms..600ms";
    let Some((low, high)) = text.split_once("..") else {
        return Err(Problem::new("is not a range", hint));
    };
    let (low, high) = (parse_duration(low)?, parse_duration(high)?);
    in_range(low, min, max)?;
    in_range(high, min, max)?;
    if low >= high {
        return Err(Problem::new(
            "is not a range: the first must be shorter than the second",
            format!("{hint}; without a spread, two nodes would stand for election at the same time"),
        ));
    }
    Ok((low, high))
}

/// A size such as `256KiB` or `1MiB`, in bytes.
pub fn size(raw: &Raw, min: u64, max: u64) -> Result<u64, Problem> {
    let hint = "write a number and a unit (B, KiB, MiB, GiB, kB, MB, GB), such as 256KiB";
    let Some((number, unit)) = number_and_unit(raw.text("a size such as 256KiB")?) else {
        return Err(Problem::new("is not a size", hint));
    };
    let factor = match unit {
        "B" => 1_u64,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return Err(Problem::new("has no unit", hint)),
        other => return Err(Problem::new(format!("has the unknown unit '{other}'"), hint)),
    };
    let bytes = number * factor as f64;
    if bytes < min as f64 || bytes > max as f64 {
        let limits = format!("allowed: {} to {}", show_size(min), show_size(max));
        return Err(Problem::new("is out of range", limits));
    }
    Ok(bytes as u64)
}

/// A size in the largest binary unit that shows it exactly.
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A count between two bounds.
pub fn count(raw: &Raw, min: u64, max: u64) -> Result<u64, Problem> {
    let text = match raw {
        Raw::Text(text) | Raw::Integer(text) => text.trim(),
        other => {
            let what = format!("is {}, where an integer is expected", other.kind());
            return Err(Problem::new(what, format!("allowed: {min} to {max}, without quotes")));
        }
    };
    let limits = || format!("allowed: {min} to {max}");
    match text.replace('_', "").parse::<u64>() {
        Ok(count) if (min..=max).contains(&count) => Ok(count),
        Ok(_) => Err(Problem::new("is out of range", limits())),
        Err(_) => Err(Problem::new("is not a whole number", limits())),
    }
}

/// A truth.
pub fn truth(raw: &Raw) -> Result<bool, Problem> {
    match raw {
        Raw::Bool(truth) => Ok(*truth),
        Raw::Text(text) => match text.trim() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(Problem::new("is neither true nor false", "write true or false")),
        },
        other => {
            let what = format!("is {}, where a boolean is expected", other.kind());
            Err(Problem::new(what, "write true or false, without quotes"))
        }
    }
}

/// Points with up to six decimals: `10`, `0.5`. Between 0 and `max_points`.
pub fn points(raw: &Raw, max_points: i64) -> Result<Amount, Problem> {
    let text = match raw {
        Raw::Text(text) | Raw::String(text) | Raw::Integer(text) | Raw::Float(text) => text.trim(),
        other => {
            let what = format!("is {}, where an amount is expected", other.kind());
            return Err(Problem::new(
                what,
                "write points with up to six decimals, such as \"10\" or \"0.5\"",
            ));
        }
    };
    let hint = format!(
        "write points with up to six decimals, such as \"10\" or \"0.5\"; allowed: 0 to {max_points}"
    );
    let amount = parse_points(text).ok_or_else(|| Problem::new("is not an amount", hint.clone()))?;
    if amount.0 < 0 || amount.0 > max_points.saturating_mul(Amount::POINT) {
        return Err(Problem::new("is out of range", hint));
    }
    Ok(amount)
}

/// Signed points with up to six decimals; `None` for anything else.
pub fn parse_points(text: &str) -> Option<Amount> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 6 || !all_digits(whole) || !all_digits(part) || digits.ends_with('.')
    {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let part: i64 = format!("{part:0<6}").parse().ok()?;
    whole.checked_mul(Amount::POINT)?.checked_add(part)?.checked_mul(sign).map(Amount)
}

/// One of a few words.
pub fn choice(raw: &Raw, words: &[&'static str]) -> Result<&'static str, Problem> {
    let allowed = || format!("allowed: {}", words.join(", "));
    let (Raw::Text(text) | Raw::String(text)) = raw else {
        return Err(Problem::new(format!("is {}, where a word is expected", raw.kind()), allowed()));
    };
    match words.iter().find(|word| **word == text.trim()) {
        Some(word) => Ok(word),
        None => Err(Problem::new("is not known", allowed())),
    }
}

/// Text of 1 to `max` printable characters.
pub fn plain_text(raw: &Raw, max: usize) -> Result<String, Problem> {
    let text = raw.text("text")?;
    if text.is_empty() || text.chars().count() > max || text.chars().any(char::is_control) {
        return Err(Problem::new("is not usable", format!("write 1 to {max} printable characters")));
    }
    Ok(text.to_string())
}

/// Text, or nothing when empty.
pub fn optional_text(raw: &Raw, max: usize) -> Result<Option<String>, Problem> {
    if raw.text("text")?.is_empty() { Ok(None) } else { plain_text(raw, max).map(Some) }
}

/// The address of a listener: `IP:PORT`, or `localhost:PORT` for 127.0.0.1.
pub fn listener(raw: &Raw) -> Result<SocketAddr, Problem> {
    let text = raw.text("an address such as 127.0.0.1:7400")?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_string(),
    };
    numeric.parse().map_err(|_| {
        Problem::new(
            "is not an address to listen on",
            "write IP:PORT, such as 127.0.0.1:7400 or 0.0.0.0:7400",
        )
    })
}

/// Checks `host:port` of somebody else: a name or an IP address, and a port that is not 0.
pub fn remote_address(text: &str) -> Result<(), Problem> {
    let hint = "write HOST:PORT, such as 10.0.0.1:7401 or node-1:7401";
    let bad = || Problem::new(format!("has the unusable address '{text}'"), hint);
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let name = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    match port.parse::<u16>() {
        Ok(port) if port > 0 && (name(host) || bracketed) => Ok(()),
        _ => Err(bad()),
    }
}

/// The peers of a cluster: `n1=A,n2=A`, or a TOML list of `n1=A`. An empty list means "only this node".
pub fn peers(raw: &Raw) -> Result<BTreeMap<NodeId, String>, Problem> {
    let hint =
        "write ID=HOST:PORT for every super-node, this one included: n1=10.0.0.1:7401,n2=10.0.0.2:7401";
    let items: Vec<&str> = match raw {
        Raw::Text(text) | Raw::String(text) if text.trim().is_empty() => {
            return Err(Problem::new(
                "names no peer",
                format!("{hint}; or leave it out for a one-node cluster"),
            ));
        }
        Raw::Text(text) | Raw::String(text) => text.split(',').map(str::trim).collect(),
        Raw::List(items) => items.iter().map(|item| item.trim()).collect(),
        other => return Err(Problem::new(format!("is {}, where peers are expected", other.kind()), hint)),
    };
    let mut peers = BTreeMap::<NodeId, String>::new();
    for item in items {
        let Some((id, address)) = item.split_once('=') else {
            let what =
                if item.is_empty() { "has an empty entry".into() } else { format!("has no '=' in '{item}'") };
            return Err(Problem::new(what, hint));
        };
        let id: NodeId =
            NodeId::given(id.trim()).map_err(|error| Problem::new(format!("has a bad id: {error}"), hint))?;
        let address = address.trim();
        remote_address(address)?;
        if let Some((other, _)) = peers.iter().find(|(_, known)| *known == address) {
            let what = format!("gives {other} and {id} the same address {address}");
            return Err(Problem::new(what, "every super-node needs an address of its own"));
        }
        if peers.insert(id.clone(), address.to_string()).is_some() {
            return Err(Problem::new(format!("names {id} twice"), "every super-node appears once"));
        }
    }
    if peers.len() > VOTERS_MAX {
        let what = format!("names {} super-nodes", peers.len());
        return Err(Problem::new(what, format!("a cluster has 1 to {VOTERS_MAX}; 3 or 5 are usual")));
    }
    Ok(peers)
}

/// Peers as [`peers`] reads them.
pub fn show_peers(peers: &BTreeMap<NodeId, String>) -> String {
    peers.iter().map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(",")
}

/// A MongoDB connection string, or nothing when empty.
pub fn mongodb_uri(raw: &Raw) -> Result<Option<String>, Problem> {
    let text = raw.text("a MongoDB connection string")?;
    if text.is_empty() {
        return Ok(None);
    }
    let hint = "write mongodb://HOST:PORT or mongodb+srv://HOST";
    let known = text.strip_prefix("mongodb://").or_else(|| text.strip_prefix("mongodb+srv://"));
    match known {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => {}
        _ => return Err(Problem::new("is not a MongoDB connection string", hint)),
    }
    if text.contains("socketTimeoutMS") {
        let remedy = "remove it: the driver refuses it, and every call has a time limit of its own";
        return Err(Problem::new("contains socketTimeoutMS", remedy));
    }
    Ok(Some(text.to_string()))
}

/// A connection string without its password: safe to print.
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return "…".to_string() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // A password may itself contain '/' when somebody forgot to escape it: look at the whole for the last '@'.
    let at = rest.rfind('@').filter(|at| *at < end || rest[..*at].contains(':'));
    match at {
        None => uri.to_string(),
        Some(at) => {
            let user = rest[..at].split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{}", &rest[at + 1..])
        }
    }
}

/// A share from 0 to 1, such as 0.01, in parts per million.
pub fn ratio_ppm(raw: &Raw) -> Result<u32, Problem> {
    let hint = "write a share from 0 to 1, such as 0.01 for one in a hundred";
    let text = match raw {
        Raw::Text(text) | Raw::String(text) | Raw::Integer(text) | Raw::Float(text) => text.trim(),
        _ => "",
    };
    match text.parse::<f64>() {
        // In range, so that the cast loses nothing but what is below a millionth.
        Ok(share) if (0.0..=1.0).contains(&share) => Ok((share * 1e6).round() as u32),
        _ => Err(Problem::new("is not a share", hint)),
    }
}

/// The base URL of a node's HTTP interface: `http://HOST:PORT`, or nothing when empty.
pub fn optional_url(raw: &Raw) -> Result<Option<String>, Problem> {
    let text = raw.text("a URL such as http://10.0.0.1:7400")?;
    if text.is_empty() { Ok(None) } else { http_url(text).map(Some) }
}

/// The base URL of a node's HTTP interface, without a trailing slash.
pub fn http_url(text: &str) -> Result<String, Problem> {
    let hint = "write http://HOST:PORT, such as http://127.0.0.1:7400, or https:// where TLS is spoken";
    let text = text.trim().trim_end_matches('/');
    let (rest, port) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (rest, 80),
        (_, Some(rest)) => (rest, 443),
        _ => return Err(Problem::new("is not a URL", hint)),
    };
    let with_port = if rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        rest.to_string()
    } else {
        format!("{rest}:{port}")
    };
    remote_address(&with_port).map_err(|_| Problem::new("is not a URL", hint))?;
    Ok(text.to_string())
}

/// A log filter: a level, or `target=level` parts separated by commas.
pub fn log_filter(raw: &Raw) -> Result<String, Problem> {
    let text = raw.text("a log level")?;
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let target = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
    };
    let good = |part: &str| match part.split_once('=') {
        None => levels.contains(&part),
        Some((name, level)) => target(name) && levels.contains(&level),
    };
    if text.split(',').all(|part| good(part.trim())) {
        return Ok(text.to_string());
    }
    let hint = format!("allowed: {}; or parts such as warn,super_node::raft=debug", levels.join(", "));
    Err(Problem::new("is not a log level", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for (text, micros) in
            [("50ms", 50_000), ("2s", 2_000_000), ("1m", 60_000_000), ("300us", 300), ("2h", 7_200_000_000)]
        {
            let span = parse_duration(text).expect(text);
            assert_eq!(span.as_micros(), micros, "{text}");
            assert_eq!(show_duration(span), text);
        }
        assert_eq!(parse_duration("0.3s").expect("decimal"), Duration::from_millis(300));
        for bad in ["", "s", "-1s", "1 fortnight", "1.2.3s", "99999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn points_are_exact() {
        for (text, micro) in
            [("10", Some(10_000_000)), ("0.5", Some(500_000)), ("-1.000001", Some(-1_000_001))]
        {
            assert_eq!(parse_points(text).map(|amount| amount.0), micro);
        }
        for bad in ["", ".", "1.", ".5", "1.0000001", "1e3", "ten", "9223372036855"] {
            assert_eq!(parse_points(bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        for (uri, shown) in [
            ("mongodb://host:27017/db", "mongodb://host:27017/db"),
            ("mongodb://user:secret@host/db?x=1", "mongodb://user:***@host/db?x=1"),
            ("mongodb+srv://user:se/cr:et@host", "mongodb+srv://user:***@host"),
            ("nonsense", "…"),
        ] {
            assert_eq!(redact_uri(uri), shown);
        }
    }

    #[test]
    fn urls_are_those_of_nodes() {
        assert_eq!(http_url("http://127.0.0.1:7400/").as_deref(), Ok("http://127.0.0.1:7400"));
        assert_eq!(http_url("http://node-1").as_deref(), Ok("http://node-1"));
        assert_eq!(http_url("https://node-1/").as_deref(), Ok("https://node-1"));
        for bad in ["127.0.0.1:7400", "ftp://x", "http://", "http://a b:1", "http://x:0"] {
            assert!(http_url(bad).is_err(), "{bad}");
        }
    }
}
