//! What became of the intervals of a history, counted: none may be lost, and nothing of one paid twice.
//!
//! That each is settled once, in order, and at one place of the log is an invariant that is checked at every step; this is the
//! count of what lies in the ledger in the end, which knows nothing of how it came there.

use std::collections::BTreeSet;

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query::{self, RewardFilter};
use crate::ledger::records::MovementKind;
use crate::types::IntervalId;

/// What a ledger holds of the intervals, counted record by record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Intervals {
    /// That ended: each must be settled once.
    pub due: u64,
    /// That have a record.
    pub settled: u64,
    /// That have none because they only just ended.
    pub waiting: u64,
    /// That have none although a later one was settled.
    pub lost: u64,
    /// Rewards and penalties of one member in one interval beyond the first.
    pub doubled: u64,
}

impl Intervals {
    /// Those of a ledger of which nothing was forgotten.
    pub fn count(reader: &dyn Reader) -> Result<Intervals, KeyspaceError> {
        let Some(state) = query::interval_state(reader)? else { return Ok(Intervals::default()) };
        let mut counts = Intervals {
            due: state.open.0 - 1,
            waiting: state.open.0 - state.next_settle.0,
            ..Intervals::default()
        };
        for id in 1..state.next_settle.0 {
            match query::interval(reader, IntervalId(id))? {
                Some(_) => counts.settled += 1,
                None => counts.lost += 1,
            }
        }
        let all = RewardFilter { limit: usize::MAX, ..RewardFilter::default() };
        let mut paid = BTreeSet::new();
        for movement in query::rewards(reader, &all)? {
            if let (Some(interval), MovementKind::Reward | MovementKind::Penalty) =
                (movement.interval, movement.kind)
            {
                let first = paid.insert((interval, movement.kind, movement.member));
                counts.doubled += u64::from(!first);
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use crate::codec;
    use crate::ledger::apply::apply;
    use crate::ledger::command::{Command, Envelope, ObserverHealth, Report, Request};
    use crate::ledger::keyspace::MemoryKeyspace;
    use crate::ledger::policy::Policy;
    use crate::ledger::records::{MemberKind, Movement};
    use crate::ledger::tests::row;
    use crate::types::{Index, NodeId, Term, UnixMillis};

    use super::*;

    /// The ledger of one super-node that has paid one agent for the first of two intervals.
    fn ledger() -> MemoryKeyspace {
        let node: NodeId = "n1".parse().expect("a name");
        let health = ObserverHealth { whole_interval: true, longest_stall_ms: 0, score: 0 };
        let interval = IntervalId(1);
        let (part, parts) = (0, 1);
        let report = Report {
            interval,
            observer: node.clone(),
            part,
            parts,
            health,
            rows: vec![row("a1", 12, 12, 1)],
        };
        let commands = [
            Command::Genesis {
                cluster: "c".to_string(),
                identity: "0".repeat(32),
                policy: Policy::default(),
                nodes: vec![(node.clone(), "n1:1".to_string())],
            },
            Command::MemberJoin {
                member: "a1".parse().expect("a name"),
                kind: MemberKind::Agent,
                address: "a:1".to_string(),
            },
            Command::Cut { interval },
            Command::Report(report),
            Command::Settle { interval },
            Command::Cut { interval: IntervalId(2) },
        ];
        let mut space = MemoryKeyspace::default();
        for (index, command) in (1..).zip(commands) {
            let request = Request::new(command);
            let envelope = Envelope { at: UnixMillis(1), term: Term(1), leader: node.clone(), request };
            apply(&mut space, Index(index), Term(1), &envelope).expect("memory does not fail");
        }
        space
    }

    #[test]
    fn what_is_missing_is_counted_as_lost_and_what_is_there_twice_as_doubled() {
        let mut space = ledger();
        let sound = Intervals { due: 2, settled: 1, waiting: 1, lost: 0, doubled: 0 };
        assert_eq!(Intervals::count(&space).expect("readable"), sound);

        let (key, movements) = space.rows.iter().find(|(key, _)| key[0] == b'r').expect("it was paid");
        let (key, mut block): (_, Vec<Movement>) =
            (key.clone(), codec::decode(movements).expect("movements"));
        let again = Movement { seq: block[0].seq + 1, ..block[0].clone() };
        block.push(again);
        space.rows.insert(key, codec::encode(&block));
        assert_eq!(Intervals::count(&space).expect("readable"), Intervals { doubled: 1, ..sound });

        space.rows.retain(|key, _| key[0] != b'i');
        let broken = Intervals { settled: 0, lost: 1, doubled: 1, ..sound };
        assert_eq!(Intervals::count(&space).expect("readable"), broken);
    }
}
