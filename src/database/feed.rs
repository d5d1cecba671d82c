//! Where the records come from: the port between the projector and the ledger.
//!
//! [`LedgerFeed`] reads what a running node has applied; [`MemoryFeed`] holds lists.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query::{self, IntervalFilter, RewardFilter};
use crate::ledger::records::{Checkpoint, Election, Genesis, Interval, Member, Movement, Observation};
use crate::node::handle::Handle;
use crate::node::ports::StateStore;
use crate::types::{Index, IntervalId, MemberId, Term};

/// Most intervals in one [`Batch`].
pub const INTERVALS_PER_BATCH_MAX: usize = 256;

/// What follows a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Movements, contiguous and in order.
    pub rewards: Vec<Movement>,
    /// Settled intervals, contiguous and in order. Only those whose movements all lie at or before `upto`: somebody who
    /// finds an interval in MongoDB finds everything that it paid.
    pub intervals: Vec<Interval>,
    /// All observations of `intervals`.
    pub observations: Vec<Observation>,
    /// Elections by term.
    pub elections: Vec<Election>,
    /// Members that changed, as they are now, by the index of the change.
    pub members: Vec<Member>,
    /// The checkpoint once all of this is in MongoDB.
    pub upto: Checkpoint,
}

impl Batch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rewards.is_empty()
            && self.intervals.is_empty()
            && self.elections.is_empty()
            && self.members.is_empty()
    }
}

/// A source of records. Calls may block for as long as the state store takes to read.
pub trait Feed: Send + Sync + 'static {
    /// Who this cluster is; `None` before its first command.
    fn genesis(&self) -> Result<Option<Genesis>, KeyspaceError>;

    /// What follows `after`: about `limit` records of each kind, more only where a kind cannot be split.
    fn next(&self, after: &Checkpoint, limit: usize) -> Result<Batch, KeyspaceError>;

    /// How many movements, intervals and elections follow `after`.
    fn remaining(&self, after: &Checkpoint) -> Result<u64, KeyspaceError>;

    /// The checkpoint that the cluster has agreed on; it may lie behind MongoDB's.
    fn projected(&self) -> Result<Checkpoint, KeyspaceError>;
}

/// Pages of one consistent view, from which [`assemble`] makes a batch.
pub trait Pages {
    /// Movements with a sequence above `after`.
    fn rewards(&self, after: u64, limit: usize) -> Result<Vec<Movement>, KeyspaceError>;
    /// Settled intervals above `after`.
    fn intervals(&self, after: IntervalId, limit: usize) -> Result<Vec<Interval>, KeyspaceError>;
    /// All observations of an interval.
    fn observations(&self, interval: IntervalId) -> Result<Vec<Observation>, KeyspaceError>;
    /// Elections with a term above `after`.
    fn elections(&self, after: Term, limit: usize) -> Result<Vec<Election>, KeyspaceError>;
    /// Members whose last change lies above `after`, ordered by that change. All that changed at one index come
    /// together, even beyond `limit`: a settlement changes many at once, and the cursor is that index alone.
    fn members(&self, after: Index, limit: usize) -> Result<Vec<Member>, KeyspaceError>;
}

/// The batch that follows `after` in one view.
pub fn assemble(pages: &dyn Pages, after: &Checkpoint, limit: usize) -> Result<Batch, KeyspaceError> {
    let limit = limit.max(1);
    let mut batch = Batch { rewards: pages.rewards(after.rewards, limit)?, upto: *after, ..Batch::default() };
    if let Some(last) = batch.rewards.last() {
        batch.upto.rewards = last.seq;
    }
    for interval in pages.intervals(after.intervals, limit.min(INTERVALS_PER_BATCH_MAX))? {
        if interval.last_seq > batch.upto.rewards {
            break;
        }
        let observations = pages.observations(interval.id)?;
        if !batch.intervals.is_empty() && batch.observations.len() + observations.len() > limit {
            break;
        }
        batch.observations.extend(observations);
        batch.upto.intervals = interval.id;
        batch.intervals.push(interval);
    }
    batch.elections = pages.elections(after.elections, limit)?;
    if let Some(last) = batch.elections.last() {
        batch.upto.elections = last.term;
    }
    batch.members = pages.members(after.members, limit)?;
    if let Some(last) = batch.members.last() {
        batch.upto.members = last.index;
    }
    Ok(batch)
}

/// What a running node has applied.
#[derive(Clone)]
pub struct LedgerFeed {
    state: Arc<dyn StateStore>,
}

impl LedgerFeed {
    /// The feed of a running node.
    pub fn new(handle: Handle) -> Self {
        LedgerFeed { state: handle.state }
    }

