//! The arithmetic of one member in one interval: integers only, evaluated left to right, division floors.
//!
//! Nothing here knows of accounts or of suspension; it turns what the observers counted into a score and into what
//! would be earned and lost. The formulas are in `docs/ledger.md`.

use serde::{Deserialize, Serialize};

use crate::types::{Amount, Version};

use super::policy::{Policy, PolicyKind};
use super::records::Counts;

/// One whole, in parts per million.
pub const WHOLE_PPM: u32 = 1_000_000;
/// From this availability on an interval is *good*: a strike is forgiven, probation advances.
pub const GOOD_PPM: u32 = 900_000;
/// Below this availability there is no pay, and strikes are given.
pub const HALF_PPM: u32 = WHOLE_PPM / 2;
/// What a member of an older minor version earns, in parts per million of the whole.
pub const OLD_MINOR_PPM: u32 = 800_000;
/// Misses up to this share cost nothing.
pub const MISS_FREE_PPM: u32 = 100_000;
/// Latency up to this, in microseconds, earns in full.
pub const LATENCY_FULL_US: u32 = 250_000;
/// Latency from this on, in microseconds, earns half.
pub const LATENCY_HALF_US: u32 = 2_000_000;

/// A result does not fit into 64 bits. Nothing is ever wrapped: what overflows does not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amount does not fit into 64 bits")]
pub struct Overflow;

/// What one observer saw of one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The counts that are kept with the observation.
    pub counts: Counts,
    /// Median round trip, microseconds; 0 when nothing was answered.
    pub p50_us: u32,
    /// Longest round trip, microseconds; 0 when nothing was answered.
    pub max_us: u32,
    /// The version that the member stated, if it did.
    pub version: Option<Version>,
}

/// Every intermediate value of a member's score, in the order in which they are computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// `n`: pings expected of one observer in a full interval.
    pub expected: u64,
    /// The observers' availabilities `a_o`, ascending; only of those with `2 * sent >= n`.
    pub availabilities_ppm: Vec<u32>,
    /// `A`: their upper median.
    pub availability_ppm: u32,
    /// The 90th percentiles of those observers that got an answer, ascending.
    pub p90s_us: Vec<u32>,
    /// `p`: their lower median; 0 when nobody got an answer.
    pub p90_us: u32,
    /// Lower median of the same observers' medians.
    pub p50_us: u32,
    /// `L`: the factor for latency.
    pub latency_ppm: u32,
    /// The factors for the version that each observer was told, ascending; empty when all are one whole.
    pub versions_ppm: Vec<u32>,
    /// `V`: their upper median.
    pub version_ppm: u32,
    /// The observers' numbers of pings, ascending.
    pub sents: Vec<u32>,
    /// `C`: the share of a full interval, from the upper median of `sents`.
    pub share_ppm: u32,
    /// `S`: the score.
    pub score_ppm: u32,
    /// Earned, if the member's standing lets it be paid.
    pub reward: Amount,
    /// `M - A`.
    pub miss_ppm: u32,
    /// Lost, positive, before the floor of the balance.
    pub penalty: Amount,
}

impl Score {
    /// A good interval: at least [`GOOD_PPM`] available.
    pub fn is_good(&self) -> bool {
        self.availability_ppm >= GOOD_PPM
    }

    /// A dark interval: available for less than half of the time.
    pub fn is_dark(&self) -> bool {
        self.availability_ppm < HALF_PPM
    }
}

/// The middle of ascending values; of two middles the larger. `None` of nothing.
pub fn upper_median<T: Copy>(ascending: &[T]) -> Option<T> {
    ascending.get(ascending.len() / 2).copied()
}

/// The middle of ascending values; of two middles the smaller. `None` of nothing.
pub fn lower_median<T: Copy>(ascending: &[T]) -> Option<T> {
    ascending.get(ascending.len().checked_sub(1)? / 2).copied()
}

/// `value * numerator / denominator`, rounded down. The denominator is not zero.
fn scale(value: i64, numerator: u64, denominator: u64) -> Result<i64, Overflow> {
    let product = i128::from(value).checked_mul(i128::from(numerator)).ok_or(Overflow)?;
    i64::try_from(product.div_euclid(i128::from(denominator))).map_err(|_| Overflow)
}

