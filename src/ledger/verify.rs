//! Checking the ledger: both chains from first to last, every balance, every settlement computed again.
//!
//! [`ChainChecker`] needs nothing but the records, in order, from wherever they come (MongoDB, an export); [`verify`] adds
//! what only the state holds: the reports, the standings, the members' records.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::codec::{self, Hash};
use crate::types::{Amount, IntervalId, MemberId};

use super::accounts::{self, Book};
use super::blocks::BLOCK_RECORDS;
use super::chain;
use super::evidence::CutRecord;
use super::hearing::{Brief, Hearing};
use super::judge::{self, Case, Judgement, Subject};
use super::keys;
use super::keyspace::{Direction, KeyspaceError, Reader};
use super::observers::{CORRELATED_FORGIVEN, Ruling};
use super::policy::Revision;
use super::query;
use super::records::{
    Interval, IntervalState, Member, MemberStatus, Movement, MovementKind, Observation, Totals,
};
use super::retention::{self, Trimmed};
use super::roster::{self, Block};
use super::rules;
use super::settle::{self, Sums};
use super::standing::Standing;
use super::table::{self, RawRow};

/// How many problems are listed; the first ones matter, the rest follow from them.
pub const PROBLEMS_MAX: usize = 100;
/// After how many movements progress is told.
const PROGRESS_EVERY: u64 = 1_000;

/// The result of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Movements checked.
    pub records: u64,
    /// Intervals checked.
    pub intervals: u64,
    /// Hash of the last movement.
    pub head_hash: Hash,
    /// Hash of the last interval.
    pub interval_hash: Hash,
    /// What is wrong, in words; at most [`PROBLEMS_MAX`].
    pub problems: Vec<String>,
}

/// Walks along both chains. Hand in all movements from the first one on, and each interval when the movements up to its
/// [`Interval::last_seq`] have been handed in (all movements first is fine). After a problem it goes on from the record as
/// it is, so that one bad record is one problem.
#[derive(Debug, Clone, Default)]
pub struct ChainChecker {
    totals: Totals,
    intervals: IntervalId,
    last_seq: u64,
    accounts: BTreeMap<MemberId, (Amount, u64)>,
    /// Sums of rewards and penalties by interval, until the interval has been compared.
    paid: BTreeMap<IntervalId, (i128, i128)>,
    /// It begins after history that was forgotten: a member's first movement shows what was on its account.
    resumed: bool,
}

impl ChainChecker {
    /// At the beginning of both chains.
    pub fn new() -> Self {
        ChainChecker::default()
    }

    /// After what was forgotten, if anything was.
    pub fn after(trimmed: &Trimmed) -> Self {
        ChainChecker {
            totals: trimmed.totals,
            intervals: trimmed.through,
            last_seq: trimmed.totals.records,
            resumed: trimmed.through.0 > 0,
            ..ChainChecker::default()
        }
    }

    /// Sums and heads up to here.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The last interval handed in.
    pub fn last_interval(&self) -> IntervalId {
        self.intervals
    }

    /// A member's balance and the last sequence that touched it.
    pub fn account(&self, member: &MemberId) -> (Amount, u64) {
        self.accounts.get(member).copied().unwrap_or_default()
    }

    /// Checks the next movement: its number, its hashes, its sign, its balance.
    pub fn movement(&mut self, movement: &Movement) -> Result<(), String> {
        let mut problems = Vec::new();
        if movement.seq != self.totals.records + 1 {
            problems.push(format!("it follows {}", self.totals.records));
        }
        if movement.prev_hash != self.totals.head_hash {
            problems.push("its previous hash is not that of the movement before".to_string());
        }
        if movement.hash != chain::movement_bytes(movement).digest() {
            problems.push("its hash is not that of its fields".to_string());
        }
        let known = self.accounts.contains_key(&movement.member) || !self.resumed;
        let opening = Amount(movement.balance.0.saturating_sub(movement.amount.0));
        let balance = if known { self.account(&movement.member).0 } else { opening };
        if balance.checked_add(movement.amount) != Some(movement.balance) {
            let (before, amount, after) = (balance.0, movement.amount.0, movement.balance.0);
            problems.push(format!("its balance is {after}, after {before} and {amount}"));
        }
        match accounts::tally(&self.totals, movement.kind, movement.amount) {
            Some(totals) => self.totals = totals,
            None => problems.push(format!("{} is no amount for its kind", movement.amount.0)),
        }
        self.totals.records = movement.seq;
        self.totals.head_hash = movement.hash;
        self.accounts.insert(movement.member.clone(), (movement.balance, movement.seq));
        if let Some(interval) = movement.interval {
            let paid = self.paid.entry(interval).or_default();
            match movement.kind {
                MovementKind::Reward => paid.0 += i128::from(movement.amount.0),
                MovementKind::Penalty => paid.1 -= i128::from(movement.amount.0),
                MovementKind::Claim | MovementKind::ClaimPenalty | MovementKind::Adjustment => {}
            }
        }
        conclude(format!("movement {}", movement.seq), problems)
    }

