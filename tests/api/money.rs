//! Claims, adjustments, maintenance, the policy and its rehearsal, export and verification: over HTTP and through the program.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::history::settled;

const POINT: i64 = 1_000_000;

/// Runs the program: exit code, stdout, stderr.
async fn run(fake: &Fake, line: &[&str]) -> (i32, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_super-node"))
        .args(["--endpoints", &fake.url])
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

async fn json_of(fake: &Fake, line: &[&str]) -> Value {
    let (code, stdout, stderr) = run(fake, &[&["-o", "json"], line].concat()).await;
    assert_eq!(code, 0, "{line:?}: {stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

#[tokio::test]
async fn a_claim_is_paid_once_and_answers_with_its_receipt() {
    let fake = settled().await;
    let claim = async |seq: u64, amount: i64| {
        fake.post("/v1/claims", &json!({"member": "w1", "seq": seq, "amount": amount}).to_string()).await
    };
    let paid = claim(1, 4 * POINT).await;
    assert_eq!((paid.status, &paid.json["balance"]), (200, &json!(6 * POINT)), "{}", paid.text);
    assert_eq!(
        (&paid.json["member"], &paid.json["seq"], &paid.json["amount"]),
        (&json!("w1"), &json!(1), &json!(4 * POINT))
    );
    assert_eq!(claim(1, 4 * POINT).await.text, paid.text, "the very same receipt");
    claim(1, 3 * POINT).await.problem(409, "conflict");
    claim(5, POINT).await.problem(409, "conflict");
    claim(2, 0).await.problem(400, "bad_request");
    claim(2, -POINT).await.problem(400, "bad_request");
    let detail = claim(2, i64::MAX).await.problem(422, "insufficient_funds").to_string();
    assert!(detail.contains("penalty 5 points"), "{detail}");
    claim(2, i64::MAX).await.problem(422, "insufficient_funds");
    let state = fake.get("/v1/claims?member=w1").await;
    assert_eq!((&state.json["last_seq"], &state.json["receipt"]), (&json!(1), &paid.json), "{}", state.text);
    fake.get("/v1/claims").await.problem(400, "bad_request");
    fake.get("/v1/claims?member=nobody").await.problem(404, "not_found");
    let kinds: Vec<Value> = fake.get("/v1/rewards?member=w1").await.json["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| json!([item["kind"], item["amount"]]))
        .collect();
    let expected = [("reward", 10), ("claim", -4), ("claim_penalty", -5)]
        .map(|(kind, points)| json!([kind, points * POINT]));
    assert_eq!(kinds, expected);
    assert_eq!(fake.get("/v1/ledger/verify").await.json["ok"], true);
}

#[tokio::test]
async fn the_program_claims_the_next_number_and_repeats_one_that_is_named() {
    let fake = settled().await;
    let paid = json_of(&fake, &["ledger", "claim", "w1", "2.5"]).await;
    assert_eq!(
        (&paid["seq"], &paid["amount"], &paid["balance"]),
        (&json!(1), &json!(2_500_000), &json!(7_500_000))
    );
    assert_eq!(json_of(&fake, &["ledger", "claim", "w1", "2.5", "--seq", "1"]).await, paid);
    assert_eq!(json_of(&fake, &["ledger", "claim", "w1", "0.000001"]).await["seq"], 2);
    for (line, code, word) in [
        (&["ledger", "claim", "w1", "1000"][..], 5, "[insufficient_funds]"),
        (&["ledger", "claim", "nobody", "1"], 6, "[not_found]"),
        (&["ledger", "claim", "w1", "0.0000001"], 2, "six decimals"),
        (&["ledger", "claim", "w1", "1", "--seq", "9"], 5, "[conflict]"),
    ] {
        let (found, _, stderr) = run(&fake, line).await;
        assert_eq!(found, code, "{line:?}: {stderr}");
        assert!(stderr.contains(word), "{line:?}: {stderr}");
    }
}

#[tokio::test]
async fn an_adjustment_names_operator_and_reason() {
    let fake = settled().await;
    let line = ["ledger", "adjust", "w2", "-1.5", "--reason", "paid twice", "--operator", "kim"];
    let made = json_of(&fake, &line).await;
    assert_eq!((&made["delta"], &made["balance"]), (&json!(-1_500_000), &json!(-6_500_000)));
    let record = &fake.get("/v1/rewards?kind=adjustment").await.json["items"][0];
    assert_eq!((&record["reason"], &record["seq"]), (&json!("paid twice (operator kim)"), &made["record"]));
    let (code, _, stderr) = run(&fake, &["ledger", "adjust", "w2", "1", "--reason", "r"]).await;
    assert!(code == 2 && stderr.contains("--operator"), "{stderr}");
    let (code, _, stderr) =
        run(&fake, &["ledger", "adjust", "w2", "-200", "--reason", "r", "--operator", "o"]).await;
    assert!(code == 5 && stderr.contains("below -100 points"), "{stderr}");
    let body = json!({"member": "w2", "delta": 1, "reason": "r"}).to_string();
    fake.post("/v1/adjustments", &body).await.problem(400, "bad_request");
}

#[tokio::test]
async fn maintenance_is_announced_and_limited() {
    let fake = settled().await;
    let announced = json_of(&fake, &["member", "maintain", "w1", "--intervals", "10"]).await;
    assert_eq!(
        (&announced["from"], &announced["to"], &announced["left"]),
        (&json!(3), &json!(12), &json!(50))
    );
    let (code, _, stderr) =
        run(&fake, &["member", "maintain", "w1", "--intervals", "51", "--from", "100"]).await;
    assert!(code == 5 && stderr.contains("50 are left"), "{stderr}");
    fake.post("/v1/members/w1:maintain", "{\"intervals\":0}").await.problem(400, "bad_request");
    fake.post("/v1/members/nobody:maintain", "{\"intervals\":1}").await.problem(404, "not_found");
    fake.post("/v1/members/w1:nonsense", "{}").await.problem(404, "not_found");
}

#[tokio::test]
async fn the_leaderboard_is_ordered_by_balance() {
    let fake = settled().await;
    run(&fake, &["ledger", "adjust", "w3", "1", "--reason", "r", "--operator", "o"]).await;
    let (code, stdout, _) = run(&fake, &["ledger", "balances", "--top", "2"]).await;
    assert_eq!((code, stdout.as_str()), (0, "w3\t11\tactive\t0\nw1\t10\tactive\t0\n"));
    for query in ["top=0", "top=1001", "top=x", "top=2&member=w1", "top=2&limit=2"] {
        fake.get(&format!("/v1/balances?{query}")).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_policy_is_shown_set_and_rehearsed() {
    let fake = settled().await;
    let first = fake.get("/v1/policy").await.json;
    assert_eq!((&first["revision"], &first["budget"], &first["pending"]), (&json!(1), &json!(0), &json!([])));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("policy.toml");
    std::fs::write(&file, "reward = 5000000\npenalty = 10000000\ninterval = \"60s\"\n").expect("written");
    let file = file.to_str().expect("text");
    // Recorded: w1 and w3 +10, w2 -5. With half the reward and twice the penalty: +5 and -10.
    let rehearsed = json_of(&fake, &["policy", "simulate", file]).await;
    assert_eq!((&rehearsed["intervals"], &rehearsed["identical"]), (&json!(1), &json!(false)));
    let differences: Vec<Value> = rehearsed["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|item| {
            json!([
                item["member"],
                item["recorded"]["balance"],
                item["rehearsed"]["balance"],
                item["difference"]
            ])
        })
        .collect();
    let expected = [("w1", 10, 5), ("w2", -5, -10), ("w3", 10, 5)]
        .map(|(name, was, would)| json!([name, was * POINT, would * POINT, (would - was) * POINT]));
    assert_eq!(differences, expected);
    let (code, stdout, stderr) = run(&fake, &["policy", "simulate"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("byte for byte"), "{stderr}");
    assert_eq!(stdout.lines().next(), Some("w1\t10\t10\t0\t0\t10\t10\t0\tactive\tactive"));
    let set = json_of(&fake, &["policy", "set", file, "--activate-at", "7"]).await;
    assert_eq!(
        (&set["revision"], &set["activate_at"], &set["reward"], &set["ping_ms"]),
        (&json!(2), &json!(7), &json!(5 * POINT), &json!(5_000))
    );
    let shown = fake.get("/v1/policy").await.json;
    assert_eq!((&shown["revision"], &shown["pending"][0]["reward"]), (&json!(1), &json!(5 * POINT)));
    assert_eq!(fake.get("/v1/policy?revision=2").await.json["activate_at"], 7);
    fake.get("/v1/policy?revision=3").await.problem(404, "not_found");
    for (body, status, code) in [
        (json!({"revision": 2}), 412, "conflict"),
        (json!({"activate_at": 2}), 409, "conflict"),
        (json!({"reward": -1}), 400, "bad_request"),
        (json!({"interval": "60"}), 400, "bad_request"),
        (json!({"interval": "0.5ms"}), 400, "bad_request"),
        (json!({"ping": "61s"}), 400, "bad_request"),
        (json!({"reward": 1, "from": 3}), 400, "bad_request"),
        (json!({"rewards": 1}), 400, "bad_request"),
    ] {
        fake.put("/v1/policy", &body.to_string()).await.problem(status, code);
    }
    let bad = json!({"reward": -1}).to_string();
    fake.post("/v1/policy:simulate", &bad).await.problem(400, "bad_request");
    let (code, _, stderr) = run(&fake, &["policy", "set", "/nowhere.toml"]).await;
    assert_eq!(code, 2, "{stderr}");
}

#[tokio::test]
async fn an_export_is_whole_and_can_be_read_again() {
    let fake = settled().await;
    // More than one page.
    for number in 0..1_100 {
        let body =
            json!({"member": "w1", "delta": 1, "reason": format!("n {number}, \"x\""), "operator": "o"});
        assert_eq!(fake.post("/v1/adjustments", &body.to_string()).await.status, 200);
    }
    let (code, csv, _) = run(&fake, &["ledger", "export", "--format", "csv"]).await;
    let lines: Vec<&str> = csv.split("\r\n").filter(|line| !line.is_empty()).collect();
    assert_eq!((code, lines.len()), (0, 1 + 3 + 1_100));
    assert_eq!(lines[0], "seq,at,member,kind,amount,balance,interval,reason,index,term,prev_hash,hash");
    assert!(lines[4].contains(",\"n 0, \"\"x\"\" (operator o)\","), "{}", lines[4]);
    let (_, ndjson, _) = run(&fake, &["ledger", "export", "--format", "ndjson", "--member", "w1"]).await;
    let items: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(items.len(), 1_101);
    assert!(items.iter().all(|item| item["member"] == "w1"));
    assert!(items.is_sorted_by_key(|item| item["seq"].as_u64()));
}

#[tokio::test]
async fn verification_runs_from_either_end() {
    let fake = settled().await;
    run(&fake, &["ledger", "adjust", "w1", "1", "--reason", "r", "--operator", "o"]).await;
    let oldest = json_of(&fake, &["ledger", "verify"]).await;
    assert_eq!(
        (&oldest["ok"], &oldest["records"], &oldest["intervals"]),
        (&json!(true), &json!(4), &json!(1))
    );
    assert_eq!(json_of(&fake, &["ledger", "verify", "--newest-first"]).await, oldest);
    let some = json_of(&fake, &["ledger", "verify", "--newest-first", "--intervals", "0"]).await;
    assert_eq!((&some["ok"], &some["intervals"]), (&json!(true), &json!(0)));
    assert_eq!(fake.get("/v1/ledger/verify?from=newest").await.json, oldest);
    let told = fake.get("/v1/ledger/verify?progress").await;
    assert_eq!(told.header("content-type"), "application/x-ndjson");
    let last = told.text.lines().last().expect("a line");
    assert_eq!(serde_json::from_str::<Value>(last).expect("JSON"), oldest);
    for query in ["from=middle", "intervals=3", "mongodb"] {
        fake.get(&format!("/v1/ledger/verify?{query}")).await.problem(400, "bad_request");
    }
    let (code, _, stderr) = run(&fake, &["ledger", "verify", "--mongodb"]).await;
    assert!(code == 2 && stderr.contains("MONGODB_URI"), "{stderr}");
    let (code, _, _) = run(&fake, &["ledger", "verify", "--intervals", "3"]).await;
    assert_eq!(code, 2, "only from the newest on");
}

#[tokio::test]
async fn an_election_is_shown() {
    let fake = settled().await;
    let shown = json_of(&fake, &["election", "show", "7"]).await;
    assert_eq!(
        (&shown["term"], &shown["reason"], &shown["leaderless_ms"]),
        (&json!(7), &json!("startup"), &json!(12))
    );
    assert_eq!(run(&fake, &["election", "show", "8"]).await.0, 6);
}
