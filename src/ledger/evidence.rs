//! What the observers saw, as it stands in the keyspace: cuts, reports in parts, and which of them count.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::types::{Index, IntervalId, MemberId, NodeId, Term, UnixMillis, Version};

use super::command::{ObserverHealth, Row};
use super::keys;
use super::keyspace::{Direction, KeyspaceError, Reader};
use super::records::{Counts, Observer};
use super::score::Seen;
use super::table::{self, RawRow};

/// How an interval ended and what was fixed then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRecord {
    /// Log time of its opening.
    pub opened_at: UnixMillis,
    /// Log time of its cut.
    pub cut_at: UnixMillis,
    /// The cutting entry.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Revision of the policy that judges it.
    pub policy: u64,
    /// The super-nodes that are expected to report, ordered by id.
    pub observers: Vec<NodeId>,
    /// How many members there were.
    pub members: u64,
    /// What members' versions are compared with: the lowest that a super-node has stated.
    pub version: Option<Version>,
}

impl CutRecord {
    /// How many observers are more than half of them.
    pub fn majority(&self) -> usize {
        self.observers.len() / 2 + 1
    }
}

/// Which parts of one observer's report are here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportHead {
    /// How many there will be.
    pub parts: u32,
    /// How well the observer was.
    pub health: ObserverHealth,
    /// The parts that are here, with the first and the last member of each (`None`: no rows).
    pub received: BTreeMap<u32, Option<(MemberId, MemberId)>>,
}

impl ReportHead {
    /// Whether all parts are here.
    pub fn is_complete(&self) -> bool {
        self.received.len() as u64 == u64::from(self.parts)
    }
}

/// The cut of an interval; `None` while it is not cut.
pub fn cut(reader: &dyn Reader, interval: IntervalId) -> Result<Option<CutRecord>, KeyspaceError> {
    table::read(reader, &keys::cut(interval))
}

/// The reports of an interval that have come, wholly or in part, by observer.
pub fn heads(
    reader: &dyn Reader,
    interval: IntervalId,
) -> Result<BTreeMap<NodeId, ReportHead>, KeyspaceError> {
    let prefix = keys::numbered(keys::HEAD_TABLE, interval.0);
    let mut heads = BTreeMap::new();
    table::visit(
        reader,
        Bound::Included(&prefix),
        &keys::prefix_end(&prefix),
        Direction::Forward,
        &mut |key, value| {
            let name = String::from_utf8_lossy(&key[prefix.len()..]);
            let observer: NodeId = name.parse().map_err(|_| table::damaged(key, "not a name"))?;
            heads.insert(observer, table::parse(key, value)?);
            Ok(true)
        },
    )?;
    Ok(heads)
}

/// A [`Row`] that borrows its name from the stored bytes. Same fields, same order, same bytes.
#[derive(Debug, Clone, Deserialize)]
#[allow(dead_code, reason = "every field of the stored row must be read to reach the next row")]
struct BorrowedRow<'a> {
    #[serde(borrow)]
    member: &'a str,
    sent: u32,
    answered: u32,
    late: u32,
    missed: u32,
    bad: u32,
    unsolicited: u32,
    min_us: u32,
    p50_us: u32,
    p90_us: u32,
    max_us: u32,
    version: Option<Version>,
}

impl BorrowedRow<'_> {
    fn seen(&self) -> Seen {
        let counts =
            Counts { sent: self.sent, answered: self.answered, missed: self.missed, p90_us: self.p90_us };
        Seen { counts, p50_us: self.p50_us, max_us: self.max_us, version: self.version }
    }
}

/// The stored reports of the observers that count, still encoded.
#[derive(Debug)]
pub struct Evidence {
    observers: Vec<(NodeId, Vec<RawRow>)>,
}

impl Evidence {
    /// Reads the parts of the used observers' reports.
    pub fn load(
        reader: &dyn Reader,
        interval: IntervalId,
        observers: &[Observer],
    ) -> Result<Evidence, KeyspaceError> {
        let mut loaded = Vec::new();
        for observer in observers.iter().filter(|observer| observer.used) {
            let prefix = keys::report(interval, &observer.id);
            let mut parts = Vec::new();
            table::visit(
                reader,
                Bound::Included(&prefix),
                &keys::prefix_end(&prefix),
                Direction::Forward,
                &mut |key, value| {
                    parts.push((key.to_vec(), value.to_vec()));
                    Ok(true)
                },
            )?;
            loaded.push((observer.id.clone(), parts));
        }
        Ok(Evidence { observers: loaded })
    }

