//! Somebody who claims and adjusts, on any node, again and again until there is an answer: each claim and each adjustment
//! must happen exactly once, whatever becomes of the nodes meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::claims::Receipt;
use crate::ledger::command::{Answer, Command, Rejection, Request};
use crate::ledger::idempotency::stamped;
use crate::ledger::query;
use crate::node::ports::StateStore;
use crate::node::requests::{AskId, Outcome, Want};
use crate::types::{Amount, Index, MemberId, Micros};

use super::dice::Dice;
use super::host::Host;
use super::trace::Weight;
use super::world::{Answered, Due, World};

/// How long an answer is waited for before the same is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the stream of its dice is numbered by.
const STREAM: u64 = 1 << 42;
/// Whose accounts are moved.
const MEMBERS: [&str; 2] = ["a1", "a2"];

/// What is asked for until it is answered.
#[derive(Debug, Clone)]
enum Wish {
    Claim {
        member: usize,
        seq: u64,
        amount: Amount,
    },
    /// `seen`: how far the log reached when it was first asked for.
    Adjust {
        number: u64,
        member: usize,
        delta: Amount,
        seen: Index,
    },
}

/// See the module's head.
pub struct Treasury {
    dice: Dice,
    wish: Option<Wish>,
    pending: Option<(AskId, Micros)>,
    receipts: BTreeMap<(usize, u64), Receipt>,
    adjusted: BTreeMap<u64, u64>,
    begun: u64,
}

fn id(member: usize) -> MemberId {
    MEMBERS[member].parse().expect("a valid name")
}

impl Treasury {
    /// Begins soon.
    pub fn new(world: &mut World) -> Treasury {
        world.schedule(Duration::from_millis(700), Due::Treasury);
        Treasury {
            dice: Dice::stream(world.plan.seed, STREAM),
            wish: None,
            pending: None,
            receipts: BTreeMap::new(),
            adjusted: BTreeMap::new(),
            begun: 0,
        }
    }

    /// How many claims were paid and adjustments made.
    pub fn moved(&self) -> u64 {
        (self.receipts.len() + self.adjusted.len()) as u64
    }

    /// Its turn: it asks for the next thing, or for the same again.
    pub fn turn(&mut self, world: &mut World) {
        let pause = self.dice.span(Duration::from_millis(200), Duration::from_millis(1_200));
        world.schedule(pause, Due::Treasury);
        if self.pending.is_some_and(|(_, since)| world.now.since(since) < PATIENCE) {
            return;
        }
        let living = world.living();
        if living.is_empty() {
            return;
        }
        let host = *self.dice.pick(&living);
        let wish = self.next_wish(world.told_of);
        world.trace.tell(world.now, Weight::Detail, None, || format!("the treasury asks: {wish:?}"));
        let request = match wish {
            Wish::Claim { member, seq, amount } => {
                Request::new(Command::Claim { member: id(member), seq, amount })
            }
            Wish::Adjust { number, member, delta, seen } => {
                let (reason, operator) = (format!("adjustment {number}"), "treasury".to_string());
                let command = Command::Adjust { member: id(member), delta, reason, operator };
                Request::keyed(stamped(seen, &format!("adjust-{number}")), command)
            }
        };
        self.pending = Some((world.ask(host, Want::Write(request)), world.now));
    }

    /// What is not answered for sure is asked for again, and nothing else before.
    fn next_wish(&mut self, seen: Index) -> Wish {
        if let Some(wish) = &self.wish {
            return wish.clone();
        }
        let member = usize::try_from(self.dice.below(2)).expect("small");
        let wish = if self.dice.chance(700_000) {
            let last = self.receipts.range((member, 0)..=(member, u64::MAX)).next_back();
            let seq = last.map_or(1, |((_, seq), _)| seq + 1);
            let amount = Amount(i64::try_from(1 + self.dice.below(3_000_000)).expect("small"));
            Wish::Claim { member, seq, amount }
        } else {
            self.begun += 1;
            let delta = i64::try_from(self.dice.below(4_000_000)).expect("small") - 1_000_000;
            let delta = Amount(if delta == 0 { 1 } else { delta });
            Wish::Adjust { number: self.begun, member, delta, seen }
        };
        self.wish = Some(wish.clone());
        wish
    }

    /// Takes an answer in, if it is to the treasury; says whether it was.
    pub fn take_answer(&mut self, answered: &Answered) -> Result<bool, String> {
        if self.pending.is_none_or(|(ask, _)| ask != answered.ask) {
            return Ok(false);
        }
        self.pending = None;
        let (Outcome::Write(Ok(applied)), Some(wish)) = (&answered.outcome, self.wish.clone()) else {
            return Ok(true);
        };
        match (&applied.answer, wish) {
            (Answer::Claimed(receipt), Wish::Claim { member, seq, amount }) => {
                if (receipt.seq, receipt.amount, &receipt.member) != (seq, amount, &id(member)) {
                    return Err(format!("paid once: claim {seq} of {amount} was answered by {receipt:?}"));
                }
                self.receipts.insert((member, seq), receipt.clone());
            }
            (Answer::Adjusted { record, .. }, Wish::Adjust { number, .. }) => {
                self.adjusted.insert(number, *record);
            }
            // It certainly did not happen. The number of a claim is free for another amount.
            (
                Answer::Rejected(
                    Rejection::InsufficientFunds(_) | Rejection::Suspended(_) | Rejection::NotFound(_),
                ),
                _,
            ) => {}
            // Whether it happened is forgotten. It will not happen again.
            (Answer::Rejected(Rejection::KeyExpired(_)), Wish::Adjust { .. }) => {}
            // No balance goes below the floor.
            (Answer::Rejected(Rejection::Conflict(_)), Wish::Adjust { .. }) => {}
            (other, wish) => return Err(format!("paid once: {wish:?} was answered by {other:?}")),
        }
        self.wish = None;
        Ok(true)
    }

    /// At the end: what was paid is what was acknowledged, and perhaps the one claim that was not answered.
    pub fn at_end(&self, host: &Host) -> Result<(), String> {
        let view = host.state.view().map_err(|error| format!("storage: {error}"))?;
        let storage = |error| format!("storage: {error}");
        for (member, name) in MEMBERS.iter().enumerate() {
            let state = query::claims(view.as_ref(), &id(member)).map_err(storage)?;
            let last = self.receipts.range((member, 0)..=(member, u64::MAX)).next_back();
            let acknowledged = last.map_or(0, |((_, seq), _)| *seq);
            let open = matches!(self.wish, Some(Wish::Claim { member: open, .. }) if open == member);
            let possible = acknowledged + u64::from(open);
            let found = state.last_seq();
            // A node may be behind, but nobody was paid what nobody asked for.
            if found > possible {
                return Err(format!(
                    "paid once: {} paid claim {found} of {name}, and {possible} was asked",
                    host.id
                ));
            }
            for ((_, seq), receipt) in self.receipts.range((member, 0)..=(member, found)) {
                let movement = query::reward(view.as_ref(), receipt.record).map_err(storage)?;
                let fits = movement.is_some_and(|movement| {
                    movement.amount.0 == -receipt.amount.0 && movement.reason == format!("claim {seq}")
                });
                if !fits {
                    return Err(format!("paid once: claim {seq} of {name} is not where its receipt says"));
                }
            }
        }
        Ok(())
    }
}
