//! What other nodes have passed on to this one, so that a frame which arrives twice is one request.
//!
//! A connection delivers in order and once, as a rule. A write without an idempotency key must not depend on a rule: it
//! would be done twice. So the sender counts its tries (a new number for each, also when it asks the same node again), and
//! the receiver takes each number once, whether it could do anything about it or not. If it took only those that it could
//! answer, a late second copy of a refused try would still do harm, after its sender has gone elsewhere with it.
//!
//! What is too old to be known is dropped unanswered. Its sender, if it still waits, calls it unknown.

use std::collections::{BTreeSet, VecDeque};

use crate::types::NodeId;

use super::core::REQUESTS_MAX;

/// Lives of other nodes' processes that are remembered; the one that was heard of longest ago goes first.
pub const LIVES_MAX: usize = 32;
/// Numbers that are remembered of one life; the lowest go first, and everything below them counts as heard.
pub const NUMBERS_MAX: usize = REQUESTS_MAX;

#[derive(Debug)]
struct Life {
    node: NodeId,
    /// Drawn by the process when it began, and the number that it counts from.
    life: u64,
    /// Numbers, relative to the first, so that they do not wrap; all of them are at or above `lowest`.
    heard: BTreeSet<u64>,
    lowest: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Heard {
    /// Longest silent first.
    lives: VecDeque<Life>,
}

impl Heard {
    /// Whether the process `life` of `node` sends `number` for the first time. It is the first time only once.
    pub fn first_time(&mut self, node: &NodeId, life: u64, number: u64) -> bool {
        let known = self.lives.iter().rposition(|known| known.life == life && known.node == *node);
        let mut entry = match known.and_then(|at| self.lives.remove(at)) {
            Some(entry) => entry,
            None => Life { node: node.clone(), life, heard: BTreeSet::new(), lowest: 0 },
        };
        let number = number.wrapping_sub(life);
        let first = number >= entry.lowest && entry.heard.insert(number);
        if entry.heard.len() > NUMBERS_MAX
            && let Some(oldest) = entry.heard.pop_first()
        {
            entry.lowest = oldest + 1;
        }
        self.lives.push_back(entry);
        if self.lives.len() > LIVES_MAX {
            self.lives.pop_front();
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    #[test]
    fn a_number_counts_once_in_each_life_of_each_node() {
        let mut heard = Heard::default();
        let (one, two) = (id("n1"), id("n2"));
        // The last: numbers wrap, as they begin at a random place.
        for (node, life) in [(&one, 7), (&two, 7), (&one, 8), (&one, u64::MAX - 1)] {
            for number in [0, 1, 5, 3] {
                assert!(heard.first_time(node, life, life.wrapping_add(number)), "{node} {life} {number}");
                assert!(!heard.first_time(node, life, life.wrapping_add(number)), "{node} {life} {number}");
            }
        }
        assert!(!heard.first_time(&one, 7, 8), "the first life is still known");
    }

    #[test]
    fn what_is_too_old_to_be_known_counts_as_heard() {
        let mut heard = Heard::default();
        let node = id("n1");
        let many = NUMBERS_MAX as u64 + 10;
        // The number 3 is held up on its way, until it is too old.
        for number in (1..=many).filter(|number| *number != 3) {
            assert!(heard.first_time(&node, 0, number));
        }
        assert!(!heard.first_time(&node, 0, 3));
        assert!(!heard.first_time(&node, 0, many), "nor is anything new twice");
        assert!(heard.first_time(&node, 0, many + 1));
    }

    #[test]
    fn lives_are_bounded() {
        let mut heard = Heard::default();
        for life in 0..1_000 {
            assert!(heard.first_time(&id("n1"), life, life));
            assert!(!heard.first_time(&id("n1"), life, life));
        }
        assert_eq!(heard.lives.len(), LIVES_MAX);
    }
}
