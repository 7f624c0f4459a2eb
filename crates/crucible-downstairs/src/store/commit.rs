//! Commits and what follows them: from memory into the journal, from there into place, and in the end out of the
//! journal again. See the module above for why this order is safe.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crucible_protocol::layout::{ExtentMetadata, StoredContext};
use crucible_protocol::{CrucibleError, ExtentId, ExtentState};

use super::error::io_error;
use super::extent::{Extent, gather, stamp_of};
use super::inner::{Inner, Log};
use super::journal::{Journal, RecordBuilder, SectionKind};
use super::pending::Pending;
use super::recover;
use crate::disk::DiskFile;

/// Files that are synced at the same time.
const SYNC_THREADS: usize = 8;

/// What a flush writes into the extents it finds dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) generation: u64,
    pub(super) flush: u64,
}

/// What a commit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Memory: what waits in it becomes durable, and the extent stays dirty.
    Room,
    /// The same, and what was placed too.
    Rest,
    /// The extents are clean after that.
    Flush(Stamp),
}

/// One extent of a commit.
struct Item {
    extent: ExtentId,
    blocks: Vec<u32>,
    source: Arc<Pending>,
    after: ExtentMetadata,
    placed: bool,
}

/// One record of a commit.
#[derive(Default)]
struct Record {
    meta: RecordBuilder,
    /// Item, and which of its blocks.
    parts: Vec<(usize, std::ops::Range<usize>)>,
    data_bytes: u64,
}

impl Inner {
    /// Bytes that may wait, so that a commit of them is one record.
    pub(super) fn pending_limit(&self) -> usize {
        self.options
            .pending_bytes
            .min(usize::try_from(self.journal_capacity() / 8).unwrap_or(usize::MAX))
    }

    /// A small region needs no large journal.
    pub(super) fn journal_capacity(&self) -> u64 {
        let least = (64 << 10).max(16 * u64::from(self.geometry.block_size()));
        self.geometry
            .bytes()
            .saturating_mul(4)
            .clamp(least, self.options.journal_bytes.max(least))
    }

    /// Makes what waits in these extents durable.
    pub(super) fn commit(&self, extents: &[u32], aim: Aim) -> Result<(), CrucibleError> {
        let mut log = self.lock_log();
        let result = self.commit_held(&mut log, extents, aim);
        drop(log);
        self.trim();
        result
    }

    /// The same for who holds the log.
    pub(super) fn commit_held(
        &self,
        log: &mut Log,
        extents: &[u32],
        aim: Aim,
    ) -> Result<(), CrucibleError> {
        // First, because it changes what the commit builds upon.
        self.unstick(log)
            .map_err(|error| io_error("write of an extent", &error))?;
        let mut items = Vec::new();
        let mut records = vec![Record::default()];
        let record_max = log.journal.as_ref().map_or_else(
            || Journal::record_max_of(self.journal_capacity()),
            Journal::record_max,
        );
        let collected = extents.iter().try_for_each(|extent| {
            let extent = ExtentId(*extent);
            self.collect(extent, aim, record_max, &mut items, &mut records)
        });
        let journaled = collected.and_then(|()| {
            // What a record says to be in its place has to be there durably.
            let placed = items.iter().filter(|item| item.placed);
            self.sync_extents(log, placed.map(|item| item.extent.0))
                .map_err(|error| io_error("sync of an extent", &error))?;
            records.retain(|record| !record.meta.is_empty());
            self.append(log, &records, &items)
                .map_err(|error| io_error("journal", &error))
        });
        if let Err(error) = journaled {
            for item in items {
                let mut extent = self.hold(item.extent)?;
                self.take_back(&mut extent);
            }
            return Err(error);
        }
        let mut result = Ok(());
        for item in items {
            if let Err(error) = self.put_in_place(log, item) {
                result = Err(io_error("write of an extent", &error));
            }
        }
        result
    }

