//! What the ledger holds, after one settled interval.

use std::collections::BTreeSet;

use serde_json::json;
use super_node::ledger::command::{Command, ObserverHealth, Report, Row};
use super_node::types::{IntervalId, Term};

use crate::fake::{Fake, node};

/// n1 saw w1 answer and w2 keep silent for one interval.
pub async fn settled() -> Fake {
    let fake = Fake::start().await;
    for member in ["w1", "w2", "w3"] {
        let body = json!({"id": member, "address": format!("127.0.0.1:75{}", member.len())});
        assert_eq!(fake.post("/v1/members", &body.to_string()).await.status, 200);
    }
    let row = |member: &str, answered: u32| Row {
        member: member.parse().expect("a valid name"),
        sent: 12,
        answered,
        late: 0,
        missed: 12 - answered,
        bad: 0,
        unsolicited: 0,
        min_us: 100,
        p50_us: 200,
        p90_us: 300,
        max_us: 400,
        version: Some(super_node::types::Version::current()),
    };
    let interval = IntervalId(1);
    fake.command(Command::Cut { interval }).await;
    fake.command(Command::Report(Report {
        interval,
        observer: node("n1"),
        part: 0,
        parts: 1,
        health: ObserverHealth { whole_interval: true, longest_stall_ms: 0, score: 0 },
        rows: vec![row("w1", 12), row("w2", 0), row("w3", 12)],
    }))
    .await;
    fake.command(Command::Settle { interval }).await;
    fake.command(Command::Election {
        term: Term(7),
        previous: None,
        reason: "startup".to_string(),
        votes: BTreeSet::from([node("n1")]),
        leaderless_ms: 12,
    })
    .await;
    fake
}

#[tokio::test]
async fn movements_are_listed_and_filtered() {
    let fake = settled().await;
    let all = fake.get("/v1/rewards").await;
    let items = all.json["items"].as_array().expect("a list");
    assert!(items.len() >= 3, "{}", all.text);
    assert_eq!((&items[0]["seq"], &all.json["next"]), (&json!(1), &json!(null)));
    for field in [
        "member",
        "kind",
        "amount",
        "balance",
        "interval",
        "reason",
        "index",
        "term",
        "at",
        "prev_hash",
        "hash",
    ] {
        assert!(items[0].get(field).is_some(), "{field} is missing in {}", items[0]);
    }
    let page = fake.get("/v1/rewards?limit=1").await;
    assert_eq!(page.json["next"], 1);
    assert_eq!(fake.get("/v1/rewards?limit=1&after=1").await.json["items"][0]["seq"], 2);
    let count = async |query: &str| {
        let reply = fake.get(&format!("/v1/rewards?{query}")).await;
        reply.json["items"].as_array().map(Vec::len).expect("a list")
    };
    assert_eq!(count("member=w1&kind=reward").await, 1);
    assert_eq!(count("member=w2&kind=penalty").await, 1);
    assert_eq!(count("kind=claim").await, 0);
    assert_eq!(count("to=2000-01-01T00:00:00Z").await, 0);
    assert_eq!(count("from=2000-01-01T00:00:00Z").await, items.len());
    let balance = fake.get("/v1/balances?member=w1").await;
    assert_eq!(balance.json["items"][0]["balance"], 10_000_000, "{}", balance.text);
}

#[tokio::test]
async fn intervals_and_their_evidence_are_shown() {
    let fake = settled().await;
    let list = fake.get("/v1/intervals").await;
    assert_eq!(
        (&list.json["items"][0]["id"], &list.json["items"][0]["verdict"]),
        (&json!(1), &json!("settled"))
    );
    assert_eq!(fake.get("/v1/intervals?verdict=void").await.json["items"], json!([]));
    let of_member = fake.get("/v1/intervals?member=w1&limit=1").await;
    assert_eq!(of_member.json["items"][0], list.json["items"][0], "{}", of_member.text);
    assert_eq!(fake.get("/v1/intervals?member=nobody").await.json, json!({"items": [], "next": null}));
    assert_eq!(fake.get("/v1/intervals/1").await.json, list.json["items"][0]);
    let explained = fake.get("/v1/intervals/1/members/w1").await;
    assert_eq!(explained.status, 200, "{}", explained.text);
    assert_eq!(
        (&explained.json["id"], &explained.json["reward"]),
        (&json!({"i": 1, "m": "w1"}), &json!(10_000_000))
    );
    assert_eq!(explained.json["by"]["n1"]["answered"], 12);
    let lines = explained.json["explanation"]["lines"].as_array().expect("lines");
    assert!(!lines.is_empty());
    assert_eq!(explained.json["explanation"]["agrees"], true);
    fake.get("/v1/intervals/1/members/nobody").await.problem(404, "not_found");
}

#[tokio::test]
async fn elections_policy_and_verification() {
    let fake = settled().await;
    let election = &fake.get("/v1/elections").await.json["items"][0];
    assert_eq!(
        (&election["id"], &election["term"], &election["reason"]),
        (&json!(7), &json!(7), &json!("startup"))
    );
    assert_eq!(&fake.get("/v1/elections/7").await.json, election);
    let at = election["at"].as_str().expect("a time");
    for (query, found) in [
        ("member=n1".to_string(), 1),
        ("member=n2".to_string(), 0),
        (format!("from={at}"), 1),
        (format!("to={at}"), 0),
    ] {
        let list = fake.get(&format!("/v1/elections?{query}")).await;
        assert_eq!(list.json["items"].as_array().map(Vec::len), Some(found), "{query}: {}", list.text);
    }
    assert_eq!(fake.get("/v1/policy").await.json["interval_ms"], 60_000);
    let report = fake.get("/v1/ledger/verify").await;
    assert_eq!((report.status, &report.json["ok"]), (200, &json!(true)), "{}", report.text);
}