    /// Checks the next interval: its number, its hashes, its place among the movements, its sums.
    pub fn interval(&mut self, interval: &Interval) -> Result<(), String> {
        let mut problems = Vec::new();
        if interval.id != self.intervals.next() {
            problems.push(format!("it follows {}", self.intervals));
        }
        if interval.prev_hash != self.totals.interval_hash {
            problems.push("its previous hash is not that of the interval before".to_string());
        }
        if interval.hash != chain::interval_bytes(interval).digest() {
            problems.push("its hash is not that of its fields".to_string());
        }
        if interval.last_seq < self.last_seq || interval.last_seq > self.totals.records {
            let (before, records) = (self.last_seq, self.totals.records);
            problems.push(format!("it ends at movement {}, not in {before} to {records}", interval.last_seq));
        }
        let (rewarded, penalised) = self.paid.remove(&interval.id).unwrap_or_default();
        if (i128::from(interval.rewarded.0), i128::from(interval.penalised.0)) != (rewarded, penalised) {
            problems.push(format!("its movements add up to {rewarded} and {penalised}"));
        }
        self.intervals = interval.id;
        self.last_seq = interval.last_seq;
        self.totals.interval_hash = interval.hash;
        conclude(format!("interval {}", interval.id), problems)
    }

    /// When everything has been handed in: no payment without its interval, and conservation.
    pub fn finish(&self) -> Result<(), String> {
        self.finish_with(0)
    }

    /// As [`ChainChecker::finish`]; `others` is what members hold that no movement was handed in of.
    fn finish_with(&self, others: i128) -> Result<(), String> {
        let mut problems = Vec::new();
        for interval in self.paid.keys() {
            problems.push(format!("there are payments for interval {interval} and no such interval"));
        }
        let own: i128 = self.accounts.values().map(|(balance, _)| i128::from(balance.0)).sum();
        let balances = own + others;
        if !accounts::is_conserved(balances, &self.totals) {
            let Totals { minted, burned, claimed, .. } = self.totals;
            let (minted, burned, claimed) = (minted.0, burned.0, claimed.0);
            problems.push(format!(
                "not conserved: balances {balances} + claimed {claimed} is not minted {minted} - burned {burned}"
            ));
        }
        conclude("ledger".to_string(), problems)
    }
}

/// Whether an interval made it.
pub(super) fn is_payment(movement: &Movement) -> bool {
    matches!(movement.kind, MovementKind::Reward | MovementKind::Penalty)
}

/// Checks an interval's observations (all of them, ordered by member) against its record.
pub fn check_observations(interval: &Interval, observations: &[Observation]) -> Result<(), String> {
    let mut problems = Vec::new();
    if observations.len() as u64 != interval.members {
        problems.push(format!("{} observations of {} members", observations.len(), interval.members));
    }
    if chain::evidence_hash(observations) != interval.evidence_hash {
        problems.push("the evidence hash is not that of the observations".to_string());
    }
    let sum = |amount: &dyn Fn(&Observation) -> Amount| -> i128 {
        observations.iter().map(|observation| i128::from(amount(observation).0)).sum()
    };
    if sum(&|observation| observation.reward) != i128::from(interval.rewarded.0)
        || sum(&|observation| observation.penalty) != i128::from(interval.penalised.0)
    {
        problems.push("the observations do not add up to what was paid".to_string());
    }
    conclude(format!("interval {}", interval.id), problems)
}

