//! Each test is a transcript or a table; its name is the claim.

use std::sync::Arc;

use crate::types::AgentKey;

use super::*;

const MS: u64 = 1_000;
const EVERY: u64 = 5_000 * MS;
const TIMEOUT: u64 = 500 * MS;

fn id(name: &str) -> MemberId {
    name.parse().expect("a valid name")
}

fn agent(name: &str) -> (MemberId, Target) {
    (id(name), Target::Agent { address: Arc::from(format!("{name}:1")), key: AgentKey([0; 32]) })
}

fn version() -> Version {
    Version { major: 1, minor: 2, patch: 3 }
}

fn observer(members: &[&str]) -> Health {
    let mut health = Health::new(Config::new(id("n1")), Micros(0));
    let members = members.iter().map(|name| agent(name)).collect();
    assert_eq!(health.step(Micros(0), Input::Members(members)), []);
    health
}

/// Ticks at the next deadline and returns the time and what happened.
fn wake(health: &mut Health) -> (Micros, Vec<Effect>) {
    let now = health.deadline();
    (now, health.step(now, Input::Tick))
}

/// Sequence numbers of the pings among `effects`.
fn seqs(effects: &[Effect]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Ping { seq, .. } => Some(*seq),
            _ => None,
        })
        .collect()
}

fn answer(health: &mut Health, at: Micros, member: &str, seq: u64) -> Vec<Effect> {
    health.step(at, Input::Answered { member: id(member), seq, version: version() })
}

fn cut(health: &mut Health, at: Micros, interval: u64) -> Frozen {
    let effects = health.step(at, Input::Cut { interval: IntervalId(interval) });
    match effects.into_iter().next() {
        Some(Effect::Report(frozen)) => frozen,
        other => panic!("expected a report, got {other:?}"),
    }
}

/// (sent, answered, late, missed, bad, unsolicited) of the only row.
fn only_row(frozen: &Frozen) -> (u32, u32, u32, u32, u32, u32) {
    let [row] = &frozen.rows[..] else { panic!("expected one row: {frozen:?}") };
    (row.sent, row.answered, row.late, row.missed, row.bad, row.unsolicited)
}

/// Lets one ping of the only member go unanswered; returns the time of the verdict and its effects.
fn miss(health: &mut Health) -> (Micros, Vec<Effect>) {
    let (_, sent) = wake(health);
    assert_eq!(seqs(&sent).len(), 1, "the first try: {sent:?}");
    let (_, retried) = wake(health);
    assert_eq!(seqs(&retried).len(), 1, "the second try: {retried:?}");
    wake(health)
}

/// Lets one ping of the only member be answered after `delay` microseconds.
fn hit(health: &mut Health, member: &str, delay: u64) -> (Micros, Vec<Effect>) {
    let (at, sent) = wake(health);
    let at = Micros(at.0 + delay);
    (at, answer(health, at, member, seqs(&sent)[0]))
}

