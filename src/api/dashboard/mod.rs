//! The dashboard: pages at `/`, from what this node holds, so that they are there without a quorum, too.
//!
//! Each page has a file: it reads the state into a view model, which is plain data and tested as such, and a template of
//! the same name writes that down. A page is whole without its script. The script only asks for the same page again when
//! [`live`] says so, and swaps the parts that are marked `data-live`.
//!
//! Whatever comes from outside (names, addresses, reasons) goes through the escaping of the templates. The policy
//! [`CONTENT_SECURITY_POLICY`] allows no inline script, no inline style, and no other origin.

pub mod assets;
pub mod chart;
pub mod elections;
pub mod heartbeat;
pub mod intervals;
pub mod lanes;
pub mod ledger;
pub mod live;
pub mod member;
pub mod members;
pub mod node;
pub mod overview;
pub mod payment;
pub mod recorder;
pub mod text;

use askama::Template;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use crate::node::status::NodeStatus;
use crate::types::NodeId;

use super::problem::{Code, Problem};
use super::{ApiState, role_name};

/// What a page may load and do: its own node's files and stream, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// How a browser is asked for a token: the password is the token, the name is not looked at.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"super-node\", charset=\"UTF-8\"");

/// A page in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `/`
    Overview,
    /// `/elections`
    Elections,
    /// `/members`
    Members,
    /// `/ledger`
    Ledger,
    /// `/intervals`
    Intervals,
    /// `/node`
    Node,
    /// None of them.
    Elsewhere,
}

/// An entry of the navigation.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    place: Place,
    path: &'static str,
    name: &'static str,
}

const ENTRIES: [Entry; 6] = [
    Entry { place: Place::Overview, path: "/", name: "Overview" },
    Entry { place: Place::Elections, path: "/elections", name: "Elections" },
    Entry { place: Place::Members, path: "/members", name: "Members" },
    Entry { place: Place::Ledger, path: "/ledger", name: "Ledger" },
    Entry { place: Place::Intervals, path: "/intervals", name: "Intervals" },
    Entry { place: Place::Node, path: "/node", name: "Node" },
];

/// How many voters this node can count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Voters that answer this node, itself included.
    pub up: usize,
    /// All voters.
    pub voters: usize,
}

impl Quorum {
    /// As this node sees it.
    pub fn of(status: &NodeStatus) -> Quorum {
        let answers = |voter: &NodeId| {
            *voter == status.id || status.nodes.iter().any(|node| node.id == *voter && node.up)
        };
        let up = status.voters.iter().filter(|voter| answers(voter)).count();
        Quorum { up, voters: status.voters.len() }
    }

    /// Whether they are a majority.
    pub fn holds(self) -> bool {
        self.up * 2 > self.voters
    }
}

/// What stands around every page.
pub struct Shell {
    title: &'static str,
    place: Place,
    entries: [Entry; 6],
    cluster: String,
    id: String,
    role: &'static str,
    term: u64,
    leader: Option<String>,
    /// What keeps the cluster from working, if anything.
    alarm: Option<String>,
    /// What else is wrong with this node.
    warnings: Vec<String>,
    now: String,
    version: String,
}

impl Shell {
    /// Of this node, now.
    pub fn new(state: &ApiState, place: Place, title: &'static str) -> Shell {
        let status = state.handle.status.borrow().clone();
        Shell {
            title,
            place,
            entries: ENTRIES,
            alarm: alarm(&status),
            warnings: warnings(&status),
            cluster: status.cluster,
            id: status.id.to_string(),
            role: role_name(status.role),
            term: status.term.0,
            leader: status.leader.map(String::from),
            now: text::stamp(text::now()),
            version: status.version,
        }
    }
}

/// What keeps the cluster from working, in words; `None` when a leader and a quorum are there.
fn alarm(status: &NodeStatus) -> Option<String> {
    let quorum = Quorum::of(status);
    let Quorum { up, voters } = quorum;
    let old = "What you see is what this node applied last; it is read from here alone.";
    if status.removed {
        return Some("This node was removed from the cluster and is idle. Look at another node.".to_string());
    }
    if !quorum.holds() {
        return Some(format!("No quorum: {up} of {voters} voters answer, nothing can be written. {old}"));
    }
    if status.leader.is_none() {
        return Some(format!("No leader: {up} of {voters} voters answer, an election is due. {old}"));
    }
    None
}

fn warnings(status: &NodeStatus) -> Vec<String> {
    let told = [
        (status.disk_full, "The disk of this node has no room for further entries."),
        (status.disk_degraded, "The disk of this node confirms writes suspiciously late."),
        (status.lacks_state, "The applied state of this node is gone and is being fetched from the leader."),
        (status.in_memory, "This node keeps everything in memory: nothing of it outlives the process."),
        (status.changing, "The voters are being changed."),
    ];
    told.into_iter().filter(|(is, _)| *is).map(|(_, words)| words.to_string()).collect()
}

/// A page as an answer.
fn page(template: &impl Template) -> Result<Response, Problem> {
    let html = template
        .render()
        .map_err(|error| Problem::new(Code::Damaged, format!("the page cannot be written: {error}")))?;
    Ok(guarded(html.into_response(), "text/html; charset=utf-8"))
}

