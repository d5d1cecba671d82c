//! Each test is a dialogue: what the machine wants, what it hears, what it says in the end.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::{Micros, SessionId};

const WRITE: Kind = Kind::Write(Guard::Key);

/// A call with its clock and its client's endpoints.
struct Dialogue {
    endpoints: Endpoints,
    call: Plan,
    now: Micros,
}

impl Dialogue {
    fn begin(kind: Kind, endpoints: &[&str]) -> Dialogue {
        let endpoints = Endpoints::new(endpoints.iter().map(ToString::to_string));
        let now = Micros(1_000_000);
        Dialogue { endpoints, call: Plan::new(kind, now, Duration::from_secs(5), Duration::ZERO), now }
    }

    /// Another call of the same client.
    fn again(self, kind: Kind) -> Dialogue {
        let call = Plan::new(kind, self.now, Duration::from_secs(5), Duration::ZERO);
        Dialogue { call, ..self }
    }

    fn next(&mut self) -> Next {
        self.call.next(&self.endpoints, self.now, 500)
    }

    /// The endpoint that is tried next.
    fn asks(&mut self) -> String {
        match self.next() {
            Next::Try { endpoint, .. } => endpoint,
            other => panic!("no try: {other:?}"),
        }
    }

    /// Asks whom it wants to ask, and hears this a millisecond later.
    fn hears(&mut self, heard: &Heard) -> String {
        let endpoint = self.asks();
        self.now = Micros(self.now.0 + 1_000);
        self.call.heard(&mut self.endpoints, &endpoint, self.now, heard);
        endpoint
    }

    fn waits(&mut self) -> Duration {
        match self.next() {
            Next::Pause(span) => {
                self.now = self.now.after(span);
                span
            }
            other => panic!("no pause: {other:?}"),
        }
    }

    fn is_over(&mut self) -> Verdict {
        match self.next() {
            Next::Over(verdict) => verdict,
            other => panic!("not over: {other:?}"),
        }
    }

    /// Hears the same from everybody until it gives up.
    fn until_over(&mut self, heard: &Heard) -> Verdict {
        loop {
            match self.next() {
                Next::Try { endpoint, limit } => {
                    let takes =
                        if matches!(heard, Heard::Silence { sent: true }) { limit } else { TRY_MIN / 250 };
                    self.now = self.now.after(takes);
                    self.call.heard(&mut self.endpoints, &endpoint, self.now, heard);
                }
                Next::Pause(span) => self.now = self.now.after(span),
                Next::Over(verdict) => return verdict,
            }
        }
    }
}

fn no(retryable: bool, word: Word) -> Heard {
    Heard::No { retryable, word, leader: None }
}

fn no_leader() -> Heard {
    no(true, Word::ThisTryDidNothing)
}

fn led_by(leader: &str) -> Heard {
    Heard::No { retryable: true, word: Word::ThisTryDidNothing, leader: Some(leader.to_string()) }
}

const LOST: Heard = Heard::Silence { sent: true };
const REFUSED: Heard = Heard::Silence { sent: false };

#[test]
fn an_answer_ends_it() {
    let mut call = Dialogue::begin(WRITE, &["a", "b"]);
    assert_eq!(call.hears(&Heard::Answer), "a");
    assert_eq!(call.is_over(), Verdict::Done);
    // Whatever comes late changes nothing.
    call.call.heard(&mut call.endpoints, "b", call.now, &LOST);
    assert_eq!(call.is_over(), Verdict::Done);
}

#[test]
fn everybody_is_asked_then_there_is_a_pause_that_grows() {
    let mut call = Dialogue::begin(WRITE, &["a", "b"]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        assert_eq!([call.hears(&no_leader()), call.hears(&no_leader())], ["a", "b"]);
        pauses.push(call.waits());
    }
    // With this entropy: three quarters of 25, 50, 100, 200, 400, 500, 500 ms.
    assert_eq!(
        pauses.iter().map(Duration::as_micros).collect::<Vec<_>>(),
        [18_750, 37_500, 75_000, 150_000, 300_000, 375_000, 375_000]
    );
    assert_eq!(call.until_over(&no_leader()), Verdict::NotApplied);
}

