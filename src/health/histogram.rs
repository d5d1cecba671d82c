//! Round trips of one member in one interval, in few bytes.
//!
//! Buckets grow with the value: below 64 µs each microsecond has its own, above that every power of two is cut into
//! [`STEPS`] equal parts. Only buckets that hold something are stored, as a sorted list, because a member is asked
//! about a dozen times per interval: 4 bytes per distinct bucket instead of a table of nine hundred.

/// Parts of each power of two. A percentile is at most 1/32 (3.2 %) below the true one, and never above it.
const STEPS: u32 = 32;
/// log2 of [`STEPS`].
const STEPS_LOG2: u32 = STEPS.trailing_zeros();

/// Counts of round trips, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Histogram {
    /// (bucket, count), ascending, no bucket twice, no count 0.
    buckets: Vec<(u16, u16)>,
    min: u32,
    max: u32,
}

/// What a report says about round trips, in microseconds; all 0 when there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub min: u32,
    pub p50: u32,
    pub p90: u32,
    pub max: u32,
}

impl Histogram {
    pub(super) fn record(&mut self, micros: u32) {
        if self.buckets.is_empty() {
            (self.min, self.max) = (micros, micros);
        }
        (self.min, self.max) = (self.min.min(micros), self.max.max(micros));
        let bucket = bucket_of(micros);
        match self.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(1),
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }

    /// Minimum and maximum are exact. A percentile is the nearest-rank one, rounded down to the start of its bucket
    /// (doubt favours the member) but never below the minimum.
    pub(super) fn summary(&self) -> Summary {
        Summary { min: self.min, p50: self.percentile(50), p90: self.percentile(90), max: self.max }
    }

    fn percentile(&self, percent: u32) -> u32 {
        let total: u32 = self.buckets.iter().map(|&(_, count)| u32::from(count)).sum();
        let rank = (u64::from(total) * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        for &(bucket, count) in &self.buckets {
            seen += u64::from(count);
            if seen >= rank {
                return bucket_start(bucket).max(self.min);
            }
        }
        0
    }
}

/// Numbers are contiguous: the first `2 * STEPS` values have a bucket each, then `STEPS` buckets per power of two.
fn bucket_of(micros: u32) -> u16 {
    if micros < 2 * STEPS {
        return micros as u16;
    }
    let shift = micros.ilog2() - STEPS_LOG2;
    // `micros >> shift` lies in STEPS..2*STEPS, so the largest bucket is 32 * 26 + 63, far below 65 536.
    (shift * STEPS + (micros >> shift)) as u16
}

fn bucket_start(bucket: u16) -> u32 {
    let bucket = u32::from(bucket);
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_a_thirty_second_wide() {
        let mut last = None;
        for exponent in 0..32 {
            for offset in [-1_i64, 0, 1, 7, 1_000] {
                let value = ((1_i64 << exponent) + offset).clamp(0, i64::from(u32::MAX)) as u32;
                let start = bucket_start(bucket_of(value));
                assert!(start <= value, "{value} begins at {start}");
                assert!(
                    u64::from(value - start) * u64::from(STEPS) <= u64::from(value),
                    "{value} from {start}"
                );
            }
        }
        for bucket in 0..=bucket_of(u32::MAX) {
            let start = bucket_start(bucket);
            assert_eq!(bucket_of(start), bucket);
            assert!(last < Some(start), "starts ascend");
            last = Some(start);
        }
    }

    #[test]
    fn percentiles_are_the_nearest_rank_rounded_down() {
        for (name, values, p50, p90) in [
            ("none", vec![], 0, 0),
            ("one", vec![777], 777, 777),
            ("exact when small", (1..=10).collect::<Vec<u32>>(), 5, 9),
            ("two", vec![10, 60], 10, 60),
            ("large ones lose at most a thirty-second", vec![100_000; 12], 100_000, 100_000),
            ("mixed", vec![1_000, 1_000, 1_000, 500_000], 1_000, 499_712),
        ] {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(value));
            let got = histogram.summary();
            assert_eq!((got.p50, got.p90), (p50, p90), "{name}");
            assert_eq!(got.min, values.iter().copied().min().unwrap_or(0), "{name}");
            assert_eq!(got.max, values.iter().copied().max().unwrap_or(0), "{name}");
        }
    }

    #[test]
    fn percentiles_stay_within_their_bound_of_the_true_ones() {
        let mut state = 7_u64;
        for size in 1..200_usize {
            let mut values = Vec::new();
            let mut histogram = Histogram::default();
            for _ in 0..size {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = ((state >> 33) as u32) >> (state >> 59);
                values.push(value);
                histogram.record(value);
            }
            values.sort_unstable();
            for (percent, got) in [(50, histogram.summary().p50), (90, histogram.summary().p90)] {
                let truth = values[(size * percent).div_ceil(100) - 1];
                assert!(got <= truth && u64::from(truth - got) * 32 <= u64::from(truth), "{got} for {truth}");
            }
        }
    }
}