fn conclude(what: String, problems: Vec<String>) -> Result<(), String> {
    if problems.is_empty() { Ok(()) } else { Err(format!("{what}: {}", problems.join("; "))) }
}

/// Recomputes the whole ledger of a state, from where it begins: history that was forgotten is represented by its sums and the
/// heads of its chains, see [`super::retention`]. `progress` hears how many of how many records are done.
pub fn verify(reader: &dyn Reader, progress: &mut dyn FnMut(u64, u64)) -> VerifyReport {
    let trimmed = match retention::trimmed(reader) {
        Ok(trimmed) => trimmed,
        Err(error) => return unreadable(&error),
    };
    let mut verifier = Verifier {
        reader,
        checker: ChainChecker::after(&trimmed),
        trimmed,
        standings: BTreeMap::new(),
        pending: VecDeque::new(),
        read_up_to: Vec::from([keys::MOVEMENT_TABLE]),
        correlated: trimmed.correlated.min(CORRELATED_FORGIVEN),
        records: 0,
        others: 0,
        intervals: 0,
        total: 0,
        problems: Vec::new(),
    };
    if let Err(error) = verifier.run(progress) {
        verifier.problem(error.to_string());
    }
    let Verifier { checker, records, intervals, problems, .. } = verifier;
    VerifyReport {
        ok: problems.is_empty(),
        records,
        intervals,
        head_hash: checker.totals.head_hash,
        interval_hash: checker.totals.interval_hash,
        problems,
    }
}

/// Not even where it begins can be read.
fn unreadable(error: &KeyspaceError) -> VerifyReport {
    VerifyReport {
        ok: false,
        records: 0,
        intervals: 0,
        head_hash: Hash::ZERO,
        interval_hash: Hash::ZERO,
        problems: vec![error.to_string()],
    }
}