#[test]
fn pings_of_many_members_are_spread_over_the_period_and_each_comes_once() {
    let names: Vec<String> = (0..1_000).map(|number| format!("worker-{number}")).collect();
    let mut health = observer(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut per_tenth = [0_u32; 10];
    let mut seen = BTreeSet::new();
    while health.deadline() <= Micros(EVERY) {
        let (at, effects) = wake(&mut health);
        assert_eq!(at.0 % 2_000, 0, "on the grid, so that those of one moment leave together");
        for effect in effects {
            if let Effect::Ping { member, seq, .. } = effect
                && seen.insert(member.clone())
            {
                per_tenth[(at.0 % EVERY / (EVERY / 10)) as usize] += 1;
                answer(&mut health, at, member.as_str(), seq);
            }
        }
    }
    assert_eq!(seen.len(), 1_000);
    assert!(per_tenth.iter().all(|&count| (60..=140).contains(&count)), "{per_tenth:?}");
}

#[test]
fn two_observers_ping_one_member_at_different_times() {
    let phases: BTreeSet<u64> =
        ["n1", "n2", "n3"].iter().map(|observer| phase_hash(&id(observer), &id("w")) % EVERY).collect();
    assert_eq!(phases.len(), 3);
    assert_eq!(phase_hash(&id("n1"), &id("w")), phase_hash(&id("n1"), &id("w")));
    assert_ne!(phase_hash(&id("ab"), &id("c")), phase_hash(&id("a"), &id("bc")), "names do not run together");
}

#[test]
fn an_observer_does_not_ping_itself() {
    let mut health = Health::new(Config::new(id("n1")), Micros(0));
    health
        .step(Micros(0), Input::Members(vec![agent("n1"), (id("n2"), Target::Node("n2".parse().unwrap()))]));
    assert_eq!(health.levels().collect::<Vec<_>>(), [(&id("n2"), Level::Suspect)]);
    assert_eq!(health.level(&id("n1")), None);
    let (_, effects) = wake(&mut health);
    let target = Target::Node("n2".parse().unwrap());
    assert_eq!(effects, [Effect::Ping { member: id("n2"), target, seq: 1 << 8 }]);
}

#[test]
fn an_unanswered_ping_is_tried_twice_and_missed_after_two_timeouts() {
    let mut health = observer(&["w"]);
    let (sent_at, first) = wake(&mut health);
    let (retried_at, second) = wake(&mut health);
    let (judged_at, verdict) = wake(&mut health);
    assert_eq!((seqs(&first), seqs(&second)), (vec![1 << 8], vec![1 << 8 | 1]));
    assert_eq!(retried_at, Micros(sent_at.0 + TIMEOUT));
    assert_eq!(judged_at, Micros(sent_at.0 + 2 * TIMEOUT));
    assert_eq!(verdict[0], Effect::Judged { member: id("w"), outcome: Outcome::Missed });
    assert_eq!(seqs(&verdict), [2 << 8], "and a probe follows");
    assert_eq!(only_row(&cut(&mut health, judged_at, 1)), (1, 0, 0, 1, 0, 0));
}

#[test]
fn round_trips_are_measured_from_the_try_that_was_answered() {
    for (name, attempt, at, expected) in [
        ("first try, at once", 0_u64, 80 * MS, 80 * MS),
        ("first try, answered after the second was sent", 0, 600 * MS, 600 * MS),
        ("second try", 1, 600 * MS, 100 * MS),
    ] {
        let mut health = observer(&["w"]);
        let (sent_at, _) = wake(&mut health);
        if at > TIMEOUT {
            wake(&mut health);
        }
        let effects = answer(&mut health, Micros(sent_at.0 + at), "w", 1 << 8 | attempt);
        let outcome = Outcome::Answered { round_trip_us: Some(expected as u32) };
        assert_eq!(effects[0], Effect::Judged { member: id("w"), outcome }, "{name}");
        let frozen = cut(&mut health, Micros(sent_at.0 + at), 1);
        assert_eq!(only_row(&frozen), (1, 1, 0, 0, 0, 0), "{name}");
        assert_eq!(
            (frozen.rows[0].min_us, frozen.rows[0].max_us),
            (expected as u32, expected as u32),
            "{name}"
        );
        assert_eq!(frozen.rows[0].version, Some(version()), "{name}");
    }
}

#[test]
fn what_arrives_is_counted_as_what_it_is() {
    let first = 1 << 8;
    for (name, answered_before_miss, then, expected) in [
        ("a duplicate is unsolicited", true, vec![first], (1, 1, 0, 0, 0, 1)),
        ("a number never used is bad", true, vec![99 << 8], (1, 1, 0, 0, 1, 0)),
        ("number zero is bad", true, vec![0], (1, 1, 0, 0, 1, 0)),
        ("after the verdict it is late", false, vec![first], (1, 0, 1, 1, 0, 0)),
        ("each try may be late once", false, vec![first, first | 1], (1, 0, 2, 1, 0, 0)),
        ("a third late answer is unsolicited", false, vec![first, first, first], (1, 0, 2, 1, 0, 1)),
        ("a try never made is bad", false, vec![first | 2], (1, 0, 0, 1, 1, 0)),
    ] {
        let mut health = observer(&["w"]);
        let at = if answered_before_miss { hit(&mut health, "w", MS).0 } else { miss(&mut health).0 };
        for seq in then {
            assert_eq!(answer(&mut health, at, "w", seq), [], "{name}");
        }
        assert_eq!(only_row(&cut(&mut health, at, 1)), expected, "{name}");
    }
}

#[test]
fn the_answer_to_the_other_try_of_an_answered_ping_is_not_held_against_the_member() {
    let mut health = observer(&["w"]);
    wake(&mut health);
    let (at, _) = wake(&mut health);
    answer(&mut health, Micros(at.0 + MS), "w", 1 << 8);
    answer(&mut health, Micros(at.0 + 2 * MS), "w", 1 << 8 | 1);
    answer(&mut health, Micros(at.0 + 3 * MS), "w", 1 << 8 | 1);
    assert_eq!(only_row(&cut(&mut health, Micros(at.0 + 4 * MS), 1)), (1, 1, 0, 0, 0, 1));
}

#[test]
fn strangers_are_ignored() {
    let mut health = observer(&["w"]);
    let stranger = Input::Answered { member: id("stranger"), seq: 256, version: version() };
    assert_eq!(health.step(Micros(1), stranger), []);
    assert_eq!(cut(&mut health, Micros(2), 1).rows, []);
}

#[test]
fn a_ping_under_way_at_the_cut_counts_in_the_next_interval() {
    let mut health = observer(&["w"]);
    let (at, _) = wake(&mut health);
    assert_eq!(cut(&mut health, Micros(at.0 + MS), 1).rows, []);
    answer(&mut health, Micros(at.0 + 2 * MS), "w", 1 << 8);
    assert_eq!(only_row(&cut(&mut health, Micros(at.0 + 3 * MS), 2)), (1, 1, 0, 0, 0, 0));
    assert_eq!(cut(&mut health, Micros(at.0 + 4 * MS), 3).rows, [], "counters start anew");
}

#[test]
fn no_outcome_is_lost_or_counted_twice_wherever_the_cuts_fall() {
    for step in [7, 130, 333, 1_000, 4_999] {
        let mut health = observer(&["a", "b", "c"]);
        let (mut judged, mut reported, mut interval) = (0, 0, 0);
        let mut now = 0;
        while now < 40 * EVERY {
            now += step * MS;
            let mut effects = health.step(Micros(now), Input::Tick);
            for seq in seqs(&effects) {
                // Every third ping is answered, at its first or second try.
                if (seq >> 8) % 3 == 0 {
                    for name in ["a", "b", "c"] {
                        effects.extend(answer(&mut health, Micros(now + MS), name, seq));
                    }
                }
            }
            judged += effects.iter().filter(|effect| matches!(effect, Effect::Judged { .. })).count() as u32;
            if now % (3 * EVERY) < step * MS {
                interval += 1;
                reported +=
                    cut(&mut health, Micros(now), interval).rows.iter().map(|row| row.sent).sum::<u32>();
            }
        }
        reported += cut(&mut health, Micros(now), interval + 1).rows.iter().map(|row| row.sent).sum::<u32>();
        assert!(judged > 20, "something was judged");
        assert_eq!(judged, reported, "step of {step} ms");
    }
}

/// Edges among `effects`, as (to, tries missed).
fn edges(effects: &[Effect]) -> Vec<(Level, u32)> {
    let edge = |effect: &Effect| match effect {
        Effect::Edge { to, misses, .. } => Some((*to, *misses)),
        _ => None,
    };
    effects.iter().filter_map(edge).collect()
}

/// Lets the member be silent until `until`; returns what happened, with the times.
fn silence(health: &mut Health, until: Micros) -> Vec<(Micros, Effect)> {
    let mut all = Vec::new();
    while health.deadline() <= until {
        let (at, effects) = wake(health);
        all.extend(effects.into_iter().map(|effect| (at, effect)));
    }
    all
}

#[test]
fn a_silent_member_is_probed_without_a_pause_until_it_is_held_dead() {
    let mut health = observer(&["w"]);
    hit(&mut health, "w", MS);
    let start = health.deadline();
    let all = silence(&mut health, Micros(start.0 + EVERY - 1));
    let sent: Vec<u64> = all
        .iter()
        .filter(|(_, effect)| matches!(effect, Effect::Ping { .. }))
        .map(|(at, _)| (at.0 - start.0) / TIMEOUT)
        .collect();
    assert_eq!(sent, [0, 1, 2, 3, 4, 5, 6, 7], "the ping, its second try, six probes");
    let edges: Vec<_> = all
        .iter()
        .filter_map(|(at, effect)| match effect {
            Effect::Edge { to, misses, .. } => Some(((at.0 - start.0) / TIMEOUT, *to, *misses)),
            _ => None,
        })
        .collect();
    assert_eq!(edges, [(4, Level::Suspect, 4), (8, Level::Down, 8)]);
    // Of all that, one ping counts in the interval.
    assert_eq!(only_row(&cut(&mut health, Micros(start.0 + EVERY - 1), 1)), (2, 1, 0, 1, 0, 0));
    let more = silence(&mut health, Micros(start.0 + 3 * EVERY - 1));
    let sent = more.iter().filter(|(_, effect)| matches!(effect, Effect::Ping { .. })).count();
    assert_eq!(sent, 4, "two pings of two tries: a dead member is not probed");
}

#[test]
fn a_dead_member_is_up_after_two_answers_and_the_second_is_asked_for_at_once() {
    let mut health = observer(&["w"]);
    assert_eq!(health.level(&id("w")), Some(Level::Suspect), "never answered");
    let (_, effects) = hit(&mut health, "w", MS);
    assert_eq!(edges(&effects), [(Level::Up, 0)], "whoever was never missed is up with its first answer");
    let start = health.deadline();
    silence(&mut health, Micros(start.0 + EVERY - 1));
    assert_eq!(health.level(&id("w")), Some(Level::Down));
    let (at, effects) = hit(&mut health, "w", MS);
    assert_eq!((edges(&effects), health.level(&id("w"))), (vec![], Some(Level::Down)));
    let [probe] = seqs(&effects)[..] else { panic!("asked once more: {effects:?}") };
    let effects = answer(&mut health, at, "w", probe);
    assert_eq!(edges(&effects), [(Level::Up, 0)]);
    assert_eq!(health.counts(), LevelCounts { up: 1, suspect: 0, down: 0 });
}

#[test]
fn a_member_that_never_answers_goes_from_suspect_to_down() {
    let mut health = observer(&["w"]);
    let all: Vec<Effect> =
        silence(&mut health, Micros(3 * EVERY)).into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(edges(&all), [(Level::Down, 8)]);
}

#[test]
fn a_late_answer_does_not_make_a_member_up() {
    let mut health = observer(&["w"]);
    let at = miss(&mut health).0;
    assert_eq!(answer(&mut health, at, "w", 1 << 8), []);
    assert_eq!(health.level(&id("w")), Some(Level::Suspect));
}

#[test]
fn misses_after_a_stall_of_its_own_say_nothing_about_members() {
    let mut health = observer(&["w"]);
    hit(&mut health, "w", MS);
    let (at, _) = wake(&mut health);
    health.step(Micros(at.0 + 300 * MS), Input::Stalled(Duration::from_millis(300)));
    let edges: Vec<_> = silence(&mut health, Micros(at.0 + 9 * TIMEOUT))
        .into_iter()
        .filter_map(|(now, effect)| match effect {
            Effect::Edge { to, .. } => Some((to, (now.0 - at.0) / TIMEOUT)),
            _ => None,
        })
        .collect();
    // The score of 1 stretches the threshold from four misses to six; the first two fall into the frozen second.
    assert_eq!(edges, [(Level::Suspect, 8)]);
}

fn nodes(names: &[&str]) -> Vec<(MemberId, Target)> {
    names.iter().map(|name| (id(name), Target::Node(name.parse().unwrap()))).collect()
}

/// An observer of super-nodes that are up, and of an agent that was up.
fn with_helpers() -> Health {
    let mut health = observer(&[]);
    let mut members = nodes(&["n2", "n3", "n4"]);
    members.push(agent("w"));
    health.step(Micros(0), Input::Members(members));
    while health.counts().up < 4 {
        let (now, effects) = wake(&mut health);
        for effect in effects {
            if let Effect::Ping { member, seq, .. } = effect {
                answer(&mut health, now, member.as_str(), seq);
            }
        }
    }
    health
}

/// Everybody but the agent answers until something is asked of helpers.
fn until_help(health: &mut Health) -> (Micros, Vec<(NodeId, u64)>) {
    loop {
        let (now, effects) = wake(health);
        let mut asked = Vec::new();
        for effect in effects {
            match effect {
                Effect::Ping { member, seq, .. } if member != id("w") => {
                    answer(health, now, member.as_str(), seq);
                }
                Effect::AskHelp { helper, id: number, member } => {
                    assert_eq!(member, id("w"));
                    asked.push((helper, number));
                }
                _ => {}
            }
        }
        if !asked.is_empty() {
            return (now, asked);
        }
    }
}

#[test]
fn two_super_nodes_are_asked_about_a_silent_member_and_one_that_vouches_for_it_holds_back() {
    let mut health = with_helpers();
    let (first, asked) = until_help(&mut health);
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].0, asked[1].0);
    let vouch = Input::Word { from: asked[0].0.clone(), id: asked[0].1, alive: true };
    assert_eq!(health.step(first, vouch.clone()), []);
    // Said twice, or by somebody who was not asked, it is nothing.
    health.step(first, vouch);
    health.step(first, Input::Word { from: "n9".parse().unwrap(), id: asked[1].1, alive: true });
    let nack = Input::Word { from: asked[1].0.clone(), id: asked[1].1, alive: false };
    assert_eq!(health.step(first, nack), []);
    let (second, _) = until_help(&mut health);
    assert_eq!(health.level(&id("w")), Some(Level::Suspect));
    assert_eq!((second.0 - first.0) / TIMEOUT, 4, "five misses where four would have done");
    assert_eq!(cut(&mut health, second, 1).health.score, 0, "all words came");
}

