//! Client sessions over HTTP.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use super_node::ledger::command::Command;
use super_node::types::SessionId;

use super_node::client::{Call, Client, Options};

use crate::fake::{Fake, Mood, Reply};

/// A PUT of `/v1/kv/k` with these headers.
async fn put(fake: &Fake, value: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = fake.request(Method::PUT, "/v1/kv/k").body(value.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Reply::of(request).await
}

async fn open(fake: &Fake) -> String {
    let opened = fake.post("/v1/sessions", "").await;
    assert_eq!(opened.status, 200, "{}", opened.text);
    assert_eq!(opened.json["expires_after_ms"], 3_600_000);
    opened.json["session"].as_u64().expect("a number").to_string()
}

#[tokio::test]
async fn a_sequence_is_executed_once_and_its_answer_repeated() {
    let fake = Fake::start().await;
    let session = open(&fake).await;
    let at = |sequence| [("super-node-session", session.as_str()), ("super-node-sequence", sequence)];
    let first = put(&fake, "1", &at("1")).await;
    let again = put(&fake, "1", &at("1")).await;
    assert_eq!((first.status, &first.json), (200, &again.json));
    assert_eq!(first.json["revision"], 1);
    put(&fake, "2", &at("1")).await.problem(409, "conflict");
    let second = put(&fake, "2", &at("2")).await;
    assert_eq!(second.json["revision"], 2);
    // Without a word about it, whoever sends 2 waits for nothing below.
    let overtaken = put(&fake, "1", &at("1")).await;
    assert!(overtaken.problem(409, "conflict").contains("waits for none below 2"), "{}", overtaken.text);
    assert_eq!(
        (&overtaken.json["outcome"], &overtaken.json["retryable"]),
        (&json!("unknown"), &json!(false))
    );
    // Any write may be in a session.
    let request = fake.request(Method::POST, "/v1/add").body("{\"a\":2,\"b\":2}");
    let sum =
        Reply::of(request.header("super-node-session", &session).header("super-node-sequence", "3")).await;
    assert_eq!(sum.json["result"], 4);
}

#[tokio::test]
async fn several_sequences_may_be_outstanding() {
    let fake = Fake::start().await;
    let session = open(&fake).await;
    for (sequence, lowest, revision) in
        [("3", "1", 1), ("1", "1", 2), ("2", "1", 3), ("1", "1", 2), ("4", "4", 4)]
    {
        let headers = [
            ("super-node-session", session.as_str()),
            ("super-node-sequence", sequence),
            ("super-node-lowest-unanswered", lowest),
        ];
        let reply = put(&fake, sequence, &headers).await;
        assert_eq!(reply.json["revision"], revision, "{sequence}: {}", reply.text);
    }
}

#[tokio::test]
async fn a_session_that_is_gone_says_so() {
    let fake = Fake::start().await;
    let session = open(&fake).await;
    let kept = fake.post(&format!("/v1/sessions/{session}"), "").await;
    assert_eq!(kept.json["session"].to_string(), session);
    let closed = Reply::of(fake.request(Method::DELETE, &format!("/v1/sessions/{session}"))).await;
    assert_eq!((closed.status, closed.json["session"].to_string()), (200, session.clone()));
    let headers = [("super-node-session", session.as_str()), ("super-node-sequence", "1")];
    let late = put(&fake, "1", &headers).await;
    assert!(late.problem(410, "session_expired").contains("whether an earlier one did is not known"));
    assert_eq!((&late.json["outcome"], &late.json["retryable"]), (&json!("not_applied"), &json!(false)));
    for (method, path) in
        [(Method::POST, &session), (Method::DELETE, &session), (Method::POST, &"999".to_string())]
    {
        Reply::of(fake.request(method, &format!("/v1/sessions/{path}")))
            .await
            .problem(410, "session_expired");
    }
    fake.get("/v1/kv/k").await.problem(404, "not_found");
}

#[tokio::test]
async fn odd_headers_are_refused() {
    let fake = Fake::start().await;
    let (session, sequence, lowest) =
        ("super-node-session", "super-node-sequence", "super-node-lowest-unanswered");
    let open = open(&fake).await;
    let open = open.as_str();
    for (headers, wanted) in [
        (vec![(session, open)], "go together"),
        (vec![(sequence, "1")], "go together"),
        (vec![(lowest, "1")], "go together"),
        (vec![(session, "x"), (sequence, "1")], "super-node-session: x is not a whole number"),
        (vec![(session, open), (sequence, "-1")], "super-node-sequence: -1 is not a whole number"),
        (vec![(session, open), (sequence, "1"), ("idempotency-key", "k")], "exclude each other"),
        (vec![(session, open), (sequence, "0")], "sequences begin at 1"),
        (vec![(session, open), (sequence, "1"), (lowest, "2")], "lowest unanswered one (2)"),
    ] {
        let reply = put(&fake, "1", &headers).await;
        let detail = reply.problem(400, "bad_request");
        assert!(detail.contains(wanted), "{headers:?}: {detail}");
    }
    let reply = fake.post("/v1/sessions/x", "").await;
    assert!(reply.problem(400, "bad_request").contains("'x' is not a session"));
    let reply =
        Reply::of(fake.request(Method::DELETE, "/v1/sessions/1").header(session, open).header(sequence, "1"));
    assert!(reply.await.problem(400, "bad_request").contains("outside of any session"));
}

#[tokio::test]
async fn sessions_live_in_the_replicated_state() {
    let fake = Fake::start().await;
    fake.command(Command::SessionOpen).await;
    let session = SessionId(fake.handle.applied.borrow().0).to_string();
    let headers = [("super-node-session", session.as_str()), ("super-node-sequence", "1")];
    let first = put(&fake, "1", &headers).await;
    // Another leader answers the same.
    fake.set_mood(Mood::Follows);
    assert_eq!(put(&fake, "1", &headers).await.json, first.json);
    assert_ne!(first.json["revision"], Value::Null);
}

/// The client library, many writes at once, against the real rules of the state.
#[tokio::test]
async fn the_client_pipelines_a_session() {
    let fake = Fake::start().await;
    let options =
        Options { endpoints: vec![fake.url.clone()], timeout: Duration::from_secs(30), ..Options::default() };
    let client = Client::new(options).expect("a client");
    let session = client.session();
    let writes = (0..1_100).map(|value| {
        let call = Call::new(Method::PUT, "/v1/kv/k").body(&json!(value));
        async { session.send(call).await.expect("written").body["revision"].as_u64().expect("a number") }
    });
    // As many at a time as the fake's inbox takes.
    let revisions: BTreeSet<u64> = futures_util::StreamExt::collect(
        futures_util::StreamExt::buffer_unordered(futures_util::stream::iter(writes), 48),
    )
    .await;
    assert_eq!(revisions, (1..=1_100).collect());
    session.close().await.expect("closed");
}
