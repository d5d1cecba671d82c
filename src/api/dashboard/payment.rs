//! `GET /intervals/{id}/members/{member}`: why a member was paid what it was paid.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::explain::{self, Explanation, Witness};
use crate::types::IntervalId;

use super::super::ApiState;
use super::super::extract::Params;
use super::super::history::number_of;
use super::super::members::member_of;
use super::super::problem::Problem;
use super::{Place, Shell, page, text};

/// What one observer saw.
pub struct Row {
    observer: String,
    used: bool,
    why: String,
    sent: String,
    answered: String,
    late: String,
    missed: String,
    p50: String,
    p90: String,
    max: String,
    stall: String,
}

#[derive(Template)]
#[template(path = "payment.html")]
struct Payment {
    shell: Shell,
    interval: u64,
    member: String,
    verdict: &'static str,
    span: String,
    reward: String,
    penalty: String,
    agrees: bool,
    rows: Vec<Row>,
    lines: Vec<String>,
}

fn row(witness: &Witness) -> Row {
    let dash = || "\u{2013}".to_string();
    let row = witness.row.as_ref();
    let trips = |us: Option<u32>| us.filter(|us| *us > 0).map_or_else(dash, |us| text::millis(f64::from(us)));
    let counted = |count: Option<u32>| count.map_or_else(dash, |count| count.to_string());
    Row {
        observer: witness.observer.to_string(),
        used: witness.used,
        why: witness.why.clone(),
        sent: counted(row.map(|row| row.sent)),
        answered: counted(row.map(|row| row.answered)),
        late: counted(row.map(|row| row.late)),
        missed: counted(row.map(|row| row.missed)),
        p50: trips(row.map(|row| row.p50_us)),
        p90: trips(row.map(|row| row.p90_us)),
        max: trips(row.map(|row| row.max_us)),
        stall: witness.health.map_or_else(dash, |health| health.longest_stall_ms.to_string()),
    }
}

fn model(shell: Shell, found: Explanation) -> Payment {
    let Explanation { interval, member, evidence, observation, agrees, lines, .. } = found;
    let paid = observation.as_ref();
    Payment {
        shell,
        interval: interval.id.0,
        member: member.to_string(),
        verdict: interval.verdict.as_str(),
        span: format!("{} to {}", text::stamp(interval.opened_at), text::clock(interval.cut_at)),
        reward: paid.map_or("nothing".to_string(), |paid| text::points(paid.reward)),
        penalty: paid.map_or("nothing".to_string(), |paid| text::points(paid.penalty)),
        agrees,
        rows: evidence.iter().map(row).collect(),
        lines,
    }
}

/// `GET /intervals/{id}/members/{member}`
pub async fn payment(
    State(state): State<ApiState>,
    Path((id, member)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::parse(&uri, &[])?;
    let (id, member) = (IntervalId(number_of(&id, "an interval")?), member_of(&member)?);
    let asked = member.clone();
    let found = state.look(move |reader| Ok(explain::explain(reader, id, &asked)?)).await?;
    let found = found.ok_or_else(|| {
        Problem::not_found(format!("interval {id} holds no judgement of '{member}' on this node"))
            .hint("it may not be settled yet, or be forgotten (storage.history); the settled ones are at /intervals")
    })?;
    page(&model(Shell::new(&state, Place::Intervals, "payment"), found))
}
