//! The first two steps of an interval: the cut, and the observers' reports.

use crate::types::{IntervalId, MemberId};

use super::apply::{Entry, Happening, Step, Stop};
use super::command::{Answer, REPORT_PARTS_MAX, REPORT_ROWS_MAX, Rejection, Report, Row};
use super::evidence::{CutRecord, ReportHead};
use super::keys;
use super::keyspace::{Keyspace, Reader};
use super::records::IntervalState;
use super::roster;
use super::table;

/// The interval counters; rejected before the cluster's first command.
pub(super) fn state(reader: &dyn Reader) -> Result<IntervalState, Stop> {
    table::read(reader, keys::INTERVALS)?
        .ok_or_else(|| Rejection::Conflict("the cluster has no genesis yet".to_string()).into())
}

/// [`super::command::Command::Cut`]: the open interval ends, and with it are fixed its policy and who must report.
pub(super) fn cut(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    interval: IntervalId,
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = state(&*space)?;
    if interval < state.open {
        return Err(Rejection::Stale(format!("interval {interval} is already cut")).into());
    }
    if interval > state.open {
        return Err(Rejection::Conflict(format!("interval {} is open, not {interval}", state.open)).into());
    }
    let revision: u64 = table::expect(&*space, keys::POLICY_REVISION)?;
    let policy = super::rules::revision(&*space, revision)?.policy;
    let nodes = super::members::nodes(&*space)?;
    let record = CutRecord {
        opened_at: state.opened_at,
        cut_at: entry.at,
        index: entry.index,
        term: entry.term,
        policy: revision,
        observers: nodes.into_iter().collect(),
        members: table::read_or_default(&*space, keys::PRESENT)?,
        version: super::members::cluster_version(&*space)?,
    };
    table::write(space, &keys::cut(interval), &record)?;
    let next = IntervalState { open: interval.next(), opened_at: entry.at, ..state };
    table::write(space, keys::INTERVALS, &next)?;
    happenings.push(Happening::IntervalCut {
        interval,
        policy,
        opened_at: record.opened_at,
        cut_at: record.cut_at,
        observers: record.observers,
    });
    super::rules::activate(space, next.open, happenings)?;
    Ok(Answer::Done)
}

/// [`super::command::Command::Report`]: one part of what one super-node saw.
pub(super) fn report(space: &mut dyn Keyspace, report: &Report, happenings: &mut Vec<Happening>) -> Step {
    let state = state(&*space)?;
    let (interval, observer) = (report.interval, &report.observer);
    if interval < state.next_settle {
        return Err(Rejection::Stale(format!("interval {interval} is already settled")).into());
    }
    if interval >= state.open {
        return Err(Rejection::Conflict(format!("interval {interval} is not cut yet")).into());
    }
    let cut: CutRecord = table::expect(&*space, &keys::cut(interval))?;
    if !cut.observers.contains(observer) {
        let why = format!("{observer} was no super-node when interval {interval} was cut");
        return Err(Rejection::BadRequest(why).into());
    }
    check_rows(report)?;
    let stored: Option<ReportHead> = table::read(&*space, &keys::head(interval, observer))?;
    let mut head = match stored {
        None => ReportHead { parts: report.parts, health: report.health, received: Default::default() },
        Some(head) if head.received.contains_key(&report.part) => {
            let why = format!("part {} of {observer}'s report on {interval} is already here", report.part);
            return Err(Rejection::Stale(why).into());
        }
        Some(head) if (head.parts, head.health) != (report.parts, report.health) => {
            let why = format!("this part of {observer}'s report on {interval} belongs to another report");
            return Err(Rejection::Conflict(why).into());
        }
        Some(head) => head,
    };
    check_place(&head, report)?;
    check_known(&*space, &report.rows)?;
    let range = report.rows.first().zip(report.rows.last());
    head.received.insert(report.part, range.map(|(first, last)| (first.member.clone(), last.member.clone())));
    table::write(space, &keys::report_part(interval, observer, report.part), &report.rows)?;
    table::write(space, &keys::head(interval, observer), &head)?;
    let part = report.part;
    happenings.push(Happening::ReportPartAccepted { interval, observer: observer.clone(), part });
    if head.is_complete() {
        happenings.push(Happening::ReportAccepted { interval, observer: observer.clone() });
    }
    Ok(Answer::Done)
}

/// What can be said about a part by itself.
fn check_rows(report: &Report) -> Result<(), Rejection> {
    let bad = |why: String| Err(Rejection::BadRequest(why));
    if report.parts == 0 || report.parts > REPORT_PARTS_MAX || report.part >= report.parts {
        return bad(format!(
            "part {} of {}: a report has 1 to {REPORT_PARTS_MAX} parts, numbered from 0",
            report.part, report.parts
        ));
    }
    if report.rows.len() > REPORT_ROWS_MAX {
        return bad(format!("{} rows in one part, and at most {REPORT_ROWS_MAX} fit", report.rows.len()));
    }
    if !report.rows.is_sorted_by(|a, b| a.member < b.member) {
        return bad("rows must be ordered by member, each member once".to_string());
    }
    let itself = MemberId::from(&report.observer);
    for row in &report.rows {
        if row.member == itself {
            return bad(format!("{itself} reports on itself"));
        }
        if u64::from(row.sent) != u64::from(row.answered) + u64::from(row.missed) {
            let (sent, answered, missed) = (row.sent, row.answered, row.missed);
            return bad(format!("{}: {sent} sent is not {answered} answered + {missed} missed", row.member));
        }
    }
    Ok(())
}

/// Parts stand in the order of members too, so that no member is counted twice.
fn check_place(head: &ReportHead, report: &Report) -> Result<(), Rejection> {
    let Some((first, last)) = report.rows.first().zip(report.rows.last()) else { return Ok(()) };
    for (part, range) in &head.received {
        let Some((stored_first, stored_last)) = range else { continue };
        let in_order =
            if *part < report.part { *stored_last < first.member } else { last.member < *stored_first };
        if !in_order {
            let why = format!("parts {part} and {} of the report overlap or are out of order", report.part);
            return Err(Rejection::BadRequest(why));
        }
    }
    Ok(())
}

/// Every row is about somebody who is or was a member. One walk over the members between the first and the last row.
fn check_known(reader: &dyn Reader, rows: &[Row]) -> Result<(), Stop> {
    let Some((first, last)) = rows.first().zip(rows.last()) else { return Ok(()) };
    let mut wanted = rows.iter().map(|row| &row.member).peekable();
    roster::names_between(reader, (&first.member, &last.member), &mut |known| {
        let step = wanted.next_if(|member| *member == known);
        // Rows are in order, so one that is smaller than what the walk has reached is nobody's.
        step.is_some() || wanted.peek().is_some_and(|member| *member > known)
    })?;
    match wanted.peek() {
        None => Ok(()),
        Some(unknown) => Err(Rejection::BadRequest(format!("{unknown} is not a member")).into()),
    }
}
