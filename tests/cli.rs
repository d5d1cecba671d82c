//! The program as a user starts it: exit codes, and which stream carries what.

use std::process::{Command, Output, Stdio};

fn run(words: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Command::new(env!("CARGO_BIN_EXE_super-node"))
        .args(words)
        .current_dir(directory.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// Exit code, stdout, stderr.
fn result(words: &[&str]) -> (i32, String, String) {
    let output = run(words);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

#[test]
fn mistakes_on_the_command_line_end_with_2_and_say_so_on_stderr() {
    for words in [
        &["stauts"][..],
        &[],
        &["add", "1"],
        &["-o", "yaml", "status"],
        &["status", "--endpoints", "nonsense"],
        &["config", "check", "--config", "absent.toml"],
        &["config", "check", "--id", "not a name"],
        &["config", "check", "--id", ".."],
        &["agent", "--id", "..", "--join", "http://127.0.0.1:9"],
        &["config", "check", "--listen", "0.0.0.0:7400"],
    ] {
        let (code, stdout, stderr) = result(words);
        assert_eq!((code, stdout.as_str()), (2, ""), "{words:?}: {stderr}");
        assert!(!stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, stdout, _) = result(&["--help"]);
    assert_eq!(code, 0);
    for command in ["status", "kv", "add", "member", "ledger", "interval", "election", "events", "config"] {
        assert!(stdout.contains(command), "{command} is missing in\n{stdout}");
    }
    assert_eq!(result(&["--version"]).1, format!("super-node {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn nobody_there_ends_with_3_and_names_what_was_tried() {
    // Port 9 is reserved for "discard" and nobody serves it on loopback.
    let (code, stdout, stderr) =
        result(&["--endpoints", "http://127.0.0.1:9", "--timeout", "300ms", "kv", "set", "a", "1"]);
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    for part in ["[unreachable]", "tried  127.0.0.1:9 refused", "write not applied; safe to retry."] {
        assert!(stderr.contains(part), "{part} is missing in\n{stderr}");
    }
}

#[test]
fn configuration_is_shown_with_its_sources() {
    let (code, stdout, stderr) = result(&["config", "show", "--id", "n7", "-o", "json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).expect("one JSON array");
    let row = rows.iter().find(|row| row["key"] == "node.id").expect("is listed");
    assert_eq!((&row["value"], &row["source"]), (&"n7".into(), &"flag --id".into()));
    let (code, stdout, _) = result(&["config", "show", "--id", "n7"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("node.id\tn7\tflag --id\n"), "{stdout}");
}

#[test]
fn dotenv_is_read_where_the_program_starts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join(".env"), "SUPER_NODE_RAFT__HEARTBEAT=70ms\n").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_super-node"))
        .args(["config", "show"])
        .current_dir(directory.path())
        .env_clear()
        .output()
        .expect("the program starts");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert!(stdout.contains("raft.heartbeat\t70ms\t.env SUPER_NODE_RAFT__HEARTBEAT\n"), "{stdout}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_super-node"))
        .args(["config", "show"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// The names of all subcommands, by the words that lead to them.
fn subcommands() -> Vec<String> {
    fn below(command: &clap::Command, path: &str, into: &mut Vec<String>) {
        for command in command.get_subcommands() {
            let path = format!("{path} {}", command.get_name());
            into.push(path.trim_start().to_string());
            below(command, &path, into);
        }
    }
    let mut all = Vec::new();
    below(&super_node::cli::command(), "", &mut all);
    all
}

#[test]
fn completions_know_every_subcommand_and_bash_completes_with_them() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, stderr) = result(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        for path in subcommands() {
            let last = path.rsplit(' ').next().expect("a word");
            assert!(script.contains(last), "{shell} does not know {path}");
        }
        assert!(script.contains("endpoints"), "{shell} does not know the flags");
    }
    assert_eq!(result(&["completions", "tcsh"]).0, 2);
    let (_, script, _) = result(&["completions", "bash"]);
    // What bash does when somebody presses Tab.
    let complete = |line: &str, number: usize| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({line}); COMP_CWORD={number}\n\
             complete=$(complete -p super-node | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
             $complete super-node \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$((COMP_CWORD-1))]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(complete("super-node sta", 1), ["start", "status"]);
    assert_eq!(complete("super-node leader tr", 2), ["transfer"]);
    assert_eq!(complete("super-node completions z", 2), ["zsh"]);
    assert!(complete("super-node status --wa", 2).contains(&"--watch".to_string()));
}

#[test]
fn every_subcommand_has_a_manual_page_that_mandoc_takes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path().join("man1");
    let (code, stdout, stderr) = result(&["man", dir.to_str().expect("printable"), "-o", "json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let written: Vec<serde_json::Value> = serde_json::from_str(&stdout).expect("one JSON array");
    let names = subcommands().into_iter().map(|path| format!("super-node-{}.1", path.replace(' ', "-")));
    let mut names: Vec<String> = names.chain(["super-node.1".to_string()]).collect();
    names.sort();
    let mut there: Vec<String> = written
        .iter()
        .map(|item| item["file"].as_str().expect("a path").rsplit('/').next().expect("a name").to_string())
        .collect();
    there.sort();
    assert_eq!(there, names);
    let mandoc =
        Command::new("mandoc").arg("-V").stderr(Stdio::null()).stdout(Stdio::null()).status().is_ok();
    if !mandoc {
        println!("SKIPPED in part: mandoc is not installed, the pages were not held against it");
    }
    for name in names {
        let path = dir.join(&name);
        let text = std::fs::read_to_string(&path).expect("the page");
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
            assert!(text.contains(section), "{name} has no {section}");
        }
        if mandoc {
            let output = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(&path).output();
            let said = String::from_utf8(output.expect("mandoc runs").stdout).expect("text");
            // Pages have a version instead.
            let said: Vec<&str> = said.lines().filter(|line| !line.contains("missing date")).collect();
            assert_eq!(said, Vec::<&str>::new(), "{name}");
        }
    }
    // Without a directory, the first page.
    let (code, page, _) = result(&["man"]);
    assert_eq!((code, page), (0, std::fs::read_to_string(dir.join("super-node.1")).expect("the page")));
    let (code, _, stderr) = result(&["man", "/dev/null/man1"]);
    assert!(code == 1 && stderr.contains("/dev/null/man1"), "{code} {stderr}");
}
