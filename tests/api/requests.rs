//! What works: the dictionary, the addition, members, status, probes, metrics.

use reqwest::Method;
use serde_json::json;

use crate::fake::{Fake, Mood, Reply};

#[tokio::test]
async fn a_key_is_written_read_and_removed() {
    let fake = Fake::start().await;
    let put = fake.put("/v1/kv/greeting", " {\"text\" : \"hello\"} ").await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert_eq!(put.json, json!({"key": "greeting", "revision": 1, "index": 2, "term": 7}));
    assert_eq!(put.header("etag"), "\"1\"");
    let got = fake.get("/v1/kv/greeting").await;
    assert_eq!(got.text, "{\"key\":\"greeting\",\"value\":{\"text\":\"hello\"},\"revision\":1}");
    assert_eq!((got.header("etag"), got.header("content-type")), ("\"1\"", "application/json"));
    let unchanged =
        Reply::of(fake.request(Method::GET, "/v1/kv/greeting").header("if-none-match", "\"1\"")).await;
    assert_eq!((unchanged.status, unchanged.text.as_str()), (304, ""));
    let gone = Reply::of(fake.request(Method::DELETE, "/v1/kv/greeting")).await;
    assert_eq!((gone.status, &gone.json["revision"]), (200, &json!(2)), "{}", gone.text);
    assert_eq!(fake.get("/v1/kv/greeting").await.problem(404, "not_found"), "no key 'greeting'");
    Reply::of(fake.request(Method::DELETE, "/v1/kv/greeting")).await.problem(404, "not_found");
}

#[tokio::test]
async fn every_answer_says_who_answered() {
    let fake = Fake::start().await;
    for path in ["/v1/status", "/livez", "/metrics", "/nowhere", "/v1/kv/absent"] {
        let reply = fake.get(path).await;
        assert_eq!(reply.header("super-node-id"), "n1", "{path}");
        assert_eq!(reply.header("super-node-leader"), "n1", "{path}");
        assert_eq!(reply.header("super-node-term"), "7", "{path}");
        assert_eq!(reply.header("super-node-index"), "1", "{path}");
    }
}

#[tokio::test]
async fn keys_may_hold_slashes_and_any_unicode() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/a%2Fb", "1").await;
    assert_eq!(fake.get("/v1/kv/a/b").await.json["value"], 1);
    fake.put("/v1/kv/%C3%A4%20%3F", "2").await;
    assert_eq!(fake.get("/v1/kv/%C3%A4%20%3F").await.json["key"], "ä ?");
}

#[tokio::test]
async fn values_keep_every_digit_and_the_order_of_fields() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/n", "{\"z\":12345678901234567890123,\"a\":1.10}").await;
    let text = fake.get("/v1/kv/n").await.text;
    assert!(text.contains("{\"z\":12345678901234567890123,\"a\":1.10}"), "{text}");
    assert!(fake.get("/v1/kv").await.text.contains("12345678901234567890123"));
}

