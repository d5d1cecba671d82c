//! Follows sampled writes through this node: what happened to each, and when. Values only: times are given, spans come out, and
//! the shell sends them somewhere (`src/traces/`).
//!
//! A write is known by its ask until it is answered; only then is its place in the log known here. So, while any sampled
//! write is under way, the trail keeps a bounded number of marks (a batch went to the disk, entries went to a peer, a peer has
//! them, …), and reads the story of a write off them once it is answered and every peer has confirmed it, or has had
//! [`PEERS_PATIENCE`]. While none is under way, nothing is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::raft::{Body, Entry, Persist, Seq};
use crate::types::{Index, Micros, NodeId};

use super::frame::Frame;
use super::requests::AskId;

/// Most writes that are followed at once; more are not followed.
pub const WRITES_MAX: usize = 256;
/// Most marks that are kept; a write whose marks were pushed out has fewer spans.
pub const MARKS_MAX: usize = 8_192;
/// How long after the answer a peer's confirmation is waited for.
pub const PEERS_PATIENCE: Duration = Duration::from_secs(1);

/// Names a span to its collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanId(pub u64);

/// Where a sampled write comes from (W3C Trace Context): its trace, and the span that its story hangs below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The trace.
    pub trace: u128,
    /// The request's span.
    pub parent: SpanId,
}

/// How a sampled write comes to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Where it comes from.
    pub origin: Origin,
    /// When it was put into the queue: Unix time, nanoseconds.
    pub queued_ns: u64,
}

/// What the driver tells of writes whose story is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// In order of the writes.
    pub spans: Vec<Span>,
    /// The Unix time, in nanoseconds, at which the node's clock would have read zero.
    pub origin_ns: u64,
}

/// Something that took a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace that it belongs to.
    pub trace: u128,
    /// Its name to the collector.
    pub id: SpanId,
    /// The span that it is part of.
    pub parent: SpanId,
    /// `queue`, `consensus`, `log`, `replicate`, `apply`, `answer`.
    pub name: &'static str,
    /// By the node's clock.
    pub from: Micros,
    /// By the node's clock.
    pub to: Micros,
    /// The peer, for `replicate`.
    pub peer: Option<NodeId>,
    /// The write's place in the log.
    pub index: Index,
}

#[derive(Debug)]
enum Mark {
    /// A batch up to this entry went to the disk.
    Persist {
        seq: Seq,
        from: Index,
        to: Index,
    },
    Persisted(Seq),
    Sent {
        peer: NodeId,
        from: Index,
        to: Index,
    },
    Accepted {
        peer: NodeId,
        matched: Index,
    },
    /// These are committed, and handed to be applied.
    Committed {
        from: Index,
        to: Index,
    },
    Applied(Index),
}

#[derive(Debug, Clone, Copy)]
struct Write {
    origin: Origin,
    /// When the asker put it into the queue.
    queued: Micros,
    /// When it was taken from there.
    taken: Micros,
}

#[derive(Debug)]
struct Answered {
    write: Write,
    index: Index,
    at: Micros,
}

/// See the module's head. Invariants: at most [`WRITES_MAX`] writes and [`MARKS_MAX`] marks; no marks without writes.
#[derive(Debug, Default)]
pub struct Trail {
    open: BTreeMap<AskId, Write>,
    answered: Vec<Answered>,
    marks: VecDeque<(Micros, Mark)>,
}

impl Trail {
    fn idle(&self) -> bool {
        self.open.is_empty() && self.answered.is_empty()
    }

    fn mark(&mut self, at: Micros, mark: Mark) {
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((at, mark));
    }

    /// A sampled write was taken from the queue, where it was put at `queued`.
    pub fn taken(&mut self, ask: AskId, origin: Origin, queued: Micros, now: Micros) {
        if self.open.len() + self.answered.len() < WRITES_MAX {
            self.open.insert(ask, Write { origin, queued: queued.min(now), taken: now });
        }
    }

    /// A batch goes to the disk.
    pub fn persist(&mut self, persist: &Persist, now: Micros) {
        if let (false, Some((from, to))) = (self.idle(), range(&persist.entries)) {
            self.mark(now, Mark::Persist { seq: persist.seq, from, to });
        }
    }

    /// Everything up to this batch is durable here.
    pub fn persisted(&mut self, seq: Seq, now: Micros) {
        if !self.idle() {
            self.mark(now, Mark::Persisted(seq));
        }
    }

    /// A frame goes to a peer.
    pub fn sent(&mut self, peer: &NodeId, frame: &Frame, now: Micros) {
        if let (false, Frame::Raft(message)) = (self.idle(), frame)
            && let Body::AppendRequest { entries, .. } = &message.body
            && let Some((from, to)) = range(entries)
        {
            self.mark(now, Mark::Sent { peer: peer.clone(), from, to });
        }
    }

    /// A frame of a peer is here.
    pub fn received(&mut self, peer: &NodeId, frame: &Frame, now: Micros) {
        if let (false, Frame::Raft(message)) = (self.idle(), frame)
            && let Body::AppendAccepted { matched, .. } = &message.body
        {
            self.mark(now, Mark::Accepted { peer: peer.clone(), matched: *matched });
        }
    }

