//! Agents and their keys: who may answer pings under which name.
//!
//! An agent draws a key and enrols with it. Somebody who may say so lets it in: the node that it asked, because of its token
//! or because the cluster is open to all, or an operator, beforehand (the member was added, and the agent comes from the
//! address that was given) or afterwards. Until then it waits: it is no member, and is not pinged. A key that is in force is never
//! replaced by one that waits: whoever enrols under somebody's name takes nothing from it.
//!
//! What waits costs a record that nobody pays for, so it is bounded: [`WAITING_PER_HOST_MAX`] from one host, and
//! [`WAITING_MAX`] in all.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::{AgentKey, MemberId, UnixMillis};

use super::apply::{Entry, Happening, Step};
use super::command::{Answer, Rejection};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::members;
use super::records::{Member, MemberKind, MemberStatus};
use super::roster;
use super::table;

/// Most agents of one host that wait for approval.
pub const WAITING_PER_HOST_MAX: usize = 2;
/// Most agents that wait for approval.
pub const WAITING_MAX: usize = 1_000;

/// An agent that waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Under which name.
    pub member: MemberId,
    /// Where it answers pings: `host:port`.
    pub address: String,
    /// Its key.
    pub key: AgentKey,
    /// Log time of its first enrolment.
    pub since: UnixMillis,
}

