//! Follows sampled writes through this node: what happened to each, and when. Values only: times are given, spans come out, and
//! the shell sends them somewhere (`src/traces/`).
//!
//! A write is known by its ask until it is answered; only then is its place in the log known here. So, while any sampled
//! write is under way, the trail keeps a bounded number of marks (a batch went to the disk, entries went to a peer, a peer has
//! them, …), and reads the story of a write off them once it is answered and every peer has confirmed it, or has had
//! [`PEERS_PATIENCE`]. While none is under way, nothing is kept.
//!
//! A write that another node leads is told on both: here as the tries that were passed on ([`Frame::Followed`] goes before each), and
//! there as what became of it, below the try. Each node's times are by its own clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::raft::{Body, Entry, NODES_MAX, Persist, Seq};
use crate::types::{Index, Micros, NodeId};

use super::frame::Frame;
use super::requests::{AskId, FORWARDED_FOR};

/// Most writes that are followed at once; more are not followed.
pub const WRITES_MAX: usize = 256;
/// Most marks that are kept; a write whose marks were pushed out has fewer spans.
pub const MARKS_MAX: usize = 8_192;
/// Most tries of a write that are followed: it is passed on again only when a leader was lost.
pub const TRIES_MAX: usize = 16;
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
    /// `queue`, `forward`, `consensus`, `log`, `replicate`, `apply`, `answer`.
    pub name: &'static str,
    /// By the node's clock.
    pub from: Micros,
    /// By the node's clock.
    pub to: Micros,
    /// The peer, for `replicate` and `forward`.
    pub peer: Option<NodeId>,
    /// The write's place in the log, if it is known to have one.
    pub index: Option<Index>,
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

/// Who is answered in the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// Somebody above.
    Ask(AskId),
    /// Another node, which passed it on under its own number.
    Peer(NodeId, u64),
}

#[derive(Debug)]
struct Write {
    origin: Origin,
    /// When the asker put it into the queue; `None` of another node's.
    queued: Option<Micros>,
    /// When it was taken from there.
    taken: Micros,
    /// Each time it was passed on.
    tries: Vec<Try>,
}

/// A write was passed on.
#[derive(Debug)]
struct Try {
    to: NodeId,
    number: u64,
    /// What the other node hangs its part below.
    span: SpanId,
    from: Micros,
    /// When the other node answered.
    answered: Option<Micros>,
}

#[derive(Debug)]
struct Answered {
    write: Write,
    index: Option<Index>,
    at: Micros,
}

/// See the module's head. Invariants: at most [`WRITES_MAX`] writes, [`TRIES_MAX`] tries of each, and [`MARKS_MAX`] marks; no marks
/// without writes.
#[derive(Debug)]
pub struct Trail {
    names: Names,
    open: BTreeMap<Asker, Write>,
    answered: Vec<Answered>,
    marks: VecDeque<(Micros, Mark)>,
    /// What each node said last of a write that it passes on next.
    announced: BTreeMap<NodeId, (u64, Origin)>,
}

