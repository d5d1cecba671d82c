//! Snapshot transfers: a state goes in parts, one in flight, each acknowledged before the next.
//!
//! One part at a time throttles a transfer to what the receiver takes, and keeps the connection free for
//! consensus. The sender's parts come from a frozen view (`Applier::export`); the receiver keeps them beside its state,
//! which is replaced when the last has come.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::raft::{Base, Configuration};
use crate::types::{Index, Micros, NodeId};

use super::applier::rows_checksum;
use super::frame::SnapshotChunk;
use super::status::Receiving;

/// How long a part waits for its acknowledgement before it is sent again.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one part is sent before the transfer is given up.
const PART_TRIES_MAX: u32 = 10;

/// What a receiver wants that has none of the parts before the one that came: it was started anew meanwhile. Without a word
/// it would be sent that part again and again, until the transfer is given up.
pub const FROM_THE_BEGINNING: u32 = 0;
/// What a receiver wants whose state is as new as the snapshot: its last word was lost, or it has caught up otherwise.
pub const NOTHING_MORE: u32 = u32::MAX;

/// What the shell is asked for next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantPart {
    /// The receiver.
    pub to: NodeId,
    /// The transfer.
    pub transfer: u64,
    /// The part.
    pub part: u32,
    /// The rows after this key; `None` for the first part.
    pub after: Option<Vec<u8>>,
    /// How many bytes of keys and values; one more row may exceed it.
    pub bytes: usize,
    /// The configuration in force, for a state that has not recorded one.
    pub configuration: Configuration,
}

#[derive(Debug)]
struct Outgoing {
    transfer: u64,
    part: u32,
    /// Where the wanted part begins, and where the one after it begins (once it was exported).
    after: Option<Vec<u8>>,
    upto: Option<Vec<u8>>,
    last: bool,
    tries: u32,
    resend_at: Micros,
    /// The rate allows no further part before.
    next_part_at: Micros,
    base: Base,
    configuration: Configuration,
}

impl Outgoing {
    fn want(&self, to: &NodeId, bytes: usize) -> WantPart {
        WantPart {
            to: to.clone(),
            transfer: self.transfer,
            part: self.part,
            after: self.after.clone(),
            bytes,
            configuration: self.configuration.clone(),
        }
    }
}

/// The transfers that this node sends, one per receiver.
#[derive(Debug, Default)]
pub struct Outgoings {
    /// Bytes a second to each receiver; 0: as fast as it takes them.
    rate: u64,
    /// Bytes of one part.
    part_bytes: usize,
    last_transfer: u64,
    by_peer: BTreeMap<NodeId, Outgoing>,
}

/// What an acknowledgement or a timeout leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Export and send this part.
    Part(WantPart),
    /// The transfer is over; `Some`: the receiver has everything up to there.
    Over {
        /// The receiver.
        to: NodeId,
        /// The transfer.
        transfer: u64,
        /// What it covered, if it succeeded.
        base: Option<Base>,
    },
}

impl Outgoings {
    /// No transfers yet; each may send `rate` bytes a second (0: as many as are taken), in parts of `part_bytes`.
    pub fn new(rate: u64, part_bytes: usize) -> Outgoings {
        Outgoings { rate, part_bytes, ..Outgoings::default() }
    }

    /// Begins a transfer, and gives the number of the one that it replaces, which must be closed: an export keeps a
    /// view open. `entropy` makes the numbers of different runs differ.
    pub fn begin(
        &mut self,
        to: &NodeId,
        configuration: Configuration,
        entropy: u64,
        now: Micros,
    ) -> (WantPart, Option<u64>) {
        self.last_transfer = self.last_transfer.wrapping_add(1) ^ (entropy & 0xffff_ffff_0000_0000);
        let transfer = self.last_transfer;
        let outgoing = Outgoing {
            transfer,
            part: 0,
            after: None,
            upto: None,
            last: false,
            tries: 1,
            resend_at: now.after(PART_TIMEOUT),
            next_part_at: now,
            base: Base::default(),
            configuration,
        };
        let want = outgoing.want(to, self.part_bytes);
        let replaced = self.by_peer.insert(to.clone(), outgoing);
        (want, replaced.map(|replaced| replaced.transfer))
    }

