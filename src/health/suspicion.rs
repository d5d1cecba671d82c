//! The failure detector of one member: how unlikely it is that all its silence is chance. Integers only.
//!
//! A member that usually misses one try in a hundred does not miss four in a row by chance; one that misses half of all
//! tries does. So each consecutive miss adds -log10 of the member's own recent miss rate, in thousandths: the sum is the phi of
//! the accrual detectors (Hayashibara et al., 2004), for independent misses. The rate is clamped to 1 to 50 %: below, a
//! single miss would say too much; above, none would say anything.
//!
//! Thresholds have a distance from each other in both directions. [`SUSPECT_AT`] and [`DOWN_AT`] are reached upwards; each
//! answer divides what has gathered by four, and only at [`UP_AT`] is the member up again: a suspect after one or two answers,
//! a dead one after two. An observer that is not well itself waits longer (Lifeguard, Dadgar et al., 2018): see [`stretched`].

use super::Level;

/// -log10 of 1 % to 50 %, in thousandths.
const SURPRISE: [u32; 50] = [
    2000, 1699, 1523, 1398, 1301, 1222, 1155, 1097, 1046, 1000, 959, 921, 886, 854, 824, 796, 770, 745, 721,
    699, 678, 658, 638, 620, 602, 585, 569, 553, 538, 523, 509, 495, 481, 469, 456, 444, 432, 420, 409, 398,
    387, 377, 367, 357, 347, 337, 328, 319, 310, 301,
];
/// From here on a member is suspected: four misses of one that misses hardly ever.
pub const SUSPECT_AT: u32 = 8_000;
/// From here on it is held dead: eight of them.
pub const DOWN_AT: u32 = 16_000;
/// At or below this it is up again.
pub const UP_AT: u32 = 2_000;
/// More than this is not remembered once it answers, so that two answers suffice.
const FORGIVEN_FROM: u32 = 4 * (4 * UP_AT) - 1;
/// Misses of one silence that count for the rate: a long outage is no bad line.
const RUN_MAX: u32 = 16;
/// One in so many tries is the weight of the newest for the rate.
const RATE_WEIGHT: u32 = 64;
/// One percent in the rate's unit, millionths.
const PERCENT: u32 = 10_000;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// In thousandths.
    phi: u32,
    /// Tries missed since the last answer.
    misses: u32,
    /// Of recent tries, in millionths.
    rate: u32,
}

impl Default for Suspicion {
    fn default() -> Self {
        Suspicion { phi: 0, misses: 0, rate: PERCENT }
    }
}

/// A threshold for an observer with this score: half as much again for each point.
fn stretched(threshold: u32, score: u32) -> u32 {
    threshold.saturating_add(threshold.saturating_mul(score) / 2)
}

impl Suspicion {
    /// Tries missed since the last answer.
    pub fn misses(&self) -> u32 {
        self.misses
    }

    /// A try was not answered in time.
    pub fn missed(&mut self) {
        let percent = (self.rate / PERCENT).clamp(1, 50);
        self.phi = self.phi.saturating_add(SURPRISE[percent as usize - 1]);
        self.misses = self.misses.saturating_add(1);
    }

    /// The member answered; returns the misses that this ends. They count for the rate now, and not while they gather, or
    /// a silence would excuse itself. Those of a member that was held dead say nothing about its line.
    pub fn answered(&mut self, level: Level) -> u32 {
        let misses = std::mem::take(&mut self.misses);
        if level != Level::Down {
            for _ in 0..misses.min(RUN_MAX) {
                self.rate += (100 * PERCENT - self.rate) / RATE_WEIGHT;
            }
        }
        self.rate -= self.rate / RATE_WEIGHT;
        self.phi = self.phi.min(FORGIVEN_FROM) / 4;
        misses
    }

    /// Another super-node has its answer: it lives, though not for us. That holds back, and proves nothing about our line.
    pub fn vouched(&mut self) {
        self.phi /= 2;
    }

    /// The level that follows for a member that was at `level`, by an observer with this score of its own.
    pub fn level(&self, level: Level, score: u32) -> Level {
        if self.phi >= stretched(DOWN_AT, score) {
            Level::Down
        } else if self.phi >= stretched(SUSPECT_AT, score) {
            level.max(Level::Suspect)
        } else if self.phi <= UP_AT && self.misses == 0 {
            Level::Up
        } else {
            level
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_rate(percent: u32) -> Suspicion {
        Suspicion { rate: percent * PERCENT, ..Suspicion::default() }
    }

    #[test]
    fn each_percent_has_its_surprise() {
        for (at, &surprise) in SURPRISE.iter().enumerate() {
            let exact = -((at as f64 + 1.0) / 100.0).log10() * 1_000.0;
            assert!((f64::from(surprise) - exact).abs() <= 0.5, "{} %", at + 1);
        }
    }

    #[test]
    fn the_more_a_member_misses_usually_the_more_misses_it_takes() {
        // percent, score, tries until suspect, until down: ceil(threshold / surprise).
        for (percent, score, suspect, down) in [
            (0, 0, 4, 8),
            (1, 0, 4, 8),
            (5, 0, 7, 13),
            (10, 0, 8, 16),
            (50, 0, 27, 54),
            (90, 0, 27, 54),
            (1, 1, 6, 12),
            (1, 8, 20, 40),
        ] {
            let mut suspicion = with_rate(percent);
            let (mut level, mut edges) = (Level::Up, Vec::new());
            for miss in 1..=60 {
                suspicion.missed();
                let next = suspicion.level(level, score);
                if next != level {
                    edges.push(miss);
                }
                level = next;
            }
            assert_eq!(edges, [suspect, down], "{percent} %, score {score}");
        }
    }

    #[test]
    fn a_dead_member_is_up_after_two_answers_and_a_suspect_after_one_or_two() {
        for (misses, answers) in [(4, 1), (5, 2), (7, 2), (8, 2), (1_000, 2)] {
            let mut suspicion = Suspicion::default();
            let mut level = Level::Up;
            for _ in 0..misses {
                suspicion.missed();
                level = suspicion.level(level, 0);
            }
            let mut needed = 0;
            while level != Level::Up {
                suspicion.answered(level);
                level = suspicion.level(level, 0);
                needed += 1;
            }
            assert_eq!(needed, answers, "{misses} misses");
        }
    }

    #[test]
    fn the_rate_follows_what_is_lost_and_forgets_outages() {
        let mut suspicion = Suspicion::default();
        for _ in 0..2_000 {
            suspicion.missed();
            suspicion.missed();
            suspicion.answered(Level::Up);
        }
        assert!((600_000..=700_000).contains(&suspicion.rate), "two of three: {}", suspicion.rate);
        for _ in 0..1_000 {
            suspicion.answered(Level::Up);
        }
        assert!(suspicion.rate < PERCENT, "{}", suspicion.rate);
        let before = suspicion.rate;
        for _ in 0..100 {
            suspicion.missed();
        }
        suspicion.answered(Level::Down);
        assert!(suspicion.rate <= before, "an outage is no bad line");
    }

    #[test]
    fn somebody_who_vouches_holds_back_and_does_not_raise() {
        let mut suspicion = Suspicion::default();
        for _ in 0..7 {
            suspicion.missed();
        }
        suspicion.vouched();
        assert_eq!((suspicion.phi, suspicion.misses), (7_000, 7));
        assert_eq!(suspicion.level(Level::Suspect, 0), Level::Suspect);
        suspicion.missed();
        assert_eq!(suspicion.level(Level::Suspect, 0), Level::Suspect, "eight misses, and not down");
    }
}
