//! Who votes (Raft paper, section 6): a configuration is in force from its append until it is truncated; voters change by
//! way of a joint configuration, one change at a time, and only under a leader that has committed in its term.
//!
//! The arithmetic of majorities is written here a second time, and differently: an oracle that asked the core would believe
//! it.

use std::collections::BTreeSet;

use crate::raft::{Configuration, Entry, Payload, Persist, Status};
use crate::types::{Index, NodeId};

use crate::sim::host::Host;

use super::log;

fn more_than_half(of: &BTreeSet<NodeId>, holds: &dyn Fn(&NodeId) -> bool) -> bool {
    let (for_it, against): (Vec<&NodeId>, Vec<&NodeId>) = of.iter().partition(|node| holds(node));
    for_it.len() > against.len()
}

/// Whether those for whom `holds` are a quorum: more than half of the voters, and of the outgoing ones if there are any.
pub fn is_quorum(configuration: &Configuration, holds: &dyn Fn(&NodeId) -> bool) -> bool {
    let halves = [Some(&configuration.voters), configuration.outgoing.as_ref()];
    halves.into_iter().flatten().all(|half| more_than_half(half, holds))
}

/// Which hosts know the founders from a snapshot. They stand in no entry, so whoever joins and replays the log from its
/// beginning hears of them nowhere.
#[derive(Debug, Default)]
pub struct Founded {
    told: BTreeSet<NodeId>,
}

impl Founded {
    /// A node's state was replaced by a snapshot.
    pub fn installed(&mut self, node: &NodeId) {
        self.told.insert(node.clone());
    }

    /// A node has lost everything.
    pub fn forget(&mut self, node: &NodeId) {
        self.told.remove(node);
    }

    fn were_told_to(&self, host: &Host) -> bool {
        self.told.contains(&host.id)
    }
}

fn carried(entry: &Entry) -> Option<(Index, &Configuration)> {
    match &entry.payload {
        Payload::Configuration(configuration) => Some((entry.index, configuration)),
        Payload::Noop | Payload::Command(_) => None,
    }
}

/// The newest configuration in a host's log before `end`, and its place; what the cluster began with if there is none.
fn newest_before(
    founded: &Founded,
    hosts: &[Host],
    host: &Host,
    log: &log::Watch,
    end: Index,
) -> (Index, Configuration) {
    let in_log = host.issued.entries.iter().rev().filter(|entry| entry.index < end).find_map(carried);
    let base = host.issued.base.index;
    if let Some((index, configuration)) = in_log.or_else(|| log.configuration_at(base)) {
        return (index, configuration.clone());
    }
    // A host that joined has nothing to begin with, and no more while it follows the log from its first entry.
    if base == Index(0) || !founded.were_told_to(host) {
        return (Index(0), host.settings.bootstrap());
    }
    let founders = hosts.iter().map(|host| host.settings.bootstrap());
    (
        Index(0),
        founders.filter(|founders| !founders.is_empty()).max_by_key(|f| f.voters.len()).unwrap_or_default(),
    )
}

/// After every step of a host: it acts on the newest configuration of its log.
pub fn is_in_force(
    founded: &Founded,
    hosts: &[Host],
    host: &Host,
    status: &Status,
    log: &log::Watch,
) -> Result<(), String> {
    let (index, mut expected) = newest_before(founded, hosts, host, log, Index(u64::MAX));
    // What its log had forgotten stood in the state that it lost.
    let lacks_state = host.alive.as_ref().is_some_and(|alive| alive.node.lacks_state());
    if lacks_state && host.issued.entries.iter().find_map(carried).is_none() {
        expected = Configuration::default();
    }
    if status.configuration == expected {
        return Ok(());
    }
    Err(format!(
        "configuration in force: {} acts on {}, its log says {} at {index}",
        host.id,
        words(&status.configuration),
        words(&expected)
    ))
}

