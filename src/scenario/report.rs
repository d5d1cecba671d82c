//! Judgements for machines that read JUnit.

use std::fmt::Write as _;

use super::judge::{Grade, Judgement};

/// A JUnit file: a test case for each run.
pub fn junit(runs: &[(String, Judgement, f64)], least: Grade) -> String {
    let failed = runs.iter().filter(|(_, judgement, _)| !judgement.passes(least)).count();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("<testsuite name=\"super-node scenario\" tests=\"{}\" failures=\"{failed}\">", runs.len()));
    for (name, judgement, seconds) in runs {
        line(format!("  <testcase name=\"{}\" time=\"{seconds:.3}\">", escaped(name)));
        for failure in judgement.failures(least) {
            line(format!("    <failure message=\"{}\"/>", escaped(&failure)));
        }
        line("  </testcase>".to_string());
    }
    line("</testsuite>".to_string());
    text
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            char if char.is_control() => {
                write!(out, "&#x{:X};", u32::from(char)).expect("writing to a string does not fail");
            }
            char => out.push(char),
        }
    }
    out
}
