//! Turns what health counted into the report that the ledger expects.

use crate::health::Frozen;
use crate::ledger::command::{ObserverHealth, REPORT_ROWS_MAX, Report, Row};
use crate::types::NodeId;

/// The parts of one report, each small enough for one command. A node that saw nobody still reports: that it was
/// there counts.
pub fn parts(observer: &NodeId, frozen: Frozen) -> Vec<Report> {
    let health = ObserverHealth {
        whole_interval: frozen.health.whole_interval,
        longest_stall_ms: frozen.health.longest_stall_ms,
        score: frozen.health.score,
    };
    let mut rows: Vec<Row> = frozen
        .rows
        .into_iter()
        .map(|row| Row {
            member: row.member,
            sent: row.sent,
            answered: row.answered,
            late: row.late,
            missed: row.missed,
            bad: row.bad,
            unsolicited: row.unsolicited,
            min_us: row.min_us,
            p50_us: row.p50_us,
            p90_us: row.p90_us,
            max_us: row.max_us,
            version: row.version,
        })
        .collect();
    rows.sort_by(|a, b| a.member.cmp(&b.member));
    let chunks: Vec<Vec<Row>> = if rows.is_empty() {
        vec![rows]
    } else {
        rows.chunks(REPORT_ROWS_MAX).map(<[Row]>::to_vec).collect()
    };
    let parts = u32::try_from(chunks.len()).expect("a report of 4 billion parts cannot be");
    let numbered = (0..parts).zip(chunks);
    numbered
        .map(|(part, rows)| Report {
            interval: frozen.interval,
            observer: observer.clone(),
            part,
            parts,
            health,
            rows,
        })
        .collect()
}
