//! Whatever happens: the same log gives the same bytes, money is conserved, everything can be derived again, and damage
//! is noticed.

use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::*;
use crate::ledger::command::KvOperation;
use crate::ledger::keys;
use crate::ledger::keyspace::Keyspace;
use crate::ledger::policy::PolicyKind;
use crate::ledger::query::RewardFilter;
use crate::ledger::verify::{ChainChecker, check_observations};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const AGENTS: [&str; 4] = ["a", "b", "c", "d"];

/// One step of a random history, in terms that are likely to mean something.
#[derive(Debug, Clone)]
enum Act {
    Join(usize, bool),
    Leave(usize),
    Cut,
    Report(usize, Vec<(u32, u32, u32)>),
    Settle,
    NewTerm,
    StaleSettle,
    Put(u8, bool),
    Time(i64),
    /// A whole interval, seen alike by all.
    Interval(Vec<(u32, u32, u32)>),
    /// Who, how far from the next number, how much of the balance in per cent.
    Claim(usize, i8, i64),
    Adjust(usize, i64),
    Maintain(usize, u8),
    /// Whether it is the classic one, the budget, how far ahead.
    Rules(bool, i64, u8),
    Version(usize, u16),
}

fn rows() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
    let dark_or_light = prop_oneof![Just(0_u32), Just(100), 0..=100_u32];
    let latency = prop_oneof![Just(0_u32), Just(u32::MAX), 0..3_000_000_u32];
    proptest::collection::vec((0..=14_u32, dark_or_light, latency), 7)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0..AGENTS.len(), any::<bool>()).prop_map(|(who, moved)| Act::Join(who, moved)),
        1 => (0..7_usize).prop_map(Act::Leave),
        2 => Just(Act::Cut),
        3 => (0..3_usize, rows()).prop_map(|(who, rows)| Act::Report(who, rows)),
        2 => Just(Act::Settle),
        1 => Just(Act::NewTerm),
        1 => Just(Act::StaleSettle),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(key, keyed)| Act::Put(key, keyed)),
        1 => (-5_000_000..5_000_000_i64).prop_map(Act::Time),
        6 => rows().prop_map(Act::Interval),
        3 => (0..7_usize, -1..=1_i8, prop_oneof![-5..250_i64, Just(i64::MAX), Just(i64::MIN)])
            .prop_map(|(who, off, part)| Act::Claim(who, off, part)),
        2 => (0..7_usize, prop_oneof![-90_000_000..90_000_000_i64, Just(i64::MAX), Just(i64::MIN)])
            .prop_map(|(who, delta)| Act::Adjust(who, delta)),
        1 => (0..7_usize, 0..70_u8).prop_map(|(who, intervals)| Act::Maintain(who, intervals)),
        1 => (any::<bool>(), -1..40_000_000_i64, 0..4_u8)
            .prop_map(|(classic, budget, ahead)| Act::Rules(classic, budget, ahead)),
        1 => (0..3_usize, 0..3_u16).prop_map(|(who, minor)| Act::Version(who, minor)),
    ]
}

/// Everybody that a row may be about, in order.
fn everybody() -> Vec<&'static str> {
    AGENTS.iter().chain(&NODES).copied().collect()
}

fn make_rows(world: &World, observer: &str, counts: &[(u32, u32, u32)]) -> Vec<Row> {
    everybody()
        .into_iter()
        .zip(counts)
        .filter(|(name, _)| *name != observer)
        .filter(|(name, _)| query::member(&world.space, &member(name)).expect("readable").is_some())
        .map(|(name, &(sent, percent, p90))| {
            let version = crate::types::Version { major: 1, minor: (p90 % 3) as u16, patch: 0 };
            Row { version: Some(version), ..row(name, sent, sent * percent / 100, p90) }
        })
        .collect()
}

