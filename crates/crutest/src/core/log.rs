//! Which write each block has seen last, and what a read may therefore find there.
//!
//! Writes to a block are numbered from 1. While all goes well, a read finds the last one that was submitted before
//! it, or one that was submitted while it was under way. After a failed write, or after an end without a flush, any
//! write from the last that is known to be durable up to the last submitted one may be found; what a read then finds
//! settles it. 0 stands for what was there before the first write, which may be anything.

use serde::{Deserialize, Serialize};

use super::pattern::{self, Found, Lineage};

/// What the first field of the file says.
const FORMAT: &str = "crutest write log 1";

/// Which writes a read of a block may find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The earliest.
    pub low: u32,
    /// The latest.
    pub high: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// The number of the last write that was ever submitted: never given again.
    issued: u32,
    /// What a read may find now.
    now: Expected,
    /// What is found at least after a crash now.
    durable: u32,
}

/// The writes to all blocks of a volume.
#[derive(Clone, Debug)]
pub struct WriteLog {
    block_size: u32,
    lineage: Lineage,
    entries: Vec<Entry>,
    /// Blocks written since the last flush that was submitted.
    unflushed: Vec<u64>,
}

/// What a submitted flush will make durable.
#[derive(Debug, Default)]
pub struct Flushing(Vec<(u64, u32)>);

/// A block that holds what it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which.
    pub block: u64,
    /// What it may hold.
    pub expected: Expected,
    /// What it holds.
    pub found: Found,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Expected { low, high } = self.expected;
        write!(f, "block {}: expected write {high}", self.block)?;
        if low != high {
            write!(f, " or one since {low}")?;
        }
        write!(f, ", found {}", self.found)
    }
}

/// What a check of blocks came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Blocks that hold what they must.
    pub good: u64,
    /// Blocks of which nothing is known.
    pub unknown: u64,
    /// Blocks that hold something else.
    pub bad: Vec<Mismatch>,
}

impl WriteLog {
    /// Nothing is known of any block.
    pub fn new(block_size: u32, blocks: u64, lineage: Lineage) -> Self {
        let count = usize::try_from(blocks).unwrap_or(usize::MAX);
        Self {
            block_size,
            lineage,
            entries: vec![Entry::default(); count],
            unflushed: Vec::new(),
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Of one block, in bytes.
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// How many blocks have a known content.
    pub fn known(&self) -> u64 {
        self.entries.iter().filter(|e| e.now.low > 0).count() as u64
    }

    /// What a read of a block may find now; nothing is expected of a block that does not exist.
    pub fn expected(&self, block: u64) -> Expected {
        self.entry(block).map(|e| e.now).unwrap_or_default()
    }

    fn entry(&self, block: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(block).ok()?)
    }

    fn entry_mut(&mut self, block: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(block).ok()?)
    }

    /// A write to all blocks from `start` on that `data` covers is about to be submitted: counts it and fills `data`.
    pub fn write(&mut self, start: u64, data: &mut [u8]) {
        let lineage = self.lineage;
        for (data, block) in data
            .chunks_mut(self.block_size.max(1) as usize)
            .zip(start..)
        {
            let Some(entry) = self.entry_mut(block) else {
                return;
            };
            // At the end of all numbers the same one is used again: older ones stay told apart.
            entry.issued = entry.issued.saturating_add(1);
            let number = entry.issued;
            entry.now = Expected {
                low: number,
                high: number,
            };
            pattern::fill(data, block, number, lineage);
            self.unflushed.push(block);
        }
    }

    /// A write to these blocks failed: nobody knows how far it got.
    pub fn write_failed(&mut self, start: u64, count: u64) {
        for block in start..start.saturating_add(count) {
            if let Some(entry) = self.entry_mut(block) {
                entry.now.low = entry.now.low.min(entry.durable);
            }
        }
    }

    /// A flush is about to be submitted.
    pub fn flush(&mut self) -> Flushing {
        let mut blocks = std::mem::take(&mut self.unflushed);
        blocks.sort_unstable();
        blocks.dedup();
        let number = |block| self.entry(block).map_or(0, |entry| entry.now.low);
        Flushing(blocks.into_iter().map(|b| (b, number(b))).collect())
    }