    /// Decodes them, ready to be gone through in the order of members.
    pub fn docket(&self) -> Result<Docket<'_>, KeyspaceError> {
        let mut lanes = Vec::new();
        for (observer, parts) in &self.observers {
            let mut rows = Vec::new();
            for (key, value) in parts {
                let part: Vec<BorrowedRow<'_>> =
                    codec::decode_borrowed(value).map_err(|error| table::damaged(key, error.to_string()))?;
                rows.extend(part);
            }
            lanes.push(Lane { observer: observer.clone(), rows, next: 0 });
        }
        Ok(Docket { lanes })
    }
}

#[derive(Debug)]
struct Lane<'a> {
    observer: NodeId,
    rows: Vec<BorrowedRow<'a>>,
    next: usize,
}

/// All observers' rows, side by side, in the order of members.
#[derive(Debug)]
pub struct Docket<'a> {
    lanes: Vec<Lane<'a>>,
}

impl<'a> Docket<'a> {
    /// The smallest member whose rows have not been taken.
    pub fn peek(&self) -> Option<&'a str> {
        self.lanes.iter().filter_map(|lane| lane.rows.get(lane.next).map(|row| row.member)).min()
    }

    /// What each observer saw of `member`. Members must be asked for in order, and none left out (see [`Docket::peek`]).
    pub fn take(&mut self, member: &str) -> Vec<(NodeId, Seen)> {
        let mut seen = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            if let Some(row) = lane.rows.get(lane.next).filter(|row| row.member == member) {
                seen.push((lane.observer.clone(), row.seen()));
                lane.next += 1;
            }
        }
        seen
    }

    /// Back to the first member.
    pub fn rewind(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.next = 0);
    }

    /// Takes an observer's rows out.
    pub fn set_aside(&mut self, observer: &NodeId) {
        self.lanes.retain(|lane| lane.observer != *observer);
    }

    /// Takes everybody's rows out.
    pub fn clear(&mut self) {
        self.lanes.clear();
    }

    /// Each observer with all its rows.
    pub fn lanes(&self) -> impl Iterator<Item = (&NodeId, impl Iterator<Item = (&'a str, Seen)>)> {
        self.lanes.iter().map(|lane| (&lane.observer, lane.rows.iter().map(|row| (row.member, row.seen()))))
    }
}

/// What a row says, as far as it is scored.
pub fn seen(row: &Row) -> Seen {
    let counts = Counts { sent: row.sent, answered: row.answered, missed: row.missed, p90_us: row.p90_us };
    Seen { counts, p50_us: row.p50_us, max_us: row.max_us, version: row.version }
}

/// The row of one observer about one member, if its report has one.
pub fn row(
    reader: &dyn Reader,
    interval: IntervalId,
    observer: &NodeId,
    member: &MemberId,
) -> Result<Option<Row>, KeyspaceError> {
    let Some(head) = table::read::<ReportHead>(reader, &keys::head(interval, observer))? else {
        return Ok(None);
    };
    for (part, range) in &head.received {
        let inside = range.as_ref().is_some_and(|(first, last)| first <= member && member <= last);
        if inside {
            let rows: Vec<Row> = table::expect(reader, &keys::report_part(interval, observer, *part))?;
            return Ok(rows.into_iter().find(|row| row.member == *member));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_row_reads_what_a_row_wrote() {
        let row = Row {
            member: "m.1".parse().expect("name"),
            sent: 12,
            answered: 300,
            late: 1,
            missed: 2,
            bad: 3,
            unsolicited: 4,
            min_us: 5,
            p50_us: 70_000,
            p90_us: 80_000,
            max_us: 90_000,
            version: Some(Version { major: 1, minor: 2, patch: 3 }),
        };
        let bytes = codec::encode(&vec![row]);
        let read: Vec<BorrowedRow<'_>> = codec::decode_borrowed(&bytes).expect("same layout");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].member, "m.1");
        let counts = Counts { sent: 12, answered: 300, missed: 2, p90_us: 80_000 };
        let version = Some(Version { major: 1, minor: 2, patch: 3 });
        assert_eq!(read[0].seen(), Seen { counts, p50_us: 70_000, max_us: 90_000, version });
        assert_eq!((read[0].late, read[0].bad, read[0].unsolicited, read[0].min_us), (1, 3, 4, 5));
    }
}
