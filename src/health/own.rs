//! How well the observer itself is: whoever is at fault itself must not punish others.
//!
//! One more for each fault of its own: a ping that could not be sent, a helper's word that did not come, a stall of the
//! process of [`STALL_COUNTED`] or longer. One less for each round (one ping period) without any. The score goes into
//! every report, and the ledger sets aside the reports of those that are not well.

use std::time::Duration;

use crate::types::Micros;

use super::message::{ObserverHealth, STALL_COUNTED};

/// The score rises no further, so that after a burst of faults a few clean rounds show that it is over.
pub(super) const SCORE_MAX: u32 = 8;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Own {
    longest_stall_ms: u32,
    score: u32,
    round_began: Micros,
    round_clean: bool,
}

impl Own {
    /// Well.
    pub fn new(now: Micros) -> Own {
        Own { longest_stall_ms: 0, score: 0, round_began: now, round_clean: true }
    }

    /// A fault of its own: this round is not clean.
    pub fn fault(&mut self) {
        self.score = self.score.saturating_add(1).min(SCORE_MAX);
        self.round_clean = false;
    }

    /// How unwell it is; 0 is well.
    pub fn score(&self) -> u32 {
        self.score
    }

    /// The process stood still.
    pub fn stalled(&mut self, now: Micros, span: Duration) {
        let millis = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        self.longest_stall_ms = self.longest_stall_ms.max(millis);
        if span >= STALL_COUNTED {
            // The round begins anew and is spoilt: the time that stood still is no clean round.
            self.round_began = now;
            self.fault();
        }
    }

    /// Ends a round that has lasted for a ping period. One step ends at most one: if several have passed, nobody was
    /// stepping, and that is not known to have been well.
    pub fn end_round(&mut self, now: Micros, ping_every: Duration) {
        if now.since(self.round_began) >= ping_every {
            if self.round_clean {
                self.score = self.score.saturating_sub(1);
            }
            (self.round_began, self.round_clean) = (now, true);
        }
    }

    /// What to report of an interval that ends now. The longest stall is that of the interval.
    pub fn report(&mut self, whole_interval: bool) -> ObserverHealth {
        let longest_stall_ms = std::mem::take(&mut self.longest_stall_ms);
        ObserverHealth { whole_interval, longest_stall_ms, score: self.score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(5);

    #[test]
    fn faults_add_up_and_clean_rounds_take_them_back() {
        let mut own = Own::new(Micros(0));
        let mut now = Micros(0);
        for _ in 0..3 {
            own.fault();
        }
        for expected in [3, 2, 1, 0, 0] {
            now = now.after(ROUND);
            own.end_round(now, ROUND);
            assert_eq!(own.report(true).score, expected, "the round of the faults takes nothing back");
        }
        for _ in 0..100 {
            own.fault();
        }
        assert_eq!(own.report(true).score, SCORE_MAX);
    }
}
