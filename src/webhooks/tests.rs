//! What is told, under which id, and when it is tried again. What real processes deliver: `tests/webhooks.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use crate::codec;
use crate::ledger::apply::{Happening, apply};
use crate::ledger::command::Envelope;
use crate::ledger::keyspace::MemoryKeyspace;
use crate::ledger::records::Genesis;
use crate::ledger::tests::{World, row};
use crate::ledger::webhooks::{HookCursor, newest};
use crate::node::events::NodeEvent;
use crate::types::{Index, IntervalId, Term, UnixMillis};

use super::decisions::page;
use super::delivery::{Verdict, judge, signature};
use super::patience::{ASKED_MAX, PAUSE_MAX, asked, pause};
use super::sights::{Sights, WAITING_MAX};
use super::{Hook, Kind, News, kinds};

/// The example of `docs/webhooks.md`, computed with Python's `hmac`.
#[test]
fn the_signature_is_that_of_the_document() {
    let body = br#"{"id":"00112233-election-7","kind":"election"}"#;
    let found = signature(b"an example secret", 1_700_000_000, body);
    let documented = "t=1700000000,v1=0510d86f26ebb671ebc159cd0fe50b6fd38f191cbaf4044331879f389735704c";
    assert_eq!(found, documented);
    let text = include_str!("../../docs/webhooks.md");
    assert!(text.contains(documented) && text.contains(std::str::from_utf8(body).expect("text")));
}

#[test]
fn pauses_double_up_to_five_minutes_and_luck_only_shortens_them() {
    for (failures, seconds) in
        [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (33, 300), (u32::MAX, 300)]
    {
        let longest = pause(failures, 0);
        assert_eq!(longest, Duration::from_secs(seconds), "{failures}");
        let shortest = pause(failures, 499);
        assert!(shortest < longest && shortest > longest / 2, "{failures}: {shortest:?}");
        assert!((0..2_000).all(|luck| (shortest..=longest).contains(&pause(failures, luck))));
    }
    assert_eq!(pause(40, 0), PAUSE_MAX);
}

#[test]
fn a_receiver_may_ask_for_a_pause_in_seconds_or_by_date() {
    let now = UnixMillis(784_111_777_000);
    for (header, seconds) in [
        ("7", Some(7)),
        (" 120 ", Some(120)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("99999999", Some(ASKED_MAX.as_secs())),
        ("soon", None),
        ("-1", None),
        ("", None),
    ] {
        assert_eq!(asked(header, now), seconds.map(Duration::from_secs), "{header}");
    }
}

#[test]
fn an_answer_is_success_refusal_or_failure() {
    let now = UnixMillis(0);
    let status = |code: u16| StatusCode::from_u16(code).expect("a status");
    for code in [200, 202, 204] {
        assert_eq!(judge(status(code), None, now), Verdict::Delivered);
    }
    for code in [400, 413, 415, 422] {
        assert!(matches!(judge(status(code), None, now), Verdict::Refused(_)), "{code}");
    }
    for code in [301, 307, 401, 403, 404, 408, 410, 429, 500, 503] {
        assert!(matches!(judge(status(code), None, now), Verdict::Failed { .. }), "{code}");
    }
    let Verdict::Failed { asked, .. } = judge(status(503), Some("9"), now) else {
        panic!("503 is a failure")
    };
    assert_eq!(asked, Some(Duration::from_secs(9)));
    let Verdict::Failed { why, .. } = judge(status(302), None, now) else { panic!("302 is a failure") };
    assert!(why.contains("redirects are not followed"), "{why}");
}

#[test]
fn neither_secret_nor_path_of_a_hook_is_shown() {
    let hook = Hook {
        name: "pager".to_string(),
        url: "https://user:word@example.org:8443/T0K3N?key=T0K3N".to_string(),
        secret: b"0123456789abcdef".to_vec(),
        kinds: kinds::USUAL.into_iter().collect(),
        timeout: Duration::from_secs(1),
        age_max: Duration::from_secs(1),
        ca: None,
    };
    assert_eq!(hook.place(), "https://example.org:8443");
    let shown = format!("{hook:?}");
    assert!(!shown.contains("T0K3N") && !shown.contains("word") && !shown.contains("0123"), "{shown}");
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let names: BTreeSet<&str> = kinds::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), kinds::ALL.len());
    assert!(kinds::ALL.iter().all(|kind| Kind::parse(kind.as_str()) == Some(*kind)));
    assert_eq!(Kind::parse("nothing"), None);
}

/// The state after the recorded history: 42 intervals with all verdicts, claims, adjustments.
fn recorded() -> MemoryKeyspace {
    let mut rest: &[u8] = include_bytes!("../../tests/recorded/history.bin");
    let (mut space, mut index) = (MemoryKeyspace::default(), 0);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (entry, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        let envelope: Envelope = codec::decode(entry).expect("an entry of the log");
        index += 1;
        apply(&mut space, Index(index), Term(1), &envelope).expect("memory does not fail");
        rest = after;
    }
    space
}

/// Everything after a cursor, page by page.
fn all_after(
    space: &MemoryKeyspace,
    mut cursor: HookCursor,
    kinds: &BTreeSet<Kind>,
) -> Vec<(News, HookCursor)> {
    let mut found = Vec::new();
    loop {
        let page = page(space, &cursor, kinds).expect("readable");
        if page.upto == cursor {
            assert!(page.news.is_empty());
            return found;
        }
        found.extend(page.news);
        cursor = page.upto;
    }
}

