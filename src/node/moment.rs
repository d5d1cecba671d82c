//! What a step of a node is told about the world: the time and one random word.

use crate::types::{Micros, UnixMillis};

/// Given to every step, so that the node itself reads no clock and draws no random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time.
    pub now: Micros,
    /// Wall-clock time, only ever used to stamp commands and events.
    pub wall: UnixMillis,
    /// One random word.
    pub entropy: u64,
}
