//! Genesis, members, elections, the projection's checkpoint.

use std::collections::BTreeSet;

use super::*;
use crate::ledger::members::{ADDRESS_BYTES_MAX, NODES_MAX};
use crate::ledger::records::{Checkpoint, MemberStatus};

#[test]
fn genesis_applies_once_and_only_if_it_makes_sense() {
    let good = Policy::default();
    let policies = [
        Policy { interval_ms: 0, ..good.clone() },
        Policy { ping_ms: 0, ..good.clone() },
        Policy { ping_timeout_ms: 0, ..good.clone() },
        Policy { ping_ms: 60_001, ..good.clone() },
        Policy { interval_ms: 86_400_001, ..good.clone() },
        Policy { reward: Amount(-1), ..good.clone() },
        Policy { penalty: Amount(-1), ..good.clone() },
        Policy { revision: 0, ..good.clone() },
    ];
    let mut world = World::empty();
    for policy in policies {
        assert_eq!(
            rejection(&world.run(World::genesis(&["n1"], policy.clone()))),
            "bad request",
            "{policy:?}"
        );
    }
    for nodes in [&[][..], &["n1", "n1"], &["n1"; NODES_MAX + 1]] {
        assert_eq!(rejection(&world.run(World::genesis(nodes, good.clone()))), "bad request");
    }
    assert_eq!(query::genesis(&world.space), Ok(None));
    assert_eq!(world.run(World::genesis(&["n2", "n1"], good.clone())), Answer::Done);
    assert_eq!(rejection(&world.run(World::genesis(&["n9"], good.clone()))), "stale");
    let nodes = query::members(&world.space, None, 10).expect("readable");
    let names: Vec<_> = nodes.iter().map(|member| (member.id.as_str(), member.kind)).collect();
    assert_eq!(names, [("n1", MemberKind::Node), ("n2", MemberKind::Node)]);
    assert_eq!(query::policy(&world.space), Ok(Some(good)));
    assert_eq!(query::observers(&world.space, IntervalId(1)), Ok(vec![node("n1"), node("n2")]));
}

#[test]
fn nothing_about_the_fleet_works_before_genesis() {
    let mut world = World::empty();
    assert_eq!(rejection(&world.join("a", "h:1")), "conflict");
    assert_eq!(rejection(&world.cut(1)), "conflict");
    assert_eq!(rejection(&world.settle(1)), "conflict");
    assert_eq!(rejection(&world.report(1, "n1", vec![])), "conflict");
    assert_eq!(rejection(&world.leave("a")), "not found");
}

#[test]
fn joining_is_idempotent_and_names_have_one_kind() {
    let mut world = World::standard();
    let before = world.member("a");
    assert_eq!(world.join("a", "host:1"), Answer::Done);
    assert_eq!(world.member("a"), before, "a second join changes nothing");
    assert_eq!(world.join("a", "host:2"), Answer::Done);
    assert_eq!(world.member("a").address, "host:2");
    assert!(world.member("a").index > before.index);
    assert_eq!(rejection(&world.join("n1", "host:1")), "conflict");
    let as_node =
        Command::MemberJoin { member: member("a"), kind: MemberKind::Node, address: "h:1".to_string() };
    assert_eq!(rejection(&world.run(as_node)), "conflict");
    for address in ["", "a b", "ä:1", "a\n", &"x".repeat(ADDRESS_BYTES_MAX + 1)] {
        assert_eq!(rejection(&world.join("b", address)), "bad request", "{address}");
    }
    assert_eq!(query::member_count(&world.space), Ok(4));
    world.assert_sound();
}

#[test]
fn a_super_node_is_bound_to_one_directory_until_it_leaves() {
    let mut world = World::standard();
    let seen = |node_name: &str, incarnation: &str| Command::NodeSeen {
        node: node(node_name),
        incarnation: incarnation.to_string(),
    };
    assert_eq!(world.run(seen("n1", "first")), Answer::Done);
    assert_eq!(world.run(seen("n1", "first")), Answer::Done, "the same again changes nothing");
    assert_eq!(rejection(&world.run(seen("n1", "second"))), "conflict");
    for nobody in ["a", "n9"] {
        assert_eq!(rejection(&world.run(seen(nobody, "first"))), "conflict", "{nobody}");
    }
    for unusable in ["", "a b", &"x".repeat(65)] {
        assert_eq!(rejection(&world.run(seen("n2", unusable))), "bad request", "{unusable}");
    }
    let bound = |world: &World| query::incarnations(&world.space).expect("readable");
    assert_eq!(bound(&world), [(node("n1"), "first".to_string())].into());
    assert_eq!(world.leave("n1"), Answer::Done);
    assert_eq!(bound(&world), [].into());
    let back =
        Command::MemberJoin { member: member("n1"), kind: MemberKind::Node, address: "h:1".to_string() };
    assert_eq!(world.run(back), Answer::Done);
    assert_eq!(world.run(seen("n1", "second")), Answer::Done, "whoever comes back may have another");
    world.assert_sound();
}

