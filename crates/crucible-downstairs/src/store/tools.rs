//! What the command line does with whole regions: fill them from a file, copy them out, check every block.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use bytes::BytesMut;
use crucible_protocol::layout::{ExtentMetadata, Slot, StoredContext, names};
use crucible_protocol::{BlockContext, BlockIndex, ExtentId};

use super::extent::Extent;
use super::inner::Inner;
use super::recover::speaks_for;
use super::region::{Mode, Overwrite, Progress, Region};
use super::{StoreError, create};

/// Bytes that are moved in one go.
const CHUNK: usize = 1 << 20;
/// Bad blocks that a report lists.
const LISTED_MAX: usize = 1000;

/// What [`Region::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks looked at.
    pub blocks: u64,
    /// Those of them that have been written.
    pub written: u64,
    /// Those that do not fit their context, in order: extent, and block within it. At most a thousand are listed.
    pub bad: Vec<(ExtentId, u32)>,
    /// How many do not.
    pub bad_count: u64,
}

/// A piece of what [`Region::export`] gives out, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exported<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many zeros, of blocks that were never written.
    Zeros(u64),
}

impl Region {
    /// Fills the region with plain data, from its first block on, and flushes (flush 1, generation 0); adds extents
    /// when there is more. Read-write and plain only. Answers the bytes read. Progress counts bytes; of how many, it
    /// does not know (0).
    pub fn import(
        &mut self,
        from: &mut dyn Read,
        progress: Progress<'_>,
    ) -> Result<u64, StoreError> {
        if self.mode() == Mode::ReadOnly {
            return Err(StoreError::ReadOnly(String::from(
                "nothing can be imported",
            )));
        }
        if self.definition().encrypted {
            return Err(StoreError::Invalid(String::from(
                "plain data cannot be imported into an encrypted region",
            )));
        }
        let block_size = self.geometry().block_size() as usize;
        let mut buffer = vec![0; CHUNK];
        let mut contexts = Vec::with_capacity(CHUNK / block_size);
        let (mut total, mut block) = (0, 0);
        loop {
            let length = read_full(from, &mut buffer).map_err(StoreError::io("the source"))?;
            if length == 0 {
                break;
            }
            let padded = length.next_multiple_of(block_size);
            let Some(data) = buffer.get_mut(..padded) else {
                break;
            };
            data[length..].fill(0);
            contexts.clear();
            contexts.extend(data.chunks_exact(block_size).map(BlockContext::plain));
            let end = block + contexts.len() as u64;
            if end > self.geometry().block_count() {
                self.grow(end)?;
            }
            let data = buffer.get(..padded).unwrap_or_default();
            self.write(BlockIndex(block), &contexts, data, Overwrite::All)
                .map_err(|error| StoreError::Invalid(error.to_string()))?;
            block = end;
            total += length as u64;
            progress(total, 0);
        }
        self.flush(1, 0, None)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        Ok(total)
    }

    /// Adds extents until there are so many blocks.
    fn grow(&mut self, blocks: u64) -> Result<(), StoreError> {
        let count = blocks.div_ceil(u64::from(self.geometry().blocks_per_extent()));
        let count = u32::try_from(count)
            .map_err(|_| StoreError::Invalid(String::from("too much for any region")))?;
        let first = self.definition().extent_count;
        let definition = create::enlarge(&*self.inner().disk, first, count, &mut |_, _| {})?;
        let geometry = definition.geometry()?;
        self.change(|inner| {
            inner.definition = definition;
            inner.geometry = geometry;
            inner.extents.extend((first..count).map(|extent| {
                RwLock::new(Extent::new(ExtentId(extent), ExtentMetadata::default()))
            }));
        })
    }

