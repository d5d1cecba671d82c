//! TLS between nodes and to clients, and tokens, on real processes: what works, and what is told when it does not.

#[path = "support/cluster.rs"]
mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cluster::{BINARY, Cluster, Setup};
use serde_json::json;
use super_node::client::native::{Access, Connection};
use super_node::network::native::{Done, Operation};
use super_node::network::tls::{self, Files, Tls};
use tempfile::TempDir;

const READER: &str = "reader-0123456789abcdef";
const WRITER: &str = "writer-0123456789abcdef";
const ADMIN: &str = "admin-0123456789abcdef";

/// Certificates, tokens, and the variables that name them.
struct Papers {
    folder: TempDir,
}

impl Papers {
    fn new(nodes: &[&str]) -> Papers {
        let papers = Papers { folder: TempDir::new().expect("a folder") };
        let made = papers.certs("certs", nodes);
        assert!(made.status.success(), "{}", told(&made));
        papers.write("tokens", &format!("reader {READER}\nwriter {WRITER} # the shop\nadmin {ADMIN}\n"));
        for token in [READER, WRITER, ADMIN] {
            papers.write(token, token);
        }
        papers
    }

    fn certs(&self, folder: &str, nodes: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(["certs", "--dir"]).arg(self.path(folder)).args(nodes);
        command.current_dir(self.folder.path()).output().expect("the command runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// One certificate serves all nodes of one machine.
    fn setup(&self, nodes: usize) -> Setup {
        Setup::nodes(nodes)
            .with("SUPER_NODE_TLS__CA", &self.text("certs/ca.pem"))
            .with("SUPER_NODE_TLS__CERT", &self.text("certs/n1.pem"))
            .with("SUPER_NODE_TLS__KEY", &self.text("certs/n1.key"))
            .with("SUPER_NODE_AUTH__TOKENS", &self.text("tokens"))
    }

    /// A command with the authority, and with a token if there is one.
    fn cli(&self, cluster: &Cluster, token: Option<&str>, arguments: &[&str]) -> Output {
        let urls: Vec<String> = cluster.nodes.iter().map(|node| secure(node.client_port)).collect();
        let mut command = Command::new(BINARY);
        command.args(arguments).env("SUPER_NODE_ENDPOINTS", urls.join(",")).current_dir(self.folder.path());
        command.env("SUPER_NODE_CA", self.path("certs/ca.pem")).env("SUPER_NODE_TIMEOUT", "10s");
        if let Some(token) = token {
            command.env("SUPER_NODE_TOKEN_FILE", self.path(token));
        }
        command.output().expect("the command runs")
    }
}

fn secure(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Repeats a command until it succeeds: there may be no leader yet.
fn in_the_end(what: impl Fn() -> Output) -> Output {
    for _ in 0..100 {
        let output = what();
        if output.status.success() {
            return output;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {}", told(&what()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_three_nodes_and_their_clients_speak_tls_and_every_role_may_what_it_may() {
    let papers = Papers::new(&["n1", "n2=10.0.0.2"]);
    let mut cluster = Cluster::start(&papers.setup(3));
    let run = |token: Option<&str>, arguments: &[&str]| papers.cli(&cluster, token, arguments);
    in_the_end(|| run(Some(WRITER), &["kv", "set", "a", "1"]));
    assert_eq!(String::from_utf8_lossy(&run(Some(READER), &["kv", "get", "a"]).stdout), "1\n");
    // Whom it does not let in it tells why, and does nothing.
    for (token, arguments, code, why) in [
        (None, &["kv", "get", "a"][..], 7, "this node wants a token"),
        (Some(READER), &["kv", "set", "a", "2"], 7, "the token is that of a reader; this needs a writer"),
        (Some(WRITER), &["leader", "transfer"], 7, "this needs an admin"),
        (Some(WRITER), &["snapshot", "save", "s"], 7, "this needs an admin"),
    ] {
        let output = run(token, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains(why), "{arguments:?}: {}", told(&output));
    }
    let moved = run(Some(ADMIN), &["leader", "transfer"]);
    assert!(moved.status.success(), "{}", told(&moved));
    assert_eq!(String::from_utf8_lossy(&run(Some(READER), &["kv", "get", "a"]).stdout), "1\n");
    // Probes need no token; a client without TLS is told; one with the wrong authority, too.
    let ca = papers.path("certs/ca.pem");
    let http = tls::http(Some(&ca)).expect("an authority").no_proxy().build().expect("a client");
    let port = cluster.nodes[0].client_port;
    for (path, status) in [("/livez", 200), ("/openapi.json", 200), ("/metrics", 401), ("/v1/kv/a", 401)] {
        let answer = http.get(format!("{}{path}", secure(port))).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let asks = answer.headers().get("www-authenticate").map(|value| value.as_bytes().to_vec());
        assert_eq!(asks, (status == 401).then(|| b"Bearer".to_vec()), "{path}");
    }
    let plain = cluster.cli(&["kv", "get", "a"]);
    assert!(
        told(&plain).contains("this port speaks TLS") && told(&plain).contains("https://"),
        "{}",
        told(&plain)
    );
    papers.certs("other", &["x"]);
    let mut foreign = Command::new(BINARY);
    foreign
        .args(["status", "--timeout", "2s", "--endpoints", &secure(port), "--ca"])
        .arg(papers.path("other/ca.pem"));
    let foreign = foreign.output().expect("the command runs");
    assert_eq!(foreign.status.code(), Some(3), "{}", told(&foreign));
    assert!(told(&foreign).contains("an authority that is not trusted here"), "{}", told(&foreign));
    // The framed protocol asks for the same.
    let address = format!("127.0.0.1:{port}");
    let open = |token: Option<&str>| {
        let access = Access { tls: tls::framed(Some(&ca)).ok(), token: token.map(str::to_string) };
        let address = address.clone();
        async move { Connection::open_with(&address, "super-node", &access).await }
    };
    let get =
        |key: &str| Operation::Get { key: key.to_string(), level: super_node::network::native::Level::Stale };
    let put = Operation::Put { key: "b".into(), value: "2".into(), if_revision: None };
    assert!(format!("{:?}", open(None).await.expect_err("no token")).contains("wants a token"));
    let reader = open(Some(READER)).await.expect("a connection");
    let patience = Duration::from_secs(10);
    assert!(matches!(reader.call(get("a"), None, patience).await, Ok(Done::Found { .. })));
    assert!(format!("{:?}", reader.call(put.clone(), None, patience).await).contains("forbidden"));
    let writer = open(Some(WRITER)).await.expect("a connection");
    assert!(matches!(writer.call(put, None, patience).await, Ok(Done::Written { .. })));
    // A node that joins brings a certificate of the same authority, and an admin's token.
    let at = cluster.add_node("n4", 0);
    cluster.nodes[at].join = Some(secure(cluster.nodes[0].client_port));
    cluster.set("SUPER_NODE_TOKEN_FILE", &papers.text(READER));
    cluster.start_node(at);
    assert_eq!(cluster.wait_exit(at), Some(7), "{}", cluster.log_of(at));
    cluster.set("SUPER_NODE_TOKEN_FILE", &papers.text(ADMIN));
    cluster.start_node(at);
    in_the_end(|| {
        let mut output = papers.cli(&cluster, Some(READER), &["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if status["voters"] != json!(["n1", "n2", "n3", "n4"]) {
            output.status = std::os::unix::process::ExitStatusExt::from_raw(1 << 8);
        }
        output
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_node_without_the_right_certificate_is_not_spoken_to_and_both_logs_say_why() {
    let papers = Papers::new(&["n1"]);
    papers.certs("other", &["n1"]);
    let mut cluster = Cluster::start(&papers.setup(3));
    in_the_end(|| papers.cli(&cluster, Some(WRITER), &["kv", "set", "a", "1"]));
    // One of another authority, then one without any.
    cluster.kill(2);
    cluster.set("SUPER_NODE_TLS__CA", &papers.text("other/ca.pem"));
    cluster.set("SUPER_NODE_TLS__CERT", &papers.text("other/n1.pem"));
    cluster.set("SUPER_NODE_TLS__KEY", &papers.text("other/n1.key"));
    cluster.start_node(2);
    let said = async |at: usize, what: &str| {
        let look = async || cluster.log_of(at).contains(what).then_some(());
        cluster.wait_for(what, look).await;
    };
    said(2, "authority that is not trusted here").await;
    said(0, "not trust the authority").await;
    cluster.kill(2);
    for name in ["CA", "CERT", "KEY"] {
        cluster.set(&format!("SUPER_NODE_TLS__{name}"), "");
    }
    cluster.start_node(2);
    let said = async |at: usize, what: &str| {
        let look = async || cluster.log_of(at).contains(what).then_some(());
        cluster.wait_for(what, look).await;
    };
    said(0, "it does not speak TLS").await;
    let output = papers.cli(&cluster, Some(WRITER), &["kv", "set", "a", "2"]);
    assert!(output.status.success(), "the other two go on: {}", told(&output));
}

fn tls_error(papers: &Papers, ca: &str, cert: &str, key: &str) -> String {
    let files = Files { ca: papers.path(ca), cert: papers.path(cert), key: papers.path(key) };
    Tls::load(&files).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn s3_files_that_do_not_fit_are_refused_before_anything_listens() {
    let papers = Papers::new(&["n1", "n2"]);
    papers.certs("other", &["x"]);
    expired(&papers.path("certs"));
    papers.write("empty", "");
    let (ca, cert, key) = ("certs/ca.pem", "certs/n1.pem", "certs/n1.key");
    assert_eq!(tls_error(&papers, ca, cert, key), "");
    for ((ca, cert, key), why) in [
        (("nowhere", cert, key), "cannot read"),
        ((ca, cert, "nowhere"), "cannot read"),
        (("empty", cert, key), "holds nothing of that kind"),
        ((ca, cert, cert), "holds nothing of that kind"),
        ((ca, cert, "certs/n2.key"), "is not the key of"),
        (("other/ca.pem", cert, key), "an authority that is not trusted here"),
        ((ca, "certs/old.pem", "certs/old.key"), "has expired"),
    ] {
        let told = tls_error(&papers, ca, cert, key);
        assert!(told.contains(why), "{ca} {cert} {key}: {told}");
    }
    // And so does a start, with exit code 2; the doctor finds the same.
    for (command, code) in [(&["start"][..], 2), (&["doctor", "--offline"], 1)] {
        let mut start = Command::new(BINARY);
        start.args(command).current_dir(papers.folder.path());
        for (name, file) in [("CA", ca), ("CERT", cert), ("KEY", "certs/n2.key")] {
            start.env(format!("SUPER_NODE_TLS__{name}"), papers.path(file));
        }
        let output = start.output().expect("the command runs");
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        assert!(told(&output).contains("is not the key of"), "{}", told(&output));
    }
    // What is there is not overwritten, unless that is said; keys are their owner's.
    let again = papers.certs("certs", &["n1"]);
    assert_eq!(again.status.code(), Some(2), "{}", told(&again));
    assert!(papers.certs("certs", &["--renew", "n1"]).status.success());
    assert_eq!(tls_error(&papers, ca, cert, key), "", "the same authority");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(papers.path(key)).expect("a key").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

/// A certificate of that folder's authority that was good until yesterday.
fn expired(folder: &Path) {
    let ca_key = fs::read_to_string(folder.join("ca.key")).expect("a key");
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "super-node cluster CA");
    let issuer = rcgen::Issuer::new(ca, rcgen::KeyPair::from_pem(&ca_key).expect("a key"));
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_string()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    fs::write(folder.join("old.pem"), certificate.pem()).expect("a file");
    fs::write(folder.join("old.key"), key.serialize_pem()).expect("a file");
}