#[test]
fn helpers_that_say_nothing_count_against_the_observer() {
    let mut health = with_helpers();
    let (at, _) = until_help(&mut health);
    health.step(Micros(at.0 + 1_499 * MS), Input::Tick);
    assert_eq!(health.own.score(), 0);
    health.step(Micros(at.0 + 1_500 * MS), Input::Tick);
    assert_eq!(health.own.score(), 2);
}

#[test]
fn a_helper_tries_for_itself_and_answers_in_any_case() {
    let from: NodeId = "n2".parse().unwrap();
    let word = |id, alive| Effect::Word { to: from.clone(), id, alive };
    let ask = |id, member: &str| Input::HelpAsked { from: from.clone(), id, member: self::id(member) };
    let mut health = observer(&["w"]);
    assert_eq!(health.step(Micros(0), ask(1, "stranger")), [word(1, false)]);
    let sent = health.step(Micros(0), ask(2, "w"));
    let effects = answer(&mut health, Micros(MS), "w", seqs(&sent)[0]);
    assert!(effects.contains(&word(2, true)), "{effects:?}");
    health.step(Micros(2 * MS), ask(3, "w"));
    let effects = silence(&mut health, Micros(2 * MS + TIMEOUT));
    assert!(effects.iter().any(|(_, effect)| *effect == word(3, false)), "{effects:?}");
}

