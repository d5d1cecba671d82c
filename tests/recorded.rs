//! A history that was recorded once, and what it was settled to then. It stays as it is: whoever changes the arithmetic, the
//! canonical bytes or the format of the log meets it here.
//!
//! `tests/recorded/history.bin` holds log entries, each with its length before it (4 bytes, big-endian): three super-nodes
//! and up to six agents over 42 intervals, all three verdicts, observers that are ill or absent, members that come and go,
//! maintenance, claims, adjustments, a budget. `history.json` says what was on record at its end.

use serde_json::Value;
use super_node::codec;
use super_node::ledger::apply::apply;
use super_node::ledger::backwards::verify_from_newest;
use super_node::ledger::command::Envelope;
use super_node::ledger::keyspace::MemoryKeyspace;
use super_node::ledger::query;
use super_node::ledger::rehearse::{Wish, rehearse};
use super_node::ledger::verify::verify;
use super_node::types::{Index, IntervalId, Term};

const HISTORY: &[u8] = include_bytes!("recorded/history.bin");
const RECORD: &str = include_str!("recorded/history.json");

/// The entries, still encoded.
fn entries() -> Vec<&'static [u8]> {
    let (mut rest, mut entries) = (HISTORY, Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (entry, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        entries.push(entry);
        rest = after;
    }
    assert!(rest.is_empty());
    entries
}

fn replay() -> MemoryKeyspace {
    let mut space = MemoryKeyspace::default();
    for (index, entry) in (1..).zip(entries()) {
        let envelope: Envelope = codec::decode(entry).expect("an entry of the log");
        apply(&mut space, Index(index), Term(1), &envelope).expect("memory does not fail");
    }
    space
}

#[test]
fn the_log_of_then_is_read_and_written_to_the_same_bytes() {
    let entries = entries();
    assert!(entries.len() > 200);
    for (index, entry) in entries.iter().enumerate() {
        let envelope: Envelope =
            codec::decode(entry).unwrap_or_else(|error| panic!("entry {index}: {error}"));
        assert_eq!(codec::encode(&envelope), *entry, "entry {index}");
    }
}

#[test]
fn a_recorded_history_is_settled_and_rehearsed_to_the_same_bytes() {
    let space = replay();
    let record: Value = serde_json::from_str(RECORD).expect("JSON");
    let report = verify(&space, &mut |_, _| {});
    assert!(report.ok, "{:#?}", report.problems);
    let found = serde_json::to_value(&report).expect("plain data");
    for field in ["records", "intervals", "head_hash", "interval_hash"] {
        assert_eq!(found[field], record[field], "{field}");
    }
    assert_eq!(verify_from_newest(&space, None, &mut |_, _| {}), report);
    // The same policies, from the beginning, from the middle, and interval by interval.
    let last = report.intervals;
    for (from, to) in (1..=last).map(|id| (id, id)).chain([(1, last), (last / 2, last)]) {
        let wish = Wish { from: IntervalId(from), to: IntervalId(to), revision: None };
        let found = rehearse(&space, &wish).expect("readable");
        assert!(found.identical, "{from} to {to}");
        assert!(found.members.iter().all(|member| member.difference == 0));
    }
    // Another policy comes out differently, or this test could not fail.
    let mut other = query::revision_in_force(&space).expect("readable").expect("founded");
    other.policy.reward.0 += 1_000_000;
    let wish = Wish { from: IntervalId(1), to: IntervalId(last), revision: Some(other) };
    assert!(!rehearse(&space, &wish).expect("readable").identical);
}
