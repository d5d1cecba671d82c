//! Linearizability of one register (Herlihy and Wing 1990), decided by the search of Wing and Gong with the memo of
//! Lowe (2017): a set of operations already placed, together with the value they leave, is tried once.
//!
//! Keys are independent, so each is checked alone. Every written value is unique.

use std::collections::BTreeSet;

use crate::types::Micros;

/// Most operations on one key in one history: they index the bits of a word.
pub const OPERATIONS_MAX: usize = 128;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A unique value was written.
    Write(u64),
    /// This value was read; `None`: the key was absent.
    Read(Option<u64>),
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

/// Whether the operations can be put into one order that respects real time and in which every read sees the last
/// write before it.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_MAX, "the clients bound the operations per key");
    let must: u128 = bits(operations.iter().map(|operation| operation.returned.is_some()));
    let mut tried = BTreeSet::new();
    let mut stack = vec![(0_u128, None)];
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
        for (at, operation) in operations.iter().enumerate() {
            if !open(at) || horizon.is_some_and(|horizon| operation.invoked > horizon) {
                continue;
            }
            match operation.action {
                Action::Write(written) => stack.push((placed | (1 << at), Some(written))),
                Action::Read(seen) if seen == value => stack.push((placed | (1 << at), value)),
                Action::Read(_) => {}
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

    fn operation(invoked: u64, returned: Option<u64>, action: Action) -> Operation {
        Operation { invoked: Micros(invoked), returned: returned.map(Micros), action }
    }

    #[test]
    fn histories_that_are_and_are_not() {
        let write = |from, to, value| operation(from, to, Action::Write(value));
        let read = |from, to, value| operation(from, Some(to), Action::Read(value));
        let good = [
            vec![write(0, Some(2), 1), read(1, 3, None), read(4, 5, Some(1))],
            vec![write(0, Some(9), 1), read(1, 2, Some(1)), write(3, Some(4), 2), read(5, 6, Some(2))],
            // Unknown writes may happen late, or never.
            vec![write(0, None, 1), read(1, 2, None), read(3, 4, Some(1))],
            vec![write(0, None, 1), read(1, 2, None)],
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
        ];
        for history in good {
            assert!(is_linearizable(&history), "{history:?}");
        }
        for history in bad {
            assert!(!is_linearizable(&history), "{history:?}");
        }
    }
}
