//! The demo as a newcomer meets it when something comes between: it leaves nothing behind, and says what is wrong.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_super-node"));
    command.arg("demo").args(arguments).current_dir(temporary).env_remove("MONGODB_URI");
    command.env("TMPDIR", temporary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the demo and waits until it prints a line with these words.
fn started(temporary: &Path, words: &str) -> Child {
    let mut child = demo(temporary, &["--fast"]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut told = String::new();
    while !told.lines().any(|line| line.contains(words)) {
        let read = lines.read_line(&mut told).expect("text");
        assert!(read > 0, "it ended before it said '{words}':\n{told}");
    }
    // What it says from now on must find a reader.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    child
}

/// Processes whose command line names something below a directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().expect("text");
    let all = std::fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|l| l.contains(name)).collect()
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("is there").filter_map(Result::ok);
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// Ends the demo by a signal once it has said `words`; then nothing may be left. Gives its exit code.
fn ended_by(signal: &str, words: &str) -> Option<i32> {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let mut child = started(temporary.path(), words);
    assert!(!processes_of(temporary.path()).is_empty(), "the check below would see nothing");
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let code = child.wait().expect("it ends").code();
    let begun = Instant::now();
    loop {
        let left = (processes_of(temporary.path()), files_in(temporary.path()));
        if left.0.is_empty() && left.1.is_empty() {
            return code;
        }
        // Asked politely, it ends only when all is gone. Killed, it leaves that to its children.
        assert!(signal == "-KILL" && begun.elapsed() < PATIENCE, "{signal} after '{words}' leaves {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_no_file_behind() {
    assert_eq!(ended_by("-INT", "leads term 1"), Some(130));
    assert_eq!(ended_by("-TERM", "worker-1   has"), Some(130));
}

#[test]
fn a_killed_demo_leaves_no_process_and_no_file_behind() {
    assert_eq!(ended_by("-KILL", "leads term 1"), None);
    // A child that is frozen at this moment must wake up to notice.
    assert_eq!(ended_by("-KILL", "is frozen"), None);
}

#[test]
fn a_reader_that_leaves_early_gets_no_success() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let mut child = demo(temporary.path(), &["--fast"]).spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""));
    assert!(files_in(temporary.path()).is_empty() && processes_of(temporary.path()).is_empty());
}

#[test]
fn what_the_demo_cannot_work_with_is_named_before_it_begins() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(temporary.path().join("file"), "mine").expect("is new");
    let before = files_in(temporary.path());
    let own = temporary.path().to_str().expect("text");
    for (arguments, code, words) in [
        (&["--mongodb", "mongodb://u:secret@127.0.0.1:9"][..], 1, "127.0.0.1:9 does not answer"),
        (&["--mongodb", "nonsense"], 2, "is not a MongoDB connection string"),
        (&["--mongodb"], 2, "set MONGODB_URI"),
        (&["--keep", own], 2, "the directory is not empty"),
        (&["--keep", "/proc/nowhere"], 2, "--keep /proc/nowhere: "),
        (&["--nodes", "0"], 2, "--nodes"),
    ] {
        let output = demo(temporary.path(), arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words) && !text.contains("secret"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(files_in(temporary.path()), before, "{arguments:?}");
    }
}
