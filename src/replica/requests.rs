//! What clients asked, and where each request stands.
//!
//! Invariant: a request is in one place at a time, and answering takes it out of there; one that names a request known already
//! is dropped. So there is one answer to each, ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use crate::raft::RequestId;
use crate::types::{Index, Micros, Term};

/// Most requests that wait to be taken up; one more is refused, having never been begun.
pub const HELD_MAX: usize = 16_384;
/// So many names of requests are remembered.
const NAMES_MAX: usize = 65_536;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// To read a key.
    Get {
        /// The key.
        key: String,
    },
    /// To write a key.
    Put {
        /// Key and value as the log holds them.
        command: Vec<u8>,
    },
}

/// A request of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Whom to answer.
    pub client: String,
    /// Names it.
    pub mid: Value,
    /// When it came.
    pub arrived: Micros,
    /// What is wanted.
    pub ask: Ask,
}

/// A put that the core has taken up.
#[derive(Debug)]
struct Proposed {
    since: Micros,
    request: Request,
}

/// All requests without an answer.
#[derive(Debug, Default)]
pub struct Requests {
    /// Not begun: nobody is known to lead, or the leader is out of touch.
    held: VecDeque<Request>,
    /// With the core, which has yet to say what becomes of it.
    asked: BTreeMap<RequestId, Request>,
    /// In the log, or once in it, and not known to be committed. Two of different terms may have had one place: a leader
    /// truncated the first, but another node may hold it still, and it may yet be.
    proposed: BTreeMap<(Index, Term), Proposed>,
    next: RequestId,
    names: BTreeSet<(String, String)>,
    names_by_age: VecDeque<(String, String)>,
}

impl Requests {
    /// A request came. Returns it if there is no room for it; one that is known is dropped.
    pub fn arrive(&mut self, request: Request) -> Option<Request> {
        let name = (request.client.clone(), request.mid.to_string());
        if !self.names.insert(name.clone()) {
            return None;
        }
        self.names_by_age.push_back(name);
        if self.names_by_age.len() > NAMES_MAX
            && let Some(oldest) = self.names_by_age.pop_front()
        {
            self.names.remove(&oldest);
        }
        if self.held.len() >= HELD_MAX {
            return Some(request);
        }
        self.held.push_back(request);
        None
    }

    /// Takes out what is held and not begun.
    pub fn take_held(&mut self) -> VecDeque<Request> {
        std::mem::take(&mut self.held)
    }

    /// It is held again, behind the others.
    pub fn hold(&mut self, request: Request) {
        self.held.push_back(request);
    }

    /// When the oldest of those that are held came.
    pub fn held_since(&self) -> Option<Micros> {
        self.held.iter().map(|request| request.arrived).min()
    }

    /// The core is asked: its name there.
    pub fn ask(&mut self, request: Request) -> RequestId {
        self.next += 1;
        self.asked.insert(self.next, request);
        self.next
    }

    /// The core has decided about it.
    pub fn decided(&mut self, id: RequestId) -> Option<Request> {
        self.asked.remove(&id)
    }

    /// The put `id` is in the log.
    pub fn proposed(&mut self, id: RequestId, index: Index, term: Term, now: Micros) {
        if let Some(request) = self.asked.remove(&id) {
            self.proposed.insert((index, term), Proposed { since: now, request });
        }
    }

    /// Since when the oldest put of `term` has been waiting for its commit.
    pub fn proposed_since(&self, term: Term) -> Option<Micros> {
        let of_term = self.proposed.iter().filter(|((_, proposed), _)| *proposed == term);
        of_term.map(|(_, proposed)| proposed.since).min()
    }

    /// The entry of `term` at `index` is applied. Returns the put that it is, and the puts that can now never be: terms never
    /// go back along a log, so what was proposed in an earlier term at this place or behind it has no place any more.
    pub fn applied(&mut self, index: Index, term: Term) -> (Option<Request>, Vec<Request>) {
        let done = self.proposed.remove(&(index, term));
        let gone = |at: &&(Index, Term)| at.0 <= index || at.1 < term;
        let lost: Vec<(Index, Term)> = self.proposed.keys().filter(gone).copied().collect();
        let lost = lost.iter().filter_map(|at| self.proposed.remove(at)).map(|lost| lost.request);
        (done.map(|done| done.request), lost.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(mid: &str) -> Request {
        Request {
            client: "0015".into(),
            mid: json!(mid),
            arrived: Micros(0),
            ask: Ask::Put { command: vec![] },
        }
    }

    fn names(requests: &[Request]) -> Vec<&str> {
        requests.iter().filter_map(|request| request.mid.as_str()).collect()
    }

    #[test]
    fn a_request_that_comes_twice_is_held_once() {
        let mut requests = Requests::default();
        assert_eq!(requests.arrive(put("a")), None);
        assert_eq!(requests.arrive(put("a")), None);
        let other = Request { client: "0016".into(), ..put("a") };
        assert_eq!(requests.arrive(other), None);
        assert_eq!(requests.take_held().len(), 2, "two clients may choose one name");
    }

    #[test]
    fn a_put_is_done_or_lost_when_its_place_is_applied() {
        let mut requests = Requests::default();
        for (mid, index, term) in [("a", 4, 2), ("b", 5, 2), ("c", 6, 2), ("d", 9, 4)] {
            let id = requests.ask(put(mid));
            requests.proposed(id, Index(index), Term(term), Micros(index));
        }
        assert_eq!(requests.proposed_since(Term(2)), Some(Micros(4)));
        assert_eq!(requests.proposed_since(Term(4)), Some(Micros(9)));
        let (done, lost) = requests.applied(Index(4), Term(2));
        assert_eq!((done, lost), (Some(put("a")), vec![]));
        // Another leader's entry: nothing of term 2 can follow it.
        let (done, lost) = requests.applied(Index(5), Term(3));
        assert_eq!((done, names(&lost)), (None, vec!["b", "c"]));
        let (done, _) = requests.applied(Index(9), Term(4));
        assert_eq!(done, Some(put("d")));
        assert_eq!(requests.proposed_since(Term(4)), None);
    }
}
