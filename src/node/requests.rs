//! Requests under way: who asked, where the request is, and what it still waits for.
//!
//! Invariants: every request is in exactly one of the maps, and each is answered exactly once. A write is
//! answered with a failure other than [`Failure::Unknown`] only if it cannot happen any more.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ledger::command::{Answer, Applied, Request};
use crate::raft::{Change, Configuration, RequestId};
use crate::types::{Index, Micros, NodeId, Term};

use super::handle::{Changed, Failure, Transferred};

/// [`super::core::Bounds::parked_max`], as a rule.
pub const PARKED_MAX: usize = 1_024;
/// How long a request waits for a leader to be known before it fails with [`Failure::NoLeader`], unless its asker has
/// less patience.
pub const PARKED_FOR: Duration = Duration::from_millis(1_500);
/// How long a forwarded request waits for the other node's word.
pub const FORWARDED_FOR: Duration = Duration::from_secs(10);
/// How long a change of the configuration may wait for another one to end, and a change or a transfer for its own end.
pub const CHANGE_FOR: Duration = Duration::from_secs(60);
/// How long a node watches for the completion of a change whose leader was lost before it answers that it does not know.
pub const WATCHED_FOR: Duration = Duration::from_secs(2);

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
    Read {
        /// Whether the leader's lease is proof enough.
        lease: bool,
    },
    /// A change of the configuration.
    Change(Change),
    /// Another leader: this one, or whoever suits.
    Transfer(Option<NodeId>),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a write.
    Write(Result<Applied, Failure>),
    /// Of a read: the index is applied here (for an ask) or is to be waited for (for a peer).
    Read(Result<Index, Failure>),
    /// Of a change.
    Change(Result<Changed, Failure>),
    /// Of a transfer.
    Transfer(Result<Transferred, Failure>),
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
    /// What was committed when it was first passed on, as far as this node knew: whatever it brings about lies after that.
    /// `None`: it was not.
    pub after: Option<Index>,
    /// An earlier try was lost on its way and may have happened, or may still happen: no failure of a later try says
    /// anything about it.
    pub doubtful: bool,
}

impl Started {
    /// Until when the node that it was passed on to may take for its answer.
    fn forwarded_until(&self) -> Micros {
        let long = matches!(self.want, Want::Change(_) | Want::Transfer(_));
        self.since.after(if long { CHANGE_FOR } else { FORWARDED_FOR })
    }
}

#[derive(Debug)]
struct Forwarded {
    request: Started,
    to: NodeId,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Requests {
    life: u64,
    last_id: RequestId,
    parked_max: usize,
    /// Handed to the core, not yet placed or refused.
    in_core: BTreeMap<RequestId, Started>,
    /// In the log, by position and term; the answer comes when that position is applied. Two terms of one position
    /// may wait side by side: this node led, lost its entries, and leads again.
    in_log: BTreeMap<(Index, Term), Started>,
    /// With another node.
    forwarded: BTreeMap<RequestId, Forwarded>,
    /// Reads that know their index and wait for it to be applied.
    reading: BTreeMap<(Index, RequestId), Origin>,
    /// Changes whose first configuration (at that position) is applied, and is not the final one.
    changing: BTreeMap<(Index, RequestId), Started>,
    /// Changes that were with a leader that was lost, and until when they are watched for in the log. (A leader that
    /// removes itself is always lost in the end.)
    watching: Vec<(Started, Micros)>,
    /// Transfers that this leader has begun.
    transferring: BTreeMap<RequestId, Started>,
    /// Waiting for a leader to be known, for a transfer or a change to end: oldest first, with what to say if it waits
    /// in vain.
    parked: VecDeque<(Started, Failure)>,
    /// No forwarded or parked request is overdue before this; `None`: there are none. It may come too early, when the
    /// request that it was for has been answered: looking through all of them for every batch would cost more.
    overdue_from: Option<Micros>,
}

impl Requests {
    /// `entropy` is where the numbers begin: peers keep requests of a process that died, and must not be able to answer
    /// those of its successor with what came of them. At most `parked_max` wait for a leader to be known.
    pub fn new(entropy: u64, parked_max: usize) -> Requests {
        Requests { life: entropy, last_id: entropy, parked_max, ..Requests::default() }
    }

