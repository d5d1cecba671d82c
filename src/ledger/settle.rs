//! Settlement: one apply judges and pays every member of an interval **and** advances the counter, so that a
//! failed-over leader's second `Settle` finds nothing to do and nothing is paid twice.

use std::ops::Bound;

use crate::codec::Hash;
use crate::types::{Amount, IntervalId};

use super::accounts::{self, Book};
use super::apply::{Entry, Happening, Step, Stop};
use super::chain;
use super::command::{Answer, Rejection};
use super::evidence::{self, CutRecord, Evidence};
use super::judge::{self, Case, Judged, Subject};
use super::keys;
use super::keyspace::{Direction, Keyspace, KeyspaceError, Reader};
use super::policy::Policy;
use super::records::{Interval, IntervalState, Member, MemberStatus, Observer, Totals, Verdict};
use super::standing::{Standing, StandingChange};
use super::table;

/// An interval without a majority of reports becomes void once so many newer ones are cut.
pub const VOID_AFTER_NEWER_CUTS: u64 = 3;

/// What the settlement of an interval adds up to.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub members: u64,
    pub rewarded: i128,
    pub penalised: i128,
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
}

/// The verdict over an interval, given which observers count.
pub(super) fn verdict(observers: &[Observer], majority: usize) -> Verdict {
    let used = observers.iter().filter(|observer| observer.used).count();
    if used < majority { Verdict::Void } else { Verdict::Settled }
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
    let observers = evidence::select_observers(&cut.observers, &heads);
    let verdict = verdict(&observers, cut.majority());
    let policy: Policy = table::expect(&*space, &keys::policy(cut.policy))?;
    let totals: Totals = table::read_or_default(&*space, keys::TOTALS)?;
    let mut book = Book { totals };
    let mut sums = Sums::default();
    if verdict != Verdict::Void {
        let (index, term, at) = (entry.index, entry.term, entry.at);
        let case = Case { interval, policy: &policy, index, term, at };
        let evidence = Evidence::load(&*space, interval, &observers)?;
        judge_all(space, &case, &mut book, &evidence, &mut sums, happenings)?;
    }
    let record = conclude(entry, interval, &cut, observers, verdict, &sums, &book.totals)?;
    book.totals.interval_hash = record.hash;
    table::write(space, &keys::interval(interval), &record)?;
    table::write(space, keys::TOTALS, &book.totals)?;
    table::write(space, keys::INTERVALS, &IntervalState { next_settle: interval.next(), ..state })?;
    happenings.push(Happening::IntervalSettled {
        interval,
        verdict,
        members: record.members,
        rewarded: record.rewarded,
        penalised: record.penalised,
    });
    Ok(Answer::Done)
}

/// Every member in order: judge, store, and check that the accounts still add up.
fn judge_all(
    space: &mut dyn Keyspace,
    case: &Case<'_>,
    book: &mut Book,
    evidence: &Evidence,
    sums: &mut Sums,
    happenings: &mut Vec<Happening>,
) -> Result<(), Stop> {
    let members = all_members(&*space)?;
    let mut walk = evidence.walk()?;
    let mut balances: i128 = 0;
    for mut member in members {
        let seen = walk.take(member.id.as_str());
        let left = member.status == MemberStatus::Left;
        let cooling = member.status == MemberStatus::Suspended;
        if seen.is_empty() && !cooling {
            balances += i128::from(member.balance.0);
            continue;
        }
        let standing = if left { left_standing(&*space, &member)? } else { Standing::of(&member) };
        let judged = {
            let subject = Subject { member: &member.id, standing, balance: member.balance, left };
            judge::judge(case, book, subject, &seen)
        };
        sums.add(&judged);
        balances += i128::from(judged.balance.0);
        table::write(space, &keys::judgement(case.interval, &member.id), &judged.judgement)?;
        for movement in &judged.movements {
            accounts::store_movement(space, movement)?;
            happenings.push(Happening::moved(movement));
        }
        announce(&member, left, &judged, happenings);
        store_outcome(space, case, &mut member, left, &judged)?;
    }
    if let Some(unknown) = walk.peek() {
        return Err(table::damaged(unknown.as_bytes(), "a report names a member that has no record").into());
    }
    if !accounts::is_conserved(balances, &book.totals) {
        let why = format!("balances add up to {balances}, which the totals do not");
        return Err(table::damaged(keys::TOTALS, why).into());
    }
    Ok(())
}

/// All members in order, those that left included.
fn all_members(reader: &dyn Reader) -> Result<Vec<Member>, KeyspaceError> {
    let prefix = [keys::MEMBER_TABLE];
    let mut members = Vec::new();
    let end = keys::prefix_end(&prefix);
    table::visit(reader, Bound::Included(&prefix), &end, Direction::Forward, &mut |key, value| {
        members.push(table::parse::<Member>(key, value)?);
        Ok(true)
    })?;
    Ok(members)
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

/// Writes the member's record if the interval changed anything about it.
fn store_outcome(
    space: &mut dyn Keyspace,
    case: &Case<'_>,
    member: &mut Member,
    left: bool,
    judged: &Judged,
) -> Result<(), KeyspaceError> {
    let standing_moved = judged.after != judged.judgement.before;
    if !standing_moved && judged.movements.is_empty() {
        return Ok(());
    }
    if left && standing_moved {
        table::write(space, &keys::left_standing(&member.id), &judged.after)?;
    }
    let changed_before = member.index;
    if !left {
        member.status = judged.after.status;
    }
    member.strikes = judged.after.strikes;
    member.suspensions = judged.after.suspensions;
    member.remaining = judged.after.remaining;
    member.balance = judged.balance;
    member.as_of = judged.movements.last().map_or(member.as_of, |movement| movement.seq);
    member.index = case.index;
    accounts::store_member(space, Some(changed_before), member)
}

/// The record of a settled interval, chained to the one before.
fn conclude(
    entry: &Entry<'_>,
    interval: IntervalId,
    cut: &CutRecord,
    observers: Vec<Observer>,
    verdict: Verdict,
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
        settled_at: entry.at,
        leader: entry.leader.clone(),
        term: entry.term,
        index: entry.index,
        policy: cut.policy,
        verdict,
        observers,
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