#[test]
fn a_member_that_leaves_keeps_its_row_until_the_cut_and_one_that_returns_continues_it() {
    let mut health = observer(&["a", "b"]);
    let mut at = Micros(0);
    while health.counts().up < 2 {
        let (now, effects) = wake(&mut health);
        for (name, seq) in effects.iter().filter_map(|effect| match effect {
            Effect::Ping { member, seq, .. } => Some((member.as_str(), *seq)),
            _ => None,
        }) {
            answer(&mut health, now, name, seq);
        }
        at = now;
    }
    health.step(at, Input::Members(vec![agent("b")]));
    assert_eq!(health.level(&id("a")), None);
    health.step(at, Input::Members(vec![]));
    health.step(at, Input::Members(vec![agent("b"), agent("c")]));
    assert_eq!(health.counts(), LevelCounts { up: 0, suspect: 2, down: 0 }, "b starts again as unknown");
    let rows: Vec<(String, u32)> =
        cut(&mut health, at, 1).rows.iter().map(|row| (row.member.to_string(), row.answered)).collect();
    assert_eq!(rows, [("a".to_string(), 1), ("b".to_string(), 1)]);
    assert_eq!(cut(&mut health, at, 2).rows, []);
}

#[test]
fn a_removed_member_leaves_nothing_in_the_queue() {
    let mut health = observer(&["a", "b", "c"]);
    health.step(Micros(EVERY), Input::Tick);
    assert!(health.due.len() > 3, "pings are under way");
    health.step(Micros(EVERY), Input::Members(vec![]));
    assert_eq!((health.due.len(), health.deadline()), (0, Micros(u64::MAX)));
    // Slots are used again.
    health.step(Micros(EVERY), Input::Members(vec![agent("d"), agent("e"), agent("f")]));
    assert_eq!((health.due.len(), health.slots.len()), (3, 3));
}

