//! Requests under way: who asked, where the request is, and what it still waits for.
//!
//! Invariants: every request is in exactly one of the four maps, and each is answered exactly once. A write is
//! answered with a failure other than [`Failure::Unknown`] only if it cannot happen any more.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ledger::command::{Applied, Request};
use crate::raft::RequestId;
use crate::types::{Index, Micros, NodeId, Term};

use super::handle::Failure;

/// Most requests that wait for a leader to be known; more are refused as [`Failure::NoLeader`].
pub const PARKED_MAX: usize = 1_024;
/// How long a request waits for a leader to be known before it fails with [`Failure::NoLeader`], unless its asker has
/// less patience.
pub const PARKED_FOR: Duration = Duration::from_millis(1_500);
/// How long a forwarded request waits for the other node's word.
pub const FORWARDED_FOR: Duration = Duration::from_secs(10);

/// Names an ask of this process; chosen by the shell, never reused.
pub type AskId = u64;

/// Who wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Somebody above, through the handle.
    Ask(AskId),
    /// Another node that forwarded it under its own number.
    Peer {
        /// The node.
        node: NodeId,
        /// Its number.
        id: u64,
    },
    /// This node's own duties, which look at the applied state instead of the answer.
    Duty,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// A write.
    Write(Request),
    /// A read index.
    Read,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a write.
    Write(Result<Applied, Failure>),
    /// Of a read: the index is applied here (for an ask) or is to be waited for (for a peer).
    Read(Result<Index, Failure>),
}

/// A finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Who wants to know.
    pub origin: Origin,
    /// What came of it.
    pub outcome: Outcome,
}

/// A request that is to be started (again).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its number.
    pub id: RequestId,
    /// Who wants to know.
    pub origin: Origin,
    /// What is wanted.
    pub want: Want,
    /// When it was first asked.
    pub since: Micros,
    /// Until when it may wait for a leader to be known.
    pub park_until: Micros,
    /// Whether it may go to another node that leads.
    pub forward: bool,
    /// An earlier try was lost on its way and may have happened, or may still happen: no failure of a later try says
    /// anything about it.
    pub doubtful: bool,
}

#[derive(Debug)]
struct Forwarded {
    request: Started,
    to: NodeId,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Requests {
    last_id: RequestId,
    /// Handed to the core, not yet placed or refused.
    in_core: BTreeMap<RequestId, Started>,
    /// In the log, by position and term; the answer comes when that position is applied. Two terms of one position
    /// may wait side by side: this node led, lost its entries, and leads again.
    in_log: BTreeMap<(Index, Term), Started>,
    /// With another node.
    forwarded: BTreeMap<RequestId, Forwarded>,
    /// Reads that know their index and wait for it to be applied.
    reading: BTreeMap<(Index, RequestId), Origin>,
    /// Waiting for a leader to be known, oldest first.
    parked: VecDeque<Started>,
    /// No forwarded or parked request is overdue before this; `None`: there are none. It may come too early, when the
    /// request that it was for has been answered: looking through all of them for every batch would cost more.
    overdue_from: Option<Micros>,
}

impl Requests {
    /// `entropy` is where the numbers begin: peers keep requests of a process that died, and must not be able to answer
    /// those of its successor with what came of them.
    pub fn new(entropy: u64) -> Requests {
        Requests { last_id: entropy, ..Requests::default() }
    }

    /// Takes in a new request.
    pub fn begin(&mut self, origin: Origin, want: Want, now: Micros, patience: Duration) -> Started {
        self.last_id = self.last_id.wrapping_add(1);
        let park_until = now.after(patience.min(PARKED_FOR));
        Started { id: self.last_id, origin, want, since: now, park_until, forward: false, doubtful: false }
    }

