//! Every command of the documents is run, or says why it is not.
//!
//! A block of commands is fenced as `sh` or `console`. Such a block is run, in the order of its document, against three real nodes,
//! unless its fence gives a reason: `sh,not-run="needs Kubernetes"`. `sh,under-load` is run while clients write, who afterwards
//! read back all that was acknowledged. In a `console` block the lines behind `$ ` are commands.
//!
//! Documents are run as they are but for what would meet others on the machine: ports are free ones, intervals are short, and
//! `tests/docs/prelude.sh` stands before them.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{BINARY, free_port};
use serde_json::{Value, json};

/// The documents that have something to run; a test holds that there are no others. `true`: it starts the nodes itself.
const RUN: &[(&str, bool)] = &[
    ("README.md", true),
    ("docs/getting-started.md", true),
    ("docs/operations.md", false),
    ("docs/backup.md", false),
    ("docs/client.md", false),
    ("docs/course-protocol.md", false),
    ("docs/security.md", false),
    ("docs/tuning.md", false),
];
/// Ports that documents and `config/` name.
const PORTS: &[u16] =
    &[7400, 7401, 7402, 7410, 7411, 7412, 7420, 7421, 7422, 7430, 7431, 7432, 7500, 7501, 7502];
/// A document takes seconds; this only bounds one that hangs.
const PATIENCE: Duration = Duration::from_secs(85);
/// What begins a line that is a command.
const COMMANDS: &[&str] = &[
    "super-node ",
    "curl ",
    "cargo ",
    "docker ",
    "docker-compose ",
    "kubectl ",
    "mongosh ",
    "./",
    "scripts/",
    "$ ",
];
/// Before the commands of a document that takes running nodes for granted.
const NODES: &str = "\
export SUPER_NODE_LEDGER__INTERVAL=5s SUPER_NODE_LEDGER__PING=500ms
super-node start --config config/node-1.toml
super-node start --config config/node-2.toml
super-node start --config config/node-3.toml
export SUPER_NODE_ENDPOINTS=http://127.0.0.1:7400,http://127.0.0.1:7410,http://127.0.0.1:7420
super-node kv set before '\"the document\"' > /dev/null
super-node agent --id worker-1 --join http://127.0.0.1:7400
";

/// What is done with a block.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Run,
    UnderLoad,
    NotRun(String),
    /// It holds no commands.
    Shown,
}

#[derive(Debug, Clone, PartialEq)]
struct Block {
    line: usize,
    language: String,
    fate: Result<Fate, String>,
    text: String,
}

impl Block {
    /// What a shell is given.
    fn commands(&self) -> String {
        if self.language != "console" {
            return self.text.clone();
        }
        let commands = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
        commands.map(|line| format!("{line}\n")).collect()
    }
}

fn fate(language: &str, attribute: Option<&str>, text: &str) -> Result<Fate, String> {
    let commands = matches!(language, "sh" | "console");
    match attribute {
        None if commands => Ok(Fate::Run),
        None if COMMANDS.iter().any(|begin| text.starts_with(begin)) => {
            Err("commands in a block that is neither `sh` nor `console`".to_string())
        }
        None => Ok(Fate::Shown),
        Some("under-load") if commands => Ok(Fate::UnderLoad),
        Some(attribute) => {
            let reason = attribute.strip_prefix("not-run=\"").and_then(|rest| rest.strip_suffix('"'));
            match reason {
                Some(reason) if commands && reason.len() >= 5 => Ok(Fate::NotRun(reason.to_string())),
                _ => Err(format!("`{attribute}` is neither under-load nor not-run=\"REASON\"")),
            }
        }
    }
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        let (language, attribute) = match info.split_once(',') {
            Some((language, attribute)) => (language, Some(attribute)),
            None => (info, None),
        };
        let fate = fate(language, attribute, &text);
        found.push(Block { line: number + 1, language: language.to_string(), fate, text });
    }
    found
}

