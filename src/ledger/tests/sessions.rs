//! Within a session every sequence is executed at most once: repeated, reordered, late, after expiry and eviction.

use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::codec;
use crate::ledger::command::InSession;
use crate::ledger::keys;
use crate::ledger::sessions::{
    SESSION_BYTES_MAX, SESSION_IDLE_MS, SESSION_WINDOW, SESSIONS_MAX, SessionTotals,
};
use crate::ledger::table;
use crate::types::SessionId;

impl World {
    /// Opens a session.
    fn open(&mut self) -> SessionId {
        match self.run(Command::SessionOpen) {
            Answer::Session { session, expires_after_ms } => {
                assert_eq!(session, SessionId(self.index), "named by its place in the log");
                assert_eq!(expires_after_ms, SESSION_IDLE_MS.unsigned_abs());
                session
            }
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Applies a command in a session, at the same log time as the last.
    fn within(
        &mut self,
        session: SessionId,
        sequence: u64,
        lowest_unanswered: u64,
        command: Command,
    ) -> Outcome {
        let mut envelope = self.envelope(command);
        envelope.request.once = Once::Session(InSession { session, sequence, lowest_unanswered });
        self.apply(&envelope)
    }

    fn session_totals(&self) -> SessionTotals {
        table::read_or_default(&self.space, keys::SESSION_TOTALS).expect("readable")
    }

    fn rows_in(&self, prefix: u8) -> usize {
        self.space.rows.keys().filter(|key| key[0] == prefix).count()
    }
}

fn put(value: u64) -> Command {
    Command::KvPut { key: "k".to_string(), value: value.to_string(), if_revision: None }
}

fn only_if(revision: u64) -> Command {
    Command::KvPut { key: "k".to_string(), value: "0".to_string(), if_revision: Some(revision) }
}

/// What a delivery must lead to.
enum Expect {
    /// Executed: the dictionary has this revision now.
    Revision(u64),
    /// The answer of an earlier row, and nothing changes but the session's age.
    AsRow(usize),
    /// Refused, and nothing changes at all.
    Refused(&'static str),
}

/// One row per delivery to one session: sequence, lowest unanswered, command, what must come of it.
#[test]
fn every_case_of_a_delivery() {
    use Expect::{AsRow, Refused, Revision};
    let mut world = World::empty();
    let session = world.open();
    let ahead = SESSION_WINDOW;
    let rows = [
        // One after the other; a repeat gets the first answer.
        (1, 1, put(1), Revision(1)),
        (1, 1, put(1), AsRow(0)),
        (2, 2, put(2), Revision(2)),
        // The first is acknowledged: its answer is gone, and it is never executed again.
        (1, 1, put(1), Refused("outside the window")),
        // Another command under the same number.
        (2, 2, put(9), Refused("conflict")),
        // Several outstanding, in any order.
        (5, 3, put(5), Revision(3)),
        (3, 3, put(3), Revision(4)),
        (5, 3, put(5), AsRow(5)),
        (4, 3, put(4), Revision(5)),
        // A delivery with an older lowest number does not take an acknowledgement back.
        (2, 1, put(2), Refused("outside the window")),
        (6, 1, put(6), Revision(6)),
        (2, 2, put(2), Refused("outside the window")),
        // A rejection is an answer too: a repeat does not try again.
        (7, 3, only_if(99), Refused("conflict")),
        (7, 3, only_if(99), AsRow(12)),
        // What was given up and overtaken by an acknowledgement cannot happen any more.
        (10, 9, put(10), Revision(7)),
        (8, 8, put(8), Refused("outside the window")),
        (9, 9, put(9), Revision(8)),
        // Nonsense.
        (0, 0, put(0), Refused("bad request")),
        (11, 12, put(11), Refused("bad request")),
        (11, 9, Command::SessionClose { session }, Refused("bad request")),
        (11, 9, Command::SessionKeepAlive { session }, Refused("bad request")),
        (11, 9, Command::SessionOpen, Refused("bad request")),
        // So far ahead that the answers between would be too many.
        (9 + ahead, 9, put(0), Refused("outside the window")),
        (9 + ahead, 10, put(0), Revision(9)),
        (8 + ahead, 9, put(0), Revision(10)),
    ];
    let mut answers: Vec<Applied> = Vec::new();
    for (at, (sequence, lowest, command, expected)) in rows.into_iter().enumerate() {
        let (before, revision) = (world.space.clone(), query::kv_revision(&world.space));
        let outcome = world.within(session, sequence, lowest, command);
        let answer = &outcome.applied.answer;
        match expected {
            Revision(revision) => {
                assert_eq!(*answer, Answer::Kv { revision }, "row {at}");
                assert_eq!(outcome.happenings.len(), 1, "row {at}");
            }
            AsRow(row) => {
                assert_eq!(outcome.applied, answers[row], "row {at}");
                assert_eq!((query::kv_revision(&world.space), outcome.happenings), (revision, vec![]));
            }
            Refused(how) => {
                assert_eq!(rejection(answer), how, "row {at}: {answer:?}");
                // Row 12 is a rejection by the dictionary, which is remembered.
                assert!(world.space == before || at == 12, "row {at}: a refusal changes nothing");
            }
        }
        answers.push(outcome.applied);
    }
    assert_eq!(world.rows_in(keys::SESSION_AGE_TABLE), 1);
}

#[test]
fn sessions_know_nothing_of_each_other() {
    let mut world = World::empty();
    let (one, two) = (world.open(), world.open());
    assert_eq!(world.within(one, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 1 });
    assert_eq!(world.within(two, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 2 });
    assert_eq!(world.run(Command::SessionClose { session: one }), Answer::Done);
    assert_eq!(rejection(&world.within(one, 1, 1, put(1)).applied.answer), "session expired");
    assert_eq!(rejection(&world.run(Command::SessionClose { session: one })), "session expired");
    assert_eq!(rejection(&world.run(Command::SessionKeepAlive { session: one })), "session expired");
    assert_eq!(world.within(two, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 2 });
    assert_eq!((world.session_totals().sessions, world.rows_in(keys::SESSION_ANSWER_TABLE)), (1, 1));
    assert_eq!(rejection(&world.within(SessionId(77), 1, 1, put(1)).applied.answer), "session expired");
}

#[test]
fn an_acknowledgement_drops_answers_and_their_bytes() {
    let mut world = World::empty();
    let session = world.open();
    for sequence in 1..=10 {
        world.within(session, sequence, 1, put(sequence));
    }
    assert_eq!(world.rows_in(keys::SESSION_ANSWER_TABLE), 10);
    let ten = world.session_totals().bytes;
    world.within(session, 11, 11, put(11));
    assert_eq!(world.rows_in(keys::SESSION_ANSWER_TABLE), 1);
    let one = world.session_totals().bytes;
    assert!(one > 0 && one * 9 < ten, "{one} of {ten}");
    // A repeat carries an acknowledgement too.
    world.within(session, 12, 11, put(12));
    world.within(session, 12, 12, put(12));
    assert_eq!(world.rows_in(keys::SESSION_ANSWER_TABLE), 1);
    assert_eq!(rejection(&world.within(session, 11, 11, put(11)).applied.answer), "outside the window");
    world.run(Command::SessionClose { session });
    assert_eq!(world.session_totals(), SessionTotals::default());
    assert_eq!(world.rows_in(keys::SESSION_TABLE) + world.rows_in(keys::SESSION_AGE_TABLE), 0);
}

#[test]
fn a_session_ends_by_log_time_and_is_never_executed_again() {
    let mut world = World::empty();
    let session = world.open();
    world.within(session, 1, 1, put(1));
    world.at += SESSION_IDLE_MS - 1;
    assert_eq!(world.within(session, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 1 }, "still known");
    world.at += SESSION_IDLE_MS - 1;
    let kept = world.envelope(Command::SessionKeepAlive { session });
    assert!(matches!(world.apply(&kept).applied.answer, Answer::Session { .. }));
    world.at += SESSION_IDLE_MS;
    let before = world.space.clone();
    let late = world.within(session, 1, 1, put(1));
    assert_eq!(rejection(&late.applied.answer), "session expired");
    assert_eq!(query::kv_revision(&world.space), Ok(1), "no second execution");
    let Answer::Rejected(rejection) = &late.applied.answer else { unreachable!("just looked") };
    assert!(rejection.leaves_other_tries_open());
    assert_eq!(world.rows_in(keys::SESSION_TABLE), 1, "it is cleared away by the next use of any session");
    assert_eq!(before.rows.len(), world.space.rows.len());
    let next = world.open();
    assert_eq!((world.rows_in(keys::SESSION_TABLE), world.rows_in(keys::SESSION_ANSWER_TABLE)), (1, 0));
    // A leader whose clock is behind does not bring it back, and does not end the new one.
    world.at -= 10 * SESSION_IDLE_MS;
    let stale = world.within(session, 2, 2, put(2));
    assert_eq!(rejection_of(&stale), "session expired");
    assert_eq!(world.within(next, 1, 1, put(3)).applied.answer, Answer::Kv { revision: 2 });
}

fn rejection_of(outcome: &Outcome) -> &'static str {
    rejection(&outcome.applied.answer)
}

#[test]
fn the_session_that_was_not_used_for_longest_makes_room() {
    let mut world = World::empty();
    let first = world.open();
    let second = world.open();
    for _ in 2..SESSIONS_MAX {
        world.apply(&world.envelope(Command::SessionOpen).clone());
    }
    assert_eq!(world.session_totals().sessions, SESSIONS_MAX);
    // The first is used: now the second is the oldest.
    assert_eq!(world.within(first, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 1 });
    world.apply(&world.envelope(Command::SessionOpen).clone());
    assert_eq!(world.session_totals().sessions, SESSIONS_MAX);
    assert_eq!(rejection_of(&world.within(second, 1, 1, put(2))), "session expired");
    assert_eq!(world.within(first, 1, 1, put(1)).applied.answer, Answer::Kv { revision: 1 });
}

#[test]
fn answers_are_bounded_in_bytes() {
    let mut world = World::empty();
    let first = world.open();
    world.within(first, 1, 1, put(1));
    // A refusal that repeats a long key is the largest answer there is.
    let long = Command::KvDelete { key: "x".repeat(512), if_revision: None };
    let mut newest = first;
    while world.space.rows.contains_key(&keys::session(first)) {
        newest = world.open();
        for sequence in 1..=SESSION_WINDOW {
            world.within(newest, sequence, 1, long.clone());
        }
    }
    assert!(world.session_totals().bytes <= SESSION_BYTES_MAX);
    assert!(world.session_totals().bytes > SESSION_BYTES_MAX / 2, "it was worth the while");
    assert_eq!(rejection_of(&world.within(first, 1, 1, put(1))), "session expired");
    assert_eq!(
        rejection_of(&world.within(newest, 1, 1, long)),
        "not found",
        "the youngest keeps its answers"
    );
}

/// Logs from before there were sessions hold an optional key where [`Once`] is now.
#[test]
fn requests_of_old_logs_are_read() {
    #[derive(Serialize)]
    struct OldRequest {
        idempotency_key: Option<String>,
        command: Command,
    }
    for (key, once) in [(None, Once::Unguarded), (Some("key".to_string()), Once::Key("key".to_string()))] {
        let old = codec::encode(&OldRequest { idempotency_key: key, command: put(1) });
        assert_eq!(codec::decode(&old), Ok(Request { once, command: put(1) }));
    }
}

/// Something that reaches the log.
#[derive(Debug, Clone)]
enum Delivery {
    /// A request of one of two clients: by its number, with the acknowledgement as of some later moment.
    Request {
        client: usize,
        sequence: u64,
        lowest: u64,
    },
    KeepAlive(usize),
    Time(i64),
    Crowd,
    Close(usize),
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        40 => (0..2_usize, 1..12_u64, 0..12_u64).prop_map(|(client, sequence, lowest)| {
            Delivery::Request { client, sequence, lowest: lowest.min(sequence) }
        }),
        2 => (0..2_usize).prop_map(Delivery::KeepAlive),
        2 => (0..SESSION_IDLE_MS * 3 / 2).prop_map(Delivery::Time),
        1 => Just(Delivery::Crowd),
        1 => (0..2_usize).prop_map(Delivery::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is repeated, reordered, held up or lost: each sequence is executed at most once, each answer of it is
    /// the first one, and whatever is not answered so is refused.
    #[test]
    fn any_interleaving_executes_each_sequence_at_most_once(deliveries in proptest::collection::vec(delivery(), 1..120)) {
        let mut world = World::empty();
        let sessions = [world.open(), world.open()];
        let mut answers: std::collections::BTreeMap<(usize, u64), Applied> = Default::default();
        for delivery in deliveries {
            match delivery {
                Delivery::Request { client, sequence, lowest } => {
                    let command = put(sequence * 2 + client as u64);
                    let revision = query::kv_revision(&world.space).expect("readable");
                    let outcome = world.within(sessions[client], sequence, lowest, command);
                    let executed = query::kv_revision(&world.space).expect("readable") - revision;
                    match &outcome.applied.answer {
                        Answer::Kv { .. } => {
                            let known = answers.get(&(client, sequence));
                            prop_assert_eq!(executed, u64::from(known.is_none()), "executed once");
                            prop_assert!(known.is_none_or(|known| *known == outcome.applied), "the first answer");
                            answers.insert((client, sequence), outcome.applied);
                        }
                        Answer::Rejected(Rejection::SessionExpired(_) | Rejection::OutsideWindow(_)) => {
                            prop_assert_eq!(executed, 0);
                        }
                        other => prop_assert!(sequence == 0 || lowest > sequence, "{:?}", other),
                    }
                }
                Delivery::KeepAlive(client) => {
                    world.run(Command::SessionKeepAlive { session: sessions[client] });
                }
                Delivery::Time(millis) => world.at += millis,
                Delivery::Crowd => {
                    world.open();
                }
                Delivery::Close(client) => {
                    world.run(Command::SessionClose { session: sessions[client] });
                }
            }
            let totals = world.session_totals();
            prop_assert_eq!(totals.sessions, world.rows_in(keys::SESSION_TABLE) as u64);
            prop_assert_eq!(totals.sessions, world.rows_in(keys::SESSION_AGE_TABLE) as u64);
            prop_assert_eq!(totals.bytes == 0, world.rows_in(keys::SESSION_ANSWER_TABLE) == 0);
        }
    }
}
