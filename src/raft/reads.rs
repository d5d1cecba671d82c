//! Linearizable reads that wait for the proof that this node still leads (Raft dissertation, section 6.4).

use std::collections::VecDeque;

use crate::types::Index;

use super::message::RequestId;

/// Reads that share one round.
#[derive(Debug)]
struct Batch {
    round: u64,
    index: Index,
    requests: Vec<RequestId>,
}

/// The reads of one leadership.
///
/// A read joins the next round to begin, never one that is under way: the echo of a round proves leadership only at a
/// time after the round began, and that must not be before the read arrived. Numbers are never used twice (hazard 18).
#[derive(Debug, Default)]
pub(super) struct Reads {
    arrived: Vec<RequestId>,
    started: VecDeque<Batch>,
    pending: usize,
}

impl Reads {
    /// Takes a read in, unless `most` wait already.
    pub fn arrive(&mut self, request: RequestId, most: usize) -> bool {
        if self.pending >= most {
            return false;
        }
        self.pending += 1;
        self.arrived.push(request);
        true
    }

    /// Whether a read waits for a round to begin.
    pub fn wants_round(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Whether reads wait for the echo of a round that has begun.
    pub fn awaits_echo(&self) -> bool {
        !self.started.is_empty()
    }

    /// `round` begins now, with `index` committed.
    pub fn start(&mut self, round: u64, index: Index) {
        let requests = std::mem::take(&mut self.arrived);
        self.started.push_back(Batch { round, index, requests });
    }

    /// A quorum has echoed `round`: the reads that this confirms, each with the index it must see.
    pub fn confirm(&mut self, round: u64) -> impl Iterator<Item = (RequestId, Index)> {
        let count = self.started.iter().take_while(|batch| batch.round <= round).count();
        let confirmed: Vec<Batch> = self.started.drain(..count).collect();
        self.pending -= confirmed.iter().map(|batch| batch.requests.len()).sum::<usize>();
        confirmed.into_iter().flat_map(|batch| {
            let index = batch.index;
            batch.requests.into_iter().map(move |request| (request, index))
        })
    }

    /// The leadership is over: the reads that it leaves without an answer.
    pub fn abandon(self) -> impl Iterator<Item = RequestId> {
        self.started.into_iter().flat_map(|batch| batch.requests).chain(self.arrived)
    }
}
