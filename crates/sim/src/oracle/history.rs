//! What each block may hold: every write that was ever submitted, by activation, and what is known of it.
//!
//! Within one activation (an epoch) writes take effect in the order they were submitted in. A read may give the newest
//! write that was answered before the read began, the newest that an earlier read has seen, or anything submitted
//! after that. A new epoch may begin with anything from the newest flushed write on; what a read has seen of
//! it stays for the epoch.

use std::collections::BTreeMap;

use crate::cipher::Version;

/// One activation; higher is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// In flight, or failed: it may or may not have happened.
    Open,
    /// Answered: it has happened.
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    version: Version,
    epoch: Epoch,
    only_unwritten: bool,
    fate: Fate,
}

/// What one epoch knows of a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// The oldest write of this epoch that may be read.
    floor: Option<Version>,
    /// What was read of earlier epochs.
    seen: Option<Version>,
    /// Something was written.
    written: bool,
}

#[derive(Debug, Default)]
struct Block {
    entries: Vec<Entry>,
    /// The newest write that an answered flush has covered.
    flushed: Option<(Epoch, Version)>,
    /// Some write has been flushed.
    flushed_any: bool,
    views: BTreeMap<Epoch, View>,
}

/// What an epoch began with.
#[derive(Clone, Debug)]
struct Start {
    /// Versions from here on were submitted later.
    at: Version,
    /// For each block: what was flushed by then.
    flushed: Vec<(Option<(Epoch, Version)>, bool)>,
}

/// All blocks of the volume.
#[derive(Debug)]
pub struct History {
    blocks: Vec<Block>,
    next: Version,
    starts: BTreeMap<Epoch, Start>,
    current: Epoch,
}

impl History {
    /// A volume of so many blocks, none of them written.
    pub fn new(blocks: u64) -> Self {
        Self {
            blocks: (0..blocks).map(|_| Block::default()).collect(),
            next: Version(1),
            starts: BTreeMap::new(),
            current: Epoch(0),
        }
    }

    /// The version that the next write gets.
    pub fn next(&self) -> Version {
        self.next
    }

    /// The newest epoch.
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// An activation has succeeded.
    pub fn begin(&mut self) -> Epoch {
        self.current = Epoch(self.current.0 + 1);
        let flushed = self
            .blocks
            .iter()
            .map(|block| (block.flushed, block.flushed_any))
            .collect();
        let start = Start {
            at: self.next,
            flushed,
        };
        self.starts.insert(self.current, start);
        self.current
    }

    /// A write is submitted.
    pub fn write(&mut self, epoch: Epoch, start: u64, count: u64, only_unwritten: bool) -> Version {
        let version = self.next;
        self.next = Version(version.0 + 1);
        for block in self.range(start, count) {
            block.entries.push(Entry {
                version,
                epoch,
                only_unwritten,
                fate: Fate::Open,
            });
        }
        version
    }

    /// A write is answered: it has happened.
    pub fn written(&mut self, epoch: Epoch, start: u64, count: u64, version: Version) {
        for block in self.range(start, count) {
            let Some(entry) = block
                .entries
                .iter_mut()
                .rev()
                .find(|entry| entry.version == version)
            else {
                continue;
            };
            entry.fate = Fate::Done;
            let only_unwritten = entry.only_unwritten;
            let view = block.views.entry(epoch).or_default();
            view.written = true;
            if !only_unwritten {
                view.floor = view.floor.max(Some(version));
            }
        }
    }

    /// A flush is answered: all writes of the epoch submitted before are safe.
    pub fn flushed(&mut self, epoch: Epoch, before: Version) {
        if epoch != self.current {
            return; // What was flushed by who has been taken over counts only if it was known by then.
        }
        for block in &mut self.blocks {
            let covered = block.entries.iter().filter(|entry| {
                entry.epoch == epoch && entry.version < before && entry.fate == Fate::Done
            });
            for entry in covered {
                block.flushed_any = true;
                if !entry.only_unwritten {
                    block.flushed = block.flushed.max(Some((epoch, entry.version)));
                }
            }
        }
    }

    /// A read is submitted: what is known of its blocks.
    pub fn look(&self, epoch: Epoch, start: u64, count: u64) -> Vec<View> {
        self.blocks
            .iter()
            .skip(start as usize)
            .take(count as usize)
            .map(|block| block.views.get(&epoch).copied().unwrap_or_default())
            .collect()
    }

