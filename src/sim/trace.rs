//! What is told of a history: lines for people, and a number that stands for all of it.

use crate::types::Micros;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Elections, faults, changes of the configuration, what clients do with a key.
    Main,
    /// Everything else: each frame, each write of a disk.
    Detail,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The world's time.
    pub at: Micros,
    /// How much it matters.
    pub weight: Weight,
    /// The key of the dictionary that it is about, by number; `None`: it is about no key.
    pub key: Option<u64>,
    /// In words.
    pub text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:>11.6}  {}", self.at.0 as f64 / 1e6, self.text)
    }
}

/// The trace of a history. Most histories hold and nobody reads them: then no line is ever written, and only the
/// fingerprint is kept.
#[derive(Debug)]
pub struct Trace {
    lines: Option<Vec<Line>>,
    fingerprint: u64,
}

impl Trace {
    /// `recording`: whether lines are kept.
    pub fn new(recording: bool) -> Trace {
        Trace { lines: recording.then(Vec::new), fingerprint: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds a line, if anybody will read it.
    pub fn tell(&mut self, at: Micros, weight: Weight, key: Option<u64>, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, weight, key, text: text() });
        }
    }

    /// Something happened that these numbers tell apart from other things.
    pub fn mark(&mut self, numbers: &[u64]) {
        for number in numbers {
            // FNV-1a, a word at a time.
            self.fingerprint = (self.fingerprint ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    /// One history, one number.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// All lines; none unless recorded.
    pub fn take_lines(&mut self) -> Vec<Line> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