    /// The flush succeeded.
    pub fn flushed(&mut self, flushing: Flushing) {
        for (block, number) in flushing.0 {
            if let Some(entry) = self.entry_mut(block) {
                entry.durable = entry.durable.max(number);
            }
        }
    }

    /// The flush failed: what it was for is still to be made durable.
    pub fn flush_failed(&mut self, flushing: Flushing) {
        self.unflushed
            .extend(flushing.0.into_iter().map(|(block, _)| block));
    }

    /// The volume was left without a flush, and came back: everything since the last flush is uncertain.
    pub fn crashed(&mut self) {
        for block in std::mem::take(&mut self.unflushed) {
            if let Some(entry) = self.entry_mut(block) {
                entry.now.low = entry.now.low.min(entry.durable);
            }
        }
    }

    /// What reads of these blocks may find, to be kept until the answer comes; `None` if nothing is known of any.
    pub fn expectations(&self, start: u64, count: u64) -> Option<Box<[Expected]>> {
        let range = start..start.saturating_add(count);
        let all: Box<[Expected]> = range.map(|block| self.expected(block)).collect();
        all.iter().any(|expected| expected.high > 0).then_some(all)
    }

    /// Compares blocks from `start` on with what was expected when they were asked for, and what has become of them
    /// since. What was uncertain is settled by what was found.
    pub fn check(&mut self, start: u64, data: &[u8], expected: &[Expected]) -> Verdict {
        let mut verdict = Verdict::default();
        let blocks = data.chunks(self.block_size.max(1) as usize);
        for ((data, expected), block) in blocks.zip(expected).zip(start..) {
            if expected.high == 0 {
                verdict.unknown += 1;
                continue;
            }
            // A write that was submitted while the read was under way may be there already; one that failed
            // meanwhile may be missing.
            let now = self.expected(block);
            let low = expected.low.min(now.low);
            let high = expected.high.max(now.high);
            match pattern::identify(data, block, self.lineage) {
                Found::Write(number) if (low..=high).contains(&number) => {
                    verdict.good += 1;
                    if low != high {
                        self.settle(block, *expected, number);
                    }
                }
                // What was there before the first write may be anything but a write of ours.
                Found::Zeroes | Found::Foreign | Found::OtherLineage if low == 0 => {
                    verdict.unknown += 1;
                    self.settle(block, *expected, 0);
                }
                found => verdict.bad.push(Mismatch {
                    block,
                    expected: Expected { low, high },
                    found,
                }),
            }
        }
        verdict
    }

    fn settle(&mut self, block: u64, expected: Expected, number: u32) {
        if let Some(entry) = self.entry_mut(block) {
            // A write that came after the read has made it certain already.
            if entry.now == expected {
                entry.now = Expected {
                    low: number,
                    high: number,
                };
                self.unflushed.push(block);
            }
        }
    }

    /// The log as a file has it. After a flush every block has one number; what no flush covers has several.
    pub fn file(&self) -> LogFile {
        let mut runs: Vec<Run> = Vec::new();
        for entry in &self.entries {
            let low = entry.durable.min(entry.now.low);
            let next = Run(1, entry.issued, low, entry.now.high);
            match runs.last_mut() {
                Some(last) if (last.1, last.2, last.3) == (next.1, next.2, next.3) => last.0 += 1,
                _ => runs.push(next),
            }
        }
        LogFile {
            format: FORMAT.to_owned(),
            block_size: self.block_size,
            blocks: self.blocks(),
            lineage: self.lineage.0,
            runs,
        }
    }

