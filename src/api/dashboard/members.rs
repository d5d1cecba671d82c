//! `GET /members?after=`: every member with its standing, its balance and how fast it answers.

use askama::Template;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::query;
use crate::ledger::records::{Member, MemberStatus, Observation};
use crate::node::status::NodeStatus;
use crate::types::MemberId;

use super::super::ApiState;
use super::super::extract::Params;
use super::super::problem::Problem;
use super::chart::{self, Spark};
use super::heartbeat::{Bar, CELLS, Window};
use super::recorder::Level;
use super::{Place, Shell, page, text};

/// Members on a page.
const PAGE: usize = 50;

/// A member in the table.
pub struct Row {
    id: String,
    kind: &'static str,
    address: String,
    level: Level,
    status: &'static str,
    note: String,
    balance: String,
    strikes: u32,
    p90: String,
    spark: Spark,
    bar: Bar,
}

#[derive(Template)]
#[template(path = "members.html")]
struct Members {
    shell: Shell,
    counts: String,
    rows: Vec<Row>,
    total: String,
    /// The name to go on after.
    next: Option<String>,
    begins_later: bool,
}

/// What a standing means for pay, in words.
pub fn note(member: &Member) -> String {
    let plural = if member.remaining == 1 { "" } else { "s" };
    match member.status {
        MemberStatus::Suspended => format!("unpaid for {} more interval{plural}", member.remaining),
        MemberStatus::Probation => format!("{} good interval{plural} to go", member.remaining),
        MemberStatus::Active | MemberStatus::Left => String::new(),
    }
}

/// The sparkline of a member's 90th percentiles, and the newest of them.
fn latency(window: &Window, member: &MemberId) -> (Spark, String) {
    let values = window.micros(member, |seen: &Observation| seen.p90_us);
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    let summary = match known.iter().copied().reduce(f64::max) {
        None => "no round trips yet".to_string(),
        Some(max) => {
            let min = known.iter().copied().fold(max, f64::min);
            format!("90th percentile of round trips, {} to {} ms", text::millis(min), text::millis(max))
        }
    };
    let last = values.iter().rev().find_map(|value| *value).map_or("\u{2013}".to_string(), text::millis);
    (chart::spark(&values, CELLS, summary), last)
}

fn row(state: &ApiState, own: &NodeStatus, window: &Window, member: &Member) -> Row {
    let left = member.status == MemberStatus::Left;
    let level = state.recorder().level(&state.metrics, &own.id, member.id.as_str());
    let (spark, p90) = latency(window, &member.id);
    Row {
        bar: window.bar(&member.id, (!left).then_some(level)),
        id: member.id.to_string(),
        kind: member.kind.as_str(),
        address: member.address.clone(),
        level,
        status: member.status.as_str(),
        note: note(member),
        balance: text::points(member.balance),
        strikes: member.strikes,
        p90,
        spark,
    }
}

/// `GET /members?after=`
pub async fn members(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let after = Params::parse(&uri, &["after"])?.parsed::<MemberId>("after")?;
    let begins_later = after.is_some();
    let (mut members, window, total) = state
        .look(move |reader| {
            let members = query::members(reader, after.as_ref(), PAGE + 1)?;
            let window = Window::read(reader, after.as_ref(), &members, &[])?;
            Ok((members, window, query::member_count(reader)?))
        })
        .await?;
    let more = members.len() > PAGE;
    members.truncate(PAGE);
    let status = state.handle.status.borrow().clone();
    let counts = status.members;
    page(&Members {
        shell: Shell::new(&state, Place::Members, "members"),
        counts: format!(
            "{} members: {} up, {} suspect, {} down, {} suspended",
            text::count(counts.total),
            counts.up,
            counts.suspect,
            counts.down,
            counts.suspended
        ),
        rows: members.iter().map(|member| row(&state, &status, &window, member)).collect(),
        total: text::count(total),
        next: members.last().filter(|_| more).map(|member| member.id.to_string()),
        begins_later,
    })
}