#[test]
fn several_pings_may_wait_at_once_but_not_without_bound() {
    let config = Config {
        ping_every: Duration::from_millis(10),
        ping_timeout: Duration::from_secs(10),
        ..Config::new(id("n1"))
    };
    let mut health = Health::new(config, Micros(0));
    health.step(Micros(0), Input::Members(vec![agent("w")]));
    let mut sent = 0;
    for at in 1..=200 {
        sent += seqs(&health.step(Micros(at * 10 * MS), Input::Tick)).len();
    }
    assert_eq!(sent, WAITING_MAX);
    assert_eq!(answer(&mut health, Micros(2_000 * MS), "w", 3 << 8).len(), 2, "judged and up");
    assert_eq!(seqs(&health.step(Micros(2_010 * MS), Input::Tick)).len(), 1, "room for one more");
}

#[test]
fn a_new_policy_moves_the_schedule_at_once() {
    let mut health = observer(&["a", "b"]);
    let (ping_every, ping_timeout) = (Duration::from_millis(100), Duration::from_millis(20));
    health.step(Micros(7), Input::Timing { ping_every, ping_timeout });
    let (at, sent) = wake(&mut health);
    assert!(at <= Micros(7 + 100 * MS));
    assert_eq!(seqs(&sent).len(), 1);
    // They are held dead, so that nothing is sent but what the schedule says.
    (1..=2_000).for_each(|ms| drop(health.step(Micros(ms * MS), Input::Tick)));
    assert_eq!(health.counts().down, 2);
    let sent: usize = (2_001..=3_000)
        .map(|ms| health.step(Micros(ms * MS), Input::Tick))
        .map(|effects| seqs(&effects).iter().filter(|&&seq| seq & 0xff == 0).count())
        .sum();
    assert_eq!(sent, 20, "two members, ten times a second each");
}

