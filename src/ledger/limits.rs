//! What the machine keeps at most for clients. Part of what an entry means: all nodes must have the same, so they are
//! constants and no settings. That they can be given otherwise is for tests and simulated histories, which would never come
//! near them.

use super::idempotency::REMEMBERED_MAX;
use super::sessions::{SESSION_BYTES_MAX, SESSIONS_MAX};

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many answers are remembered by idempotency key; the oldest goes first.
    pub answers: u64,
    /// How many sessions there are; the one that was not used for longest goes first.
    pub sessions: u64,
    /// Bytes of all answers remembered in sessions; again the session that was not used for longest goes first.
    pub session_bytes: u64,
}

impl Limits {
    /// Those of every real cluster.
    pub const REAL: Limits =
        Limits { answers: REMEMBERED_MAX, sessions: SESSIONS_MAX, session_bytes: SESSION_BYTES_MAX };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::REAL
    }
}
