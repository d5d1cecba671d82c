//! `GET /members/{id}?before=`: one member, its evidence interval by interval, and every movement of its money.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::claims::ClaimState;
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::maintenance::{self, Window as Announced};
use crate::ledger::query::{self, RewardFilter};
use crate::ledger::records::{Interval, Member, MemberStatus, Movement, Observation};
use crate::types::{IntervalId, MemberId, UnixMillis};

use super::super::ApiState;
use super::super::extract::{LIMIT_MAX, Params};
use super::super::members::member_of;
use super::super::problem::Problem;
use super::chart::{self, Chart, Series};
use super::heartbeat::{Bar, Beat, Window};
use super::members::note;
use super::recorder::Level;
use super::{Place, Shell, page, text};

/// A fact about the member.
pub struct Fact {
    /// What it is about.
    pub name: &'static str,
    /// What it is.
    pub value: String,
}

/// One interval's evidence.
pub struct Row {
    id: u64,
    from: String,
    verdict: &'static str,
    pings: String,
    availability: String,
    p90: String,
    score: String,
    reward: String,
    penalty: String,
    strikes: String,
    status: &'static str,
    by: String,
    class: &'static str,
}

/// One movement.
pub struct Moved {
    pub(super) seq: u64,
    pub(super) at: String,
    pub(super) member: String,
    pub(super) kind: String,
    pub(super) amount: String,
    pub(super) gain: bool,
    pub(super) balance: String,
    pub(super) interval: Option<u64>,
    pub(super) reason: String,
}

impl From<Movement> for Moved {
    fn from(movement: Movement) -> Moved {
        Moved {
            seq: movement.seq,
            at: text::stamp(movement.at),
            member: movement.member.to_string(),
            kind: movement.kind.as_str().replace('_', " "),
            amount: text::signed(movement.amount),
            gain: movement.amount.0 >= 0,
            balance: text::points(movement.balance),
            interval: movement.interval.map(|interval| interval.0),
            reason: movement.reason,
        }
    }
}

#[derive(Template)]
#[template(path = "member.html")]
struct Page {
    shell: Shell,
    id: String,
    kind: &'static str,
    level: Level,
    gone: bool,
    bar: Bar,
    facts: Vec<Fact>,
    chart: Chart,
    rows: Vec<Row>,
    movements: Vec<Moved>,
    older: Option<u64>,
    newest: bool,
}

/// What is read for the page in one view.
struct Found {
    member: Member,
    window: Window,
    movements: Vec<Movement>,
    claims: ClaimState,
    announced: Vec<Announced>,
}

fn facts(found: &Found) -> Vec<Fact> {
    let Found { member, window, claims, announced, .. } = found;
    let remaining = note(member);
    let standing = member.status.as_str();
    let mut facts = vec![
        Fact { name: "Balance", value: format!("{} points", text::points(member.balance)) },
        Fact {
            name: "Standing",
            value: if remaining.is_empty() {
                standing.to_string()
            } else {
                format!("{standing}, {remaining}")
            },
        },
        Fact { name: "Strikes", value: member.strikes.to_string() },
        Fact { name: "Suspensions", value: member.suspensions.to_string() },
        Fact { name: "Address", value: member.address.clone() },
        Fact { name: "Joined", value: format!("{} UTC", text::stamp(member.joined_at)) },
        Fact {
            name: "Answered",
            value: window
                .availability_ppm(&member.id)
                .map_or("\u{2013}".to_string(), |ppm| format!("{} % of the pings shown", text::percent(ppm))),
        },
    ];
    facts.push(Fact {
        name: "Last claim",
        value: claims.receipt.as_ref().map_or("none".to_string(), |receipt| {
            let amount = text::points(receipt.amount);
            format!("no. {} of {amount} points, {} UTC", receipt.seq, text::stamp(receipt.at))
        }),
    });
    if let Some(last) = announced.last() {
        facts.push(Fact { name: "Maintenance", value: format!("intervals {} to {}", last.from, last.to) });
    }
    facts
}

