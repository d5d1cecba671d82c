//! `GET /intervals?before=` and `GET /intervals/{id}?after=`: what became of each interval, whose reports counted, and how
//! everybody was judged in it.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::query::{self, IntervalFilter, Readiness};
use crate::ledger::records::{Interval, Observation};
use crate::types::{IntervalId, MemberId};

use super::super::ApiState;
use super::super::extract::Params;
use super::super::history::number_of;
use super::super::problem::Problem;
use super::heartbeat::Beat;
use super::{Place, Shell, page, text};

/// Intervals on a page.
const PAGE: u64 = 60;
/// Members on the page of an interval.
const MEMBERS: usize = 200;

/// An observer of an interval.
pub struct Seer {
    id: String,
    used: bool,
    why: String,
}

/// An interval in the table.
pub struct Row {
    id: u64,
    opened: String,
    length: String,
    settled_after: String,
    verdict: &'static str,
    reason: String,
    leader: String,
    term: u64,
    policy: u64,
    members: u64,
    rewarded: String,
    penalised: String,
    observers: Vec<Seer>,
}

impl From<&Interval> for Row {
    fn from(interval: &Interval) -> Row {
        let seer = |observer: &crate::ledger::records::Observer| Seer {
            id: observer.id.to_string(),
            used: observer.used,
            why: observer.why.clone(),
        };
        Row {
            id: interval.id.0,
            opened: text::stamp(interval.opened_at),
            length: text::span(text::between(interval.opened_at, interval.cut_at)),
            settled_after: text::span(text::between(interval.cut_at, interval.settled_at)),
            verdict: interval.verdict.as_str(),
            reason: interval.reason.clone(),
            leader: interval.leader.to_string(),
            term: interval.term.0,
            policy: interval.policy,
            members: interval.members,
            rewarded: text::points(interval.rewarded),
            penalised: text::points(interval.penalised),
            observers: interval.observers.iter().map(seer).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "intervals.html")]
struct Intervals {
    shell: Shell,
    open: String,
    rows: Vec<Row>,
    older: Option<u64>,
    newest: bool,
}

/// What is going on with those that are not settled, in words.
fn pending(open: IntervalId, readiness: Option<&Readiness>) -> String {
    let Some(readiness) = readiness else { return "The cluster has not begun yet.".to_string() };
    if !readiness.cut {
        return format!("Interval {open} is being observed; all before it are settled.");
    }
    format!(
        "Interval {open} is being observed; interval {} waits for reports: {} of {} are complete, {} are needed.",
        readiness.interval, readiness.complete, readiness.expected, readiness.majority
    )
}

/// `GET /intervals?before=`
pub async fn intervals(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let before = Params::parse(&uri, &["before"])?.parsed::<u64>("before")?;
    let (found, open, readiness) = state
        .look(move |reader| {
            let counters = query::interval_state(reader)?;
            let next = counters.map_or(1, |counters| counters.next_settle.0);
            let end = before.map_or(next, |before| before.min(next));
            let after = end.saturating_sub(PAGE).max(1) - 1;
            let wanted = usize::try_from(end.saturating_sub(after + 1)).unwrap_or(0);
            let found = query::intervals(reader, IntervalId(after), wanted, &IntervalFilter::default())?;
            Ok((found, counters.map(|counters| counters.open).unwrap_or_default(), query::readiness(reader)?))
        })
        .await?;
    page(&Intervals {
        shell: Shell::new(&state, Place::Intervals, "intervals"),
        open: pending(open, readiness.as_ref()),
        older: found.first().map(|first| first.id.0).filter(|first| *first > 1),
        rows: found.iter().rev().map(Row::from).collect(),
        newest: before.is_none(),
    })
}

/// A member in an interval.
pub struct Judged {
    member: String,
    pings: String,
    availability: String,
    p90: String,
    score: String,
    reward: String,
    penalty: String,
    strikes: u32,
    status: &'static str,
    class: &'static str,
}

#[derive(Template)]
#[template(path = "interval.html")]
struct Page {
    shell: Shell,
    row: Row,
    hash: String,
    evidence: String,
    judged: Vec<Judged>,
    next: Option<String>,
    first: bool,
}

fn judged(interval: &Interval, seen: &Observation) -> Judged {
    Judged {
        member: seen.member.to_string(),
        pings: format!("{} / {}", seen.answered, seen.sent),
        availability: text::percent(seen.availability_ppm),
        p90: if seen.answered == 0 { "\u{2013}".to_string() } else { text::millis(f64::from(seen.p90_us)) },
        score: text::percent(seen.score_ppm),
        reward: text::points(seen.reward),
        penalty: text::points(seen.penalty),
        strikes: seen.strikes,
        status: if seen.excused { "excused" } else { seen.status.as_str() },
        class: if Beat::of(interval.verdict, Some(seen)) == Beat::Missed { "struck" } else { "" },
    }
}

/// `GET /intervals/{id}?after=`
pub async fn interval(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let after = Params::parse(&uri, &["after"])?.parsed::<MemberId>("after")?;
    let id = IntervalId(number_of(&id, "an interval")?);
    let first = after.is_none();
    let found = state
        .look(move |reader| {
            let Some(interval) = query::interval(reader, id)? else { return Ok(None) };
            let seen = query::observations_page(reader, id, after.as_ref(), MEMBERS + 1)?;
            Ok(Some((interval, seen)))
        })
        .await?;
    let (interval, mut seen) = found.ok_or_else(|| {
        Problem::not_found(format!("interval {id} is not settled here")).hint(
            "it may still be open, or be forgotten (storage.history); the settled ones are at /intervals",
        )
    })?;
    let more = seen.len() > MEMBERS;
    seen.truncate(MEMBERS);
    page(&Page {
        shell: Shell::new(&state, Place::Intervals, "interval"),
        row: Row::from(&interval),
        hash: interval.hash.to_hex(),
        evidence: interval.evidence_hash.to_hex(),
        next: seen.last().filter(|_| more).map(|seen| seen.member.to_string()),
        judged: seen.iter().map(|seen| judged(&interval, seen)).collect(),
        first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_is_said_in_words() {
        let readiness = Readiness {
            interval: IntervalId(6),
            cut: true,
            expected: 3,
            complete: 1,
            majority: 2,
            overdue: false,
        };
        assert_eq!(
            pending(IntervalId(7), Some(&readiness)),
            "Interval 7 is being observed; interval 6 waits for reports: 1 of 3 are complete, 2 are needed."
        );
        let idle = Readiness { cut: false, ..readiness };
        assert!(pending(IntervalId(7), Some(&idle)).ends_with("all before it are settled."));
        assert!(pending(IntervalId(0), None).contains("not begun"));
    }
}
