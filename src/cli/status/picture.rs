//! What the live view shows, as lines. Pure.

use std::collections::VecDeque;

use crate::node::status::NodeStatus;

use super::super::output::table;
use super::{LOCAL_HEADERS, NODE_HEADERS, counts, node_rows, or_dash, remarks, role};

/// How many changes are remembered.
pub(super) const CHANGES_MAX: usize = 12;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tint {
    /// As any text.
    Plain,
    /// A heading.
    Bold,
    /// As it should be, and worth a look.
    Good,
    /// Not as it should be.
    Bad,
    /// Beside the point.
    Dim,
}

/// A line of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) tint: Tint,
    pub(super) text: String,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// The time of day of the look.
    pub(super) at: String,
    /// The best answer of this look, or else of the last one that had any.
    pub(super) status: Option<NodeStatus>,
    /// Seconds since anybody has answered.
    pub(super) silent_s: u64,
    /// Log entries committed per second since the look before.
    pub(super) entries_per_s: Option<f64>,
    /// The endpoints that did not answer, and why.
    pub(super) silent: Vec<(String, String)>,
    /// What each endpoint says of itself, where that was asked for.
    pub(super) local: Vec<Vec<String>>,
    /// What has changed, with its time, newest last.
    pub(super) changes: VecDeque<String>,
}

impl Picture {
    /// Remembers what has changed.
    pub(super) fn note(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            self.changes.push_back(format!("{}  {what}", self.at));
        }
        while self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
        }
    }

    /// The lines, top to bottom.
    pub(super) fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut line = |tint, text: String| lines.push(Line { tint, text });
        let cluster = self.status.as_ref().map_or("no cluster yet", |status| &status.cluster);
        line(Tint::Bold, format!("super-node status   {cluster}   {} UTC   q leaves", self.at));
        if self.silent_s > 0 {
            line(Tint::Bad, format!("no node answers since {} s; what follows is older", self.silent_s));
        }
        if let Some(status) = &self.status {
            self.head(status, &mut line);
            if self.local.is_empty() {
                nodes(status, &mut line);
            }
        }
        if !self.local.is_empty() {
            let rows = table(&LOCAL_HEADERS, &self.local);
            rows.lines().for_each(|row| line(Tint::Plain, row.to_string()));
        }
        if let Some(status) = &self.status {
            line(Tint::Plain, String::new());
            let members = status.members;
            for (number, text) in counts(status).lines().enumerate() {
                let bad = match number {
                    0 => members.down + members.suspect > 0,
                    3 => status.projection.error.is_some(),
                    // After the four come the webhooks.
                    more => status.webhooks.get(more.wrapping_sub(4)).is_some_and(|hook| hook.failing),
                };
                line(if bad { Tint::Bad } else { Tint::Plain }, text.to_string());
            }
            let rate = self.entries_per_s.map_or("-".to_string(), |rate| format!("{rate:.1} log entries/s"));
            line(Tint::Plain, format!("writes      {rate}"));
        }
        for (endpoint, why) in self.silent.iter().filter(|_| self.local.is_empty()) {
            line(Tint::Bad, format!("{endpoint} does not answer: {why}"));
        }
        if !self.changes.is_empty() {
            line(Tint::Plain, String::new());
            self.changes.iter().rev().for_each(|change| line(Tint::Dim, change.clone()));
        }
        lines
    }

    fn head(&self, status: &NodeStatus, line: &mut impl FnMut(Tint, String)) {
        let leader = status.leader.as_ref();
        line(
            if leader.is_some() { Tint::Good } else { Tint::Bad },
            format!(
                "leader {}   term {}   commit {}   applied {}   as seen by {} ({})",
                leader.map_or("none".to_string(), ToString::to_string),
                status.term,
                status.commit,
                status.applied,
                status.id,
                role(status.role),
            ),
        );
        remarks(status).into_iter().for_each(|remark| line(Tint::Bad, remark));
        if status.transfer.is_some() {
            line(Tint::Plain, format!("handing over to {}", or_dash(status.transfer.as_ref())));
        }
        line(Tint::Plain, String::new());
    }
}

fn nodes(status: &NodeStatus, line: &mut impl FnMut(Tint, String)) {
    let text = table(&NODE_HEADERS, &node_rows(status));
    let mut rows = text.lines();
    line(Tint::Bold, rows.next().unwrap_or_default().to_string());
    for (row, node) in rows.zip(&status.nodes) {
        let tint = match status.leader.as_ref() {
            Some(leader) if *leader == node.id => Tint::Good,
            _ if !node.up => Tint::Bad,
            _ => Tint::Plain,
        };
        line(tint, row.to_string());
    }
}

