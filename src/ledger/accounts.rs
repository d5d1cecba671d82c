//! Accounts: how money moves. Every movement is appended to the chain; nothing is ever rewritten.

use crate::codec::Hash;
use crate::types::{Amount, Index, IntervalId, MemberId, Term, UnixMillis};

use super::chain;
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError};
use super::records::{Movement, MovementKind, Totals};
use super::score::Overflow;
use super::table;

/// No penalty takes a balance below this: -100 points.
pub const BALANCE_FLOOR: Amount = Amount(-100 * Amount::POINT);

/// A movement before it has a place in the chain.
#[derive(Debug, Clone)]
pub struct Posting<'a> {
    /// Whose account.
    pub member: &'a MemberId,
    /// Why.
    pub kind: MovementKind,
    /// Signed.
    pub amount: Amount,
    /// The interval that caused it, if one did.
    pub interval: Option<IntervalId>,
    /// In words.
    pub reason: String,
    /// The log entry that makes it.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Log time.
    pub at: UnixMillis,
}

/// The end of the chain and the sums: what it takes to append a movement. Pure, so that `verify` appends to its own.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Sums and heads.
    pub totals: Totals,
}

impl Book {
    /// Appends a movement to an account that holds `balance`. On an error nothing has changed.
    pub fn post(&mut self, balance: Amount, posting: Posting<'_>) -> Result<Movement, Overflow> {
        let balance = balance.checked_add(posting.amount).ok_or(Overflow)?;
        let totals = tally(&self.totals, posting.kind, posting.amount).ok_or(Overflow)?;
        let mut movement = Movement {
            seq: totals.records,
            member: posting.member.clone(),
            kind: posting.kind,
            amount: posting.amount,
            balance,
            interval: posting.interval,
            reason: posting.reason,
            index: posting.index,
            term: posting.term,
            at: posting.at,
            prev_hash: self.totals.head_hash,
            hash: Hash::ZERO,
        };
        movement.hash = chain::movement_bytes(&movement).digest();
        self.totals = Totals { head_hash: movement.hash, ..totals };
        Ok(movement)
    }
}

/// The sums after one more movement. `None` when a sum would overflow, or when the sign is not that of the kind
/// (rewards add, penalties and claims take, nothing is zero).
pub fn tally(totals: &Totals, kind: MovementKind, amount: Amount) -> Option<Totals> {
    let mut after = *totals;
    after.records = totals.records.checked_add(1)?;
    let given = (amount.0 > 0).then_some(amount);
    let taken = (amount.0 < 0).then(|| amount.0.checked_neg().map(Amount)).flatten();
    match (kind, given, taken) {
        (MovementKind::Reward | MovementKind::Adjustment, Some(given), _) => {
            after.minted = totals.minted.checked_add(given)?;
        }
        (MovementKind::Penalty | MovementKind::ClaimPenalty | MovementKind::Adjustment, _, Some(taken)) => {
            after.burned = totals.burned.checked_add(taken)?;
        }
        (MovementKind::Claim, _, Some(taken)) => after.claimed = totals.claimed.checked_add(taken)?,
        _ => return None,
    }
    Some(after)
}

/// Whether the sum of all balances is what the totals say: balances + claimed = minted - burned.
pub fn is_conserved(balances: i128, totals: &Totals) -> bool {
    balances + i128::from(totals.claimed.0) == i128::from(totals.minted.0) - i128::from(totals.burned.0)
}

/// How much of `penalty` a balance can bear before the floor.
pub fn bearable(balance: Amount, penalty: Amount) -> Amount {
    let room = i128::from(balance.0) - i128::from(BALANCE_FLOOR.0);
    let borne = i128::from(penalty.0).min(room).max(0);
    Amount(i64::try_from(borne).expect("between zero and an i64"))
}

/// Stores a movement that no interval made, as a block of its own, and its line in the member's statement. (Those that
/// intervals make are found through the intervals.)
pub(super) fn store_movement(space: &mut dyn Keyspace, movement: &Movement) -> Result<(), KeyspaceError> {
    table::write(space, &keys::movement(movement.seq), &vec![movement])?;
    space.put(&keys::statement(&movement.member, movement.seq), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_stop_at_the_floor() {
        for (balance, penalty, borne) in [
            (0, 5, 5),
            (-99_999_999, 5, 1),
            (-100_000_000, 5, 0),
            (-100_000_001, 5, 0),
            (i64::MIN, i64::MAX, 0),
            (i64::MAX, i64::MAX, i64::MAX),
        ] {
            assert_eq!(bearable(Amount(balance), Amount(penalty)), Amount(borne), "{balance} {penalty}");
        }
    }

    #[test]
    fn a_movement_that_overflows_or_has_the_wrong_sign_changes_nothing() {
        let member = "m".parse().expect("name");
        let posting = |kind, amount| Posting {
            member: &member,
            kind,
            amount: Amount(amount),
            interval: None,
            reason: String::new(),
            index: Index(1),
            term: Term(1),
            at: UnixMillis(0),
        };
        let mut book = Book::default();
        book.post(Amount::ZERO, posting(MovementKind::Reward, i64::MAX)).expect("fits");
        let before = book.totals;
        for (balance, kind, amount) in [
            (i64::MAX, MovementKind::Reward, 1),
            (0, MovementKind::Reward, 1), // minted is at its end
            (0, MovementKind::Reward, -1),
            (0, MovementKind::Reward, 0),
            (0, MovementKind::Penalty, 1),
            (0, MovementKind::Claim, 1),
            (0, MovementKind::Claim, i64::MIN),
            (0, MovementKind::Adjustment, 0),
        ] {
            assert_eq!(book.post(Amount(balance), posting(kind, amount)), Err(Overflow), "{kind:?} {amount}");
            assert_eq!(book.totals, before);
        }
    }
}
