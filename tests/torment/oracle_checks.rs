//! The oracle itself: it finds the lies that it is there for, and agrees with an exhaustive search.

use proptest::prelude::*;
use super_node::sim::invariants::linearizable as exhaustive;
use super_node::types;

use crate::oracle::{Action, Content, Operation, Outcome, Seen, judge, judge_content, linearizable};

const ACKNOWLEDGED: fn(u64) -> Outcome = |revision| Outcome::Acknowledged { revision };

fn operation(key: &str, invoked: u64, returned: u64, action: Action) -> Operation {
    Operation { key: key.to_string(), node: "n1".to_string(), invoked, returned, action }
}

fn write(invoked: u64, returned: u64, value: u64, outcome: Outcome) -> Operation {
    operation("a", invoked, returned, Action::Write { value, expected: None, outcome })
}

fn guarded(invoked: u64, returned: u64, value: u64, expected: u64, revision: u64) -> Operation {
    let outcome = ACKNOWLEDGED(revision);
    operation("a", invoked, returned, Action::Write { value, expected: Some(expected), outcome })
}

fn read(invoked: u64, returned: u64, value: u64, revision: u64) -> Operation {
    operation("a", invoked, returned, Action::Read(Some(Seen { value, revision })))
}

fn absent(invoked: u64, returned: u64) -> Operation {
    operation("a", invoked, returned, Action::Read(None))
}

#[test]
fn honest_answers_pass() {
    let histories = [
        vec![write(1, 3, 7, ACKNOWLEDGED(1)), absent(1, 4), read(2, 5, 7, 1)],
        // Two writes at once, seen in one order by everybody.
        vec![
            write(1, 9, 7, ACKNOWLEDGED(2)),
            write(1, 9, 8, ACKNOWLEDGED(1)),
            read(2, 3, 8, 1),
            read(4, 5, 7, 2),
        ],
        // An unknown write that happened late, one that never did, and one that was refused.
        vec![write(1, 2, 7, Outcome::Unknown), absent(3, 4), read(5, 6, 7, 1)],
        vec![write(1, 2, 7, Outcome::Unknown), absent(3, 4), absent(5, 6)],
        vec![write(1, 2, 7, Outcome::NotApplied), absent(3, 4)],
        vec![write(1, 2, 7, ACKNOWLEDGED(1)), guarded(3, 4, 8, 1, 2), guarded(5, 6, 9, 2, 3)],
    ];
    for history in histories {
        assert_eq!(judge(&history), Ok(()), "{history:#?}");
    }
}

#[test]
fn every_lie_is_found() {
    let lies: [(&str, Vec<Operation>); 13] = [
        ("not linearizable", vec![write(1, 2, 7, ACKNOWLEDGED(1)), absent(3, 4)]),
        (
            "not linearizable",
            vec![write(1, 2, 7, ACKNOWLEDGED(1)), write(3, 4, 8, ACKNOWLEDGED(2)), read(5, 6, 7, 1)],
        ),
        // A read saw the new value, a later one the old: even while the write is under way.
        (
            "not linearizable",
            vec![
                write(1, 2, 7, ACKNOWLEDGED(1)),
                write(3, 9, 8, ACKNOWLEDGED(2)),
                read(4, 5, 8, 2),
                read(6, 7, 7, 1),
            ],
        ),
        ("not linearizable", vec![write(1, 2, 7, Outcome::Unknown), read(3, 4, 7, 1), absent(5, 6)]),
        ("nobody wrote", vec![read(1, 2, 7, 1)]),
        ("before it was written", vec![read(1, 2, 7, 1), write(3, 4, 7, ACKNOWLEDGED(1))]),
        ("said not to be applied was", vec![write(1, 2, 7, Outcome::NotApplied), read(3, 4, 7, 1)]),
        ("two revisions", vec![write(1, 2, 7, ACKNOWLEDGED(1)), read(3, 4, 7, 2)]),
        ("two values", vec![write(1, 9, 7, ACKNOWLEDGED(1)), write(1, 9, 8, ACKNOWLEDGED(1))]),
        (
            "revision went back",
            vec![write(1, 2, 7, ACKNOWLEDGED(2)), write(3, 4, 8, ACKNOWLEDGED(1)), read(5, 6, 8, 1)],
        ),
        // Of different keys, too.
        (
            "revision went back",
            vec![
                write(1, 2, 7, ACKNOWLEDGED(5)),
                operation("b", 3, 4, Action::Write { value: 8, expected: None, outcome: ACKNOWLEDGED(4) }),
            ],
        ),
        (
            "has overwritten",
            vec![write(1, 2, 7, ACKNOWLEDGED(1)), guarded(3, 9, 8, 1, 2), guarded(3, 9, 9, 1, 3)],
        ),
        ("not newer", vec![write(1, 9, 7, ACKNOWLEDGED(3)), guarded(1, 9, 8, 2, 2)]),
    ];
    for (rule, history) in lies {
        let verdict = judge(&history);
        assert!(verdict.as_ref().is_err_and(|why| why.contains(rule)), "{rule}: {verdict:?}\n{history:#?}");
    }
}

