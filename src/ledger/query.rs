//! Reading the state. Everything is a pure function over a consistent [`Reader`]; lists are in ascending order, begin after
//! a cursor and hold at most `limit` items.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::types::{Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

use super::evidence;
use super::judge::Judgement;
use super::keys;
use super::keyspace::{Direction, KeyspaceError, Reader};
use super::policy::Policy;
use super::records::{
    Checkpoint, Election, Genesis, Interval, IntervalState, KvEntry, Member, Movement, MovementKind,
    Observation, Totals, Verdict,
};
use super::recoveries::{self, Recovery};
use super::settle;
use super::table;

/// Who this cluster is; `None` before its first command.
pub fn genesis(reader: &dyn Reader) -> Result<Option<Genesis>, KeyspaceError> {
    table::read(reader, keys::GENESIS)
}

/// The policy in force for the open interval; `None` before the first command.
pub fn policy(reader: &dyn Reader) -> Result<Option<Policy>, KeyspaceError> {
    match table::read(reader, keys::POLICY_REVISION)? {
        Some(revision) => policy_revision(reader, revision),
        None => Ok(None),
    }
}

/// A revision of the policy, for the intervals that were judged by it.
pub fn policy_revision(reader: &dyn Reader, revision: u64) -> Result<Option<Policy>, KeyspaceError> {
    table::read(reader, &keys::policy(revision))
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
    let after = after.map(keys::member);
    table::page(reader, &[keys::MEMBER_TABLE], after.as_deref(), limit, &mut |_| true)
}

/// One member.
pub fn member(reader: &dyn Reader, id: &MemberId) -> Result<Option<Member>, KeyspaceError> {
    table::read(reader, &keys::member(id))
}

/// How many member records there are, those that left included.
pub fn member_count(reader: &dyn Reader) -> Result<u64, KeyspaceError> {
    table::read_or_default(reader, keys::MEMBER_COUNT)
}

/// Members whose record changed after a log index, in order of [`Member::index`]. All members that one entry changed come
/// together, even when that makes it more than `limit` (a settlement may change all of them): so the last one's
/// index is a safe cursor. Use [`members_changed_page`] where memory must be bounded.
pub fn members_changed_after(
    reader: &dyn Reader,
    after: Index,
    limit: usize,
) -> Result<Vec<Member>, KeyspaceError> {
    changed(reader, after_entry(after), limit, true)
}

/// As [`members_changed_after`], with a hard limit and a finer cursor: the index and name of the last member seen.
pub fn members_changed_page(
    reader: &dyn Reader,
    after: (Index, Option<&MemberId>),
    limit: usize,
) -> Result<Vec<Member>, KeyspaceError> {
    let from = match after {
        (index, None) => after_entry(index),
        (index, Some(member)) => Bound::Excluded(keys::change(index, member)),
    };
    changed(reader, from, limit, false)
}

/// Where the changes by later entries begin.
fn after_entry(index: Index) -> Bound<Vec<u8>> {
    Bound::Included(keys::prefix_end(&keys::numbered(keys::CHANGE_TABLE, index.0)))
}

fn changed(
    reader: &dyn Reader,
    from: Bound<Vec<u8>>,
    limit: usize,
    whole_entries: bool,
) -> Result<Vec<Member>, KeyspaceError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut ids: Vec<(u64, MemberId)> = Vec::new();
    let from = from.as_ref().map(Vec::as_slice);
    let end = keys::prefix_end(&[keys::CHANGE_TABLE]);
    table::visit(reader, from, &end, Direction::Forward, &mut |key, _| {
        let bad = || table::damaged(key, "not a member's change");
        let (index, name) = key[1..].split_first_chunk::<8>().ok_or_else(bad)?;
        let index = u64::from_be_bytes(*index);
        let full = ids.len() >= limit;
        if full && !(whole_entries && ids.last().is_some_and(|(last, _)| *last == index)) {
            return Ok(false);
        }
        let name = std::str::from_utf8(name).map_err(|_| bad())?;
        ids.push((index, name.parse().map_err(|_| bad())?));
        Ok(true)
    })?;
    ids.iter().map(|(_, id)| table::expect(reader, &keys::member(id))).collect()
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

/// Movements in order of sequence. A member's are found through its own index, times by bisection (log time never goes
/// back), so only a filter by kind reads what it does not return.
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
            let from = keys::movement(after);
            let end = keys::prefix_end(&[keys::MOVEMENT_TABLE]);
            table::visit(reader, Bound::Excluded(&from), &end, Direction::Forward, &mut |key, value| {
                Ok(keep(table::parse(key, value)?))
            })?;
        }
        Some(member) => {
            let from = keys::statement(member, after);
            let end = keys::statement(member, u64::MAX);
            table::visit(reader, Bound::Excluded(&from), &end, Direction::Forward, &mut |key, _| {
                let seq = keys::last_number(key).ok_or_else(|| table::damaged(key, "no sequence"))?;
                Ok(keep(table::expect(reader, &keys::movement(seq))?))
            })?;
        }
    }
    Ok(found)
}

/// The last sequence whose movement is older than `time`; 0 for none. Bisection over the contiguous sequences.
fn last_before(reader: &dyn Reader, time: UnixMillis) -> Result<u64, KeyspaceError> {
    let prefix = [keys::MOVEMENT_TABLE];
    let ends = (
        table::edge(reader, &prefix, Direction::Forward)?,
        table::edge(reader, &prefix, Direction::Backward)?,
    );
    let (Some((first, _)), Some((last, _))) = ends else { return Ok(0) };
    // Invariant: everything before `low` is older than `time`, nothing from `high` on is.
    let mut low = keys::last_number(&first).unwrap_or(1);
    let mut high = keys::last_number(&last).unwrap_or(0).saturating_add(1);
    while low < high {
        let middle = low + (high - low) / 2;
        let movement: Movement = table::expect(reader, &keys::movement(middle))?;
        if movement.at < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.saturating_sub(1))
}

/// One movement.
pub fn reward(reader: &dyn Reader, seq: u64) -> Result<Option<Movement>, KeyspaceError> {
    table::read(reader, &keys::movement(seq))
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
    let after = after.map(|member| keys::judgement(id, member));
    let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
    let judgements: Vec<Judgement> = table::page(reader, &prefix, after.as_deref(), limit, &mut |_| true)?;
    Ok(judgements.into_iter().map(|judgement| judgement.observation).collect())
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
    table::read(reader, &keys::judgement(id, member))
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
