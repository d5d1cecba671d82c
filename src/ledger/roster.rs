//! The members' records, in blocks by name.
//!
//! A block stands at its lower bound: every name from there up to the next block's bound belongs to it. The first
//! block's bound is the empty name. A block that grows beyond [`BLOCK_RECORDS`] is cut in two halves; blocks are never
//! joined, because records are never removed. Each begins with the newest change in it, so that whoever looks for changes
//! passes over the blocks that have none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::types::{Index, MemberId};

use super::blocks::{self, BLOCK_RECORDS};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::records::Member;
use super::table::{self, RawRow};

const PREFIX: [u8; 1] = [keys::MEMBER_TABLE];

/// Some neighbours. Invariants: ordered by name, not empty, at most [`BLOCK_RECORDS`]; `newest` is the largest
/// [`Member::index`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The newest change in it. Must stay the first field, see [`changed_after`].
    pub newest: Index,
    /// The records.
    pub members: Vec<Member>,
}

impl Block {
    fn of(members: Vec<Member>) -> Block {
        let newest = members.iter().map(|member| member.index).max().unwrap_or_default();
        Block { newest, members }
    }
}

/// One member.
pub fn get(reader: &dyn Reader, id: &MemberId) -> Result<Option<Member>, KeyspaceError> {
    let Some((key, value)) = blocks::holding(reader, &PREFIX, &keys::member(id))? else { return Ok(None) };
    let mut block: Block = table::parse(&key, &value)?;
    let at = block.members.binary_search_by(|member| member.id.cmp(id));
    Ok(at.ok().map(|at| block.members.swap_remove(at)))
}

/// Those of some members that have a record, by name. A block that holds several of them is read once.
pub fn some(reader: &dyn Reader, ids: &BTreeSet<MemberId>) -> Result<Vec<Member>, KeyspaceError> {
    let mut found = Vec::new();
    let mut block: Vec<Member> = Vec::new();
    for id in ids {
        if block.last().is_none_or(|last| last.id < *id) {
            let Some((key, value)) = blocks::holding(reader, &PREFIX, &keys::member(id))? else { continue };
            block = table::parse::<Block>(&key, &value)?.members;
        }
        found.extend(block.binary_search_by(|member| member.id.cmp(id)).ok().map(|at| block[at].clone()));
    }
    Ok(found)
}

/// Members by name after one, at most `limit`.
pub fn page(
    reader: &dyn Reader,
    after: Option<&MemberId>,
    limit: usize,
) -> Result<Vec<Member>, KeyspaceError> {
    let mut members = Vec::new();
    if limit == 0 {
        return Ok(members);
    }
    let from = match after {
        Some(after) => blocks::holding(reader, &PREFIX, &keys::member(after))?.map(|(key, _)| key),
        None => None,
    };
    visit(reader, from.as_deref().unwrap_or(&PREFIX), &mut |key, value| {
        let block: Block = table::parse(key, value)?;
        let wanted = block.members.into_iter().filter(|member| after.is_none_or(|after| member.id > *after));
        members.extend(wanted.take(limit - members.len()));
        Ok(members.len() < limit)
    })?;
    Ok(members)
}

fn visit(reader: &dyn Reader, from: &[u8], visit: table::RowVisitor<'_>) -> Result<(), KeyspaceError> {
    let end = keys::prefix_end(&PREFIX);
    table::visit(reader, Bound::Included(from), &end, Direction::Forward, visit)
}

/// All blocks, still encoded, in order.
pub(super) fn raw_blocks(reader: &dyn Reader) -> Result<Vec<RawRow>, KeyspaceError> {
    let mut rows = Vec::new();
    visit(reader, &PREFIX, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(true)
    })?;
    Ok(rows)
}

/// Calls `each` with every name between two, both included, in order; it answers whether to go on.
pub(super) fn names_between(
    reader: &dyn Reader,
    (first, last): (&MemberId, &MemberId),
    each: &mut dyn FnMut(&MemberId) -> bool,
) -> Result<(), KeyspaceError> {
    let Some((from, _)) = blocks::holding(reader, &PREFIX, &keys::member(first))? else { return Ok(()) };
    visit(reader, &from, &mut |key, value| {
        let block: Block = table::parse(key, value)?;
        for member in block.members.iter().filter(|member| member.id >= *first) {
            if member.id > *last || !each(&member.id) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Members whose record changed after a log index, in order of that index and their name. All that one entry changed
/// come together, even when that makes it more than `limit` (a settlement may change all of them): so the last one's
/// index is a safe cursor.
pub fn changed_after(reader: &dyn Reader, after: Index, limit: usize) -> Result<Vec<Member>, KeyspaceError> {
    let newest: Index = table::read_or_default(reader, keys::CHANGED)?;
    if newest <= after || limit == 0 {
        return Ok(Vec::new());
    }
    let mut found: BTreeMap<(Index, MemberId), Member> = BTreeMap::new();
    visit(reader, &PREFIX, &mut |key, value| {
        let newest: Index =
            codec::decode_first(value).map_err(|error| table::damaged(key, error.to_string()))?;
        if newest > after {
            let block: Block = table::parse(key, value)?;
            let changed = block.members.into_iter().filter(|member| member.index > after);
            found.extend(changed.map(|member| ((member.index, member.id.clone()), member)));
        }
        Ok(true)
    })?;
    let cut = found.keys().nth(limit - 1).map(|(index, _)| *index);
    Ok(found
        .into_iter()
        .take_while(|((index, _), _)| cut.is_none_or(|cut| *index <= cut))
        .map(|(_, m)| m)
        .collect())
}

/// Stores one member, new or changed.
pub(super) fn put(space: &mut dyn Keyspace, member: &Member) -> Result<(), KeyspaceError> {
    let (key, mut members) = match blocks::holding(&*space, &PREFIX, &keys::member(&member.id))? {
        Some((key, value)) => {
            let block: Block = table::parse(&key, &value)?;
            (key, block.members)
        }
        None => (PREFIX.to_vec(), Vec::new()),
    };
    match members.binary_search_by(|other| other.id.cmp(&member.id)) {
        Ok(at) => members[at] = member.clone(),
        Err(at) => members.insert(at, member.clone()),
    }
    if members.len() > BLOCK_RECORDS {
        let upper = members.split_off(members.len() / 2);
        table::write(space, &keys::member(&upper[0].id), &Block::of(upper))?;
    }
    table::write(space, &key, &Block::of(members))?;
    note_change(space, member.index)
}

/// Stores a block whose members an entry at `index` has changed.
pub(super) fn put_block(
    space: &mut dyn Keyspace,
    key: &[u8],
    members: Vec<Member>,
    index: Index,
) -> Result<(), KeyspaceError> {
    table::write(space, key, &Block::of(members))?;
    note_change(space, index)
}

fn note_change(space: &mut dyn Keyspace, index: Index) -> Result<(), KeyspaceError> {
    let newest: Index = table::read_or_default(&*space, keys::CHANGED)?;
    if index > newest { table::write(space, keys::CHANGED, &index) } else { Ok(()) }
}
