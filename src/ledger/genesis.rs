//! The first command of a cluster: who it is, by which rules it judges, its first super-nodes.

use std::collections::BTreeMap;

use crate::types::{IntervalId, MemberId, NodeId};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::keys;
use super::keyspace::Keyspace;
use super::members;
use super::policy::{Policy, Revision};
use super::records::{Genesis, IntervalState, MemberKind};
use super::table;

/// Longest name of a cluster, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 128;
fn check_identity(cluster: &str, identity: &str) -> Result<(), Rejection> {
    if cluster.is_empty() || cluster.len() > CLUSTER_BYTES_MAX || cluster.chars().any(char::is_control) {
        let why = format!("the cluster's name has 1 to {CLUSTER_BYTES_MAX} printable bytes");
        return Err(Rejection::BadRequest(why));
    }
    if identity.len() != 32 || !identity.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Rejection::BadRequest("the identity has 32 hexadecimal digits".to_string()));
    }
    Ok(())
}

/// [`super::command::Command::Genesis`]. Applies once; every further one is stale.
pub(super) fn genesis(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (cluster, identity): (&str, &str),
    policy: &Policy,
    nodes: &[(NodeId, String)],
    happenings: &mut Vec<Happening>,
) -> Step {
    if table::read::<Genesis>(&*space, keys::GENESIS)?.is_some() {
        return Err(Rejection::Stale("the cluster has its genesis already".to_string()).into());
    }
    check_identity(cluster, identity)?;
    policy.check()?;
    let mut members_by_id = BTreeMap::new();
    for (node, address) in nodes {
        members::check_address(address)?;
        if members_by_id.insert(MemberId::from(node), address).is_some() {
            return Err(Rejection::BadRequest(format!("{node} is listed twice")).into());
        }
    }
    if nodes.is_empty() || nodes.len() > members::NODES_MAX {
        let why = format!("a cluster begins with 1 to {} super-nodes", members::NODES_MAX);
        return Err(Rejection::BadRequest(why).into());
    }
    let record = Genesis { cluster: cluster.to_string(), identity: identity.to_string(), at: entry.at };
    table::write(space, keys::GENESIS, &record)?;
    table::write(space, &keys::policy(policy.revision), &Revision::initial(policy.clone()))?;
    table::write(space, keys::POLICY_REVISION, &policy.revision)?;
    table::write(space, keys::POLICY_NEWEST, &policy.revision)?;
    let first = IntervalId(1);
    let state = IntervalState { open: first, next_settle: first, opened_at: entry.at };
    table::write(space, keys::INTERVALS, &state)?;
    happenings.push(Happening::GenesisDone {
        cluster: cluster.to_string(),
        identity: identity.to_string(),
        policy: policy.clone(),
    });
    for (member, address) in members_by_id {
        members::enrol(space, entry, &member, MemberKind::Node, address, happenings)?;
    }
    Ok(Answer::Done)
}