/// `part` of `whole` in parts per million, at most one whole.
fn ratio(part: u64, whole: u64) -> u32 {
    let ppm = u128::from(part) * u128::from(WHOLE_PPM) / u128::from(whole.max(1));
    u32::try_from(ppm).unwrap_or(u32::MAX).min(WHOLE_PPM)
}

/// `left * right / M` for two ratios.
fn times(left: u32, right: u32) -> u32 {
    let product = u64::from(left) * u64::from(right) / u64::from(WHOLE_PPM);
    u32::try_from(product).expect("a product of two ratios is at most one whole")
}

/// `L`: full up to a quarter of a second, half from two seconds on, linear between.
fn latency_factor(p90_us: u32) -> u32 {
    if p90_us <= LATENCY_FULL_US {
        return WHOLE_PPM;
    }
    if p90_us >= LATENCY_HALF_US {
        return HALF_PPM;
    }
    let beyond = u64::from(p90_us - LATENCY_FULL_US);
    let lost = u64::from(HALF_PPM) * beyond / u64::from(LATENCY_HALF_US - LATENCY_FULL_US);
    WHOLE_PPM - u32::try_from(lost).expect("less than half of a whole")
}

/// `V` for one stated version: one whole if it is that of the cluster or newer, less for an older minor version,
/// nothing for another major version. Without something to compare it is one whole.
pub fn version_factor(cluster: Option<Version>, stated: Option<Version>) -> u32 {
    match cluster.zip(stated) {
        Some((cluster, stated)) if stated.major != cluster.major => 0,
        Some((cluster, stated)) if stated.minor < cluster.minor => OLD_MINOR_PPM,
        _ => WHOLE_PPM,
    }
}

/// `a_o`: the share of its pings that an observer saw answered.
pub fn availability(seen: &Seen) -> u32 {
    ratio(seen.counts.answered.into(), seen.counts.sent.into())
}

/// Whether an observer has pinged a member often enough to judge it: at least half of a full interval.
pub fn is_enough(sent: u32, expected: u64) -> bool {
    u128::from(sent) * 2 >= u128::from(expected)
}

/// Scores what the observers saw. `None` when none of them has seen enough: then nothing is paid and nobody is struck.
///
/// An observer without a single answer has measured no round trip; it counts for availability and not for latency.
/// `cluster`: the version that members' versions are compared with.
pub fn score(policy: &Policy, cluster: Option<Version>, seen: &[Seen]) -> Result<Option<Score>, Overflow> {
    let expected = policy.pings_per_interval();
    let enough: Vec<&Seen> = seen.iter().filter(|seen| is_enough(seen.counts.sent, expected)).collect();
    let ascending = |mut values: Vec<u32>| {
        values.sort_unstable();
        values
    };
    let column = |value: &dyn Fn(&Seen) -> u32| ascending(enough.iter().map(|seen| value(seen)).collect());
    let timed = |value: &dyn Fn(&Seen) -> u32| {
        ascending(enough.iter().filter(|seen| seen.counts.answered > 0).map(|seen| value(seen)).collect())
    };
    let availabilities_ppm = column(&availability);
    let sents = column(&|seen| seen.counts.sent);
    let (Some(availability_ppm), Some(sent)) = (upper_median(&availabilities_ppm), upper_median(&sents))
    else {
        return Ok(None);
    };
    let p90s_us = timed(&|seen| seen.counts.p90_us);
    let p50s_us = timed(&|seen| seen.p50_us);
    let mut score = Score {
        expected,
        availability_ppm,
        availabilities_ppm,
        p90_us: lower_median(&p90s_us).unwrap_or(0),
        p50_us: lower_median(&p50s_us).unwrap_or(0),
        p90s_us,
        latency_ppm: WHOLE_PPM,
        version_ppm: WHOLE_PPM,
        versions_ppm: Vec::new(),
        share_ppm: ratio(sent.into(), expected),
        sents,
        score_ppm: 0,
        reward: Amount::ZERO,
        miss_ppm: WHOLE_PPM - availability_ppm,
        penalty: Amount::ZERO,
    };
    let factor = |seen: &&Seen| version_factor(cluster, seen.version);
    if enough.iter().any(|seen| factor(seen) < WHOLE_PPM) {
        score.versions_ppm = ascending(enough.iter().map(factor).collect());
        score.version_ppm = upper_median(&score.versions_ppm).unwrap_or(WHOLE_PPM);
    }
    match policy.kind {
        PolicyKind::Standard => standard(policy, &mut score)?,
        PolicyKind::Classic => classic(policy, &mut score),
    }
    Ok(Some(score))
}

