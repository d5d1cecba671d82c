//! Log matching (Raft paper, section 5.3), leaders only append, state-machine safety (section 5.4.3): a committed entry
//! never changes, on any node, and is on the disks of a quorum of the configuration in force. And the counters of a node
//! only move forward, in their order: base <= flushed <= applied <= commit <= last.

use std::collections::BTreeMap;

use crate::raft::{Configuration, Entry, Payload, Persist, Recovered, Role, Status};
use crate::types::{Index, NodeId, Term};

use crate::sim::host::Host;

use super::configuration::is_quorum;

/// What is known of an entry wherever it is seen: its predecessor's term, and what it says.
#[derive(Debug)]
struct Known {
    before: Option<Term>,
    payload: Payload,
}

/// What a node's counters were when it was last seen.
#[derive(Debug)]
struct Seen {
    life: u64,
    term: Term,
    commit: Index,
    applied: Index,
}

/// Watches logs.
#[derive(Debug, Default)]
pub struct Watch {
    /// Every entry that any node ever held. Two logs that agree on a place's term agree on all before it, because
    /// each place's entry leads to one predecessor.
    entries: BTreeMap<(Index, Term), Known>,
    committed: BTreeMap<Index, Entry>,
    /// The configurations among them.
    configurations: BTreeMap<Index, Configuration>,
    seen: BTreeMap<NodeId, Seen>,
}

impl Watch {
    /// A node hands something to its disk.
    pub fn issued(&mut self, host: &Host, batch: &Persist) -> Result<(), String> {
        let before = host.acknowledged.hard_state.term;
        if let Some(hard_state) = batch.hard_state.as_ref().filter(|after| after.term < before) {
            let (id, after) = (&host.id, hard_state.term);
            return Err(format!("terms never go back: {id} stores term {after} after {before}"));
        }
        let log = &host.issued;
        let leads = host.alive.as_ref().and_then(|alive| {
            let (term, leader) = alive.node.term_and_leader();
            (leader == Some(&host.id)).then_some(term)
        });
        for (at, entry) in batch.entries.iter().enumerate() {
            let before = match at.checked_sub(1) {
                Some(before) => Some(batch.entries[before].term),
                None => log.term_at(Index(entry.index.0.saturating_sub(1))),
            };
            self.matching(&host.id, entry, before)?;
            let held = log.term_at(entry.index);
            if held.is_some() && held == leads {
                let (id, index) = (&host.id, entry.index);
                return Err(format!("leader append-only: {id} replaces its own entry {index}"));
            }
        }
        self.replaces(host, batch)
    }

    /// What a batch removes from a log was not committed.
    fn replaces(&self, host: &Host, batch: &Persist) -> Result<(), String> {
        let Some(first) = batch.entries.first() else { return Ok(()) };
        let removed = first.index.0..=host.issued.last().0;
        for index in removed.map(Index) {
            let held = host.issued.term_at(index);
            let committed = self.committed.get(&index).map(|entry| entry.term);
            if held.is_some() && held == committed {
                return Err(format!(
                    "committed entries never change: {} removes {index} of term {held:?}, which is committed, by entries \
                     from {} of term {} on",
                    host.id, first.index, first.term
                ));
            }
        }
        Ok(())
    }

    fn matching(&mut self, node: &NodeId, entry: &Entry, before: Option<Term>) -> Result<(), String> {
        match self.entries.get(&(entry.index, entry.term)) {
            None => {
                let known = Known { before, payload: entry.payload.clone() };
                self.entries.insert((entry.index, entry.term), known);
                Ok(())
            }
            // A predecessor that one of the two has forgotten was committed, and is compared as such.
            Some(known)
                if known.payload == entry.payload
                    && (before.is_none() || known.before.is_none() || known.before == before) =>
            {
                Ok(())
            }
            Some(known) => Err(format!(
                "log matching: {node} holds another {} of term {}, or another predecessor ({before:?}, not {:?})",
                entry.index, entry.term, known.before
            )),
        }
    }

