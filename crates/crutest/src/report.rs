//! What a run came to, for people and for programs.

use serde::Serialize;

use crate::core::latency::{LatencySummary, human_us};
use crate::engine::Tally;

/// The summary of one run. Rates count reads and writes over the whole time, which includes the final flush.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The workload.
    pub workload: String,
    /// What decided all that was random.
    pub seed: u64,
    /// Operations under way at once.
    pub io_depth: usize,
    /// From the first submission to the last answer.
    pub seconds: f64,
    /// Reads and writes.
    pub operations: u64,
    /// Of them, in a second.
    pub iops: f64,
    /// Read and written in a second, in units of 1,000,000 bytes.
    pub mb_per_s: f64,
    /// In bytes.
    pub read_bytes: u64,
    /// In bytes.
    pub write_bytes: u64,
    /// How long they took.
    pub reads: LatencySummary,
    /// How long they took.
    pub writes: LatencySummary,
    /// How long they took.
    pub flushes: LatencySummary,
    /// How long the flush at the end took, in milliseconds; it is part of `seconds`.
    pub final_flush_ms: Option<f64>,
    /// Blocks that held what they must.
    pub good_blocks: u64,
    /// Blocks of which nothing was known.
    pub unknown_blocks: u64,
    /// Blocks that held something else.
    pub bad_blocks: u64,
    /// The first of those, in words.
    pub mismatches: Vec<String>,
    /// What failed first.
    pub error: Option<String>,
    /// Whether a user stopped it.
    pub stopped: bool,
}

impl Summary {
    /// Of a run.
    pub fn new(workload: &str, seed: u64, io_depth: usize, tally: &Tally) -> Self {
        let seconds = tally.elapsed.as_secs_f64();
        let over = seconds.max(1e-9);
        Self {
            workload: workload.to_owned(),
            seed,
            io_depth,
            seconds,
            operations: tally.operations(),
            iops: tally.operations() as f64 / over,
            mb_per_s: (tally.read_bytes + tally.write_bytes) as f64 / 1e6 / over,
            read_bytes: tally.read_bytes,
            write_bytes: tally.write_bytes,
            reads: tally.reads.summary(),
            writes: tally.writes.summary(),
            flushes: tally.flushes.summary(),
            final_flush_ms: tally.final_flush.map(|took| took.as_secs_f64() * 1000.0),
            good_blocks: tally.good_blocks,
            unknown_blocks: tally.unknown_blocks,
            bad_blocks: tally.bad_blocks,
            mismatches: tally.mismatches.iter().map(ToString::to_string).collect(),
            error: tally.error.as_ref().map(ToString::to_string),
            stopped: tally.stopped,
        }
    }

    /// For people: what was done and how fast, how long each kind of operation took, what was verified, what was
    /// wrong.
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}: {} operations in {:.2} s: {:.0} IOPS, {:.1} MB/s ({})",
            self.workload,
            self.operations,
            self.seconds,
            self.iops,
            self.mb_per_s,
            match self.final_flush_ms {
                Some(ms) => format!("final flush of {} included", human_us(ms * 1000.0)),
                None => "no final flush".to_owned(),
            }
        )];
        for (name, latencies) in [
            ("reads", self.reads),
            ("writes", self.writes),
            ("flushes", self.flushes),
        ] {
            if latencies.count > 0 {
                lines.push(format!("  {:<8} {:>8}: {latencies}", name, latencies.count));
            }
        }
        if self.good_blocks + self.bad_blocks + self.unknown_blocks > 0 {
            lines.push(format!(
                "  verified {} blocks, {} wrong, {} of unknown content",
                self.good_blocks + self.bad_blocks,
                self.bad_blocks,
                self.unknown_blocks
            ));
        }
        lines.extend(self.mismatches.iter().map(|text| format!("  WRONG {text}")));
        lines.extend(self.error.iter().map(|text| format!("  FAILED {text}")));
        if self.stopped {
            lines.push("  stopped before its end".to_owned());
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_over_the_whole_time() {
        let mut tally = Tally::default();
        for _ in 0..1000 {
            tally.writes.add(2_000_000);
        }
        tally.write_bytes = 4_096_000;
        tally.elapsed = Duration::from_secs(2);
        tally.final_flush = Some(Duration::from_millis(12));
        let summary = Summary::new("rand-write", 7, 32, &tally);
        assert_eq!(summary.iops, 500.0);
        assert_eq!(
            summary.text(),
            "rand-write: 1000 operations in 2.00 s: 500 IOPS, 2.0 MB/s (final flush of 12.00 ms included)\n  \
             writes       1000: mean 2.00 ms, p50 2.00 ms, p90 2.00 ms, p99 2.00 ms, p99.9 2.00 ms, max 2.00 ms"
        );
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["writes"]["count"], 1000);
        assert_eq!(json["final_flush_ms"], 12.0);
    }
}
