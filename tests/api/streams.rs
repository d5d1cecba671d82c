//! Event streams and long polls.

use reqwest::Method;
use serde_json::{Value, json};
use super_node::codec;
use super_node::ledger::keys;
use super_node::ledger::keyspace::Keyspace;
use super_node::ledger::records::Movement;
use super_node::types::UnixMillis;

use crate::fake::{Fake, Reply};

fn publish(fake: &Fake, kind: &str) {
    fake.handle.events.publish(UnixMillis(1_700_000_000_000), kind, format!("a {kind}"), json!({"x": 1}));
}

/// Reads a stream until `count` events have come: id, type and data of each.
async fn read(request: reqwest::RequestBuilder, count: usize) -> Vec<(String, String, Value)> {
    let mut response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let chunk = response.chunk().await.expect("no error").expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
    }
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start().to_string()
    };
    let event = |block: &str| {
        let data = serde_json::from_str(&field(block, "data:")).expect("JSON");
        (field(block, "id:"), field(block, "event:"), data)
    };
    text.split("\n\n").filter(|block| block.contains("data:")).map(event).collect()
}

#[tokio::test]
async fn events_carry_id_type_and_data_and_go_on_live() {
    let fake = Fake::start().await;
    publish(&fake, "one");
    let stream = read(fake.request(Method::GET, "/v1/events"), 2);
    let (events, ()) = tokio::join!(stream, async {
        tokio::task::yield_now().await;
        publish(&fake, "two");
    });
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].0.as_str(), events[0].1.as_str()), ("1", "one"));
    assert_eq!(events[1].2["type"], "two");
    assert_eq!(events[1].2["at"], "2023-11-14T22:13:20.000Z");
}

#[tokio::test]
async fn a_reader_resumes_where_it_was() {
    let fake = Fake::start().await;
    for kind in ["one", "two", "three"] {
        publish(&fake, kind);
    }
    let resumed = fake.request(Method::GET, "/v1/events").header("last-event-id", "1");
    let ids: Vec<String> = read(resumed, 2).await.into_iter().map(|event| event.0).collect();
    assert_eq!(ids, ["2", "3"]);
    let only = read(fake.request(Method::GET, "/v1/events?type=three"), 1).await;
    assert_eq!(only[0].0, "3");
    let earlier_run = fake.request(Method::GET, "/v1/events").header("last-event-id", "500");
    assert_eq!(read(earlier_run, 3).await.len(), 3);
    let past = fake.get("/v1/events?follow=false&after=1").await;
    assert_eq!(past.text.matches("data:").count(), 2);
}

#[tokio::test]
async fn a_long_poll_wakes_with_the_change() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/k", "1").await;
    assert_eq!(fake.get("/v1/kv/k?after=0&wait=30s").await.json["value"], 1);
    let poll = fake.get("/v1/kv/k?after=1&wait=30s");
    let (polled, ()) = tokio::join!(poll, async {
        fake.put("/v1/kv/other", "0").await;
        fake.put("/v1/kv/k", "2").await;
    });
    assert_eq!((&polled.json["value"], &polled.json["revision"]), (&json!(2), &json!(3)));
    let nothing = fake.get("/v1/kv/k?after=3&wait=1ms").await;
    assert_eq!((nothing.status, nothing.header("etag")), (304, "\"3\""));
    let poll = fake.get("/v1/kv/k?after=3&wait=30s");
    let (polled, _) = tokio::join!(poll, async { Reply::of(fake.request(Method::DELETE, "/v1/kv/k")).await });
    polled.problem(404, "not_found");
}

#[tokio::test]
async fn stopping_ends_streams_and_polls() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/k", "1").await;
    publish(&fake, "one");
    let (stream, polled, ()) =
        tokio::join!(fake.get("/v1/events"), fake.get("/v1/kv/k?after=9&wait=60s"), async {
            // Both requests have been taken once two more answers have passed through the same server.
            fake.get("/livez").await;
            fake.get("/livez").await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            fake.stopping.cancel();
        });
    assert!(stream.text.contains("event: one"), "{}", stream.text);
    polled.problem(503, "draining");
}

async fn poll(fake: &Fake, after: u64, keys: u64, wait: &str) -> Reply {
    fake.get(&format!("/v1/kv?prefix=a/&after={after}&keys={keys}&wait={wait}")).await
}

fn keys(reply: &Reply) -> Vec<&str> {
    reply.json["items"].as_array().expect("items").iter().filter_map(|item| item["key"].as_str()).collect()
}

