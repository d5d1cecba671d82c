//! Webhooks of real processes, with a real receiver: what is told arrives signed, at least once, and under the same id.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/receiver.rs"]
mod receiver;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{BINARY, Cluster, PATIENCE, Setup, free_port};
use receiver::{Delivery, Receiver, is_signed};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests";

/// A configuration file with one hook, in a directory of its own.
fn configuration(url: &str, rest: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("written");
    let file = directory.path().join("super-node.toml");
    let text = format!(
        "[[webhooks]]\nname = \"pager\"\nurl = \"{url}\"\nsecret_file = \"{}\"\n{rest}\n",
        secret.display()
    );
    std::fs::write(&file, text).expect("written");
    (directory, file)
}

fn setup(file: &std::path::Path) -> Setup {
    Setup::nodes(3).with("SUPER_NODE_CONFIG", file.to_str().expect("a printable path"))
}

/// Waits until something is so.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < 3 * PATIENCE, "{what}: not within {:?}", 3 * PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// POST that must succeed, or fail in a way that was expected.
async fn post(cluster: &Cluster, at: usize, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let begun = Instant::now();
    loop {
        let url = format!("{}{path}", cluster.nodes[at].url());
        let sent = cluster.http.post(&url).header("idempotency-key", key).json(body).send().await;
        if let Ok(answer) = sent
            && answer.status() != 503
            && answer.status() != 504
        {
            let status = answer.status().as_u16();
            return (status, answer.json().await.unwrap_or_default());
        }
        assert!(begun.elapsed() < PATIENCE, "{path} of {key}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn adjust(cluster: &Cluster, at: usize, number: u32) {
    let body = json!({ "member": "n1", "delta": 1_000_000, "reason": format!("number {number}"), "operator": "test" });
    let (status, answer) = post(cluster, at, "/v1/adjustments", &format!("adjustment-{number}"), &body).await;
    assert!((200..300).contains(&status), "{status} {answer}");
}

/// Waits until the hook has begun, which the first adjustment after that shows, and until nothing is on its way.
async fn begun(cluster: &Cluster, at: usize, receiver: &Receiver) {
    let begun = Instant::now();
    for number in 1_000.. {
        adjust(cluster, at, number).await;
        if !receiver.taken_of("adjustment").is_empty() {
            let last = format!("number {number} (operator test)");
            until("nothing is on its way", || reasons(&receiver.taken_of("adjustment")).contains(&last))
                .await;
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the hook never begins");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The hook in a node's status, once it is so.
async fn hook_once(cluster: &Cluster, at: usize, is_so: impl Fn(&Value) -> bool) -> Value {
    cluster
        .wait_for("the status tells", || async {
            let hook = cluster.try_get(at, "/v1/status").await?["webhooks"][0].clone();
            is_so(&hook).then_some(hook)
        })
        .await
}

fn reasons(deliveries: &[Delivery]) -> BTreeSet<String> {
    let reason =
        |delivery: &Delivery| delivery.body["data"]["reason"].as_str().unwrap_or_default().to_string();
    deliveries.iter().map(reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_arrives_signed_under_the_id_of_the_occurrence() {
    let mut receiver = Receiver::at(free_port());
    receiver.listen().await;
    let kinds =
        "kinds = [\"down\", \"suspected\", \"up\", \"over_claim\", \"election\", \"adjustment\", \"void\"]";
    let (_kept, file) = configuration(&receiver.url(), kinds);
    let mut cluster = Cluster::start(&setup(&file));
    let (leader, term) = cluster.leader().await;
    begun(&cluster, leader, &receiver).await;
    cluster.start_agent("worker-1");
    cluster
        .wait_for("the agent is up", || async {
            let status = cluster.get(leader, "/v1/status").await;
            (status["members"]["up"].as_u64() >= Some(4)).then_some(())
        })
        .await;
    let claim = json!({ "member": "worker-1", "seq": 1, "amount": 9_000_000_000_i64 });
    let (status, _) = post(&cluster, leader, "/v1/claims", "too much", &claim).await;
    assert!(status >= 400, "{status}");
    cluster.kill_agent("worker-1");
    until("over-claim and silence", || {
        !receiver.taken_of("over_claim").is_empty() && !receiver.taken_of("down").is_empty()
    })
    .await;
    cluster.kill(leader);
    let (next, next_term) = cluster.leader_after(term).await;
    until("the election of the next leader", || {
        receiver.taken_of("election").iter().any(|delivery| delivery.body["data"]["term"] == next_term)
    })
    .await;
    // The next leader sees by itself that the old one is down.
    let gone = cluster.nodes[leader].id.clone();
    until("the dead leader is down", || {
        receiver.taken_of("down").iter().any(|delivery| delivery.body["data"]["member"] == gone.as_str())
    })
    .await;
    let elections = receiver.taken_of("election");
    let election = elections.iter().find(|one| one.body["data"]["term"] == next_term).expect("was told");
    assert_eq!(election.body["data"]["leader"], cluster.nodes[next].id.as_str());
    assert!(election.id.ends_with(&format!("-election-{next_term}")), "{}", election.id);
    let identity = election.id.split('-').next().expect("an identity").to_string();
    assert_eq!(identity.len(), 8);
    let over = &receiver.taken_of("over_claim")[0];
    assert_eq!(
        (&over.body["data"]["member"], &over.body["data"]["amount"]),
        (&json!("worker-1"), &json!(-5_000_000))
    );
    for delivery in receiver.all() {
        assert!(is_signed(SECRET.as_bytes(), &delivery.signature, &delivery.bytes), "{delivery:?}");
        assert!(!is_signed(b"another secret of tests", &delivery.signature, &delivery.bytes));
        assert_eq!(delivery.body["id"], delivery.id.as_str());
        assert!(delivery.id.starts_with(&identity), "{}", delivery.id);
        assert_eq!(
            (delivery.body["cluster"].as_str(), delivery.path.as_str()),
            (Some("super-node"), "/hooks/T0K3N")
        );
        assert_eq!(delivery.content_type, "application/json");
        assert!(delivery.body["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{delivery:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_is_told_everything_when_it_is_back() {
    let mut receiver = Receiver::at(free_port());
    let (_kept, file) = configuration(&receiver.url(), "kinds = [\"adjustment\", \"election\"]");
    let cluster = Cluster::start(&setup(&file));
    let (leader, _) = cluster.leader().await;
    let metrics = async |cluster: &Cluster| {
        let url = format!("{}/metrics", cluster.nodes[leader].url());
        cluster.http.get(url).send().await.expect("an answer").text().await.expect("text")
    };
    // The first that fails shows that the hook has begun; whatever comes after must not be lost.
    let begun = Instant::now();
    for number in 100.. {
        adjust(&cluster, leader, number).await;
        if metrics(&cluster).await.contains("webhook_deliveries_total{hook=\"pager\",result=\"failed\"}") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the hook never begins");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for number in 0..20 {
        adjust(&cluster, leader, number).await;
    }
    // Who delivers says so.
    let url = cluster.nodes[leader].url();
    let hook = hook_once(&cluster, leader, |hook| hook["failing"] == true).await;
    assert_eq!(hook["hook"], "pager", "{hook}");
    assert!(hook["last_error"]["what"].as_str().is_some_and(|what| what.contains("refused")), "{hook}");
    assert!(hook["last_error"]["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{hook}");
    assert_eq!((&hook["last_error"]["lost"], &hook["place"]), (&json!(false), &json!(receiver.place())));
    let table = cluster.cli(&["--endpoints", &url, "-o", "table", "status"]);
    let table = String::from_utf8_lossy(&table.stdout);
    assert!(
        table.contains(&format!("webhook     pager at {}: takes nothing: ", receiver.place())),
        "{table}"
    );
    let page = cluster.http.get(format!("{url}/node")).send().await.expect("an answer");
    let page = page.text().await.expect("text");
    assert!(page.contains(&format!("pager at {}: takes nothing: ", receiver.place())), "{page}");
    let doctor = cluster.cli(&["-o", "json", "doctor", "--online"]);
    assert_eq!(doctor.status.code(), Some(1));
    let findings: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let finding = findings.as_array().and_then(|all| all.iter().find(|each| each["check"] == "webhook"));
    let finding = finding.unwrap_or_else(|| panic!("{findings}"));
    assert_eq!(finding["level"], "fail", "{finding}");
    assert!(finding["remedy"].as_str().is_some_and(|remedy| remedy.contains("[[webhooks]]")), "{finding}");
    assert!(!findings.to_string().contains("T0K3N") && !hook.to_string().contains("T0K3N"), "{findings}");
    let failing = cluster.cli_json(&["--endpoints", &url, "events", "--type", "webhook_failing"]);
    assert_eq!(failing["data"]["hook"], "pager");
    assert!(!failing.to_string().contains("T0K3N"), "{failing}");
    receiver.listen().await;
    // First it has trouble, then it takes things slowly.
    receiver.answer(503);
    until("it is tried", || !receiver.all().is_empty()).await;
    receiver.answer(302);
    let tried = receiver.all().len();
    until("a redirect is no success", || receiver.all().len() > tried + 1).await;
    assert!(receiver.all().iter().all(|delivery| delivery.path == "/hooks/T0K3N"), "no redirect is followed");
    receiver.answer(204);
    let expected: BTreeSet<String> =
        (0..20).map(|number| format!("number {number} (operator test)")).collect();
    until("all is told", || expected.is_subset(&reasons(&receiver.taken_of("adjustment")))).await;
    let text = metrics(&cluster).await;
    assert!(
        text.contains("super_node_webhook_deliveries_total{hook=\"pager\",result=\"delivered\"}"),
        "{text}"
    );
    assert!(text.contains("super_node_webhook_queue{hook=\"pager\"}"), "{text}");
    cluster
        .wait_for("its return is an event", || async {
            let output =
                cluster.cli(&["-o", "json", "--endpoints", &url, "events", "--type", "webhook_recovered"]);
            (!output.stdout.is_empty()).then_some(())
        })
        .await;
    // What went wrong last is still told, and that it is over.
    let hook = hook_once(&cluster, leader, |hook| hook["failing"] == false).await;
    assert_eq!(hook["last_error"]["lost"], false, "{hook}");
    assert!(hook["last_error"]["what"].as_str().is_some_and(|what| what.contains("302")), "{hook}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_while_it_delivers_loses_nothing_and_what_comes_twice_is_the_same() {
    let mut receiver = Receiver::at(free_port());
    receiver.listen().await;
    let (_kept, file) = configuration(&receiver.url(), "kinds = [\"adjustment\"]");
    let mut cluster = Cluster::start(&setup(&file));
    let (leader, term) = cluster.leader().await;
    begun(&cluster, leader, &receiver).await;
    receiver.delay(Duration::from_millis(40));
    for number in 0..60 {
        adjust(&cluster, leader, number).await;
    }
    until("it is in the middle", || reasons(&receiver.taken_of("adjustment")).len() > 15).await;
    cluster.kill(leader);
    let told = reasons(&receiver.taken_of("adjustment")).len();
    assert!(told < 60, "all was told before the leader died: {told}");
    let (next, next_term) = cluster.leader_after(term).await;
    for number in 60..70 {
        adjust(&cluster, next, number).await;
    }
    let expected: BTreeSet<String> =
        (0..70).map(|number| format!("number {number} (operator test)")).collect();
    until("all is told", || expected.is_subset(&reasons(&receiver.taken_of("adjustment")))).await;
    // And over a restart of everything.
    receiver.answer(503);
    for number in 70..80 {
        adjust(&cluster, next, number).await;
    }
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    cluster.kill_all(&others);
    receiver.answer(204);
    (0..3).for_each(|at| cluster.start_node(at));
    cluster.leader_after(next_term).await;
    let expected: BTreeSet<String> =
        (0..80).map(|number| format!("number {number} (operator test)")).collect();
    until("nothing is lost", || expected.is_subset(&reasons(&receiver.taken_of("adjustment")))).await;
    // Each is one movement of the ledger: the ids are their sequences, and no two share one.
    let taken = receiver.taken_of("adjustment");
    let unique: BTreeSet<String> =
        taken.iter().map(|delivery| delivery.body["data"]["seq"].to_string()).collect();
    assert_eq!(unique.len(), taken.len());
    assert!(taken.iter().all(|one| one.id.ends_with(&format!("-adjustment-{}", one.body["data"]["seq"]))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_too_old_is_given_up_and_said() {
    let mut receiver = Receiver::at(free_port());
    receiver.listen().await;
    let (_kept, file) = configuration(&receiver.url(), "kinds = [\"adjustment\"]\nmax_age = \"1s\"");
    let mut setup = setup(&file);
    setup.nodes = 1;
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    begun(&cluster, 0, &receiver).await;
    receiver.answer(422);
    adjust(&cluster, 0, 1).await;
    until("the refusal", || receiver.all().iter().any(|delivery| delivery.status == 422)).await;
    receiver.answer(500);
    adjust(&cluster, 0, 2).await;
    let given_up = |cluster: &Cluster| {
        let output = cluster.cli(&["-o", "json", "events", "--type", "webhook_given_up"]);
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    until("both are given up", || given_up(&cluster) == 2).await;
    let hook = hook_once(&cluster, 0, |hook| hook["last_error"]["lost"] == true).await;
    assert_eq!(hook["failing"], true, "{hook}");
    assert!(hook["last_error"]["what"].as_str().is_some_and(|what| what.contains("given up")), "{hook}");
    receiver.answer(204);
    adjust(&cluster, 0, 3).await;
    until("what follows is told", || {
        reasons(&receiver.taken_of("adjustment")).contains("number 3 (operator test)")
    })
    .await;
    let taken = reasons(&receiver.taken_of("adjustment"));
    assert!(!taken.contains("number 1 (operator test)") && !taken.contains("number 2 (operator test)"));
    // Something was lost, and that does not pass by itself.
    let doctor = cluster.cli(&["-o", "json", "doctor", "--online"]);
    let findings: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let finding = findings.as_array().and_then(|all| all.iter().find(|each| each["check"] == "webhook"));
    assert_eq!(finding.map(|finding| &finding["level"]), Some(&json!("warn")), "{findings}");
}

/// What `config check` says against a file; `None`: nothing.
fn refusal(text: &str) -> Option<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("f.toml");
    std::fs::write(&file, text).expect("written");
    let output = Command::new(BINARY)
        .args(["config", "check", "--config"])
        .arg(&file)
        .current_dir(directory.path())
        .env_remove("MONGODB_URI")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    match output.status.code() {
        Some(0) => None,
        Some(2) => Some(said),
        other => panic!("{other:?}: {said}"),
    }
}

#[test]
fn mistakes_in_a_webhook_are_named_with_the_remedy_and_secrets_are_never_shown() {
    let good =
        "[[webhooks]]\nname = \"a\"\nurl = \"http://10.0.0.9/x\"\nsecret = \"0123456789abcdef-SECRET\"\n";
    assert_eq!(refusal(good), None);
    for (from, to, words) in [
        ("name = \"a\"\n", "", &["has no name"][..]),
        ("\"a\"", "\"a b\"", &["webhooks.name", "f.toml:2", "not a usable name"]),
        ("http://", "ftp://", &["webhooks.url", "f.toml:3", "not an HTTP URL", "http://HOST/PATH"]),
        ("http://10.0.0.9/x", "10.0.0.9", &["webhooks.url", "not a URL"]),
        ("0123456789abcdef-SECRET", "SECRET", &["webhooks.secret", "has 6 bytes", "openssl rand"]),
        ("secret =", "secrets =", &["unknown key webhooks.secrets", "did you mean secret?"]),
        ("secret = ", "secret_file = \"nowhere/SECRET\"\n#", &["secret_file", "cannot be read"]),
        ("secret = ", "secret_file = \"f.toml\"\nsecret = ", &["both secret and secret_file"]),
        ("secret = ", "# ", &["has no secret", "secret_file"]),
        ("name =", "kinds = [\"elections\"]\nname =", &["unknown kind elections", "did you mean election?"]),
        ("name =", "kinds = []\nname =", &["names no kind"]),
        ("name =", "kinds = \"election\"\nname =", &["not a list of kinds"]),
        ("name =", "timeout = \"5m\"\nname =", &["webhooks.timeout", "1m"]),
        ("name =", "max_age = 3\nname =", &["webhooks.max_age"]),
        ("[[webhooks]]", "[webhooks]", &["webhooks (", "is not a list", "[[webhooks]]"]),
    ] {
        let text = good.replacen(from, to, 1);
        let said = refusal(&text).unwrap_or_else(|| panic!("accepted:\n{text}"));
        for word in words {
            assert!(said.contains(word), "{word} in\n{said}\nof\n{text}");
        }
        assert!(!said.contains("-SECRET"), "{said}");
    }
    let said = refusal(&format!("{good}{good}")).expect("two of one name");
    assert!(said.contains("webhook a (") && said.contains("has the name of the one at"), "{said}");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("f.toml");
    std::fs::write(&file, good.replace("10.0.0.9/x", "user:PASS@10.0.0.9/T0K3N")).expect("written");
    let shown = Command::new(BINARY).args(["config", "show", "--config"]).arg(&file).output().expect("runs");
    let text = String::from_utf8_lossy(&shown.stdout).to_string();
    assert!(text.contains("webhooks") && text.contains("a http://10.0.0.9"), "{text}");
    for secret in ["SECRET", "PASS", "T0K3N"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
}