    /// The log of a file, for a volume of this size.
    pub fn from_file(file: &LogFile, block_size: u32, blocks: u64) -> Result<Self, LogFileError> {
        if file.format != FORMAT {
            return Err(LogFileError::Format(file.format.clone()));
        }
        if (file.block_size, file.blocks) != (block_size, blocks) {
            return Err(LogFileError::Size {
                block_size: file.block_size,
                blocks: file.blocks,
                volume_block_size: block_size,
                volume_blocks: blocks,
            });
        }
        let mut log = Self::new(block_size, 0, Lineage(file.lineage));
        for Run(count, issued, low, high) in &file.runs {
            if low > high || high > issued {
                return Err(LogFileError::Run {
                    issued: *issued,
                    low: *low,
                    high: *high,
                });
            }
            let entry = Entry {
                issued: *issued,
                now: Expected {
                    low: *low,
                    high: *high,
                },
                durable: *low,
            };
            let length = log
                .blocks()
                .checked_add(*count)
                .filter(|sum| *sum <= blocks);
            let length = length.and_then(|length| usize::try_from(length).ok());
            let Some(length) = length else {
                return Err(LogFileError::Count { blocks });
            };
            log.entries.resize(length, entry);
        }
        if log.blocks() != blocks {
            return Err(LogFileError::Count { blocks });
        }
        Ok(log)
    }
}

/// So many blocks with: last number given, lowest and highest number that may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run(u64, u32, u32, u32);

/// The file of `--verify-out` and `--verify-in`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    format: String,
    block_size: u32,
    blocks: u64,
    lineage: u64,
    runs: Vec<Run>,
}