    /// Whether a transfer is under way to a node whose log begins at `base`, and may bring it a state that reaches there. What
    /// one covers is known once its first part was exported.
    pub fn is_of_use_to(&self, to: &NodeId, base: Index) -> bool {
        let covers = |outgoing: &Outgoing| match (outgoing.part, &outgoing.upto) {
            (0, None) => true,
            _ => outgoing.base.index >= base,
        };
        self.by_peer.get(to).is_some_and(covers)
    }

    /// A part was exported and sent.
    pub fn sent(&mut self, to: &NodeId, chunk: &SnapshotChunk, now: Micros) {
        let bytes: usize = chunk.rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        let pause = (bytes as u64).saturating_mul(1_000_000).checked_div(self.rate).unwrap_or(0);
        if let Some(outgoing) = self.by_peer.get_mut(to)
            && outgoing.transfer == chunk.transfer
            && outgoing.part == chunk.part
        {
            outgoing.upto = chunk.rows.last().map(|(key, _)| key.clone());
            outgoing.last = chunk.last;
            outgoing.base = chunk.base;
            outgoing.next_part_at = now.after(Duration::from_micros(pause));
        }
    }

    /// The receiver wants part `next`: the one after that which it was sent; or [`FROM_THE_BEGINNING`]; or [`NOTHING_MORE`].
    pub fn acknowledged(&mut self, from: &NodeId, transfer: u64, next: u32, now: Micros) -> Option<Next> {
        let outgoing = self.by_peer.get_mut(from).filter(|outgoing| outgoing.transfer == transfer)?;
        if next == FROM_THE_BEGINNING && outgoing.part > 0 {
            (outgoing.part, outgoing.after, outgoing.upto, outgoing.last) = (0, None, None, false);
            outgoing.tries = 1;
            outgoing.resend_at = now.after(PART_TIMEOUT);
            return Some(Next::Part(outgoing.want(from, self.part_bytes)));
        }
        // Before the first part was exported, nobody knows what the transfer covers.
        let has_all = next == NOTHING_MORE && (outgoing.part > 0 || outgoing.upto.is_some());
        if next != outgoing.part.wrapping_add(1) && !has_all {
            return None;
        }
        if outgoing.last || has_all {
            let base = Some(outgoing.base);
            self.by_peer.remove(from);
            return Some(Next::Over { to: from.clone(), transfer, base });
        }
        outgoing.part = next;
        outgoing.after = outgoing.upto.take();
        if now < outgoing.next_part_at {
            // Not yet: `tick` sends it.
            outgoing.tries = 0;
            outgoing.resend_at = outgoing.next_part_at;
            return None;
        }
        outgoing.tries = 1;
        outgoing.resend_at = now.after(PART_TIMEOUT);
        Some(Next::Part(outgoing.want(from, self.part_bytes)))
    }

    /// The view of a transfer is gone: the transfer is over, unless another has taken its place.
    pub fn lost(&mut self, to: &NodeId, transfer: u64) -> Option<Next> {
        self.by_peer.get(to).filter(|outgoing| outgoing.transfer == transfer)?;
        self.by_peer.remove(to);
        Some(Next::Over { to: to.clone(), transfer, base: None })
    }

    /// Sends again what was not acknowledged, and gives up what was sent too often.
    pub fn tick(&mut self, now: Micros) -> Vec<Next> {
        let mut next = Vec::new();
        let part_bytes = self.part_bytes;
        self.by_peer.retain(|to, outgoing| {
            if now < outgoing.resend_at {
                return true;
            }
            let transfer = outgoing.transfer;
            if outgoing.tries >= PART_TRIES_MAX {
                next.push(Next::Over { to: to.clone(), transfer, base: None });
                return false;
            }
            outgoing.tries += 1;
            outgoing.resend_at = now.after(PART_TIMEOUT);
            next.push(Next::Part(outgoing.want(to, part_bytes)));
            true
        });
        next
    }

    /// This node leads no more: nobody wants its snapshots.
    pub fn abandon(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.by_peer).into_values().map(|outgoing| outgoing.transfer).collect()
    }

    /// When [`Outgoings::tick`] is due.
    pub fn deadline(&self) -> Option<Micros> {
        self.by_peer.values().map(|outgoing| outgoing.resend_at).min()
    }
}

