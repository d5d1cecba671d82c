//! Who may do what: bearer tokens, each with a role.
//!
//! Without a file of tokens everybody may do everything, which is why such a node listens on loopback only. With one, every
//! request shows a token (RFC 6750), but for what a probe asks and for the enrolment of agents, which has a token or an
//! operator of its own. A browser shows one as the password of HTTP Basic, which is good for reading only. Only digests are kept, so that how long a comparison takes tells nothing of a token.

use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::problem::{Code, Problem};

/// Shortest token, in characters: what `openssl rand -hex 16` prints has twice as many.
const TOKEN_CHARS_MIN: usize = 16;
/// Most tokens in a file.
const TOKENS_MAX: usize = 1_000;

/// What the owner of a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads everything but snapshots.
    Reader,
    /// Changes the dictionary, adds, and claims.
    Writer,
    /// Everything: members, leadership, policy, adjustments, snapshots.
    Admin,
}

impl Role {
    fn parse(text: &str) -> Option<Role> {
        Some(match text {
            "reader" => Role::Reader,
            "writer" => Role::Writer,
            "admin" => Role::Admin,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "a reader",
            Role::Writer => "a writer",
            Role::Admin => "an admin",
        }
    }
}

/// The file of tokens cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what}; every line is ROLE TOKEN, with reader, writer or admin for ROLE and at least {TOKEN_CHARS_MIN} characters for TOKEN"
)]
pub struct TokensError {
    what: String,
}

/// The tokens of a node; none: everybody may do everything.
#[derive(Clone, Default)]
pub struct Guard {
    tokens: Option<Vec<([u8; 32], Role)>>,
}

impl Guard {
    /// Reads a file of tokens: one `ROLE TOKEN` on each line; what follows a `#` is a comment.
    ///
    /// # Errors
    /// When it cannot be read or a line is not of that form. No error names a token.
    pub fn read(path: &Path) -> Result<Guard, TokensError> {
        let at = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| TokensError { what: format!("cannot read {at}: {error}") })?;
        Guard::parse(&text).map_err(|what| TokensError { what: format!("{at} {what}") })
    }

    fn parse(text: &str) -> Result<Guard, String> {
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let (role, token) = match words[..] {
                [] => continue,
                [role] => (role, ""),
                [role, token] => (role, token),
                _ => return Err(format!("line {number} has more than two words")),
            };
            let role = Role::parse(role).ok_or_else(|| format!("line {number} begins with no role"))?;
            if token.len() < TOKEN_CHARS_MIN || !token.is_ascii() {
                return Err(format!("line {number} holds no token that is long enough"));
            }
            tokens.push((digest(token), role));
        }
        match tokens.len() {
            0 => Err("holds no token".to_string()),
            count if count > TOKENS_MAX => Err(format!("holds more than {TOKENS_MAX} tokens")),
            _ => Ok(Guard { tokens: Some(tokens) }),
        }
    }

    /// The role of whoever shows `token`.
    ///
    /// # Errors
    /// `unauthorized` when there are tokens and this is none of them.
    pub(super) fn role(&self, token: Option<&str>) -> Result<Role, Problem> {
        let Some(tokens) = &self.tokens else { return Ok(Role::Admin) };
        let refuse = |detail: &str, hint: &str| {
            let mut problem = Problem::new(Code::Unauthorized, detail).hint(hint);
            problem.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            Err(problem)
        };
        let Some(token) = token else {
            return refuse(
                "this node wants a token",
                "show one: --token-file FILE, or SUPER_NODE_TOKEN_FILE",
            );
        };
        let digest = digest(token);
        match tokens.iter().find(|(known, _)| *known == digest) {
            Some((_, role)) => Ok(*role),
            None => refuse("this node does not know that token", "show one of its file auth.tokens"),
        }
    }

    /// Whether a request may go on.
    ///
    /// # Errors
    /// `unauthorized` without a token that is known, `forbidden` with one whose role is too low.
    pub(super) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(needed) = needed(method, path) else { return Ok(()) };
        if reads(method)
            && let Some(token) = basic(headers)
        {
            return allow(self.role(Some(&token))?.min(Role::Reader), needed);
        }
        allow(self.role(bearer(headers))?, needed)
    }
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The token that a browser shows: the password of HTTP Basic (RFC 7617). A browser shows it again by itself, whoever made it
/// ask, so it never does more than read.
fn basic(headers: &HeaderMap) -> Option<String> {
    let (scheme, pair) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(pair.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_any_name, token)| token.to_string())
}

