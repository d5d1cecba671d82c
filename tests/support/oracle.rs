//! What clients were told, and whether one correct store could have told them that.
//!
//! Every key is a register that is only ever written unique values. A read therefore names the write that it saw, and
//! linearizability (Herlihy and Wing 1990), which is hard to decide in general, becomes easy (Gibbons and Korach 1997):
//! a write and the reads that saw it form a cluster, each cluster spans a zone of time, and a history is linearizable
//! exactly if no two zones force each other to come first. That takes sorting, so whole runs are judged, not samples.
//! The store also numbers its writes; the numbers must tell the same story as the clock.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fmt;

/// Microseconds since the load began; never 0, which is before everything.
pub type Micros = u64;

/// What became of a write, as its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened and has this revision.
    Acknowledged { revision: u64 },
    /// It did not happen and never will.
    NotApplied,
    /// Nobody said; it may have happened, or may still.
    Unknown,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub value: u64,
    pub revision: u64,
}

/// What was asked, and the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A unique value was written, if the key still had the expected revision (`None`: whatever it had).
    Write { value: u64, expected: Option<u64>, outcome: Outcome },
    /// A linearizable read; `None`: the key was absent. Reads that were not answered are not recorded.
    Read(Option<Seen>),
}

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub key: String,
    /// The node that was asked.
    pub node: String,
    /// When it was asked.
    pub invoked: Micros,
    /// When the client heard the answer, or stopped waiting for one.
    pub returned: Micros,
    pub action: Action,
}

impl Operation {
    /// When it had certainly happened; unanswered writes may happen at any later time.
    fn end(&self) -> Option<Micros> {
        match self.action {
            Action::Write { outcome: Outcome::Acknowledged { .. }, .. } | Action::Read(_) => {
                Some(self.returned)
            }
            Action::Write { .. } => None,
        }
    }

    /// The revision that it made or saw.
    fn revision(&self) -> Option<u64> {
        match self.action {
            Action::Write { outcome: Outcome::Acknowledged { revision }, .. } => Some(revision),
            Action::Write { .. } => None,
            Action::Read(seen) => Some(seen.map_or(0, |seen| seen.revision)),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { key, node, invoked, returned, action } = self;
        let ms = |at: &Micros| format!("{}.{:03}", at / 1000, at % 1000);
        write!(f, "  {} to {} ms, through {node}: ", ms(invoked), ms(returned))?;
        match action {
            Action::Read(None) => write!(f, "{key} is absent"),
            Action::Read(Some(seen)) => write!(f, "{key} is {} (revision {})", seen.value, seen.revision),
            Action::Write { value, expected, outcome } => {
                write!(f, "{key} := {value}")?;
                if let Some(expected) = expected {
                    write!(f, " if its revision is {expected}")?;
                }
                match outcome {
                    Outcome::Acknowledged { revision } => write!(f, ", acknowledged as revision {revision}"),
                    Outcome::NotApplied => write!(f, ", said not to be applied"),
                    Outcome::Unknown => write!(f, ", outcome unknown"),
                }
            }
        }
    }
}

/// A rule that the answers break, with the operations that show it.
fn complain<'a>(rule: &str, shown: impl IntoIterator<Item = &'a Operation>) -> Result<(), String> {
    let lines: Vec<String> = shown.into_iter().map(ToString::to_string).collect();
    Err(format!("{rule}:\n{}", lines.join("\n")))
}

/// Judges a whole history.
///
/// # Errors
/// The first broken rule, with the operations that show it.
pub fn judge(operations: &[Operation]) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for history in keys.values() {
        sources(history)?;
        linearizable(history)?;
        revisions_name_values(history)?;
        revisions_follow_time(history)?;
        nothing_slips_between(history)?;
    }
    // Revisions count the writes of the whole store, so they order writes of different keys too.
    let writes: Vec<&Operation> = operations
        .iter()
        .filter(|operation| {
            matches!(operation.action, Action::Write { .. }) && operation.revision().is_some()
        })
        .collect();
    revisions_follow_time(&writes)
}