#[test]
fn a_named_leader_is_asked_at_once_and_nobody_twice_in_a_round() {
    let mut call = Dialogue::begin(WRITE, &["a", "b", "c"]);
    assert_eq!(call.hears(&led_by("c")), "a");
    assert_eq!(call.hears(&led_by("a")), "c", "a was asked in this round");
    assert_eq!(call.hears(&led_by("c")), "b");
    call.waits();
    assert_eq!(call.hears(&led_by("d")), "c", "the last hint comes first in the next round");
    assert_eq!(call.hears(&Heard::Answer), "d", "though nobody gave it as an endpoint");
    let mut next = call.again(WRITE);
    assert_eq!(next.hears(&Heard::Answer), "d", "who answered last is asked first");
}

#[test]
fn whoever_is_silent_is_asked_last_for_a_while() {
    let mut call = Dialogue::begin(Kind::Read, &["a", "b", "c"]);
    assert_eq!(call.hears(&LOST), "a");
    assert_eq!(call.hears(&REFUSED), "b");
    assert_eq!(call.hears(&no_leader()), "c");
    call.waits();
    assert_eq!(
        [call.hears(&no_leader()), call.hears(&no_leader()), call.hears(&no_leader())],
        ["c", "a", "b"]
    );
    call.waits();
    assert_eq!(call.hears(&Heard::Answer), "a", "it has spoken since, and is well");
    let mut next = call.again(Kind::Read);
    assert_eq!(next.hears(&LOST), "a");
    next.hears(&Heard::Answer);
    next.now = next.now.after(SICK_MIN);
    let mut later = next.again(Kind::Read);
    assert_eq!(later.hears(&LOST), "b", "the preferred one");
    assert_eq!(later.hears(&LOST), "a", "its time is over");
}

#[test]
fn one_that_hangs_does_not_eat_the_time_of_the_others() {
    let mut call = Dialogue::begin(WRITE, &["a", "b"]);
    assert_eq!(call.next(), Next::Try { endpoint: "a".to_string(), limit: Duration::from_secs(2) });
    let mut alone = Dialogue::begin(WRITE, &["a"]);
    assert_eq!(alone.next(), Next::Try { endpoint: "a".to_string(), limit: Duration::from_secs(5) });
    let mut waiting = Dialogue::begin(Kind::Read, &["a", "b"]);
    waiting.call = Plan::new(Kind::Read, waiting.now, Duration::from_millis(100), Duration::from_secs(30));
    // The node may hold the answer back for 30 s, and the call has only that and 100 ms.
    assert_eq!(waiting.next(), Next::Try { endpoint: "a".to_string(), limit: Duration::from_millis(30_100) });
}

/// Each row: what one call hears, one try after the other; what it says in the end. `true`: the last is heard again and
/// again until the time is over.
#[test]
fn verdicts() {
    use Verdict::{Done, NotApplied, Refused, Unknown};
    let unguarded = Kind::Write(Guard::Nothing);
    let sequence = Kind::Write(Guard::Sequence);
    let unknown = no(true, Word::Unknown);
    let session_gone = no(false, Word::ThisTryDidNothing);
    let conflict = no(false, Word::RefusedForGood);
    let rows = [
        (WRITE, vec![no_leader()], true, NotApplied),
        (WRITE, vec![REFUSED], true, NotApplied),
        (WRITE, vec![LOST], true, Unknown),
        (WRITE, vec![unknown.clone()], true, Unknown),
        // What a node says of a later try does not end the doubt about the first.
        (WRITE, vec![LOST, no_leader()], true, Unknown),
        (WRITE, vec![LOST, REFUSED], true, Unknown),
        (WRITE, vec![unknown.clone(), no(false, Word::ThisTryDidNothing)], false, Unknown),
        (sequence, vec![LOST, session_gone.clone()], false, Unknown),
        (sequence, vec![session_gone.clone()], false, Refused),
        (sequence, vec![REFUSED, no_leader(), session_gone], false, Refused),
        (sequence, vec![no(false, Word::Unknown)], false, Unknown),
        // The word of the state does.
        (WRITE, vec![LOST, conflict.clone()], false, Refused),
        (WRITE, vec![LOST, unknown.clone(), no_leader(), Heard::Answer], false, Done),
        (WRITE, vec![conflict], false, Refused),
        // Without a guard there is no second try after doubt, but after a clear no there is.
        (unguarded, vec![LOST], false, Unknown),
        (unguarded, vec![unknown.clone()], false, Unknown),
        (unguarded, vec![no_leader(), REFUSED, LOST], false, Unknown),
        (unguarded, vec![no_leader(), REFUSED, Heard::Answer], false, Done),
        // A read is never in doubt.
        (Kind::Read, vec![LOST], true, NotApplied),
        (Kind::Read, vec![unknown, LOST, Heard::Answer], false, Done),
        (Kind::Read, vec![LOST, no(false, Word::ThisTryDidNothing)], false, Refused),
    ];
    for (at, (kind, heard, goes_on, verdict)) in rows.into_iter().enumerate() {
        let mut call = Dialogue::begin(kind, &["a", "b", "c", "d", "e"]);
        for heard in &heard {
            call.hears(heard);
        }
        let last = heard.last().expect("a row has one");
        let said = if goes_on { call.until_over(last) } else { call.is_over() };
        assert_eq!(said, verdict, "row {at}");
    }
}