    /// Where the numbers began: tells the lives of this node's processes apart.
    pub fn life(&self) -> u64 {
        self.life
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Takes in a new request.
    pub fn begin(&mut self, origin: Origin, want: Want, now: Micros, patience: Duration) -> Started {
        let longest = if matches!(want, Want::Change(_)) { CHANGE_FOR } else { PARKED_FOR };
        let park_until = now.after(patience.min(longest));
        let id = self.next_id();
        Started { id, origin, want, since: now, park_until, forward: false, after: None, doubtful: false }
    }

    /// How many requests are under way.
    pub fn len(&self) -> usize {
        let on_the_way = self.in_core.len() + self.in_log.len() + self.forwarded.len() + self.parked.len();
        let changes = self.changing.len() + self.watching.len() + self.transferring.len();
        on_the_way + self.reading.len() + changes
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The core has it now.
    pub fn to_core(&mut self, request: Started) {
        self.in_core.insert(request.id, request);
    }

    /// Another node has it now, under the number that is given back. Each try has a number of its own: the node takes
    /// each number once, and what it says about an earlier try is no answer to this one.
    pub fn to_peer(&mut self, mut request: Started, to: NodeId) -> RequestId {
        request.id = self.next_id();
        let id = request.id;
        self.look_at(request.forwarded_until());
        self.forwarded.insert(id, Forwarded { request, to });
        id
    }

    /// Who above asked for what was passed on under this number.
    pub fn passed_on(&self, id: RequestId) -> Option<AskId> {
        match self.forwarded.get(&id)?.request.origin {
            Origin::Ask(ask) => Some(ask),
            Origin::Peer { .. } | Origin::Duty => None,
        }
    }

    /// Nobody can take it now: it waits, or fails at once (with `failure`) if too many do or if it already waited too
    /// long.
    pub fn park(&mut self, request: Started, failure: Failure, now: Micros) -> Option<Finished> {
        if self.parked.len() >= self.parked_max || now >= request.park_until {
            return Some(fail(request, failure));
        }
        self.look_at(request.park_until);
        self.parked.push_back((request, failure));
        None
    }

    fn look_at(&mut self, at: Micros) {
        self.overdue_from = Some(self.overdue_from.map_or(at, |known| known.min(at)));
    }

    /// Takes all that wait.
    pub fn unpark(&mut self) -> VecDeque<Started> {
        std::mem::take(&mut self.parked).into_iter().map(|(request, _)| request).collect()
    }

    /// The core hands leadership over for it.
    pub fn transferring(&mut self, id: RequestId) {
        if let Some(request) = self.in_core.remove(&id) {
            self.transferring.insert(id, request);
        }
    }

    /// The transfer was given up.
    pub fn transfer_aborted(&mut self, to: &NodeId) -> Vec<Finished> {
        let aborted = std::mem::take(&mut self.transferring).into_values();
        aborted.map(|request| fail(request, Failure::TransferAborted { to: to.clone() })).collect()
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
                (Want::Write(_), Outcome::Write(_))
                    | (Want::Read { .. }, Outcome::Read(_))
                    | (Want::Change(_), Outcome::Change(_))
                    | (Want::Transfer(_), Outcome::Transfer(_))
            );
            &forwarded.to == from && same_kind
        };
        if !self.forwarded.get(&id).is_some_and(expected) {
            return Ok(None);
        }
        let Some(Forwarded { request, .. }) = self.forwarded.remove(&id) else { return Ok(None) };
        match outcome {
            Outcome::Write(Err(Failure::NotLeader { .. } | Failure::NoLeader))
            | Outcome::Read(Err(Failure::NotLeader { .. } | Failure::NoLeader))
            | Outcome::Change(Err(Failure::NotLeader { .. } | Failure::NoLeader))
            | Outcome::Transfer(Err(Failure::NotLeader { .. } | Failure::NoLeader)) => Err(Box::new(request)),
            Outcome::Read(Ok(index)) => Ok(self.wait_for_apply(request, index, applied)),
            Outcome::Write(Err(failure))
            | Outcome::Read(Err(failure))
            | Outcome::Change(Err(failure))
            | Outcome::Transfer(Err(failure)) => Ok(Some(fail(request, failure))),
            Outcome::Write(Ok(applied)) => Ok(Some(answered(request, applied))),
            outcome @ (Outcome::Change(Ok(_)) | Outcome::Transfer(Ok(_))) => {
                Ok(Some(Finished { origin: request.origin, outcome }))
            }
        }
    }

