//! How long the disk takes: the core measures it by its own batches, and draws its conclusions without the disk.
//!
//! A disk that hangs does not break connections nor stop heartbeats, so nobody else notices (hashicorp/raft 503, hazard
//! 37). A leader on such a disk would keep its followers loyal while nothing is ever committed on it. So the node judges
//! itself: a batch that has been pending for half the longest election timeout marks the disk *degraded*. A leader then
//! hands over while it still can; when the batch has been pending for the whole timeout, it steps down. Neither
//! needs the disk.
//!
//! Hysteresis: a degraded disk counts as recovered only when for four longest election timeouts no batch was pending
//! for more than a quarter of one. A disk that stalls again and again stays degraded throughout.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Micros;

use super::message::{Event, Seq};

/// The disk has to be calm for so many longest election timeouts to count as recovered.
const CALM_TIMEOUTS: u32 = 4;

/// The batches under way, and what follows from their age.
#[derive(Debug)]
pub(super) struct Disk {
    /// What is handed out and not confirmed, each with the time at which it was handed out.
    pending: VecDeque<(Seq, Micros)>,
    degraded: bool,
    /// When a batch was last seen pending for more than a quarter of the patience.
    strained_at: Micros,
    /// The longest election timeout.
    patience: Duration,
}

impl Disk {
    pub fn new(patience: Duration) -> Self {
        Disk { pending: VecDeque::new(), degraded: false, strained_at: Micros(0), patience }
    }

    /// A batch is on its way to the disk.
    pub fn handed(&mut self, seq: Seq, now: Micros) {
        self.pending.push_back((seq, now));
    }

    /// The batch `seq` and all before it are durable.
    pub fn written(&mut self, seq: Seq, now: Micros) {
        self.note_strain(now);
        while self.pending.pop_front_if(|(pending, _)| *pending <= seq).is_some() {}
    }

    /// This process stood still for so long: the disk may have finished long ago, and nobody could hear it. What is
    /// pending counts as that much younger.
    pub fn stood_still(&mut self, span: Duration, now: Micros) {
        for (_, handed) in &mut self.pending {
            *handed = handed.after(span).min(now);
        }
    }

    /// For how long the oldest batch has been pending.
    fn age(&self, now: Micros) -> Option<Duration> {
        self.pending.front().map(|(_, handed)| now.since(*handed))
    }

    fn note_strain(&mut self, now: Micros) -> bool {
        let strained = self.age(now).is_some_and(|age| age >= self.patience / 4);
        if strained {
            self.strained_at = now;
        }
        strained
    }

    /// Judges the disk by what is pending now. Returns the change, if there is one.
    pub fn observe(&mut self, now: Micros) -> Option<Event> {
        let strained = self.note_strain(now);
        let age = self.age(now).unwrap_or_default();
        if !self.degraded && age >= self.patience / 2 {
            self.degraded = true;
            return Some(Event::DiskDegraded { pending: age });
        }
        if self.degraded && !strained && now >= self.calm_at() {
            self.degraded = false;
            return Some(Event::DiskRecovered);
        }
        None
    }

    fn calm_at(&self) -> Micros {
        self.strained_at.after(self.patience * CALM_TIMEOUTS)
    }

    /// Whether the node should not lead on this disk.
    pub fn degraded(&self) -> bool {
        self.degraded
    }

    /// When [`Disk::observe`] may have news without a further batch or confirmation.
    pub fn deadline(&self) -> Micros {
        let oldest = self.pending.front().map(|(_, handed)| *handed);
        match (self.degraded, oldest) {
            (false, Some(handed)) => handed.after(self.patience / 2),
            (false, None) => Micros(u64::MAX),
            // While the oldest batch is too old, only its confirmation is news.
            (true, Some(handed)) if handed.after(self.patience / 4) <= self.calm_at() => Micros(u64::MAX),
            (true, _) => self.calm_at(),
        }
    }

