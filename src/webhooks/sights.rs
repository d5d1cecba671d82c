//! What this node saw, and the ledger does not know: members that fall silent, and its own troubles.
//!
//! Fed from the node's event stream. Bounded: when a receiver is away for long, the oldest is dropped and counted. While
//! another node leads, only who is silent is kept in mind; a node that becomes leader tells that anew, since its predecessor
//! may not have come to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::ledger::records::Genesis;
use crate::node::events::NodeEvent;
use crate::types::{IntervalId, UnixMillis};

use super::kinds::Origin;
use super::{Kind, News};

/// Most news that waits for one receiver.
pub const WAITING_MAX: usize = 1_000;

/// Something seen, before it has an id.
#[derive(Debug, Clone, PartialEq)]
struct Sight {
    kind: Kind,
    about: String,
    at: UnixMillis,
    data: Value,
}

/// See the module's head. Invariant: at most [`WAITING_MAX`] wait.
#[derive(Debug, Default)]
pub struct Sights {
    kinds: BTreeSet<Kind>,
    leading: bool,
    /// What waits, oldest first, each with a number.
    waiting: VecDeque<(u64, Sight)>,
    numbered: u64,
    /// Who is silent: what was seen of it last.
    silent: BTreeMap<String, Sight>,
    dropped: u64,
}

impl Sights {
    /// Nothing seen; of these kinds something may be told.
    pub fn new(kinds: BTreeSet<Kind>) -> Sights {
        Sights { kinds, ..Sights::default() }
    }

    /// Takes an event in. `interval`: the one that is open here.
    pub fn see(&mut self, event: &NodeEvent, node: &str, interval: IntervalId) {
        let Some(sight) = sight(event, node, interval) else { return };
        if sight.kind.origin() == Origin::LeaderSight {
            let member = event.data["member"].as_str().unwrap_or_default().to_string();
            if sight.kind == Kind::Up {
                self.silent.remove(&member);
            } else {
                self.silent.insert(member, sight.clone());
            }
            if !self.leading {
                return;
            }
        }
        self.wait(sight);
    }

    /// Whether this node leads now. A new leader tells who is silent; who leads no more leaves that to the next.
    pub fn lead(&mut self, leading: bool) {
        let before = std::mem::replace(&mut self.leading, leading);
        if leading && !before {
            let silent: Vec<Sight> = self.silent.values().cloned().collect();
            silent.into_iter().for_each(|sight| self.wait(sight));
        }
        if !leading {
            self.waiting.retain(|(_, sight)| sight.kind.origin() == Origin::OwnSight);
        }
    }

    fn wait(&mut self, sight: Sight) {
        if !self.kinds.contains(&sight.kind) {
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.numbered += 1;
        self.waiting.push_back((self.numbered, sight));
    }

    /// The oldest that waits, with its number.
    pub fn first(&self, genesis: &Genesis) -> Option<(u64, News)> {
        let (number, sight) = self.waiting.front()?;
        Some((*number, News::new(genesis, sight.kind, &sight.about, sight.at, sight.data.clone())))
    }

    /// That one is told, or given up.
    pub fn done(&mut self, number: u64) {
        self.waiting.retain(|(known, _)| *known != number);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// What an event means to receivers. A member is named with the interval in which its silence was seen: two nodes that saw
/// the same in one interval give it the same id.
fn sight(event: &NodeEvent, node: &str, interval: IntervalId) -> Option<Sight> {
    let kind = match event.kind.as_str() {
        "member_suspect" => Kind::Suspected,
        "member_down" => Kind::Down,
        "member_up" => Kind::Up,
        "chain_mismatch" => Kind::ChainMismatch,
        "disk_full" | "disk_room" | "disk_degraded" | "disk_recovered" | "scrub_damage" => Kind::Disk,
        _ => return None,
    };
    let at = event.at;
    Some(match kind.origin() {
        Origin::LeaderSight => {
            let member = event.data["member"].as_str()?;
            let data = json!({
                "member": member, "interval": interval, "misses": event.data["misses"], "seen_by": node,
                "message": event.message,
            });
            Sight { kind, about: format!("{interval}-{member}"), at, data }
        }
        _ => {
            let data = json!({
                "node": node, "event": event.kind, "message": event.message, "facts": event.data,
            });
            Sight { kind, about: format!("{node}-{}-{}", event.kind, at.0), at, data }
        }
    })
}