#[test]
fn a_slot_that_was_slept_through_is_left_out() {
    let mut health = observer(&["w"]);
    let late = Micros(10 * EVERY);
    assert_eq!(seqs(&health.step(late, Input::Tick)).len(), 1, "one ping, not ten");
    assert!(health.deadline() > late);
}

#[test]
fn after_a_long_stall_of_its_own_the_observer_asks_again_instead_of_judging() {
    let mut health = observer(&["w"]);
    let (at, _) = hit(&mut health, "w", MS);
    let (sent_at, sent) = wake(&mut health);
    assert_eq!(seqs(&sent), [2 << 8]);
    // Three seconds later the process wakes up: both tries would be over, and another slot is not yet due.
    let woke = Micros(sent_at.0 + 3_000 * MS);
    let effects = health.step(woke, Input::Stalled(Duration::from_secs(3)));
    assert_eq!(seqs(&effects), [2 << 8 | 1], "asked again, nothing judged: {effects:?}");
    assert_eq!(effects.len(), 1);
    // The answer that waited in the socket counts, without a round trip.
    let effects = answer(&mut health, woke, "w", 2 << 8);
    let outcome = Outcome::Answered { round_trip_us: None };
    assert_eq!(effects, [Effect::Judged { member: id("w"), outcome }]);
    let frozen = cut(&mut health, woke, 1);
    assert_eq!(only_row(&frozen), (2, 2, 0, 0, 0, 0));
    assert_eq!(frozen.rows[0].max_us, MS as u32, "only the first ping measured: {at:?}");
    assert_eq!(frozen.health, ObserverHealth { whole_interval: false, longest_stall_ms: 3_000, score: 1 });
}

