//! Money that leaves the ledger, and money that an operator moves: claims and adjustments.
//!
//! A claim carries its number. The next one pays; the last one again, unchanged, gets the stored receipt; anything else
//! is a conflict. So a claimant whose answer was lost repeats the claim for as long as it likes, and is paid once.

use serde::{Deserialize, Serialize};

use crate::types::{Amount, Index, IntervalId, MemberId, Term, UnixMillis};

use super::accounts::{self, Book, Posting};
use super::apply::{Entry, Happening, Step, Stop};
use super::command::{Answer, Rejection};
use super::intervals;
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError, Reader};
use super::query;
use super::records::{Member, MemberStatus, Movement, MovementKind, Totals};
use super::roster;
use super::table;

/// What it costs to claim more than the balance.
pub const OVERCLAIM_PENALTY: Amount = Amount(5 * Amount::POINT);
/// How many intervals back a penalty excuses a claimant who did not know of it.
pub const HONEST_RACE_INTERVALS: u64 = 2;
/// Longest reason of an adjustment, in bytes.
pub const REASON_BYTES_MAX: usize = 256;
/// Longest name of an operator, in bytes.
pub const OPERATOR_BYTES_MAX: usize = 64;

/// What a claimant gets: the same however often it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who was paid.
    pub member: MemberId,
    /// The claim's number.
    pub seq: u64,
    /// What was paid out.
    pub amount: Amount,
    /// The balance after it.
    pub balance: Amount,
    /// The ledger sequence of the movement.
    pub record: u64,
    /// The log entry.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// Log time.
    pub at: UnixMillis,
}

/// What is remembered of a member's claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimState {
    /// The last one that was paid.
    pub receipt: Option<Receipt>,
    /// The interval in which the member was last penalised for claiming too much.
    pub penalised: Option<IntervalId>,
}

impl ClaimState {
    /// The number of the last claim that was paid; 0: none.
    pub fn last_seq(&self) -> u64 {
        self.receipt.as_ref().map_or(0, |receipt| receipt.seq)
    }
}

/// A member's claims.
pub fn state(reader: &dyn Reader, member: &MemberId) -> Result<ClaimState, KeyspaceError> {
    table::read_or_default(reader, &keys::claims(member))
}

/// [`super::command::Command::Claim`].
pub(super) fn claim(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    id: &MemberId,
    (seq, amount): (u64, Amount),
    happenings: &mut Vec<Happening>,
) -> Step {
    if amount <= Amount::ZERO {
        let why = format!("a claim is for more than nothing, not for {} micro-points", amount.0);
        return Err(Rejection::BadRequest(why).into());
    }
    let member = known(&*space, id)?;
    let claims = state(&*space, id)?;
    if let Some(receipt) = claims.receipt.as_ref().filter(|receipt| receipt.seq == seq) {
        if receipt.amount == amount {
            return Ok(Answer::Claimed(receipt.clone()));
        }
        let why = format!("claim {seq} of {id} was for {}, not {amount} points", receipt.amount);
        return Err(Rejection::Conflict(why).into());
    }
    let next = claims.last_seq().saturating_add(1);
    if seq != next {
        return Err(Rejection::Conflict(format!("the next claim of {id} is number {next}, not {seq}")).into());
    }
    if member.status == MemberStatus::Suspended {
        let why =
            format!("{id} is suspended for {} more settled intervals: nothing is paid out", member.remaining);
        return Err(Rejection::Suspended(why).into());
    }
    if amount > member.balance {
        return overclaimed(space, entry, member, claims, (seq, amount), happenings);
    }
    let movement = post(
        space,
        entry,
        member,
        (MovementKind::Claim, Amount(-amount.0)),
        format!("claim {seq}"),
        happenings,
    )?;
    let receipt = Receipt {
        member: id.clone(),
        seq,
        amount,
        balance: movement.balance,
        record: movement.seq,
        index: entry.index,
        term: entry.term,
        at: entry.at,
    };
    let claims = ClaimState { receipt: Some(receipt.clone()), ..claims };
    table::write(space, &keys::claims(id), &claims)?;
    Ok(Answer::Claimed(receipt))
}

