//! Reads and writes of jobs.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use crucible_protocol::context::hash;
use crucible_protocol::geometry::ExtentRun;
use crucible_protocol::layout::StoredContext;
use crucible_protocol::{BlockContext, BlockIndex, CrucibleError, ReadBlockContext};

use super::commit::Aim;
use super::error::io_error;
use super::extent::Extent;
use super::inner::Inner;
use super::region::{Mode, Overwrite, WriteJob};

/// The most that one read answers, in bytes: what fits into a frame.
const READ_BYTES_MAX: u64 = 100 << 20;

/// The largest read or write that is done where it arrives: it takes some microseconds.
const QUICK_BYTES: usize = 32 << 10;

/// Writes are taken in by pieces of so many bytes at most, so that the limit of what waits holds.
const PIECE_BYTES: usize = 1 << 20;

impl Inner {
    pub(super) fn read(
        &self,
        start: BlockIndex,
        count: u64,
        into: &mut BytesMut,
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Result<(), CrucibleError> {
        if !self.geometry.contains(start, count) {
            return Err(CrucibleError::OffsetInvalid);
        }
        if count.saturating_mul(self.block_size() as u64) > READ_BYTES_MAX {
            return Err(CrucibleError::InvalidNumberOfBlocks(format!(
                "{count} blocks are more than an answer can hold"
            )));
        }
        let (bytes_before, contexts_before) = (into.len(), contexts.len());
        contexts.reserve(count as usize);
        into.resize(bytes_before + count as usize * self.block_size(), 0);
        let mut at = bytes_before;
        for run in self.geometry.runs(start, count) {
            let end = at + run.count as usize * self.block_size();
            let result = match into.get_mut(at..end) {
                Some(target) => self.read_run(run, target, contexts),
                None => Err(CrucibleError::OffsetInvalid),
            };
            if let Err(error) = result {
                into.truncate(bytes_before);
                contexts.truncate(contexts_before);
                return Err(error);
            }
            at = end;
        }
        Ok(())
    }

    fn read_run(
        &self,
        run: ExtentRun,
        into: &mut [u8],
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Result<(), CrucibleError> {
        let (first, count) = (run.first, run.count);
        self.open_again(run.extent)?;
        {
            let extent = self.look(run.extent)?;
            extent.require_open()?;
            if extent.is_ready(first, count, &self.layout) {
                return extent.read(first, count, into, contexts, &self.layout);
            }
        }
        let result = {
            let mut extent = self.hold(run.extent)?;
            extent.require_open()?;
            self.ensure(&mut extent, first, count)
                .map_err(|error| io_error("read of contexts", &error))?;
            extent.read(first, count, into, contexts, &self.layout)
        };
        self.trim();
        result
    }

    pub(super) fn write(
        &self,
        job: &WriteJob<'_>,
        stored: &mut Vec<StoredContext>,
    ) -> Result<(), CrucibleError> {
        self.require_writable()?;
        self.check(job, stored)?;
        let block_size = self.block_size();
        let (mut data, mut stored) = (job.data, stored.as_slice());
        let piece_blocks = (PIECE_BYTES / block_size).max(1) as u32;
        for run in self.geometry.runs(job.start, job.contexts.len() as u64) {
            self.open_again(run.extent)?;
            let mut first = run.first;
            let end = run.first + run.count;
            while first < end {
                let count = piece_blocks.min(end - first);
                let bytes = count as usize * block_size;
                let (Some((piece, data_rest)), Some((slots, stored_rest))) = (
                    data.split_at_checked(bytes),
                    stored.split_at_checked(count as usize),
                ) else {
                    return Err(CrucibleError::DataLenUnaligned);
                };
                let part = ExtentRun {
                    first,
                    count,
                    ..run
                };
                // What is fresh is unwritten, so it makes no difference whether that is asked for.
                if !self.write_direct(part, slots, piece)? {
                    self.make_way(bytes)?;
                    self.write_piece(part, slots, piece, job.overwrite)?;
                }
                (data, stored) = (data_rest, stored_rest);
                first += count;
            }
        }
        Ok(())
    }

    /// Everything that can be wrong with a write, before anything of it is done. Fills in what goes into the slots.
    fn check(
        &self,
        job: &WriteJob<'_>,
        stored: &mut Vec<StoredContext>,
    ) -> Result<(), CrucibleError> {
        let block_size = self.block_size();
        if job.data.len() != job.contexts.len().saturating_mul(block_size) {
            return Err(CrucibleError::DataLenUnaligned);
        }
        if !self.geometry.contains(job.start, job.contexts.len() as u64) {
            return Err(CrucibleError::OffsetInvalid);
        }
        stored.clear();
        for (context, block) in job.contexts.iter().zip(job.data.chunks_exact(block_size)) {
            stored.push(store(context, block).ok_or(CrucibleError::HashMismatch)?);
        }
        Ok(())
    }

    fn write_piece(
        &self,
        run: ExtentRun,
        stored: &[StoredContext],
        data: &[u8],
        overwrite: Overwrite,
    ) -> Result<(), CrucibleError> {
        let mut trim = false;
        {
            let mut extent = self.hold(run.extent)?;
            extent.require_open()?;
            if overwrite == Overwrite::OnlyUnwritten
                && !extent.is_ready(run.first, run.count, &self.layout)
            {
                self.ensure(&mut extent, run.first, run.count)
                    .map_err(|error| io_error("read of contexts", &error))?;
                trim = true;
            }
            self.keep(&mut extent, run, stored, data, overwrite);
        }
        if trim {
            self.trim();
        }
        Ok(())
    }

    /// Takes blocks into memory.
    fn keep(
        &self,
        extent: &mut Extent,
        run: ExtentRun,
        stored: &[StoredContext],
        data: &[u8],
        overwrite: Overwrite,
    ) {
        let flush_id = extent.metadata.state.flush as u16;
        let mut grown = 0;
        let fresh = extent.pending.is_empty();
        let blocks = run.first..run.first.saturating_add(run.count);
        let data = data.chunks_exact(self.block_size());
        for ((block, stored), data) in blocks.zip(stored).zip(data) {
            if overwrite == Overwrite::OnlyUnwritten && extent.is_written(block) {
                continue;
            }
            let stored = StoredContext {
                flush_id,
                ..*stored
            };
            grown += extent.pending.put(block, stored, data, &self.pieces);
        }
        self.pending_bytes.fetch_add(grown, Ordering::Relaxed);
        if fresh && grown > 0 {
            self.lock_dirty().insert(run.extent.0);
        }
    }

    /// A small read for which nothing has to be waited for; `None` for any other. What was appended is to be thrown
    /// away then, and after an error.
    pub(super) fn read_quick(
        &self,
        start: BlockIndex,
        count: u64,
        into: &mut BytesMut,
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Option<Result<(), CrucibleError>> {
        let bytes = count.saturating_mul(self.block_size() as u64);
        if bytes > QUICK_BYTES as u64 || !self.geometry.contains(start, count) {
            return None;
        }
        let mut runs = self.geometry.runs(start, count);
        let (run, None) = (runs.next()?, runs.next()) else {
            return None;
        };
        let extent = self.extents.get(run.extent.0 as usize)?.try_read().ok()?;
        let before = into.len();
        into.resize(before + bytes as usize, 0);
        let target = into.get_mut(before..)?;
        extent.read_now(run.first, run.count, target, contexts, &self.layout)
    }

    /// A small write for which nothing has to be read, written or waited for; `None` for any other.
    pub(super) fn write_quick(
        &self,
        job: &WriteJob<'_>,
        stored: &mut Vec<StoredContext>,
    ) -> Option<Result<(), CrucibleError>> {
        let bytes = job.data.len();
        let room = self
            .pending_limit()
            .saturating_sub(self.pending_bytes.load(Ordering::Relaxed));
        let small = bytes <= QUICK_BYTES && bytes < self.options.direct_bytes && bytes <= room;
        if !small || self.mode != Mode::ReadWrite || job.overwrite != Overwrite::All {
            return None;
        }
        if let Err(error) = self.check(job, stored) {
            return Some(Err(error));
        }
        let mut runs = self.geometry.runs(job.start, job.contexts.len() as u64);
        let (run, None) = (runs.next()?, runs.next()) else {
            return None;
        };
        let mut extent = self.extents.get(run.extent.0 as usize)?.try_write().ok()?;
        if extent.closed {
            return None;
        }
        self.keep(&mut extent, run, stored, job.data, job.overwrite);
        Some(Ok(()))
    }

    /// Commits what waits when so many bytes more would be too many.
    fn make_way(&self, bytes: usize) -> Result<(), CrucibleError> {
        let waiting = self.pending_bytes.load(Ordering::Relaxed);
        if waiting == 0 || waiting + bytes <= self.pending_limit() {
            return Ok(());
        }
        let dirty: Vec<u32> = self.lock_dirty().iter().copied().collect();
        self.commit(&dirty, Aim::Room)
    }
}

/// What goes into the slot of a block; `None` when the hash does not fit.
///
/// The hash of a plain block is that of the stored bytes too, so it is computed once. A sealed block needs two
/// passes: what comes before the data differs, and XXH64 carries no state over.
fn store(context: &BlockContext, block: &[u8]) -> Option<StoredContext> {
    if !context.fits(block) {
        return None;
    }
    let on_disk_hash = match context.encryption {
        None => context.hash,
        Some(_) => hash(block),
    };
    Some(StoredContext {
        context: *context,
        on_disk_hash,
        flush_id: 0,
    })
}
