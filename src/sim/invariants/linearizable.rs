//! Linearizability of one register (Herlihy and Wing 1990), decided by the search of Wing and Gong with the memo of
//! Lowe (2017): a set of operations already placed, together with the value they leave, is tried once.
//!
//! Keys are independent, so each is checked alone. Every written value is unique.

use std::collections::BTreeSet;
use std::fmt;

use crate::types::Micros;

/// Most operations on one key in one history: they index the bits of a word.
pub const OPERATIONS_MAX: usize = 128;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A unique value was written; `None`: the key was removed.
    Write(Option<u64>),
    /// This value was read; `None`: the key was absent.
    Read(Option<u64>),
    /// A unique value was written in the place of an expected one. With an unknown outcome it may also have found
    /// another value, and then have done nothing.
    Swap {
        /// The value that it replaces; `None`: the key had to be absent.
        expected: Option<u64>,
        /// The value that it writes.
        new: u64,
    },
    /// Another value than this was found.
    Missed(Option<u64>),
}

impl Action {
    /// The value that it writes, if any.
    pub fn value(&self) -> Option<u64> {
        match self {
            Action::Write(value) => *value,
            Action::Swap { new, .. } => Some(*new),
            Action::Read(_) | Action::Missed(_) => None,
        }
    }

    /// The value whose presence or absence matters to it, if any does.
    fn looks_for(&self) -> Option<Option<u64>> {
        match self {
            Action::Write(_) => None,
            Action::Read(seen) => Some(*seen),
            Action::Swap { expected, .. } | Action::Missed(expected) => Some(*expected),
        }
    }

    /// What it leaves where it finds `value`; `None`: it cannot have found that. `looked_for`: the values that
    /// matter to anybody.
    fn apply(&self, value: Left, looked_for: &BTreeSet<Option<u64>>) -> Option<Left> {
        let leaves = |value| if looked_for.contains(&value) { Left::Value(value) } else { Left::Whatever };
        match self {
            Action::Write(written) => Some(leaves(*written)),
            Action::Read(seen) => (Left::Value(*seen) == value).then_some(value),
            Action::Swap { expected, new } => (Left::Value(*expected) == value).then_some(leaves(Some(*new))),
            Action::Missed(expected) => (Left::Value(*expected) != value).then_some(value),
        }
    }
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// This value; `None`: nothing.
    Value(Option<u64>),
    /// A value that nothing looks for: which one makes no difference.
    Whatever,
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked.
    pub invoked: Micros,
    /// When it was answered; `None`: its outcome is unknown, it may have happened at any time since, or never.
    pub returned: Option<Micros>,
    /// What it did.
    pub action: Action,
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |at: Micros| at.0 as f64 / 1e6;
        write!(out, "{:>11.6} to ", seconds(self.invoked))?;
        match self.returned {
            Some(returned) => write!(out, "{:>11.6}", seconds(returned))?,
            None => write!(out, "    unknown")?,
        }
        write!(out, "  {:?}", self.action)
    }
}

/// Whether the operations can be put into one order that respects real time and in which every read sees the last
/// write before it.
///
/// Two rules keep the search small where many outcomes are unknown; neither loses an order that exists:
///
/// * What only looks is placed as soon as it fits: wherever else it stood, it could stand here.
/// * What has an unknown outcome is placed only where something that may come next needs it there; anywhere else it can
///   come later, or never. Of several that leave the same, one will do: the one that fits in fewest other places.
///
/// # Panics
/// With more than [`OPERATIONS_MAX`] operations.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_MAX, "the clients bound the operations per key");
    // In order of their beginning, so that the search looks at a window and not at everything.
    let mut operations: Vec<&Operation> = operations.iter().collect();
    operations.sort_by_key(|operation| operation.invoked);
    let must: u128 = bits(operations.iter().map(|operation| operation.returned.is_some()));
    let looked_for: BTreeSet<Option<u64>> = operations.iter().filter_map(|o| o.action.looks_for()).collect();
    let mut tried = BTreeSet::new();
    let mut stack = vec![(0_u128, Left::Value(None))];
    while let Some((placed, value)) = stack.pop() {
        if placed & must == must {
            return true;
        }
        if !tried.insert((placed, value)) {
            continue;
        }
        let open = |at: usize| placed & (1 << at) == 0;
        // Nothing may be placed that began after the earliest end of what is still open.
        let horizon =
            operations.iter().enumerate().filter(|(at, _)| open(*at)).filter_map(|(_, o)| o.returned).min();
        let Some(horizon) = horizon else { continue };
        let mut fitting: Vec<(usize, Left)> = operations
            .iter()
            .enumerate()
            .take_while(|(_, operation)| operation.invoked <= horizon)
            .filter(|(at, _)| open(*at))
            .filter_map(|(at, operation)| Some((at, operation.action.apply(value, &looked_for)?)))
            .collect();
        let looks =
            |(at, _): &&(usize, Left)| matches!(operations[*at].action, Action::Read(_) | Action::Missed(_));
        if let Some((at, left)) = fitting.iter().find(looks) {
            stack.push((placed | (1 << at), *left));
            continue;
        }
        let needed = |unknown: usize, left: Left| {
            operations.iter().enumerate().take_while(|(_, next)| next.invoked <= horizon).any(|(at, next)| {
                at != unknown
                    && open(at)
                    && next.action.apply(value, &looked_for).is_none()
                    && next.action.apply(left, &looked_for).is_some()
            })
        };
        // What fits now fits later too, a swap only where its value is found again.
        fitting.sort_by_key(|(at, _)| matches!(operations[*at].action, Action::Write(_)));
        let mut guessed = BTreeSet::new();
        for (at, left) in fitting {
            let known = operations[at].returned.is_some();
            if known || (left != value && guessed.insert(left) && needed(at, left)) {
                stack.push((placed | (1 << at), left));
            }
        }
    }
    false
}

