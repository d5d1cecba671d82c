//! Checking the ledger from its newest record to its oldest: what happened last is known to be sound after a moment, and
//! whoever stops early has checked what matters most.
//!
//! It expects of each record what the later ones say: the head of the chain names the hash of the last movement, a
//! member's record its balance and standing, and each record what was before it. At the beginning nothing may be left
//! over. So a complete check in this direction shows the same as [`super::verify::verify`] does in the other.

use std::collections::BTreeMap;

use crate::types::{Amount, IntervalId, MemberId};

use super::accounts::{self, Book};
use super::blocks;
use super::chain;
use super::evidence::CutRecord;
use super::hearing::{self, Brief};
use super::judge::{self, Judgement, Subject};
use super::keys;
use super::keyspace::{KeyspaceError, Reader};
use super::query;
use super::records::{Interval, Member, MemberStatus, Movement, MovementKind, Totals};
use super::retention::{self, Trimmed};
use super::roster::{self, Block};
use super::rules;
use super::settle::{self, Sums};
use super::standing::Standing;
use super::table;
use super::verify::{PROBLEMS_MAX, VerifyReport, case_of, check_observations, follows, is_payment};

/// What the later records say that a member had.
#[derive(Debug, Clone, Copy)]
struct Expected {
    balance: Amount,
    standing: Standing,
    /// The last movement, until it has been met.
    as_of: Option<u64>,
}

struct Verifier<'a> {
    reader: &'a dyn Reader,
    /// What stands for the history that was forgotten.
    trimmed: Trimmed,
    /// Sums and heads before what has been checked.
    totals: Totals,
    members: BTreeMap<MemberId, Expected>,
    records: u64,
    intervals: u64,
    problems: Vec<String>,
}

/// Recomputes the newest `limit` intervals of a state, and what was moved since, newest first; without a limit all of
/// it. `progress` hears how many of how many records are done.
pub fn verify_from_newest(
    reader: &dyn Reader,
    limit: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
) -> VerifyReport {
    let mut verifier = Verifier {
        reader,
        trimmed: Trimmed::default(),
        totals: Totals::default(),
        members: BTreeMap::new(),
        records: 0,
        intervals: 0,
        problems: Vec::new(),
    };
    let heads = match verifier.run(limit, progress) {
        Ok(heads) => heads,
        Err(error) => {
            verifier.problem(error.to_string());
            Totals::default()
        }
    };
    let Verifier { records, intervals, problems, .. } = verifier;
    VerifyReport {
        ok: problems.is_empty(),
        records,
        intervals,
        head_hash: heads.head_hash,
        interval_hash: heads.interval_hash,
        problems,
    }
}