    /// Takes what waits in one extent into a commit.
    fn collect(
        &self,
        id: ExtentId,
        aim: Aim,
        record_max: u64,
        items: &mut Vec<Item>,
        records: &mut Vec<Record>,
    ) -> Result<(), CrucibleError> {
        let mut extent = self.hold(id)?;
        let nothing = match aim {
            Aim::Room => extent.pending.is_empty(),
            Aim::Rest => extent.pending.is_empty() && extent.placed.is_empty(),
            Aim::Flush(_) => !extent.needs_flush(),
        };
        if nothing {
            self.note_clean(&extent);
            return Ok(());
        }
        let failed = |error: io::Error| io_error("commit", &error);
        self.ensure_file(&mut extent).map_err(failed)?;
        let active = extent.load_active(&self.layout).map_err(failed)?.clone();
        let blocks = extent.pending.blocks();
        let before = extent.metadata;
        let healed = extent
            .damaged
            .iter()
            .all(|block| extent.pending.contains(*block));
        let mut after = before;
        after.state.dirty = true;
        if let Aim::Flush(stamp) = aim {
            // A flush that comes again, after its answer was lost, finds blocks here that are newer than it. The
            // extent must not pass for one that really ends there before the last of those flushes has come as well.
            let again = (stamp.generation, stamp.flush) < extent.highest;
            after.state = ExtentState {
                generation: stamp.generation,
                flush: stamp.flush,
                dirty: !healed || again,
            };
        }
        let source = Arc::new(std::mem::take(&mut extent.pending));
        extent.committing = Some(Arc::clone(&source));
        let item = items.len();
        let mut marked = before;
        marked.state.dirty = true;
        let placed = !extent.placed.is_empty();
        if placed && let Some(record) = records.last_mut() {
            let meta = &mut record.meta;
            meta.section(id, SectionKind::Placed, before, marked);
            extent
                .placed
                .runs()
                .iter()
                .for_each(|run| meta.placed(*run));
        }
        let mut rest = 0..blocks.len();
        while let Some(record) = records.last_mut() {
            let room = record_max.saturating_sub(record.data_bytes) / self.block_size() as u64;
            let count = rest
                .len()
                .min(usize::try_from(room).unwrap_or(usize::MAX).max(1));
            let part = rest.start..rest.start + count;
            rest.start = part.end;
            let last = rest.is_empty();
            let says = if last { after } else { marked };
            record.meta.section(id, SectionKind::Commit, before, says);
            for block in blocks.get(part.clone()).unwrap_or_default() {
                if let Some((stored, _)) = source.get(*block, self.block_size()) {
                    let slot = active.get(*block).unwrap_or_default().other();
                    record
                        .meta
                        .block(*block, slot, &StoredContext::encode(Some(stored)));
                }
            }
            record.data_bytes += (part.len() * self.block_size()) as u64;
            record.parts.push((item, part));
            if record.data_bytes >= record_max {
                records.push(Record::default());
            }
            if last {
                break;
            }
        }
        items.push(Item {
            extent: id,
            blocks,
            source,
            after,
            placed,
        });
        Ok(())
    }

    fn append(&self, log: &mut Log, records: &[Record], items: &[Item]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // Room for all of them first: what is in the journal but not in its place must not be let go of in between.
        let sizes: Vec<_> = records
            .iter()
            .map(|record| (record.meta.meta().len(), record.data_bytes))
            .collect();
        self.make_room(log, &sizes)?;
        for record in records {
            let mut slices = Vec::new();
            for (item, part) in &record.parts {
                if let Some(item) = items.get(*item) {
                    let blocks = item.blocks.get(part.clone()).unwrap_or_default();
                    gather(blocks, &item.source, self.block_size(), &mut slices);
                }
            }
            self.journal(log)?.append(record.meta.meta(), &slices)?;
        }
        Ok(())
    }

    /// The second half of a commit, for one extent: what the journal has comes into its place.
    fn put_in_place(&self, log: &mut Log, item: Item) -> io::Result<()> {
        log.unsettled.insert(item.extent.0);
        let mut extent = self.hold(item.extent).map_err(io::Error::other)?;
        let Item {
            blocks,
            source,
            after,
            ..
        } = item;
        let placed = self
            .ensure_file(&mut extent)
            .and_then(|()| extent.apply(&blocks, &source, after, self.block_size(), &self.layout));
        if let Err(error) = placed {
            log.stuck.insert(extent.id.0);
            self.take_back(&mut extent);
            return Err(error);
        }
        extent.committing = None;
        extent.placed.clear();
        extent.marked = after.state.dirty;
        extent.highest = extent.highest.max(stamp_of(after.state));
        self.pending_bytes
            .fetch_sub(source.bytes(), Ordering::Relaxed);
        if let Some(mut used) = Arc::into_inner(source) {
            used.clear(&self.pieces);
            if extent.pending.is_empty() {
                extent.pending = used;
            }
        }
        self.note_clean(&extent);
        Ok(())
    }