#[test]
fn a_ping_sent_anew_after_a_stall_has_both_tries_again() {
    let mut health = observer(&["w"]);
    let (sent_at, _) = wake(&mut health);
    wake(&mut health);
    let woke = Micros(sent_at.0 + 2_000 * MS);
    assert_eq!(seqs(&health.step(woke, Input::Stalled(Duration::from_secs(1)))), [1 << 8 | 2]);
    assert_eq!(wake(&mut health).0, Micros(woke.0 + TIMEOUT));
    let (at, verdict) = wake(&mut health);
    assert_eq!(at, Micros(woke.0 + 2 * TIMEOUT));
    assert_eq!(verdict[0], Effect::Judged { member: id("w"), outcome: Outcome::Missed });
}

#[test]
fn the_own_score_rises_with_stalls_and_falls_with_clean_rounds() {
    let mut health = observer(&["w"]);
    let score = |health: &mut Health, at: u64| cut(health, Micros(at), 1).health.score;
    for (at, stall_ms) in [(1, 249), (2, 250), (3, 300), (4, 999)] {
        health.step(Micros(at * MS), Input::Stalled(Duration::from_millis(stall_ms)));
    }
    assert_eq!(score(&mut health, 5 * MS), 3);
    for (periods, expected) in [(1, 3), (2, 2), (3, 1), (4, 0), (5, 0)] {
        assert_eq!(score(&mut health, 5 * MS + periods * EVERY), expected, "after {periods} periods");
    }
}

#[test]
fn an_interval_is_whole_if_the_cut_before_it_was_seen_in_time() {
    let mut health = observer(&["w"]);
    let mut whole = |at: u64, interval| cut(&mut health, Micros(at), interval).health.whole_interval;
    assert!(!whole(0, 4), "started in the middle of it");
    assert!(whole(12 * EVERY, 5));
    assert!(!whole(24 * EVERY, 7), "6 was never seen");
    assert!(!whole(24 * EVERY + 1, 8), "a node that catches up saw nothing of it");
    let mut fresh = observer(&[]);
    cut(&mut fresh, Micros(0), 0);
    assert!(cut(&mut fresh, Micros(EVERY), 1).health.whole_interval, "there from the beginning");
}

