//! What people see at a terminal: the live view while a cluster loses its leader, and bars for what takes long. Where there is
//! no terminal, none of that is printed.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/terminal.rs"]
mod terminal;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::{BINARY, Cluster, Setup};
use serde_json::{Value, json};
use terminal::Terminal;

const LEAVES: &str = "\x1b[?1049l";

#[tokio::test]
async fn the_live_view_goes_on_while_the_leader_is_killed() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    // Only one endpoint is named, and it is the one that dies: the others were learnt of.
    let mut command = cluster.cli_command(&["status", "--watch"]);
    command.env("SUPER_NODE_ENDPOINTS", cluster.nodes[leader].url());
    let mut view = Terminal::run(&command, (40, 120), cluster.directory.path());
    let lead = format!("leader n{}   term {term}", leader + 1);
    view.wait_for_picture("all nodes are up", |picture| {
        let parts = ["NODE", "members     3 (3 up", "interval", "ledger", "projection", "entries/s"];
        picture.contains(&lead) && parts.iter().all(|part| picture.contains(part))
    });
    cluster.kill(leader);
    let (next, next_term) = cluster.leader_after(term).await;
    let lead = format!("leader n{}   term {next_term}", next + 1);
    let silent = format!("{} does not answer", cluster.nodes[leader].url());
    let told = format!("n{} leads in term {next_term}", next + 1);
    view.wait_for_picture("the next leader, and who is silent", |picture| {
        picture.contains(&lead) && picture.contains(&silent) && picture.contains(&told)
    });
    // A smaller window gets a smaller picture, at once.
    view.order("size 5 30");
    view.wait_for_picture("five rows of thirty columns", |picture| {
        let rows: Vec<&str> = picture.split("\r\n").collect();
        rows.len() == 5 && rows.iter().all(|row| without_codes(row).chars().count() <= 30)
    });
    view.order("type q");
    assert!(!view.printed().is_empty());
    let output = cluster.directory.path().join("terminal.out");
    assert_eq!(view.end(), (0, true));
    assert!(std::fs::read_to_string(output).expect("text").contains(LEAVES));
}

/// A row as it looks.
fn without_codes(row: &str) -> String {
    let mut text = String::new();
    let mut chars = row.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            // Up to the letter that ends it.
            let _code = chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(char);
        }
    }
    text
}

#[tokio::test]
async fn the_terminal_is_as_it_was_however_the_view_ends() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    for (order, code) in [("type q", 0), ("type \\x03", 130), ("signal TERM", 130), ("signal INT", 130)] {
        let command = cluster.cli_command(&["status", "--watch"]);
        let mut view = Terminal::run(&command, (24, 80), cluster.directory.path());
        view.wait_for_picture("the leader", |picture| picture.contains("leader n1"));
        view.order(order);
        let output = cluster.directory.path().join("terminal.out");
        assert_eq!(view.end(), (code, true), "{order}");
        let printed = std::fs::read_to_string(output).expect("text");
        assert_eq!(printed.matches(LEAVES).count(), 1, "{order}");
    }
}

#[tokio::test]
async fn without_colours_there_is_no_colour() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    for (colours, flag, variable) in [(true, false, ""), (false, true, ""), (false, false, "1")] {
        let words: &[&str] = if flag { &["status", "--watch", "--no-color"] } else { &["status", "--watch"] };
        let mut command = cluster.cli_command(words);
        command.env("NO_COLOR", variable);
        let view = Terminal::run(&command, (24, 80), cluster.directory.path());
        view.wait_for_picture("the leader", |picture| picture.contains("leader n1"));
        assert_eq!(view.printed().contains("\x1b[32m"), colours, "{flag} {variable}");
    }
}

#[tokio::test]
async fn a_watch_without_a_terminal_prints_a_line_or_an_object_for_each_change() {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    let (leader, term) = cluster.leader().await;
    let spawn = |format: &str| {
        let mut command = cluster.cli_command(&["status", "--watch", "-o", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        (Killed(child), lines)
    };
    type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;
    let ((_objects, mut objects), (_lines, mut lines)) = (spawn("json"), spawn("plain"));
    let read_until = |lines: &mut Lines, is: &dyn Fn(&str) -> bool| {
        let mut seen: Vec<String> = Vec::new();
        for line in lines {
            seen.push(line.expect("text"));
            if seen.last().is_some_and(|line| is(line)) {
                return seen;
            }
        }
        panic!("it ended: {seen:?}");
    };
    let first = read_until(&mut objects, &|_| true);
    let first: Value = serde_json::from_str(&first[0]).expect("an object");
    assert!(first["term"].as_u64() >= Some(term) && first["silent"] == json!([]), "{first}");
    cluster.kill(leader);
    let (next, next_term) = cluster.leader_after(term).await;
    let led = |line: &str| {
        let status: Value = serde_json::from_str(line).expect("each line is an object");
        status["leader"] == json!(format!("n{}", next + 1)) && status["term"] == json!(next_term)
    };
    let seen = read_until(&mut objects, &led);
    // Nothing is printed twice in a row; how long ago others were heard is no change.
    let masked = |line: &String| {
        let mut status: Value = serde_json::from_str(line).expect("an object");
        for node in status["nodes"].as_array_mut().into_iter().flatten() {
            node["contact_ms"] = Value::Null;
        }
        status
    };
    assert!(seen.windows(2).all(|pair| masked(&pair[0]) != masked(&pair[1])), "{seen:?}");
    let wanted = format!("leader=n{}\tterm={next_term}\t", next + 1);
    read_until(&mut lines, &|line| line.starts_with(&wanted));
}

/// A child that ends with its value.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A node that lists three pages of movements, and takes its time for each.
fn slow_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).is_ok_and(|read| read > 0) {
                            continue;
                        }
                        return;
                    }
                    let body = answer(&head).to_string();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn answer(head: &str) -> Value {
    if head.starts_with("GET /v1/status") {
        return json!({ "ledger": { "records": 3 } });
    }
    std::thread::sleep(Duration::from_millis(1_100));
    let after = head.split("after=").nth(1).and_then(|rest| rest.chars().next()).and_then(|c| c.to_digit(10));
    let seq = after.unwrap_or(0) + 1;
    json!({ "items": [{ "seq": seq, "member": "a" }], "next": (seq < 3).then_some(seq) })
}

