//! One write, followed through real processes, as a real collector hears of it.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use cluster::{Cluster, PATIENCE, Setup};
use serde_json::{Value, json};

type Spans = Arc<Mutex<Vec<Value>>>;

/// A collector: takes OTLP over HTTP in JSON, and keeps the spans.
async fn collector() -> (String, Spans) {
    async fn take(State(spans): State<Spans>, Json(body): Json<Value>) -> Json<Value> {
        let resource = &body["resourceSpans"][0];
        assert_eq!(attribute(&resource["resource"], "service.name"), "super-node");
        let found = resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
        let node = attribute(&resource["resource"], "service.instance.id");
        let named = found.into_iter().map(|mut span| {
            span["node"] = node.clone().into();
            span
        });
        spans.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
        Json(json!({}))
    }
    let spans = Spans::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, spans)
}

fn attribute(of: &Value, key: &str) -> String {
    let none = Vec::new();
    let attributes = of["attributes"].as_array().unwrap_or(&none);
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = found.map_or(&Value::Null, |attribute| &attribute["value"]);
    value["stringValue"].as_str().or(value["intValue"].as_str()).unwrap_or_default().to_string()
}

fn nanos(span: &Value, key: &str) -> u64 {
    span[key].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{key} of {span}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_one_trace_from_the_request_to_the_answer_and_others_are_not_followed() {
    let (url, spans) = collector().await;
    let setup = Setup::nodes(3).with("SUPER_NODE_TRACING__OTLP", &url).with("SUPER_NODE_TRACING__RATIO", "0");
    let cluster = Cluster::start(&setup);
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "warm", &json!(1)).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let put = async |key: &str, flags: &str| {
        let url = format!("{}/v1/kv/{key}", cluster.nodes[leader].url());
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        let sent = cluster.http.put(url).header("traceparent", traceparent).json(&json!(2)).send().await;
        let answer = sent.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json::<Value>().await.expect("JSON")["index"].to_string()
    };
    put("unwatched", "00").await;
    let index = put("followed", "01").await;
    let begun = Instant::now();
    let expected = ["write", "queue", "consensus", "log", "replicate", "apply", "answer"];
    let all = loop {
        let all = spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names: BTreeSet<&str> = all.iter().filter_map(|span| span["name"].as_str()).collect();
        if expected.iter().all(|name| names.contains(name)) {
            break all;
        }
        assert!(begun.elapsed() < PATIENCE, "only {names:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // Of this write and of no other.
    assert!(all.iter().all(|span| span["traceId"] == trace), "{all:?}");
    let by_id: BTreeMap<&str, &Value> =
        all.iter().map(|span| (span["spanId"].as_str().expect("an id"), span)).collect();
    assert_eq!(by_id.len(), all.len(), "ids are unique");
    let find = |name: &str| all.iter().find(|span| span["name"] == name).expect("it is there");
    let root = find("write");
    assert_eq!((root["parentSpanId"].as_str(), root["kind"].as_u64()), (Some("00f067aa0ba902b7"), Some(2)));
    assert_eq!(attribute(root, "url.path"), "/v1/kv/followed");
    for (name, parent) in [
        ("queue", "write"),
        ("consensus", "write"),
        ("log", "consensus"),
        ("replicate", "consensus"),
        ("apply", "write"),
        ("answer", "write"),
    ] {
        let (span, parent) = (find(name), find(parent));
        assert_eq!(span["parentSpanId"], parent["spanId"], "{name}");
        assert_eq!(span["node"], cluster.nodes[leader].id.as_str());
        assert_eq!(attribute(span, "super_node.log.index"), index, "{name}");
        let (from, to) = (nanos(span, "startTimeUnixNano"), nanos(span, "endTimeUnixNano"));
        assert!(from <= to && from >= nanos(parent, "startTimeUnixNano"), "{name}: {span} in {parent}");
        // A disk or a peer may be later than the majority that it was not needed for.
        if !["log", "replicate"].contains(&name) {
            assert!(to <= nanos(parent, "endTimeUnixNano"), "{name}: {span} in {parent}");
        }
    }
    let peers: BTreeSet<String> = all
        .iter()
        .filter(|span| span["name"] == "replicate")
        .map(|span| attribute(span, "super_node.peer"))
        .collect();
    assert!(!peers.is_empty() && !peers.contains(&cluster.nodes[leader].id), "{peers:?}");
    let metrics = format!("{}/metrics", cluster.nodes[leader].url());
    let text = cluster.http.get(metrics).send().await.expect("an answer").text().await.expect("text");
    assert!(text.contains("super_node_trace_spans_total{result=\"exported\"}"), "{text}");
}

/// Waits until the collector has spans of all these names, and no others.
async fn spans_named(spans: &Spans, expected: &[&str]) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let all = spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names: BTreeSet<&str> = all.iter().filter_map(|span| span["name"].as_str()).collect();
        if names == expected.iter().copied().collect() {
            return all;
        }
        assert!(begun.elapsed() < PATIENCE, "only {names:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const ALL_NAMES: [&str; 8] =
    ["write", "queue", "forward", "consensus", "log", "replicate", "apply", "answer"];

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_follower_passes_on_is_one_trace_over_both_nodes() {
    let (url, spans) = collector().await;
    let setup = Setup::nodes(3).with("SUPER_NODE_TRACING__OTLP", &url).with("SUPER_NODE_TRACING__RATIO", "0");
    let cluster = Cluster::start(&setup);
    let (leader, _) = cluster.leader().await;
    cluster.put(leader, "warm", &json!(1)).await;
    let follower = (0..3).find(|at| *at != leader).expect("there are three");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    // As from a shell that runs within a trace, through the client.
    let mut command = cluster.cli_command(&["kv", "set", "passed-on", "2"]);
    command.env("SUPER_NODE_ENDPOINTS", cluster.nodes[follower].url());
    command.env("TRACEPARENT", format!("00-{trace}-00f067aa0ba902b7-01"));
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = spans_named(&spans, &ALL_NAMES).await;
    assert!(all.iter().all(|span| span["traceId"] == trace), "{all:?}");
    let by_id: BTreeMap<&str, &Value> =
        all.iter().map(|span| (span["spanId"].as_str().expect("an id"), span)).collect();
    assert_eq!(by_id.len(), all.len(), "ids are unique");
    let (here, there) = (cluster.nodes[follower].id.as_str(), cluster.nodes[leader].id.as_str());
    let find = |node: &str, name: &str| {
        let found = all.iter().find(|span| span["name"] == name && span["node"] == node);
        found.unwrap_or_else(|| panic!("{name} of {node}: {all:?}"))
    };
    let (root, forward) = (find(here, "write"), find(here, "forward"));
    assert_eq!(root["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(attribute(forward, "super_node.peer"), there);
    let parents = [
        (find(here, "queue"), root),
        (forward, root),
        (find(here, "answer"), root),
        (find(there, "consensus"), forward),
        (find(there, "log"), find(there, "consensus")),
        (find(there, "replicate"), find(there, "consensus")),
        (find(there, "apply"), forward),
        (find(there, "answer"), forward),
    ];
    for (span, parent) in parents {
        assert_eq!(span["parentSpanId"], parent["spanId"], "{span}");
    }
    let index = attribute(forward, "super_node.log.index");
    assert!(!index.is_empty() && attribute(find(there, "consensus"), "super_node.log.index") == index);
    // The queue of the leader is no part of it, and neither node tells what the other did.
    for (node, name) in [(there, "queue"), (there, "write"), (here, "consensus"), (here, "log")] {
        assert!(!all.iter().any(|span| span["name"] == name && span["node"] == node), "{name} of {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_of_an_older_version_takes_what_is_passed_on_without_a_trace() {
    let (url, spans) = collector().await;
    let setup = Setup::nodes(3)
        .with("SUPER_NODE_TRACING__OTLP", &url)
        .with("SUPER_NODE_TRACING__RATIO", "0")
        .with("SUPER_NODE_NODE__PEER_PROTOCOL_MAX", "3");
    let cluster = Cluster::start(&setup);
    let (leader, _) = cluster.leader().await;
    let follower = (0..3).find(|at| *at != leader).expect("there are three");
    let send = async |flags: &str| {
        let url = format!("{}/v1/kv/key", cluster.nodes[follower].url());
        let traceparent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let sent = cluster.http.put(url).header("traceparent", traceparent).json(&json!(2)).send().await;
        let answer = sent.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.headers().get("traceparent").map(|value| value.to_str().expect("ASCII").to_string())
    };
    let said = send("01").await.expect("the answer names the span");
    assert_eq!(send("00").await, None, "that one is not followed");
    let all = spans_named(&spans, &["write", "queue", "forward", "answer"]).await;
    let root = all.iter().find(|span| span["name"] == "write").expect("it is there");
    let (trace, span) = (root["traceId"].as_str().expect("text"), root["spanId"].as_str().expect("text"));
    assert_eq!(said, format!("00-{trace}-{span}-01"));
    // Nothing was said that the leader could not read: it still talks with this follower.
    assert!(!cluster.log_of(leader).contains("makes no sense"), "{}", cluster.log_of(leader));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    let setup = Setup::nodes(1)
        .with("SUPER_NODE_TRACING__OTLP", &format!("http://127.0.0.1:{}", cluster::free_port()))
        .with("SUPER_NODE_TRACING__RATIO", "1");
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    for number in 0..50 {
        cluster.put(0, "key", &json!(number)).await;
    }
    let failed = "super_node_trace_spans_total{result=\"failed\"}";
    cluster
        .wait_for("that is counted", || async {
            let metrics = format!("{}/metrics", cluster.nodes[0].url());
            let text = cluster.http.get(metrics).send().await.ok()?.text().await.ok()?;
            text.contains(failed).then_some(())
        })
        .await;
}
