//! Reading the state. Everything is a pure function over a consistent [`Reader`]; lists are in ascending order, begin after
//! a cursor and hold at most `limit` items.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis, Version};

use super::blocks;
use super::claims::{self, ClaimState};
use super::evidence;
use super::judge::Judgement;
use super::keys;
use super::keyspace::{Direction, KeyspaceError, Reader};
use super::policy::{Policy, Revision};
use super::records::{
    Checkpoint, Election, Genesis, Interval, IntervalState, KvEntry, Member, MemberStatus, Movement,
    MovementKind, Observation, Totals, Verdict,
};
use super::recoveries::{self, Recovery};
use super::retention;
use super::roster;
use super::settle;
use super::table;
use super::webhooks::{self, Hooks};

/// Members that are looked at in one go when all are.
const MEMBERS_AT_ONCE: usize = 1_024;

/// Who this cluster is; `None` before its first command.
pub fn genesis(reader: &dyn Reader) -> Result<Option<Genesis>, KeyspaceError> {
    table::read(reader, keys::GENESIS)
}

/// The policy in force for the open interval; `None` before the first command.
pub fn policy(reader: &dyn Reader) -> Result<Option<Policy>, KeyspaceError> {
    Ok(revision_in_force(reader)?.map(|revision| revision.policy))
}

/// The same with what belongs to its revision.
pub fn revision_in_force(reader: &dyn Reader) -> Result<Option<Revision>, KeyspaceError> {
    match table::read(reader, keys::POLICY_REVISION)? {
        Some(number) => revision(reader, number),
        None => Ok(None),
    }
}

/// A revision of the policy, for the intervals that were judged by it.
pub fn revision(reader: &dyn Reader, number: u64) -> Result<Option<Revision>, KeyspaceError> {
    table::read(reader, &keys::policy(number))
}

/// Revisions of the policy after one, those included that are not in force yet.
pub fn revisions(reader: &dyn Reader, after: u64, limit: usize) -> Result<Vec<Revision>, KeyspaceError> {
    table::page(reader, &[keys::POLICY_TABLE], Some(&keys::policy(after)), limit, &mut |_| true)
}

/// What the versions of members are compared with: the lowest that a super-node has stated.
pub fn cluster_version(reader: &dyn Reader) -> Result<Option<Version>, KeyspaceError> {
    super::members::cluster_version(reader)
}

/// The versions that the super-nodes have stated.
pub fn versions(reader: &dyn Reader) -> Result<BTreeMap<NodeId, Version>, KeyspaceError> {
    super::members::versions(reader)
}

/// Log time: the largest stamp applied.
pub fn log_time(reader: &dyn Reader) -> Result<UnixMillis, KeyspaceError> {
    table::read_or_default(reader, keys::CLOCK)
}

/// The interval counters; `None` before the first command.
pub fn interval_state(reader: &dyn Reader) -> Result<Option<IntervalState>, KeyspaceError> {
    table::read(reader, keys::INTERVALS)
}

/// The ledger's sums and chain heads.
pub fn totals(reader: &dyn Reader) -> Result<Totals, KeyspaceError> {
    table::read_or_default(reader, keys::TOTALS)
}

/// How far the projection has come.
pub fn checkpoint(reader: &dyn Reader) -> Result<Checkpoint, KeyspaceError> {
    table::read_or_default(reader, keys::CHECKPOINT)
}

/// The data directories that super-nodes are bound to.
pub fn incarnations(reader: &dyn Reader) -> Result<BTreeMap<NodeId, String>, KeyspaceError> {
    table::read_or_default(reader, keys::INCARNATIONS)
}

/// One key of the dictionary.
pub fn kv_get(reader: &dyn Reader, key: &str) -> Result<Option<KvEntry>, KeyspaceError> {
    table::read(reader, &keys::kv(key))
}

