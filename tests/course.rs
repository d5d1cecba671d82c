//! The course protocol in real time: the binary as a replica, under its own names, and replicas that are wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use super_node::scenario::{Scenario, in_virtual_time};
use tempfile::TempDir;

const SUPER_NODE: &str = env!("CARGO_BIN_EXE_super-node");

/// Our replicas hold no election before that.
const START_WAIT: f64 = 3.2;

fn scenario(changes: &Value) -> Value {
    let mut scenario = json!({
        "lifetime": 3, "replicas": 3, "requests": 150, "mix": 0.5, "start_wait": 2.5, "end_wait": 1, "seed": 1,
    });
    for (key, value) in changes.as_object().expect("an object") {
        scenario[key] = value.clone();
    }
    scenario
}

/// Runs `super-node scenario run` on it.
fn run(folder: &Path, scenario: &Value, more: &[&str]) -> (Output, Value) {
    let file = folder.join("scenario.json");
    fs::write(&file, scenario.to_string()).expect("a file");
    let output = Command::new(SUPER_NODE)
        .args(["scenario", "run", "-o", "json", "--require", "none"])
        .arg(&file)
        .args(more)
        .output()
        .expect("the program runs");
    let items: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (output, items[0].clone())
}

fn wrong_replica(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "replicas", name].iter().collect();
    path.to_string_lossy().into_owned()
}

fn failed_checks(item: &Value) -> Vec<&str> {
    let checks = item["checks"].as_array().expect("checks");
    checks.iter().filter(|check| check["ok"] == false).filter_map(|check| check["name"].as_str()).collect()
}

#[test]
fn the_binary_survives_the_loss_of_its_leader_in_real_time() {
    let folder = TempDir::new().expect("a folder");
    let report = folder.path().join("report.xml");
    let events = json!([{"type": "kill_leader", "time": 1}]);
    let killed = json!({"replicas": 5, "drops": 0.05, "start_wait": START_WAIT, "events": events});
    let (output, item) =
        run(folder.path(), &scenario(&killed), &["--real", "--junit", report.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(0), "{item:#}");
    assert_eq!(item["passed"], json!(true), "{item:#}");
    assert!(item["story"][0].as_str().is_some_and(|event| event.contains("is killed")), "{item:#}");
    let report = fs::read_to_string(report).expect("a report");
    assert!(report.contains("tests=\"1\" failures=\"0\""), "{report}");
}

#[test]
fn the_names_of_the_course_start_a_replica() {
    let starts = |name: &str| {
        let folder = TempDir::new().expect("a folder");
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(SUPER_NODE, &link).expect("a link");
        let short = json!({"lifetime": 1, "requests": 20, "start_wait": START_WAIT});
        let (output, item) =
            run(folder.path(), &scenario(&short), &["--replica", link.to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(0), "{name}: {item:#}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| starts("4730kvstore"));
        starts("3700kvstore");
    });
}

#[test]
fn a_replica_that_loses_acknowledged_puts_is_found_out() {
    let folder = TempDir::new().expect("a folder");
    let program = wrong_replica("loses_puts.py");
    let (output, item) = run(folder.path(), &scenario(&json!({"lifetime": 1})), &["--replica", &program]);
    assert_eq!(output.status.code(), Some(0), "as long as nobody dies it does well: {item:#}");
    let killed = json!({"events": [{"type": "kill_leader", "time": 1.2}]});
    let (output, item) = run(folder.path(), &scenario(&killed), &["--replica", &program]);
    assert_eq!(output.status.code(), Some(1), "{item:#}");
    assert_eq!(failed_checks(&item), ["no incorrect answers", "linearizable"], "{item:#}");
    let command = item["command"].as_str().expect("a command");
    assert!(command.contains("--seed 1") && command.contains(&program), "{command}");
}

#[test]
fn a_replica_that_reads_on_the_minority_side_is_found_out() {
    let folder = TempDir::new().expect("a folder");
    let program = wrong_replica("stale_reads.py");
    let (output, item) = run(folder.path(), &scenario(&json!({"lifetime": 1})), &["--replica", &program]);
    assert_eq!(output.status.code(), Some(0), "as long as nothing is cut it does well: {item:#}");
    let parted = scenario(&json!({"events": [{"type": "part_hard", "time": 0.6}]}));
    // Who is parted is decided by the seed alone. Its leader is 0000, which must be left out.
    let parsed = Scenario::parse(&parted.to_string()).expect("a scenario");
    let seed = (0..100)
        .find(|seed| in_virtual_time(&parsed, *seed).story.iter().any(|event| !event.contains("0000")))
        .expect("one of three is left out now and then");
    let (output, item) = run(folder.path(), &parted, &["--replica", &program, "--seed", &seed.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{item:#}");
    let failed = failed_checks(&item);
    assert!(failed.contains(&"no incorrect answers") && failed.contains(&"linearizable"), "{item:#}");
}

#[test]
fn what_is_no_scenario_is_refused_with_a_hint() {
    let refuse = |arguments: &[&str]| {
        let output = Command::new(SUPER_NODE).args(arguments).output().expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = refuse(&["scenario", "run", "nowhere"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("super-node scenario list"), "{text}");
    let (code, text) = refuse(&["replica", "7000", "FFFF"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("4 hexadecimal digits"), "{text}");
}