#[tokio::test]
async fn preconditions_hold_or_end_with_412() {
    let fake = Fake::start().await;
    let conditional = async |name: &'static str, value: &'static str| {
        Reply::of(fake.request(Method::PUT, "/v1/kv/k").header(name, value).body("1")).await
    };
    assert_eq!(conditional("if-none-match", "*").await.status, 200);
    conditional("if-none-match", "*").await.problem(412, "conflict");
    assert_eq!(conditional("if-match", "\"1\"").await.json["revision"], 2);
    let stale = conditional("if-match", "\"1\"").await;
    stale.problem(412, "conflict");
    assert_eq!((&stale.json["outcome"], &stale.json["retryable"]), (&json!("not_applied"), &json!(false)));
    let delete = fake.request(Method::DELETE, "/v1/kv/k").header("if-match", "\"1\"");
    Reply::of(delete).await.problem(412, "conflict");
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_first_answer() {
    let fake = Fake::start().await;
    let add = async |key: &'static str, body: &'static str| {
        Reply::of(fake.request(Method::POST, "/v1/add").header("idempotency-key", key).body(body)).await
    };
    let first = add("k1", "{\"a\":5,\"b\":3}").await;
    let again = add("k1", "{\"a\":5,\"b\":3}").await;
    assert_eq!((first.status, &first.json), (200, &again.json));
    add("k1", "{\"a\":5,\"b\":4}").await.problem(409, "conflict");
    assert_ne!(add("k2", "{\"a\":5,\"b\":3}").await.json["index"], first.json["index"]);
    let put = async || {
        Reply::of(fake.request(Method::PUT, "/v1/kv/x").header("idempotency-key", "k3").body("1")).await
    };
    assert_eq!(put().await.json, put().await.json);
}

#[tokio::test]
async fn the_addition_names_leader_and_node() {
    let fake = Fake::start().await;
    fake.set_mood(Mood::Follows);
    let sum = fake.post("/v1/add", "{\"a\":5,\"b\":3}").await;
    assert_eq!(sum.json, json!({"result": 8, "leader": "n2", "node": "n1", "index": 2}));
    fake.post("/v1/add", "{\"a\":9223372036854775807,\"b\":1}").await.problem(400, "bad_request");
}

#[tokio::test]
async fn lists_are_paged() {
    let fake = Fake::start().await;
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        fake.put(&format!("/v1/kv/{key}"), "0").await;
    }
    let keys = |reply: &Reply| -> Vec<String> {
        let items = reply.json["items"].as_array().expect("a list");
        items.iter().map(|item| item["key"].as_str().expect("text").to_string()).collect()
    };
    let first = fake.get("/v1/kv?prefix=a/&limit=2").await;
    assert_eq!((keys(&first), &first.json["next"]), (vec!["a/1".into(), "a/2".into()], &json!("a/2")));
    let second = fake.get("/v1/kv?prefix=a/&limit=2&after=a/2").await;
    assert_eq!((keys(&second), &second.json["next"]), (vec!["a/3".into()], &json!(null)));
    let exact = fake.get("/v1/kv?prefix=a/&limit=3").await;
    assert_eq!((keys(&exact).len(), &exact.json["next"]), (3, &json!(null)));
    assert_eq!(keys(&fake.get("/v1/kv").await).len(), 4);
    assert_eq!(keys(&fake.get("/v1/kv?prefix=zzz").await).len(), 0);
    for number in 0..40 {
        fake.put(&format!("/v1/kv/c/{number:02}"), "0").await;
    }
    assert_eq!(keys(&fake.get("/v1/kv?prefix=c/").await).len(), 40);
    assert_eq!(fake.get("/v1/kv?prefix=c/&limit=32").await.json["next"], "c/31");
}

#[tokio::test]
async fn a_page_of_large_values_ends_early() {
    let fake = Fake::start().await;
    let value = format!("\"{}\"", "x".repeat(1_000_000));
    for number in 0..7 {
        assert_eq!(fake.put(&format!("/v1/kv/{number}"), &value).await.status, 200);
    }
    let first = fake.get("/v1/kv").await;
    assert_eq!((first.json["items"].as_array().map(Vec::len), &first.json["next"]), (Some(5), &json!("4")));
    let rest = fake.get("/v1/kv?after=4").await;
    assert_eq!((rest.json["items"].as_array().map(Vec::len), &rest.json["next"]), (Some(2), &json!(null)));
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let fake = Fake::start().await;
    fake.put("/v1/kv/old", "1").await;
    let operations = json!({"operations": [
        {"op": "put", "key": "new", "value": [1, 2]},
        {"op": "delete", "key": "old"},
    ]});
    let batch = fake.post("/v1/kv:batch", &operations.to_string()).await;
    assert_eq!(batch.status, 200, "{}", batch.text);
    assert_eq!(fake.get("/v1/kv/new").await.json["value"], json!([1, 2]));
    assert_eq!(fake.get("/v1/kv/old").await.status, 404);
    let many =
        |count: usize| json!({"operations": vec![json!({"op": "delete", "key": "x"}); count]}).to_string();
    assert_eq!(fake.post("/v1/kv:batch", &many(1_000)).await.status, 200);
    fake.post("/v1/kv:batch", &many(1_001)).await.problem(413, "too_large");
    fake.post("/v1/kv:batch", &many(0)).await.problem(400, "bad_request");
}