    /// How many requests are under way.
    pub fn len(&self) -> usize {
        self.in_core.len() + self.in_log.len() + self.forwarded.len() + self.reading.len() + self.parked.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The core has it now.
    pub fn to_core(&mut self, request: Started) {
        self.in_core.insert(request.id, request);
    }

    /// Another node has it now.
    pub fn to_peer(&mut self, request: Started, to: NodeId) {
        self.look_at(request.since.after(FORWARDED_FOR));
        self.forwarded.insert(request.id, Forwarded { request, to });
    }

    /// Nobody leads: it waits, or fails at once if too many do or if it already waited too long.
    pub fn park(&mut self, request: Started, now: Micros) -> Option<Finished> {
        if self.parked.len() >= PARKED_MAX || now >= request.park_until {
            return Some(fail(request, Failure::NoLeader));
        }
        self.look_at(request.park_until);
        self.parked.push_back(request);
        None
    }

    fn look_at(&mut self, at: Micros) {
        self.overdue_from = Some(self.overdue_from.map_or(at, |known| known.min(at)));
    }

    /// Takes all that wait for a leader.
    pub fn unpark(&mut self) -> VecDeque<Started> {
        std::mem::take(&mut self.parked)
    }

    /// The core put a write into the log.
    pub fn placed(&mut self, id: RequestId, index: Index, term: Term) {
        if let Some(request) = self.in_core.remove(&id) {
            let replaced = self.in_log.insert((index, term), request);
            assert!(replaced.is_none(), "a leader places one entry at a position in a term");
        }
    }

    /// The core gave a read its index.
    pub fn readable(&mut self, id: RequestId, index: Index, applied: Index) -> Option<Finished> {
        let request = self.in_core.remove(&id)?;
        self.wait_for_apply(request, index, applied)
    }

    fn wait_for_apply(&mut self, request: Started, index: Index, applied: Index) -> Option<Finished> {
        // A peer waits for its own state, not for ours.
        if index <= applied || matches!(request.origin, Origin::Peer { .. }) {
            return Some(Finished { origin: request.origin, outcome: Outcome::Read(Ok(index)) });
        }
        self.reading.insert((index, request.id), request.origin);
        None
    }

    /// The core refused it; it has not happened.
    pub fn refused(&mut self, id: RequestId) -> Option<Started> {
        self.in_core.remove(&id)
    }

    /// The answer of the node it was forwarded to. `Err` gives it back to be tried again: it has not happened.
    pub fn forward_answered(
        &mut self,
        from: &NodeId,
        id: RequestId,
        outcome: Outcome,
        applied: Index,
    ) -> Result<Option<Finished>, Box<Started>> {
        let expected = |forwarded: &Forwarded| {
            let same_kind = matches!(
                (&forwarded.request.want, &outcome),
                (Want::Write(_), Outcome::Write(_)) | (Want::Read, Outcome::Read(_))
            );
            &forwarded.to == from && same_kind
        };
        if !self.forwarded.get(&id).is_some_and(expected) {
            return Ok(None);
        }
        let Some(Forwarded { request, .. }) = self.forwarded.remove(&id) else { return Ok(None) };
        match outcome {
            Outcome::Write(Err(Failure::NotLeader { .. } | Failure::NoLeader))
            | Outcome::Read(Err(Failure::NotLeader { .. } | Failure::NoLeader)) => Err(Box::new(request)),
            Outcome::Read(Ok(index)) => Ok(self.wait_for_apply(request, index, applied)),
            Outcome::Write(Err(failure)) | Outcome::Read(Err(failure)) => Ok(Some(fail(request, failure))),
            outcome @ Outcome::Write(Ok(_)) => Ok(Some(Finished { origin: request.origin, outcome })),
        }
    }

    /// `leader` leads now (or nobody is known to): requests that another node holds will hear nothing more from it.
    /// Reads and writes with an idempotency key come back to be tried again; other writes are unknown.
    pub fn leader_changed(&mut self, leader: Option<&NodeId>) -> (Vec<Finished>, Vec<Started>) {
        let orphaned: Vec<RequestId> =
            self.forwarded.iter().filter(|(_, f)| Some(&f.to) != leader).map(|(id, _)| *id).collect();
        let (mut finished, mut again) = (Vec::new(), Vec::new());
        for id in orphaned {
            let Some(Forwarded { mut request, to }) = self.forwarded.remove(&id) else { continue };
            request.doubtful = true;
            match &request.want {
                Want::Write(write) if write.idempotency_key.is_none() && request.origin != Origin::Duty => {
                    let why = format!("the leader {to} was lost before it answered");
                    finished.push(fail(request, Failure::Unknown(why)));
                }
                _ => again.push(request),
            }
        }
        (finished, again)
    }

    /// Everything up to `applied` is applied; `answers` are those of the positions in this batch, with their terms.
    /// Gives the finished requests, and the wait of the writes among them.
    pub fn applied(
        &mut self,
        applied: Index,
        answers: &BTreeMap<Index, (Term, Option<Applied>)>,
        now: Micros,
    ) -> (Vec<Finished>, Vec<Duration>) {
        let (mut finished, mut waits) = (Vec::new(), Vec::new());
        let later = self.in_log.split_off(&(applied.next(), Term(0)));
        for ((index, term), request) in std::mem::replace(&mut self.in_log, later) {
            let failure = match answers.get(&index) {
                Some((applied_term, Some(answer))) if *applied_term == term => {
                    waits.push(now.since(request.since));
                    let outcome = Outcome::Write(Ok(answer.clone()));
                    finished.push(Finished { origin: request.origin, outcome });
                    continue;
                }
                Some(_) => Failure::Superseded,
                // The position was covered by a snapshot: nobody here knows which entry stood there.
                None => Failure::Unknown("the log position was replaced by a snapshot".to_string()),
            };
            finished.push(fail(request, failure));
        }
        let later = self.reading.split_off(&(applied.next(), 0));
        for ((index, _), origin) in std::mem::replace(&mut self.reading, later) {
            finished.push(Finished { origin, outcome: Outcome::Read(Ok(index)) });
        }
        (finished, waits)
    }

    /// Gives up what waited too long.
    pub fn expire(&mut self, now: Micros) -> Vec<Finished> {
        let mut finished = Vec::new();
        if self.overdue_from.is_none_or(|from| now < from) {
            return finished;
        }
        let (over, waiting) = std::mem::take(&mut self.parked).into_iter().partition(|r| now >= r.park_until);
        self.parked = waiting;
        let over: VecDeque<Started> = over;
        finished.extend(over.into_iter().map(|request| fail(request, Failure::NoLeader)));
        let overdue = |forwarded: &Forwarded| now.since(forwarded.request.since) >= FORWARDED_FOR;
        let ids: Vec<RequestId> =
            self.forwarded.iter().filter(|(_, f)| overdue(f)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(Forwarded { request, to }) = self.forwarded.remove(&id) else { continue };
            finished.push(fail(request, Failure::Unknown(format!("{to} did not answer within 10 s"))));
        }
        let parked = self.parked.iter().map(|request| request.park_until);
        let forwarded = self.forwarded.values().map(|forwarded| forwarded.request.since.after(FORWARDED_FOR));
        self.overdue_from = parked.chain(forwarded).min();
        finished
    }

    /// The earliest time at which [`Requests::expire`] may have something to do.
    pub fn deadline(&self) -> Option<Micros> {
        self.overdue_from
    }
}

/// The failed end of a request.
pub fn fail(request: Started, failure: Failure) -> Finished {
    let outcome = match (request.want, failure) {
        (Want::Write(_), failure @ Failure::Unknown(_)) => Outcome::Write(Err(failure)),
        (Want::Write(_), failure) if request.doubtful => Outcome::Write(Err(Failure::Unknown(format!(
            "a leader was lost on the way, and then: {failure}"
        )))),
        (Want::Write(_), failure) => Outcome::Write(Err(failure)),
        // A read changes nothing: its outcome is never in doubt.
        (Want::Read, Failure::Unknown(_)) => Outcome::Read(Err(Failure::Timeout)),
        (Want::Read, failure) => Outcome::Read(Err(failure)),
    };
    Finished { origin: request.origin, outcome }
}
