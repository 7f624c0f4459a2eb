//! Rate limits: a token bucket for requests and one for bytes, refilled exactly by the time that has
//! passed.
//!
//! A queue asks before it fetches and pays after, when it knows the sizes. So nothing waits between
//! guest and backend; a transfer larger than what is left runs at once and leaves a debt, and the next
//! one waits until the debt is paid, to the nanosecond.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use vm_types::{Moment, Span};

/// How much a second, and how much at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second, in the long run.
    pub per_second: NonZeroU64,
    /// Units that may go at once after a pause.
    pub burst: NonZeroU64,
}

impl Rate {
    /// `per_second`, with a tenth of a second's worth as burst. `None` for zero.
    pub fn per_second(per_second: u64) -> Option<Self> {
        let per_second = NonZeroU64::new(per_second)?;
        Some(Self {
            per_second,
            burst: NonZeroU64::new(per_second.get() / 10).unwrap_or(NonZeroU64::MIN),
        })
    }

    /// The same rate with another burst. `None` for zero.
    pub fn burst(self, burst: u64) -> Option<Self> {
        let burst = NonZeroU64::new(burst)?;
        Some(Self { burst, ..self })
    }
}

/// The limits of a disk, over all its queues together. `Limit::default()` limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Requests of any kind.
    pub requests: Option<Rate>,
    /// Bytes read and written; bytes of other operations are free.
    pub bytes: Option<Rate>,
}

impl Limit {
    /// Whether there is anything to enforce.
    pub const fn is_some(&self) -> bool {
        self.requests.is_some() || self.bytes.is_some()
    }
}

/// One nanosecond's worth of a rate of one unit a second.
const GRAINS_PER_UNIT: i128 = 1_000_000_000;

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// In grains; below zero is debt.
    level: i128,
    refilled: Moment,
}

impl Bucket {
    fn new(rate: Rate, now: Moment) -> Self {
        Self {
            rate,
            level: Self::full(rate),
            refilled: now,
        }
    }

    fn full(rate: Rate) -> i128 {
        i128::from(rate.burst.get()) * GRAINS_PER_UNIT
    }

    fn refill(&mut self, now: Moment) {
        let passed = i128::from(now.since(self.refilled).as_nanos());
        let more = passed * i128::from(self.rate.per_second.get());
        self.level = (self.level + more).min(Self::full(self.rate));
        self.refilled = self.refilled.max(now);
    }

    fn pay(&mut self, units: u64) {
        self.level -= i128::from(units) * GRAINS_PER_UNIT;
    }

    /// The time until the level is `grains`.
    fn until(&self, grains: i128) -> Span {
        let missing = (grains - self.level).max(0);
        let rate = i128::from(self.rate.per_second.get());
        let ns = (missing + rate - 1) / rate;
        Span::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Buckets {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// The buckets of one disk. Locked once a batch, and only on disks that have limits.
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: Limit,
    /// Made at first use, when somebody brings a clock.
    buckets: Mutex<Option<Buckets>>,
}

impl Limiter {
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            limit,
            buckets: Mutex::new(None),
        }
    }

    /// How many requests may be fetched now, at most `room`; when it is none, the moment to ask again.
    pub(crate) fn allowance(&self, now: Moment, room: usize) -> Result<usize, Moment> {
        self.with(now, |buckets| {
            let mut allowed = room;
            let mut wait = Span::ZERO;
            if let Some(bucket) = &buckets.requests {
                let whole = bucket.level.max(0) / GRAINS_PER_UNIT;
                allowed = allowed.min(usize::try_from(whole).unwrap_or(usize::MAX));
                wait = wait.max(bucket.until(GRAINS_PER_UNIT));
            }
            if let Some(bucket) = &buckets.bytes {
                // Sizes are known after the fetch: one at a time keeps the debt to one request.
                allowed = allowed.min(usize::from(bucket.level > 0));
                wait = wait.max(bucket.until(1));
            }
            if allowed > 0 || room == 0 {
                Ok(allowed)
            } else {
                Err(now.after(wait))
            }
        })
    }

    pub(crate) fn pay(&self, now: Moment, requests: u64, bytes: u64) {
        self.with(now, |buckets| {
            if let Some(bucket) = &mut buckets.requests {
                bucket.pay(requests);
            }
            if let Some(bucket) = &mut buckets.bytes {
                bucket.pay(bytes);
            }
        });
    }

    fn with<R>(&self, now: Moment, body: impl FnOnce(&mut Buckets) -> R) -> R {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = buckets.get_or_insert_with(|| Buckets {
            requests: self.limit.requests.map(|rate| Bucket::new(rate, now)),
            bytes: self.limit.bytes.map(|rate| Bucket::new(rate, now)),
        });
        for bucket in [&mut buckets.requests, &mut buckets.bytes]
            .into_iter()
            .flatten()
        {
            bucket.refill(now);
        }
        body(buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::START.after(Span::from_millis(ms))
    }

    #[test]
    fn requests_come_back_one_by_one_and_exactly_in_time() {
        let limiter = Limiter::new(Limit {
            requests: Rate::per_second(1000).and_then(|rate| rate.burst(4)),
            bytes: None,
        });
        assert_eq!(limiter.allowance(at(0), 64), Ok(4));
        limiter.pay(at(0), 4, 0);
        assert_eq!(limiter.allowance(at(0), 64), Err(at(1)));
        assert_eq!(
            limiter.allowance(Moment::from_nanos(999_999), 64),
            Err(at(1))
        );
        assert_eq!(limiter.allowance(at(1), 64), Ok(1));
        assert_eq!(limiter.allowance(at(3), 64), Ok(3));
        assert_eq!(limiter.allowance(at(1000), 64), Ok(4));
    }

    #[test]
    fn a_large_transfer_runs_at_once_and_is_paid_off_later() {
        let limiter = Limiter::new(Limit {
            requests: None,
            bytes: Rate::per_second(1_000_000).and_then(|rate| rate.burst(1000)),
        });
        assert_eq!(limiter.allowance(at(0), 64), Ok(1));
        limiter.pay(at(0), 1, 11_000);
        // 10,000 bytes of debt at one a microsecond, and one grain more to be above zero.
        let free = Moment::from_nanos(10_000_001);
        assert_eq!(limiter.allowance(at(1), 64), Err(free));
        assert_eq!(limiter.allowance(free, 64), Ok(1));
    }

    #[test]
    fn the_long_run_rate_is_exact() {
        let limiter = Limiter::new(Limit {
            requests: Rate::per_second(333).and_then(|rate| rate.burst(1)),
            bytes: None,
        });
        let mut now = Moment::START;
        let mut done = 0;
        while now < at(10_000) {
            match limiter.allowance(now, 1) {
                Ok(_) => {
                    limiter.pay(now, 1, 0);
                    done += 1;
                }
                Err(next) => {
                    assert!(next > now);
                    now = next;
                }
            }
        }
        assert!((3329..=3331).contains(&done), "{done}");
    }

    #[test]
    fn a_zero_rate_is_no_rate() {
        assert_eq!(Rate::per_second(0), None);
        assert_eq!(Rate::per_second(5).unwrap().burst.get(), 1);
        assert_eq!(Rate::per_second(5).unwrap().burst(0), None);
    }
}