    /// A node holds these entries committed, and lets them be applied.
    pub fn committed(&mut self, node: &NodeId, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            match self.committed.get(&entry.index) {
                Some(known) if known == entry => {}
                Some(known) => {
                    return Err(format!(
                        "committed entries never change: {node} applies term {} at {}, another node committed term {}",
                        entry.term, entry.index, known.term
                    ));
                }
                None => {
                    return Err(format!(
                        "committed on a quorum: {node} applies {} of term {}, which nobody committed",
                        entry.index, entry.term
                    ));
                }
            }
        }
        Ok(())
    }

    /// After every step of a host.
    pub fn after_step(
        &mut self,
        hosts: &[Host],
        host: &Host,
        status: &Status,
        before: &Configuration,
    ) -> Result<(), String> {
        let Some(alive) = &host.alive else { return Ok(()) };
        let applied = alive.node.applied_index();
        // The node hears a little later what the apply thread has done.
        let state = alive.applier.standing().applied.index;
        let in_order = if alive.node.lacks_state() {
            // Nothing is applied, and the state is empty or just replaced by one that the log can bring up.
            applied == Index(0) && (state == Index(0) || state >= status.base.index)
        } else {
            status.base.index <= host.flushed
                && host.flushed <= state
                && status.base.index <= applied
                && applied <= status.commit.min(state)
        } && status.commit <= status.last;
        if !in_order {
            return Err(format!(
                "order of counters: {} has base {} flushed {} state {state} applied {applied} commit {} last {}",
                host.id, status.base.index, host.flushed, status.commit, status.last
            ));
        }
        let now = Seen { life: host.life, term: status.term, commit: status.commit, applied };
        let known = self.last_committed();
        if status.commit > known {
            self.commits(hosts, host, status, before, known)?;
        }
        let Some(seen) = self.seen.get_mut(&host.id) else {
            self.seen.insert(host.id.clone(), now);
            return Ok(());
        };
        // What was not durable yet may be gone after a crash (`durability` looks at what was).
        let back = seen.life == now.life
            && (seen.term > now.term || seen.commit > now.commit || seen.applied > now.applied);
        if back {
            return Err(format!("counters never go back: {} was {seen:?}, is {now:?}", host.id));
        }
        *seen = now;
        Ok(())
    }

    /// A node is the first to call entries committed: they are on the disks of a quorum, by the configuration in force.
    fn commits(
        &mut self,
        hosts: &[Host],
        host: &Host,
        status: &Status,
        before: &Configuration,
        known: Index,
    ) -> Result<(), String> {
        for index in known.0 + 1..=status.commit.0 {
            let Some(entry) = host.issued.entry(Index(index)) else {
                return Err(format!(
                    "committed on a quorum: {} calls {index} committed and does not hold it",
                    host.id
                ));
            };
            let has_it = |node: &NodeId| {
                let held = |other: &Host| holds(&other.acknowledged, entry) || holds(&other.lost_log, entry);
                hosts.iter().any(|other| other.id == *node && held(other))
            };
            // The step may have ended a configuration by committing it, and begun the next.
            if !is_quorum(&status.configuration, &has_it) && !is_quorum(before, &has_it) {
                let holders: Vec<&NodeId> =
                    hosts.iter().map(|other| &other.id).filter(|node| has_it(node)).collect();
                return Err(format!(
                    "committed on a quorum: {} calls {index} of term {} committed, which is on the disks of {holders:?} \
                     only, in the configuration {:?} (outgoing {:?})",
                    host.id, entry.term, status.configuration.voters, status.configuration.outgoing
                ));
            }
            // Entries of earlier terms are committed along with one of its own, or not at all (section 5.4.2, figure 8).
            if status.role == Role::Leader && index == status.commit.0 && entry.term != status.term {
                return Err(format!(
                    "committed in its own term: {} leads term {} and commits {index} of term {}",
                    host.id, status.term, entry.term
                ));
            }
            if let Payload::Configuration(configuration) = &entry.payload {
                self.configurations.insert(Index(index), configuration.clone());
            }
            self.committed.insert(Index(index), entry.clone());
        }
        Ok(())
    }

    /// Leader completeness: a node that begins to lead holds all that is committed.
    pub fn is_complete(&self, host: &Host, term: Term) -> Result<(), String> {
        let log = &host.issued;
        let lacks =
            |entry: &&Entry| entry.index > log.base.index && log.term_at(entry.index) != Some(entry.term);
        match self.committed.values().find(lacks) {
            None => Ok(()),
            Some(entry) => Err(format!(
                "leader completeness: {} leads term {term} without the committed {} of term {}; its log ends at {}",
                host.id,
                entry.index,
                entry.term,
                log.last()
            )),
        }
    }

    /// The last position that any node has committed.
    pub fn last_committed(&self) -> Index {
        self.committed.last_key_value().map_or(Index(0), |(index, _)| *index)
    }

    /// The configuration that was committed last.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configurations.last_key_value().map(|(_, configuration)| configuration)
    }

    /// The committed configuration as of an index, and its place.
    pub fn configuration_at(&self, index: Index) -> Option<(Index, &Configuration)> {
        self.configurations.range(..=index).next_back().map(|(place, configuration)| (*place, configuration))
    }

    /// The term of what is committed at an index.
    pub fn committed_term(&self, index: Index) -> Option<Term> {
        self.committed.get(&index).map(|entry| entry.term)
    }

    /// A node has lost everything and knows nothing of its former self.
    pub fn forget(&mut self, node: &NodeId) {
        self.seen.remove(node);
    }
}

fn holds(disk: &Recovered, entry: &Entry) -> bool {
    // Only what is committed is forgotten.
    entry.index <= disk.base.index || disk.term_at(entry.index) == Some(entry.term)
}