fn perform(world: &mut World, act: &Act) {
    let state = query::interval_state(&world.space).expect("readable").expect("genesis");
    match act {
        Act::Join(who, moved) => {
            world.join(AGENTS[*who], if *moved { "moved:1" } else { "host:1" });
        }
        Act::Leave(who) => {
            world.leave(everybody()[*who]);
        }
        Act::Cut => {
            world.cut(state.open.0);
        }
        Act::Report(who, counts) => {
            let rows = make_rows(world, NODES[*who], counts);
            world.report(state.next_settle.0, NODES[*who], rows);
        }
        Act::Settle => {
            world.settle(state.next_settle.0);
        }
        Act::NewTerm => world.term += 1,
        Act::StaleSettle => {
            let envelope = world.envelope(Command::Settle { interval: state.next_settle });
            world.term += 1;
            assert_eq!(rejection(&world.apply(&envelope).applied.answer), "stale");
        }
        Act::Put(key, keyed) => {
            let put = KvOperation::Put { key: format!("k{key}"), value: key.to_string() };
            let command = Command::KvBatch { operations: vec![put] };
            if *keyed {
                world.keyed(&format!("key {key}"), command);
            } else {
                world.run(command);
            }
        }
        Act::Time(millis) => world.at = (world.at + millis).max(0),
        Act::Interval(counts) => {
            world.cut(state.open.0);
            for observer in NODES {
                let rows = make_rows(world, observer, counts);
                world.report(state.next_settle.0, observer, rows);
            }
            world.settle(state.next_settle.0);
        }
        Act::Claim(who, off, part) => {
            let id = member(everybody()[*who]);
            let last = query::claims(&world.space, &id).expect("readable").last_seq();
            let seq = (last + 1).saturating_add_signed(i64::from(*off));
            let held =
                query::member(&world.space, &id).expect("readable").map_or(0, |member| member.balance.0);
            let amount = if part.unsigned_abs() > 1_000 { *part } else { (held / 100).saturating_mul(*part) };
            let claim = Command::Claim { member: id, seq, amount: Amount(amount) };
            let first = world.run(claim.clone());
            if let Answer::Claimed(_) = first {
                assert_eq!(world.run(claim), first, "a repeated claim gets the same receipt");
            }
        }
        Act::Adjust(who, delta) => {
            world.adjust(everybody()[*who], *delta);
        }
        Act::Maintain(who, intervals) => {
            world.maintain(everybody()[*who], None, u64::from(*intervals));
        }
        Act::Rules(classic, budget, ahead) => {
            let newest = query::revisions(&world.space, 0, usize::MAX).expect("readable");
            let policy = newest.last().expect("genesis").policy.clone();
            let kind = if *classic { PolicyKind::Classic } else { PolicyKind::Standard };
            let policy = Policy { revision: policy.revision + 1, kind, ..policy };
            world.set_policy(policy, *budget, Some(state.open.0 + u64::from(*ahead)));
        }
        Act::Version(who, minor) => {
            let version = crate::types::Version { major: 1, minor: *minor, patch: 0 };
            world.run(Command::NodeVersion { node: node(NODES[*who]), version });
        }
    }
}

fn play(policy: &Policy, acts: &[Act]) -> World {
    let mut world = World::with(&NODES, &AGENTS[..2], policy.clone());
    for act in acts {
        perform(&mut world, act);
    }
    world
}

