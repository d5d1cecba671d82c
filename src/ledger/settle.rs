//! Settlement: one apply judges and pays every member of an interval **and** advances the counter, so that a
//! failed-over leader's second `Settle` finds nothing to do and nothing is paid twice.

use crate::codec::Hash;
use crate::types::{Amount, Index, IntervalId, NodeId, Term, UnixMillis};

use super::accounts::{self, Book};
use super::apply::{Entry, Happening, Step, Stop};
use super::blocks::Gather;
use super::budget::Grants;
use super::chain;
use super::command::{Answer, Rejection};
use super::evidence::{self, CutRecord};
use super::hearing::{self, Brief, Hearing};
use super::judge::{self, Case, Judged, Subject};
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::observers::{CORRELATED_FORGIVEN, Ruling, WHY_ABSENT};
use super::policy::Revision;
use super::records::{Interval, IntervalState, Member, MemberStatus, MovementKind, Totals, Verdict};
use super::roster::{self, Block};
use super::rules;
use super::standing::{Standing, StandingChange};
use super::table::{self, RawRow};

/// An interval without a majority of reports becomes void once so many newer ones are cut.
pub const VOID_AFTER_NEWER_CUTS: u64 = 3;

/// What the settlement of an interval adds up to.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub members: u64,
    pub rewarded: i128,
    pub penalised: i128,
    /// How many movements were rewards, and how many penalties.
    pub movements: (u64, u64),
    /// In the order of members.
    pub observation_hashes: Vec<Hash>,
}

impl Sums {
    /// Adds one member's result.
    pub(super) fn add(&mut self, judged: &Judged) {
        let observation = &judged.judgement.observation;
        self.members += 1;
        self.rewarded += i128::from(observation.reward.0);
        self.penalised += i128::from(observation.penalty.0);
        self.observation_hashes.push(chain::observation_hash(observation));
    }

    /// Counts a movement that was stored.
    fn count(&mut self, kind: MovementKind) {
        match kind {
            MovementKind::Reward => self.movements.0 += 1,
            _ => self.movements.1 += 1,
        }
    }
}

/// Whether an interval that lacks a majority of reports is to be given up.
pub fn is_overdue(state: &IntervalState, interval: IntervalId) -> bool {
    // `open - 1` is the newest that is cut.
    state.open.0 > interval.0.saturating_add(VOID_AFTER_NEWER_CUTS)
}

/// [`super::command::Command::Settle`].
pub(super) fn settle(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    interval: IntervalId,
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = super::intervals::state(&*space)?;
    if interval < state.next_settle {
        return Err(Rejection::Stale(format!("interval {interval} is already settled")).into());
    }
    if interval > state.next_settle || interval >= state.open {
        let next = state.next_settle;
        let why = format!("interval {interval} cannot be settled: {next} is next, {} is open", state.open);
        return Err(Rejection::Conflict(why).into());
    }
    let cut: CutRecord = table::expect(&*space, &keys::cut(interval))?;
    let heads = evidence::heads(&*space, interval)?;
    let complete =
        cut.observers.iter().filter(|id| heads.get(id).is_some_and(|head| head.is_complete())).count();
    if complete < cut.majority() && !is_overdue(&state, interval) {
        let (of, needed) = (cut.observers.len(), cut.majority());
        let why = format!("interval {interval} has {complete} reports of {of}, and needs {needed}");
        return Err(Rejection::Conflict(why).into());
    }
    let revision = rules::revision(&*space, cut.policy)?;
    let brief = Brief::load(&*space, interval, cut)?;
    let before = hearing::correlated_before(&*space, interval)?;
    let mut hearing = brief.hear(&revision, before)?;
    let totals: Totals = table::read_or_default(&*space, keys::TOTALS)?;
    let mut book = Book { totals };
    let mut sums = Sums::default();
    if hearing.ruling.verdict != Verdict::Void {
        let case = Case {
            interval,
            policy: &revision.policy,
            version: brief.cut.version,
            verdict: hearing.ruling.verdict,
            strikes_count: hearing.ruling.strikes_count(),
            index: entry.index,
            term: entry.term,
            at: entry.at,
        };
        judge_all(space, &case, &revision, &mut book, &mut hearing, &mut sums, happenings)?;
    }
    let Hearing { ruling, .. } = hearing;
    tell_ruling(interval, &ruling, happenings);
    let settled =
        Settled { index: entry.index, term: entry.term, at: entry.at, leader: entry.leader.clone() };
    let record = conclude(&settled, interval, &brief.cut, ruling, &sums, &book.totals)?;
    book.totals.interval_hash = record.hash;
    table::write(space, &keys::interval(interval), &record)?;
    table::write(space, keys::TOTALS, &book.totals)?;
    table::write(space, keys::INTERVALS, &IntervalState { next_settle: interval.next(), ..state })?;
    let (rewards, penalties) = sums.movements;
    if rewards + penalties > 0 {
        happenings.push(Happening::Paid { interval, rewards, penalties });
    }
    happenings.push(Happening::IntervalSettled {
        interval,
        verdict: record.verdict,
        reason: record.reason,
        members: record.members,
        rewarded: record.rewarded,
        penalised: record.penalised,
    });
    Ok(Answer::Done)
}