/// So many snapshots in a row, without having caught up in between, are a follower's share; whoever needs more falls behind
/// for ever.
pub const NEEDS_MAX: u32 = 3;
/// How long such a follower waits for its next snapshot: at first, twice as long each time, and at most.
const NEEDS_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Who needed snapshots lately, and who has to wait for the next.
///
/// A follower that applies more slowly than the leader writes is too far behind again when its snapshot is installed. It
/// would get one after the other, at the cost of all: so it waits between them, and the operator is told.
#[derive(Debug, Default)]
pub struct Needs {
    /// How many each node has had since it last caught up.
    had: BTreeMap<NodeId, u32>,
    /// Who waits, and until when.
    waiting: BTreeMap<NodeId, Micros>,
}

impl Needs {
    /// A node needs a snapshot. `None`: it may have it at once; otherwise it must wait so long, and [`Needs::due`] names
    /// it then.
    pub fn ask(&mut self, node: &NodeId, now: Micros) -> Option<Duration> {
        let had = self.had.entry(node.clone()).or_default();
        *had = had.saturating_add(1);
        let more = had.checked_sub(NEEDS_MAX + 1)?;
        let pause = NEEDS_PAUSE.0.saturating_mul(1 << more.min(16)).min(NEEDS_PAUSE.1);
        self.waiting.insert(node.clone(), now.after(pause));
        Some(pause)
    }

    /// Those whose wait is over.
    pub fn due(&mut self, now: Micros) -> Vec<NodeId> {
        let due = self.waiting.iter().filter(|(_, until)| **until <= now).map(|(node, _)| node.clone());
        let due: Vec<NodeId> = due.collect();
        self.waiting.retain(|_, until| *until > now);
        due
    }

    /// Forgets those who have caught up.
    pub fn forget(&mut self, caught_up: impl Fn(&NodeId) -> bool) {
        self.had.retain(|node, _| !caught_up(node));
    }

    /// Whether a node has had more than its share.
    pub fn falls_behind(&self, node: &NodeId) -> bool {
        self.had.get(node).is_some_and(|had| *had > NEEDS_MAX)
    }

    /// This node leads no more: what others need is another's concern.
    pub fn clear(&mut self) {
        self.had.clear();
        self.waiting.clear();
    }

    /// When [`Needs::due`] has something.
    pub fn deadline(&self) -> Option<Micros> {
        self.waiting.values().min().copied()
    }
}

/// A part of a snapshot that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The sender.
    pub from: NodeId,
    /// Its transfer.
    pub transfer: u64,
    /// The number after this part's: acknowledged once the part is kept, or the snapshot installed.
    pub parts: u32,
    /// Whether it is the last.
    pub last: bool,
    /// What it covers.
    pub base: Base,
    /// The configuration as of then.
    pub configuration: Configuration,
    /// Its keys and values.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Received {
    /// Whether a snapshot begins with it.
    pub fn is_first(&self) -> bool {
        self.parts == 1
    }
}

/// The transfer that this node receives; a new one replaces an unfinished one. The rows are elsewhere, see [`super::spool`].
#[derive(Debug, Default)]
pub struct Incoming {
    /// As of the last part, without its rows.
    current: Option<Received>,
    /// What its rows had, together.
    bytes: u64,
}

/// What a received part leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Acknowledge: the sender may send this part.
    Ack {
        /// The next part wanted.
        next: u32,
    },
    /// Keep it (or, the last one: install), then acknowledge.
    Part(Box<Received>),
    /// Damaged, or not what was asked for: dropped, the sender will send again.
    Dropped,
}