/// With the headers that every answer of the dashboard has.
fn guarded(mut response: Response, media: &'static str) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, media),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether whoever asks is a browser that wants a page. `/v1` is for programs, whoever looks at it.
pub fn wants_page(path: &str, method: &Method, headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    *method == Method::GET && accepts.contains("text/html") && path != "/v1" && !path.starts_with("/v1/")
}

/// A problem, told to somebody with a browser.
#[derive(Template)]
#[template(path = "problem.html")]
struct Trouble {
    shell: Shell,
    status: u16,
    heading: &'static str,
    detail: String,
    hint: Option<String>,
}

/// The problem in an answer as a page; an answer without one stays as it is.
pub fn explain(state: &ApiState, mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (status, asks) = (problem.status, problem.code == Code::Unauthorized);
    let trouble = Trouble {
        shell: if asks { Shell::bare() } else { Shell::new(state, Place::Elsewhere, problem.code.title()) },
        status: status.as_u16(),
        heading: heading(problem.code),
        detail: problem.detail.clone(),
        hint: if asks {
            Some(
                "Reload and give a token of this node as the password; the name is not looked at."
                    .to_string(),
            )
        } else {
            problem.hint.clone()
        },
    };
    let mut response = match page(&trouble) {
        Ok(page) => page,
        // Then as every other problem.
        Err(_unwritable) => return problem.into_response(),
    };
    *response.status_mut() = status;
    response.headers_mut().extend(problem.headers);
    if asks {
        response.headers_mut().append(header::WWW_AUTHENTICATE, BASIC);
    }
    response
}

fn heading(code: Code) -> &'static str {
    match code {
        Code::NotFound => "There is nothing here",
        Code::BadRequest => "That address asks for something that is not understood",
        Code::Unauthorized => "This node wants a token",
        Code::Forbidden => "The token does not allow this",
        Code::Damaged => "The state of this node cannot be read now",
        other => other.title(),
    }
}

impl Shell {
    /// For somebody who has not shown who they are: tells nothing.
    fn bare() -> Shell {
        Shell {
            title: "token",
            place: Place::Elsewhere,
            entries: ENTRIES,
            cluster: "super-node".to_string(),
            id: String::new(),
            role: "",
            term: 0,
            leader: None,
            alarm: None,
            warnings: Vec::new(),
            now: text::stamp(text::now()),
            version: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::PeerStatus;
    use serde_json::json;

    fn status(leader: Option<&str>, up: [bool; 3]) -> NodeStatus {
        let node = |at: usize| {
            json!({"id": format!("n{}", at + 1), "address": "", "role": "follower", "match": null, "lag": null,
                "contact_ms": 1, "up": up[at], "url": null})
        };
        let nodes: Vec<PeerStatus> =
            serde_json::from_value(json!([node(0), node(1), node(2)])).expect("nodes");
        let mut status: NodeStatus = serde_json::from_value(json!({
            "cluster": "c", "id": "n1", "role": "follower", "term": 3, "leader": leader, "commit": 7, "applied": 6,
            "voters": ["n1", "n2", "n3"], "nodes": [],
            "members": {"total": 0, "up": 0, "suspect": 0, "down": 0, "suspended": 0},
            "interval": {"open": 0, "next_settle": 0}, "ledger": {"records": 0, "head_hash": ""},
            "projection": {"enabled": false, "checkpoint": 0, "lag_records": 0, "error": null},
            "version": "", "url": "",
        }))
        .expect("a status");
        status.nodes = nodes;
        status
    }

    #[test]
    fn the_alarm_says_what_is_missing() {
        for (leader, up, wanted) in [
            (Some("n2"), [true, true, false], None),
            (None, [true, true, false], Some("No leader: 2 of 3 voters")),
            (None, [true, false, false], Some("No quorum: 1 of 3 voters")),
            // What this node was told of itself does not count.
            (Some("n1"), [false, false, false], Some("No quorum: 1 of 3 voters")),
        ] {
            let alarm = alarm(&status(leader, up));
            assert_eq!(alarm.is_some(), wanted.is_some(), "{alarm:?}");
            assert!(alarm.unwrap_or_default().starts_with(wanted.unwrap_or_default()));
        }
        let mut removed = status(Some("n2"), [true; 3]);
        removed.removed = true;
        assert!(alarm(&removed).is_some());
        removed.disk_full = true;
        assert_eq!(warnings(&removed).len(), 1);
    }

    #[test]
    fn programs_are_answered_as_programs() {
        let headers =
            |accept: &'static str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
        for (path, method, accept, page) in [
            ("/nothing", Method::GET, "text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("/nothing", Method::GET, "*/*", false),
            ("/nothing", Method::POST, "text/html", false),
            ("/v1/nothing", Method::GET, "text/html", false),
        ] {
            assert_eq!(wants_page(path, &method, &headers(accept)), page, "{method} {path} {accept}");
        }
        assert!(!wants_page("/", &Method::GET, &HeaderMap::new()));
    }
}
