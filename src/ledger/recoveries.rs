//! The record of what operators did to the cluster from outside: a new cluster forced from one survivor, a restored backup.
//!
//! Both may lose what was acknowledged, so both leave a record that nobody can overlook later, and both give the cluster
//! another identity: the nodes that were left behind are refused from then on, and cannot mix their log with this one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::Canonical;
use crate::types::{Index, NodeId, Term, UnixMillis, Version};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::members::NODES_MAX;
use super::records::Genesis;
use super::table;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryKind {
    /// One survivor became a cluster of its own, with all that its log held.
    ForcedNewCluster,
    /// A snapshot was restored into new data directories.
    Restored,
}

/// What an operator did; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryAct {
    /// What was done.
    pub kind: RecoveryKind,
    /// The node whose log or snapshot it was done with.
    pub node: NodeId,
    /// The identity that the cluster had before.
    pub previous_identity: String,
    /// Its identity since then, 32 hexadecimal digits.
    pub identity: String,
    /// Who voted before.
    pub previous_voters: BTreeSet<NodeId>,
    /// Who has voted since.
    pub voters: BTreeSet<NodeId>,
    /// The software that did it.
    pub version: Version,
}

/// An act, and where in the log it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The log entry that recorded it; for a restored snapshot the last entry that it covers.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Log time.
    pub at: UnixMillis,
    /// What was done.
    #[serde(flatten)]
    pub act: RecoveryAct,
}

/// The identity of a restored cluster: the same for every node that is restored from the same file (by its `hash`) to the
/// same voters, and for no other.
pub fn restored_identity(hash: crate::codec::Hash, voters: &BTreeMap<NodeId, String>) -> String {
    let mut canonical = Canonical::new("super-node restored cluster 1");
    canonical.hash(hash).length(voters.len());
    for (voter, address) in voters {
        canonical.text(voter.as_str()).text(address);
    }
    canonical.digest().to_hex()[..32].to_string()
}

/// Carries an act out on a state: its record, the cluster's new identity, and no node bound to a data directory.
pub fn record(space: &mut dyn Keyspace, recovery: &Recovery) -> Result<(), KeyspaceError> {
    assume_identity(space, &recovery.act.identity)?;
    space.delete(keys::INCARNATIONS)?;
    put(space, recovery)
}

/// Writes the record alone. A record goes flat into JSON, which postcard cannot read back: so its parts are kept.
fn put(space: &mut dyn Keyspace, recovery: &Recovery) -> Result<(), KeyspaceError> {
    let Recovery { index, term, at, act } = recovery;
    table::write(space, &keys::numbered(keys::RECOVERY_TABLE, index.0), &(term, at, act))
}

/// Gives the cluster another identity. Nothing happens before its genesis.
pub fn assume_identity(space: &mut dyn Keyspace, identity: &str) -> Result<(), KeyspaceError> {
    let Some(genesis) = table::read::<Genesis>(&*space, keys::GENESIS)? else { return Ok(()) };
    table::write(space, keys::GENESIS, &Genesis { identity: identity.to_string(), ..genesis })
}

/// All acts, oldest first, after the log entry `after`.
pub(super) fn list(reader: &dyn Reader, after: Index, limit: usize) -> Result<Vec<Recovery>, KeyspaceError> {
    let mut found = Vec::new();
    let from = keys::numbered(keys::RECOVERY_TABLE, after.0.saturating_add(1));
    let end = keys::prefix_end(&[keys::RECOVERY_TABLE]);
    let from = std::ops::Bound::Included(from.as_slice());
    table::visit(reader, from, &end, super::keyspace::Direction::Forward, &mut |key, value| {
        if found.len() >= limit {
            return Ok(false);
        }
        let index = keys::last_number(key).map(Index).ok_or_else(|| table::damaged(key, "no index"))?;
        let (term, at, act) = table::parse(key, value)?;
        found.push(Recovery { index, term, at, act });
        Ok(true)
    })?;
    Ok(found)
}

/// [`super::command::Command::Recovered`].
pub(super) fn recovered(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    act: &RecoveryAct,
    happenings: &mut Vec<Happening>,
) -> Step {
    let digits = act.identity.len() == 32 && act.identity.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bounded = |voters: &BTreeSet<NodeId>| !voters.is_empty() && voters.len() <= NODES_MAX;
    if !digits || act.previous_identity.len() > 32 || !bounded(&act.voters) {
        return Err(Rejection::BadRequest("not an act that recovers a cluster".to_string()).into());
    }
    let recovery = Recovery { index: entry.index, term: entry.term, at: entry.at, act: act.clone() };
    record(space, &recovery)?;
    happenings.push(Happening::ClusterRecovered(recovery));
    Ok(Answer::Done)
}
