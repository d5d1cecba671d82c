//! What goes wrong, and how it is told.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{Fake, Mood, Reply};

#[tokio::test]
async fn malformed_requests_are_told_where() {
    let fake = Fake::start().await;
    for (method, path, body, wanted) in [
        ("PUT", "/v1/kv/k", "{\"a\":\n  1,}", "line 2 column 5"),
        ("PUT", "/v1/kv/k", "", "the body is empty"),
        ("PUT", "/v1/kv/k", "hello", "line 1 column 1"),
        ("PUT", "/v1/kv/", "1", "the key is empty"),
        ("PUT", "/v1/kv/k?forwrd=1", "1", "unknown parameter 'forwrd'"),
        ("PUT", "/v1/kv/k?forward=maybe", "1", "forward=maybe is neither true nor false"),
        ("POST", "/v1/add", "{\"a\":5}", "missing field `b`"),
        ("POST", "/v1/add", "{\"a\":5,\"b\":3,\"c\":1}", "unknown field `c`"),
        ("POST", "/v1/add", "{\"a\":\"5\",\"b\":3}", "expected i64"),
        ("POST", "/v1/add", "{\"a\":5.5,\"b\":3}", "expected i64"),
        ("POST", "/v1/add", "{\"a\":1e400,\"b\":3}", "number out of range"),
        ("POST", "/v1/kv:batch", "{\"operations\":[{\"op\":\"steal\"}]}", "unknown variant `steal`"),
        (
            "POST",
            "/v1/kv:batch",
            "{\"operations\":[{\"op\":\"put\",\"key\":\"\",\"value\":1}]}",
            "a key has 1 to 512",
        ),
        ("POST", "/v1/members", "{\"id\":\"a b\",\"address\":\"h:1\"}", "'a b' is not a valid name"),
        ("POST", "/v1/members", "{\"id\":\"w\",\"address\":\"h\"}", "unusable address 'h'"),
        (
            "POST",
            "/v1/members",
            "{\"id\":\"w\",\"address\":\"h:1\",\"replaces\":\"n1\"}",
            "are for super-nodes",
        ),
        (
            "POST",
            "/v1/members",
            "{\"id\":\"w\",\"address\":\"h:1\",\"kind\":\"super_node\",\"replaces\":\"n1\",\"learner_only\":true}",
            "cannot replace a voter",
        ),
        (
            "POST",
            "/v1/members",
            "{\"id\":\"w\",\"address\":\"0.0.0.0:1\",\"kind\":\"super_node\"}",
            "no address that others could dial",
        ),
        ("POST", "/v1/leader:transfer", "{\"to\":7}", "not usable JSON"),
        ("POST", "/v1/leader:transfer", "{\"too\":\"n2\"}", "unknown field"),
        ("GET", "/v1/kv?limit=1001", "", "limit=1001 is out of range: 1 to 1000"),
        ("GET", "/v1/kv?limit=-1", "", "limit=-1 is not usable"),
        ("GET", "/v1/kv/k?level=psychic", "", "level=psychic is not known"),
        ("GET", "/v1/kv/k?max_stale=1s", "", "max_stale only goes with level=stale"),
        ("GET", "/v1/kv/k?wait=1s", "", "wait only goes with after"),
        ("GET", "/v1/kv/k?after=1&wait=2h", "", "is more than 60s"),
        ("GET", "/v1/kv/%FF", "", "the key cannot be read"),
        ("GET", "/v1/rewards?kind=bribe", "", "kind=bribe is not known: reward, penalty"),
        ("GET", "/v1/rewards?from=yesterday", "", "'yesterday' is not a time"),
        ("GET", "/v1/rewards?member=a%20b", "", "'a b' is not a valid name"),
        ("GET", "/v1/intervals/x", "", "'x' is not the number of an interval"),
        ("GET", "/v1/status?x=1", "", "unknown parameter 'x'"),
    ] {
        let method: Method = method.parse().expect("a method");
        let reply = Reply::of(fake.request(method, path).body(body)).await;
        let detail = reply.problem(400, "bad_request");
        assert!(detail.contains(wanted), "{path} {body}\ngave    {detail}\nwanted  {wanted}");
        assert_eq!(
            (&reply.json["outcome"], &reply.json["retryable"]),
            (&json!("not_applied"), &json!(false))
        );
    }
}

