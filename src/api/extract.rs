//! What a request says: its query, its headers, its body. Every refusal names the offending part.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, Uri, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::codec::check_json;
use crate::config::load::nearest;
use crate::config::value::parse_duration;
use crate::ledger::command::{IDEMPOTENCY_KEY_BYTES_MAX, InSession, Once};
use crate::types::SessionId;

use super::problem::{Code, Problem};

/// Most items of one page.
pub const LIMIT_MAX: usize = 1_000;
/// Items of a page when nothing else is asked for.
pub const LIMIT_DEFAULT: usize = 100;
/// How much of a body that is too large is read and thrown away, so that its sender can hear the answer.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The query of a request, with only the parameters that the route knows.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query; a parameter that is not in `known`, or appears twice, is an error.
    pub fn parse(uri: &Uri, known: &[&'static str]) -> Result<Params, Problem> {
        if !is_text(uri.query().unwrap_or_default()) {
            return Err(Problem::bad_request("the query is not UTF-8 once its %XX are decoded"));
        }
        let Query(rows) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::bad_request(format!("the query cannot be read: {error}")))?;
        for (position, (name, _)) in rows.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let problem = Problem::bad_request(format!("unknown parameter '{name}'"));
                return Err(if known.is_empty() {
                    problem.hint("this path takes none")
                } else {
                    problem.hint(format!(
                        "did you mean '{}'? Known: {}",
                        nearest(name, known.iter().copied()),
                        known.join(", ")
                    ))
                });
            }
            if rows[..position].iter().any(|(other, _)| other == name) {
                return Err(Problem::bad_request(format!("parameter '{name}' appears twice")));
            }
        }
        Ok(Params(rows))
    }

    /// The text of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that a type can read.
    pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let read = |text: &str| {
            text.parse().map_err(|error| {
                Problem::bad_request(format!("parameter {name}={text} is not usable: {error}"))
            })
        };
        self.get(name).map(read).transpose()
    }

    /// A duration such as `500ms`, at most `max`.
    pub fn duration(&self, name: &str, max: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let span = parse_duration(text).map_err(|problem| {
            Problem::bad_request(format!("parameter {name}={text} {}", problem.what)).hint(problem.hint)
        })?;
        if span > max {
            return Err(Problem::bad_request(format!("parameter {name}={text} is more than {max:?}")));
        }
        Ok(Some(span))
    }

    /// A truth; the bare name means true.
    pub fn truth(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(default),
            Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(text) => {
                Err(Problem::bad_request(format!("parameter {name}={text} is neither true nor false")))
            }
        }
    }

    /// The size of a page.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.parsed::<usize>("limit")? {
            None => Ok(LIMIT_DEFAULT),
            Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
            Some(limit) => {
                Err(Problem::bad_request(format!("limit={limit} is out of range: 1 to {LIMIT_MAX}"))
                    .hint("ask for the next page with `after`"))
            }
        }
    }
}

/// Whether a query is text. Decoding it would silently replace what is not, and something else would be looked for.
fn is_text(query: &str) -> bool {
    let (mut bytes, mut rest) = (Vec::with_capacity(query.len()), query.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
            None => (bytes.push(*first), rest = tail).1,
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// The `Idempotency-Key`, if there is one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let usable = value.to_str().ok().map(str::trim).filter(|text| usable_idempotency_key(text));
    match usable {
        Some(text) => Ok(Some(text.to_string())),
        None => Err(Problem::bad_request(format!(
            "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
        ))),
    }
}

/// A header that holds a whole number.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?").trim();
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Problem::bad_request(format!("{name}: {text} is not a whole number"))),
    }
}