impl Incoming {
    /// Takes a part in.
    pub fn take(&mut self, from: &NodeId, chunk: SnapshotChunk) -> Taken {
        if rows_checksum(&chunk.rows) != chunk.checksum {
            return Taken::Dropped;
        }
        if chunk.part == 0
            && self.current.as_ref().is_none_or(|r| r.transfer != chunk.transfer || &r.from != from)
        {
            self.current = Some(Received {
                from: from.clone(),
                transfer: chunk.transfer,
                parts: 0,
                last: false,
                base: chunk.base,
                configuration: chunk.configuration.clone(),
                rows: Vec::new(),
            });
            self.bytes = 0;
        }
        let Some(current) = self.current.as_mut() else { return Taken::Ack { next: FROM_THE_BEGINNING } };
        if current.transfer != chunk.transfer || &current.from != from || current.base != chunk.base {
            return Taken::Dropped;
        }
        if chunk.part.wrapping_add(1) == current.parts {
            return Taken::Ack { next: current.parts };
        }
        if chunk.part != current.parts {
            return Taken::Dropped;
        }
        current.parts += 1;
        self.bytes += chunk.rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        let part = Received { last: chunk.last, rows: chunk.rows, ..current.clone() };
        if chunk.last {
            self.current = None;
        }
        Taken::Part(Box::new(part))
    }

    /// How far an unfinished transfer is.
    pub fn receiving(&self) -> Option<Receiving> {
        let received = self.current.as_ref()?;
        Some(Receiving { from: received.from.clone(), index: received.base.index, bytes: self.bytes })
    }

    /// What came could not be kept.
    pub fn forget(&mut self) {
        self.current = None;
    }