/// The bytes that draw lines on a terminal of this size: what does not fit is cut off, what was there before is gone.
pub(super) fn drawn(lines: &[Line], (columns, rows): (u16, u16), colours: bool) -> String {
    let (columns, rows) = (usize::from(columns), usize::from(rows));
    let mut bytes = String::from("\x1b[H");
    for (number, line) in lines.iter().take(rows).enumerate() {
        if number > 0 {
            bytes.push_str("\r\n");
        }
        let code = match line.tint {
            Tint::Plain => "",
            Tint::Bold => "\x1b[1m",
            Tint::Good => "\x1b[32m",
            Tint::Bad => "\x1b[31m",
            Tint::Dim => "\x1b[2m",
        };
        let text: String = line.text.chars().take(columns).map(printable).collect();
        match code {
            "" => bytes.push_str(&text),
            // Bold and dim are no colours.
            code if colours || matches!(line.tint, Tint::Bold | Tint::Dim) => {
                bytes.push_str(&format!("{code}{text}\x1b[0m"));
            }
            _ => bytes.push_str(&text),
        }
        // A row that is full has its cursor on its last character: erasing to the end would take that away.
        if line.text.chars().count() < columns {
            bytes.push_str("\x1b[K");
        }
    }
    bytes.push_str(if lines.len() < rows { "\x1b[J" } else { "" });
    bytes
}

/// What a node says goes to the terminal as text, never as commands to it.
fn printable(char: char) -> char {
    if char.is_control() { ' ' } else { char }
}

#[cfg(test)]
mod tests {
    use super::super::changes::healthy;
    use super::*;

    fn picture() -> Picture {
        Picture { at: "12:00:01".to_string(), status: Some(healthy()), ..Picture::default() }
    }

    fn text(picture: &Picture) -> String {
        picture.lines().iter().map(|line| format!("{:?} {}\n", line.tint, line.text)).collect()
    }

    #[test]
    fn a_healthy_cluster_is_shown_whole() {
        let picture = Picture { entries_per_s: Some(2.25), ..picture() };
        let text = text(&picture);
        for words in [
            "Bold super-node status   blue   12:00:01 UTC",
            "Good leader n1   term 3   commit 7   applied 7   as seen by n1 (leader)",
            "Bold  NODE",
            "Good  n1",
            "Plain  n2",
            "Plain members     3 (3 up, 0 suspect, 0 down, 0 suspended)",
            "Plain interval    5 open, 4 next to settle",
            "Plain ledger      12 records, head 0123456789ab",
            "Plain projection  off",
            "Plain writes      2.2 log entries/s",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        assert!(!text.contains("Bad"), "{text}");
    }

    #[test]
    fn what_is_wrong_stands_out() {
        let mut status = healthy();
        status.leader = None;
        status.nodes[1].up = false;
        status.members.down = 1;
        let silent = vec![("http://127.0.0.1:1".to_string(), "refused".to_string())];
        let picture = Picture { status: Some(status), silent_s: 3, silent, ..picture() };
        let text = text(&picture);
        for words in [
            "Bad leader none",
            "Bad  n2",
            "Bad members",
            "Bad no node answers since 3 s",
            "Bad http://127.0.0.1:1 does not answer: refused",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }

    #[test]
    fn only_the_newest_changes_are_kept() {
        let mut picture = picture();
        picture.note((0..20).map(|number| format!("change {number}")));
        let text = text(&picture);
        assert!(text.contains("change 19") && !text.contains("change 7\n"), "{text}");
        assert!(text.find("change 19") < text.find("change 8\n"), "newest first");
    }

    #[test]
    fn nothing_is_drawn_beyond_the_terminal() {
        let line = |text: &str, tint| Line { tint, text: text.to_string() };
        let lines = [line("abcdef", Tint::Bad), line("x\x1b[2Jy", Tint::Plain), line("third", Tint::Plain)];
        assert_eq!(drawn(&lines, (4, 2), false), "\x1b[Habcd\r\nx [2");
        assert_eq!(
            drawn(&lines[..1], (10, 5), true),
            "\x1b[H\x1b[31mabcdef\x1b[0m\x1b[K\x1b[J",
            "and what was there is gone"
        );
    }
}