#[test]
fn sequences_know_the_lowest_unanswered() {
    let mut sequences = Sequences::new(SessionId(7), 4);
    assert_eq!((sequences.session(), sequences.lowest_unanswered()), (SessionId(7), 1));
    let first: Vec<Option<u64>> = (0..5).map(|_| sequences.begin()).collect();
    assert_eq!(first, [Some(1), Some(2), Some(3), Some(4), None], "the window is full");
    sequences.end(2);
    assert_eq!((sequences.lowest_unanswered(), sequences.begin()), (1, None));
    sequences.end(1);
    assert_eq!(sequences.lowest_unanswered(), 3);
    assert_eq!([sequences.begin(), sequences.begin(), sequences.begin()], [Some(5), Some(6), None]);
    (3..=6).for_each(|sequence| sequences.end(sequence));
    assert_eq!((sequences.lowest_unanswered(), sequences.begin()), (7, Some(7)));
}

fn heard() -> impl Strategy<Value = Heard> {
    let word = prop_oneof![Just(Word::ThisTryDidNothing), Just(Word::RefusedForGood), Just(Word::Unknown)];
    let leader = proptest::option::of(prop_oneof![Just("a".to_string()), Just("x".to_string())]);
    prop_oneof![
        1 => Just(Heard::Answer),
        6 => (prop::bool::weighted(0.9), word, leader)
            .prop_map(|(retryable, word, leader)| Heard::No { retryable, word, leader }),
        4 => any::<bool>().prop_map(|sent| Heard::Silence { sent }),
    ]
}

proptest! {
    /// Whatever is heard: it ends within its time, it asks nobody twice between two pauses, it says "unknown" of a write
    /// only after a try that may have happened, and "not applied" only if there was none.
    #[test]
    fn it_ends_in_time_and_says_what_it_knows(
        guard in prop_oneof![Just(Guard::Nothing), Just(Guard::Key), Just(Guard::Sequence)],
        script in proptest::collection::vec((heard(), 0..3_000_u64, any::<u64>()), 1..60),
    ) {
        let mut call = Dialogue::begin(Kind::Write(guard), &["a", "b", "c"]);
        let deadline = call.now.after(Duration::from_secs(5));
        let (mut asked, mut open, mut script) = (Vec::new(), false, script.into_iter().cycle());
        let verdict = loop {
            let (heard, takes_ms, entropy) = script.next().expect("endless");
            match call.call.next(&call.endpoints, call.now, entropy) {
                Next::Over(verdict) => break verdict,
                Next::Pause(span) => {
                    prop_assert!(span <= PAUSE_MAX && span >= PAUSE_MIN / 2);
                    asked.clear();
                    call.now = call.now.after(span);
                }
                Next::Try { endpoint, limit } => {
                    prop_assert!(!asked.contains(&endpoint) && !limit.is_zero());
                    prop_assert!(call.now.after(limit) <= deadline);
                    prop_assert!(!open || guard != Guard::Nothing, "a second try of what cannot be told apart");
                    call.now = call.now.after(limit.min(Duration::from_millis(takes_ms)));
                    call.call.heard(&mut call.endpoints, &endpoint, call.now, &heard);
                    open |= matches!(heard, Heard::Silence { sent: true } | Heard::No { word: Word::Unknown, .. });
                    asked.push(endpoint);
                }
            }
        };
        prop_assert!(call.now <= deadline);
        match verdict {
            Verdict::Unknown => prop_assert!(open),
            Verdict::NotApplied => prop_assert!(!open),
            Verdict::Done | Verdict::Refused => {}
        }
    }
}
