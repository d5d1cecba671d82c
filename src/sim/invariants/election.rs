//! Election safety (Raft paper, section 5.2): at most one leader per term. Leader completeness (section 5.4): whoever
//! becomes leader has every committed position in its log.

use std::collections::BTreeMap;

use crate::node::io::Notice;
use crate::raft::{Event, Role};
use crate::types::{Index, NodeId, Term};

use crate::sim::host::Host;

/// Watches elections.
#[derive(Debug, Default)]
pub struct Watch {
    leaders: BTreeMap<Term, NodeId>,
    won: u64,
}

impl Watch {
    /// After every step of a host.
    pub fn after_step(&mut self, host: &Host, committed: Index) -> Result<(), String> {
        let Some(alive) = &host.alive else { return Ok(()) };
        let status = alive.node.raft_status();
        if status.role != Role::Leader {
            return Ok(());
        }
        match self.leaders.get(&status.term) {
            Some(leader) if leader == &host.id => Ok(()),
            Some(leader) => {
                Err(format!("election safety: {leader} and {} both lead term {}", host.id, status.term))
            }
            None => {
                self.leaders.insert(status.term, host.id.clone());
                if status.last < committed {
                    return Err(format!(
                        "leader completeness: {} leads term {} with a log up to {}, but {committed} is committed",
                        host.id, status.term, status.last
                    ));
                }
                Ok(())
            }
        }
    }

    /// Counts won elections, for the vacuity guard.
    pub fn notice(&mut self, notice: &Notice) {
        self.won += u64::from(matches!(notice, Notice::Raft(Event::BecameLeader { .. })));
    }

    /// Elections won so far.
    pub fn won(&self) -> u64 {
        self.won
    }
}
