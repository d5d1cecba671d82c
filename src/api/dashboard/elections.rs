//! `GET /elections?to=&span=&term=`: who led when, why it changed, who voted, and for how long nobody led.

use askama::Template;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query;
use crate::ledger::records::Election;
use crate::node::events::NodeEvent;
use crate::types::{NodeId, Term, UnixMillis};

use super::super::ApiState;
use super::super::extract::Params;
use super::super::problem::Problem;
use super::lanes::{Lanes, Scene, colour};
use super::{Place, Shell, page, text};

/// How far back elections are looked for, in terms.
const TERMS_BACK: u64 = 500;
/// Elections that the table lists.
const LISTED_MAX: usize = 100;
/// Lines of what this node saw around an election.
const SEEN_MAX: usize = 40;
/// The spans that may be chosen, with their length in milliseconds.
const SPANS: [(&str, i64); 7] = [
    ("1m", 60_000),
    ("5m", 300_000),
    ("15m", 900_000),
    ("1h", 3_600_000),
    ("6h", 21_600_000),
    ("24h", 86_400_000),
    ("7d", 604_800_000),
];
/// The span when none is chosen.
const SPAN_DEFAULT: &str = "5m";

/// A span to choose.
pub struct Choice {
    name: &'static str,
    chosen: bool,
}

/// An election in the table.
pub struct Row {
    term: u64,
    class: String,
    at: String,
    leader: String,
    previous: String,
    reason: String,
    leaderless: String,
    votes: String,
}

/// Something that this node saw around the election that is looked at.
pub struct Seen {
    at: String,
    offset: String,
    message: String,
}

/// One election close up.
pub struct Close {
    term: u64,
    words: String,
    lanes: Lanes,
    seen: Vec<Seen>,
}

#[derive(Template)]
#[template(path = "elections.html")]
struct Elections {
    shell: Shell,
    lanes: Lanes,
    choices: Vec<Choice>,
    /// Whether the drawing moves with the time.
    live: bool,
    span: &'static str,
    from: String,
    to: String,
    earliest_ms: i64,
    latest_ms: i64,
    to_ms: i64,
    earlier: i64,
    later: i64,
    rows: Vec<Row>,
    close: Option<Close>,
}

/// What of the elections is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    span: (&'static str, i64),
    /// The right edge; `None`: now.
    to: Option<UnixMillis>,
    term: Option<Term>,
}

impl Look {
    fn parse(params: &Params) -> Result<Look, Problem> {
        let name = params.get("span").unwrap_or(SPAN_DEFAULT);
        let span = SPANS.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = SPANS.iter().map(|(known, _)| *known).collect();
            Problem::bad_request(format!("span={name} is not known: one of {}", known.join(", ")))
        })?;
        let to = params.get("to").filter(|text| !text.is_empty()).map(time).transpose()?;
        Ok(Look { span, to, term: params.parsed("term")?.map(Term) })
    }
}

/// A time as a page or a person writes it: milliseconds since 1970, or RFC 3339.
fn time(text: &str) -> Result<UnixMillis, Problem> {
    let read = match text.parse::<i64>() {
        Ok(ms) if ms >= 0 => Ok(UnixMillis(ms)),
        Ok(_) => Err("it is before 1970".to_string()),
        Err(_) => text.parse::<UnixMillis>(),
    };
    read.map_err(|why| {
        Problem::bad_request(format!("to={text} is not usable: {why}"))
            .hint("give milliseconds since 1970, or a time like 2026-01-31T12:00:00Z")
    })
}

/// The newest recorded elections, in order of their terms.
fn recorded(reader: &dyn Reader) -> Result<Vec<Election>, KeyspaceError> {
    let Some(last) = query::last_election(reader)? else { return Ok(Vec::new()) };
    let after = Term(last.term.0.saturating_sub(TERMS_BACK));
    query::elections(reader, after, usize::try_from(TERMS_BACK).unwrap_or(usize::MAX))
}

/// Those that can be seen in a window: the ones in it, the one that began before it, and the gap that ends after it.
fn within(elections: &[Election], from: UnixMillis, to: UnixMillis) -> &[Election] {
    let first = elections.partition_point(|election| election.at < from).saturating_sub(1);
    let end = elections.partition_point(|election| election.at <= to);
    let end = (end + 1).min(elections.len());
    &elections[first.min(end)..end]
}

fn row(election: &Election) -> Row {
    let votes: Vec<&str> = election.votes.iter().map(NodeId::as_str).collect();
    Row {
        term: election.term.0,
        class: colour(election.term),
        at: text::stamp(election.at),
        leader: election.leader.to_string(),
        previous: election.previous.as_ref().map_or("\u{2013}".to_string(), ToString::to_string),
        reason: election.reason.replace('_', " "),
        leaderless: text::count(election.leaderless_ms),
        votes: votes.join(", "),
    }
}

/// The window around one election: its gap, and as much on both sides as makes it readable.
fn around(election: &Election) -> (UnixMillis, UnixMillis) {
    let gap = i64::try_from(election.leaderless_ms).unwrap_or(i64::MAX / 4).clamp(50, 3_600_000);
    (UnixMillis(election.at.0 - gap - gap * 2 / 5), UnixMillis(election.at.0 + gap / 2))
}