    /// `leader` leads now, in `term` (or nobody is known to): requests that another node holds will hear nothing more
    /// from it. Reads and repeatable writes come back to be tried again; other writes are unknown. Whoever
    /// asked for another leader has one. A change is watched for in the log.
    pub fn leader_changed(
        &mut self,
        leader: Option<&NodeId>,
        term: Term,
        now: Micros,
    ) -> (Vec<Finished>, Vec<Started>) {
        let (mut finished, mut again) = (Vec::new(), Vec::new());
        let transferred = leader.map(|leader| Transferred { leader: leader.clone(), term });
        if let Some(transferred) = &transferred {
            for request in std::mem::take(&mut self.transferring).into_values() {
                finished.push(Finished {
                    origin: request.origin,
                    outcome: Outcome::Transfer(Ok(transferred.clone())),
                });
            }
        }
        let waits = |forwarded: &Forwarded| {
            // The old leader is let go because it hands over: there is nothing to hear before somebody leads.
            Some(&forwarded.to) == leader
                || (leader.is_none() && matches!(forwarded.request.want, Want::Transfer(_)))
        };
        let orphaned: Vec<RequestId> =
            self.forwarded.iter().filter(|(_, f)| !waits(f)).map(|(id, _)| *id).collect();
        for id in orphaned {
            let Some(Forwarded { mut request, to }) = self.forwarded.remove(&id) else { continue };
            request.doubtful = true;
            let why = || Failure::Unknown(format!("the leader {to} was lost before it answered"));
            match (&request.want, &transferred) {
                _ if request.origin == Origin::Duty => again.push(request),
                (Want::Write(write), _) if !write.is_repeatable() => {
                    finished.push(fail(request, why()));
                }
                (Want::Change(_), _) => self.watching.push((request, now.after(WATCHED_FOR))),
                (Want::Transfer(_), Some(transferred)) => finished.push(Finished {
                    origin: request.origin,
                    outcome: Outcome::Transfer(Ok(transferred.clone())),
                }),
                _ => again.push(request),
            }
        }
        (finished, again)
    }

    /// Everything up to `applied` is applied; `answers` are those of the positions in this batch, with their terms, and
    /// `configurations` those that were applied with it, in order. Gives the finished requests, and the wait of the
    /// writes among them.
    pub fn applied(
        &mut self,
        applied: Index,
        answers: &BTreeMap<Index, (Term, Option<Applied>)>,
        configurations: &[(Index, Configuration)],
        now: Micros,
    ) -> (Vec<Finished>, Vec<Duration>) {
        let (mut finished, mut waits) = (Vec::new(), Vec::new());
        let later = self.in_log.split_off(&(applied.next(), Term(0)));
        for ((index, term), request) in std::mem::replace(&mut self.in_log, later) {
            let failure = match answers.get(&index) {
                Some((applied_term, Some(answer))) if *applied_term == term => {
                    waits.push(now.since(request.since));
                    finished.push(answered(request, answer.clone()));
                    continue;
                }
                Some((applied_term, None))
                    if *applied_term == term && matches!(request.want, Want::Change(_)) =>
                {
                    self.changing.insert((index, request.id), request);
                    continue;
                }
                Some(_) => Failure::Superseded,
                // The position was covered by a snapshot: nobody here knows which entry stood there.
                None => Failure::Unknown("the log position was replaced by a snapshot".to_string()),
            };
            finished.push(fail(request, failure));
        }
        finished.extend(self.changes_completed(configurations));
        let later = self.reading.split_off(&(applied.next(), 0));
        for ((index, _), origin) in std::mem::replace(&mut self.reading, later) {
            finished.push(Finished { origin, outcome: Outcome::Read(Ok(index)) });
        }
        (finished, waits)
    }

    /// One change is under way at a time: the first configuration that is not joint, from where a change begins, is
    /// the one that it leads to, whoever appended it.
    /// The same for changes that are watched for: the first that shows what they wanted.
    pub fn changes_completed(&mut self, configurations: &[(Index, Configuration)]) -> Vec<Finished> {
        let mut finished = Vec::new();
        for (index, configuration) in configurations.iter().filter(|(_, c)| c.outgoing.is_none()) {
            let later = self.changing.split_off(&(index.next(), 0));
            for request in std::mem::replace(&mut self.changing, later).into_values() {
                let changed = Changed { index: *index, configuration: configuration.clone() };
                finished.push(Finished { origin: request.origin, outcome: Outcome::Change(Ok(changed)) });
            }
            // A node that is behind applies configurations from before the change was asked for.
            let is_news = |request: &Started| request.after.is_none_or(|after| *index > after);
            let is_so = |request: &Started| match &request.want {
                Want::Change(change) => is_news(request) && shows(configuration, change),
                Want::Write(_) | Want::Read { .. } | Want::Transfer(_) => false,
            };
            for (request, _) in self.watching.extract_if(.., |(request, _)| is_so(request)) {
                let changed = Changed { index: *index, configuration: configuration.clone() };
                finished.push(Finished { origin: request.origin, outcome: Outcome::Change(Ok(changed)) });
            }
        }
        finished
    }