    /// Gives out `count` blocks (0: all that follow) from block `skip` on, as they are stored. Answers their bytes.
    /// Progress counts them.
    pub fn export(
        &self,
        to: &mut dyn FnMut(Exported<'_>) -> io::Result<()>,
        skip: u64,
        count: u64,
        progress: Progress<'_>,
    ) -> Result<u64, StoreError> {
        let geometry = self.geometry();
        let left = geometry.block_count().checked_sub(skip);
        let count = match (left, count) {
            (Some(left), 0) => left,
            (Some(left), count) if count <= left => count,
            _ => {
                return Err(StoreError::Invalid(format!(
                    "blocks {skip} and {count} more: the region has {}",
                    geometry.block_count()
                )));
            }
        };
        let block_size = u64::from(geometry.block_size());
        let stride = (CHUNK as u64 / block_size).max(1) as u32;
        let mut data = BytesMut::new();
        let mut contexts = Vec::new();
        let mut done = 0;
        for run in geometry.runs(BlockIndex(skip), count) {
            let mut first = run.first;
            let end = run.first.saturating_add(run.count);
            while first < end {
                let blocks = stride.min(end - first);
                let bytes = u64::from(blocks) * block_size;
                let given = if self.is_untouched(run.extent, first, blocks)? {
                    to(Exported::Zeros(bytes))
                } else {
                    data.clear();
                    contexts.clear();
                    let start = BlockIndex(skip + done / block_size);
                    self.read(start, u64::from(blocks), &mut data, &mut contexts)
                        .map_err(|error| StoreError::Invalid(error.to_string()))?;
                    to(Exported::Data(&data))
                };
                given.map_err(StoreError::io("the target"))?;
                done += bytes;
                first += blocks;
                progress(done, count * block_size);
            }
        }
        Ok(count * block_size)
    }

    fn is_untouched(&self, id: ExtentId, first: u32, count: u32) -> Result<bool, StoreError> {
        let inner = self.inner();
        let failed = || StoreError::io(names::extent_path(id));
        let mut extent = inner.hold(id).map_err(|error| StoreError::Extent {
            extent: id,
            reason: error.to_string(),
        })?;
        inner.ensure_file(&mut extent).map_err(failed())?;
        let untouched = extent.is_untouched(first, count, &inner.layout);
        drop(extent);
        inner.trim();
        untouched.map_err(failed())
    }

    /// Checks each block against its context, on so many threads (0: one for each processor). A block is good when the
    /// hash of its active slot is its own, or when that slot is empty and the block is zero. Progress counts extents.
    ///
    /// Looks at the files; read-write, everything that waits is brought there first.
    pub fn verify(
        &self,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<VerifyReport, StoreError> {
        if self.mode() == Mode::ReadWrite {
            self.settle()
                .map_err(|error| StoreError::Invalid(error.to_string()))?;
        }
        let inner = self.inner();
        let extents = inner.geometry.extent_count() as usize;
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let next = AtomicUsize::new(0);
        let done = AtomicU64::new(0);
        let total: Mutex<Result<VerifyReport, StoreError>> =
            Mutex::new(Ok(VerifyReport::default()));
        let work = || {
            loop {
                let extent = next.fetch_add(1, Ordering::Relaxed);
                if extent >= extents {
                    return;
                }
                let found = verify_extent(inner, ExtentId(extent as u32));
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *total, found) {
                    (Ok(total), Ok(found)) => total.add(found),
                    (Ok(_), Err(error)) => {
                        *total = Err(error);
                        next.store(extents, Ordering::Relaxed);
                    }
                    (Err(_), _) => return,
                }
                drop(total);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, extents as u64);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(extents) {
                scope.spawn(work);
            }
            work();
        });
        let mut report = total.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        report.bad.sort_unstable();
        report.bad.truncate(LISTED_MAX);
        Ok(report)
    }
}

impl VerifyReport {
    fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.written += other.written;
        self.bad_count += other.bad_count;
        self.bad.extend(other.bad);
        self.bad.sort_unstable();
        self.bad.truncate(LISTED_MAX);
    }
}

fn verify_extent(inner: &Inner, id: ExtentId) -> Result<VerifyReport, StoreError> {
    let failed = || StoreError::io(names::extent_path(id));
    let layout = inner.layout;
    let block_size = inner.block_size();
    let stride = (CHUNK / block_size).max(1) as u32;
    let mut report = VerifyReport::default();
    let mut data = Vec::new();
    let mut first = 0;
    while first < layout.blocks() {
        let range = first..(first + stride).min(layout.blocks());
        let count = range.end - range.start;
        let mut extent = inner.hold(id).map_err(|error| StoreError::Extent {
            extent: id,
            reason: error.to_string(),
        })?;
        inner.ensure_file(&mut extent).map_err(failed())?;
        if extent
            .is_untouched(first, count, &layout)
            .map_err(failed())?
        {
            report.blocks += u64::from(count);
            first += count;
            continue;
        }
        let active = extent.load_active(&layout).map_err(failed())?.clone();
        let a = extent
            .read_slots(Slot::A, &range, &layout)
            .map_err(failed())?;
        let b = extent
            .read_slots(Slot::B, &range, &layout)
            .map_err(failed())?;
        data.resize(count as usize * block_size, 0);
        let place = layout.data(first, count).unwrap_or_default();
        extent
            .file()
            .and_then(|file| file.read_at(&mut data, place.start))
            .map_err(failed())?;
        let blocks = data.chunks_exact(block_size);
        for (block, ((a, b), data)) in range.zip(a.iter().zip(&b).zip(blocks)) {
            let slot = match active.get(block) {
                Some(Slot::B) => b,
                _ => a,
            };
            let empty = StoredContext::decode(slot) == Ok(None);
            let good = speaks_for(slot, data) || (empty && extent.blank.contains(&block));
            report.blocks += 1;
            report.written += u64::from(!empty);
            if !good || extent.damaged.contains(&block) {
                report.bad_count += 1;
                if report.bad.len() < LISTED_MAX {
                    report.bad.push((id, block));
                }
            }
        }
        drop(extent);
        first += count;
    }
    inner.trim();
    Ok(report)
}

/// Fills the buffer as far as the source goes.
fn read_full(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