/// What an operator compares before it approves: the first 8 bytes of SHA-256 over the key, hexadecimal.
pub fn fingerprint(key: &AgentKey) -> String {
    Sha256::digest(key.0).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The host of `host:port`.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// The keys in force, those of members that left included.
pub fn keys_in_force(reader: &dyn Reader) -> Result<BTreeMap<MemberId, AgentKey>, KeyspaceError> {
    let mut found = BTreeMap::new();
    each(reader, keys::AGENT_KEY_TABLE, &mut |name, value| {
        found.insert(name, table::parse(&[keys::AGENT_KEY_TABLE], value)?);
        Ok(())
    })?;
    Ok(found)
}

/// The key of an agent, if it has one; that of one that left included.
pub fn key_of(reader: &dyn Reader, agent: &MemberId) -> Result<Option<AgentKey>, KeyspaceError> {
    table::read(reader, &keys::agent_key(agent))
}

/// The agent that waits under a name.
pub fn waiting_as(reader: &dyn Reader, member: &MemberId) -> Result<Option<Waiting>, KeyspaceError> {
    table::read(reader, &keys::agent_waiting(member))
}

/// The key of a member, if it is one and has one.
pub fn key_in_force(reader: &dyn Reader, member: &MemberId) -> Result<Option<AgentKey>, KeyspaceError> {
    match present(reader, member)? {
        Some(_) => key_of(reader, member),
        None => Ok(None),
    }
}

/// The agents that wait, ordered by name.
pub fn waiting(reader: &dyn Reader) -> Result<Vec<Waiting>, KeyspaceError> {
    let mut found = Vec::new();
    each(reader, keys::AGENT_WAITING_TABLE, &mut |_, value| {
        found.push(table::parse(&[keys::AGENT_WAITING_TABLE], value)?);
        Ok(())
    })?;
    Ok(found)
}

/// What [`each`] calls with each name and value.
type Visit<'v> = &'v mut dyn FnMut(MemberId, &[u8]) -> Result<(), KeyspaceError>;

fn each(reader: &dyn Reader, number: u8, visit: Visit<'_>) -> Result<(), KeyspaceError> {
    let end = keys::prefix_end(&[number]);
    table::visit(reader, Bound::Included(&[number]), &end, Direction::Forward, &mut |key, value| {
        let name = std::str::from_utf8(&key[1..]).ok().and_then(|name| name.parse().ok());
        visit(name.ok_or_else(|| table::damaged(key, "no member's name"))?, value)?;
        Ok(true)
    })
}

/// The record of a member that has not left.
fn present(reader: &dyn Reader, member: &MemberId) -> Result<Option<Member>, KeyspaceError> {
    Ok(roster::get(reader, member)?.filter(|member| member.status != MemberStatus::Left))
}

/// [`super::command::Command::AgentEnrol`]. Idempotent.
pub(super) fn enrol(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (id, address, key): (&MemberId, &str, &AgentKey),
    approved: bool,
    happenings: &mut Vec<Happening>,
) -> Step {
    members::check_address(address)?;
    let member = present(&*space, id)?;
    let in_force: Option<AgentKey> = table::read(&*space, &keys::agent_key(id))?;
    let known = member.is_some() && in_force.as_ref() == Some(key);
    // The operator added it by name and address, and nobody has come yet.
    let expected = in_force.is_none()
        && member
            .as_ref()
            .is_some_and(|member| member.kind == MemberKind::Agent && member.address == address);
    if approved || known || expected {
        return admit(space, entry, (id, address, key), happenings);
    }
    if let Some(member) = &member
        && member.kind != MemberKind::Agent
    {
        return Err(Rejection::Conflict(format!("{id} is the name of a super-node")).into());
    }
    wait(space, entry, (id, address, key), happenings)
}

/// A member from now on, with this key.
fn admit(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (id, address, key): (&MemberId, &str, &AgentKey),
    happenings: &mut Vec<Happening>,
) -> Step {
    members::join(space, entry, (id, MemberKind::Agent, address), happenings)?;
    let place = keys::agent_key(id);
    if table::read::<AgentKey>(&*space, &place)?.as_ref() != Some(key) {
        table::write(space, &place, key)?;
        happenings.push(Happening::AgentAdmitted { member: id.clone(), fingerprint: fingerprint(key) });
    }
    space.delete(&keys::agent_waiting(id))?;
    Ok(Answer::Enrolled { waiting: false })
}

fn wait(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (id, address, key): (&MemberId, &str, &AgentKey),
    happenings: &mut Vec<Happening>,
) -> Step {
    let place = keys::agent_waiting(id);
    let found: Option<Waiting> = table::read(&*space, &place)?;
    if found.as_ref().is_some_and(|found| found.key != *key) {
        let why = format!(
            "another agent waits for approval under the name {id}; choose another name, or let an operator decide: \
             super-node member waiting"
        );
        return Err(Rejection::Conflict(why).into());
    }
    let others: Vec<Waiting> = waiting(&*space)?.into_iter().filter(|other| other.member != *id).collect();
    let neighbours = others.iter().filter(|other| host(&other.address) == host(address)).count();
    if neighbours >= WAITING_PER_HOST_MAX || others.len() >= WAITING_MAX {
        let why = format!(
            "{} agents wait for approval, {neighbours} of them from {}: up to {WAITING_MAX} may, and \
             {WAITING_PER_HOST_MAX} from one host; let an operator decide: super-node member approve ID",
            others.len(),
            host(address)
        );
        return Err(Rejection::Conflict(why).into());
    }
    if found.as_ref().is_none_or(|found| found.address != address) {
        let since = found.as_ref().map_or(entry.at, |found| found.since);
        let record = Waiting { member: id.clone(), address: address.to_string(), key: *key, since };
        table::write(space, &place, &record)?;
        happenings.push(Happening::AgentWaits {
            member: id.clone(),
            address: address.to_string(),
            fingerprint: fingerprint(key),
        });
    }
    Ok(Answer::Enrolled { waiting: true })
}

/// [`super::command::Command::AgentApprove`].
pub(super) fn approve(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    (id, shown): (&MemberId, Option<&str>),
    happenings: &mut Vec<Happening>,
) -> Step {
    let Some(found) = table::read::<Waiting>(&*space, &keys::agent_waiting(id))? else {
        return Err(Rejection::NotFound(format!("no agent waits for approval under the name {id}")).into());
    };
    let print = fingerprint(&found.key);
    if shown.is_some_and(|shown| shown != print) {
        let why =
            format!("the agent that waits as {id} has the fingerprint {print}, not {}", shown.unwrap_or(""));
        return Err(Rejection::Conflict(why).into());
    }
    admit(space, entry, (id, &found.address, &found.key), happenings)
}

/// [`super::command::Command::AgentRefuse`].
pub(super) fn refuse(space: &mut dyn Keyspace, id: &MemberId) -> Step {
    let place = keys::agent_waiting(id);
    if space.get(&place)?.is_none() {
        return Err(Rejection::NotFound(format!("no agent waits for approval under the name {id}")).into());
    }
    space.delete(&place)?;
    Ok(Answer::Done)
}
