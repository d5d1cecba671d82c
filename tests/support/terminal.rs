//! A program at a real pseudo-terminal (`tests/terminal.py`), for tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Patience for what should happen soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// The terminal, with the program that runs at it. Dropped, it takes the program with it.
pub struct Terminal {
    child: Child,
    output: PathBuf,
}

impl Terminal {
    /// Runs a command, with its variables, at a terminal of so many rows and columns. What it prints is kept below `directory`.
    pub fn run(command: &Command, (rows, columns): (u16, u16), directory: &Path) -> Terminal {
        let output = directory.join("terminal.out");
        // What an earlier terminal showed there is not what this one shows.
        std::fs::write(&output, "").expect("a file that can be written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(&output).arg(rows.to_string()).arg(columns.to_string());
        python.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => python.env(name, value),
                None => python.env_remove(name),
            };
        }
        python.env("TERM", "xterm").current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = python.spawn().expect("python3 starts");
        Terminal { child, output }
    }

    /// What was printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// What the last complete picture shows: pictures begin at the upper left corner.
    pub fn picture(&self) -> String {
        self.printed().rsplit("\x1b[H").next().unwrap_or_default().to_string()
    }

    /// Waits until what was printed is as it should be.
    pub fn wait_for(&self, what: &str, is: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is(&self.printed()) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}; printed:\n{}", self.printed());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the last picture is as it should be.
    pub fn wait_for_picture(&self, what: &str, is: impl Fn(&str) -> bool) {
        self.wait_for(what, |printed| is(printed.rsplit("\x1b[H").next().unwrap_or_default()));
    }

    /// One line of `tests/terminal.py`.
    pub fn order(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("the script listens");
    }

    /// Waits for the end: the exit code, and whether the terminal is as it was.
    pub fn end(mut self) -> (i32, bool) {
        let begun = Instant::now();
        while self.child.try_wait().expect("our own process").is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end; printed:\n{}", self.printed());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        std::io::Read::read_to_string(&mut stdout, &mut said).expect("text");
        let words: Vec<&str> = said.split_whitespace().collect();
        let ["exit", code, modes] = words[..] else { panic!("the script said {said:?}") };
        (code.parse().expect("a number"), modes == "restored")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its end of the pipe closes: the script kills the program, and ends.
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begun.elapsed() > Duration::from_secs(5) {
                let _dead = self.child.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _reaped = self.child.wait();
    }
}