    /// Gives up what waited too long.
    pub fn expire(&mut self, now: Micros) -> Vec<Finished> {
        let mut finished = Vec::new();
        if self.overdue_from.is_some_and(|from| now >= from) {
            self.expire_waiting(now, &mut finished);
        }
        let in_vain = |request: &Started| now >= request.since.after(CHANGE_FOR);
        let changing =
            self.changing.extract_if(.., |_, request| in_vain(request)).map(|(_, request)| request);
        let changing: Vec<Started> = changing.collect();
        let lost = self.watching.extract_if(.., |(_, until)| now >= *until);
        let why = || Failure::Unknown("the leader was lost before it answered".to_string());
        finished.extend(lost.map(|(request, _)| fail(request, why())));
        let transferring = self.transferring.extract_if(.., |_, request| in_vain(request));
        for request in changing.into_iter().chain(transferring.map(|(_, request)| request)) {
            finished.push(fail(request, Failure::Unknown("it is not complete yet".to_string())));
        }
        finished
    }

    /// Gives up the parked and the forwarded that are overdue, and looks when the next will be.
    fn expire_waiting(&mut self, now: Micros, finished: &mut Vec<Finished>) {
        let (over, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(r, _)| now >= r.park_until);
        self.parked = waiting;
        finished.extend(over.into_iter().map(|(request, failure)| fail(request, failure)));
        let overdue = |forwarded: &Forwarded| now >= forwarded.request.forwarded_until();
        let ids: Vec<RequestId> =
            self.forwarded.iter().filter(|(_, f)| overdue(f)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(Forwarded { request, to }) = self.forwarded.remove(&id) else { continue };
            finished.push(fail(request, Failure::Unknown(format!("{to} did not answer in time"))));
        }
        let parked = self.parked.iter().map(|(request, _)| request.park_until);
        let forwarded = self.forwarded.values().map(|forwarded| forwarded.request.forwarded_until());
        self.overdue_from = parked.chain(forwarded).min();
    }

    /// The earliest time at which [`Requests::expire`] may have something to do.
    pub fn deadline(&self) -> Option<Micros> {
        let long = self.changing.values().chain(self.transferring.values());
        let long = long.map(|request| request.since.after(CHANGE_FOR)).min();
        let watched = self.watching.iter().map(|(_, until)| *until).min();
        self.overdue_from.into_iter().chain(long).chain(watched).min()
    }
}

/// Whether a configuration is as the change wanted it.
fn shows(configuration: &Configuration, change: &Change) -> bool {
    match change {
        Change::AddLearner { node, address, .. } => {
            configuration.contains(node) && configuration.addresses.get(node) == Some(address)
        }
        Change::Promote { node } => configuration.voters.contains(node),
        Change::Demote { node } => configuration.learners.contains(node),
        Change::Remove { node } => !configuration.contains(node),
        Change::Readdress { node, address } => configuration.addresses.get(node) == Some(address),
        Change::Replace { voter, learner } => {
            configuration.voters.contains(learner) && !configuration.contains(voter)
        }
    }
}

/// The answered end of a write. An answer that says nothing of the earlier tries of a doubtful one leaves it in doubt.
fn answered(request: Started, applied: Applied) -> Finished {
    match &applied.answer {
        Answer::Rejected(rejection) if request.doubtful && rejection.leaves_other_tries_open() => {
            let why = format!("a leader was lost on the way, and then: {rejection}");
            fail(request, Failure::Unknown(why))
        }
        _ => Finished { origin: request.origin, outcome: Outcome::Write(Ok(applied)) },
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
        (Want::Read { .. }, Failure::Unknown(_)) => Outcome::Read(Err(Failure::Timeout)),
        (Want::Read { .. }, failure) => Outcome::Read(Err(failure)),
        (Want::Change(_), failure) => Outcome::Change(Err(failure)),
        (Want::Transfer(_), failure) => Outcome::Transfer(Err(failure)),
    };
    Finished { origin: request.origin, outcome }
}
