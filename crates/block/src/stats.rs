//! What a queue has done and how long it took.
//!
//! Each counter has one writer, the queue's worker, so that counting is a plain load and store;
//! readers on other threads see each counter whole, but not all of them at the same instant.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_types::Span;

use crate::request::{Operation, Outcome};

/// Kinds of requests that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Discards and zeroing.
    Discard,
    /// Compare and verify.
    Check,
}

impl Class {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::Check,
    ];

    pub(crate) const fn of(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::Flush => Self::Flush,
            Operation::Discard | Operation::WriteZeroes { .. } => Self::Discard,
            Operation::Compare | Operation::Verify => Self::Check,
        }
    }

    /// A short lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Check => "check",
        }
    }
}

/// Latencies by powers of two: bucket `i` counts those of `2^i` up to `2^(i+1)` nanoseconds, bucket 0
/// those of 0 and 1, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram([u64; 64]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Histogram {
    fn bucket(latency: Span) -> usize {
        63 - (latency.as_nanos() | 1).leading_zeros() as usize
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Span) {
        self.0[Self::bucket(latency)] += 1;
    }

    /// The counts, one a bucket.
    pub const fn buckets(&self) -> &[u64; 64] {
        &self.0
    }

    /// How many have been counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The latency that `percent` (0 to 100) of all do not exceed, straight between the bounds of its
    /// bucket: off by at most a factor of two. Zero when nothing was counted.
    pub fn percentile(&self, percent: f64) -> Span {
        let count = self.count();
        if count == 0 {
            return Span::ZERO;
        }
        let wanted = (percent.clamp(0.0, 100.0) / 100.0 * count as f64).max(1.0);
        let mut below = 0.0;
        for (index, &here) in self.0.iter().enumerate() {
            let here = here as f64;
            if here > 0.0 && below + here >= wanted {
                let low = (1_u64 << index) as f64;
                return Span::from_nanos((low + low * (wanted - below) / here) as u64);
            }
            below += here;
        }
        Span::from_nanos(u64::MAX)
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// Counts of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassSnapshot {
    /// Requests that ended well.
    pub completed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that ended otherwise, a miscompare included.
    pub failed: u64,
    /// Time from fetch to completion of all that reached the backend.
    pub latency: Histogram,
}

/// Counts of a queue, or of all queues of a disk, at some instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// One entry for each of [`Class::ALL`].
    pub classes: [ClassSnapshot; 5],
    /// Non-empty fetches.
    pub batches: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// The most that ever were.
    pub in_flight_max: u64,
    /// How often a rate limit held the queue back.
    pub throttled: u64,
}

impl StatsSnapshot {
    /// The counts of one class.
    pub const fn class(&self, class: Class) -> &ClassSnapshot {
        &self.classes[class as usize]
    }

    /// Requests that ended, well or not.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(|c| c.completed + c.failed).sum()
    }

    /// Adds another queue's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            mine.completed += theirs.completed;
            mine.bytes += theirs.bytes;
            mine.failed += theirs.failed;
            mine.latency.merge(&theirs.latency);
        }
        self.batches += other.batches;
        self.in_flight += other.in_flight;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
        self.throttled += other.throttled;
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.set(self.get() + count);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct ClassCounters {
    completed: Counter,
    bytes: Counter,
    failed: Counter,
    latency: [Counter; 64],
}

impl Default for ClassCounters {
    fn default() -> Self {
        Self {
            completed: Counter::default(),
            bytes: Counter::default(),
            failed: Counter::default(),
            latency: [const { Counter(AtomicU64::new(0)) }; 64],
        }
    }
}

/// The live counters of one queue.
#[derive(Debug, Default)]
pub(crate) struct QueueStats {
    classes: [ClassCounters; 5],
    batches: Counter,
    in_flight: Counter,
    in_flight_max: Counter,
    throttled: Counter,
}

impl QueueStats {
    pub(crate) fn fetched(&self) {
        self.batches.add(1);
    }

    pub(crate) fn throttled(&self) {
        self.throttled.add(1);
    }

    pub(crate) fn set_in_flight(&self, count: usize) {
        let count = count as u64;
        self.in_flight.set(count);
        if count > self.in_flight_max.get() {
            self.in_flight_max.set(count);
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// A request that never reached the backend.
    pub(crate) fn refused(&self, class: Class) {
        self.classes[class as usize].failed.add(1);
    }

    pub(crate) fn finished(&self, class: Class, bytes: u64, latency: Span, outcome: Outcome) {
        let counters = &self.classes[class as usize];
        if outcome == Outcome::Ok {
            counters.completed.add(1);
            counters.bytes.add(bytes);
        } else {
            counters.failed.add(1);
        }
        counters.latency[Histogram::bucket(latency)].add(1);
    }

    pub(crate) fn snapshot(&self) -> StatsSnapshot {
        let class = |counters: &ClassCounters| ClassSnapshot {
            completed: counters.completed.get(),
            bytes: counters.bytes.get(),
            failed: counters.failed.get(),
            latency: Histogram(std::array::from_fn(|i| counters.latency[i].get())),
        };
        StatsSnapshot {
            classes: std::array::from_fn(|i| class(&self.classes[i])),
            batches: self.batches.get(),
            in_flight: self.in_flight.get(),
            in_flight_max: self.in_flight_max.get(),
            throttled: self.throttled.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_within_a_factor_of_two() {
        let mut histogram = Histogram::default();
        for latency in 1..=1000 {
            histogram.record(Span::from_nanos(latency * 100));
        }
        for percent in [1.0, 50.0, 90.0, 99.0, 100.0] {
            let exact = percent * 1000.0;
            let found = histogram.percentile(percent).as_nanos() as f64;
            assert!(
                found >= exact / 2.0 && found <= exact * 2.0,
                "{percent}: {found} for {exact}"
            );
        }
    }

    #[test]
    fn extremes_have_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), Span::ZERO);
        histogram.record(Span::ZERO);
        histogram.record(Span::from_nanos(u64::MAX));
        assert_eq!(histogram.buckets()[0], 1);
        assert_eq!(histogram.buckets()[63], 1);
        assert!(histogram.percentile(100.0).as_nanos() >= 1 << 63);
    }

    #[test]
    fn failures_count_apart_from_successes() {
        let stats = QueueStats::default();
        stats.finished(Class::Read, 512, Span::from_nanos(3), Outcome::Ok);
        stats.finished(Class::Read, 512, Span::from_nanos(3), Outcome::ReadFailed);
        stats.refused(Class::Write);
        let mut all = stats.snapshot();
        all.merge(&stats.snapshot());
        assert_eq!(all.class(Class::Read).completed, 2);
        assert_eq!(all.class(Class::Read).bytes, 1024);
        assert_eq!(all.class(Class::Read).failed, 2);
        assert_eq!(all.class(Class::Read).latency.count(), 4);
        assert_eq!(all.class(Class::Write).failed, 2);
        assert_eq!(all.requests(), 6);
    }
}