struct Verifier<'a> {
    reader: &'a dyn Reader,
    /// What stands for the history that was forgotten.
    trimmed: Trimmed,
    checker: ChainChecker,
    /// As they follow from the intervals so far.
    standings: BTreeMap<MemberId, Standing>,
    /// Movements read and not yet checked.
    pending: VecDeque<Movement>,
    /// The last movement's key that was read.
    read_up_to: Vec<u8>,
    /// How many intervals right before were correlated.
    correlated: u64,
    records: u64,
    /// Of them, those that no interval made.
    others: u64,
    intervals: u64,
    total: u64,
    problems: Vec<String>,
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

    fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), KeyspaceError> {
        let totals: Totals = table::read_or_default(self.reader, keys::TOTALS)?;
        let state: Option<IntervalState> = table::read(self.reader, keys::INTERVALS)?;
        let settled = state.map_or(0, |state| state.next_settle.0.saturating_sub(1));
        let forgotten = self.trimmed.totals.records.saturating_add(self.trimmed.through.0);
        self.total = totals.records.saturating_add(settled).saturating_sub(forgotten);
        let mut last = vec![keys::INTERVAL_TABLE];
        let end = keys::prefix_end(&last);
        while let Some((key, value)) = next_row(self.reader, &last, &end)? {
            if let Some(interval) = self.parse::<Interval>(&key, &value) {
                if keys::interval(interval.id) != key {
                    self.problem(format!("interval {}: stands in another's place", interval.id));
                }
                self.interval(&interval, progress);
            }
            last = key;
        }
        while let Some(movement) = self.next_movement()? {
            if is_payment(&movement) {
                self.problem(format!("movement {}: a payment after the last interval", movement.seq));
            }
            self.movement(&movement, progress);
        }
        let others = self.untouched()?;
        let result = self.checker.finish_with(others);
        self.check(result);
        if self.checker.intervals.0 != settled {
            let last = self.checker.intervals;
            self.problem(format!("interval {settled} is the last settled, and the chain ends at {last}"));
        }
        if self.checker.totals != totals {
            self.problem("the totals are not those of the chains".to_string());
        }
        self.members()?;
        self.statements()
    }

    /// What members hold whose last movement was forgotten.
    fn untouched(&self) -> Result<i128, KeyspaceError> {
        let mut balances = 0;
        for (key, value) in roster::raw_blocks(self.reader)? {
            let members = table::parse::<Block>(&key, &value)?.members;
            let untouched = members.iter().filter(|member| self.is_untouched(member));
            balances += untouched.map(|member| i128::from(member.balance.0)).sum::<i128>();
        }
        Ok(balances)
    }

    /// Whether a member's last movement was forgotten: its record is all that there is.
    fn is_untouched(&self, member: &Member) -> bool {
        let forgotten = (1..=self.trimmed.totals.records).contains(&member.as_of);
        forgotten && !self.checker.accounts.contains_key(&member.id)
    }

    /// Decodes a record, and takes it for damaged if it is not exactly what we would have written.
    fn parse<T: DeserializeOwned + Serialize>(&mut self, key: &[u8], value: &[u8]) -> Option<T> {
        match codec::decode::<T>(value) {
            Ok(record) if codec::encode(&record) == value => Some(record),
            Ok(_) => {
                self.problem(format!("damaged record at {}: not in canonical form", key.escape_ascii()));
                None
            }
            Err(error) => {
                self.problem(format!("damaged record at {}: {error}", key.escape_ascii()));
                None
            }
        }
    }

    fn next_movement(&mut self) -> Result<Option<Movement>, KeyspaceError> {
        let end = keys::prefix_end(&[keys::MOVEMENT_TABLE]);
        while self.pending.is_empty() {
            let Some((key, value)) = next_row(self.reader, &self.read_up_to, &end)? else { return Ok(None) };
            if let Some(block) = self.block::<Movement>(&key, &value, |movement| keys::movement(movement.seq))
            {
                self.pending.extend(block);
            }
            self.read_up_to = key;
        }
        Ok(self.pending.pop_front())
    }

    /// Decodes a block of records, which must stand at the key of its first.
    fn block<T: DeserializeOwned + Serialize>(
        &mut self,
        key: &[u8],
        value: &[u8],
        place: impl Fn(&T) -> Vec<u8>,
    ) -> Option<Vec<T>> {
        let records = self.parse::<Vec<T>>(key, value)?;
        if records.first().map(place).as_deref() != Some(key) || records.len() > BLOCK_RECORDS {
            self.problem(format!("damaged record at {}: no block of ours", key.escape_ascii()));
            return None;
        }
        Some(records)
    }

    fn movement(&mut self, movement: &Movement, progress: &mut dyn FnMut(u64, u64)) {
        let result = self.checker.movement(movement);
        self.check(result);
        self.records += 1;
        self.others += u64::from(!is_payment(movement));
        if self.records.is_multiple_of(PROGRESS_EVERY) {
            progress(self.records + self.intervals, self.total);
        }
    }

    fn interval(&mut self, interval: &Interval, progress: &mut dyn FnMut(u64, u64)) {
        let outcome = self.movements_of(interval, progress).and_then(|paid| {
            let derived = self.derive(interval)?;
            if paid != derived {
                self.problem(format!("interval {}: payments do not follow from the evidence", interval.id));
            }
            Ok(paid)
        });
        match outcome {
            Ok(paid) => paid.iter().for_each(|movement| self.movement(movement, progress)),
            Err(error) => self.problem(format!("interval {}: {error}", interval.id)),
        }
        let result = self.checker.interval(interval);
        self.check(result);
        self.intervals += 1;
        progress(self.records + self.intervals, self.total);
    }

    /// The movements up to the end of an interval. Its own payments, which are the last of them, are returned; what
    /// stands before (claims, adjustments) is checked at once, for its payments start from there.
    fn movements_of(
        &mut self,
        interval: &Interval,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Movement>, KeyspaceError> {
        let mut paid = Vec::new();
        while let Some(movement) = self.next_movement()? {
            if movement.seq > interval.last_seq {
                self.pending.push_front(movement);
                break;
            }
            let payment = is_payment(&movement);
            if payment && movement.interval == Some(interval.id) {
                paid.push(movement);
                continue;
            }
            if payment || !paid.is_empty() {
                self.problem(format!("movement {}: out of its place among the intervals", movement.seq));
            }
            self.movement(&movement, progress);
        }
        Ok(paid)
    }

    /// Judges an interval again from the stored reports, compares every observation, and returns the payments that
    /// follow.
    fn derive(&mut self, interval: &Interval) -> Result<Vec<Movement>, KeyspaceError> {
        let id = interval.id;
        let cut: CutRecord = table::expect(self.reader, &keys::cut(id))?;
        let revision = rules::revision(self.reader, cut.policy)?;
        let brief = Brief::load(self.reader, id, cut)?;
        let mut hearing = brief.hear(&revision, self.correlated)?;
        self.correlated = hearing.ruling.correlated.min(CORRELATED_FORGIVEN);
        let follows = follows(interval, &brief.cut, &hearing.ruling);
        self.check(follows);
        let stored = self.judgements(id)?;
        let case = case_of(interval, &revision, &brief.cut, &hearing.ruling);
        let mut book = Book { totals: self.checker.totals };
        let mut sums = Sums::default();
        let mut payments = Vec::new();
        let subjects: Vec<Subject<'_>> =
            stored.iter().map(|judgement| self.subject(&hearing, judgement)).collect();
        let grants = hearing.grants(&case, &revision, &subjects);
        for (judgement, subject) in stored.iter().zip(subjects) {
            let member = subject.member;
            while let Some(other) = hearing.docket.peek().filter(|other| *other < member.as_str()) {
                self.problem(format!("interval {id}: reports on {other} and no observation"));
                hearing.docket.take(other);
            }
            let seen = hearing.docket.take(member.as_str());
            if seen.is_empty() && subject.standing.status != MemberStatus::Suspended {
                self.problem(format!("interval {id}: an observation of {member} and no report on it"));
            }
            let judged = judge::judge(&case, &mut book, &grants, subject, &seen);
            if judged.judgement != *judgement {
                self.problem(format!(
                    "interval {id}: the observation of {member} does not follow from the evidence"
                ));
            }
            sums.add(&judged);
            self.standings.insert(member.clone(), judged.after);
            payments.extend(judged.movements);
        }
        if let Some(other) = hearing.docket.peek() {
            self.problem(format!("interval {id}: reports on {other} and no observation"));
        }
        let observations: Vec<_> = stored.into_iter().map(|judgement| judgement.observation).collect();
        let result = check_observations(interval, &observations);
        self.check(result);
        Ok(payments)
    }

    /// A member as it came before the judge, by what the chains and the intervals so far have led to.
    fn subject<'j>(&self, hearing: &Hearing<'_>, judgement: &'j Judgement) -> Subject<'j> {
        let member = &judgement.observation.member;
        let standing = self.standings.get(member).copied();
        let balance = self.checker.accounts.get(member).map(|(balance, _)| *balance);
        // What it had before the history that is left can only be taken from there.
        let (first_standing, first_balance) = match self.trimmed.through.0 {
            0 => Default::default(),
            _ => (judgement.before, judgement.balance_before),
        };
        Subject {
            member,
            standing: standing.unwrap_or(first_standing),
            balance: balance.unwrap_or(first_balance),
            left: judgement.observation.status == MemberStatus::Left,
            excused: hearing.is_excused(member),
        }
    }

    /// The stored judgements of an interval, in order; each must stand in its place.
    fn judgements(&mut self, id: IntervalId) -> Result<Vec<Judgement>, KeyspaceError> {
        let prefix = keys::numbered(keys::JUDGEMENT_TABLE, id.0);
        let mut rows = Vec::new();
        let end = keys::prefix_end(&prefix);
        table::visit(self.reader, Bound::Included(&prefix), &end, Direction::Forward, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(true)
        })?;
        let place = |judgement: &Judgement| {
            keys::judgement(judgement.observation.interval, &judgement.observation.member)
        };
        let mut judgements = Vec::new();
        for (key, value) in rows {
            judgements.extend(self.block(&key, &value, place).unwrap_or_default());
        }
        let in_place = |judgement: &Judgement| judgement.observation.interval == id;
        let ordered = judgements.is_sorted_by(|a, b| a.observation.member < b.observation.member);
        if !ordered || !judgements.iter().all(in_place) {
            self.problem(format!("interval {id}: its observations are out of order"));
        }
        Ok(judgements)
    }

    /// Every member's record must be what the chains and the intervals lead to.
    fn members(&mut self) -> Result<(), KeyspaceError> {
        let mut count = 0;
        let mut holding = 0;
        let mut untouched = 0;
        for (key, value) in roster::raw_blocks(self.reader)? {
            let Some(block) = self.parse::<Block>(&key, &value) else { continue };
            count += block.members.len() as u64;
            if block.newest != block.members.iter().map(|member| member.index).max().unwrap_or_default() {
                self.problem(format!(
                    "damaged record at {}: its newest change is not noted",
                    key.escape_ascii()
                ));
            }
            for member in &block.members {
                untouched += u64::from(self.is_untouched(member));
                holding += u64::from(self.member(member)?);
            }
        }
        let counted: u64 = table::read_or_default(self.reader, keys::MEMBER_COUNT)?;
        if counted != count || holding != self.checker.accounts.len() as u64 + untouched {
            self.problem("the members' records are not as many as there should be".to_string());
        }
        Ok(())
    }

    /// Checks one member's record; whether it has ever moved money.
    fn member(&mut self, member: &Member) -> Result<bool, KeyspaceError> {
        let id = &member.id;
        let untouched = self.is_untouched(member);
        let (balance, seq) =
            if untouched { (member.balance, member.as_of) } else { self.checker.account(id) };
        if (member.balance, member.as_of) != (balance, seq) {
            let (is, should) = (member.balance.0, balance.0);
            self.problem(format!("member {id}: balance {is}, and its movements lead to {should}"));
        }
        let left = member.status == MemberStatus::Left;
        let standing = if left { settle::left_standing(self.reader, member)? } else { Standing::of(member) };
        let first = if self.trimmed.through.0 == 0 { Standing::default() } else { standing };
        if standing != self.standings.get(id).copied().unwrap_or(first) {
            self.problem(format!("member {id}: its standing does not follow from the intervals"));
        }
        if roster::get(self.reader, id)?.as_ref() != Some(member) {
            self.problem(format!("member {id}: stands where nobody looks for it"));
        }
        Ok(seq > 0)
    }

    /// Every movement that no interval made stands in its member's statement, and nothing else does.
    fn statements(&mut self) -> Result<(), KeyspaceError> {
        let prefix = [keys::STATEMENT_TABLE];
        let (mut lines, mut strange) = (0, None);
        let (reader, end) = (self.reader, keys::prefix_end(&prefix));
        table::visit(reader, Bound::Included(&prefix), &end, Direction::Forward, &mut |key, _| {
            lines += 1;
            let seq = keys::last_number(key).unwrap_or(0);
            let movement = query::reward(reader, seq).unwrap_or(None);
            let fits = movement.is_some_and(|movement| {
                !is_payment(&movement) && keys::statement(&movement.member, seq) == key
            });
            if !fits {
                strange.get_or_insert_with(|| key.escape_ascii().to_string());
            }
            Ok(true)
        })?;
        if let Some(strange) = strange {
            self.problem(format!("the statement line {strange} belongs to no movement"));
        }
        if lines != self.others {
            let others = self.others;
            self.problem(format!("{lines} statement lines of {others} movements that no interval made"));
        }
        Ok(())
    }
}

