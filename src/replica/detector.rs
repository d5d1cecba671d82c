//! Whether the leader lives: asked when somebody needs it, since heartbeats are sparse.
//!
//! A client that were sent on to a dead leader would never get an answer. So a follower that has not heard its leader for
//! a moment asks it first, some times in quick succession, and tells the core when nothing comes back: that is the
//! detector outside that `raft::Input::PeerSilent` is for.

use std::time::Duration;

use crate::types::Micros;

/// A leader that was heard within this time is taken to live. Short against the usual pause between two requests: a
/// question costs two messages, and a client that is sent to a dead leader its answer.
pub const FRESH: Duration = Duration::from_millis(30);
/// The pause before a question is repeated.
const PING_PAUSE: Duration = Duration::from_millis(8);
/// A leader that leaves so many questions unanswered is silent. On a network that loses 3 messages of 10 either way, that
/// happens to a live one in 1 of 200 cases, and then costs a pre-vote that the others refuse.
const PINGS_MAX: u32 = 8;

/// What is to be done about the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing now.
    Wait,
    /// Ask it, now.
    Ask,
    /// It is gone.
    Silent,
}

/// What is known of the present leader's life.
#[derive(Debug, Default)]
pub struct Detector {
    heard: Option<Micros>,
    /// The questions asked, and when the next is due.
    asking: Option<(u32, Micros)>,
}

impl Detector {
    /// Another leader, or none: what was known says nothing of it.
    pub fn reset(&mut self) {
        *self = Detector::default();
    }

    /// The leader said something.
    pub fn heard(&mut self, now: Micros) {
        *self = Detector { heard: Some(now), asking: None };
    }

    /// Whether the leader was heard a moment ago.
    pub fn is_fresh(&self, now: Micros) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) <= FRESH)
    }

    /// Somebody needs to know. Begins to ask, unless it does already or need not.
    pub fn suspect(&mut self, now: Micros) {
        if self.asking.is_none() && !self.is_fresh(now) {
            self.asking = Some((0, now));
        }
    }

    /// What is due.
    pub fn tick(&mut self, now: Micros) -> Verdict {
        let Some((asked, next)) = self.asking.filter(|(_, next)| *next <= now) else { return Verdict::Wait };
        if asked >= PINGS_MAX {
            self.reset();
            return Verdict::Silent;
        }
        self.asking = Some((asked + 1, next.max(now).after(PING_PAUSE)));
        Verdict::Ask
    }

    /// When something is due.
    pub fn deadline(&self) -> Micros {
        self.asking.map_or(Micros(u64::MAX), |(_, next)| next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Micros {
        Micros(millis * 1_000)
    }

    #[test]
    fn a_leader_that_was_heard_a_moment_ago_is_not_asked() {
        let mut detector = Detector::default();
        detector.heard(at(100));
        detector.suspect(at(130));
        assert!(detector.is_fresh(at(130)) && !detector.is_fresh(at(131)));
        assert_eq!((detector.deadline(), detector.tick(at(500))), (Micros(u64::MAX), Verdict::Wait));
    }

    #[test]
    fn a_leader_that_does_not_answer_eight_times_is_silent() {
        let mut detector = Detector::default();
        detector.suspect(at(100));
        for number in 0..8 {
            assert_eq!(detector.deadline(), at(100 + number * 8));
            assert_eq!(detector.tick(at(100 + number * 8)), Verdict::Ask);
            detector.suspect(at(100 + number * 8));
            assert_eq!(detector.tick(at(100 + number * 8)), Verdict::Wait, "asked a moment ago");
        }
        assert_eq!(detector.tick(at(164)), Verdict::Silent);
        assert_eq!(detector.tick(at(165)), Verdict::Wait);
        detector.suspect(at(170));
        detector.heard(at(171));
        assert_eq!(detector.tick(at(1_000)), Verdict::Wait, "an answer ends the questions");
    }
}
