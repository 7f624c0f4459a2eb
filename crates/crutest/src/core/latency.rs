//! How long operations took: counts in buckets, each at most 3 % wide, from a nanosecond to hours.

use serde::Serialize;

/// Buckets of one power of two.
const SPLIT_BITS: u32 = 5;
const SPLIT: usize = 1 << SPLIT_BITS;
const BUCKETS: usize = (64 - SPLIT_BITS as usize) * SPLIT + SPLIT;

/// Latencies of one kind of operation.
#[derive(Clone)]
pub struct Latencies {
    buckets: Box<[u64]>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

/// What is told of them, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many operations.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half took no longer.
    pub p50_us: f64,
    /// 90 of 100 took no longer.
    pub p90_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1000 took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

const fn bucket(ns: u64) -> usize {
    if ns < SPLIT as u64 {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - SPLIT_BITS;
    ((shift as usize + 1) << SPLIT_BITS) + ((ns >> shift) as usize - SPLIT)
}

/// The largest value of a bucket.
const fn top(bucket: usize) -> u64 {
    if bucket < SPLIT {
        return bucket as u64;
    }
    let shift = (bucket >> SPLIT_BITS) as u32 - 1;
    let base = (SPLIT + (bucket & (SPLIT - 1))) as u64;
    (base << shift) + ((1 << shift) - 1)
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.summary().fmt(f)
    }
}

impl Latencies {
    /// Counts one operation that took so many nanoseconds.
    pub fn add(&mut self, ns: u64) {
        if let Some(count) = self.buckets.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Counts all of `other` too.
    pub fn append(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// A time in nanoseconds that `thousandths` of 1000 operations did not exceed, rounded up by at most 3 %; 0 if
    /// there are none.
    pub fn quantile(&self, thousandths: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(thousandths)).div_ceil(1000);
        let rank = u64::try_from(rank).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return top(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// What is told of them.
    pub fn summary(&self) -> LatencySummary {
        let us = |ns: u64| ns as f64 / 1000.0;
        let mean_ns = self.sum_ns as f64 / (self.count.max(1)) as f64;
        LatencySummary {
            count: self.count,
            mean_us: mean_ns / 1000.0,
            p50_us: us(self.quantile(500)),
            p90_us: us(self.quantile(900)),
            p99_us: us(self.quantile(990)),
            p999_us: us(self.quantile(999)),
            max_us: us(self.max_ns),
        }
    }
}

/// A time in the unit that suits it.
pub fn human_us(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} us")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

impl std::fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "mean {}, p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            human_us(self.mean_us),
            human_us(self.p50_us),
            human_us(self.p90_us),
            human_us(self.p99_us),
            human_us(self.p999_us),
            human_us(self.max_us),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_no_gaps_and_grow() {
        for bucket_index in 1..BUCKETS {
            let below = top(bucket_index - 1);
            assert_eq!(bucket(below), bucket_index - 1);
            assert_eq!(bucket(below + 1), bucket_index);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(top(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.add(us * 1000);
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        assert!((summary.mean_us - 500.5).abs() < 0.001);
        for (found, expected) in [
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.p999_us, 999.0),
        ] {
            assert!(
                found >= expected && found <= expected * 1.035,
                "{found} {expected}"
            );
        }
        assert_eq!(summary.max_us, 1000.0);
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Latencies::default().quantile(500), 0);
        assert_eq!(Latencies::default().summary().mean_us, 0.0);
    }

    #[test]
    fn one_is_its_own_quantile() {
        let mut latencies = Latencies::default();
        latencies.add(123_456_789);
        assert_eq!(latencies.quantile(1), 123_456_789);
        assert_eq!(latencies.quantile(999), 123_456_789);
        assert_eq!(human_us(123.4), "123 us");
        assert_eq!(human_us(123_456.0), "123.46 ms");
        assert_eq!(human_us(2_500_000.0), "2.50 s");
    }
}