    /// The feed of an applied state.
    pub fn of(state: Arc<dyn StateStore>) -> Self {
        LedgerFeed { state }
    }
}

/// Elections that [`Feed::remaining`] counts one by one; more are reported as this many.
const ELECTIONS_COUNTED_MAX: usize = 1_000;

impl Feed for LedgerFeed {
    fn genesis(&self) -> Result<Option<Genesis>, KeyspaceError> {
        query::genesis(&*self.state.view()?)
    }

    fn next(&self, after: &Checkpoint, limit: usize) -> Result<Batch, KeyspaceError> {
        assemble(&View(&*self.state.view()?), after, limit)
    }

    fn remaining(&self, after: &Checkpoint) -> Result<u64, KeyspaceError> {
        let view = self.state.view()?;
        let rewards = query::totals(&*view)?.records.saturating_sub(after.rewards);
        // Settled are all before the next to settle.
        let settled = query::interval_state(&*view)?.map_or(0, |state| state.next_settle.0.saturating_sub(1));
        let elections = query::elections(&*view, after.elections, ELECTIONS_COUNTED_MAX)?.len() as u64;
        Ok(rewards + settled.saturating_sub(after.intervals.0) + elections)
    }

    fn projected(&self) -> Result<Checkpoint, KeyspaceError> {
        query::checkpoint(&*self.state.view()?)
    }
}

/// Pages of one consistent view of the applied state.
struct View<'a>(&'a dyn Reader);

impl Pages for View<'_> {
    fn rewards(&self, after: u64, limit: usize) -> Result<Vec<Movement>, KeyspaceError> {
        query::rewards(self.0, &RewardFilter { after, limit, ..RewardFilter::default() })
    }

    fn intervals(&self, after: IntervalId, limit: usize) -> Result<Vec<Interval>, KeyspaceError> {
        query::intervals(self.0, after, limit, &IntervalFilter::default())
    }

    fn observations(&self, interval: IntervalId) -> Result<Vec<Observation>, KeyspaceError> {
        query::observations(self.0, interval)
    }

    fn elections(&self, after: Term, limit: usize) -> Result<Vec<Election>, KeyspaceError> {
        query::elections(self.0, after, limit)
    }

    fn members(&self, after: Index, limit: usize) -> Result<Vec<Member>, KeyspaceError> {
        query::members_changed_after(self.0, after, limit)
    }
}

/// Records in lists, for tests and for comparing MongoDB with an export.
#[derive(Debug, Default)]
pub struct MemoryFeed {
    /// The lists; each ordered as in [`Batch`].
    pub records: RwLock<MemoryRecords>,
}

/// The lists of a [`MemoryFeed`].
#[derive(Debug, Clone, Default)]
pub struct MemoryRecords {
    /// Who the cluster is.
    pub genesis: Option<Genesis>,
    /// By sequence.
    pub rewards: Vec<Movement>,
    /// By id.
    pub intervals: Vec<Interval>,
    /// By interval, then member.
    pub observations: BTreeMap<IntervalId, Vec<Observation>>,
    /// By term.
    pub elections: Vec<Election>,
    /// By name, as they are now.
    pub members: BTreeMap<MemberId, Member>,
    /// What the cluster has agreed on.
    pub projected: Checkpoint,
}

/// The items of a list, ordered by `key`, whose key is above `above`.
fn after<T: Clone, K: Ord>(list: &[T], key: impl Fn(&T) -> K, above: &K, limit: usize) -> Vec<T> {
    let start = list.partition_point(|item| key(item) <= *above);
    list[start..].iter().take(limit).cloned().collect()
}

impl Pages for MemoryRecords {
    fn rewards(&self, above: u64, limit: usize) -> Result<Vec<Movement>, KeyspaceError> {
        Ok(after(&self.rewards, |record| record.seq, &above, limit))
    }

    fn intervals(&self, above: IntervalId, limit: usize) -> Result<Vec<Interval>, KeyspaceError> {
        Ok(after(&self.intervals, |record| record.id, &above, limit))
    }

    fn observations(&self, interval: IntervalId) -> Result<Vec<Observation>, KeyspaceError> {
        Ok(self.observations.get(&interval).cloned().unwrap_or_default())
    }

    fn elections(&self, above: Term, limit: usize) -> Result<Vec<Election>, KeyspaceError> {
        Ok(after(&self.elections, |record| record.term, &above, limit))
    }