#[test]
fn the_longest_stall_is_that_of_the_interval() {
    let mut health = observer(&[]);
    health.step(Micros(1), Input::Stalled(Duration::from_millis(700)));
    health.step(Micros(2), Input::Stalled(Duration::from_millis(30)));
    assert_eq!(cut(&mut health, Micros(3), 1).health.longest_stall_ms, 700);
    assert_eq!(cut(&mut health, Micros(4), 2).health.longest_stall_ms, 0);
}

#[test]
fn a_member_costs_few_bytes() {
    assert!(size_of::<Member>() <= 304, "{}", size_of::<Member>());
    assert!(size_of::<Ping>() <= 56, "{}", size_of::<Ping>());
    let mut health = observer(&["w"]);
    silence(&mut health, Micros(500 * EVERY));
    let member = health.slots[0].as_ref().unwrap();
    assert_eq!(member.pings.len(), member::JUDGED_MAX, "judged pings are forgotten");
}

#[test]
fn nonsense_in_the_settings_is_raised_to_sense() {
    let config = Config { ping_every: Duration::ZERO, ..Config::new(id("n1")) };
    let health = Health::new(config, Micros(0));
    assert_eq!(health.config.ping_every, Duration::from_millis(1));
}

#[test]
fn a_change_of_some_members_leaves_the_others_as_they_are() {
    let mut health = observer(&["a", "b"]);
    let mut at = Micros(0);
    while health.counts().up < 2 {
        let (now, effects) = wake(&mut health);
        for effect in &effects {
            if let Effect::Ping { member, seq, .. } = effect {
                answer(&mut health, now, member.as_str(), *seq);
            }
        }
        at = now;
    }
    let (c, moved) = (agent("c"), (id("a"), agent("elsewhere").1));
    let changed = [c.clone(), moved.clone(), agent("n1")].map(|(id, target)| (id, Some(target)));
    assert_eq!(health.step(at, Input::Changed(changed.into())), []);
    let levels = [(&id("a"), Level::Up), (&id("b"), Level::Up), (&id("c"), Level::Suspect)];
    assert_eq!(health.levels().collect::<Vec<_>>(), levels, "the observer itself is left out");
    let target = health.slots.iter().flatten().find(|member| member.id == moved.0).map(|a| a.target.clone());
    assert_eq!(target, Some(moved.1));

    health.step(at, Input::Changed(vec![(id("b"), None), (id("nobody"), None)]));
    assert_eq!(health.counts(), LevelCounts { up: 1, suspect: 1, down: 0 });
}

#[test]
fn however_many_are_silent_probes_are_bounded_and_the_schedule_goes_on() {
    let names: Vec<String> = (0..3 * PROBES_MAX).map(|number| format!("w{number}")).collect();
    let mut health = Health::new(Config::new(id("n1")), Micros(0));
    health.step(Micros(0), Input::Members(names.iter().map(|name| agent(name)).collect()));
    let waiting = |health: &Health| {
        let pings = health.slots.iter().flatten().flat_map(|member| &member.pings);
        pings.filter(|ping| ping.probe && ping.state == PingState::Waiting).count()
    };
    let mut most = 0;
    while health.deadline() < Micros(4 * EVERY) {
        wake(&mut health);
        assert_eq!(health.probes, waiting(&health));
        most = most.max(health.probes);
    }
    assert_eq!(most, PROBES_MAX, "nobody answers, so all of them are used");
    let rows = cut(&mut health, Micros(4 * EVERY), 1).rows;
    assert_eq!(rows.len(), names.len());
    assert!(
        rows.iter().all(|row| row.sent == row.missed && row.missed >= 3),
        "each is asked as often as ever"
    );
    health.step(Micros(4 * EVERY), Input::Members(Vec::new()));
    assert_eq!(health.probes, 0);
}
