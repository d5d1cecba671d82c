//! State-machine safety (Raft paper, section 5.4.3): a committed entry never changes, on any node. And the counters of
//! a node only move forward, in their order: base <= applied <= commit <= last.

use std::collections::BTreeMap;

use crate::raft::Entry;
use crate::types::{Index, NodeId, Term};

use crate::sim::host::Host;

/// Watches logs.
#[derive(Debug, Default)]
pub struct Watch {
    committed: BTreeMap<Index, Entry>,
    /// Per node: life, term, commit, applied as last seen.
    seen: BTreeMap<NodeId, (u64, Term, Index, Index)>,
}

impl Watch {
    /// A node holds these entries committed.
    pub fn committed(&mut self, node: &NodeId, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            match self.committed.get(&entry.index) {
                Some(known) if known != entry => {
                    return Err(format!(
                        "committed entries never change: {node} commits term {} at {}, another node committed term {}",
                        entry.term, entry.index, known.term
                    ));
                }
                Some(_) => {}
                None => {
                    self.committed.insert(entry.index, entry.clone());
                }
            }
        }
        Ok(())
    }

    /// After every step of a host.
    pub fn after_step(&mut self, host: &Host) -> Result<(), String> {
        let Some(alive) = &host.alive else { return Ok(()) };
        let status = alive.node.raft_status();
        let applied = alive.node.applied_index();
        let in_order =
            status.base.index <= applied && applied <= status.commit && status.commit <= status.last;
        if !in_order {
            return Err(format!(
                "order of counters on {}: base {} applied {applied} commit {} last {}",
                host.id, status.base.index, status.commit, status.last
            ));
        }
        let now = (host.life, status.term, status.commit, applied);
        if let Some(before) = self.seen.insert(host.id.clone(), now)
            && before.0 == now.0
            && (before.1 > now.1 || before.2 > now.2 || before.3 > now.3)
        {
            return Err(format!(
                "counters of {} went back: (life, term, commit, applied) {before:?} to {now:?}",
                host.id
            ));
        }
        Ok(())
    }

    /// The last position that any node has committed.
    pub fn last_committed(&self) -> Index {
        self.committed.last_key_value().map_or(Index(0), |(index, _)| *index)
    }
}
