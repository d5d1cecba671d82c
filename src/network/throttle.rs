//! At most one log line per while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines of one kind.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Lets a line pass every ten seconds, and tells how many it held back.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<Option<(Instant, u64)>>);

impl Throttle {
    /// `Some(held back since the last line)` when a line may be written now.
    pub(super) fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((last, held)) if last.elapsed() < LINE_EVERY => {
                *held += 1;
                None
            }
            _ => {
                let held = state.map_or(0, |(_, held)| held);
                *state = Some((Instant::now(), 0));
                Some(held)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_and_the_others_are_held() {
        let throttle = Throttle::default();
        assert_eq!([throttle.pass(), throttle.pass(), throttle.pass()], [Some(0), None, None]);
        *throttle.0.lock().unwrap() = Some((Instant::now() - 2 * LINE_EVERY, 2));
        assert_eq!([throttle.pass(), throttle.pass()], [Some(2), None]);
    }
}