fn policy() -> impl Strategy<Value = Policy> {
    let amount = prop_oneof![Just(0_i64), Just(5_000_000), Just(i64::MAX), 0..1_000_000_000_i64];
    (any::<bool>(), amount.clone(), amount).prop_map(|(classic, reward, penalty)| Policy {
        kind: if classic { PolicyKind::Classic } else { PolicyKind::Standard },
        reward: Amount(reward),
        penalty: Amount(penalty),
        ..Policy::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_sound_and_repeatable(policy in policy(), acts in proptest::collection::vec(act(), 1..60)) {
        let world = play(&policy, &acts);
        let again = play(&policy, &acts);
        prop_assert_eq!(&world.space, &again.space, "the same log gives the same bytes");
        world.assert_sound();
        let totals = query::totals(&world.space).expect("readable");
        let members = query::members(&world.space, None, 100).expect("readable");
        let balances: i128 = members.iter().map(|member| i128::from(member.balance.0)).sum();
        prop_assert_eq!(
            balances + i128::from(totals.claimed.0),
            i128::from(totals.minted.0) - i128::from(totals.burned.0)
        );
        prop_assert!(members.iter().all(|member| member.balance >= crate::ledger::accounts::BALANCE_FLOOR));
        prop_assert!(world.space.rows.keys().all(|key| key[0] != 0), "keys of the node are not ours");
    }

    #[test]
    fn the_chains_can_be_checked_without_the_state(acts in proptest::collection::vec(act(), 1..40)) {
        let world = play(&Policy::default(), &acts);
        let all = RewardFilter { limit: usize::MAX, ..RewardFilter::default() };
        let mut checker = ChainChecker::new();
        for movement in query::rewards(&world.space, &all).expect("readable") {
            prop_assert_eq!(checker.movement(&movement), Ok(()));
        }
        let filter = query::IntervalFilter::default();
        for interval in query::intervals(&world.space, IntervalId(0), usize::MAX, &filter).expect("readable") {
            prop_assert_eq!(checker.interval(&interval), Ok(()));
            let observations = query::observations(&world.space, interval.id).expect("readable");
            prop_assert_eq!(check_observations(&interval, &observations), Ok(()));
        }
        prop_assert_eq!(checker.finish(), Ok(()));
        prop_assert_eq!(*checker.totals(), query::totals(&world.space).expect("readable"));
    }

    #[test]
    fn a_flipped_bit_is_noticed(row in any::<Pick>(), bit in any::<Pick>(), in_key in proptest::bool::weighted(0.2)) {
        let mut world = damage_victim();
        let tables = [keys::MOVEMENT_TABLE, keys::INTERVAL_TABLE, keys::JUDGEMENT_TABLE];
        let targets: Vec<Vec<u8>> =
            world.space.rows.keys().filter(|key| tables.contains(&key[0])).cloned().collect();
        let mut key = row.get(&targets).clone();
        let mut value = world.space.rows.remove(&key).expect("listed");
        let part = if in_key { &mut key } else { &mut value };
        let bit = bit.index(part.len() * 8);
        part[bit / 8] ^= 1 << (bit % 8);
        world.space.put(&key, &value).expect("memory does not fail");
        prop_assert!(!world.verify().ok, "bit {} of {} went unnoticed", bit, key.escape_ascii());
    }
}

/// Rewards, penalties, strikes, a suspension, a void interval, a member that left.
fn damage_victim() -> World {
    let mut world = World::with(&NODES, &["a", "b"], Policy::default());
    for _ in 0..11 {
        world.interval(&[row("a", 12, 0, 0), row("b", 12, 11, 1_125_000)]);
    }
    for id in 12..=15 {
        world.cut(id);
    }
    world.settle(12);
    world.leave("b");
    world.assert_sound();
    world
}

/// As little as can be damaged: a reward, a penalty, a void interval.
fn small_victim() -> World {
    let mut world = World::with(&["n1"], &["a"], Policy::default());
    for (id, answered) in [(1, 11), (2, 0)] {
        world.cut(id);
        world.report(id, "n1", vec![row("a", 12, answered, 1_000)]);
        world.settle(id);
    }
    for id in 3..=6 {
        world.cut(id);
    }
    world.settle(3);
    world.assert_sound();
    world
}

#[test]
fn every_single_bit_of_every_record_is_noticed() {
    let mut world = small_victim();
    let tables = [keys::MOVEMENT_TABLE, keys::INTERVAL_TABLE, keys::JUDGEMENT_TABLE];
    let rows: Vec<(Vec<u8>, Vec<u8>)> = world.space.rows.clone().into_iter().collect();
    let mut flipped = 0;
    for (key, value) in rows.into_iter().filter(|(key, _)| tables.contains(&key[0])) {
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            world.space.rows.insert(key.clone(), damaged);
            assert!(!world.verify().ok, "bit {bit} of {}", key.escape_ascii());
            flipped += 1;
        }
        world.space.rows.insert(key, value);
    }
    assert!(flipped > 4_000, "only {flipped} bits were tried");
    world.assert_sound();
}

#[test]
fn missing_and_altered_state_is_noticed() {
    let mut world = damage_victim();
    let adjusted = world.adjust("a", 1);
    let Answer::Adjusted { record: statement, .. } = adjusted else { panic!("{adjusted:?}") };
    let removals = [
        keys::movement(1),
        keys::movement(query::totals(&world.space).expect("readable").records),
        keys::interval(IntervalId(1)),
        keys::interval(IntervalId(12)),
        keys::judgement(IntervalId(3), &member("a")),
        keys::report_part(IntervalId(3), &node("n1"), 0),
        keys::head(IntervalId(3), &node("n2")),
        keys::cut(IntervalId(3)),
        keys::statement(&member("a"), statement),
        vec![keys::MEMBER_TABLE],
        keys::TOTALS.to_vec(),
    ];
    for key in removals {
        let mut damaged = world.clone();
        assert!(damaged.space.rows.remove(&key).is_some(), "{}", key.escape_ascii());
        assert!(!damaged.verify().ok, "without {}", key.escape_ascii());
    }
    let mut richer = world.clone();
    let mut a = richer.member("a");
    a.balance = Amount(a.balance.0 + 1);
    crate::ledger::roster::put(&mut richer.space, &a).expect("memory does not fail");
    assert!(!richer.verify().ok);
}
