//! The program against a served node: output, exit codes, and what a retry looks like from outside.

use std::process::Stdio;

use serde_json::{Value, json};
use super_node::types::UnixMillis;

use crate::fake::{Fake, Mood};

/// Runs the program against these endpoints: exit code, stdout, stderr.
async fn run_at(endpoints: &str, line: &[&str]) -> (i32, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_super-node"))
        .args(["--endpoints", endpoints])
        .args(line)
        .current_dir(std::env::temp_dir())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

async fn run(fake: &Fake, line: &str) -> (i32, String, String) {
    run_at(&fake.url, &line.split_whitespace().collect::<Vec<_>>()).await
}

#[tokio::test]
async fn the_addition_prints_three_lines() {
    let fake = Fake::start().await;
    let (code, stdout, stderr) = run(&fake, "add 5 3").await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "Leader: Node n1\nOperation performed on: Node n1\nResult: 5 + 3 = 8\n");
    let (_, stdout, _) = run(&fake, "-o json add -5 3").await;
    let sum: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&sum["result"], &sum["leader"]), (&json!(-2), &json!("n1")));
}

#[tokio::test]
async fn the_dictionary_takes_json_or_text() {
    let fake = Fake::start().await;
    for (value, plain) in [
        ("5", "5\n"),
        ("hello world", "hello world\n"),
        ("[1, 2]", "[1,2]\n"),
        ("{\"a\":true}", "{\"a\":true}\n"),
        ("\"5\"", "5\n"),
    ] {
        let (code, _, stderr) = run_at(&fake.url, &["kv", "set", "a/b c", value]).await;
        assert_eq!((code, stderr.as_str()), (0, ""), "{value}");
        assert_eq!(run_at(&fake.url, &["kv", "get", "a/b c"]).await.1, plain);
    }
    let (_, stdout, _) = run_at(&fake.url, &["-o", "json", "kv", "get", "a/b c"]).await;
    assert_eq!(stdout, "{\"key\":\"a/b c\",\"value\":\"5\",\"revision\":5}\n");
    let (_, stdout, _) = run(&fake, "kv list").await;
    assert_eq!(stdout, "a/b c\t\"5\"\t5\n");
    let (code, _, stderr) = run(&fake, "kv set new 1 --if-revision 7").await;
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("[conflict]") && stderr.contains("write not applied.\n"), "{stderr}");
    assert_eq!(run(&fake, "kv set new 1 --if-revision 0").await.0, 0);
    assert_eq!(run(&fake, "kv delete new").await.0, 0);
    let (code, stdout, stderr) = run(&fake, "kv get new").await;
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (6, "", "error: not found: no key 'new'   [not_found]\n")
    );
}

#[tokio::test]
async fn lists_are_paged_through_to_their_end() {
    let fake = Fake::start().await;
    for chunk in 0..3 {
        let put =
            |number: usize| json!({"op": "put", "key": format!("{chunk}/{number:03}"), "value": number});
        let operations: Vec<Value> = (0..500).map(put).collect();
        assert_eq!(
            fake.post("/v1/kv:batch", &json!({"operations": operations}).to_string()).await.status,
            200
        );
    }
    let count = async |line: &str| {
        let (_, stdout, _) = run(&fake, line).await;
        serde_json::from_str::<Vec<Value>>(&stdout).expect("one JSON array").len()
    };
    assert_eq!(count("-o json kv list").await, 1_500);
    assert_eq!(count("-o json kv list --limit 1200").await, 1_200);
    assert_eq!(count("-o json kv list --prefix 1/ --after 1/009").await, 490);
    assert_eq!(count("-o json ledger rewards").await, 0);
}

