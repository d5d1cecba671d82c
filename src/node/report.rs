//! Turns what health counted into the report that the ledger expects.

use crate::health::Frozen;
use crate::ledger::command::{ObserverHealth, REPORT_PARTS_MAX, REPORT_ROWS_MAX, Report, Row};
use crate::types::NodeId;

/// Rows of one part, as long as the parts are few enough: about 40 KiB, so that no write waits long behind one.
pub const PART_ROWS: usize = 500;

/// The parts of one report, each small enough for one command. A node that saw nobody still reports: that it was
/// there counts.
pub fn parts(observer: &NodeId, frozen: Frozen) -> Vec<Report> {
    let health = ObserverHealth {
        whole_interval: frozen.health.whole_interval,
        longest_stall_ms: frozen.health.longest_stall_ms,
        score: frozen.health.score,
    };
    let rows: Vec<Row> = frozen
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
    let chunks: Vec<Vec<Row>> = if rows.is_empty() {
        vec![rows]
    } else {
        rows.chunks(part_rows(rows.len())).map(<[Row]>::to_vec).collect()
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

/// How many rows one part has, of so many: larger ones where there would be too many parts otherwise.
fn part_rows(rows: usize) -> usize {
    rows.div_ceil(REPORT_PARTS_MAX as usize).clamp(PART_ROWS, REPORT_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_on_any_fleet_has_no_more_parts_than_the_ledger_takes() {
        // A cluster has up to a million members.
        for rows in [1, PART_ROWS, 10_000, 100_000, 512_001, 1_000_000] {
            let part = part_rows(rows);
            assert!(part <= REPORT_ROWS_MAX && rows.div_ceil(part) <= REPORT_PARTS_MAX as usize, "{rows}");
        }
        assert_eq!(part_rows(100_000), PART_ROWS, "and small ones as long as they fit");
    }
}
