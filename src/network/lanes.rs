//! The frames that wait for one peer's connection.
//!
//! Two lanes. *Urgent* is everything but parts of snapshots: consensus, pings, forwarded requests; they keep their
//! order among themselves. *Bulk* is parts of snapshots. One write takes the urgent frames that wait, up to
//! [`WRITE_BYTES_MAX`], and after them at most one bulk frame. So an urgent frame waits for at most one bulk frame
//! (and what the kernel has not sent, which `TCP_NOTSENT_LOWAT` keeps small), and bulk always gets on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::node::frame::{FRAME_BYTES_MAX, Frame};

use super::wire;

/// Urgent frames that one write takes, in bytes; at least one goes in any case.
pub(super) const WRITE_BYTES_MAX: usize = 256 << 10;
/// Most frames that wait in a lane.
pub(super) const LANE_FRAMES_MAX: usize = 4_096;
/// Most bytes that wait in a lane: two of the largest frames.
pub(super) const LANE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// Where a frame waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneName {
    Urgent,
    Bulk,
}

impl LaneName {
    pub(super) fn of(frame: &Frame) -> LaneName {
        match frame {
            Frame::Snapshot(_) => LaneName::Bulk,
            Frame::Raft(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Forward { .. }
            | Frame::ForwardAnswer { .. }
            | Frame::ReadIndex { .. }
            | Frame::ReadIndexAnswer { .. }
            | Frame::SnapshotAck { .. }
            | Frame::ReadLease { .. }
            | Frame::Change { .. }
            | Frame::ChangeAnswer { .. }
            | Frame::Transfer { .. }
            | Frame::TransferAnswer { .. }
            | Frame::NotMember { .. }
            | Frame::AskHelp { .. }
            | Frame::Word { .. }
            | Frame::WantState { .. }
            | Frame::HearsNoLeader { .. }
            | Frame::Bound { .. }
            | Frame::Followed { .. } => LaneName::Urgent,
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Lane {
    fn push(&mut self, frame: Vec<u8>) -> bool {
        let fits = self.frames.len() < LANE_FRAMES_MAX && self.bytes + frame.len() <= LANE_BYTES_MAX;
        if fits {
            self.bytes += frame.len();
            self.frames.push_back(frame);
        }
        fits
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    urgent: Lane,
    bulk: Lane,
}

/// The lanes of one peer. Any number of senders, one receiver.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
    filled: Notify,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection stands: frames are taken.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// The connection is lost: whatever waits is dropped, and whatever comes.
    pub(super) fn close(&self) {
        *self.lock() = State::default();
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// `false` when the frame was dropped: no connection, or a full lane.
    pub(super) fn push(&self, lane: LaneName, frame: Vec<u8>) -> bool {
        let mut state = self.lock();
        let taken = state.open
            && match lane {
                LaneName::Urgent => state.urgent.push(frame),
                LaneName::Bulk => state.bulk.push(frame),
            };
        drop(state);
        if taken {
            self.filled.notify_one();
        }
        taken
    }

    /// Waits for frames and appends the next write to `out`, sealed. Returns how many there are.
    pub(super) async fn take(&self, out: &mut BytesMut) -> u64 {
        loop {
            let taken = self.drain();
            if !taken.is_empty() {
                taken.iter().for_each(|frame| wire::seal(frame, out));
                return taken.len() as u64;
            }
            self.filled.notified().await;
        }
    }

    fn drain(&self) -> Vec<Vec<u8>> {
        let mut state = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < WRITE_BYTES_MAX
            && let Some(frame) = state.urgent.pop()
        {
            bytes += frame.len();
            taken.push(frame);
        }
        taken.extend(state.bulk.pop());
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(urgent: &[usize], bulk: &[usize]) -> Lanes {
        let lanes = Lanes::default();
        lanes.open();
        urgent.iter().for_each(|&bytes| assert!(lanes.push(LaneName::Urgent, vec![1; bytes])));
        bulk.iter().for_each(|&bytes| assert!(lanes.push(LaneName::Bulk, vec![2; bytes])));
        lanes
    }

    #[test]
    fn a_write_takes_what_is_urgent_and_one_bulk_frame() {
        let big = WRITE_BYTES_MAX;
        type Case<'a> = (&'a str, &'a [usize], &'a [usize], &'a [&'a [(u8, usize)]]);
        let cases: [Case; 4] = [
            ("urgent frames go together", &[1, 2, 3], &[], &[&[(1, 1), (1, 2), (1, 3)]]),
            ("bulk frames go one by one", &[], &[7, 8], &[&[(2, 7)], &[(2, 8)]]),
            ("urgent goes first", &[1, 1], &[7, 8], &[&[(1, 1), (1, 1), (2, 7)], &[(2, 8)]]),
            ("bulk gets on beside much urgent", &[big, big], &[7], &[&[(1, big), (2, 7)], &[(1, big)]]),
        ];
        for (name, urgent, bulk, writes) in cases {
            let lanes = lanes(urgent, bulk);
            for write in writes {
                let got: Vec<_> = lanes.drain().iter().map(|frame| (frame[0], frame.len())).collect();
                assert_eq!(got, *write, "{name}");
            }
            assert!(lanes.drain().is_empty(), "{name}");
        }
    }

    #[test]
    fn a_full_lane_refuses_and_leaves_the_other_alone() {
        let full_by_bytes = lanes(&[], &[FRAME_BYTES_MAX, FRAME_BYTES_MAX]);
        assert!(!full_by_bytes.push(LaneName::Bulk, vec![2]));
        assert!(full_by_bytes.push(LaneName::Urgent, vec![1]));
        let full_by_frames = lanes(&[0; LANE_FRAMES_MAX], &[]);
        assert!(!full_by_frames.push(LaneName::Urgent, vec![]));
        full_by_frames.drain();
        assert!(full_by_frames.push(LaneName::Urgent, vec![]), "room again");
    }

    #[test]
    fn without_a_connection_nothing_waits() {
        let lanes = Lanes::default();
        assert!(!lanes.push(LaneName::Urgent, vec![1]));
        lanes.open();
        assert!(lanes.push(LaneName::Urgent, vec![1]));
        lanes.close();
        lanes.open();
        assert!(lanes.drain().is_empty(), "nothing stale is left for the next connection");
    }
}