    /// When a leader has waited long enough; far in the future while nothing is pending.
    pub fn stuck_at(&self) -> Micros {
        self.pending.front().map_or(Micros(u64::MAX), |(_, handed)| handed.after(self.patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(600);

    fn at(millis: u64) -> Micros {
        Micros(millis * 1_000)
    }

    #[test]
    fn half_the_patience_degrades_and_a_long_calm_recovers() {
        let mut disk = Disk::new(PATIENCE);
        assert_eq!(disk.deadline(), Micros(u64::MAX));
        disk.handed(1, at(1_000));
        assert_eq!((disk.deadline(), disk.stuck_at()), (at(1_300), at(1_600)));
        assert_eq!(disk.observe(at(1_299)), None);
        let pending = Duration::from_millis(300);
        assert_eq!(disk.observe(at(1_300)), Some(Event::DiskDegraded { pending }));
        assert_eq!(disk.deadline(), Micros(u64::MAX), "nothing to wait for but the disk");
        disk.written(1, at(5_000));
        assert_eq!((disk.deadline(), disk.stuck_at()), (at(7_400), Micros(u64::MAX)));
        assert_eq!(disk.observe(at(7_399)), None);
        assert_eq!(disk.observe(at(7_400)), Some(Event::DiskRecovered));
        assert!(!disk.degraded());
    }

    /// A write is handed over, the process is stopped for five seconds and woken; what the disk said meanwhile comes later.
    #[test]
    fn time_in_which_the_process_stood_still_is_not_held_against_the_disk() {
        let mut disk = Disk::new(PATIENCE);
        disk.handed(1, at(1_000));
        disk.stood_still(Duration::from_millis(5_000), at(6_010));
        assert_eq!(disk.observe(at(6_010)), None);
        assert_eq!(
            (disk.deadline(), disk.stuck_at()),
            (at(6_300), at(6_600)),
            "ten milliseconds are its own"
        );
        disk.written(1, at(6_011));
        assert_eq!(disk.deadline(), Micros(u64::MAX));
        // Handed over within the stop (as far as the clock tells): it is not older than now.
        disk.handed(2, at(7_000));
        disk.stood_still(Duration::from_millis(900), at(7_500));
        assert_eq!(disk.stuck_at(), at(8_100));
    }

    #[test]
    fn a_disk_that_strains_again_and_again_does_not_flap() {
        let mut disk = Disk::new(PATIENCE);
        disk.handed(1, at(0));
        assert!(disk.observe(at(300)).is_some());
        disk.written(1, at(300));
        // Every second a write takes 200 ms: too quick to be degraded by it, too slow to recover.
        for second in 1..20 {
            disk.handed(second + 1, at(second * 1_000));
            assert_eq!(disk.observe(at(second * 1_000 + 100)), None);
            disk.written(second + 1, at(second * 1_000 + 200));
            assert_eq!(disk.observe(at(second * 1_000 + 200)), None);
        }
        // Quick writes do no harm.
        for step in 0..240 {
            disk.handed(100 + step, at(19_200 + step * 10));
            disk.written(100 + step, at(19_205 + step * 10));
            assert_eq!(disk.observe(at(19_205 + step * 10)), None);
        }
        assert_eq!(disk.observe(at(21_600)), Some(Event::DiskRecovered));
    }

    #[test]
    fn every_deadline_lies_ahead_or_brings_news() {
        let mut disk = Disk::new(PATIENCE);
        let (mut now, mut seq, mut word) = (0_u64, 0_u64, 7_u64);
        for _ in 0..20_000 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += (word >> 40) % 90;
            match (word >> 33) % 4 {
                0 => {
                    seq += 1;
                    disk.handed(seq, at(now));
                }
                1 if seq > 0 => disk.written(seq, at(now)),
                _ => {}
            }
            disk.observe(at(now));
            // Going from deadline to deadline ends: no busy waiting.
            for _ in 0..4 {
                let deadline = disk.deadline();
                assert!(deadline > at(now), "a deadline in the past");
                if deadline == Micros(u64::MAX) {
                    break;
                }
                now = deadline.0.div_ceil(1_000);
                disk.observe(at(now));
            }
        }
    }
}
