//! The fleet: joining, moving, leaving.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Amount, MemberId, NodeId, Version};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, INCARNATION_BYTES_MAX, Rejection};
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::records::{Genesis, Member, MemberKind, MemberStatus};
use super::roster;
use super::settle;
use super::standing::Standing;
use super::table;

/// Longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Most member records of one cluster, those that left included.
pub const MEMBERS_MAX: u64 = 1_000_000;
/// Most super-nodes of one cluster, learners included.
pub const NODES_MAX: usize = 64;

/// An address must be short and printable. Whether it can be reached is the pinger's business.
pub(super) fn check_address(address: &str) -> Result<(), Rejection> {
    let printable = address.bytes().all(|byte| byte.is_ascii_graphic());
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || !printable {
        let why = format!("an address has 1 to {ADDRESS_BYTES_MAX} printable characters and no spaces");
        return Err(Rejection::BadRequest(why));
    }
    Ok(())
}

/// The super-nodes that have not left.
pub(super) fn nodes(reader: &dyn Reader) -> Result<BTreeSet<NodeId>, KeyspaceError> {
    table::read_or_default(reader, keys::NODES)
}

/// A super-node's name as a member's, back again.
fn node_id(member: &MemberId) -> NodeId {
    member.as_str().parse().expect("both kinds of name have one alphabet")
}

/// [`super::command::Command::MemberJoin`]. Idempotent; a second join may change the address; whoever left comes back to
/// the account and the standing that it had.
pub(super) fn join(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (id, kind, address): (&MemberId, MemberKind, &str),
    happenings: &mut Vec<Happening>,
) -> Step {
    if table::read::<Genesis>(&*space, keys::GENESIS)?.is_none() {
        return Err(Rejection::Conflict("the cluster has no genesis yet".to_string()).into());
    }
    check_address(address)?;
    let Some(found) = roster::get(&*space, id)? else {
        let count: u64 = table::read_or_default(&*space, keys::MEMBER_COUNT)?;
        if count >= MEMBERS_MAX {
            return Err(Rejection::Conflict(format!("a cluster has up to {MEMBERS_MAX} members")).into());
        }
        check_room_for_node(&*space, id, kind)?;
        enrol(space, entry, id, kind, address, happenings)?;
        return Ok(Answer::Done);
    };
    if found.kind != kind {
        let (is, asked) = (found.kind.as_str(), kind.as_str());
        return Err(
            Rejection::Conflict(format!("{id} is the name of a member of kind {is}, not {asked}")).into()
        );
    }
    let back = found.status == MemberStatus::Left;
    if !back && found.address == address {
        return Ok(Answer::Done);
    }
    let mut member = Member { address: address.to_string(), index: entry.index, ..found.clone() };
    if back {
        check_room_for_node(&*space, id, kind)?;
        member.status = settle::left_standing(&*space, &found)?.status;
        member.joined_at = entry.at;
        space.delete(&keys::left_standing(id))?;
        count_present(space, &member, true)?;
        happenings.push(Happening::MemberJoined { member: id.clone(), kind, address: address.to_string() });
    } else {
        happenings.push(Happening::MemberMoved { member: id.clone(), address: address.to_string() });
    }
    roster::put(space, &member)?;
    Ok(Answer::Done)
}

/// Writes a new member. The caller has checked that there is none of that name, the address, and the bounds.
pub(super) fn enrol(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    id: &MemberId,
    kind: MemberKind,
    address: &str,
    happenings: &mut Vec<Happening>,
) -> Result<(), KeyspaceError> {
    let Standing { status, strikes, suspensions, remaining } = Standing::default();
    let member = Member {
        id: id.clone(),
        kind,
        address: address.to_string(),
        status,
        balance: Amount::ZERO,
        strikes,
        suspensions,
        remaining,
        joined_at: entry.at,
        as_of: 0,
        index: entry.index,
    };
    roster::put(space, &member)?;
    let count: u64 = table::read_or_default(&*space, keys::MEMBER_COUNT)?;
    table::write(space, keys::MEMBER_COUNT, &(count + 1))?;
    count_present(space, &member, true)?;
    happenings.push(Happening::MemberJoined { member: id.clone(), kind, address: address.to_string() });
    Ok(())
}

/// [`super::command::Command::MemberLeave`]. The account and the standing stay; leaving twice changes nothing.
pub(super) fn leave(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    id: &MemberId,
    happenings: &mut Vec<Happening>,
) -> Step {
    let Some(found) = roster::get(&*space, id)? else {
        return Err(Rejection::NotFound(format!("member {id}")).into());
    };
    if found.status == MemberStatus::Left {
        return Ok(Answer::Done);
    }
    table::write(space, &keys::left_standing(id), &Standing::of(&found))?;
    let member = Member { status: MemberStatus::Left, index: entry.index, ..found.clone() };
    roster::put(space, &member)?;
    count_present(space, &member, false)?;
    happenings.push(Happening::MemberLeft { member: id.clone() });
    Ok(Answer::Done)
}

