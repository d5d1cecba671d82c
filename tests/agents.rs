//! Agents against real super-nodes: an agent in another language, approval, keys, hostile datagrams.

#[path = "support/cluster.rs"]
mod cluster;

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use cluster::{Cluster, Setup};
use serde_json::{Value, json};

/// A Python agent; killed on drop.
struct Python(Child);

impl Python {
    fn start(cluster: &Cluster, id: &str) -> Python {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agent.py");
        let log =
            std::fs::File::create(cluster.directory.path().join(format!("{id}.py.log"))).expect("a log");
        let mut command = Command::new("python3");
        let command =
            command.args([script, id, &cluster.nodes[0].url()]).current_dir(cluster.directory.path());
        let command = command.arg(format!("{id}.key")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Python(command.spawn().expect("python3 runs"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it can be reaped");
    }
}

async fn member(cluster: &Cluster, id: &str) -> Option<Value> {
    cluster.try_get(0, &format!("/v1/members/{id}?level=stale")).await
}

/// Waits until a member has earned something.
async fn paid(cluster: &Cluster, id: &str) -> i64 {
    cluster
        .wait_for("a paid member", async || {
            let balance = member(cluster, id).await?["balance"].as_i64()?;
            (balance > 0).then_some(balance)
        })
        .await
}

#[tokio::test]
async fn an_agent_in_another_language_is_pinged_and_paid() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    let _agent = Python::start(&cluster, "py-1");
    paid(&cluster, "py-1").await;
    let row = cluster.get(0, "/v1/rewards?member=py-1").await;
    assert_eq!(row["items"][0]["kind"], "reward", "{row}");
}

#[tokio::test]
async fn an_agent_waits_for_its_approval_is_let_in_and_may_come_back_with_its_key() {
    let setup = Setup::nodes(1).with("SUPER_NODE_AGENTS__ADMISSION", "approval");
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    let agents = ["py-1", "py-2"].map(|id| Python::start(&cluster, id));
    let waiting = cluster
        .wait_for("two that wait", async || {
            let items = cluster.get(0, "/v1/members:waiting").await["items"].as_array()?.clone();
            (items.len() == 2).then_some(items)
        })
        .await;
    assert_eq!((&waiting[0]["id"], &waiting[1]["id"]), (&json!("py-1"), &json!("py-2")));
    assert!(member(&cluster, "py-1").await.is_none(), "not a member yet");

    // A third of the same host finds no room, and a wrong token is a mistake.
    let enrol = async |id: &str, token: Option<&str>| {
        let url = format!("{}/v1/members:enrol", cluster.nodes[0].url());
        let body = json!({"id": id, "address": "127.0.0.1:9", "key": "ab".repeat(32), "version": "0.1.0",
            "token": token});
        let answer = cluster.http.post(url).json(&body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let (code, text) = enrol("third", None).await;
    assert!(code == 409 && text.contains("2 from one host"), "{code} {text}");
    // Somebody else under a name that waits already.
    let (code, text) = enrol("py-1", None).await;
    assert!(code == 409 && text.contains("another agent waits"), "{code} {text}");

    let wrong = cluster.cli(&["member", "approve", "py-1", "--fingerprint", "0000000000000000"]);
    assert_eq!(wrong.status.code(), Some(5), "{wrong:?}");
    let print = waiting[0]["fingerprint"].as_str().expect("a fingerprint");
    cluster.cli_json(&["member", "approve", "py-1", "--fingerprint", print]);
    cluster.cli_json(&["member", "refuse", "py-2"]);
    paid(&cluster, "py-1").await;
    assert!(member(&cluster, "py-2").await.is_none());

    // Whoever has not its key takes nothing from it; with it, it is back at once at another port.
    let (code, _) = enrol("py-1", None).await;
    assert_eq!(code, 202, "waits, while the key in force stays");
    let before = member(&cluster, "py-1").await.expect("a member")["address"].clone();
    drop(agents);
    let _again = Python::start(&cluster, "py-1");
    cluster
        .wait_for("the new address", async || {
            (member(&cluster, "py-1").await?["address"] != before).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_token_lets_an_agent_in_and_another_major_version_stays_out() {
    let setup = Setup::nodes(1)
        .with("SUPER_NODE_AGENTS__ADMISSION", "approval")
        .with("SUPER_NODE_AGENTS__TOKEN", "open sesame");
    let cluster = Cluster::start(&setup);
    cluster.leader().await;
    let url = format!("{}/v1/members:enrol", cluster.nodes[0].url());
    for (version, token, expected) in [
        ("0.1.0", Some("open sesame"), 200),
        ("0.1.0", Some("open"), 401),
        ("0.1.0", None, 202),
        ("1.0.0", Some("open sesame"), 403),
        ("next", Some("open sesame"), 400),
    ] {
        let id = format!("w-{expected}");
        let body = json!({"id": id, "address": "127.0.0.1:9", "key": "cd".repeat(32), "version": version,
            "token": token});
        let answer = cluster.http.post(&url).json(&body).send().await.expect("an answer");
        let (code, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
        assert_eq!(code, expected, "{version} {token:?}: {text}");
        assert_eq!(member(&cluster, &id).await.is_some(), expected == 200);
    }
    let listed = cluster.get(0, "/v1/members:waiting").await.to_string();
    assert!(!listed.contains("cdcd"), "keys are not shown: {listed}");
}

#[tokio::test]
async fn a_flood_in_the_name_of_a_member_costs_it_nothing() {
    // Patient, so that a busy machine is not taken for the flood.
    let cluster = Cluster::start(&Setup::nodes(1).with("SUPER_NODE_LEDGER__PING_TIMEOUT", "1s"));
    cluster.leader().await;
    let _agent = Python::start(&cluster, "py-1");
    let before = paid(&cluster, "py-1").await;
    let spoofer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let target = ("127.0.0.1", cluster.nodes[0].agent_port);
    // Pongs of the right form, under the member's name, without its key: some seconds long.
    let mut forged = b"SNOD\x02\x02".to_vec();
    forged.extend([0; 24]);
    forged.extend([0, 0, 0, 1, 0, 0, 4]);
    forged.extend(b"py-1");
    forged.extend([0; 16]);
    let mut sent = 0_u64;
    let mut later = before;
    while later < before + 15_000_000 {
        for _ in 0..100 {
            forged[13] = forged[13].wrapping_add(1);
            sent += u64::from(spoofer.send_to(&forged, target).is_ok());
        }
        later = member(&cluster, "py-1").await.and_then(|member| member["balance"].as_i64()).unwrap_or(later);
        assert!(later >= before, "never punished: {later}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let page = cluster.get(0, "/v1/rewards?member=py-1&kind=penalty").await;
    assert_eq!(page["items"], json!([]));
    let metrics = format!("{}/metrics", cluster.nodes[0].url());
    let metrics = cluster.http.get(metrics).send().await.expect("an answer").text().await.expect("a body");
    let junk = metrics.lines().find(|line| line.contains("agent_datagrams_total{result=\"junk\"}"));
    let junk: u64 = junk.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("counted");
    assert!(junk > 0 && junk <= sent, "{junk} of {sent}");
}