#[tokio::test]
async fn bad_headers_are_refused() {
    let fake = Fake::start().await;
    let long = "x".repeat(129);
    for (name, value, wanted) in [
        ("idempotency-key", long.as_str(), "Idempotency-Key must be 1 to 128"),
        ("if-match", "*", "If-Match: * is not a revision"),
        ("if-none-match", "\"1\"", "only * is"),
    ] {
        let reply = Reply::of(fake.request(Method::PUT, "/v1/kv/k").header(name, value).body("1")).await;
        assert!(reply.problem(400, "bad_request").contains(wanted), "{}", reply.text);
    }
    let reply = Reply::of(fake.request(Method::GET, "/v1/events").header("last-event-id", "x")).await;
    assert!(reply.problem(400, "bad_request").contains("is not a number"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let fake = Fake::start().await;
    for path in ["/nowhere", "/v1", "/v1/kvs", "/v1/members/a/b", "/v2/status"] {
        fake.get(path).await.problem(404, "not_found");
    }
    let reply = fake.post("/v1/status", "").await;
    assert!(reply.problem(405, "bad_request").contains("POST is not a method of /v1/status"));
    assert!(reply.header("allow").contains("GET"), "{:?}", reply.headers);
    fake.get("/v1/intervals/99").await.problem(404, "not_found");
    fake.get("/v1/intervals/99/members/n1").await.problem(404, "not_found");
    fake.get("/v1/elections/99").await.problem(404, "not_found");
}

#[tokio::test]
async fn without_a_leader_writes_and_fresh_reads_fail_and_stale_reads_work() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/k", "1").await;
    fake.set_mood(Mood::Lost);
    let write = fake.put("/v1/kv/k", "2").await;
    assert_eq!(write.problem(503, "no_leader"), "2 of 3 voters reachable, n1 is candidate in term 7");
    assert_eq!((write.header("retry-after"), &write.json["leader"]), ("1", &json!(null)));
    assert_eq!((&write.json["retryable"], &write.json["outcome"]), (&json!(true), &json!("not_applied")));
    assert_eq!(write.header("super-node-leader"), "");
    for path in ["/v1/kv/k", "/v1/kv", "/v1/members", "/v1/rewards", "/v1/kv/k?level=lease"] {
        fake.get(path).await.problem(503, "no_leader");
    }
    assert_eq!(fake.get("/v1/kv/k?level=stale").await.json["value"], 1);
    assert_eq!(fake.get("/v1/members?level=stale").await.status, 200);
    fake.get("/v1/kv/k?level=stale&max_stale=1h").await.problem(503, "no_leader");
}

#[tokio::test]
async fn staleness_is_bounded_by_the_last_word_of_the_leader() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/k", "1").await;
    assert_eq!(fake.get("/v1/kv/k?level=stale&max_stale=1ms").await.status, 200);
    fake.set_mood(Mood::Follows);
    assert_eq!(fake.get("/v1/kv/k?level=stale&max_stale=40ms").await.status, 200);
    let old = fake.get("/v1/kv/k?level=stale&max_stale=39ms").await;
    assert!(old.problem(503, "no_leader").contains("40ms ago, more than 39ms"));
}

#[tokio::test]
async fn forwarding_can_be_refused() {
    let fake = Fake::start().await;
    fake.set_mood(Mood::Follows);
    assert_eq!(fake.put("/v1/kv/k", "1").await.status, 200);
    for (method, path, location) in [
        (Method::PUT, "/v1/kv/a%2Fb?forward=false", "http://n2:7400/v1/kv/a%2Fb?forward=false"),
        (Method::GET, "/v1/kv/k?forward=false", "http://n2:7400/v1/kv/k?forward=false"),
    ] {
        let reply = Reply::of(fake.request(method, path).body("1")).await;
        assert_eq!(reply.problem(307, "not_leader"), "n2 leads");
        assert_eq!((reply.header("location"), &reply.json["leader"]), (location, &json!("n2")));
        assert_eq!(reply.json["leader_url"], "http://n2:7400");
    }
}

#[tokio::test]
async fn silence_leaves_a_write_unknown_and_a_read_in_time() {
    let fake = Fake::start().await;
    fake.set_mood(Mood::Silent);
    let write = fake.put("/v1/kv/k", "1").await;
    write.problem(504, "timeout");
    assert_eq!((&write.json["outcome"], &write.json["retryable"]), (&json!("unknown"), &json!(true)));
    let read = fake.get("/v1/kv/k").await;
    read.problem(504, "timeout");
    assert_eq!(read.json["outcome"], "not_applied");
}

#[tokio::test]
async fn large_bodies_end_with_413_and_the_connection_goes_on() {
    let fake = Fake::start().await;
    let value = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    assert_eq!(fake.put("/v1/kv/fits", &value(1 << 20)).await.status, 200);
    assert!(fake.put("/v1/kv/k", &value((1 << 20) + 1)).await.problem(413, "too_large").contains("1048576"));
    for path in ["/v1/kv/k", "/v1/kv:batch", "/v1/add"] {
        let method = if path == "/v1/kv/k" { Method::PUT } else { Method::POST };
        let reply = Reply::of(fake.request(method, path).body(value(10 << 20))).await;
        assert!(reply.problem(413, "too_large").contains("larger than 4194304 bytes"));
    }
    assert_eq!(fake.get("/v1/kv/fits").await.status, 200);
}

#[tokio::test]
async fn whoever_asks_before_sending_too_much_is_told_at_once() {
    let fake = Fake::start().await;
    let address = fake.url.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("listens");
    let head = "PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\nexpect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut text = String::new();
    connection.read_to_string(&mut text).await.expect("an answer, then the end");
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}