    /// The state has come to `applied` by itself: forgets a transfer that would not bring it further.
    pub fn forget_up_to(&mut self, applied: Index) {
        self.current.take_if(|received| received.base.index <= applied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a valid name")
    }

    fn chunk(transfer: u64, part: u32, last: bool, bytes: usize) -> SnapshotChunk {
        let rows = vec![(vec![u8::try_from(part).expect("few parts")], vec![0; bytes - 1])];
        SnapshotChunk {
            transfer,
            base: Base::default(),
            configuration: Configuration::default(),
            part,
            last,
            checksum: rows_checksum(&rows),
            rows,
        }
    }

    /// Follower n2 is sent parts of 1 000 bytes at 10 000 bytes a second: one every 100 ms, whenever it acknowledges.
    #[test]
    fn parts_leave_no_faster_than_the_rate_allows() {
        let (to, at) = (node("n2"), |ms: u64| Micros(1_000_000 + ms * 1_000));
        let mut outgoings = Outgoings::new(10_000, 1 << 20);
        let (want, _) = outgoings.begin(&to, Configuration::default(), 0, at(0));
        outgoings.sent(&to, &chunk(want.transfer, 0, false, 1_000), at(0));
        assert_eq!(outgoings.acknowledged(&to, want.transfer, 1, at(20)), None, "too early");
        assert_eq!(outgoings.deadline(), Some(at(100)));
        assert!(outgoings.tick(at(99)).is_empty());
        let due = outgoings.tick(at(100));
        assert!(matches!(&due[..], [Next::Part(part)] if part.part == 1), "{due:?}");
        outgoings.sent(&to, &chunk(want.transfer, 1, false, 1_000), at(100));
        // A slow receiver is waited for, and then served at once.
        let next = outgoings.acknowledged(&to, want.transfer, 2, at(250));
        assert!(matches!(&next, Some(Next::Part(part)) if part.part == 2), "{next:?}");
        outgoings.sent(&to, &chunk(want.transfer, 2, true, 1_000), at(250));
        let over = outgoings.acknowledged(&to, want.transfer, 3, at(251));
        assert!(matches!(over, Some(Next::Over { base: Some(_), .. })), "the end needs no part: {over:?}");
    }

    #[test]
    fn a_lost_part_is_sent_again_from_where_the_transfer_stands() {
        let (to, at) = (node("n2"), |ms: u64| Micros(1_000_000 + ms * 1_000));
        let mut outgoings = Outgoings::new(0, 1 << 20);
        let (want, _) = outgoings.begin(&to, Configuration::default(), 0, at(0));
        outgoings.sent(&to, &chunk(want.transfer, 0, false, 10), at(0));
        assert!(outgoings.acknowledged(&to, want.transfer, 1, at(5)).is_some());
        let mut sent = 0;
        for second in (2..=18).step_by(2) {
            let again = outgoings.tick(at(second * 1_000 + 5));
            assert!(
                matches!(&again[..], [Next::Part(part)] if part.part == 1 && part.after == Some(vec![0]))
            );
            sent += 1;
        }
        assert_eq!(sent, 9, "the first time and nine times more, over eighteen seconds");
        assert!(
            matches!(&outgoings.tick(at(20_005))[..], [Next::Over { base: None, .. }]),
            "then it is given up"
        );
    }

    /// What came last was acknowledged by nobody; meanwhile the receiver went on, compacted its log and lost its state.
    #[test]
    fn a_snapshot_from_before_the_receivers_log_is_of_no_use() {
        let to = node("n2");
        let mut outgoings = Outgoings::new(0, 1 << 20);
        assert!(!outgoings.is_of_use_to(&to, Index(0)), "none is under way");
        let (want, _) = outgoings.begin(&to, Configuration::default(), 0, Micros(1_000_000));
        assert!(outgoings.is_of_use_to(&to, Index(131)), "it is not known yet what it will cover");
        let part = chunk(want.transfer, 0, true, 10);
        let covered = part.base.index;
        outgoings.sent(&to, &part, Micros(1_000_000));
        assert!(outgoings.is_of_use_to(&to, covered) && !outgoings.is_of_use_to(&to, covered.next()));
    }

    /// The receiver was killed after the first part of three, and started again; later its last word was lost.
    #[test]
    fn a_receiver_that_starts_anew_gets_the_snapshot_from_the_beginning_at_once() {
        let (to, from, at) = (node("n2"), node("n1"), |ms: u64| Micros(1_000_000 + ms * 1_000));
        let mut outgoings = Outgoings::new(0, 1 << 20);
        let (want, _) = outgoings.begin(&to, Configuration::default(), 0, at(0));
        let part = |number: u32| chunk(want.transfer, number, number == 2, 10);
        outgoings.sent(&to, &part(0), at(0));
        assert!(matches!(Incoming::default().take(&from, part(0)), Taken::Part(_)));
        assert!(outgoings.acknowledged(&to, want.transfer, 1, at(5)).is_some());
        outgoings.sent(&to, &part(1), at(5));
        let mut incoming = Incoming::default();
        assert_eq!(incoming.take(&from, part(1)), Taken::Ack { next: FROM_THE_BEGINNING });
        let next = outgoings.acknowledged(&to, want.transfer, FROM_THE_BEGINNING, at(10));
        assert!(
            matches!(&next, Some(Next::Part(part)) if part.part == 0 && part.after.is_none()),
            "{next:?}"
        );
        for number in 0..3 {
            outgoings.sent(&to, &part(number), at(20));
            let whole = matches!(incoming.take(&from, part(number)), Taken::Part(part) if part.last);
            assert_eq!(whole, number == 2);
            let bytes = incoming.receiving().map(|receiving| receiving.bytes);
            assert_eq!(bytes, (!whole).then_some(10 * u64::from(number + 1)));
            if !whole {
                outgoings.acknowledged(&to, want.transfer, number + 1, at(20));
            }
        }
        let over = outgoings.acknowledged(&to, want.transfer, NOTHING_MORE, at(30));
        assert!(matches!(over, Some(Next::Over { base: Some(_), .. })), "{over:?}");
    }

    /// | need | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
    /// |---|---|---|---|---|---|---|---|---|---|
    /// | waits (s) | 0 | 0 | 0 | 5 | 10 | 20 | 40 | 60 | 60 |
    #[test]
    fn a_follower_that_falls_behind_for_ever_waits_longer_and_longer_until_it_catches_up() {
        let (slow, other) = (node("n3"), node("n2"));
        let mut needs = Needs::default();
        let mut waits = Vec::new();
        for turn in 0..9 {
            let wait = needs.ask(&slow, Micros(turn)).unwrap_or_default();
            waits.push(wait.as_secs());
            assert_eq!(needs.deadline(), (!wait.is_zero()).then(|| Micros(turn).after(wait)));
            assert_eq!(needs.falls_behind(&slow), turn >= 3);
            let due = needs.due(Micros(turn).after(wait));
            assert_eq!(due, if wait.is_zero() { vec![] } else { vec![slow.clone()] });
        }
        assert_eq!(waits, [0, 0, 0, 5, 10, 20, 40, 60, 60]);
        assert_eq!(needs.ask(&other, Micros(0)), None, "nobody else waits");
        needs.forget(|node| *node == slow);
        assert!(!needs.falls_behind(&slow));
        assert_eq!(needs.ask(&slow, Micros(0)), None);
    }
}