fn bits(flags: impl Iterator<Item = bool>) -> u128 {
    flags.enumerate().fold(0, |word, (at, flag)| word | (u128::from(flag) << at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::dice::Dice;

    fn operation(invoked: u64, returned: Option<u64>, action: Action) -> Operation {
        Operation { invoked: Micros(invoked), returned: returned.map(Micros), action }
    }

    #[test]
    fn histories_that_are_and_are_not() {
        let write = |from, to, value| operation(from, to, Action::Write(Some(value)));
        let remove = |from, to| operation(from, to, Action::Write(None));
        let read = |from, to, value| operation(from, Some(to), Action::Read(value));
        let swap = |from, to, expected, new| operation(from, to, Action::Swap { expected, new });
        let missed = |from, to, expected| operation(from, Some(to), Action::Missed(expected));
        let good = [
            vec![write(0, Some(2), 1), read(1, 3, None), read(4, 5, Some(1))],
            vec![write(0, Some(9), 1), read(1, 2, Some(1)), write(3, Some(4), 2), read(5, 6, Some(2))],
            // Unknown writes may happen late, or never.
            vec![write(0, None, 1), read(1, 2, None), read(3, 4, Some(1))],
            vec![write(0, None, 1), read(1, 2, None)],
            vec![write(0, Some(1), 1), remove(2, Some(3)), read(4, 5, None)],
            vec![write(0, Some(1), 1), swap(2, Some(3), Some(1), 2), read(4, 5, Some(2))],
            vec![write(0, Some(5), 1), missed(1, 2, None), swap(3, Some(4), Some(1), 2)],
            // An unknown swap may have found something else.
            vec![write(0, Some(1), 1), swap(2, None, Some(7), 2), read(4, 5, Some(1))],
        ];
        let bad = [
            // Stale read.
            vec![write(0, Some(1), 1), read(2, 3, None)],
            // A value that went away again.
            vec![write(0, Some(1), 1), write(2, Some(3), 2), read(4, 5, Some(1))],
            // An unknown write that happened and then had not.
            vec![write(0, None, 1), read(1, 2, Some(1)), read(3, 4, None)],
            // A value that nobody wrote.
            vec![read(0, 1, Some(7))],
            // Removed, and still there.
            vec![write(0, Some(1), 1), remove(2, Some(3)), read(4, 5, Some(1))],
            // Two swaps of one value.
            vec![write(0, Some(1), 1), swap(2, Some(5), Some(1), 2), swap(3, Some(6), Some(1), 3)],
            // A swap that missed what was there all the time.
            vec![write(0, Some(1), 1), missed(2, 3, Some(1))],
        ];
        for history in good {
            assert!(is_linearizable(&history), "{history:?}");
        }
        for history in bad {
            assert!(!is_linearizable(&history), "{history:?}");
        }
    }

    /// Tries every order, without any thought.
    fn naive(
        operations: &[Operation],
        every: &BTreeSet<Option<u64>>,
        placed: &mut Vec<usize>,
        value: Left,
    ) -> bool {
        let open: Vec<usize> = (0..operations.len()).filter(|at| !placed.contains(at)).collect();
        if open.iter().all(|at| operations[*at].returned.is_none()) {
            return true;
        }
        open.iter().any(|at| {
            let too_early = open
                .iter()
                .any(|other| operations[*other].returned.is_some_and(|end| end < operations[*at].invoked));
            let Some(left) = operations[*at].action.apply(value, every).filter(|_| !too_early) else {
                return false;
            };
            placed.push(*at);
            let found = naive(operations, every, placed, left);
            placed.pop();
            found
        })
    }

    #[test]
    fn the_search_agrees_with_trying_every_order() {
        let mut verdicts = [0, 0];
        let every: BTreeSet<Option<u64>> = (0..7).map(Some).chain([None]).collect();
        for seed in 0..12_000 {
            let mut dice = Dice::new(seed);
            // Few unknown outcomes, or many.
            let (number_of, known_ppm) = if seed % 2 == 0 { (6, 800_000) } else { (7, 500_000) };
            let operations: Vec<Operation> = (0..number_of)
                .map(|number| {
                    let invoked = dice.below(20);
                    let returned = dice.chance(known_ppm).then(|| invoked + 1 + dice.below(8));
                    let known = dice.chance(700_000).then(|| dice.below(number_of));
                    let action = match dice.below(4) {
                        0 => Action::Write(Some(number)),
                        1 => Action::Swap { expected: known, new: number },
                        2 if returned.is_some() => Action::Missed(known),
                        _ if returned.is_some() => Action::Read(known),
                        _ => Action::Write(None),
                    };
                    operation(invoked, returned, action)
                })
                .collect();
            let verdict = is_linearizable(&operations);
            verdicts[usize::from(verdict)] += 1;
            let expected = naive(&operations, &every, &mut Vec::new(), Left::Value(None));
            assert_eq!(verdict, expected, "{operations:?}");
        }
        assert!(verdicts.iter().all(|count| *count > 100), "{verdicts:?}");
    }
}