#[test]
fn decisions_have_the_same_ids_from_wherever_one_begins_and_none_is_left_out() {
    let space = recorded();
    let every: BTreeSet<Kind> = kinds::ALL.into_iter().collect();
    let whole = all_after(&space, HookCursor::default(), &every);
    let ids: BTreeSet<&str> = whole.iter().map(|(news, _)| news.id.as_str()).collect();
    assert_eq!(ids.len(), whole.len(), "no id twice");
    let told: BTreeSet<Kind> = whole.iter().map(|(news, _)| news.kind).collect();
    for kind in [
        Kind::Void,
        Kind::Correlated,
        Kind::ObserverRejected,
        Kind::Penalty,
        Kind::ClaimPaid,
        Kind::Adjustment,
    ] {
        assert!(told.contains(&kind), "{kind} is in the history: {told:?}");
    }
    // A leader that dies after any of them: the next tells all that follow, and perhaps some again, with the same ids and words.
    for (position, (_, cursor)) in whole.iter().enumerate() {
        let rest = all_after(&space, *cursor, &every);
        for (news, _) in &whole[position + 1..] {
            assert!(rest.iter().any(|(again, _)| again == news), "{} after {position}", news.id);
        }
        assert!(rest.iter().all(|(news, _)| whole.iter().any(|(known, _)| known == news)));
    }
    // Whoever wants less gets the same of it.
    let usual: BTreeSet<Kind> = kinds::USUAL.into_iter().collect();
    let fewer: Vec<News> =
        all_after(&space, HookCursor::default(), &usual).into_iter().map(|(news, _)| news).collect();
    let expected: Vec<News> =
        whole.into_iter().map(|(news, _)| news).filter(|news| usual.contains(&news.kind)).collect();
    assert_eq!(fewer, expected);
    assert!(all_after(&space, newest(&space).expect("readable"), &every).is_empty());
}

#[test]
fn a_suspension_its_end_and_what_follows_are_told_with_the_interval_that_made_them() {
    let mut world = World::with(&["n1", "n2", "n3"], &["a", "b"], Default::default());
    let mut happened = Vec::new();
    for id in 1..=30_u32 {
        let well = |name| row(name, 12, 12, 900);
        let a = if id <= 10 { row("a", 12, 0, 0) } else { well("a") };
        let rows = [a, well("b"), well("n1"), well("n2"), well("n3")];
        for happening in world.interval(&rows) {
            let kind = match happening {
                Happening::MemberSuspended { .. } => "suspended",
                Happening::MemberProbation { .. } => "probation",
                Happening::MemberReinstated { .. } => "reinstated",
                _ => continue,
            };
            happened.push(format!("01234567-{kind}-{id}-a"));
        }
    }
    let kinds = [Kind::Suspended, Kind::Probation, Kind::Reinstated].into();
    let told = all_after(&world.space, HookCursor::default(), &kinds);
    assert_eq!(told.iter().map(|(news, _)| news.id.clone()).collect::<Vec<_>>(), happened);
    assert_eq!(happened.len(), 3, "{happened:?}");
    assert_eq!(told[0].0.data["before"], "active");
}

fn seen(id: u64, kind: &str, member: &str) -> NodeEvent {
    let data = json!({ "member": member, "misses": 3 });
    NodeEvent { id, at: UnixMillis(1_000), kind: kind.to_string(), message: String::new(), data }
}

fn genesis() -> Genesis {
    Genesis { cluster: "blue".to_string(), identity: "00112233445566778899".to_string(), at: UnixMillis(0) }
}

fn drain(sights: &mut Sights) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some((number, news)) = sights.first(&genesis()) {
        ids.push(news.id);
        sights.done(number);
    }
    ids
}

#[test]
fn who_is_silent_is_told_by_the_leader_and_again_by_the_next() {
    let every: BTreeSet<Kind> = kinds::ALL.into_iter().collect();
    let (mut first, mut second) = (Sights::new(every.clone()), Sights::new(every));
    first.lead(true);
    for node in [&mut first, &mut second] {
        node.see(&seen(1, "member_suspect", "a"), "n", IntervalId(4));
        node.see(&seen(2, "member_down", "a"), "n", IntervalId(4));
        node.see(&seen(3, "member_suspect", "b"), "n", IntervalId(5));
        node.see(&seen(4, "member_up", "b"), "n", IntervalId(5));
        node.see(&seen(5, "vote", "a"), "n", IntervalId(5));
    }
    let told = ["00112233-suspected-4-a", "00112233-down-4-a", "00112233-suspected-5-b", "00112233-up-5-b"];
    assert_eq!(drain(&mut first), told);
    assert_eq!(drain(&mut second), Vec::<String>::new());
    // The next leader cannot know how far the other came: it tells what is still true, under the same id.
    second.lead(true);
    assert_eq!(drain(&mut second), ["00112233-down-4-a"]);
    // Troubles of its own are a node's own business, whoever leads.
    first.lead(false);
    first.see(&seen(6, "member_down", "c"), "n", IntervalId(6));
    first.see(&seen(7, "disk_full", ""), "n1", IntervalId(6));
    assert_eq!(drain(&mut first), ["00112233-disk-n1-disk_full-1000"]);
}

#[test]
fn what_waits_is_bounded_and_the_oldest_makes_room() {
    let mut sights = Sights::new([Kind::Down].into());
    sights.lead(true);
    for number in 0..WAITING_MAX as u64 + 5 {
        sights.see(&seen(number, "member_down", &format!("m{number}")), "n", IntervalId(1));
        // Nobody wants to hear of these.
        sights.see(&seen(number, "member_suspect", "x"), "n", IntervalId(1));
    }
    assert_eq!((sights.waiting(), sights.take_dropped(), sights.take_dropped()), (WAITING_MAX, 5, 0));
    assert_eq!(sights.first(&genesis()).expect("some wait").1.id, "00112233-down-1-m5");
}