impl Trail {
    /// `word`: a random word, from which the spans get their names.
    pub fn new(word: u64) -> Trail {
        let (open, announced) = (BTreeMap::new(), BTreeMap::new());
        Trail { names: Names(word), open, answered: Vec::new(), marks: VecDeque::new(), announced }
    }

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
        self.open(Asker::Ask(ask), origin, Some(queued.min(now)), now);
    }

    fn open(&mut self, asker: Asker, origin: Origin, queued: Option<Micros>, now: Micros) {
        if self.open.len() + self.answered.len() < WRITES_MAX {
            self.open.insert(asker, Write { origin, queued, taken: now, tries: Vec::new() });
        }
    }

    /// A write is passed on, under this number. If it is followed: what the other node is to be told first.
    pub fn passed_on(&mut self, ask: AskId, number: u64, to: &NodeId, now: Micros) -> Option<Frame> {
        let write = self.open.get_mut(&Asker::Ask(ask))?;
        if write.tries.len() >= TRIES_MAX {
            return None;
        }
        let span = self.names.next();
        write.tries.push(Try { to: to.clone(), number, span, from: now, answered: None });
        Some(Frame::Followed { id: number, trace: write.origin.trace, parent: span.0 })
    }

    /// A write of another node is here. It may be a second copy, of which nobody hears again: so those are not kept for ever.
    fn taken_over(&mut self, peer: &NodeId, number: u64, now: Micros) {
        let Some((_, origin)) = self.announced.remove(peer).filter(|(announced, _)| *announced == number)
        else {
            return;
        };
        let waits = |asker: &Asker, write: &Write| {
            matches!(asker, Asker::Ask(_)) || now < write.taken.after(FORWARDED_FOR)
        };
        self.open.retain(|asker, write| waits(asker, write));
        self.open(Asker::Peer(peer.clone(), number), origin, None, now);
    }

    fn came_back(&mut self, peer: &NodeId, number: u64, now: Micros) {
        let tries = self.open.values_mut().flat_map(|write| &mut write.tries);
        let found = tries.into_iter().find(|each| each.number == number && each.to == *peer);
        if let Some(found) = found {
            found.answered.get_or_insert(now);
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
        match frame {
            Frame::Followed { id, trace, parent } if *trace != 0 && *parent != 0 => {
                let origin = Origin { trace: *trace, parent: SpanId(*parent) };
                if self.announced.len() < NODES_MAX || self.announced.contains_key(peer) {
                    self.announced.insert(peer.clone(), (*id, origin));
                }
            }
            Frame::Forward { id, .. } => self.taken_over(peer, *id, now),
            Frame::ForwardAnswer { id, .. } => self.came_back(peer, *id, now),
            Frame::Raft(message) if !self.idle() => {
                if let Body::AppendAccepted { matched, .. } = &message.body {
                    self.mark(now, Mark::Accepted { peer: peer.clone(), matched: *matched });
                }
            }
            _ => {}
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
    pub fn answered(&mut self, asker: &Asker, index: Option<Index>, now: Micros) {
        if let Some(write) = self.open.remove(asker) {
            // Of one that came to nothing, only what another node may have hung its part below is told.
            if index.is_some() || !write.tries.is_empty() {
                self.answered.push(Answered { write, index, at: now });
            }
        }
        if self.idle() {
            self.marks.clear();
        }
    }

    /// The spans of the writes whose story is over.
    pub fn finished(&mut self, now: Micros) -> Vec<Span> {
        if self.answered.is_empty() {
            return Vec::new();
        }
        let (mut spans, mut waiting) = (Vec::new(), Vec::new());
        let mut names = self.names;
        for answered in std::mem::take(&mut self.answered) {
            let patient = now < answered.at.after(PEERS_PATIENCE);
            if patient && answered.index.is_some_and(|index| self.lacks_peers(index)) {
                waiting.push(answered);
            } else {
                self.tell(&answered, &mut names, &mut spans);
            }
        }
        self.names = names;
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
        let mut tell = |id, name, parent, from: Micros, to: Micros, peer: Option<&NodeId>| {
            let (trace, peer) = (write.origin.trace, peer.cloned());
            spans.push(Span { trace, id, parent, name, from, to: to.max(from), peer, index: *index });
        };
        let parent = write.origin.parent;
        let mut elsewhere = None;
        for each in &write.tries {
            let to = each.answered.unwrap_or(*at);
            tell(each.span, "forward", parent, each.from, to, Some(&each.to));
            elsewhere = each.answered;
        }
        let mut span = |name, parent, from, to, peer| {
            let id = names.next();
            tell(id, name, parent, from, to, peer);
            id
        };
        if let Some(queued) = write.queued {
            span("queue", parent, queued, write.taken, None);
        }
        let Some(index) = index else { return };
        let committed =
            self.first(|mark| matches!(mark, Mark::Committed { from, to } if within(*index, *from, *to)));
        let applied = self.first(|mark| matches!(mark, Mark::Applied(upto) if upto >= index));
        // Another node led, and tells what is missing here. (Its entry is committed and applied here, too: later, as a rule.)
        let Some(committed) = committed.filter(|_| elsewhere.is_none()) else {
            span("answer", parent, elsewhere.unwrap_or(write.taken), *at, None);
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
#[derive(Debug, Clone, Copy)]
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
    use crate::ledger::command::{Command, Request};
    use crate::node::handle::Failure;
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

    fn told(spans: &[Span]) -> Vec<(&'static str, u64, u64, Option<&str>)> {
        let row = |span: &'_ Span| (span.name, span.from.0, span.to.0);
        let peers = spans.iter().map(|span| span.peer.as_ref().map(NodeId::as_str));
        spans.iter().map(row).zip(peers).map(|((name, from, to), peer)| (name, from, to, peer)).collect()
    }

    fn origin() -> Origin {
        Origin { trace: 7, parent: SpanId(9) }
    }

    /// Claim: one write, batched with others, is told in the order in which it happened, each part with its times.
    #[test]
    fn a_write_is_told_from_the_queue_to_the_answer() {
        let (mut trail, n2, n3): (Trail, NodeId, NodeId) =
            (Trail::new(1), "n2".parse().unwrap(), "n3".parse().unwrap());
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
        trail.answered(&Asker::Ask(1), Some(Index(7)), Micros(65));
        assert_eq!(trail.finished(Micros(66)), [], "n3 may still confirm");
        trail.received(&n3, &accepted(8), Micros(90));
        let spans = trail.finished(Micros(91));
        assert_eq!(
            told(&spans),
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
        let (mut trail, n2): (Trail, NodeId) = (Trail::new(1), "n2".parse().unwrap());
        trail.sent(&n2, &append(1..=1), Micros(1));
        trail.persist(&persist(1, 1..=1), Micros(1));
        assert!(trail.marks.is_empty());
        trail.taken(1, origin(), Micros(1), Micros(2));
        trail.sent(&n2, &append(2..=2), Micros(3));
        trail.committed(&[entry(2)], Micros(4));
        trail.applied(Index(2), Micros(5));
        trail.answered(&Asker::Ask(1), Some(Index(2)), Micros(6));
        assert!(trail.finished(Micros(7)).is_empty());
        let late = Micros(6).after(PEERS_PATIENCE);
        let names: Vec<&str> = trail.finished(late).iter().map(|span| span.name).collect();
        assert_eq!(names, ["queue", "consensus", "apply", "answer"]);
        // One that another node did, and one that was refused.
        trail.taken(2, origin(), Micros(1), Micros(2));
        trail.answered(&Asker::Ask(2), Some(Index(9)), Micros(8));
        trail.taken(3, origin(), Micros(1), Micros(2));
        trail.answered(&Asker::Ask(3), None, Micros(8));
        let names: Vec<&str> = trail.finished(Micros(9)).iter().map(|span| span.name).collect();
        assert_eq!(names, ["queue", "answer"]);
        assert!(trail.idle() && trail.marks.is_empty());
    }

    #[test]
    fn writes_and_marks_are_bounded() {
        let mut trail = Trail::new(1);
        for ask in 0..WRITES_MAX as u64 + 9 {
            trail.taken(ask, origin(), Micros(1), Micros(1));
        }
        assert_eq!(trail.open.len(), WRITES_MAX);
        for seq in 0..MARKS_MAX as u64 + 9 {
            trail.persisted(seq, Micros(1));
        }
        assert_eq!(trail.marks.len(), MARKS_MAX);
    }

    /// Claim: a write that another node leads is one trace: what that node tells hangs below the try that was passed on.
    #[test]
    fn a_write_that_is_passed_on_is_told_on_both_nodes() {
        let (n1, n2): (NodeId, NodeId) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let request = || Request::new(Command::Add { a: 1, b: 2 });
        let answer = |id| Frame::ForwardAnswer { id, result: Err(Failure::Overloaded) };
        let (mut follower, mut leader) = (Trail::new(1), Trail::new(2));
        follower.taken(1, origin(), Micros(10), Micros(20));
        assert_eq!(follower.passed_on(2, 6, &n2, Micros(21)), None, "that one is not followed");
        let lost = follower.passed_on(1, 7, &n1, Micros(22)).expect("it is followed");
        let followed = follower.passed_on(1, 8, &n2, Micros(40)).expect("it is followed");
        assert_ne!(lost, followed);
        let forward = Frame::Forward { life: 1, id: 8, request: request() };
        leader.received(&n1, &Frame::Forward { life: 1, id: 5, request: request() }, Micros(1_000));
        assert!(leader.idle(), "nothing was said of that one");
        leader.received(&n1, &followed, Micros(1_001));
        leader.received(&n1, &forward, Micros(1_002));
        leader.received(&n1, &forward, Micros(1_003));
        leader.committed(&[entry(3)], Micros(1_010));
        leader.applied(Index(3), Micros(1_020));
        leader.answered(&Asker::Peer(n1.clone(), 8), Some(Index(3)), Micros(1_030));
        let there = leader.finished(Micros(1_031));
        assert_eq!(
            told(&there),
            [
                ("consensus", 1_002, 1_010, None),
                ("apply", 1_010, 1_020, None),
                ("answer", 1_020, 1_030, None)
            ]
        );
        // What is committed is so on the follower, too; that says nothing of who brought it about.
        follower.committed(&[entry(3)], Micros(50));
        follower.received(&n2, &answer(8), Micros(60));
        follower.answered(&Asker::Ask(1), Some(Index(3)), Micros(61));
        let here = follower.finished(Micros(62));
        assert_eq!(
            told(&here),
            [
                ("forward", 22, 61, Some("n1")),
                ("forward", 40, 60, Some("n2")),
                ("queue", 10, 20, None),
                ("answer", 60, 61, None),
            ]
        );
        assert!(there.iter().all(|span| span.trace == 7 && span.parent == here[1].id), "{there:?}");
        assert!(here.iter().all(|span| span.parent == SpanId(9)), "{here:?}");
        // One that the other node refused is told, since that node may have told its part.
        follower.taken(3, origin(), Micros(70), Micros(71));
        assert!(follower.passed_on(3, 9, &n2, Micros(72)).is_some());
        follower.received(&n2, &answer(9), Micros(80));
        follower.answered(&Asker::Ask(3), None, Micros(81));
        let names: Vec<&str> = follower.finished(Micros(82)).iter().map(|span| span.name).collect();
        assert_eq!(names, ["forward", "queue"]);
        assert!(follower.idle() && leader.idle());
    }

    #[test]
    fn what_other_nodes_announce_is_bounded_and_not_kept_for_ever() {
        let (mut trail, n1): (Trail, NodeId) = (Trail::new(1), "n1".parse().unwrap());
        let request = Request::new(Command::Add { a: 1, b: 2 });
        for id in 0..WRITES_MAX as u64 + 9 {
            trail.received(&n1, &Frame::Followed { id, trace: 7, parent: 9 }, Micros(1));
            trail.received(&n1, &Frame::Forward { life: 0, id, request: request.clone() }, Micros(1));
        }
        assert_eq!((trail.open.len(), trail.announced.len()), (WRITES_MAX, 0));
        let late = Micros(1).after(FORWARDED_FOR);
        trail.received(&n1, &Frame::Followed { id: 1_000, trace: 7, parent: 9 }, late);
        trail.received(&n1, &Frame::Forward { life: 0, id: 1_000, request }, late);
        assert_eq!(trail.open.len(), 1);
        for number in 0..NODES_MAX + 9 {
            let peer = format!("p{number}").parse().unwrap();
            trail.received(&peer, &Frame::Followed { id: 1, trace: 7, parent: 9 }, late);
        }
        trail.received(&n1, &Frame::Followed { id: 1, trace: 0, parent: 0 }, late);
        assert_eq!(trail.announced.len(), NODES_MAX);
        trail.taken(1, origin(), late, late);
        let followed =
            (0..TRIES_MAX as u64 + 9).filter(|number| trail.passed_on(1, *number, &n1, late).is_some());
        assert_eq!(followed.count(), TRIES_MAX);
    }
}