#[test]
fn what_takes_long_shows_a_bar_on_a_terminal_and_nothing_elsewhere() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = slow_node();
    let export = ["--endpoints", &url, "ledger", "export", "--format", "ndjson"];
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" > export.ndjson", BINARY]).args(export);
    let view = Terminal::run(&command, (24, 80), directory.path());
    view.wait_for("a bar", |printed| printed.contains("exporting") && printed.contains("of 3 records"));
    assert_eq!(view.end(), (0, true));
    let text = std::fs::read_to_string(directory.path().join("export.ndjson")).expect("text");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");

    let mut child = Command::new(BINARY)
        .args(export)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
    child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
    assert!(child.wait().expect("it ends").success(), "{err}");
    assert_eq!((out.as_str(), err.as_str()), (text.as_str(), ""));
}

#[test]
fn histories_are_counted_on_a_terminal_and_nowhere_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(BINARY);
    command.args(["sim", "--seeds", "40"]);
    let view = Terminal::run(&command, (24, 100), directory.path());
    view.wait_for("a bar", |printed| printed.contains("/40 histories"));
    assert_eq!(view.end(), (0, true));
    let output = Command::new(BINARY).args(["sim", "--seeds", "4"]).output().expect("it runs");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// A node that fetches 4 MiB of state at 1 MiB a second, while the cluster goes on, and then a few entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_shows_how_far_it_is_and_logs_above_that() {
    let setup = Setup::nodes(1)
        .with("SUPER_NODE_STORAGE__SNAPSHOT_RATE", "1MiB")
        .with("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", "100")
        .with("SUPER_NODE_LOG__LEVEL", "info");
    let mut cluster = Cluster::start(&setup);
    cluster.leader().await;
    for number in 0..64 {
        cluster.put(0, &format!("large-{number}"), &json!("x".repeat(60_000))).await;
    }
    for number in 0..500 {
        cluster.put(0, "small", &json!(number)).await;
    }
    cluster
        .wait_for("the log's head is dropped", async || {
            let status = cluster.get(0, "/v1/status").await;
            status["log"]["base_index"].as_u64().filter(|index| *index > 200)
        })
        .await;
    let at = cluster.add_node("n2", 0);
    let mut command = cluster.command(at);
    command.env("SUPER_NODE_LOG__LEVEL", "info");
    let view = Terminal::run(&command, (24, 100), cluster.directory.path());
    view.wait_for("a bar of the state", |printed| {
        printed.contains("fetching the state") && printed.contains("MiB")
    });
    let writing = async {
        for number in 0.. {
            cluster.put(0, "small", &json!(number)).await;
            if view.printed().contains("this node votes now") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), writing).await.expect("it votes in the end");
    let printed = view.printed();
    // Log lines stand at the beginning of a line of their own, and the bar is gone in the end.
    for line in printed.lines().filter(|line| line.contains(" INFO ")) {
        let seen = without_codes(line.rsplit('\r').next().unwrap_or_default());
        assert!(seen.starts_with("20"), "{line:?}");
    }
    let after = printed.rsplit("this node votes now").next().unwrap_or_default();
    assert!(!after.contains("fetching") && !after.contains("catching up"), "{after:?}");
    assert!(!printed.contains("is a learner and has"), "numbers move in the bar: {printed}");

    // Where nobody looks, lines tell.
    let quiet = cluster.join_node("n3", 0);
    cluster.wait_for("it votes", async || cluster.log_of(quiet).contains("votes now").then_some(())).await;
    let log = cluster.log_of(quiet);
    assert!(log.contains("fetches the state: ") && !log.contains('\x1b') && !log.contains("MiB"), "{log}");
}

#[test]
fn what_nobody_can_measure_shows_that_time_passes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // It takes connections and does not answer.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    for (words, shown) in [
        (&["policy", "simulate"][..], "rehearsing"),
        (&["leader", "transfer"], "handing over"),
        (&["member", "remove", "n9"], "changing the configuration"),
        (&["doctor", "--online"], "looking"),
    ] {
        let mut command = Command::new(BINARY);
        command.args(["--endpoints", &url, "--timeout", "2s"]).args(words);
        let view = Terminal::run(&command, (24, 100), directory.path());
        view.wait_for("something moves", |printed| printed.contains(shown));
        let output = directory.path().join("terminal.out");
        let (code, restored) = view.end();
        assert!(code != 0 && restored, "{words:?}: {code}");
        // The bar is gone before anything is printed in its place.
        let printed = std::fs::read_to_string(output).expect("text");
        let after = printed.rsplit(shown).next().unwrap_or_default();
        assert!(after.contains("\x1b[2K") || after.contains("\x1b[K"), "{words:?}: {printed:?}");
    }
}