/// A host hands a batch to its disk, which has not recorded the entries yet.
pub fn issued(
    founded: &Founded,
    hosts: &[Host],
    host: &Host,
    batch: &Persist,
    log: &log::Watch,
) -> Result<(), String> {
    let Some(first) = batch.entries.first() else { return Ok(()) };
    let mut before: Option<(Index, Configuration)> = None;
    for entry in &batch.entries {
        let Some((index, configuration)) = carried(entry) else { continue };
        let (place, previous) = match before.take() {
            Some(before) => before,
            None => newest_before(founded, hosts, host, log, first.index),
        };
        if !previous.voters.is_empty() && !leads_to(&previous, configuration) {
            let (previous, next) = (words(&previous), words(configuration));
            return Err(format!("joint consensus: {} goes from {previous} to {next} at {index}", host.id));
        }
        appended(host, entry, place, log)?;
        before = Some((index, configuration.clone()));
    }
    Ok(())
}

/// Whether one may follow the other.
fn leads_to(before: &Configuration, after: &Configuration) -> bool {
    let same = before.voters == after.voters;
    match (&before.outgoing, &after.outgoing) {
        (None, None) => same,
        (None, Some(outgoing)) => *outgoing == before.voters,
        (Some(_), None) => same,
        (Some(_), Some(_)) => false,
    }
}

/// A leader begins or ends a change; the configuration before stands at `place`.
fn appended(host: &Host, entry: &Entry, place: Index, log: &log::Watch) -> Result<(), String> {
    let Some(alive) = &host.alive else { return Ok(()) };
    let status = alive.node.raft_status();
    if status.leader.as_ref() != Some(&host.id) || status.term != entry.term {
        return Ok(());
    }
    if status.commit < place {
        return Err(format!(
            "one change at a time: {} changes the configuration at {}, and the one at {place} is not committed",
            host.id, entry.index
        ));
    }
    // What this very step committed is not on record yet: the host's own log tells its term.
    let committed = log.committed_term(status.commit).or_else(|| host.issued.term_at(status.commit));
    if committed.is_none_or(|term| term < entry.term) {
        return Err(format!(
            "no change before the first commit: {} changes the configuration at {} in term {}, of which nothing is committed",
            host.id, entry.index, entry.term
        ));
    }
    Ok(())
}

fn words(configuration: &Configuration) -> String {
    let names = |nodes: &BTreeSet<NodeId>| {
        let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
        names.join("+")
    };
    let mut words = names(&configuration.voters);
    if let Some(outgoing) = &configuration.outgoing {
        words += &format!(" (from {})", names(outgoing));
    }
    if !configuration.learners.is_empty() {
        words += &format!(" with learners {}", names(&configuration.learners));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn a_quorum_is_more_than_half_of_both_halves() {
        let mut configuration =
            Configuration { voters: set(&["a", "b", "c", "d"]), ..Configuration::default() };
        let quorum = |configuration: &Configuration, names: &[&str]| {
            is_quorum(configuration, &|node| names.contains(&node.as_str()))
        };
        assert!(quorum(&configuration, &["a", "b", "c"]));
        assert!(!quorum(&configuration, &["a", "b"]) && !quorum(&configuration, &["a", "b", "x", "y"]));
        configuration.outgoing = Some(set(&["a", "x", "y"]));
        assert!(quorum(&configuration, &["a", "b", "c", "x"]));
        assert!(!quorum(&configuration, &["a", "b", "c"]) && !quorum(&configuration, &["a", "x", "y"]));
        assert!(!quorum(&Configuration::default(), &["a"]), "nobody decides for nobody");
    }

    #[test]
    fn voters_change_by_way_of_a_joint_configuration() {
        let plain = |names| Configuration { voters: set(names), ..Configuration::default() };
        let joint = |from, to| Configuration { outgoing: Some(set(from)), ..plain(to) };
        let (old, new) = (plain(&["a"]), plain(&["a", "b"]));
        let between = joint(&["a"], &["a", "b"]);
        for (before, after, legal) in [
            (&old, &old, true),
            (&old, &new, false),
            (&old, &between, true),
            (&between, &new, true),
            (&between, &old, false),
            (&between, &between, false),
            (&new, &between, false),
        ] {
            assert_eq!(leads_to(before, after), legal, "{} to {}", words(before), words(after));
        }
    }
}
