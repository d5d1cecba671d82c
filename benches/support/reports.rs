//! What super-nodes saw of a large fleet, made up: one in fifty members missed a few pings.

use super_node::ledger::command::{Command, ObserverHealth, REPORT_ROWS_MAX, Report, Row};
use super_node::types::{IntervalId, MemberId, NodeId, Version};

/// The super-nodes, each of which reports.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A super-node by its name.
pub fn node(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

/// A member of the fleet.
pub fn agent(number: usize) -> MemberId {
    format!("worker-{number:06}").parse().expect("a valid name")
}

/// The report of one super-node on so many members, in its parts.
pub fn reports(interval: IntervalId, observer: &str, members: usize) -> Vec<Command> {
    let row = |number: usize| {
        let missed = if number.is_multiple_of(50) { 3 } else { 0 };
        Row {
            member: agent(number),
            sent: 12,
            answered: 12 - missed,
            late: 0,
            missed,
            bad: 0,
            unsolicited: 0,
            min_us: 200,
            p50_us: 400,
            p90_us: 900,
            max_us: 4_000,
            version: Some(Version::current()),
        }
    };
    let rows: Vec<Row> = (0..members).map(row).collect();
    let parts = u32::try_from(rows.len().div_ceil(REPORT_ROWS_MAX)).expect("few parts");
    let health = ObserverHealth { whole_interval: true, longest_stall_ms: 0, score: 0 };
    let report = |(part, rows): (u32, &[Row])| {
        let (observer, rows) = (node(observer), rows.to_vec());
        Command::Report(Report { interval, observer, part, parts, health, rows })
    };
    (0..parts).zip(rows.chunks(REPORT_ROWS_MAX)).map(report).collect()
}
