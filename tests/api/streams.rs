//! Event streams and long polls.

use reqwest::Method;
use serde_json::{Value, json};
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
