//! Snapshot transfers: a state goes in parts, one in flight, each acknowledged before the next.
//!
//! One part at a time throttles a transfer to what the receiver takes, and keeps the connection free for
//! consensus. The sender's parts come from a frozen view (`Applier::export`); the receiver collects them and replaces
//! its state when the last has come.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::raft::{Base, Configuration};
use crate::types::{Index, Micros, NodeId};

use super::applier::rows_checksum;
use super::frame::SnapshotChunk;

/// How long a part waits for its acknowledgement before it is sent again.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one part is sent before the transfer is given up.
const PART_TRIES_MAX: u32 = 10;

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
    base: Base,
    configuration: Configuration,
}

impl Outgoing {
    fn want(&self, to: &NodeId) -> WantPart {
        WantPart {
            to: to.clone(),
            transfer: self.transfer,
            part: self.part,
            after: self.after.clone(),
            configuration: self.configuration.clone(),
        }
    }
}

/// The transfers that this node sends, one per receiver.
#[derive(Debug, Default)]
pub struct Outgoings {
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
            base: Base::default(),
            configuration,
        };
        let want = outgoing.want(to);
        let replaced = self.by_peer.insert(to.clone(), outgoing);
        (want, replaced.map(|replaced| replaced.transfer))
    }

    /// Whether a transfer to a node is under way.
    pub fn is_sending_to(&self, to: &NodeId) -> bool {
        self.by_peer.contains_key(to)
    }

    /// A part was exported and sent.
    pub fn sent(&mut self, to: &NodeId, chunk: &SnapshotChunk) {
        if let Some(outgoing) = self.by_peer.get_mut(to)
            && outgoing.transfer == chunk.transfer
            && outgoing.part == chunk.part
        {
            outgoing.upto = chunk.rows.last().map(|(key, _)| key.clone());
            outgoing.last = chunk.last;
            outgoing.base = chunk.base;
        }
    }

    /// The receiver wants part `next`.
    pub fn acknowledged(&mut self, from: &NodeId, transfer: u64, next: u32, now: Micros) -> Option<Next> {
        let outgoing = self.by_peer.get_mut(from).filter(|outgoing| outgoing.transfer == transfer)?;
        if next != outgoing.part.wrapping_add(1) {
            return None;
        }
        if outgoing.last {
            let base = Some(outgoing.base);
            self.by_peer.remove(from);
            return Some(Next::Over { to: from.clone(), transfer, base });
        }
        outgoing.part = next;
        outgoing.after = outgoing.upto.take();
        outgoing.tries = 1;
        outgoing.resend_at = now.after(PART_TIMEOUT);
        Some(Next::Part(outgoing.want(from)))
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
            next.push(Next::Part(outgoing.want(to)));
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

/// A whole snapshot that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The sender.
    pub from: NodeId,
    /// Its transfer.
    pub transfer: u64,
    /// The number after the last part's: acknowledged once the snapshot is installed.
    pub parts: u32,
    /// What it covers.
    pub base: Base,
    /// The configuration as of then.
    pub configuration: Configuration,
    /// All keys and values.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The transfer that this node receives; a new one replaces an unfinished one.
#[derive(Debug, Default)]
pub struct Incoming {
    current: Option<Received>,
}

/// What a received part leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Acknowledge: the sender may send this part.
    Ack {
        /// The next part wanted.
        next: u32,
    },
    /// All parts are here: install, then acknowledge.
    Whole(Box<Received>),
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
                base: chunk.base,
                configuration: chunk.configuration.clone(),
                rows: Vec::new(),
            });
        }
        let Some(current) = self.current.as_mut() else { return Taken::Dropped };
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
        current.rows.extend(chunk.rows);
        if !chunk.last {
            return Taken::Ack { next: current.parts };
        }
        self.current.take().map_or(Taken::Dropped, |received| Taken::Whole(Box::new(received)))
    }

    /// The state has come to `applied` by itself: forgets a transfer that would not bring it further, and its rows.
    pub fn forget_up_to(&mut self, applied: Index) {
        self.current.take_if(|received| received.base.index <= applied);
    }
}