/// The keys that begin with `prefix`, in byte order, after the key `after`.
pub fn kv_list(
    reader: &dyn Reader,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<KvEntry>, KeyspaceError> {
    let after = after.map(keys::kv);
    table::page(reader, &keys::kv(prefix), after.as_deref(), limit, &mut |_| true)
}

/// The dictionary's revision; 0 before the first write.
pub fn kv_revision(reader: &dyn Reader) -> Result<u64, KeyspaceError> {
    table::read_or_default(reader, keys::KV_REVISION)
}

/// Members by name, those that left included.
pub fn members(
    reader: &dyn Reader,
    after: Option<&MemberId>,
    limit: usize,
) -> Result<Vec<Member>, KeyspaceError> {
    roster::page(reader, after, limit)
}

/// Those of some members that have a record, those that left included, by name.
pub fn some_members(reader: &dyn Reader, ids: &BTreeSet<MemberId>) -> Result<Vec<Member>, KeyspaceError> {
    roster::some(reader, ids)
}

/// One member.
pub fn member(reader: &dyn Reader, id: &MemberId) -> Result<Option<Member>, KeyspaceError> {
    roster::get(reader, id)
}

/// The members with the highest balances, highest first, among equals by name; at most `limit`. Looks at all of them.
pub fn richest(reader: &dyn Reader, limit: usize) -> Result<Vec<Member>, KeyspaceError> {
    let mut best: BTreeMap<(Reverse<Amount>, MemberId), Member> = BTreeMap::new();
    let mut after: Option<MemberId> = None;
    loop {
        let page = roster::page(reader, after.as_ref(), MEMBERS_AT_ONCE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        for member in page {
            best.insert((Reverse(member.balance), member.id.clone()), member);
            if best.len() > limit {
                best.pop_last();
            }
        }
    }
    Ok(best.into_values().collect())
}

/// How many member records there are, those that left included.
pub fn member_count(reader: &dyn Reader) -> Result<u64, KeyspaceError> {
    table::read_or_default(reader, keys::MEMBER_COUNT)
}

/// See [`roster::changed_after`].
pub fn members_changed_after(
    reader: &dyn Reader,
    after: Index,
    limit: usize,
) -> Result<Vec<Member>, KeyspaceError> {
    roster::changed_after(reader, after, limit)
}

/// Which movements to list.
#[derive(Debug, Clone, Default)]
pub struct RewardFilter {
    /// Only this member's.
    pub member: Option<MemberId>,
    /// Only of this kind.
    pub kind: Option<MovementKind>,
    /// Log time from (inclusive).
    pub from: Option<UnixMillis>,
    /// Log time to (exclusive).
    pub to: Option<UnixMillis>,
    /// After this sequence.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
}

/// Movements in order of sequence. Times are found by bisection (log time never goes back); a member's movements through
/// the intervals, so that for each interval one block is read; a filter by kind reads what it does not return.
pub fn rewards(reader: &dyn Reader, filter: &RewardFilter) -> Result<Vec<Movement>, KeyspaceError> {
    let after = match filter.from {
        Some(from) => filter.after.max(last_before(reader, from)?),
        None => filter.after,
    };
    let mut found = Vec::new();
    if filter.limit == 0 {
        return Ok(found);
    }
    let mut keep = |movement: Movement| {
        if filter.to.is_some_and(|to| movement.at >= to) {
            return false;
        }
        if filter.kind.is_none_or(|kind| kind == movement.kind) {
            found.push(movement);
        }
        found.len() < filter.limit
    };
    match &filter.member {
        None => {
            let from = keys::movement(after.saturating_add(1));
            blocks::visit(reader, &[keys::MOVEMENT_TABLE], &from, &mut |movement: Movement| {
                Ok(movement.seq <= after || keep(movement))
            })?;
        }
        Some(member) => statement(reader, member, after, &mut keep)?,
    }
    Ok(found)
}

/// A member's movements after a sequence: those of the intervals, and between them those that no interval made.
fn statement(
    reader: &dyn Reader,
    member: &MemberId,
    after: u64,
    keep: &mut dyn FnMut(Movement) -> bool,
) -> Result<(), KeyspaceError> {
    let state = interval_state(reader)?;
    let end = state.map_or(IntervalId(1), |state| state.next_settle);
    let mut other = next_other(reader, member, after)?;
    let mut id = first_beyond(reader, after, end)?;
    while id < end {
        let seqs = judgement(reader, id, member)?.map(|judgement| judgement.seqs()).unwrap_or_default();
        for seq in seqs.filter(|seq| *seq > after) {
            while let Some(before) = other.filter(|other| *other < seq) {
                if !keep(existing(reader, before)?) {
                    return Ok(());
                }
                other = next_other(reader, member, before)?;
            }
            if !keep(existing(reader, seq)?) {
                return Ok(());
            }
        }
        id = id.next();
    }
    while let Some(last) = other {
        if !keep(existing(reader, last)?) {
            return Ok(());
        }
        other = next_other(reader, member, last)?;
    }
    Ok(())
}

/// The next movement of a member after a sequence that no interval made.
fn next_other(reader: &dyn Reader, member: &MemberId, after: u64) -> Result<Option<u64>, KeyspaceError> {
    let (from, end) = (keys::statement(member, after), keys::statement(member, u64::MAX));
    let mut found = None;
    table::visit(reader, Bound::Excluded(&from), &end, Direction::Forward, &mut |key, _| {
        found = Some(keys::last_number(key).ok_or_else(|| table::damaged(key, "no sequence"))?);
        Ok(false)
    })?;
    Ok(found)
}

/// The first settled interval that ends beyond a sequence, or `end`. Bisection: intervals end in their order.
fn first_beyond(reader: &dyn Reader, after: u64, end: IntervalId) -> Result<IntervalId, KeyspaceError> {
    let (mut low, mut high) = (retention::trimmed(reader)?.through.0 + 1, end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let record: Interval = table::expect(reader, &keys::interval(IntervalId(middle)))?;
        if record.last_seq <= after {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(IntervalId(low))
}

fn existing(reader: &dyn Reader, seq: u64) -> Result<Movement, KeyspaceError> {
    reward(reader, seq)?.ok_or_else(|| table::damaged(&keys::movement(seq), "missing"))
}

/// The last sequence whose movement is older than `time`, or was forgotten; 0 for none. Bisection over the contiguous
/// sequences.
fn last_before(reader: &dyn Reader, time: UnixMillis) -> Result<u64, KeyspaceError> {
    // Invariant: everything before `low` is older than `time`, nothing from `high` on is.
    let forgotten = retention::trimmed(reader)?.totals.records;
    let (mut low, mut high) = (forgotten + 1, totals(reader)?.records.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        if existing(reader, middle)?.at < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low - 1)
}

/// One movement.
pub fn reward(reader: &dyn Reader, seq: u64) -> Result<Option<Movement>, KeyspaceError> {
    let Some((key, value)) = blocks::holding(reader, &[keys::MOVEMENT_TABLE], &keys::movement(seq))? else {
        return Ok(None);
    };
    let movements: Vec<Movement> = table::parse(&key, &value)?;
    Ok(movements.into_iter().find(|movement| movement.seq == seq))
}

/// Which intervals to list.
#[derive(Debug, Clone, Default)]
pub struct IntervalFilter {
    /// Opened at or after this log time.
    pub from: Option<UnixMillis>,
    /// Opened before this log time.
    pub to: Option<UnixMillis>,
    /// Only with this verdict.
    pub verdict: Option<Verdict>,
}

/// Settled intervals after an id.
pub fn intervals(
    reader: &dyn Reader,
    after: IntervalId,
    limit: usize,
    filter: &IntervalFilter,
) -> Result<Vec<Interval>, KeyspaceError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let from = keys::interval(after);
    let end = keys::prefix_end(&[keys::INTERVAL_TABLE]);
    table::visit(reader, Bound::Excluded(&from), &end, Direction::Forward, &mut |key, value| {
        let interval: Interval = table::parse(key, value)?;
        if filter.to.is_some_and(|to| interval.opened_at >= to) {
            return Ok(false);
        }
        let in_time = filter.from.is_none_or(|from| interval.opened_at >= from);
        if in_time && filter.verdict.is_none_or(|verdict| verdict == interval.verdict) {
            found.push(interval);
        }
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// One settled interval.
pub fn interval(reader: &dyn Reader, id: IntervalId) -> Result<Option<Interval>, KeyspaceError> {
    table::read(reader, &keys::interval(id))
}

/// All observations of an interval, by member.
pub fn observations(reader: &dyn Reader, id: IntervalId) -> Result<Vec<Observation>, KeyspaceError> {
    observations_page(reader, id, None, usize::MAX)
}

/// Observations of an interval, by member, after one.
pub fn observations_page(
    reader: &dyn Reader,
    id: IntervalId,
    after: Option<&MemberId>,
    limit: usize,
) -> Result<Vec<Observation>, KeyspaceError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
    let from = after.map_or_else(|| prefix.clone(), |member| keys::judgement(id, member));
    blocks::visit(reader, &prefix, &from, &mut |judgement: Judgement| {
        if after.is_none_or(|after| judgement.observation.member > *after) {
            found.push(judgement.observation);
        }
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// One member's observation in an interval.
pub fn observation(
    reader: &dyn Reader,
    id: IntervalId,
    member: &MemberId,
) -> Result<Option<Observation>, KeyspaceError> {
    Ok(judgement(reader, id, member)?.map(|judgement| judgement.observation))
}

/// One member's observation in an interval, with what it started from.
pub fn judgement(
    reader: &dyn Reader,
    id: IntervalId,
    member: &MemberId,
) -> Result<Option<Judgement>, KeyspaceError> {
    let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
    let Some((key, value)) = blocks::holding(reader, &prefix, &keys::judgement(id, member))? else {
        return Ok(None);
    };
    let judgements: Vec<Judgement> = table::parse(&key, &value)?;
    Ok(judgements.into_iter().find(|judgement| judgement.observation.member == *member))
}

/// Those judgements of an interval that changed a member's standing (suspended, on probation, paid again), by member.
/// Members that had left are not among them.
pub fn standing_changes(reader: &dyn Reader, id: IntervalId) -> Result<Vec<Judgement>, KeyspaceError> {
    let mut found = Vec::new();
    let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
    blocks::visit(reader, &prefix, &prefix, &mut |judgement: Judgement| {
        let after = judgement.observation.status;
        if after != MemberStatus::Left && after != judgement.before.status {
            found.push(judgement);
        }
        Ok(true)
    })?;
    Ok(found)
}

/// How far each webhook is.
pub fn webhooks(reader: &dyn Reader) -> Result<Hooks, KeyspaceError> {
    webhooks::hooks(reader)
}

/// A member's claims.
pub fn claims(reader: &dyn Reader, member: &MemberId) -> Result<ClaimState, KeyspaceError> {
    claims::state(reader, member)
}

/// Recorded elections after a term.
pub fn elections(reader: &dyn Reader, after: Term, limit: usize) -> Result<Vec<Election>, KeyspaceError> {
    let after = keys::election(after);
    table::page(reader, &[keys::ELECTION_TABLE], Some(&after), limit, &mut |_| true)
}

/// The newest recorded election.
pub fn last_election(reader: &dyn Reader) -> Result<Option<Election>, KeyspaceError> {
    let last = table::edge(reader, &[keys::ELECTION_TABLE], Direction::Backward)?;
    last.map(|(key, value)| table::parse(&key, &value)).transpose()
}

/// The election of a term.
pub fn election(reader: &dyn Reader, term: Term) -> Result<Option<Election>, KeyspaceError> {
    table::read(reader, &keys::election(term))
}

/// How far one observer's report on an interval has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportState {
    /// Whose.
    pub observer: NodeId,
    /// Parts that are here.
    pub received: u32,
    /// Parts that there will be; 0 while nothing is here.
    pub parts: u32,
    /// Whether all are here.
    pub complete: bool,
}

/// Of every observer that is expected to report on a cut interval, how far it has come. Empty while it is not cut.
pub fn reports(reader: &dyn Reader, id: IntervalId) -> Result<Vec<ReportState>, KeyspaceError> {
    let Some(cut) = evidence::cut(reader, id)? else { return Ok(Vec::new()) };
    let heads = evidence::heads(reader, id)?;
    let state = |observer: NodeId| {
        let head = heads.get(&observer);
        let received = head.map_or(0, |head| u32::try_from(head.received.len()).unwrap_or(u32::MAX));
        let parts = head.map_or(0, |head| head.parts);
        ReportState { received, parts, complete: head.is_some_and(|head| head.is_complete()), observer }
    };
    Ok(cut.observers.into_iter().map(state).collect())
}

/// Whether the next interval can be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The next to settle.
    pub interval: IntervalId,
    /// Whether it is cut. If not, the rest is 0.
    pub cut: bool,
    /// Observers that should report.
    pub expected: usize,
    /// Observers whose report is complete.
    pub complete: usize,
    /// How many complete reports settlement needs.
    pub majority: usize,
    /// Whether it can be given up as void without them.
    pub overdue: bool,
}

impl Readiness {
    /// Whether a `Settle` would apply now.
    pub fn can_settle(&self) -> bool {
        self.cut && (self.complete >= self.majority || self.overdue)
    }
}

/// Whether the next interval can be settled; `None` before the cluster's first command.
pub fn readiness(reader: &dyn Reader) -> Result<Option<Readiness>, KeyspaceError> {
    let Some(state) = interval_state(reader)? else { return Ok(None) };
    let interval = state.next_settle;
    let none = Readiness { interval, cut: false, expected: 0, complete: 0, majority: 0, overdue: false };
    let Some(cut) = evidence::cut(reader, interval)? else { return Ok(Some(none)) };
    let complete = reports(reader, interval)?.iter().filter(|report| report.complete).count();
    Ok(Some(Readiness {
        cut: true,
        expected: cut.observers.len(),
        complete,
        majority: cut.majority(),
        overdue: settle::is_overdue(&state, interval),
        ..none
    }))
}

/// The super-nodes that are expected to report on an interval: fixed by its cut; before that, those of now.
pub fn observers(reader: &dyn Reader, id: IntervalId) -> Result<Vec<NodeId>, KeyspaceError> {
    match evidence::cut(reader, id)? {
        Some(cut) => Ok(cut.observers),
        None => Ok(super::members::nodes(reader)?.into_iter().collect()),
    }
}

/// What operators did to the cluster from outside, after the log entry `after`, oldest first.
pub fn recoveries(reader: &dyn Reader, after: Index, limit: usize) -> Result<Vec<Recovery>, KeyspaceError> {
    recoveries::list(reader, after, limit)
}