fn base() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(base().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents() -> Vec<String> {
    let names = fs::read_dir(base().join("docs")).expect("docs can be listed").flatten();
    let names = names.map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()));
    let mut all: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    all.push("README.md".to_string());
    all.sort();
    all
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    let mut problems = Vec::new();
    for document in documents() {
        let blocks = blocks(&read(&document));
        for block in &blocks {
            if let Err(why) = &block.fate {
                problems.push(format!("{document}:{}: {why}", block.line));
            }
        }
        let runs = blocks.iter().any(|block| matches!(block.fate, Ok(Fate::Run | Fate::UnderLoad)));
        if runs != RUN.iter().any(|(known, _)| *known == document) {
            problems.push(format!("{document}: runs something ({runs}), or is in the list of those that do"));
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn a_block_without_a_fate_is_found() {
    let one = |text: &str| blocks(text).remove(0);
    for (text, wanted) in [
        ("```sh\nls\n```", Ok(Fate::Run)),
        ("```console\n$ ls\nx\n```", Ok(Fate::Run)),
        ("```sh,under-load\nls\n```", Ok(Fate::UnderLoad)),
        ("```sh,not-run=\"needs x\"\nls\n```", Ok(Fate::NotRun("needs x".to_string()))),
        ("```toml\na = 1\n```", Ok(Fate::Shown)),
        ("```\nn = 1\n```", Ok(Fate::Shown)),
    ] {
        assert_eq!(one(text).fate, wanted, "{text}");
    }
    for wrong in [
        "```\nsuper-node status\n```",
        "```text\ncurl x\n```",
        "```sh,not-run=\"\"\nls\n```",
        "```sh,not-run\nls\n```",
        "```sh,skip\nls\n```",
        "```toml,not-run=\"no command\"\na = 1\n```",
    ] {
        assert!(one(wrong).fate.is_err(), "{wrong}");
    }
    let console = one("```console\n$ ls  # why\nfile\n$ pwd\n```");
    assert_eq!(console.commands(), "ls  # why\npwd\n");
}

#[test]
fn every_code_and_every_exit_code_has_a_paragraph() {
    let errors = read("docs/errors.md");
    let problem = read("src/api/problem.rs");
    let (_, names) = problem.split_once("pub fn as_str").expect("the names");
    let (names, _) = names.split_once("pub(super) fn title").expect("their end");
    let codes: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(codes.len() >= 14, "{codes:?}");
    let words = ["usage", "config", "unreachable", "unknown", "failed"];
    let paragraphs: Vec<&str> = errors.split("\n\n").collect();
    for code in codes.iter().chain(&words) {
        let found = paragraphs.iter().find(|paragraph| paragraph.starts_with(&format!("**{code}**")));
        assert!(found.is_some_and(|found| found.len() > 40), "docs/errors.md has no paragraph on {code}");
        // What an error ends with leads there.
        let output = Command::new(BINARY).args(["explain", &format!("[{code}]")]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.starts_with(code) && text.len() > 40, "{code}: {text}");
    }
    for exit in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "130"] {
        assert!(
            paragraphs.iter().any(|paragraph| paragraph.starts_with(&format!("**{exit}, "))),
            "docs/errors.md has no paragraph on exit code {exit}"
        );
    }
}

/// A port for each that is named, three in a row where three are.
fn ports() -> BTreeMap<u16, u16> {
    let mut found = BTreeMap::new();
    for three in PORTS.chunks(3) {
        // An agents' port that nobody named is the one after the peers'.
        let (client, peer) = (free_port(), free_port());
        found.insert(three[0], client);
        found.insert(three[1], peer);
        found.insert(three[2], peer + 1);
    }
    found
}

/// A text in which other ports and short intervals stand.
fn adapted(text: &str, ports: &BTreeMap<u16, u16>) -> String {
    let mut text = text.to_string();
    for (named, free) in ports {
        for host in ["127.0.0.1", "localhost"] {
            // Two steps: a free port may be one that is named too.
            text = text.replace(&format!("{host}:{named}"), &format!("{host}\0{free}"));
        }
    }
    text.replace('\0', ":")
        .replace("SUPER_NODE_LEDGER__INTERVAL=5s", "SUPER_NODE_LEDGER__INTERVAL=1s")
        .replace(
            "SUPER_NODE_LEDGER__PING=500ms",
            "SUPER_NODE_LEDGER__PING=80ms SUPER_NODE_LEDGER__PING_TIMEOUT=60ms",
        )
}

/// The script of a document.
fn script(document: &str, starts_nodes: bool, ports: &BTreeMap<u16, u16>) -> String {
    let mut script = read("tests/docs/prelude.sh");
    if !starts_nodes {
        script.push_str(NODES);
    }
    for block in blocks(&read(document)) {
        let place = format!("echo '=== {document}:{}'\n", block.line);
        match block.fate {
            Ok(Fate::Run) => script.push_str(&format!("{place}{}", block.commands())),
            Ok(Fate::UnderLoad) => script.push_str(&format!(
                "{place}touch .begin\nuntil [ -e .writes ]; do sleep 0.05; done\n{}touch .end\n\
                 until [ -e .judged ]; do sleep 0.05; done\n",
                block.commands()
            )),
            _ => {}
        }
    }
    script.push_str("all_live\necho '=== the end'\n");
    adapted(&script, ports)
}

/// Where a document is run: what it finds beside it in the repository.
fn directory(ports: &BTreeMap<u16, u16>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |path: &str| directory.path().join(path);
    for folder in ["config", "bin"] {
        fs::create_dir(at(folder)).expect("a directory");
    }
    for name in ["node-1.toml", "node-2.toml", "node-3.toml"] {
        let text = adapted(&read(&format!("config/{name}")), ports);
        fs::write(at(&format!("config/{name}")), text).expect("written");
    }
    std::os::unix::fs::symlink(BINARY, at("bin/super-node")).expect("a link");
    directory
}

/// Runs a document to its end.
async fn run(document: &str) {
    let (_, starts_nodes) = RUN.iter().find(|(known, _)| *known == document).expect("it is in the list");
    let ports = ports();
    let directory = directory(&ports);
    let file = directory.path().join("script.sh");
    fs::write(&file, script(document, *starts_nodes, &ports)).expect("written");
    let output = directory.path().join("output");
    let log = fs::File::create(&output).expect("a file");
    let path = format!("{}/bin:{}", directory.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash")
        .args(["--norc", "-eu"])
        .arg(&file)
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", directory.path())
        .env("USER", "kim")
        .env("SUPER_NODE_TIMEOUT", "30s")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("bash starts");
    let lifeline = bash.stdin.take();
    let urls = [7400, 7410, 7420].map(|port| format!("http://127.0.0.1:{}", ports[&port]));
    let load = tokio::spawn(write_and_judge(directory.path().to_path_buf(), urls));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = bash.try_wait().expect("our own process") {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // Whatever still runs ends with this.
    drop(lifeline);
    if status.is_none() {
        bash.kill().expect("our own process");
        bash.wait().expect("our own process");
    }
    let text = fs::read_to_string(&output).unwrap_or_default();
    let ended = status.is_some_and(|status| status.success());
    assert!(ended, "{document}: {status:?}\n{text}");
    let loaded = directory.path().join(".begin").exists();
    if loaded {
        load.await.expect("nothing is lost");
    } else {
        load.abort();
    }
}

/// Writes through all nodes between `.begin` and `.end`, then reads back what was acknowledged.
async fn write_and_judge(directory: PathBuf, urls: [String; 3]) {
    let at = |name: &str| directory.join(name);
    let http = super_node::network::tls::http(None)
        .expect("public authorities")
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("an HTTP client");
    while !at(".begin").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0.. {
        if at(".end").exists() {
            break;
        }
        let key = format!("load{number}");
        let url = format!("{}/v1/kv/{key}", urls[number % urls.len()]);
        let answer = http.put(&url).json(&json!(number)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            acknowledged.insert(key, number as u64);
            fs::write(at(".writes"), "").expect("written");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut lost = Vec::new();
    for (key, number) in &acknowledged {
        let answer = http.get(format!("{}/v1/kv/{key}", urls[0])).send().await.expect("an answer");
        let body: Value = answer.json().await.expect("JSON");
        if body["value"] != json!(number) {
            lost.push(format!("{key}: {body}"));
        }
    }
    fs::write(at(".judged"), "").expect("written");
    assert!(acknowledged.len() > 50, "there was load: {}", acknowledged.len());
    assert_eq!(lost, Vec::<String>::new(), "of {} acknowledged writes", acknowledged.len());
}

#[tokio::test]
async fn the_readme_works() {
    run("README.md").await;
}

#[tokio::test]
async fn getting_started_works() {
    run("docs/getting-started.md").await;
}

#[tokio::test]
async fn operations_work_and_a_rolling_restart_loses_nothing() {
    run("docs/operations.md").await;
}

#[tokio::test]
async fn the_backup_drill_works() {
    run("docs/backup.md").await;
}

#[tokio::test]
async fn the_client_examples_work() {
    run("docs/client.md").await;
}

#[tokio::test]
async fn the_course_protocol_examples_work() {
    run("docs/course-protocol.md").await;
}

#[tokio::test]
async fn certificates_are_made_as_described() {
    run("docs/security.md").await;
}

#[tokio::test]
async fn tuning_works() {
    run("docs/tuning.md").await;
}

#[test]
fn every_document_of_the_list_has_a_test() {
    let own = read("tests/docs.rs");
    for (document, _) in RUN {
        assert!(own.contains(&format!("    run(\"{document}\").await;\n")), "{document} is run by no test");
    }
}