    /// A read is answered: whether a block may hold this version.
    pub fn read(
        &mut self,
        epoch: Epoch,
        number: u64,
        before: View,
        version: Version,
    ) -> Result<(), String> {
        let overtaken = epoch != self.current;
        let Some(block) = self.blocks.get_mut(number as usize) else {
            return Err(format!("block {number} does not exist"));
        };
        let (at, flushed, flushed_any) =
            self.starts
                .get(&epoch)
                .map_or((Version(1), None, false), |start| {
                    let (flushed, any) = start
                        .flushed
                        .get(number as usize)
                        .copied()
                        .unwrap_or_default();
                    (start.at, flushed, any)
                });
        let entry = if version.0 == 0 {
            None
        } else {
            let found = block.entries.iter().find(|entry| entry.version == version);
            if found.is_none() {
                return Err(format!("block {number} was never written as {version:?}"));
            }
            found.copied()
        };
        if overtaken {
            return Ok(()); // Who has been taken over and does not know yet may read anything that once was.
        }
        let ours = entry.is_some_and(|entry| entry.epoch == epoch);
        let refuse = |why: &str| {
            Err(format!(
                "block {number} reads as {version:?} ({entry:?}) in {epoch:?}: {why}; known when the read began: \
                 {before:?}; flushed before the epoch: {flushed:?} {flushed_any}"
            ))
        };
        if let Some(entry) = entry.filter(|_| ours) {
            if before.floor.is_some_and(|floor| version < floor) {
                return refuse("a newer write was answered or read before");
            }
            if entry.only_unwritten && before.floor != Some(version) {
                let earlier = block.entries.iter().any(|other| {
                    other.epoch == epoch && other.version < version && other.fate == Fate::Done
                });
                let base = before.seen.is_some_and(|seen| seen.0 != 0) || flushed_any;
                if earlier || base {
                    return refuse("the block had been written, and this write leaves such alone");
                }
            }
        } else {
            if before.floor.is_some() {
                return refuse("the epoch has a write of its own there");
            }
            if before.seen.is_some_and(|seen| seen != version) {
                return refuse("an earlier read of the epoch has seen something else");
            }
            match entry {
                None if flushed_any => return refuse("a flushed write is lost"),
                None if before.written => return refuse("the epoch has written it"),
                Some(entry) if flushed.is_some_and(|flushed| (entry.epoch, version) < flushed) => {
                    return refuse("a newer write was flushed");
                }
                Some(entry) if entry.version >= at => {
                    return refuse("it was submitted after the volume had been taken over");
                }
                _ => {}
            }
        }
        let view = block.views.entry(epoch).or_default();
        if ours {
            view.floor = view.floor.max(Some(version));
        } else {
            view.seen = Some(version);
        }
        Ok(())
    }

    fn range(&mut self, start: u64, count: u64) -> impl Iterator<Item = &mut Block> {
        self.blocks
            .iter_mut()
            .skip(start as usize)
            .take(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(history: &mut History, epoch: Epoch, version: u64) -> Result<(), String> {
        let view = history.look(epoch, 0, 1)[0];
        history.read(epoch, 0, view, Version(version))
    }

    #[test]
    fn an_answered_write_hides_what_was_before() {
        let mut history = History::new(1);
        let epoch = history.begin();
        let first = history.write(epoch, 0, 1, false);
        history.written(epoch, 0, 1, first);
        let second = history.write(epoch, 0, 1, false);
        assert!(read(&mut history, epoch, 0).is_err());
        assert!(read(&mut history, epoch, first.0).is_ok());
        assert!(read(&mut history, epoch, second.0).is_ok());
        assert!(read(&mut history, epoch, first.0).is_err(), "seen newer");
    }

    #[test]
    fn what_was_not_flushed_may_be_lost_with_its_upstairs_and_what_was_may_not() {
        let mut history = History::new(1);
        let epoch = history.begin();
        for _ in 0..2 {
            let version = history.write(epoch, 0, 1, false);
            history.written(epoch, 0, 1, version);
            history.flushed(epoch, Version(2));
        }
        let epoch = history.begin();
        assert!(read(&mut history, epoch, 0).is_err());
        assert!(read(&mut history, epoch, 1).is_ok());
        assert!(read(&mut history, epoch, 2).is_err(), "seen otherwise");
        let late = history.write(Epoch(1), 0, 1, false);
        let next = history.begin();
        assert!(read(&mut history, next, late.0).is_ok());
        let later = history.write(Epoch(1), 0, 1, false);
        assert!(read(&mut history, next, later.0).is_err(), "taken over");
    }

    #[test]
    fn a_write_of_unwritten_blocks_leaves_written_ones_alone() {
        let mut history = History::new(1);
        let epoch = history.begin();
        let first = history.write(epoch, 0, 1, true);
        let second = history.write(epoch, 0, 1, true);
        history.written(epoch, 0, 1, first);
        history.written(epoch, 0, 1, second);
        assert!(read(&mut history, epoch, 0).is_err());
        assert!(read(&mut history, epoch, second.0).is_err());
        assert!(read(&mut history, epoch, first.0).is_ok());
    }
}