/// Whether somebody with this role may do what needs that one.
///
/// # Errors
/// `forbidden`.
pub(super) fn allow(role: Role, needed: Role) -> Result<(), Problem> {
    if role >= needed {
        return Ok(());
    }
    let detail = format!("the token is that of {}; this needs {}", role.as_str(), needed.as_str());
    Err(Problem::new(Code::Forbidden, detail))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The role that a request needs; `None`: anybody's.
pub(super) fn needed(method: &Method, path: &str) -> Option<Role> {
    let reads = reads(method);
    match path {
        "/livez" | "/readyz" | "/openapi.json" | "/docs" if reads => return None,
        "/v1/members:enrol" => return None,
        // Style and script of the pages, also of the one that asks for a token: the same on every node.
        _ if reads && path.starts_with("/assets/") => return None,
        "/v1/snapshot" => return Some(Role::Admin),
        "/v1/policy:simulate" => return Some(Role::Reader),
        _ if reads => return Some(Role::Reader),
        _ => {}
    }
    let of_writers = ["/v1/kv", "/v1/add", "/v1/sessions", "/v1/claims"];
    let below = |root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
    };
    Some(if of_writers.into_iter().any(below) { Role::Writer } else { Role::Admin })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# who may do what\nreader 0123456789abcdef-r\n\nwriter  0123456789abcdef-w # the shop\n\
                        admin 0123456789abcdef-a\n";

    fn asks(method: &str, path: &str, token: Option<&str>) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        }
        let guard = Guard::parse(FILE).expect("a file of tokens");
        let method = method.parse().expect("a method");
        guard.check(&method, path, &headers).map_err(|problem| problem.code.as_str())
    }

    #[test]
    fn each_role_may_do_what_those_below_it_may() {
        for (method, path, least) in [
            ("GET", "/livez", ""),
            ("GET", "/openapi.json", ""),
            ("GET", "/docs", ""),
            ("GET", "/assets/dashboard.css", ""),
            ("GET", "/elections", "r"),
            ("GET", "/live", "r"),
            ("POST", "/v1/members:enrol", ""),
            ("GET", "/", "r"),
            ("GET", "/metrics", "r"),
            ("GET", "/v1/kv/a", "r"),
            ("POST", "/v1/policy:simulate", "r"),
            ("PUT", "/v1/kv/a", "w"),
            ("POST", "/v1/kv:batch", "w"),
            ("POST", "/v1/add", "w"),
            ("POST", "/v1/claims", "w"),
            ("DELETE", "/v1/sessions/7", "w"),
            ("GET", "/v1/snapshot", "a"),
            ("POST", "/v1/members", "a"),
            ("POST", "/v1/members/n1:promote", "a"),
            ("PUT", "/v1/policy", "a"),
            ("POST", "/v1/adjustments", "a"),
            ("POST", "/v1/added/later", "a"),
        ] {
            let nobody = asks(method, path, None);
            assert_eq!(nobody.is_ok(), least.is_empty(), "{method} {path}: {nobody:?}");
            for role in ["r", "w", "a"] {
                let order = |role: &str| "rwa".find(role).expect("a role");
                let allowed = least.is_empty() || order(role) >= order(least);
                let answer = asks(method, path, Some(&format!("0123456789abcdef-{role}")));
                assert_eq!(answer, if allowed { Ok(()) } else { Err("forbidden") }, "{method} {path} {role}");
            }
        }
        assert_eq!(asks("GET", "/v1/kv/a", Some("0123456789abcdef")), Err("unauthorized"));
        assert!(Guard::default().check(&Method::PUT, "/v1/policy", &HeaderMap::new()).is_ok(), "no tokens");
    }

    #[test]
    fn a_browser_may_read_and_nothing_else() {
        let asks = |method: &Method, path: &str, shown: &str| {
            let pair = format!("Basic {}", STANDARD.encode(shown));
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, pair.parse().expect("a header"))]);
            let guard = Guard::parse(FILE).expect("a file of tokens");
            guard.check(method, path, &headers).map_err(|problem| problem.code.as_str())
        };
        for role in ["r", "w", "a"] {
            let shown = format!("any:0123456789abcdef-{role}");
            assert_eq!(asks(&Method::GET, "/elections", &shown), Ok(()), "{role}");
            assert_eq!(asks(&Method::GET, "/v1/snapshot", &shown), Err("forbidden"), "{role}");
            assert_eq!(asks(&Method::POST, "/v1/members", &shown), Err("unauthorized"), "{role}");
            assert_eq!(asks(&Method::PUT, "/v1/kv/a", &shown), Err("unauthorized"), "{role}");
        }
        for wrong in ["any:0123456789abcdef", "0123456789abcdef-r", ":", ""] {
            assert_eq!(asks(&Method::GET, "/", wrong), Err("unauthorized"), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_none_is_refused_and_no_token_is_told() {
        for (text, wanted) in [
            ("", "holds no token"),
            ("# admin 0123456789abcdef\n", "holds no token"),
            ("root 0123456789abcdef\n", "line 1 begins with no role"),
            ("\nadmin short\n", "line 2 holds no token"),
            ("admin\n", "line 1 holds no token"),
            ("admin 0123456789abcdef secret\n", "line 1 has more than two words"),
        ] {
            let why = Guard::parse(text).err().expect(text);
            assert!(why.contains(wanted), "{text}: {why}");
            assert!(!why.contains("0123456789abcdef") && !why.contains("secret"), "{why}");
        }
    }
}