    /// Committed entries are handed to be applied.
    pub fn committed(&mut self, entries: &[Entry], now: Micros) {
        if let (false, Some((from, to))) = (self.idle(), range(entries)) {
            self.mark(now, Mark::Committed { from, to });
        }
    }

    /// Everything up to here is applied.
    pub fn applied(&mut self, upto: Index, now: Micros) {
        if !self.idle() {
            self.mark(now, Mark::Applied(upto));
        }
    }

    /// A write is answered; `index` is its place in the log, if it has one.
    pub fn answered(&mut self, ask: AskId, index: Option<Index>, now: Micros) {
        if let (Some(write), Some(index)) = (self.open.remove(&ask), index) {
            self.answered.push(Answered { write, index, at: now });
        }
        if self.idle() {
            self.marks.clear();
        }
    }

    /// The spans of the writes whose story is over. `word`: a random word, from which the spans get their names.
    pub fn finished(&mut self, now: Micros, word: u64) -> Vec<Span> {
        if self.answered.is_empty() {
            return Vec::new();
        }
        let (mut spans, mut waiting) = (Vec::new(), Vec::new());
        let mut names = Names(word);
        for answered in std::mem::take(&mut self.answered) {
            let patient = now < answered.at.after(PEERS_PATIENCE);
            if patient && self.lacks_peers(answered.index) {
                waiting.push(answered);
            } else {
                self.tell(&answered, &mut names, &mut spans);
            }
        }
        self.answered = waiting;
        if self.idle() {
            self.marks.clear();
        }
        spans
    }

    /// Whether a peer that was sent an entry has not confirmed it.
    fn lacks_peers(&self, index: Index) -> bool {
        let mut lacking = BTreeSet::new();
        for (_, mark) in &self.marks {
            match mark {
                Mark::Sent { peer, from, to } if *from <= index && index <= *to => {
                    lacking.insert(peer);
                }
                Mark::Accepted { peer, matched } if *matched >= index => {
                    lacking.remove(peer);
                }
                _ => {}
            }
        }
        !lacking.is_empty()
    }

    fn tell(&self, answered: &Answered, names: &mut Names, spans: &mut Vec<Span>) {
        let Answered { write, index, at } = answered;
        let mut span = |name, parent, from: Micros, to: Micros, peer: Option<&NodeId>| {
            let id = names.next();
            let (trace, peer) = (write.origin.trace, peer.cloned());
            spans.push(Span { trace, id, parent, name, from, to: to.max(from), peer, index: *index });
            id
        };
        let parent = write.origin.parent;
        span("queue", parent, write.queued, write.taken, None);
        let committed =
            self.first(|mark| matches!(mark, Mark::Committed { from, to } if within(*index, *from, *to)));
        let applied = self.first(|mark| matches!(mark, Mark::Applied(upto) if upto >= index));
        // Another node led, and did what is missing here.
        let Some(committed) = committed else {
            span("answer", parent, write.taken, *at, None);
            return;
        };
        let consensus = span("consensus", parent, write.taken, committed, None);
        let mut batch = None;
        let mut sent: BTreeMap<&NodeId, Micros> = BTreeMap::new();
        for (when, mark) in self.marks.iter().filter(|(when, _)| *when >= write.taken) {
            match mark {
                Mark::Persist { seq, from, to } if batch.is_none() && within(*index, *from, *to) => {
                    batch = Some((*seq, *when));
                }
                Mark::Persisted(done) => {
                    if let Some((_, from)) = batch.filter(|(seq, _)| done >= seq) {
                        span("log", consensus, from, *when, None);
                        // Told once: no later batch has this entry's first write.
                        batch = Some((Seq::MAX, from));
                    }
                }
                Mark::Sent { peer, from, to } if within(*index, *from, *to) => {
                    sent.entry(peer).or_insert(*when);
                }
                Mark::Accepted { peer, matched } if matched >= index => {
                    if let Some(from) = sent.remove(peer) {
                        span("replicate", consensus, from, *when, Some(peer));
                    }
                }
                _ => {}
            }
        }
        let applied = applied.unwrap_or(*at);
        span("apply", parent, committed, applied, None);
        span("answer", parent, applied, *at, None);
    }

    /// When the first such mark was made.
    fn first(&self, fits: impl Fn(&Mark) -> bool) -> Option<Micros> {
        self.marks.iter().find(|(_, mark)| fits(mark)).map(|(at, _)| *at)
    }
}

fn within(index: Index, from: Index, to: Index) -> bool {
    from <= index && index <= to
}

/// The first and the last entry.
fn range(entries: &[Entry]) -> Option<(Index, Index)> {
    Some((entries.first()?.index, entries.last()?.index))
}

/// Names out of one random word (splitmix64).
struct Names(u64);