/// What somebody should hear of at once: an observer that is not believed although it reported, and a fleet that has
/// been dark for long.
fn tell_ruling(interval: IntervalId, ruling: &Ruling, happenings: &mut Vec<Happening>) {
    for observer in ruling.observers.iter().filter(|observer| !observer.used) {
        if observer.why != WHY_ABSENT {
            let (observer, why) = (observer.id.clone(), observer.why.clone());
            happenings.push(Happening::ObserverSetAside { interval, observer, why });
        }
    }
    if ruling.correlated == CORRELATED_FORGIVEN {
        happenings.push(Happening::MostMembersDark { interval, intervals: ruling.correlated });
    }
}

/// Every member in order: judge, store, and check that the accounts still add up.
fn judge_all(
    space: &mut dyn Keyspace,
    case: &Case<'_>,
    revision: &Revision,
    book: &mut Book,
    hearing: &mut Hearing<'_>,
    sums: &mut Sums,
    happenings: &mut Vec<Happening>,
) -> Result<(), Stop> {
    let blocks = roster::raw_blocks(&*space)?;
    let grants = grants(&*space, case, revision, hearing, &blocks)?;
    let (mut judgements, mut movements) = (Gather::new(), Gather::new());
    let mut balances: i128 = 0;
    for (key, value) in &blocks {
        let mut block: Block = table::parse(key, value)?;
        let mut changed = false;
        for member in &mut block.members {
            let seen = hearing.docket.take(member.id.as_str());
            let left = member.status == MemberStatus::Left;
            if seen.is_empty() && member.status != MemberStatus::Suspended {
                balances += i128::from(member.balance.0);
                continue;
            }
            let judged = {
                let subject = subject(&*space, hearing, member)?;
                judge::judge(case, book, &grants, subject, &seen)
            };
            sums.add(&judged);
            balances += i128::from(judged.balance.0);
            announce(member, left, &judged, happenings);
            changed |= update(space, case, member, left, &judged)?;
            for movement in judged.movements {
                sums.count(movement.kind);
                movements.push(space, || keys::movement(movement.seq), movement.clone())?;
            }
            judgements.push(space, || keys::judgement(case.interval, &member.id), judged.judgement)?;
        }
        if changed {
            roster::put_block(space, key, block.members, case.index)?;
        }
    }
    movements.store(space)?;
    judgements.store(space)?;
    if let Some(unknown) = hearing.docket.peek() {
        return Err(table::damaged(unknown.as_bytes(), "a report names a member that has no record").into());
    }
    if !accounts::is_conserved(balances, &book.totals) {
        let why = format!("balances add up to {balances}, which the totals do not");
        return Err(table::damaged(keys::TOTALS, why).into());
    }
    Ok(())
}

/// How the budget is shared: needs a look at everybody before anybody is paid, so it is left out without a budget.
fn grants(
    reader: &dyn Reader,
    case: &Case<'_>,
    revision: &Revision,
    hearing: &mut Hearing<'_>,
    blocks: &[RawRow],
) -> Result<Grants, KeyspaceError> {
    if revision.budget <= Amount::ZERO {
        return Ok(Grants::Whole);
    }
    let mut members: Vec<Member> = Vec::new();
    for (key, value) in blocks {
        members.extend(table::parse::<Block>(key, value)?.members);
    }
    let subjects: Result<Vec<Subject<'_>>, _> =
        members.iter().map(|member| subject(reader, hearing, member)).collect();
    Ok(hearing.grants(case, revision, &subjects?))
}