/// Every value that was read had been written, and not by a write that was said not to have happened.
fn sources(history: &[&Operation]) -> Result<(), String> {
    let mut writes = BTreeMap::new();
    for operation in history {
        if let Action::Write { value, outcome, .. } = operation.action {
            let before = writes.insert(value, (*operation, outcome));
            assert!(before.is_none(), "the load writes unique values");
        }
    }
    for read in history {
        let Action::Read(Some(seen)) = read.action else { continue };
        match writes.get(&seen.value) {
            None => complain("a value that nobody wrote", [*read])?,
            Some((write, Outcome::NotApplied)) => {
                complain("a write that was said not to be applied was", [*write, *read])?;
            }
            Some((write, _)) if read.returned < write.invoked => {
                complain("a value was read before it was written", [*write, *read])?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A write and the reads that saw it. It must come before another cluster when anything of it ended before anything
/// of the other began.
struct Zone<'a> {
    /// When the first of its operations had ended. `None`: none has.
    ended: Option<(Micros, Option<&'a Operation>)>,
    /// When the last of its operations began.
    began: (Micros, Option<&'a Operation>),
}

impl<'a> Zone<'a> {
    /// The state before the first write: it had "ended" before everything.
    fn absent() -> Zone<'a> {
        Zone { ended: Some((0, None)), began: (0, None) }
    }

    fn none() -> Zone<'a> {
        Zone { ended: None, began: (0, None) }
    }

    fn add(&mut self, operation: &'a Operation) {
        if let Some(end) = operation.end()
            && self.ended.is_none_or(|(known, _)| end < known)
        {
            self.ended = Some((end, Some(operation)));
        }
        if operation.invoked > self.began.0 {
            self.began = (operation.invoked, Some(operation));
        }
    }

    fn ended_at(&self) -> Micros {
        self.ended.map_or(Micros::MAX, |(at, _)| at)
    }

    /// Whether the zone is forward (Gibbons and Korach): part of it had ended before another part began, so that
    /// nothing else fits between the two.
    fn is_forward(&self) -> bool {
        self.ended_at() < self.began.0
    }

    /// Whether each must come before the other.
    fn contradicts(&self, other: &Zone<'_>) -> bool {
        self.ended_at() < other.began.0 && other.ended_at() < self.began.0
    }

    fn shown(&self) -> impl Iterator<Item = &'a Operation> + use<'a> {
        self.ended.and_then(|(_, operation)| operation).into_iter().chain(self.began.1)
    }
}

/// Whether the operations on one key fit into one order that respects real time and in which every read sees the last
/// write before it. The sources of the reads are known to be right.
///
/// # Errors
/// Two values whose operations force each to come before the other.
pub fn linearizable(history: &[&Operation]) -> Result<(), String> {
    let mut zones: BTreeMap<Option<u64>, Zone<'_>> = BTreeMap::from([(None, Zone::absent())]);
    for operation in history {
        let value = match operation.action {
            Action::Write { outcome: Outcome::NotApplied, .. } => continue,
            Action::Write { value, .. } => Some(value),
            Action::Read(seen) => seen.map(|seen| seen.value),
        };
        zones.entry(value).or_insert_with(Zone::none).add(operation);
    }
    let rule = "not linearizable: each of these two values must have come before the other";
    let (mut forward, backward): (Vec<_>, Vec<_>) = zones.into_values().partition(Zone::is_forward);
    forward.sort_by_key(Zone::ended_at);
    for pair in forward.windows(2) {
        if pair[0].contradicts(&pair[1]) {
            complain(rule, pair[0].shown().chain(pair[1].shown()))?;
        }
    }
    // Forward zones do not overlap, so only the last that ended before the other's beginning can reach beyond its end.
    // One whose write is unknown and was never seen has no end: it contradicts nothing, it need not have happened.
    for zone in backward {
        let before = forward.partition_point(|other| other.ended_at() < zone.began.0);
        if let Some(other) = before.checked_sub(1).map(|at| &forward[at])
            && zone.contradicts(other)
        {
            complain(rule, other.shown().chain(zone.shown()))?;
        }
    }
    Ok(())
}

/// One revision is one value, and one value is one revision: a write that happened twice shows here.
fn revisions_name_values(history: &[&Operation]) -> Result<(), String> {
    let mut by_revision: BTreeMap<u64, (u64, &Operation)> = BTreeMap::new();
    let mut by_value: BTreeMap<u64, (u64, &Operation)> = BTreeMap::new();
    for operation in history {
        let (value, revision) = match operation.action {
            Action::Write { value, outcome: Outcome::Acknowledged { revision }, .. } => (value, revision),
            Action::Read(Some(seen)) => (seen.value, seen.revision),
            Action::Write { .. } | Action::Read(None) => continue,
        };
        let (known, first) = *by_revision.entry(revision).or_insert((value, operation));
        if known != value {
            complain("one revision, two values", [first, *operation])?;
        }
        let (known, first) = *by_value.entry(value).or_insert((revision, operation));
        if known != revision {
            complain("one write, two revisions", [first, *operation])?;
        }
    }
    Ok(())
}

/// Whoever asks after an answer was given sees at least its revision, and writes a later one.
fn revisions_follow_time(history: &[&Operation]) -> Result<(), String> {
    let known = |operation: &&Operation| operation.revision().is_some();
    let mut by_end: Vec<&Operation> = history.iter().copied().filter(known).collect();
    let mut by_begin = by_end.clone();
    by_end.sort_by_key(|operation| operation.returned);
    by_begin.sort_by_key(|operation| operation.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in by_begin {
        while let Some(before) = ended.next_if(|before| before.returned < operation.invoked) {
            if newest.is_none_or(|newest| before.revision() > newest.revision()) {
                newest = Some(before);
            }
        }
        let Some(newest) = newest else { continue };
        let right = match operation.action {
            Action::Write { .. } => operation.revision() > newest.revision(),
            Action::Read(_) => operation.revision() >= newest.revision(),
        };
        if !right {
            complain("a revision went back", [newest, operation])?;
        }
    }
    Ok(())
}

/// Between the revision that a write demanded and its own, nothing was written to the key: no update is lost.
fn nothing_slips_between(history: &[&Operation]) -> Result<(), String> {
    let by_revision: BTreeMap<u64, &Operation> = history
        .iter()
        .filter_map(|operation| operation.revision().map(|revision| (revision, *operation)))
        .collect();
    for operation in history {
        let Action::Write { expected: Some(expected), outcome: Outcome::Acknowledged { revision }, .. } =
            operation.action
        else {
            continue;
        };
        if expected >= revision {
            complain("a guarded write is not newer than what it replaced", [*operation])?;
        }
        if let Some((_, between)) = by_revision.range(expected + 1..revision).next() {
            complain("a guarded write has overwritten what it had not seen", [*between, *operation])?;
        }
    }
    Ok(())
}

/// What a node holds at the end: key to value and revision.
pub type Content = BTreeMap<String, Seen>;

/// Compares the history with what a node holds at the end, when nobody writes any more.
///
/// # Errors
/// An acknowledged write that is gone, or one that is there although it was said not to be applied.
pub fn judge_content(operations: &[Operation], node: &str, content: &Content) -> Result<(), String> {
    let mut newest: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in operations {
        let Action::Write { value, outcome, .. } = operation.action else { continue };
        let held = content.get(&operation.key);
        match outcome {
            Outcome::NotApplied if held.is_some_and(|held| held.value == value) => {
                complain(&format!("{node} holds a write that was said not to be applied"), [operation])?;
            }
            Outcome::Acknowledged { .. } => {
                let known = newest.entry(&operation.key).or_insert(operation);
                if operation.revision() > known.revision() {
                    *known = operation;
                }
            }
            Outcome::NotApplied | Outcome::Unknown => {}
        }
    }
    for (key, write) in newest {
        let Some(revision) = write.revision() else { continue };
        match content.get(key) {
            None => complain(&format!("{node} has lost an acknowledged write"), [write])?,
            Some(held) if held.revision < revision => {
                complain(&format!("{node} still holds {} for {key}", held.value), [write])?;
            }
            Some(held) if held.revision == revision => {
                let Action::Write { value, .. } = write.action else { continue };
                if held.value != value {
                    complain(&format!("{node} holds {} for {key}", held.value), [write])?;
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}
