//! News from the ledger: a pure function of the applied state and a cursor, so that every node and every try gives the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::observers::WHY_ABSENT;
use crate::ledger::query::{self, IntervalFilter, RewardFilter};
use crate::ledger::records::{Genesis, Interval, MemberStatus, Movement, MovementKind, Verdict};
use crate::ledger::retention;
use crate::ledger::webhooks::HookCursor;
use crate::types::UnixMillis;

use super::{Kind, News};

/// Most movements of one page; a longer page would only wait in memory.
const MOVEMENTS_MAX: usize = 2_000;
/// Most intervals of one page.
const INTERVALS_MAX: usize = 16;
/// Most elections of one page.
const ELECTIONS_MAX: usize = 100;

/// What follows a cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In order of time, each with the cursor that holds once it is told.
    pub news: Vec<(News, HookCursor)>,
    /// The cursor once all of it is told; equal to the one asked for if there is nothing further.
    pub upto: HookCursor,
    /// How many records were forgotten before they could be told.
    pub forgotten: u64,
}

/// How telling something moves the cursor.
#[derive(Clone, Copy)]
enum Step {
    Election(crate::types::Term),
    /// The last news of an interval.
    Interval(crate::types::IntervalId),
    Movement(u64),
    /// More of the same interval follows.
    Nothing,
}

/// The page that follows `after`. Empty before the cluster's first command.
pub fn page(reader: &dyn Reader, after: &HookCursor, kinds: &BTreeSet<Kind>) -> Result<Page, KeyspaceError> {
    let Some(genesis) = query::genesis(reader)? else { return Ok(Page { upto: *after, ..Page::default() }) };
    let mut page = Page { upto: *after, ..Page::default() };
    page.forgotten = skip_forgotten(reader, &mut page.upto)?;
    let begin = page.upto;
    let mut found: Vec<(News, Step)> = Vec::new();
    elections(reader, &genesis, &mut page.upto, &mut found)?;
    intervals(reader, &genesis, kinds, &mut page.upto, &mut found)?;
    movements(reader, &genesis, kinds, &mut page.upto, &mut found)?;
    found.retain(|(news, _)| kinds.contains(&news.kind));
    // Log time never goes back, so that this keeps the order of each sort.
    found.sort_by_key(|(news, _)| news.at);
    let mut cursor = begin;
    for (news, step) in found {
        match step {
            Step::Election(term) => cursor.elections = term,
            Step::Interval(id) => cursor.intervals = id,
            Step::Movement(seq) => cursor.rewards = seq,
            Step::Nothing => {}
        }
        page.news.push((news, cursor));
    }
    Ok(page)
}

/// Moves a cursor past what is not there any more, and counts that.
fn skip_forgotten(reader: &dyn Reader, cursor: &mut HookCursor) -> Result<u64, KeyspaceError> {
    let trimmed = retention::trimmed(reader)?;
    let intervals = trimmed.through.0.saturating_sub(cursor.intervals.0);
    let movements = trimmed.totals.records.saturating_sub(cursor.rewards);
    cursor.intervals = cursor.intervals.max(trimmed.through);
    cursor.rewards = cursor.rewards.max(trimmed.totals.records);
    Ok(intervals + movements)
}

fn elections(
    reader: &dyn Reader,
    genesis: &Genesis,
    upto: &mut HookCursor,
    found: &mut Vec<(News, Step)>,
) -> Result<(), KeyspaceError> {
    for election in query::elections(reader, upto.elections, ELECTIONS_MAX)? {
        upto.elections = election.term;
        let about = election.term.to_string();
        let data = json!({
            "term": election.term, "leader": election.leader, "previous": election.previous,
            "reason": election.reason, "votes": election.votes, "leaderless_ms": election.leaderless_ms,
        });
        let news = News::new(genesis, Kind::Election, &about, election.at, data);
        found.push((news, Step::Election(election.term)));
    }
    Ok(())
}