#[tokio::test]
async fn a_long_poll_on_a_prefix_tells_what_is_newer_and_what_is_gone() {
    let fake = Fake::start().await;
    for key in ["a/y", "a/x", "b"] {
        fake.put(&format!("/v1/kv/{key}"), "1").await;
    }
    // What is there comes at once, in the order in which it was written.
    let first = poll(&fake, 0, 0, "30s").await;
    assert_eq!(keys(&first), ["a/y", "a/x"]);
    let about = |reply: &Reply| (reply.json["keys"].clone(), reply.json["revision"].clone());
    assert_eq!(about(&first), (json!(2), json!(3)));
    // A write elsewhere is no news; one below the prefix is.
    let (news, ()) = tokio::join!(poll(&fake, 3, 2, "30s"), async {
        fake.put("/v1/kv/b", "2").await;
        fake.put("/v1/kv/a/x", "2").await;
    });
    assert_eq!((keys(&news), about(&news)), (vec!["a/x"], (json!(2), json!(5))));
    // A deletion shows in the number of keys, even if it happened between two polls.
    Reply::of(fake.request(Method::DELETE, "/v1/kv/a/y")).await;
    let gone = poll(&fake, 5, 2, "30s").await;
    assert_eq!((keys(&gone), about(&gone)), (vec![], (json!(1), json!(6))));
    assert_eq!(poll(&fake, 6, 1, "1ms").await.status, 304);
    // Deleted and written anew, the number is the same and the revision is not.
    Reply::of(fake.request(Method::DELETE, "/v1/kv/a/x")).await;
    fake.put("/v1/kv/a/z", "1").await;
    let other = poll(&fake, 6, 1, "30s").await;
    assert_eq!((keys(&other), about(&other)), (vec!["a/z"], (json!(1), json!(8))));
    // What makes no sense is refused by name.
    for (query, word) in
        [("keys=1", "keys only goes with wait"), ("wait=1s&limit=5", "limit"), ("wait=2m", "wait=2m")]
    {
        let detail = fake.get(&format!("/v1/kv?{query}")).await;
        assert!(detail.problem(400, "bad_request").contains(word), "{query}");
    }
}

#[tokio::test]
async fn a_long_poll_with_much_to_tell_tells_it_in_parts_that_miss_nothing() {
    let fake = Fake::start().await;
    let value = format!("\"{}\"", "x".repeat(900 << 10));
    for number in 0..7 {
        assert_eq!(fake.put(&format!("/v1/kv/a/{number}"), &value).await.status, 200);
    }
    let (mut after, mut seen, mut parts) = (0, Vec::new(), 0);
    loop {
        let part = poll(&fake, after, seen.len() as u64, "30s").await;
        seen.extend(keys(&part).into_iter().map(str::to_string));
        after = part.json["revision"].as_u64().expect("a revision");
        parts += 1;
        if part.json["more"] == json!(false) {
            break;
        }
    }
    assert_eq!(seen, ["a/0", "a/1", "a/2", "a/3", "a/4", "a/5", "a/6"]);
    assert!(parts > 1, "all in one part");
}

#[tokio::test]
async fn a_chain_that_does_not_fit_is_an_event() {
    let fake = Fake::start().await;
    let adjustment = json!({ "member": "n1", "delta": 5_000_000, "reason": "a test", "operator": "test" });
    let answer = Reply::of(fake.request(Method::POST, "/v1/adjustments").json(&adjustment)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(fake.get("/v1/ledger/verify").await.json["ok"], true);
    assert_eq!(fake.get("/v1/events?follow=false&type=chain_mismatch").await.text, "");
    // Somebody pays himself.
    let key = keys::movement(1);
    let change = &mut |space: &mut dyn Keyspace| {
        let value = space.get(&key)?.expect("a movement");
        let mut movements: Vec<Movement> = codec::decode(&value).expect("a block");
        movements[0].amount.0 += 1;
        space.put(&key, &codec::encode(&movements))
    };
    fake.handle.state.update(change).expect("memory does not fail");
    assert_eq!(fake.get("/v1/ledger/verify").await.json["ok"], false);
    let events = read(fake.request(Method::GET, "/v1/events?type=chain_mismatch"), 1).await;
    let data = &events[0].2["data"];
    assert_eq!(data["where"], "ledger");
    assert!(data["problems"][0].as_str().is_some_and(|problem| !problem.is_empty()), "{data}");
}