fn check_room_for_node(
    reader: &dyn Reader,
    id: &MemberId,
    kind: MemberKind,
) -> Result<(), super::apply::Stop> {
    if kind == MemberKind::Node {
        let nodes = nodes(reader)?;
        if nodes.len() >= NODES_MAX && !nodes.contains(&node_id(id)) {
            return Err(Rejection::Conflict(format!("a cluster has up to {NODES_MAX} super-nodes")).into());
        }
    }
    Ok(())
}

/// [`super::command::Command::NodeSeen`]. The first directory counts; the same again changes nothing.
pub(super) fn seen(
    space: &mut dyn Keyspace,
    node: &NodeId,
    incarnation: &str,
    happenings: &mut Vec<Happening>,
) -> Step {
    let printable = incarnation.bytes().all(|byte| byte.is_ascii_graphic());
    if incarnation.is_empty() || incarnation.len() > INCARNATION_BYTES_MAX || !printable {
        let why = format!("an incarnation has 1 to {INCARNATION_BYTES_MAX} printable characters");
        return Err(Rejection::BadRequest(why).into());
    }
    if !nodes(&*space)?.contains(node) {
        return Err(Rejection::Conflict(format!("{node} is no super-node of this cluster")).into());
    }
    let mut bound: BTreeMap<NodeId, String> = table::read_or_default(&*space, keys::INCARNATIONS)?;
    match bound.get(node) {
        Some(known) if known == incarnation => Ok(Answer::Done),
        Some(_) => {
            let why = format!("{node} is bound to another data directory until it leaves");
            Err(Rejection::Conflict(why).into())
        }
        None => {
            bound.insert(node.clone(), incarnation.to_string());
            table::write(space, keys::INCARNATIONS, &bound)?;
            happenings.push(Happening::NodeSeen { node: node.clone(), incarnation: incarnation.to_string() });
            Ok(Answer::Done)
        }
    }
}

/// [`super::command::Command::NodeVersion`]. The word of a super-node about itself; it replaces the one before.
pub(super) fn stated_version(
    space: &mut dyn Keyspace,
    node: &NodeId,
    version: Version,
    happenings: &mut Vec<Happening>,
) -> Step {
    if !nodes(&*space)?.contains(node) {
        return Err(Rejection::Conflict(format!("{node} is no super-node of this cluster")).into());
    }
    let mut versions = versions(&*space)?;
    if versions.insert(node.clone(), version) != Some(version) {
        table::write(space, keys::VERSIONS, &versions)?;
        happenings.push(Happening::VersionStated { node: node.clone(), version });
    }
    Ok(Answer::Done)
}

/// The versions that the super-nodes have stated.
pub(super) fn versions(reader: &dyn Reader) -> Result<BTreeMap<NodeId, Version>, KeyspaceError> {
    table::read_or_default(reader, keys::VERSIONS)
}

/// What the versions of members are compared with: the lowest that a super-node has stated, so that nobody earns less
/// for not being ahead of a cluster whose upgrade is under way.
pub(super) fn cluster_version(reader: &dyn Reader) -> Result<Option<Version>, KeyspaceError> {
    Ok(versions(reader)?.into_values().min())
}

/// Keeps the number of members that have not left, and the set of super-nodes that observe. One that leaves is bound to
/// no directory any more.
fn count_present(space: &mut dyn Keyspace, member: &Member, present: bool) -> Result<(), KeyspaceError> {
    let count: u64 = table::read_or_default(&*space, keys::PRESENT)?;
    let count = if present { count + 1 } else { count.saturating_sub(1) };
    table::write(space, keys::PRESENT, &count)?;
    if member.kind != MemberKind::Node {
        return Ok(());
    }
    let mut nodes = nodes(&*space)?;
    let node = node_id(&member.id);
    if !present {
        let mut bound: BTreeMap<NodeId, String> = table::read_or_default(&*space, keys::INCARNATIONS)?;
        if bound.remove(&node).is_some() {
            table::write(space, keys::INCARNATIONS, &bound)?;
        }
        let mut versions = versions(&*space)?;
        if versions.remove(&node).is_some() {
            table::write(space, keys::VERSIONS, &versions)?;
        }
    }
    let _changed = if present { nodes.insert(node) } else { nodes.remove(&node) };
    table::write(space, keys::NODES, &nodes)
}