/// What keeps a repeat of this write from being executed again: `Idempotency-Key`, or `Super-Node-Session` with
/// `Super-Node-Sequence` and perhaps `Super-Node-Lowest-Unanswered`. Without the last, the client waits for nothing but
/// this: it does one thing at a time.
pub fn once(headers: &HeaderMap) -> Result<Once, Problem> {
    let key = idempotency_key(headers)?;
    let session = number(headers, "super-node-session")?;
    let sequence = number(headers, "super-node-sequence")?;
    let lowest_unanswered = number(headers, "super-node-lowest-unanswered")?;
    match (key, session, sequence) {
        (None, None, None) if lowest_unanswered.is_none() => Ok(Once::Unguarded),
        (Some(key), None, None) if lowest_unanswered.is_none() => Ok(Once::Key(key)),
        (None, Some(session), Some(sequence)) => Ok(Once::Session(InSession {
            session: SessionId(session),
            sequence,
            lowest_unanswered: lowest_unanswered.unwrap_or(sequence),
        })),
        (Some(_), _, _) => Err(Problem::bad_request(
            "Idempotency-Key and Super-Node-Session exclude each other: a sequence is a key",
        )),
        _ => Err(Problem::bad_request("Super-Node-Session and Super-Node-Sequence go together")
            .hint("POST /v1/sessions opens a session; its first sequence is 1")),
    }
}

/// Whether a text can be an idempotency key: visible ASCII within the bound.
pub fn usable_idempotency_key(text: &str) -> bool {
    let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    !text.is_empty() && text.len() <= IDEMPOTENCY_KEY_BYTES_MAX && text.bytes().all(visible)
}

/// How long the asker will wait, from `Super-Node-Timeout` in milliseconds. Within it the node answers that nobody leads,
/// so that the asker knows that nothing has happened.
pub fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get("super-node-timeout") else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match millis {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(Problem::bad_request("Super-Node-Timeout must be a whole number of milliseconds")),
    }
}

/// The revision that `If-Match` or `If-None-Match: *` demands: 0 means "absent".
pub fn precondition(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let text = |name: header::HeaderName| {
        headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_string())
    };
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::bad_request("If-Match and If-None-Match exclude each other")),
        (None, Some(star)) if star == "*" => Ok(Some(0)),
        (None, Some(other)) => {
            Err(Problem::bad_request(format!("If-None-Match: {other} is not usable on a write: only * is")))
        }
        (Some(tag), None) => revision_of(&tag).map(Some).ok_or_else(|| {
            Problem::bad_request(format!("If-Match: {tag} is not a revision")).hint(
                "give the ETag of the key, such as \"42\"; for \"must be absent\" send If-None-Match: *",
            )
        }),
    }
}

/// The revision in an entity tag: `"42"` or `42`.
pub fn revision_of(tag: &str) -> Option<u64> {
    let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(tag);
    if inner.bytes().all(|byte| byte.is_ascii_digit()) { inner.parse().ok() } else { None }
}

/// Reads a body of at most `limit` bytes. A larger one is drained within reason first: an answer to a sender that is
/// still sending would be lost in the reset of its connection.
pub async fn read_body(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(Code::TooLarge, format!("the body is larger than {limit} bytes"))
            .hint("split it; http.body_max of the node sets the limit")
    };
    let number = |name: header::HeaderName| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let announced = number(header::CONTENT_LENGTH).unwrap_or(0);
    // Whoever waits for "100 Continue" has sent nothing yet: nothing to drain.
    if announced > limit && (headers.contains_key(header::EXPECT) || announced > DRAIN_BYTES_MAX) {
        return Err(closing(too_large()));
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, collect(body, limit)).await;
    match collected {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(Broken::Endless)) => Err(closing(too_large())),
        Ok(Err(Broken::Io(why))) => {
            Err(closing(Problem::bad_request(format!("the body ended early: {why}"))))
        }
        Err(_elapsed) => {
            Err(closing(Problem::bad_request(format!("the body did not arrive within {BODY_TIMEOUT:?}"))))
        }
    }
}

enum Broken {
    Endless,
    Io(String),
}

/// The body, or `None` if it was larger than `limit`.
async fn collect(body: Body, limit: u64) -> Result<Option<Bytes>, Broken> {
    let mut stream = body.into_data_stream();
    // A small body comes in one piece, which need not be copied.
    let (mut whole, mut kept, mut seen) = (None::<Bytes>, BytesMut::new(), 0_u64);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Broken::Io(error.to_string()))?;
        seen += chunk.len() as u64;
        if seen > DRAIN_BYTES_MAX {
            return Err(Broken::Endless);
        }
        if seen <= limit && whole.is_none() && kept.is_empty() {
            whole = Some(chunk);
        } else if seen <= limit {
            if let Some(first) = whole.take() {
                kept.extend_from_slice(&first);
            }
            kept.extend_from_slice(&chunk);
        } else {
            whole = None;
            kept = BytesMut::new();
        }
    }
    Ok((seen <= limit).then(|| whole.unwrap_or_else(|| kept.freeze())))
}