/// What this node saw in a window, relative to a time.
fn saw(events: &[NodeEvent], (from, to): (UnixMillis, UnixMillis), zero: UnixMillis) -> Vec<Seen> {
    let kinds = [
        "election_started",
        "vote",
        "leader_elected",
        "follows_leader",
        "stepped_down",
        "member_suspect",
        "member_down",
        "transfer_started",
        "transfer_aborted",
    ];
    let wanted =
        |event: &&NodeEvent| event.at >= from && event.at <= to && kinds.contains(&event.kind.as_str());
    let seen = |event: &NodeEvent| Seen {
        at: text::clock_ms(event.at),
        offset: format!("{:+}", event.at.0 - zero.0).replace('-', "\u{2212}"),
        message: event.message.clone(),
    };
    events.iter().filter(wanted).take(SEEN_MAX).map(seen).collect()
}

/// `GET /elections?to=&span=&term=`
pub async fn elections(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let look = Look::parse(&Params::parse(&uri, &["to", "span", "term"])?)?;
    let status = state.handle.status.borrow().clone();
    let elections = state.look(|reader| Ok(recorded(reader)?)).await?;
    let (seen, now) = (state.recorder().leaderships(), text::now());
    let (events, _) = state.handle.events.subscribe(0);
    let (span, length) = look.span;
    let to = look.to.unwrap_or(now);
    let from = UnixMillis(to.0.saturating_sub(length));
    let nodes: Vec<NodeId> = status.nodes.iter().map(|node| node.id.clone()).collect();
    let scene = |from, to, elections, close| Scene {
        from,
        to,
        now,
        nodes: &nodes,
        elections,
        seen: &seen,
        events: &events,
        own: &status.id,
        close,
    };
    let close = match look.term {
        None => elections.last(),
        Some(term) => Some(elections.iter().find(|election| election.term == term).ok_or_else(|| {
            Problem::not_found(format!("no election is recorded here for term {term}"))
                .hint("the elections are listed at /elections")
        })?),
    };
    let close = close.map(|election| {
        let (from, to) = around(election);
        Close {
            term: election.term.0,
            words: words(election),
            lanes: scene(from, to, within(&elections, from, to), true).draw(),
            seen: saw(&events, (from, to), election.at),
        }
    });
    let earliest = elections.first().map_or(now.0 - length, |first| first.at.0.min(now.0 - length));
    page(&Elections {
        shell: Shell::new(&state, Place::Elections, "elections"),
        lanes: scene(from, to, within(&elections, from, to), false).draw(),
        choices: SPANS.map(|(name, _)| Choice { name, chosen: name == span }).into(),
        live: look.to.is_none(),
        span,
        from: text::stamp(from),
        to: text::stamp(to),
        earliest_ms: earliest,
        latest_ms: now.0,
        to_ms: to.0,
        earlier: to.0.saturating_sub(length / 2).max(0),
        later: to.0.saturating_add(length / 2),
        rows: elections.iter().rev().take(LISTED_MAX).map(row).collect(),
        close,
    })
}

fn words(election: &Election) -> String {
    let votes: Vec<&str> = election.votes.iter().map(NodeId::as_str).collect();
    let before = election.previous.as_ref().map_or(String::new(), |previous| format!(" after {previous}"));
    format!(
        "{} led{before}: {}. Nobody led for {} ms. Votes of {}.",
        election.leader,
        election.reason.replace('_', " "),
        text::count(election.leaderless_ms),
        votes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;
    use std::collections::BTreeSet;

    fn election(term: u64, at: i64) -> Election {
        let leader: NodeId = "n1".parse().expect("a name");
        Election {
            term: Term(term),
            previous: None,
            reason: "pings_silent".to_string(),
            votes: BTreeSet::from([leader.clone()]),
            leader,
            leaderless_ms: 400,
            at: UnixMillis(at),
            index: Index(1),
        }
    }

    #[test]
    fn a_window_shows_what_began_before_it_and_what_ends_after_it() {
        let all: Vec<Election> =
            [(1, 100), (2, 200), (3, 300), (4, 400)].map(|(t, at)| election(t, at)).into();
        let terms = |from, to| {
            let found = within(&all, UnixMillis(from), UnixMillis(to));
            found.iter().map(|election| election.term.0).collect::<Vec<u64>>()
        };
        assert_eq!(terms(250, 350), [2, 3, 4]);
        assert_eq!(terms(0, 50), [1]);
        assert_eq!(terms(500, 600), [4]);
        assert!(within(&[], UnixMillis(0), UnixMillis(1)).is_empty());
        assert_eq!(around(&all[3]), (UnixMillis(-160), UnixMillis(600)));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let look = |query: &str| {
            let uri: Uri = format!("/elections?{query}").parse().expect("a URI");
            Look::parse(&Params::parse(&uri, &["to", "span", "term"])?)
        };
        assert_eq!(look("").expect("the default"), Look { span: ("5m", 300_000), to: None, term: None });
        assert_eq!(look("to=1000&span=1h").expect("millis").to, Some(UnixMillis(1_000)));
        assert_eq!(look("to=1970-01-01T00:00:01Z").expect("RFC 3339").to, Some(UnixMillis(1_000)));
        assert_eq!(look("to=&term=7").expect("an empty field").term, Some(Term(7)));
        for (query, wanted) in [
            ("span=2h", "one of 1m, 5m"),
            ("to=yesterday", "to=yesterday is not usable"),
            ("to=-5", "before 1970"),
            ("term=x", "term=x is not usable"),
            ("when=now", "unknown parameter 'when'"),
        ] {
            let detail = look(query).expect_err(query).detail;
            assert!(detail.contains(wanted), "{query}: {detail}");
        }
    }
}