/// A file that is no log, or not that of this volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFileError {
    /// Some other JSON.
    #[error("not a write log of this program: format {0:?}")]
    Format(String),
    /// Of another volume.
    #[error(
        "the log is of {blocks} blocks of {block_size} bytes, the volume has {volume_blocks} of {volume_block_size}"
    )]
    Size {
        /// Of the log, in bytes.
        block_size: u32,
        /// Of the log.
        blocks: u64,
        /// Of the volume, in bytes.
        volume_block_size: u32,
        /// Of the volume.
        volume_blocks: u64,
    },
    /// Numbers out of order.
    #[error("a run with writes {low} to {high} of {issued} cannot be")]
    Run {
        /// As given.
        issued: u32,
        /// As given.
        low: u32,
        /// As given.
        high: u32,
    },
    /// The runs are not the volume.
    #[error("the runs of the log do not add up to {blocks} blocks")]
    Count {
        /// As they should.
        blocks: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 512;

    struct Rig {
        log: WriteLog,
        disk: Vec<u8>,
    }

    impl Rig {
        fn new(blocks: u64) -> Self {
            Self {
                log: WriteLog::new(SIZE as u32, blocks, Lineage(1)),
                disk: vec![0; SIZE * blocks as usize],
            }
        }

        fn write(&mut self, block: u64) {
            let at = block as usize * SIZE;
            self.log.write(block, &mut self.disk[at..at + SIZE]);
        }

        fn lost_write(&mut self, block: u64) {
            let mut nowhere = [0; SIZE];
            self.log.write(block, &mut nowhere);
        }

        fn flush(&mut self) {
            let flushing = self.log.flush();
            self.log.flushed(flushing);
        }

        fn read(&mut self, block: u64) -> Verdict {
            let at = block as usize * SIZE;
            let expected = [self.log.expected(block)];
            self.log.check(block, &self.disk[at..at + SIZE], &expected)
        }

        fn reload(&mut self) {
            let json = serde_json::to_string(&self.log.file()).unwrap();
            let file = serde_json::from_str(&json).unwrap();
            self.log = WriteLog::from_file(&file, SIZE as u32, self.log.blocks()).unwrap();
        }
    }

    #[test]
    fn a_read_finds_the_last_write() {
        let mut rig = Rig::new(4);
        assert_eq!(rig.read(1).unknown, 1);
        rig.write(1);
        assert_eq!(rig.read(1).good, 1);
        rig.lost_write(1);
        let verdict = rig.read(1);
        assert_eq!(
            verdict.bad[0].to_string(),
            "block 1: expected write 2, found write 1"
        );
    }

    #[test]
    fn what_a_flush_covers_must_survive() {
        let mut rig = Rig::new(4);
        rig.write(1);
        rig.flush();
        rig.lost_write(1);
        rig.lost_write(1);
        rig.reload();
        assert_eq!(rig.log.expected(1), Expected { low: 1, high: 3 });
        assert_eq!(rig.read(1).good, 1);
        assert_eq!(rig.log.expected(1), Expected { low: 1, high: 1 }, "settled");
        rig.write(1);
        assert_eq!(
            rig.log.expected(1),
            Expected { low: 4, high: 4 },
            "a fresh number"
        );
        rig.disk[SIZE..2 * SIZE].fill(0);
        assert_eq!(rig.read(1).bad[0].found, Found::Zeroes);
    }

    #[test]
    fn before_the_first_flush_even_zeroes_are_good() {
        let mut rig = Rig::new(2);
        rig.lost_write(0);
        rig.write(1);
        rig.reload();
        assert_eq!(
            rig.read(0),
            Verdict {
                unknown: 1,
                ..Verdict::default()
            }
        );
        assert_eq!(rig.read(1).good, 1);
        rig.disk[SIZE] ^= 1;
        assert_eq!(rig.read(1).bad.len(), 1, "settled, so no more");
    }

    #[test]
    fn a_failed_flush_promises_nothing() {
        let mut rig = Rig::new(2);
        rig.write(0);
        let flushing = rig.log.flush();
        rig.log.flush_failed(flushing);
        rig.reload();
        assert_eq!(rig.log.expected(0), Expected { low: 0, high: 1 });
    }

    #[test]
    fn a_write_after_the_flush_was_submitted_is_not_covered_by_it() {
        let mut rig = Rig::new(2);
        rig.write(0);
        let flushing = rig.log.flush();
        rig.write(0);
        rig.log.flushed(flushing);
        rig.log.crashed();
        assert_eq!(rig.log.expected(0), Expected { low: 1, high: 2 });
    }

    #[test]
    fn a_failed_write_may_be_there_or_not() {
        let mut rig = Rig::new(2);
        rig.write(0);
        rig.flush();
        rig.lost_write(0);
        rig.log.write_failed(0, 1);
        assert_eq!(rig.log.expected(0), Expected { low: 1, high: 2 });
        assert_eq!(rig.read(0).good, 1);
        assert_eq!(rig.log.expected(0), Expected { low: 1, high: 1 });
    }

    #[test]
    fn a_write_that_overtakes_a_read_may_be_found_by_it_but_not_missed_by_the_next() {
        let mut rig = Rig::new(2);
        rig.write(0);
        let early = [rig.log.expected(0)];
        let old = rig.disk[..SIZE].to_vec();
        rig.write(0);
        let new = rig.disk[..SIZE].to_vec();
        assert_eq!(rig.log.check(0, &new, &early).good, 1);
        assert_eq!(rig.log.check(0, &old, &early).good, 1);
        let late = [rig.log.expected(0)];
        assert_eq!(rig.log.check(0, &new, &late).good, 1);
        assert_eq!(rig.log.check(0, &old, &late).bad.len(), 1);
    }

    #[test]
    fn files_of_other_volumes_and_nonsense_are_refused() {
        let file = Rig::new(4).log.file();
        let text = |file: &LogFile| {
            let error = WriteLog::from_file(file, 512, 4).unwrap_err();
            error.to_string()
        };
        let mut other = file.clone();
        other.blocks = 5;
        assert!(text(&other).contains("the log is of 5 blocks"));
        let mut other = file.clone();
        other.format = "something".to_owned();
        assert!(text(&other).contains("something"));
        let mut other = file.clone();
        other.runs = vec![Run(4, 1, 2, 1)];
        assert!(text(&other).contains("cannot be"));
        for runs in [
            vec![Run(3, 0, 0, 0)],
            vec![Run(5, 0, 0, 0)],
            vec![Run(u64::MAX, 0, 0, 0), Run(5, 0, 0, 0)],
        ] {
            let mut other = file.clone();
            other.runs = runs;
            assert!(text(&other).contains("do not add up"));
        }
    }

    #[test]
    fn equal_neighbours_take_one_line() {
        let mut rig = Rig::new(1000);
        rig.write(500);
        assert_eq!(rig.log.file().runs.len(), 3);
        assert_eq!(rig.log.known(), 1);
    }
}