#[tokio::test]
async fn members_join_show_and_leave() {
    let fake = Fake::start().await;
    let joined = fake.post("/v1/members", "{\"id\":\"w1\",\"address\":\"127.0.0.1:7500\"}").await;
    assert_eq!((joined.status, &joined.json["kind"]), (200, &json!("agent")), "{}", joined.text);
    // These are places in a URL: whoever had such a name could not be asked for, nor removed.
    for place in [".", ".."] {
        let body =
            json!({ "id": place, "address": "127.0.0.1:7500", "key": "0".repeat(64), "version": "0.1.0" });
        fake.post("/v1/members:enrol", &body.to_string()).await.problem(400, "bad_request");
        let body = json!({ "id": place, "address": "127.0.0.1:7500" });
        fake.post("/v1/members", &body.to_string()).await.problem(400, "bad_request");
    }
    let member = fake.get("/v1/members/w1").await;
    assert_eq!(member.json["address"], "127.0.0.1:7500");
    assert!(member.json["joined_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", member.text);
    let page = fake.get("/v1/members?limit=1").await;
    assert_eq!((&page.json["items"][0]["id"], &page.json["next"]), (&json!("n1"), &json!("n1")));
    assert_eq!(fake.get("/v1/members?after=n1").await.json["items"][0]["id"], "w1");
    let balances = fake.get("/v1/balances?member=w1").await;
    assert_eq!(balances.json["items"][0]["balance"], 0, "{}", balances.text);
    let left = Reply::of(fake.request(Method::DELETE, "/v1/members/w1")).await;
    assert_eq!(left.status, 200, "{}", left.text);
    assert_eq!(fake.get("/v1/members/w1").await.json["status"], "left");
    Reply::of(fake.request(Method::DELETE, "/v1/members/nobody")).await.problem(404, "not_found");
    fake.get("/v1/members/nobody").await.problem(404, "not_found");
}

#[tokio::test]
async fn super_nodes_are_added_promoted_demoted_and_removed() {
    let fake = Fake::start().await;
    let body = "{\"id\":\"n4\",\"kind\":\"super_node\",\"address\":\"10.0.0.4:7401\",\"replaces\":\"n3\"}";
    let added = fake.post("/v1/members", body).await;
    assert_eq!(
        (added.status, &added.json["role"], &added.json["joining"]),
        (200, &json!("learner"), &json!(true))
    );
    assert_eq!(
        (&added.json["replaces"], &added.json["voters"]),
        (&json!("n3"), &json!(["n1", "n2", "n3"])),
        "{}",
        added.text
    );
    // It is there, but not as the status of this node has it: somebody else has the name.
    let again = fake.post("/v1/members", body).await;
    assert!(again.problem(409, "conflict").contains("n4 is a super-node already"), "{}", again.text);
    let promoted = fake.post("/v1/members/n4:promote", "").await;
    assert_eq!(
        (promoted.status, &promoted.json["role"], &promoted.json["voters"]),
        (200, &json!("voter"), &json!(["n1", "n2", "n4"])),
        "{}",
        promoted.text
    );
    let demoted = fake.post("/v1/members/n4:demote", "").await;
    assert_eq!((demoted.status, &demoted.json["learners"]), (200, &json!(["n4"])), "{}", demoted.text);
    // What is so already is answered as if it had just been done.
    assert_eq!(fake.post("/v1/members/n1:promote", "").await.json["already"], true);
    fake.post("/v1/members/n9:promote", "").await.problem(404, "not_found");
    fake.post("/v1/members/n1:nonsense", "").await.problem(404, "not_found");
    let removed = Reply::of(fake.request(Method::DELETE, "/v1/members/n4")).await;
    assert_eq!((removed.status, &removed.json["learners"]), (200, &json!([])), "{}", removed.text);
    let voter = Reply::of(fake.request(Method::DELETE, "/v1/members/n1")).await;
    assert_eq!((voter.status, &voter.json["voters"]), (200, &json!(["n2"])), "{}", voter.text);
    // n1 is known to the ledger: it has left before.
    assert_eq!(Reply::of(fake.request(Method::DELETE, "/v1/members/n1")).await.json["already"], true);
    let last = Reply::of(fake.request(Method::DELETE, "/v1/members/n2")).await;
    assert!(last.problem(409, "conflict").contains("last voter"), "{}", last.text);
    // A name of the fleet is taken.
    fake.post("/v1/members", "{\"id\":\"w1\",\"address\":\"127.0.0.1:7500\"}").await;
    let taken = "{\"id\":\"w1\",\"kind\":\"super_node\",\"address\":\"10.0.0.4:7401\"}";
    assert!(fake.post("/v1/members", taken).await.problem(409, "conflict").contains("name of an agent"));
}

#[tokio::test]
async fn leadership_is_handed_over_on_request() {
    let fake = Fake::start().await;
    let moved = fake.post("/v1/leader:transfer", "{\"to\":\"n2\"}").await;
    assert_eq!(
        (moved.status, &moved.json["leader"], &moved.json["term"], &moved.json["previous"]),
        (200, &json!("n2"), &json!(8), &json!("n1")),
        "{}",
        moved.text
    );
    assert_eq!(fake.post("/v1/leader:transfer", "").await.json["leader"], "n2");
    // It leads already.
    assert_eq!(fake.post("/v1/leader:transfer", "{\"to\":\"n1\"}").await.json["already"], true);
    let nobody = fake.post("/v1/leader:transfer", "{\"to\":\"n3\"}").await;
    assert!(nobody.problem(409, "conflict").contains("n3 cannot take over"), "{}", nobody.text);
    fake.set_mood(Mood::Lost);
    fake.post("/v1/leader:transfer", "").await.problem(503, "no_leader");
    fake.set_mood(Mood::Silent);
    let silent = fake.post("/v1/leader:transfer", "").await;
    silent.problem(504, "timeout");
    assert_eq!(
        (&silent.json["outcome"], &silent.json["hint"]),
        (&json!("unknown"), &json!("super-node leader show says who leads"))
    );
}

#[tokio::test]
async fn probes_status_and_metrics_need_no_quorum() {
    let fake = Fake::start().await;
    assert_eq!(fake.get("/readyz").await.text, "ready\n");
    fake.set_mood(Mood::Lost);
    assert_eq!(fake.get("/livez").await.text, "ok\n");
    let ready = fake.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.text.contains("[-] leader: none known\n") && ready.text.contains("[+] running"),
        "{}",
        ready.text
    );
    let status = fake.get("/v1/status").await;
    for field in [
        "cluster",
        "id",
        "role",
        "term",
        "leader",
        "commit",
        "applied",
        "voters",
        "nodes",
        "members",
        "interval",
        "ledger",
        "projection",
    ] {
        assert!(status.json.get(field).is_some(), "{field} is missing in {}", status.text);
    }
    assert_eq!(status.json["role"], "candidate");
    let metrics = fake.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let counted = "super_node_http_requests_total{route=\"/v1/status\",code=\"200\"} 1";
    assert!(metrics.text.contains(counted), "{}", metrics.text);
    let page = fake.get("/").await;
    assert!(page.header("content-type").starts_with("text/html") && page.text.contains("/metrics"));
}

#[tokio::test]
async fn the_page_of_all_routes_needs_nothing_from_elsewhere() {
    let fake = Fake::start().await;
    let page = fake.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let document = fake.get("/openapi.json").await.json;
    for path in document["paths"].as_object().expect("paths").keys() {
        assert!(page.text.contains(&format!("</span>{path}</h3>")), "{path} is not on the page");
    }
    assert!(fake.get("/").await.text.contains("href=\"/docs\""));
}