/// The evidence of one interval.
fn row(interval: &Interval, seen: Option<&Observation>) -> Row {
    let dash = || "\u{2013}".to_string();
    let of = |value: fn(&Observation) -> String| seen.map_or_else(dash, value);
    let by = seen.map_or_else(String::new, |seen| {
        let counts =
            seen.by.iter().map(|(node, counts)| format!("{node} {}/{}", counts.answered, counts.sent));
        counts.collect::<Vec<_>>().join(", ")
    });
    Row {
        id: interval.id.0,
        from: text::stamp(interval.opened_at),
        verdict: interval.verdict.as_str(),
        pings: of(|seen| format!("{} / {}", seen.answered, seen.sent)),
        availability: of(|seen| text::percent(seen.availability_ppm)),
        p90: seen
            .filter(|seen| seen.answered > 0)
            .map_or_else(dash, |seen| text::millis(f64::from(seen.p90_us))),
        score: of(|seen| text::percent(seen.score_ppm)),
        reward: of(|seen| text::points(seen.reward)),
        penalty: of(|seen| text::points(seen.penalty)),
        strikes: of(|seen| seen.strikes.to_string()),
        status: match seen {
            Some(seen) if seen.excused => "excused",
            Some(seen) => seen.status.as_str(),
            None => "not judged",
        },
        by,
        class: if Beat::of(interval.verdict, seen) == Beat::Missed { "struck" } else { "" },
    }
}

/// Round trips over the intervals that are shown.
fn latency_chart(window: &Window, member: &MemberId, now: UnixMillis) -> Chart {
    let line = |class, name, of: fn(&Observation) -> u32| {
        let values = window.micros(member, of);
        let points = window.intervals.iter().zip(values);
        let points = points.map(|(interval, us)| (interval.cut_at, us.map(|us| us / 1_000.0)));
        Series { class, name, points: points.collect() }
    };
    let from = window.intervals.first().map_or(UnixMillis(now.0 - 60_000), |first| first.opened_at);
    let to = window.intervals.last().map_or(now, |last| last.cut_at);
    let about = chart::About {
        id: "trips",
        title: "Round trips by interval",
        unit: "ms",
        nothing: "No answer is on record in these intervals.",
    };
    let series = vec![
        line("line-a", "median", |seen| seen.p50_us),
        line("line-b", "p90", |seen| seen.p90_us),
        line("line-c", "longest", |seen| seen.max_us),
    ];
    chart::time_chart(about, from, to, series)
}

/// The newest movements that a filter keeps, at most as many as its limit, in order.
fn newest(reader: &dyn Reader, mut filter: RewardFilter) -> Result<Vec<Movement>, KeyspaceError> {
    let mut before = Vec::new();
    loop {
        let mut found = query::rewards(reader, &filter)?;
        match found.last() {
            Some(last) if found.len() == filter.limit => filter.after = last.seq,
            _ => {
                before.append(&mut found);
                let surplus = before.len().saturating_sub(filter.limit);
                return Ok(before.split_off(surplus));
            }
        }
        before = found;
    }
}

/// `GET /members/{id}?before=`
pub async fn member(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let before = Params::parse(&uri, &["before"])?.parsed::<u64>("before")?.map(IntervalId);
    let id = member_of(&id)?;
    let wanted = id.clone();
    let found = state
        .look(move |reader| {
            let Some(member) = query::member(reader, &wanted)? else { return Ok(None) };
            let window = Window::of_member(reader, before, &wanted)?;
            let filter = RewardFilter {
                member: Some(wanted.clone()),
                from: window.intervals.first().map(|first| first.opened_at),
                // An older page ends where the page before it began.
                to: before
                    .and_then(|_| window.intervals.last().map(|last| UnixMillis(last.settled_at.0 + 1))),
                limit: LIMIT_MAX,
                ..RewardFilter::default()
            };
            Ok(Some(Found {
                movements: newest(reader, filter)?,
                claims: query::claims(reader, &wanted)?,
                announced: maintenance::windows(reader, &wanted)?,
                member,
                window,
            }))
        })
        .await?;
    let found = found.ok_or_else(|| {
        Problem::not_found(format!("no member '{id}'")).hint("the members are listed at /members")
    })?;
    let own = state.handle.status.borrow().id.clone();
    let level = state.recorder().level(&state.metrics, &own, id.as_str());
    let gone = found.member.status == MemberStatus::Left;
    let window = &found.window;
    page(&Page {
        shell: Shell::new(&state, Place::Members, "member"),
        kind: found.member.kind.as_str(),
        level,
        gone,
        bar: window.bar(&id, (before.is_none() && !gone).then_some(level)),
        facts: facts(&found),
        chart: latency_chart(window, &id, text::now()),
        rows: window
            .intervals
            .iter()
            .rev()
            .map(|interval| row(interval, window.observation(&id, interval.id)))
            .collect(),
        older: window.intervals.first().map(|first| first.id.0).filter(|first| *first > 1),
        newest: before.is_none(),
        id: id.to_string(),
        movements: found.movements.into_iter().rev().map(Moved::from).collect(),
    })
}