    fn members(&self, above: Index, limit: usize) -> Result<Vec<Member>, KeyspaceError> {
        let mut changed: Vec<&Member> = self.members.values().filter(|member| member.index > above).collect();
        changed.sort_by_key(|member| member.index);
        if let Some(last) = changed.get(limit.saturating_sub(1)).map(|member| member.index) {
            changed.retain(|member| member.index <= last);
        }
        Ok(changed.into_iter().cloned().collect())
    }
}

impl Feed for MemoryFeed {
    fn genesis(&self) -> Result<Option<Genesis>, KeyspaceError> {
        Ok(self.records.read().unwrap_or_else(PoisonError::into_inner).genesis.clone())
    }

    fn next(&self, after: &Checkpoint, limit: usize) -> Result<Batch, KeyspaceError> {
        assemble(&*self.records.read().unwrap_or_else(PoisonError::into_inner), after, limit)
    }

    fn remaining(&self, after: &Checkpoint) -> Result<u64, KeyspaceError> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let rewards = records.rewards.iter().filter(|record| record.seq > after.rewards).count();
        let intervals = records.intervals.iter().filter(|record| record.id > after.intervals).count();
        let elections = records.elections.iter().filter(|record| record.term > after.elections).count();
        Ok((rewards + intervals + elections) as u64)
    }

    fn projected(&self) -> Result<Checkpoint, KeyspaceError> {
        Ok(self.records.read().unwrap_or_else(PoisonError::into_inner).projected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Hash;
    use crate::ledger::records::{MemberKind, MemberStatus, MovementKind, Verdict};
    use crate::types::{Amount, UnixMillis};

    fn movement(seq: u64) -> Movement {
        Movement {
            seq,
            member: "m".parse().expect("name"),
            kind: MovementKind::Reward,
            amount: Amount(1),
            balance: Amount(1),
            interval: None,
            reason: String::new(),
            index: Index(seq),
            term: Term(1),
            at: UnixMillis(0),
            prev_hash: Hash::ZERO,
            hash: Hash::ZERO,
        }
    }

    fn interval(id: u64, last_seq: u64) -> Interval {
        Interval {
            id: IntervalId(id),
            opened_at: UnixMillis(0),
            cut_at: UnixMillis(0),
            settled_at: UnixMillis(0),
            leader: "n1".parse().expect("name"),
            term: Term(1),
            index: Index(1),
            policy: 1,
            verdict: Verdict::Settled,
            reason: String::new(),
            observers: Vec::new(),
            members: 0,
            rewarded: Amount(0),
            penalised: Amount(0),
            last_seq,
            evidence_hash: Hash::ZERO,
            prev_hash: Hash::ZERO,
            hash: Hash::ZERO,
        }
    }

    fn name(id: &str) -> MemberId {
        id.parse().expect("name")
    }

    fn member(id: &str, index: u64) -> Member {
        Member {
            id: name(id),
            kind: MemberKind::Agent,
            address: String::new(),
            status: MemberStatus::Active,
            balance: Amount(0),
            strikes: 0,
            suspensions: 0,
            remaining: 0,
            joined_at: UnixMillis(0),
            as_of: 0,
            index: Index(index),
        }
    }

    /// Claim: an interval waits until all its movements go with it or before it.
    #[test]
    fn an_interval_never_overtakes_its_movements() {
        let records = MemoryRecords {
            rewards: (1..=5).map(movement).collect(),
            intervals: vec![interval(1, 2), interval(2, 5)],
            ..MemoryRecords::default()
        };
        let first = assemble(&records, &Checkpoint::default(), 4).expect("memory");
        assert_eq!((first.rewards.len(), first.intervals.len(), first.upto.intervals), (4, 1, IntervalId(1)));
        let second = assemble(&records, &first.upto, 4).expect("memory");
        assert_eq!((second.rewards.len(), second.upto.intervals), (1, IntervalId(2)));
        assert!(assemble(&records, &second.upto, 4).expect("memory").is_empty());
    }

    /// Claim: members that changed at one index are never split between two batches, however many they are.
    #[test]
    fn members_of_one_change_stay_together() {
        let mut records = MemoryRecords::default();
        records.members.insert(name("a"), member("a", 1));
        for id in ["b", "c", "d", "e", "f"] {
            records.members.insert(name(id), member(id, 2));
        }
        records.members.insert(name("g"), member("g", 3));
        let first = assemble(&records, &Checkpoint::default(), 2).expect("memory");
        assert_eq!((first.members.len(), first.upto.members), (6, Index(2)));
        let second = assemble(&records, &first.upto, 2).expect("memory");
        assert_eq!((second.members.len(), second.upto.members), (1, Index(3)));
    }
}