/// Availability times latency times version; a penalty beyond the free misses; both by share of the interval.
fn standard(policy: &Policy, score: &mut Score) -> Result<(), Overflow> {
    let whole = u64::from(WHOLE_PPM);
    score.latency_ppm = latency_factor(score.p90_us);
    if !score.is_dark() {
        score.score_ppm = times(times(score.availability_ppm, score.latency_ppm), score.version_ppm);
    }
    let share = u64::from(score.share_ppm);
    let full = scale(policy.reward.0, u64::from(score.score_ppm), whole)?;
    score.reward = Amount(scale(full, share, whole)?);
    if score.miss_ppm > MISS_FREE_PPM {
        let beyond = u64::from(score.miss_ppm - MISS_FREE_PPM);
        let full = scale(policy.penalty.0, beyond, u64::from(WHOLE_PPM - MISS_FREE_PPM))?;
        score.penalty = Amount(scale(full, share, whole)?);
    }
    Ok(())
}

/// An interval is one turn: answered when the member was there for at least half of it, missed otherwise. All or
/// nothing, whatever the latency and the share. Who is of another major version is not served: it earns nothing.
fn classic(policy: &Policy, score: &mut Score) {
    score.share_ppm = WHOLE_PPM;
    if score.is_dark() {
        score.penalty = policy.penalty;
    } else if score.version_ppm > 0 {
        score.score_ppm = WHOLE_PPM;
        score.reward = policy.reward;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sent: u32, answered: u32, p90_us: u32) -> Seen {
        let counts = Counts { sent, answered, missed: sent - answered, p90_us };
        Seen { counts, p50_us: p90_us / 2, max_us: p90_us, version: None }
    }

    fn score(policy: &Policy, seen: &[Seen]) -> Result<Option<Score>, Overflow> {
        super::score(policy, None, seen)
    }

    /// Expected values worked out by hand from the formulas, to the micro-point. n = 12, reward 10, penalty 5 points.
    #[test]
    fn standard_scores_to_the_micro_point() {
        // (what, observers as (sent, answered, p90), A, L, C, S, reward, penalty)
        type Case<'a> = (&'a str, &'a [(u32, u32, u32)], u32, u32, u32, u32, i64, i64);
        let cases: &[Case] = &[
            ("perfect", &[(12, 12, 1_000)], 1_000_000, 1_000_000, 1_000_000, 1_000_000, 10_000_000, 0),
            (
                "one missed of twelve",
                &[(12, 11, 1_000)],
                916_666,
                1_000_000,
                1_000_000,
                916_666,
                9_166_660,
                0,
            ),
            // miss 166 667: 5 000 000 * 66 667 / 900 000 = 370 372
            ("two missed", &[(12, 10, 1_000)], 833_333, 1_000_000, 1_000_000, 833_333, 8_333_330, 370_372),
            // miss 500 000: 5 000 000 * 400 000 / 900 000 = 2 222 222
            ("exactly half", &[(12, 6, 1_000)], 500_000, 1_000_000, 1_000_000, 500_000, 5_000_000, 2_222_222),
            // miss 583 334: 5 000 000 * 483 334 / 900 000 = 2 685 188
            ("below half", &[(12, 5, 1_000)], 416_666, 1_000_000, 1_000_000, 0, 0, 2_685_188),
            ("dark", &[(12, 0, 0)], 0, 1_000_000, 1_000_000, 0, 0, 5_000_000),
            (
                "latency at the edge",
                &[(12, 12, 250_000)],
                1_000_000,
                1_000_000,
                1_000_000,
                1_000_000,
                10_000_000,
                0,
            ),
            // 500 000 * 1 / 1 750 000 floors to 0
            ("one beyond", &[(12, 12, 250_001)], 1_000_000, 1_000_000, 1_000_000, 1_000_000, 10_000_000, 0),
            // 500 000 * 4 / 1 750 000 = 1
            ("four beyond", &[(12, 12, 250_004)], 1_000_000, 999_999, 1_000_000, 999_999, 9_999_990, 0),
            ("half way", &[(12, 12, 1_125_000)], 1_000_000, 750_000, 1_000_000, 750_000, 7_500_000, 0),
            // 500 000 * 1 749 999 / 1 750 000 = 499 999
            ("just below slow", &[(12, 12, 1_999_999)], 1_000_000, 500_001, 1_000_000, 500_001, 5_000_010, 0),
            ("slow", &[(12, 12, 2_000_000)], 1_000_000, 500_000, 1_000_000, 500_000, 5_000_000, 0),
            ("very slow", &[(12, 12, u32::MAX)], 1_000_000, 500_000, 1_000_000, 500_000, 5_000_000, 0),
            // A * L / M = 916 666 * 750 000 / 1 000 000 = 687 499
            ("missed and slow", &[(12, 11, 1_125_000)], 916_666, 750_000, 1_000_000, 687_499, 6_874_990, 0),
            // C = 7 * 1 000 000 / 12 = 583 333
            ("joined part-way", &[(7, 7, 1_000)], 1_000_000, 1_000_000, 583_333, 1_000_000, 5_833_330, 0),
            ("just enough", &[(6, 6, 1_000)], 1_000_000, 1_000_000, 500_000, 1_000_000, 5_000_000, 0),
            // 5 000 000 * 900 000 / 900 000 * 500 000 / 1 000 000
            ("dark part-way", &[(6, 0, 0)], 0, 1_000_000, 500_000, 0, 0, 2_500_000),
            (
                "a longer interval pays once",
                &[(40, 40, 9)],
                1_000_000,
                1_000_000,
                1_000_000,
                1_000_000,
                10_000_000,
                0,
            ),
            (
                "two observers: the better",
                &[(12, 12, 9), (12, 0, 0)],
                1_000_000,
                1_000_000,
                1_000_000,
                1_000_000,
                10_000_000,
                0,
            ),
            // The upper median availability and the lower median latency of three.
            (
                "three observers",
                &[(12, 12, 9), (12, 11, 1_125_000), (12, 0, 0)],
                916_666,
                1_000_000,
                1_000_000,
                916_666,
                9_166_660,
                0,
            ),
            (
                "too little does not count",
                &[(5, 0, 0), (12, 12, 9)],
                1_000_000,
                1_000_000,
                1_000_000,
                1_000_000,
                10_000_000,
                0,
            ),
        ];
        for (what, observers, availability, latency, share, value, reward, penalty) in cases {
            let seen: Vec<Seen> = observers.iter().map(|&(sent, ok, p90)| seen(sent, ok, p90)).collect();
            let score = score(&Policy::default(), &seen).expect("fits").expect("enough evidence");
            let found = (score.availability_ppm, score.latency_ppm, score.share_ppm, score.score_ppm);
            assert_eq!(found, (*availability, *latency, *share, *value), "{what}");
            assert_eq!((score.reward.0, score.penalty.0), (*reward, *penalty), "{what}");
        }
    }

    #[test]
    fn penalty_begins_beyond_a_tenth() {
        let policy = Policy { ping_ms: 60, ..Policy::default() }; // n = 1 000
        for (answered, penalty) in
            [(900, 0), (899, 5_555), (500, 2_222_222), (100, 4_444_444), (0, 5_000_000)]
        {
            let score = score(&policy, &[seen(1_000, answered, 9)]).expect("fits").expect("enough");
            assert_eq!(score.penalty.0, penalty, "{answered} of 1000");
        }
    }

    #[test]
    fn too_little_evidence_gives_no_score() {
        for few in [&[][..], &[seen(0, 0, 0)], &[seen(5, 5, 1), seen(5, 0, 0)]] {
            assert_eq!(score(&Policy::default(), few), Ok(None));
        }
        // An odd n: 2 * 6 >= 11 though 6 * 2 is more than needed, and 2 * 5 < 11.
        let policy = Policy { interval_ms: 11_000, ping_ms: 1_000, ..Policy::default() };
        assert_eq!(score(&policy, &[seen(5, 5, 1)]), Ok(None));
        assert!(score(&policy, &[seen(6, 6, 1)]).expect("fits").is_some());
    }

    #[test]
    fn medians() {
        assert_eq!((upper_median::<u32>(&[]), lower_median::<u32>(&[])), (None, None));
        for (values, lower, upper) in
            [(&[7][..], 7, 7), (&[1, 2], 1, 2), (&[1, 2, 3], 2, 2), (&[1, 2, 3, 4], 2, 3)]
        {
            assert_eq!((lower_median(values), upper_median(values)), (Some(lower), Some(upper)));
        }
    }

    #[test]
    fn largest_amounts_do_not_wrap() {
        let policy = Policy { reward: Amount(i64::MAX), penalty: Amount(i64::MAX), ..Policy::default() };
        let best = score(&policy, &[seen(u32::MAX, u32::MAX, 1)]).expect("fits").expect("enough");
        assert_eq!(best.reward.0, i64::MAX);
        let worst = score(&policy, &[seen(u32::MAX, 0, 0)]).expect("fits").expect("enough");
        assert_eq!(worst.penalty.0, i64::MAX);
        assert_eq!(scale(i64::MAX, 2, 1), Err(Overflow));
        assert_eq!(scale(i64::MAX, u64::MAX, u64::MAX), Ok(i64::MAX));
    }

    /// Expected values worked out by hand: A = 1, L = 1, so S = V and the reward is 10 points * V.
    #[test]
    fn an_older_version_earns_less_and_another_major_version_nothing() {
        let version = |text: &str| text.parse::<Version>().expect("a version");
        let with = |stated: &[&str]| -> Vec<Seen> {
            stated.iter().map(|text| Seen { version: Some(version(text)), ..seen(12, 12, 1_000) }).collect()
        };
        let cluster = Some(version("2.3.4"));
        for (stated, v, reward) in [
            (&["2.3.4"][..], 1_000_000, 10_000_000),
            (&["2.3.0"], 1_000_000, 10_000_000),
            (&["2.4.0"], 1_000_000, 10_000_000),
            (&["2.2.9"], 800_000, 8_000_000),
            (&["1.9.9"], 0, 0),
            (&["3.0.0"], 0, 0),
            // The upper median: what one observer says alone does not count against the member.
            (&["1.0.0", "2.3.4"], 1_000_000, 10_000_000),
            (&["1.0.0", "2.2.0", "2.3.0"], 800_000, 8_000_000),
        ] {
            let found =
                super::score(&Policy::default(), cluster, &with(stated)).expect("fits").expect("enough");
            assert_eq!((found.version_ppm, found.score_ppm, found.reward.0), (v, v, reward), "{stated:?}");
            assert_eq!(found.penalty.0, 0, "an old version is no miss");
        }
        let silent =
            super::score(&Policy::default(), cluster, &[seen(12, 12, 9)]).expect("fits").expect("enough");
        assert_eq!(silent.version_ppm, 1_000_000, "who states none is not judged by it");
        let classic = Policy { kind: PolicyKind::Classic, ..Policy::default() };
        for (stated, reward) in [("2.3.4", 10_000_000), ("2.0.0", 10_000_000), ("1.0.0", 0)] {
            let found = super::score(&classic, cluster, &with(&[stated])).expect("fits").expect("enough");
            assert_eq!((found.reward.0, found.penalty.0), (reward, 0), "{stated}");
        }
    }

    #[test]
    fn classic_is_all_or_nothing() {
        let policy = Policy { kind: PolicyKind::Classic, ..Policy::default() };
        for (sent, answered, reward, penalty) in
            [(12, 12, 10_000_000, 0), (12, 6, 10_000_000, 0), (12, 5, 0, 5_000_000), (6, 0, 0, 5_000_000)]
        {
            let score = score(&policy, &[seen(sent, answered, 3_000_000)]).expect("fits").expect("enough");
            assert_eq!((score.reward.0, score.penalty.0), (reward, penalty), "{answered} of {sent}");
        }
    }
}
