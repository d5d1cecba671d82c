//! The client against nodes that lose answers, refuse, or point elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use reqwest::Method;
use serde_json::{Value, json};
use super_node::client::{Call, Client, Options, Outcome};
use super_node::node::events::NodeEvent;
use super_node::node::status::NodeStatus;

/// One scripted answer.
#[derive(Clone)]
enum Line {
    /// The write is done, and the answer is lost.
    Hang,
    Ok,
    /// A session is open.
    Opened(u64),
    /// The session has ended.
    Gone,
    Problem(&'static str, &'static str, Option<String>),
}

#[derive(Clone)]
struct Script {
    lines: Arc<Mutex<VecDeque<Line>>>,
    keys: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(script): State<Script>, headers: HeaderMap) -> Response {
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("ASCII"));
    let key = match text("super-node-session") {
        "" => text("idempotency-key").to_string(),
        session => {
            format!("{session}:{} from {}", text("super-node-sequence"), text("super-node-lowest-unanswered"))
        }
    };
    script.keys.lock().expect("one at a time").push(key);
    // The last line is repeated for ever.
    let line = {
        let mut lines = script.lines.lock().expect("one at a time");
        if lines.len() > 1 { lines.pop_front() } else { lines.front().cloned() }
    };
    match line.expect("a script has a line") {
        Line::Hang => std::future::pending().await,
        Line::Ok => axum::Json(json!({"done": true})).into_response(),
        Line::Opened(session) => axum::Json(json!({"session": session})).into_response(),
        Line::Gone => {
            let body = json!({
                "title": "session expired", "detail": "", "status": 410, "code": "session_expired",
                "retryable": false, "outcome": "not_applied",
            });
            (StatusCode::GONE, axum::Json(body)).into_response()
        }
        Line::Problem(code, outcome, leader_url) => {
            let body = json!({
                "title": code, "detail": "", "status": 503, "code": code, "retryable": true,
                "outcome": outcome, "leader_url": leader_url,
            });
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

/// A node that follows a script; its URL and the idempotency keys, or places in a session, that it has seen.
async fn node(lines: impl IntoIterator<Item = Line>) -> (String, Arc<Mutex<Vec<String>>>) {
    let script = Script { lines: Arc::new(Mutex::new(lines.into_iter().collect())), keys: Arc::default() };
    let keys = script.keys.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().fallback(answer).with_state(script);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, keys)
}

fn client(endpoints: Vec<String>, timeout: Duration) -> Client {
    Client::new(Options { endpoints, timeout, ..Options::default() }).expect("a client")
}

/// The same node under two names.
fn twice(url: String) -> Vec<String> {
    vec![url.replace("127.0.0.1", "localhost"), url]
}

fn write() -> Call {
    Call::new(Method::POST, "/v1/add").body(&json!({"a": 1, "b": 2})).find_out("look")
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let (url, keys) = node([Line::Hang, Line::Ok]).await;
    // Two endpoints: a hanging try ends long before the call does.
    let client = client(twice(url), Duration::from_secs(2));
    let answer = client.send(write()).await.expect("the second try is answered");
    assert_eq!(answer.body, json!({"done": true}));
    let keys = keys.lock().expect("one at a time");
    assert!(keys.len() == 2 && keys[0] == keys[1] && keys[0].len() == 32, "{keys:?}");
}

#[tokio::test]
async fn doubt_stays_until_an_answer_removes_it() {
    let refusal = Line::Problem("no_leader", "not_applied", None);
    let (url, _) = node([Line::Hang, refusal]).await;
    let error = client(twice(url), Duration::from_secs(1)).send(write()).await.expect_err("no answer");
    assert_eq!((error.code.as_str(), error.outcome), ("unknown", Some(Outcome::Unknown)));
    assert_eq!(error.hint.as_deref(), Some("look"));
    let (url, _) = node([Line::Problem("timeout", "unknown", None)]).await;
    let error = client(vec![url], Duration::from_millis(300)).send(write()).await.expect_err("no answer");
    assert_eq!(error.outcome, Some(Outcome::Unknown));
}

#[tokio::test]
async fn a_read_is_never_in_doubt() {
    let (url, keys) = node([Line::Hang]).await;
    let error =
        client(vec![url], Duration::from_millis(300)).send(Call::get("/v1/kv/k")).await.expect_err("silence");
    assert_eq!((error.code.as_str(), error.outcome), ("unreachable", None));
    assert_eq!(keys.lock().expect("one at a time").first().map(String::as_str), Some(""));
}

#[tokio::test]
async fn a_refusal_is_retried_and_its_hint_followed() {
    let (leader, _) = node([Line::Ok]).await;
    let hint = Line::Problem("no_leader", "not_applied", Some(leader));
    let (follower, asked) = node([hint]).await;
    client(vec![follower], Duration::from_secs(5)).send(write()).await.expect("the leader answers");
    assert_eq!(asked.lock().expect("one at a time").len(), 1);
    let (url, asked) = node([Line::Problem("overloaded", "not_applied", None), Line::Ok]).await;
    client(vec![url], Duration::from_secs(5)).send(write()).await.expect("the second try is answered");
    assert_eq!(asked.lock().expect("one at a time").len(), 2);
}

#[tokio::test]
async fn nobody_there_means_not_applied() {
    let error =
        client(vec!["http://127.0.0.1:9".to_string()], Duration::from_millis(100)).send(write()).await;
    let error = error.expect_err("nobody is there");
    assert_eq!((error.code.as_str(), error.outcome), ("unreachable", Some(Outcome::NotApplied)));
    assert_eq!((error.tried.len(), error.tried[0].what.as_str()), (1, "refused"));
}

#[tokio::test]
async fn writes_of_a_session_carry_their_place_in_it() {
    let lines = [Line::Opened(9), Line::Ok, Line::Problem("no_leader", "not_applied", None), Line::Ok];
    let (url, seen) = node(lines).await;
    let client = client(vec![url], Duration::from_secs(5));
    let session = client.session();
    session.send(write()).await.expect("answered");
    session.send(write()).await.expect("the second try is answered");
    session.close().await.expect("closed");
    let seen = seen.lock().expect("one at a time");
    assert_eq!(seen[1..4], ["9:1 from 1", "9:2 from 2", "9:2 from 2"]);
    assert!(seen[0].len() == 32 && seen[4].len() == 32, "opened and closed under a key: {seen:?}");
}

#[tokio::test]
async fn a_write_that_found_its_session_gone_goes_into_a_new_one() {
    let (url, seen) = node([Line::Opened(9), Line::Ok, Line::Gone, Line::Opened(10), Line::Ok]).await;
    let client = client(vec![url], Duration::from_secs(5));
    let session = client.session();
    session.send(write()).await.expect("answered");
    session.send(write()).await.expect("answered in the new session");
    assert_eq!(seen.lock().expect("one at a time")[4], "10:1 from 1");
}

/// It may have been executed in the session that is gone: a second try elsewhere could be a second execution.
#[tokio::test]
async fn a_write_in_doubt_does_not_go_into_a_new_session() {
    let (url, seen) = node([Line::Opened(9), Line::Problem("timeout", "unknown", None), Line::Gone]).await;
    let client = client(vec![url], Duration::from_secs(5));
    let error = client.session().send(write()).await.expect_err("nobody knows");
    assert_eq!((error.code.as_str(), error.outcome), ("session_expired", Some(Outcome::Unknown)));
    assert_eq!(seen.lock().expect("one at a time")[1..], ["9:1 from 1", "9:1 from 1"]);
}

/// A refusal of a later try says nothing about the one whose answer was lost, unless the replicated state refused it.
#[tokio::test]
async fn a_node_s_refusal_does_not_end_the_doubt_about_an_earlier_try() {
    let lost = Line::Problem("timeout", "unknown", None);
    let (url, _) = node([lost, Line::Gone]).await;
    let error = client(vec![url], Duration::from_secs(5)).send(write()).await.expect_err("refused");
    assert_eq!(error.outcome, Some(Outcome::Unknown));
}

/// The same value as a node of a later version would say it: with fields that nobody here knows, on every level.
fn later(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let known = fields.iter().map(|(name, field)| (name.clone(), later(field)));
            known.chain([("of_a_later_version".to_string(), json!({"x": [1]}))]).collect()
        }
        Value::Array(items) => items.iter().map(later).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn what_a_later_version_adds_is_passed_over() {
    let node = json!({"id": "n1", "address": "", "role": "leader", "match": 1, "lag": 0, "contact_ms": 0, "up": true,
        "url": null});
    let status = json!({
        "cluster": "c", "id": "n1", "role": "leader", "term": 3, "leader": "n1", "commit": 7, "applied": 6,
        "voters": ["n1"], "nodes": [node],
        "members": {"total": 0, "up": 0, "suspect": 0, "down": 0, "suspended": 0},
        "interval": {"open": 0, "next_settle": 0}, "ledger": {"records": 0, "head_hash": ""},
        "projection": {"enabled": false, "checkpoint": 0, "lag_records": 0, "error": null},
        "version": "", "url": "",
    });
    let listing = json!({"items": [{"key": "a", "value": 1, "revision": 4}], "next": null, "keys": 1, "revision": 4,
        "more": false});
    let problem = json!({"type": "", "title": "conflict", "detail": "no", "status": 409, "code": "conflict",
        "leader": null, "term": 1, "retryable": false, "outcome": "not_applied", "index": 7});
    let event = json!({"id": 1, "at": "2026-01-01T00:00:00Z", "type": "t", "message": "m", "data": {}});
    let (status, listing, problem) = (later(&status), later(&listing), later(&problem));
    let event = format!("data: {}\n\n", later(&event));
    let router = Router::new()
        .route("/v1/status", axum::routing::get(async || axum::Json(status)))
        .route("/v1/kv", axum::routing::get(async || axum::Json(listing)))
        .route("/v1/add", axum::routing::post(async || (StatusCode::CONFLICT, axum::Json(problem))))
        .route("/v1/events", axum::routing::get(async || event));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = client(vec![url], Duration::from_secs(5));
    let status = client.send(Call::get("/v1/status")).await.expect("an answer");
    assert_eq!(status.read::<NodeStatus>().expect("a status").term.0, 3);
    assert_eq!(client.pages(Call::get("/v1/kv"), None).await.expect("a page").len(), 1);
    assert_eq!(client.watch("a").next().await.expect("a change")["value"], json!(1));
    let refused = client.send(write()).await.expect_err("a refusal");
    assert_eq!((refused.code.as_str(), refused.outcome), ("conflict", Some(Outcome::NotApplied)));
    let mut seen: Vec<NodeEvent> = Vec::new();
    let visit = &mut |event| {
        seen.push(event);
        std::ops::ControlFlow::Continue(())
    };
    client.events(Default::default(), visit).await.expect("a stream that ends");
    assert_eq!(seen[0].kind, "t");
}
