//! The clocks of one simulated machine: neither runs quite right.

use crate::types::{Micros, UnixMillis};

/// Where virtual wall-clock time begins: 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// What lies further ahead than this, in microseconds, never comes: ten years.
const FAR: u64 = 315_000_000_000_000;

/// A machine's clocks as functions of the world's time. The monotonic one has an origin of its own and runs a little fast
/// or slow; the wall clock is off, and may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// What the monotonic clock shows at the world's time 0, in microseconds.
    pub origin: u64,
    /// How much too fast it runs, in parts per million; negative: too slow.
    pub drift_ppm: i64,
    /// How far the wall clock is off, in milliseconds.
    pub skew_ms: i64,
}

impl Clock {
    /// What the monotonic clock shows.
    pub fn monotonic(&self, world: Micros) -> Micros {
        let drift = i128::from(world.0) * i128::from(self.drift_ppm) / 1_000_000;
        let shown = i128::from(self.origin) + i128::from(world.0) + drift;
        Micros(
            u64::try_from(shown).expect("a clock that is at most a little slow never goes below its origin"),
        )
    }

    /// The first time of the world at which the monotonic clock shows at least `shown`.
    pub fn world(&self, shown: Micros) -> Micros {
        let ahead = shown.0.saturating_sub(self.origin);
        if ahead > FAR {
            return Micros(u64::MAX);
        }
        let rate = u64::try_from(1_000_000 + self.drift_ppm).expect("a clock runs forward");
        let mut guess = u64::try_from(u128::from(ahead) * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        while guess > 0 && self.monotonic(Micros(guess - 1)) >= shown {
            guess -= 1;
        }
        while self.monotonic(Micros(guess)) < shown {
            guess += 1;
        }
        Micros(guess)
    }

    /// What the wall clock shows.
    pub fn wall(&self, world: Micros) -> UnixMillis {
        let millis = i64::try_from(world.0 / 1_000).expect("virtual time is short");
        UnixMillis(EPOCH_MS + millis + self.skew_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_the_inverse_of_the_monotonic_clock() {
        let clock = Clock { origin: 5, drift_ppm: -5_000, skew_ms: 0 };
        assert_eq!(clock.world(Micros(u64::MAX)), Micros(u64::MAX));
        for drift_ppm in [-5_000, -1, 0, 1, 5_000] {
            let clock = Clock { origin: 3_600_000_000, drift_ppm, skew_ms: 0 };
            for world in [0, 1, 999, 1_000_000, 30_000_001] {
                let shown = clock.monotonic(Micros(world));
                let back = clock.world(shown);
                assert!(clock.monotonic(back) >= shown);
                assert!(back.0 == 0 || clock.monotonic(Micros(back.0 - 1)) < shown);
            }
        }
    }
}