fn intervals(
    reader: &dyn Reader,
    genesis: &Genesis,
    kinds: &BTreeSet<Kind>,
    upto: &mut HookCursor,
    found: &mut Vec<(News, Step)>,
) -> Result<(), KeyspaceError> {
    let standings =
        [Kind::Suspended, Kind::Probation, Kind::Reinstated].iter().any(|kind| kinds.contains(kind));
    for interval in query::intervals(reader, upto.intervals, INTERVALS_MAX, &IntervalFilter::default())? {
        upto.intervals = interval.id;
        let before = found.len();
        verdict(genesis, &interval, found);
        if standings {
            standing_changes(reader, genesis, &interval, found)?;
        }
        found.retain(|(news, _)| kinds.contains(&news.kind));
        // Only with the last of them is the interval told.
        if found.len() > before
            && let Some((_, step)) = found.last_mut()
        {
            *step = Step::Interval(interval.id);
        }
    }
    Ok(())
}

fn verdict(genesis: &Genesis, interval: &Interval, found: &mut Vec<(News, Step)>) {
    let id = interval.id;
    let mut tell = |kind: Kind, about: String, data: Value| {
        found.push((News::new(genesis, kind, &about, interval.settled_at, data), Step::Nothing));
    };
    let kind = match interval.verdict {
        Verdict::Void => Some(Kind::Void),
        Verdict::Correlated => Some(Kind::Correlated),
        Verdict::Settled => None,
    };
    if let Some(kind) = kind {
        let data = json!({
            "interval": id, "reason": interval.reason, "observers": interval.observers,
            "members": interval.members,
        });
        tell(kind, id.to_string(), data);
    }
    // Who said nothing was not rejected.
    for observer in interval.observers.iter().filter(|observer| !observer.used && observer.why != WHY_ABSENT)
    {
        let data = json!({ "interval": id, "observer": observer.id, "why": observer.why });
        tell(Kind::ObserverRejected, format!("{id}-{}", observer.id), data);
    }
}

fn standing_changes(
    reader: &dyn Reader,
    genesis: &Genesis,
    interval: &Interval,
    found: &mut Vec<(News, Step)>,
) -> Result<(), KeyspaceError> {
    for judgement in query::standing_changes(reader, interval.id)? {
        let observation = judgement.observation;
        let kind = match observation.status {
            MemberStatus::Suspended => Kind::Suspended,
            MemberStatus::Probation => Kind::Probation,
            MemberStatus::Active => Kind::Reinstated,
            // Not among the changes of a standing.
            MemberStatus::Left => continue,
        };
        let data = json!({
            "interval": interval.id, "member": observation.member, "before": judgement.before.status,
            "strikes": observation.strikes, "availability_ppm": observation.availability_ppm,
        });
        let about = format!("{}-{}", interval.id, observation.member);
        found.push((News::new(genesis, kind, &about, interval.settled_at, data), Step::Nothing));
    }
    Ok(())
}

fn movements(
    reader: &dyn Reader,
    genesis: &Genesis,
    kinds: &BTreeSet<Kind>,
    upto: &mut HookCursor,
    found: &mut Vec<(News, Step)>,
) -> Result<(), KeyspaceError> {
    let of_movements = [Kind::Penalty, Kind::OverClaim, Kind::ClaimPaid, Kind::Adjustment];
    if !of_movements.iter().any(|kind| kinds.contains(kind)) {
        upto.rewards = query::totals(reader)?.records;
        return Ok(());
    }
    let filter = RewardFilter { after: upto.rewards, limit: MOVEMENTS_MAX, ..RewardFilter::default() };
    for movement in query::rewards(reader, &filter)? {
        upto.rewards = movement.seq;
        if let Some(news) = movement_news(genesis, &movement) {
            found.push((news, Step::Movement(movement.seq)));
        }
    }
    Ok(())
}

fn movement_news(genesis: &Genesis, movement: &Movement) -> Option<News> {
    let kind = match movement.kind {
        MovementKind::Reward => return None,
        MovementKind::Penalty => Kind::Penalty,
        MovementKind::Claim => Kind::ClaimPaid,
        MovementKind::ClaimPenalty => Kind::OverClaim,
        MovementKind::Adjustment => Kind::Adjustment,
    };
    let data = json!({
        "seq": movement.seq, "member": movement.member, "amount": movement.amount,
        "balance": movement.balance, "interval": movement.interval, "reason": movement.reason,
    });
    let at: UnixMillis = movement.at;
    Some(News::new(genesis, kind, &movement.seq.to_string(), at, data))
}
