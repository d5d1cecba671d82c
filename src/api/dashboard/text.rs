//! Numbers and times as the pages show them. All times are UTC, and the pages say so.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::{Amount, UnixMillis};

/// Now, by this node's wall clock.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `20:01:02`
pub fn clock(at: UnixMillis) -> String {
    part(at, 11, 19)
}

/// `20:01:02.345`
pub fn clock_ms(at: UnixMillis) -> String {
    part(at, 11, 23)
}

/// `2026-11-30 20:01:02`
pub fn stamp(at: UnixMillis) -> String {
    format!("{} {}", part(at, 0, 10), clock(at))
}

fn part(at: UnixMillis, from: usize, to: usize) -> String {
    at.to_string().get(from..to).unwrap_or("?").to_string()
}

/// The milliseconds between two times; 0 when they lie the other way round.
pub fn between(from: UnixMillis, to: UnixMillis) -> u64 {
    u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0)
}

/// A span for people: `312 ms`, `4.2 s`, `3 min 12 s`, `2 h 05 min`, `3 d 4 h`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A whole number in groups of three digits, which do not break over lines: `12 345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

/// Points with all six decimals, so that columns of them line up and nothing is rounded.
pub fn points(amount: Amount) -> String {
    let magnitude = amount.0.unsigned_abs();
    let sign = if amount.0 < 0 { "\u{2212}" } else { "" };
    format!("{sign}{}.{:06}", count(magnitude / 1_000_000), magnitude % 1_000_000)
}

/// The same with its sign in front, for what changes a balance.
pub fn signed(amount: Amount) -> String {
    let plus = if amount.0 > 0 { "+" } else { "" };
    format!("{plus}{}", points(amount))
}

/// Microseconds as milliseconds: `0.42`, `12.3`, `140`.
pub fn millis(us: f64) -> String {
    let ms = us / 1_000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// Parts per million as percent: `100`, `98.5`, `99.99`.
pub fn percent(ppm: u32) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// The same to two decimals, rounded down: only what is whole is 100.
pub fn about_percent(ppm: u32) -> String {
    percent(ppm / 100 * 100)
}

/// A rate for people.
pub fn rate(per_second: f64) -> String {
    if per_second < 9.95 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// The first digits of a hash.
pub fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_numbers_read_as_people_write_them() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (4_250, "4.2 s"),
            (192_000, "3 min 12 s"),
            (7_500_000, "2 h 05 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        for (number, text) in
            [(7, "7"), (999, "999"), (12_345, "12\u{a0}345"), (1_234_567, "1\u{a0}234\u{a0}567")]
        {
            assert_eq!(count(number), text);
        }
        for (micro, text) in [(9_500_000, "+9.500000"), (-1, "\u{2212}0.000001"), (0, "0.000000")] {
            assert_eq!(signed(Amount(micro)), text);
        }
        for (ppm, text) in [(1_000_000, "100"), (985_000, "98.5"), (999_900, "99.99"), (0, "0")] {
            assert_eq!(percent(ppm), text);
        }
        assert_eq!(
            (about_percent(835_249), about_percent(999_999)),
            ("83.52".to_string(), "99.99".to_string())
        );
        for (us, text) in [(420.0, "0.42"), (12_340.0, "12.3"), (140_000.0, "140")] {
            assert_eq!(millis(us), text);
        }
        assert_eq!((rate(0.25), rate(1_234.6)), ("0.2".to_string(), "1235".to_string()));
    }

    #[test]
    fn times_are_utc() {
        let at: UnixMillis = "2026-11-30T20:01:02.345Z".parse().expect("a time");
        assert_eq!(stamp(at), "2026-11-30 20:01:02");
        assert_eq!(clock_ms(at), "20:01:02.345");
        assert_eq!((between(at, UnixMillis(at.0 + 5)), between(at, UnixMillis(0))), (5, 0));
    }
}