fn closing(mut problem: Problem) -> Problem {
    problem.headers.push((header::CONNECTION, header::HeaderValue::from_static("close")));
    problem
}

/// Reads a JSON body into a type; the refusal names line and column.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| unusable(bytes, &error))
}

fn unusable(bytes: &[u8], error: &serde_json::Error) -> Problem {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Problem::bad_request("the body is empty where JSON is expected");
    }
    Problem::bad_request(format!("the body is not usable JSON: {error}"))
}

/// Checks that bytes are one JSON value and returns its text without the white space between tokens. Numbers keep
/// every digit and objects their order.
pub fn compact_json(bytes: Bytes) -> Result<String, Problem> {
    check_json(&bytes).map_err(|error| unusable(&bytes, &error))?;
    let text = String::from_utf8(bytes.into())
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {}", error.utf8_error())))?;
    // Programs send no white space, and texts without any need no second look.
    if !text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return Ok(text);
    }
    let (mut compact, mut in_string, mut escaped) = (String::with_capacity(text.len()), false, false);
    for character in text.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character == '"' {
            in_string = true;
        } else if character.is_ascii_whitespace() {
            continue;
        }
        compact.push(character);
    }
    Ok(compact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_compacted_without_changing_it() {
        for (text, compact) in [
            (
                " { \"b\" : 1 ,\n \"a\" : [ 1.50 , 12345678901234567890123 ] } ",
                "{\"b\":1,\"a\":[1.50,12345678901234567890123]}",
            ),
            ("\"a \\\" b \\\\\"", "\"a \\\" b \\\\\""),
            ("null", "null"),
        ] {
            assert_eq!(compact_json(text.into()).expect(text), compact);
        }
        for (bad, wanted) in [
            ("{\"a\":\n  1,}", "line 2 column 5"),
            ("{\"a\":1} x", "trailing characters at line 1 column 9"),
            ("plain", "line 1 column 1"),
            ("\"\\ud800\"", "hex escape"),
            ("", "empty"),
        ] {
            let detail = compact_json(bad.into()).expect_err(bad).detail;
            assert!(detail.contains(wanted), "{bad}: {detail}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        let parse = |query: &str| {
            Params::parse(&format!("/x?{query}").parse().expect("a URI"), &["limit", "after", "wait"])
        };
        assert_eq!(parse("after=a%2Fb&limit=7").expect("known").get("after"), Some("a/b"));
        let refused = |query: &str| parse(query).expect_err(query);
        assert!(refused("limt=7").hint.expect("a hint").contains("'limit'"));
        assert!(refused("after=1&after=2").detail.contains("twice"));
        assert!(refused("after=%ff").detail.contains("UTF-8"));
        assert_eq!(parse("after=%C3%A4+%zz%").expect("text").get("after"), Some("ä %zz%"));
        for (query, wanted) in
            [("limit=0", "1 to 1000"), ("limit=1001", "1 to 1000"), ("limit=x", "not usable")]
        {
            assert!(parse(query).expect("known").limit().expect_err(query).detail.contains(wanted));
        }
        let wait = |query: &str| parse(query).expect("known").duration("wait", Duration::from_secs(60));
        assert_eq!(wait("wait=30s").expect("a duration"), Some(Duration::from_secs(30)));
        assert!(wait("wait=30").expect_err("no unit").detail.contains("no unit"));
        assert!(wait("wait=2m").expect_err("too long").detail.contains("more than"));
    }

    #[test]
    fn preconditions_are_read() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                header::HeaderName::from_static(name),
                header::HeaderValue::from_static(value),
            )])
        };
        assert_eq!(precondition(&HeaderMap::new()).expect("none"), None);
        assert_eq!(precondition(&headers("if-match", "\"42\"")).expect("a tag"), Some(42));
        assert_eq!(precondition(&headers("if-none-match", "*")).expect("absent"), Some(0));
        for (name, value) in
            [("if-match", "*"), ("if-match", "W/\"1\""), ("if-match", "\"+1\""), ("if-none-match", "\"1\"")]
        {
            assert!(precondition(&headers(name, value)).is_err(), "{name}: {value}");
        }
    }
}