    /// After a failed commit: what was to be committed waits again.
    fn take_back(&self, extent: &mut Extent) {
        // The record that failed may count all the same, and say that the extent is clean.
        extent.marked = false;
        let Some(older) = extent.committing.take() else {
            return;
        };
        let before = extent.pending.bytes() + older.bytes();
        if extent.pending.is_empty() {
            extent.pending = Arc::try_unwrap(older).unwrap_or_else(|older| {
                let mut copy = Pending::default();
                copy.absorb(&older, self.block_size(), &self.pieces);
                copy
            });
        } else {
            extent
                .pending
                .absorb(&older, self.block_size(), &self.pieces);
        }
        let saved = before - extent.pending.bytes();
        self.pending_bytes.fetch_sub(saved, Ordering::Relaxed);
        self.lock_dirty().insert(extent.id.0);
    }

    /// Keeps the set of extents that a flush looks at.
    fn note_clean(&self, extent: &Extent) {
        let mut dirty = self.lock_dirty();
        if extent.needs_flush() {
            dirty.insert(extent.id.0);
        } else {
            dirty.remove(&extent.id.0);
        }
    }

    /// The journal, begun if there is none.
    pub(super) fn journal<'a>(&self, log: &'a mut Log) -> io::Result<&'a mut Journal> {
        if log.journal.is_none() {
            let (journal, _) = Journal::open(
                &*self.disk,
                self.journal_capacity(),
                self.geometry.block_size(),
            )?;
            log.journal = Some(journal);
        }
        log.journal
            .as_mut()
            .ok_or_else(|| io::Error::other("no journal"))
    }

    /// Sees to it that records of so many bytes of meta and data fit.
    fn make_room(&self, log: &mut Log, records: &[(usize, u64)]) -> io::Result<()> {
        let journal = self.journal(log)?;
        if journal.is_broken() {
            self.settle_held(log)?;
            self.journal(log)?.start_over()?;
        } else if !journal.fits(records.iter().copied()) {
            self.settle_held(log)?;
        }
        Ok(())
    }

    /// Makes all that the journal has durable in its place, and lets go of it.
    pub(super) fn settle_held(&self, log: &mut Log) -> io::Result<()> {
        self.unstick(log)?;
        let mut extents = log.unsettled.clone();
        extents.extend(&log.syncing);
        self.sync_extents(log, extents.iter().copied())?;
        if let Some(journal) = &mut log.journal {
            let head = journal.head();
            journal.release(head)?;
        }
        log.unsettled.clear();
        Ok(())
    }

    /// The same without keeping commits waiting for the syncs, for the thread of the region.
    pub(super) fn settle_aside(&self) -> io::Result<()> {
        let (mark, extents) = {
            let mut log = self.lock_log();
            self.unstick(&mut log)?;
            let Some(journal) = &log.journal else {
                return Ok(());
            };
            let mark = journal.head();
            log.syncing = std::mem::take(&mut log.unsettled);
            (mark, log.syncing.clone())
        };
        let failed = self.sync_files(extents.iter().copied());
        let mut log = self.lock_log();
        log.syncing.clear();
        let mut result = self.note_failed(&mut log, failed);
        if let (Ok(()), Some(journal)) = (&result, &mut log.journal) {
            result = journal.release(mark);
        }
        if result.is_err() {
            log.unsettled.extend(extents);
        }
        drop(log);
        self.trim();
        result
    }

    /// Whether the journal is full enough for the thread of the region to do something.
    pub(super) fn wants_settling(&self) -> bool {
        // Who has it asks again afterwards; nobody is to wait for that.
        let Ok(log) = self.log.try_lock() else {
            return false;
        };
        log.journal.as_ref().is_some_and(|journal| {
            let (used, all) = journal.usage();
            used > all / 2
        })
    }

    /// Syncs one extent and notes in the journal that nothing before counts for it any more.
    pub(super) fn settle_extent(&self, log: &mut Log, extent: ExtentId) -> io::Result<()> {
        if !log.unsettled.contains(&extent.0) && !log.syncing.contains(&extent.0) {
            return Ok(());
        }
        self.unstick(log)?;
        self.sync_extents(log, [extent.0].into_iter())?;
        let none = ExtentMetadata::default();
        let mut meta = RecordBuilder::default();
        meta.section(extent, SectionKind::Forget, none, none);
        self.make_room(log, &[(meta.meta().len(), 0)])?;
        self.journal(log)?.append(meta.meta(), &[])?;
        log.unsettled.remove(&extent.0);
        Ok(())
    }

    /// Writes again from the journal what did not come to its place.
    fn unstick(&self, log: &mut Log) -> io::Result<()> {
        if log.stuck.is_empty() {
            return Ok(());
        }
        let journal = log.journal.as_ref();
        let sections = journal.map(|journal| journal.reread(self.geometry.block_size()));
        let plans = recover::plan(sections.transpose()?.unwrap_or_default());
        for id in log.stuck.iter().copied().map(ExtentId) {
            let mut extent = self.hold(id).map_err(io::Error::other)?;
            if let (Some(plan), Some(journal)) = (plans.get(&id), journal) {
                self.ensure_file(&mut extent)?;
                let metadata =
                    plan.redo(&**extent.file()?, journal, &self.geometry, extent.metadata)?;
                extent.unreadable = false;
                extent.marked = false;
                extent.metadata = metadata;
                extent.active = None;
                let freed = extent.contexts.clear();
                self.context_bytes.fetch_sub(freed, Ordering::Relaxed);
                // What waits is newer than the journal or equal to it.
                self.lock_dirty().insert(id.0);
            }
            self.place_again(&mut extent)?;
        }
        log.stuck.clear();
        Ok(())
    }

    fn sync_extents(&self, log: &mut Log, extents: impl Iterator<Item = u32>) -> io::Result<()> {
        let failed = self.sync_files(extents);
        self.note_failed(log, failed)
    }

    /// After a failed sync the system may have dropped what it could not write: it is written again from the journal
    /// before the next try.
    fn note_failed(&self, log: &mut Log, failed: Vec<(u32, io::Error)>) -> io::Result<()> {
        let mut result = Ok(());
        for (extent, error) in failed {
            log.stuck.insert(extent);
            log.unsettled.insert(extent);
            result = Err(error);
        }
        result
    }

    /// Syncs extent files, several at a time. Answers those that failed.
    fn sync_files(&self, extents: impl Iterator<Item = u32>) -> Vec<(u32, io::Error)> {
        let mut failed = Vec::new();
        let mut files: Vec<(u32, Arc<dyn DiskFile>)> = Vec::new();
        // Without a thread of its own, the region is to do everything in one order.
        let together = if self.options.background {
            SYNC_THREADS
        } else {
            1
        };
        let mut flush = |files: &mut Vec<(u32, Arc<dyn DiskFile>)>| {
            failed.extend(sync_together(files));
            files.clear();
        };
        let mut unopened = Vec::new();
        for extent in extents {
            match self.file_of(extent) {
                Ok(file) => files.push((extent, file)),
                Err(error) => unopened.push((extent, error)),
            }
            if files.len() >= together {
                flush(&mut files);
            }
        }
        flush(&mut files);
        failed.extend(unopened);
        failed
    }

    fn file_of(&self, extent: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut extent = self.hold(ExtentId(extent)).map_err(io::Error::other)?;
        self.ensure_file(&mut extent)?;
        extent.file().cloned()
    }
}

fn sync_together(files: &[(u32, Arc<dyn DiskFile>)]) -> Vec<(u32, io::Error)> {
    if let [(extent, file)] = files {
        return file
            .sync_data()
            .err()
            .map(|error| (*extent, error))
            .into_iter()
            .collect();
    }
    std::thread::scope(|scope| {
        #[expect(
            clippy::needless_collect,
            reason = "all threads run before the first is waited for"
        )]
        let threads: Vec<_> = files
            .iter()
            .map(|(extent, file)| (*extent, scope.spawn(|| file.sync_data())))
            .collect();
        threads
            .into_iter()
            .filter_map(|(extent, thread)| match thread.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((extent, error)),
                Err(_) => Some((extent, io::Error::other("the sync broke off"))),
            })
            .collect()
    })
}