impl Verifier<'_> {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn check(&mut self, result: Result<(), String>) {
        if let Err(problem) = result {
            self.problem(problem);
        }
    }

    fn run(
        &mut self,
        limit: Option<u64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Totals, KeyspaceError> {
        let heads = query::totals(self.reader)?;
        self.totals = heads;
        let settled = query::interval_state(self.reader)?.map_or(0, |state| state.next_settle.0 - 1);
        self.trimmed = retention::trimmed(self.reader)?;
        let (bottom, forgotten) = (self.trimmed.through.0, self.trimmed.totals.records);
        let last = limit.map_or(bottom, |limit| settled.saturating_sub(limit).max(bottom));
        self.read_members()?;
        let total = (heads.records + settled).saturating_sub(forgotten + bottom);
        for id in (last + 1..=settled).rev() {
            self.interval(IntervalId(id))?;
            progress(self.records + self.intervals, total);
        }
        if last == bottom {
            self.movements_down_to(forgotten)?;
            self.nothing_is_left();
        }
        Ok(heads)
    }

    /// The present records, and conservation.
    fn read_members(&mut self) -> Result<(), KeyspaceError> {
        let mut balances: i128 = 0;
        for (key, value) in roster::raw_blocks(self.reader)? {
            for member in table::parse::<Block>(&key, &value)?.members {
                balances += i128::from(member.balance.0);
                let expected = self.expected_of(&member)?;
                self.members.insert(member.id, expected);
            }
        }
        if !accounts::is_conserved(balances, &self.totals) {
            self.problem(format!("not conserved: balances add up to {balances}, which the totals do not"));
        }
        Ok(())
    }

    fn expected_of(&self, member: &Member) -> Result<Expected, KeyspaceError> {
        let left = member.status == MemberStatus::Left;
        let standing = if left { settle::left_standing(self.reader, member)? } else { Standing::of(member) };
        let as_of = (member.as_of > 0).then_some(member.as_of);
        Ok(Expected { balance: member.balance, standing, as_of })
    }

    /// Checks the movement that comes before those checked so far.
    fn movement(&mut self, movement: &Movement) {
        let mut problems = Vec::new();
        if movement.hash != self.totals.head_hash {
            problems.push("its hash is not the one that the next record names".to_string());
        }
        if movement.hash != chain::movement_bytes(movement).digest() {
            problems.push("its hash is not that of its fields".to_string());
        }
        match self.members.get_mut(&movement.member) {
            None => problems.push(format!("{} has no record", movement.member)),
            Some(expected) => {
                if expected.balance != movement.balance {
                    let (is, should) = (movement.balance.0, expected.balance.0);
                    problems.push(format!("its balance is {is}, and the later records lead to {should}"));
                }
                if expected.as_of.take().is_some_and(|as_of| as_of != movement.seq) {
                    problems
                        .push(format!("it is the last of {}, whose record names another", movement.member));
                }
                let before = i128::from(movement.balance.0) - i128::from(movement.amount.0);
                match i64::try_from(before) {
                    Ok(before) => expected.balance = Amount(before),
                    Err(_) => problems.push("no balance can have been before it".to_string()),
                }
            }
        }
        if !self.take_back(movement) {
            problems.push(format!("{} is no amount for its kind", movement.amount.0));
        }
        self.totals.records = movement.seq.saturating_sub(1);
        self.totals.head_hash = movement.prev_hash;
        self.records += 1;
        if !problems.is_empty() {
            self.problem(format!("movement {}: {}", movement.seq, problems.join("; ")));
        }
    }

    /// The sums before a movement; false if it cannot have been made.
    fn take_back(&mut self, movement: &Movement) -> bool {
        let amount = i128::from(movement.amount.0);
        let sum = match (movement.kind, amount > 0) {
            (MovementKind::Reward | MovementKind::Adjustment, true) => &mut self.totals.minted,
            (MovementKind::Penalty | MovementKind::ClaimPenalty | MovementKind::Adjustment, false) => {
                &mut self.totals.burned
            }
            (MovementKind::Claim, false) => &mut self.totals.claimed,
            _ => return false,
        };
        let before = i128::from(sum.0) - amount.abs();
        match i64::try_from(before) {
            Ok(before) if before >= 0 && amount != 0 => {
                *sum = Amount(before);
                true
            }
            _ => false,
        }
    }

    /// Everything after `seq` that has not been checked, none of which an interval may have made.
    fn movements_down_to(&mut self, seq: u64) -> Result<(), KeyspaceError> {
        while self.totals.records > seq {
            let movement = self.existing(self.totals.records)?;
            if is_payment(&movement) {
                self.problem(format!("movement {}: out of its place among the intervals", movement.seq));
            }
            self.movement(&movement);
        }
        Ok(())
    }

    fn existing(&self, seq: u64) -> Result<Movement, KeyspaceError> {
        query::reward(self.reader, seq)?.ok_or_else(|| table::damaged(&keys::movement(seq), "missing"))
    }

    /// Checks the interval that comes before those checked so far.
    fn interval(&mut self, id: IntervalId) -> Result<(), KeyspaceError> {
        let record: Interval = table::expect(self.reader, &keys::interval(id))?;
        let mut problems = Vec::new();
        if record.id != id {
            problems.push("stands in another's place");
        }
        if record.hash != self.totals.interval_hash {
            problems.push("its hash is not the one that the next record names");
        }
        if record.hash != chain::interval_bytes(&record).digest() {
            problems.push("its hash is not that of its fields");
        }
        for problem in problems {
            self.problem(format!("interval {id}: {problem}"));
        }
        self.movements_down_to(record.last_seq)?;
        if self.totals.records != record.last_seq {
            let (is, should) = (record.last_seq, self.totals.records);
            self.problem(format!(
                "interval {id}: it ends at movement {is}, and the later records at {should}"
            ));
        }
        let payments = self.derive(&record)?;
        for payment in payments.iter().rev() {
            let stored = self.existing(payment.seq)?;
            if stored != *payment {
                self.problem(format!(
                    "interval {id}: payment {} does not follow from the evidence",
                    payment.seq
                ));
            }
            self.movement(&stored);
        }
        self.totals.interval_hash = record.prev_hash;
        self.intervals += 1;
        Ok(())
    }

    /// Judges an interval again from what its judgements say was before; gives the payments that follow.
    fn derive(&mut self, record: &Interval) -> Result<Vec<Movement>, KeyspaceError> {
        let id = record.id;
        let cut: CutRecord = table::expect(self.reader, &keys::cut(id))?;
        let revision = rules::revision(self.reader, cut.policy)?;
        let brief = Brief::load(self.reader, id, cut)?;
        let mut hearing = brief.hear(&revision, hearing::correlated_before(self.reader, id)?)?;
        let result = follows(record, &brief.cut, &hearing.ruling);
        self.check(result);
        let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
        let mut stored: Vec<Judgement> = Vec::new();
        blocks::visit(self.reader, &prefix, &prefix, &mut |judgement| {
            stored.push(judgement);
            Ok(true)
        })?;
        let made: u64 = stored.iter().map(|judgement| judgement.seqs().count() as u64).sum();
        let begin = record.last_seq.saturating_sub(made);
        let forgotten = begin <= self.trimmed.totals.records;
        let head_hash = if forgotten { self.trimmed.totals.head_hash } else { self.existing(begin)?.hash };
        let mut book = Book { totals: Totals { records: begin, head_hash, ..self.totals_before(&stored) } };
        let case = case_of(record, &revision, &brief.cut, &hearing.ruling);
        let subjects: Vec<Subject<'_>> = stored
            .iter()
            .map(|judgement| Subject {
                member: &judgement.observation.member,
                standing: judgement.before,
                balance: judgement.balance_before,
                left: judgement.observation.status == MemberStatus::Left,
                excused: hearing.is_excused(&judgement.observation.member),
            })
            .collect();
        let grants = hearing.grants(&case, &revision, &subjects);
        let (mut sums, mut payments) = (Sums::default(), Vec::new());
        for (judgement, subject) in stored.iter().zip(subjects) {
            let seen = hearing.docket.take(subject.member.as_str());
            let judged = judge::judge(&case, &mut book, &grants, subject, &seen);
            if judged.judgement != *judgement {
                let member = subject.member;
                self.problem(format!(
                    "interval {id}: the observation of {member} does not follow from the evidence"
                ));
            }
            self.standing(id, subject, judged.after);
            sums.add(&judged);
            payments.extend(judged.movements);
        }
        if let Some(other) = hearing.docket.peek() {
            self.problem(format!("interval {id}: reports on {other} and no observation"));
        }
        let observations: Vec<_> = stored.into_iter().map(|judgement| judgement.observation).collect();
        let result = check_observations(record, &observations);
        self.check(result);
        Ok(payments)
    }

    /// The sums before an interval, so that what did not fit then does not fit now.
    fn totals_before(&self, stored: &[Judgement]) -> Totals {
        let (rewarded, penalised) =
            stored.iter().fold((0_i128, 0_i128), |(rewarded, penalised), judgement| {
                let observation = &judgement.observation;
                (rewarded + i128::from(observation.reward.0), penalised + i128::from(observation.penalty.0))
            });
        let before =
            |sum: Amount, part: i128| Amount(i64::try_from(i128::from(sum.0) - part).unwrap_or_default());
        Totals {
            minted: before(self.totals.minted, rewarded),
            burned: before(self.totals.burned, penalised),
            ..self.totals
        }
    }

    /// A member's standing after an interval must be what the later records begin with.
    fn standing(&mut self, id: IntervalId, subject: Subject<'_>, after: Standing) {
        let member = subject.member;
        let found = self.members.get_mut(member);
        let matches = found.as_ref().is_some_and(|expected| expected.standing == after);
        if let Some(expected) = found {
            expected.standing = subject.standing;
        }
        if !matches {
            self.problem(format!(
                "interval {id}: the standing of {member} is not what the later records begin with"
            ));
        }
    }

    /// At the beginning nobody had anything. Where history was forgotten, the sums of that are left over, and what
    /// members had then.
    fn nothing_is_left(&mut self) {
        if self.totals != self.trimmed.totals {
            self.problem("something is left over before the first record".to_string());
        }
        let (resumed, forgotten) = (self.trimmed.through.0 > 0, self.trimmed.totals.records);
        let left = |expected: &Expected| {
            if resumed {
                return expected.as_of.is_some_and(|as_of| as_of > forgotten);
            }
            expected.balance != Amount::ZERO
                || expected.standing != Standing::default()
                || expected.as_of.is_some()
        };
        let strange: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, expected)| left(expected))
            .map(|(member, _)| member.clone())
            .collect();
        for member in strange {
            self.problem(format!(
                "member {member}: its record does not follow from the movements and intervals"
            ));
        }
    }
}