impl Names {
    fn next(&mut self) -> SpanId {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Zero means "none" to a collector.
        SpanId((word ^ (word >> 31)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use crate::raft::{Message, Payload, Position};
    use crate::types::Term;

    use super::*;

    fn entry(index: u64) -> Entry {
        Entry { term: Term(1), index: Index(index), payload: Payload::Noop }
    }

    fn append(indices: std::ops::RangeInclusive<u64>) -> Frame {
        let previous = Position { index: Index(indices.start() - 1), term: Term(1) };
        let entries = indices.map(entry).collect();
        let body = Body::AppendRequest { previous, entries, commit: Index(0), round: 1 };
        Frame::Raft(Message { term: Term(1), body })
    }

    fn accepted(matched: u64) -> Frame {
        Frame::Raft(Message {
            term: Term(1),
            body: Body::AppendAccepted { matched: Index(matched), round: 1 },
        })
    }

    fn persist(seq: u64, indices: std::ops::RangeInclusive<u64>) -> Persist {
        Persist { seq, hard_state: None, base: None, entries: indices.map(entry).collect() }
    }

    fn origin() -> Origin {
        Origin { trace: 7, parent: SpanId(9) }
    }

    /// Claim: one write, batched with others, is told in the order in which it happened, each part with its times.
    #[test]
    fn a_write_is_told_from_the_queue_to_the_answer() {
        let (mut trail, n2, n3): (Trail, NodeId, NodeId) =
            (Trail::default(), "n2".parse().unwrap(), "n3".parse().unwrap());
        trail.taken(1, origin(), Micros(10), Micros(20));
        trail.persist(&persist(4, 5..=5), Micros(21));
        trail.persist(&persist(5, 6..=8), Micros(25));
        trail.sent(&n2, &append(6..=8), Micros(26));
        trail.sent(&n3, &append(6..=8), Micros(27));
        trail.persisted(4, Micros(30));
        trail.received(&n2, &accepted(6), Micros(35));
        trail.received(&n2, &accepted(8), Micros(40));
        trail.persisted(5, Micros(45));
        trail.committed(&[entry(6), entry(7), entry(8)], Micros(50));
        trail.applied(Index(8), Micros(60));
        trail.answered(1, Some(Index(7)), Micros(65));
        assert_eq!(trail.finished(Micros(66), 1), [], "n3 may still confirm");
        trail.received(&n3, &accepted(8), Micros(90));
        let spans = trail.finished(Micros(91), 1);
        let told: Vec<(&str, u64, u64, Option<&str>)> = spans
            .iter()
            .map(|span| (span.name, span.from.0, span.to.0, span.peer.as_ref().map(NodeId::as_str)))
            .collect();
        assert_eq!(
            told,
            [
                ("queue", 10, 20, None),
                ("consensus", 20, 50, None),
                ("replicate", 26, 40, Some("n2")),
                ("log", 25, 45, None),
                ("replicate", 27, 90, Some("n3")),
                ("apply", 50, 60, None),
                ("answer", 60, 65, None),
            ]
        );
        let consensus = spans[1].id;
        let parents: Vec<SpanId> = spans.iter().map(|span| span.parent).collect();
        let below = |inner: bool| if inner { consensus } else { SpanId(9) };
        assert_eq!(parents, [false, false, true, true, true, false, false].map(below));
        assert!(trail.marks.is_empty() && trail.idle());
    }

    #[test]
    fn a_peer_that_does_not_answer_is_not_waited_for_for_ever_and_nothing_is_kept_without_a_write() {
        let (mut trail, n2): (Trail, NodeId) = (Trail::default(), "n2".parse().unwrap());
        trail.sent(&n2, &append(1..=1), Micros(1));
        trail.persist(&persist(1, 1..=1), Micros(1));
        assert!(trail.marks.is_empty());
        trail.taken(1, origin(), Micros(1), Micros(2));
        trail.sent(&n2, &append(2..=2), Micros(3));
        trail.committed(&[entry(2)], Micros(4));
        trail.applied(Index(2), Micros(5));
        trail.answered(1, Some(Index(2)), Micros(6));
        assert!(trail.finished(Micros(7), 1).is_empty());
        let late = Micros(6).after(PEERS_PATIENCE);
        let names: Vec<&str> = trail.finished(late, 1).iter().map(|span| span.name).collect();
        assert_eq!(names, ["queue", "consensus", "apply", "answer"]);
        // One that another node did, and one that was refused.
        trail.taken(2, origin(), Micros(1), Micros(2));
        trail.answered(2, Some(Index(9)), Micros(8));
        trail.taken(3, origin(), Micros(1), Micros(2));
        trail.answered(3, None, Micros(8));
        let names: Vec<&str> = trail.finished(Micros(9), 1).iter().map(|span| span.name).collect();
        assert_eq!(names, ["queue", "answer"]);
        assert!(trail.idle() && trail.marks.is_empty());
    }

    #[test]
    fn writes_and_marks_are_bounded() {
        let mut trail = Trail::default();
        for ask in 0..WRITES_MAX as u64 + 9 {
            trail.taken(ask, origin(), Micros(1), Micros(1));
        }
        assert_eq!(trail.open.len(), WRITES_MAX);
        for seq in 0..MARKS_MAX as u64 + 9 {
            trail.persisted(seq, Micros(1));
        }
        assert_eq!(trail.marks.len(), MARKS_MAX);
    }
}