#[tokio::test]
async fn members_come_and_go() {
    let fake = Fake::start().await;
    assert_eq!(run(&fake, "member add w1 127.0.0.1:7500").await.0, 0);
    let (_, stdout, _) = run(&fake, "member list").await;
    assert!(stdout.contains("w1\tagent\t127.0.0.1:7500\tactive\t0\t0\t"), "{stdout}");
    assert!(run(&fake, "member show w1").await.1.contains("address\t127.0.0.1:7500\n"));
    assert_eq!(run(&fake, "member remove w1").await.0, 0);
    let (code, _, stderr) = run(&fake, "member add w1 nonsense").await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("hint: write HOST:PORT"), "{stderr}");
    let (code, stdout, _) = run(&fake, "ledger verify -o json").await;
    assert_eq!((code, serde_json::from_str::<Value>(&stdout).expect("JSON")["ok"].clone()), (0, json!(true)));
}

#[tokio::test]
async fn the_status_is_shown_in_every_format() {
    let fake = Fake::start().await;
    let (code, stdout, _) = run(&fake, "status").await;
    assert_eq!(code, 0);
    assert!(stdout.contains("leader\tn1\n") && stdout.contains("peer\tn2\tfollower\t"), "{stdout}");
    let (_, stdout, _) = run(&fake, "status -o table").await;
    assert!(stdout.contains("cluster test   term 7   leader n1") && stdout.contains("NODE"), "{stdout}");
    let (_, stdout, _) = run(&fake, "status -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).expect("JSON")["id"], "n1");
    fake.set_mood(Mood::Lost);
    let endpoints = format!("{},http://127.0.0.1:9", fake.url);
    let (code, stdout, _) = run_at(&endpoints, &["status", "--local"]).await;
    assert_eq!(code, 0);
    assert!(
        stdout.contains("\tn1\tcandidate\t7\t-\t") && stdout.contains("http://127.0.0.1:9\t-\trefused"),
        "{stdout}"
    );
}

#[tokio::test]
async fn events_are_one_per_line() {
    let fake = Fake::start().await;
    for kind in ["one", "two"] {
        fake.handle.events.publish(UnixMillis(0), kind, format!("a {kind}"), json!(null));
    }
    let (code, stdout, _) = run(&fake, "events").await;
    assert_eq!(code, 0);
    assert_eq!(stdout, "1\t1970-01-01T00:00:00.000Z\tone\ta one\n2\t1970-01-01T00:00:00.000Z\ttwo\ta two\n");
    let (_, stdout, _) = run(&fake, "-o json events --type two").await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).expect("one line")["id"], 2);
}

#[tokio::test]
async fn a_cluster_without_a_leader_ends_with_4() {
    let fake = Fake::start().await;
    fake.set_mood(Mood::Lost);
    let (code, _, stderr) = run(&fake, "kv set k 1 --timeout 300ms").await;
    assert_eq!(
        (code, stderr.as_str()),
        (
            4,
            "error: no leader: 2 of 3 voters reachable, n1 is candidate in term 7   [no_leader]\n  \
             tried  n1 503 no_leader\n  \
             write not applied; safe to retry.  hint: super-node status --local\n"
        )
    );
    assert_eq!(run(&fake, "kv get k --timeout 300ms").await.0, 4);
    fake.set_mood(Mood::Leads);
    assert_eq!(run(&fake, "kv set k 1").await.0, 0);
}

#[tokio::test]
async fn a_write_whose_answer_never_comes_ends_with_8_and_says_how_to_find_out() {
    let fake = Fake::start().await;
    fake.set_mood(Mood::Silent);
    let (code, _, stderr) = run(&fake, "kv set k 1 --timeout 1s").await;
    assert_eq!(code, 8, "{stderr}");
    let hint = "the write may or may not have happened.  hint: super-node kv get k\n";
    assert!(stderr.contains("outcome unknown") && stderr.ends_with(hint), "{stderr}");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let fake = Fake::start().await;
    let endpoints = format!("http://127.0.0.1:9,{}", fake.url);
    assert_eq!(run_at(&endpoints, &["kv", "set", "k", "1"]).await.0, 0);
    assert_eq!(run_at(&endpoints, &["kv", "get", "k"]).await.1, "1\n");
}