/// A member as it comes before the judge.
fn subject<'m>(
    reader: &dyn Reader,
    hearing: &Hearing<'_>,
    member: &'m Member,
) -> Result<Subject<'m>, KeyspaceError> {
    let left = member.status == MemberStatus::Left;
    let standing = if left { left_standing(reader, member)? } else { Standing::of(member) };
    let excused = hearing.is_excused(&member.id);
    Ok(Subject { member: &member.id, standing, balance: member.balance, left, excused })
}

/// The standing that a member had when it left.
pub(super) fn left_standing(reader: &dyn Reader, member: &Member) -> Result<Standing, KeyspaceError> {
    table::expect(reader, &keys::left_standing(&member.id))
}

fn announce(member: &Member, left: bool, judged: &Judged, happenings: &mut Vec<Happening>) {
    for (kind, amount) in &judged.refused {
        let (kind, amount, member) = (*kind, *amount, member.id.clone());
        happenings.push(Happening::MovementRefused { kind, member, amount });
    }
    if left {
        return;
    }
    let member = member.id.clone();
    match judged.change {
        None => {}
        Some(StandingChange::Suspended(intervals)) => {
            happenings.push(Happening::MemberSuspended { member, intervals });
        }
        Some(StandingChange::Probation) => happenings.push(Happening::MemberProbation { member }),
        Some(StandingChange::Reinstated) => happenings.push(Happening::MemberReinstated { member }),
    }
}

/// Changes the member's record if the interval changed anything about it, and says whether it did.
fn update(
    space: &mut dyn Keyspace,
    case: &Case<'_>,
    member: &mut Member,
    left: bool,
    judged: &Judged,
) -> Result<bool, KeyspaceError> {
    let standing_moved = judged.after != judged.judgement.before;
    if !standing_moved && judged.movements.is_empty() {
        return Ok(false);
    }
    if left && standing_moved {
        table::write(space, &keys::left_standing(&member.id), &judged.after)?;
    }
    if !left {
        member.status = judged.after.status;
    }
    member.strikes = judged.after.strikes;
    member.suspensions = judged.after.suspensions;
    member.remaining = judged.after.remaining;
    member.balance = judged.balance;
    member.as_of = judged.movements.last().map_or(member.as_of, |movement| movement.seq);
    member.index = case.index;
    Ok(true)
}

/// The entry that settles, as its record has it.
pub(super) struct Settled {
    pub index: Index,
    pub term: Term,
    /// Log time.
    pub at: UnixMillis,
    pub leader: NodeId,
}

/// The record of a settled interval, chained to the one before.
pub(super) fn conclude(
    settled: &Settled,
    interval: IntervalId,
    cut: &CutRecord,
    ruling: Ruling,
    sums: &Sums,
    totals: &Totals,
) -> Result<Interval, KeyspaceError> {
    // Each is part of a total that fits, so this only fails on a state that does not add up.
    let amount = |sum: i128| {
        i64::try_from(sum)
            .map(Amount)
            .map_err(|_| table::damaged(keys::TOTALS, "an interval's sum overflows"))
    };
    let mut record = Interval {
        id: interval,
        opened_at: cut.opened_at,
        cut_at: cut.cut_at,
        settled_at: settled.at,
        leader: settled.leader.clone(),
        term: settled.term,
        index: settled.index,
        policy: cut.policy,
        verdict: ruling.verdict,
        reason: ruling.reason,
        observers: ruling.observers,
        members: sums.members,
        rewarded: amount(sums.rewarded)?,
        penalised: amount(sums.penalised)?,
        last_seq: totals.records,
        evidence_hash: chain::evidence_hash_of(&sums.observation_hashes),
        prev_hash: totals.interval_hash,
        hash: Hash::ZERO,
    };
    record.hash = chain::interval_bytes(&record).digest();
    Ok(record)
}