/// Whether an interval's record says what its cut and its reports lead to.
pub(super) fn follows(interval: &Interval, cut: &CutRecord, ruling: &Ruling) -> Result<(), String> {
    let pinned =
        (interval.opened_at, interval.cut_at, interval.policy) == (cut.opened_at, cut.cut_at, cut.policy);
    let ruled = (interval.verdict, &interval.reason) == (ruling.verdict, &ruling.reason);
    if pinned && ruled && interval.observers == ruling.observers {
        return Ok(());
    }
    Err(format!("interval {}: its record does not follow from its cut and reports", interval.id))
}

/// The case of an interval that was settled.
pub(super) fn case_of<'r>(
    interval: &Interval,
    revision: &'r Revision,
    cut: &CutRecord,
    ruling: &Ruling,
) -> Case<'r> {
    Case {
        interval: interval.id,
        policy: &revision.policy,
        version: cut.version,
        verdict: ruling.verdict,
        strikes_count: ruling.strikes_count(),
        index: interval.index,
        term: interval.term,
        at: interval.settled_at,
    }
}

/// The first row after `after` and before `end`.
fn next_row(reader: &dyn Reader, after: &[u8], end: &[u8]) -> Result<Option<RawRow>, KeyspaceError> {
    let mut found = None;
    table::visit(reader, Bound::Excluded(after), end, Direction::Forward, &mut |key, value| {
        found = Some((key.to_vec(), value.to_vec()));
        Ok(false)
    })?;
    Ok(found)
}
