//! What a client decides: whom to ask next, for how long, when to pause, when to give up, and what it may then say about
//! a write.
//!
//! Pure, like the core: the shell sends a try and says what it heard; [`Plan`] says what comes next. The real client
//! (`client`) runs it over HTTP; the simulated one (`sim`) over a network that loses, delays and repeats, where what the
//! verdicts claim is checked.
//!
//! ```text
//!   next ──► Try{endpoint, limit} ──► the shell sends ──► heard(Answer | No | Silence) ──► next …
//!        ──► Pause(span)          ──► the shell waits ──► next …
//!        ──► Over(verdict)
//! ```
//!
//! # What a verdict rests on
//!
//! A write is *in doubt* from the moment at which one of its tries was sent and not answered, or was answered by
//! "unknown". Doubt ends only by the word of the replicated state about this very request: an answer, or a refusal that
//! the state remembers under the request's key or sequence, and so gives to every other try of it too. A refusal by a node
//! ("no leader", "overloaded", "no such session") speaks of one try and leaves the doubt about the others. Whoever gives
//! up in doubt says [`Verdict::Unknown`]; without doubt, [`Verdict::NotApplied`] holds for ever.
//!
//! A write with nothing to tell its tries apart ([`Guard::Nothing`]) is not tried again once it is in doubt.

mod endpoints;
mod plan;
mod sequences;

#[cfg(test)]
mod tests;

pub use endpoints::{Endpoints, SICK_MAX, SICK_MIN};
pub use plan::{Guard, Heard, Kind, Next, PAUSE_MAX, PAUSE_MIN, Plan, TRY_MIN, Verdict, Word};
pub use sequences::Sequences;