#[test]
fn who_leaves_finds_account_and_standing_again() {
    let mut world = World::standard();
    for _ in 0..10 {
        world.interval(&[row("a", 12, 0, 0)]);
    }
    let suspended = world.member("a");
    assert_eq!((suspended.status, suspended.remaining), (MemberStatus::Suspended, 10));
    assert_eq!((world.leave("a"), world.leave("a")), (Answer::Done, Answer::Done));
    assert_eq!(world.member("a").status, MemberStatus::Left);
    world.interval(&[]);
    world.assert_sound();
    assert_eq!(world.join("a", "elsewhere:1"), Answer::Done);
    let back = world.member("a");
    assert_eq!((back.status, back.remaining), (MemberStatus::Suspended, 10), "leaving is no way out");
    assert_eq!((back.balance, back.strikes), (suspended.balance, suspended.strikes));
    assert!(back.joined_at > suspended.joined_at);
    world.assert_sound();
}

#[test]
fn who_left_during_an_interval_is_judged_for_its_part() {
    let mut world = World::standard();
    world.leave("a");
    world.interval(&[row("a", 6, 6, 1_000)]);
    assert_eq!(world.balance("a"), 5_000_000);
    assert_eq!(world.observation(1, "a").status, MemberStatus::Left);
    assert_eq!(world.member("a").status, MemberStatus::Left);
    world.interval(&[row("a", 12, 0, 0)]);
    assert_eq!(world.member("a").strikes, 4);
    world.assert_sound();
    assert_eq!(world.join("a", "h:1"), Answer::Done);
    assert_eq!((world.member("a").strikes, world.member("a").status), (4, MemberStatus::Active));
    world.assert_sound();
}

#[test]
fn observers_are_those_of_the_cut() {
    let mut world = World::standard();
    let as_node = |name: &str| Command::MemberJoin {
        member: member(name),
        kind: MemberKind::Node,
        address: "h:1".to_string(),
    };
    world.cut(1);
    world.run(as_node("n4"));
    world.leave("n1");
    assert_eq!(rejection(&world.report(1, "n4", vec![])), "bad request", "came after the cut");
    assert_eq!(world.report(1, "n1", vec![]), Answer::Done, "was there at the cut");
    world.cut(2);
    let names = |id| query::observers(&world.space, IntervalId(id)).expect("readable");
    assert_eq!(names(1), [node("n1"), node("n2"), node("n3")]);
    assert_eq!(names(2), [node("n2"), node("n3"), node("n4")]);
    assert_eq!(names(3), names(2));
}

#[test]
fn elections_are_recorded_once_and_in_order() {
    let mut world = World::empty();
    world.term = 5;
    let election = |term: u64| Command::Election {
        term: Term(term),
        previous: Some(node("n2")),
        reason: "timeout".to_string(),
        votes: BTreeSet::from([node("n1"), node("n3")]),
        leaderless_ms: 41,
    };
    assert_eq!(rejection(&world.run(election(6))), "bad request", "a term that has not come");
    assert_eq!(world.run(election(3)), Answer::Done);
    for again in [3, 2] {
        assert_eq!(rejection(&world.run(election(again))), "stale");
    }
    assert_eq!(world.run(election(5)), Answer::Done);
    let after = |term| {
        let elections = query::elections(&world.space, Term(term), 10).expect("readable");
        elections.iter().map(|election| election.term.0).collect::<Vec<_>>()
    };
    assert_eq!((after(0), after(3), after(5)), (vec![3, 5], vec![5], vec![]));
    let recorded = query::election(&world.space, Term(5)).expect("readable").expect("recorded");
    assert_eq!((recorded.leader, recorded.leaderless_ms), (node("n1"), 41));
}

#[test]
fn the_checkpoint_only_moves_forward_and_not_beyond_the_ledger() {
    let mut world = World::standard();
    world.interval(&[row("a", 12, 12, 1_000)]);
    let at = |rewards, intervals, elections, members| {
        Command::Projected(Checkpoint {
            rewards,
            intervals: IntervalId(intervals),
            elections: Term(elections),
            members: Index(members),
        })
    };
    assert_eq!(world.run(at(1, 0, 0, 5)), Answer::Done);
    assert_eq!(world.run(at(0, 1, 0, 3)), Answer::Done);
    let expected = Checkpoint { rewards: 1, intervals: IntervalId(1), elections: Term(0), members: Index(5) };
    assert_eq!(query::checkpoint(&world.space), Ok(expected));
    for beyond in [at(2, 0, 0, 0), at(0, 2, 0, 0), at(0, 0, 1, 0), at(0, 0, 0, 1_000)] {
        assert_eq!(rejection(&world.run(beyond)), "bad request");
    }
    assert_eq!(world.outcome(at(1, 1, 0, 5)).happenings, [], "nothing moved");
    assert_eq!(query::checkpoint(&world.space), Ok(expected));
}

#[test]
fn log_time_never_goes_back() {
    let mut world = World::standard();
    world.cut(1);
    world.at -= 1_000_000;
    world.cut(2);
    let state = query::interval_state(&world.space).expect("readable").expect("genesis");
    assert_eq!(state.opened_at, query::log_time(&world.space).expect("readable"));
    assert!(state.opened_at.0 > world.at);
}