/// More was claimed than there is. It costs, once an interval, unless the claimant may not have known of what it lost just
/// now. The rejection itself is recorded: this is why it is an answer and no early end.
fn overclaimed(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    member: Member,
    claims: ClaimState,
    (seq, amount): (u64, Amount),
    happenings: &mut Vec<Happening>,
) -> Step {
    let state = intervals::state(&*space)?;
    let id = member.id.clone();
    let excess = i128::from(amount.0) - i128::from(member.balance.0);
    let mut lost_just_now = 0_i128;
    for back in 1..=HONEST_RACE_INTERVALS {
        let interval = IntervalId(state.next_settle.0.saturating_sub(back));
        let observation = query::observation(&*space, interval, &id)?;
        lost_just_now += observation.map_or(0, |observation| i128::from(observation.penalty.0));
    }
    let penalty = accounts::bearable(member.balance, OVERCLAIM_PENALTY);
    let balance = member.balance;
    let word = if excess <= lost_just_now {
        format!(
            "no penalty: the last {HONEST_RACE_INTERVALS} intervals took {lost_just_now} micro-points, so you may not have known"
        )
    } else if claims.penalised == Some(state.open) {
        format!("no further penalty in interval {}", state.open)
    } else if penalty <= Amount::ZERO {
        "no penalty: the balance is at its floor".to_string()
    } else {
        let reason = format!("claim {seq} of {amount} points, which is more than the balance");
        post(space, entry, member, (MovementKind::ClaimPenalty, Amount(-penalty.0)), reason, happenings)?;
        let claims = ClaimState { penalised: Some(state.open), ..claims };
        table::write(space, &keys::claims(&id), &claims)?;
        happenings.push(Happening::OverClaimed { member: id.clone(), amount, balance, penalty });
        format!("penalty {penalty} points")
    };
    let why = format!("{id} claims {amount} points and holds {balance}: nothing is paid out, {word}");
    Ok(Answer::Rejected(Rejection::InsufficientFunds(why)))
}

/// [`super::command::Command::Adjust`]. Appends; what was wrong stays on record beside what put it right.
pub(super) fn adjust(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    id: &MemberId,
    delta: Amount,
    (reason, operator): (&str, &str),
    happenings: &mut Vec<Happening>,
) -> Step {
    if delta == Amount::ZERO {
        return Err(Rejection::BadRequest("an adjustment of nothing".to_string()).into());
    }
    check_text("reason", reason, REASON_BYTES_MAX)?;
    check_text("operator", operator, OPERATOR_BYTES_MAX)?;
    let member = known(&*space, id)?;
    let after = i128::from(member.balance.0) + i128::from(delta.0);
    if delta < Amount::ZERO && after < i128::from(accounts::BALANCE_FLOOR.0) {
        let why = format!(
            "{id} holds {}, and no balance goes below {} points",
            member.balance,
            accounts::BALANCE_FLOOR
        );
        return Err(Rejection::Conflict(why).into());
    }
    let reason = format!("{reason} (operator {operator})");
    let movement = post(space, entry, member, (MovementKind::Adjustment, delta), reason, happenings)?;
    Ok(Answer::Adjusted { record: movement.seq, balance: movement.balance })
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Rejection> {
    if text.trim().is_empty() || text.len() > bytes_max || text.chars().any(char::is_control) {
        let why = format!("an adjustment has a {what} of 1 to {bytes_max} printable bytes");
        return Err(Rejection::BadRequest(why));
    }
    Ok(())
}

fn known(reader: &dyn Reader, id: &MemberId) -> Result<Member, Stop> {
    roster::get(reader, id)?.ok_or_else(|| Rejection::NotFound(format!("member {id}")).into())
}

/// Makes one movement outside of any interval and stores what it changes.
fn post(
    space: &mut dyn Keyspace,
    entry: &Entry<'_>,
    mut member: Member,
    (kind, amount): (MovementKind, Amount),
    reason: String,
    happenings: &mut Vec<Happening>,
) -> Result<Movement, Stop> {
    let totals: Totals = table::read_or_default(&*space, keys::TOTALS)?;
    let mut book = Book { totals };
    let (index, term, at) = (entry.index, entry.term, entry.at);
    let posting = Posting { member: &member.id, kind, amount, interval: None, reason, index, term, at };
    let movement = book.post(member.balance, posting).map_err(|overflow| {
        Rejection::Conflict(format!("{} of {amount} points for {}: {overflow}", kind.as_str(), member.id))
    })?;
    accounts::store_movement(space, &movement)?;
    table::write(space, keys::TOTALS, &book.totals)?;
    (member.balance, member.as_of, member.index) = (movement.balance, movement.seq, entry.index);
    roster::put(space, &member)?;
    happenings.push(Happening::moved(&movement));
    Ok(movement)
}
