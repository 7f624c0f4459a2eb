//! How long reads take at one region server, and when one of them is late.

use vm_types::Span;

/// Late is never earlier: below, a second request would cost more than it gains.
const LATE_MIN: Span = Span::from_millis(2);
/// Late is never later: nobody should wait for a stuck disk.
const LATE_MAX: Span = Span::from_millis(250);
/// Before anything was measured.
const LATE_UNKNOWN: Span = Span::from_millis(50);

/// A running mean and a running deviation, as TCP keeps them for its round trips. Mean plus four deviations is
/// exceeded by few: about the slowest twentieth.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    mean_ns: u64,
    deviation_ns: u64,
    samples: u32,
}

impl Latency {
    /// One read took so long.
    pub(super) fn sample(&mut self, took: Span) {
        // An hour stands for all that is longer, so that no sum overflows.
        let took = took.as_nanos().min(3_600_000_000_000);
        if self.samples == 0 {
            self.mean_ns = took;
            self.deviation_ns = took / 2;
        } else {
            let distance = self.mean_ns.abs_diff(took);
            self.deviation_ns = (3 * self.deviation_ns + distance) / 4;
            self.mean_ns = (7 * self.mean_ns + took) / 8;
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// How long a read takes, about. Zero before the first.
    pub(super) const fn mean(&self) -> Span {
        Span::from_nanos(self.mean_ns)
    }

    /// After how long a read is late.
    pub(super) fn late(&self) -> Span {
        if self.samples == 0 {
            return LATE_UNKNOWN;
        }
        Span::from_nanos(self.mean_ns + 4 * self.deviation_ns).clamp(LATE_MIN, LATE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_reads_make_late_come_soon_and_a_slow_one_moves_it() {
        let mut latency = Latency::default();
        assert_eq!(latency.late(), LATE_UNKNOWN);
        for _ in 0..100 {
            latency.sample(Span::from_millis(10));
        }
        let late = latency.late();
        assert!(late >= Span::from_millis(10) && late < Span::from_millis(11));
        latency.sample(Span::from_millis(90));
        assert!(latency.late() > Span::from_millis(50));
        latency.sample(Span::from_nanos(u64::MAX));
        assert_eq!(latency.late(), LATE_MAX);
    }
}
