//! When a failed try is repeated.

use std::time::Duration;

use crate::types::UnixMillis;

/// The pause after the first failure; doubled with each further one.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest that a receiver may ask to be left alone (`Retry-After`).
pub const ASKED_MAX: Duration = Duration::from_secs(3_600);

/// The pause after so many failures in a row (from 1): 1 s, 2 s, 4 s, … 300 s, shortened by up to a half by `luck`, a random
/// word, so that receivers which come back are not met by everybody at once.
pub fn pause(failures: u32, luck: u64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = doubled.min(PAUSE_MAX);
    // A fraction in thousandths, 0 to 499.
    let less = u32::try_from(luck % 500).unwrap_or(0);
    whole - whole * less / 1_000
}

/// What a receiver asks for by `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. At most [`ASKED_MAX`].
pub fn asked(header: &str, now: UnixMillis) -> Option<Duration> {
    let text = header.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(ASKED_MAX));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let at = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    Some(at.saturating_sub(now).min(ASKED_MAX))
}