#[test]
fn a_node_that_holds_something_else_is_found() {
    let history = [
        write(1, 2, 7, ACKNOWLEDGED(1)),
        write(3, 4, 8, ACKNOWLEDGED(2)),
        operation("b", 5, 6, Action::Write { value: 9, expected: None, outcome: Outcome::NotApplied }),
    ];
    let content = |rows: &[(&str, u64, u64)]| -> Content {
        rows.iter()
            .map(|(key, value, revision)| ((*key).to_string(), Seen { value: *value, revision: *revision }))
            .collect()
    };
    for honest in [content(&[("a", 8, 2)]), content(&[("a", 11, 3)])] {
        assert_eq!(judge_content(&history, "n2", &honest), Ok(()));
    }
    let lies = [
        ("lost an acknowledged write", content(&[])),
        ("still holds 7", content(&[("a", 7, 1)])),
        ("holds 7", content(&[("a", 7, 2)])),
        ("said not to be applied", content(&[("a", 8, 2), ("b", 9, 3)])),
    ];
    for (rule, lie) in lies {
        let verdict = judge_content(&history, "n2", &lie);
        assert!(verdict.as_ref().is_err_and(|why| why.contains(rule)), "{rule}: {verdict:?}");
    }
}

/// What a random client did: begin, length, and whether it wrote, was answered, and which write it saw.
fn short_histories() -> impl Strategy<Value = Vec<Operation>> {
    let client = (1_u64..12, 0_u64..6, any::<bool>(), any::<bool>(), 0_u64..5);
    prop::collection::vec(client, 1..9).prop_map(|clients| {
        let writers: Vec<u64> = (0_u64..).zip(&clients).filter(|(_, c)| c.2).map(|(at, _)| at + 1).collect();
        (1_u64..)
            .zip(clients)
            .map(|(number, (invoked, length, writes, answered, seen))| {
                let outcome = if answered { ACKNOWLEDGED(number) } else { Outcome::Unknown };
                let action = if writes {
                    Action::Write { value: number, expected: None, outcome }
                } else {
                    // Only what somebody writes: the rest is checked elsewhere.
                    let seen = usize::try_from(seen).ok().and_then(|seen| writers.get(seen));
                    Action::Read(seen.map(|value| Seen { value: *value, revision: *value }))
                };
                operation("a", invoked, invoked + length, action)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zones_decide_as_an_exhaustive_search_does(history in short_histories()) {
        let same: Vec<exhaustive::Operation> = history
            .iter()
            .map(|operation| {
                let (action, answered) = match operation.action {
                    Action::Write { value, outcome, .. } => {
                        (exhaustive::Action::Write(Some(value)), outcome != Outcome::Unknown)
                    }
                    Action::Read(seen) => (exhaustive::Action::Read(seen.map(|seen| seen.value)), true),
                };
                exhaustive::Operation {
                    invoked: types::Micros(operation.invoked),
                    returned: answered.then_some(types::Micros(operation.returned)),
                    action,
                }
            })
            .collect();
        let borrowed: Vec<&Operation> = history.iter().collect();
        let future = history.iter().any(|read| {
            let Action::Read(Some(seen)) = read.action else { return false };
            history.iter().any(|write| {
                matches!(write.action, Action::Write { value, .. } if value == seen.value)
                    && read.returned < write.invoked
            })
        });
        let decided = linearizable(&borrowed).is_ok() && !future;
        prop_assert_eq!(decided, exhaustive::is_linearizable(&same), "{:#?}", history);
    }
}
