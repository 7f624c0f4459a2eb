//! The region: what the rest of the region server sees of the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use crucible_protocol::layout::StoredContext;
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, ExtentId, ExtentState, Geometry, ReadBlockContext,
    RegionDefinition,
};

use super::commit::{Aim, Stamp};
use super::inner::Inner;
use super::replace::{ExtentFile, Replacement};
use super::worker::Worker;
use super::{StoreError, create, open};
use crate::disk::{Access, Disk, DiskFile, NodeKind};

/// Told how far long work has come: units done, units in all. What a unit is, the caller says.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What may be done to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything; one process at a time.
    ReadWrite,
    /// Nothing is changed, not even to recover.
    ReadOnly,
}

/// Which blocks of a write are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// All.
    All,
    /// Those that have never been written; the others stay as they are, and that is a success.
    OnlyUnwritten,
}

/// Sizes that bound what a region uses.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of written blocks that may wait in memory for a flush.
    pub pending_bytes: usize,
    /// Bytes of contexts that are kept in memory.
    pub context_bytes: usize,
    /// Extent files that are kept open.
    pub open_files: usize,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// The shortest write, in bytes, that may go to its place without the journal, if nothing was there before.
    pub direct_bytes: usize,
    /// So many bytes wait in an extent before that begins: little is written faster by the journal.
    pub direct_after: usize,
    /// Whether a thread of the region moves the journal's content home; without it, flushes do that on the way.
    pub background: bool,
}

/// One write of a batch.
#[derive(Clone, Copy, Debug)]
pub struct WriteJob<'a> {
    /// First block.
    pub start: BlockIndex,
    /// One for each block.
    pub contexts: &'a [BlockContext],
    /// The blocks.
    pub data: &'a [u8],
    /// Which of them.
    pub overwrite: Overwrite,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pending_bytes: 6 << 20,
            context_bytes: 12 << 20,
            open_files: 256,
            journal_bytes: 256 << 20,
            direct_bytes: 64 << 10,
            direct_after: 1 << 20,
            background: true,
        }
    }
}

/// A region that is open. Calls may come from many threads; those to different extents do not wait for each other.
///
/// Dropped read-write, it commits what waits and empties the journal.
#[derive(Debug)]
pub struct Region {
    inner: Arc<Inner>,
    worker: Option<Worker>,
}

impl Region {
    /// Makes the files of a region in an empty or missing directory. A creation that was broken off is finished
    /// when the definition is the same. Progress counts extents.
    pub fn create(
        disk: &Arc<dyn Disk>,
        definition: &RegionDefinition,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        create::create(&**disk, definition, progress)
    }

    /// Adds extents to a region that nobody has open. Progress counts extents.
    pub fn extend(
        disk: &Arc<dyn Disk>,
        extent_count: u32,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        create::extend(&**disk, extent_count, progress)
    }

    /// Opens a region. Read-write, it finishes what a crash broke off.
    pub fn open(disk: Arc<dyn Disk>, mode: Mode, options: Options) -> Result<Self, StoreError> {
        let inner = Arc::new(open::open(disk, mode, options)?);
        let worker = (options.background && mode == Mode::ReadWrite)
            .then(|| Worker::start(&inner))
            .transpose()
            .map_err(StoreError::io("the thread of the region"))?;
        Ok(Self { inner, worker })
    }

    /// What region.json says.
    pub fn definition(&self) -> &RegionDefinition {
        &self.inner.definition
    }

    /// The sizes.
    pub fn geometry(&self) -> Geometry {
        self.inner.geometry
    }

    /// As opened.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// Of all extents, in order: what `ExtentVersions` says.
    pub fn extent_states(&self) -> Vec<ExtentState> {
        self.inner
            .ids()
            .map(|extent| self.extent_state(extent).unwrap_or_default())
            .collect()
    }

    /// Of one extent. `InvalidExtent`.
    pub fn extent_state(&self, extent: ExtentId) -> Result<ExtentState, CrucibleError> {
        Ok(self.inner.look(extent)?.state())
    }

    /// Whether the extent is closed, for repair. `InvalidExtent`.
    pub fn is_closed(&self, extent: ExtentId) -> Result<bool, CrucibleError> {
        Ok(self.inner.look(extent)?.closed)
    }

    /// Blocks of an extent that a crash has torn. They can be written but not read. `InvalidExtent`.
    pub fn damaged_blocks(&self, extent: ExtentId) -> Result<Vec<u32>, CrucibleError> {
        Ok(self.inner.look(extent)?.damaged.iter().copied().collect())
    }

    /// Appends `count` blocks and their contexts. Both stay as they were on an error: `OffsetInvalid` past the end,
    /// `MissingContextSlot` for a block that a crash has torn, `IoError`, `GenericError` for a closed extent.
    pub fn read(
        &self,
        start: BlockIndex,
        count: u64,
        into: &mut BytesMut,
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Result<(), CrucibleError> {
        self.inner.read(start, count, into, contexts)
    }

    /// Checks every hash, then writes. Nothing is applied when one does not fit (`HashMismatch`).
    pub fn write(
        &self,
        start: BlockIndex,
        contexts: &[BlockContext],
        data: &[u8],
        overwrite: Overwrite,
    ) -> Result<(), CrucibleError> {
        let job = WriteJob {
            start,
            contexts,
            data,
            overwrite,
        };
        let result = self.inner.write(&job, &mut Vec::new());
        self.wake();
        result
    }

    /// Does a small read at once if nothing has to be waited for; `None` if something would. `into` and `contexts` are
    /// as [`Region::read`] would leave them after an `Ok`, and of no use after anything else.
    pub fn read_quick(
        &self,
        start: BlockIndex,
        count: u64,
        into: &mut BytesMut,
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Option<Result<(), CrucibleError>> {
        self.inner.read_quick(start, count, into, contexts)
    }

    /// Does a small write at once if nothing has to be read, written or waited for; `None` if something would. The
    /// contexts of earlier calls in `scratch` do not matter.
    pub fn write_quick(
        &self,
        job: &WriteJob<'_>,
        scratch: &mut Vec<StoredContext>,
    ) -> Option<Result<(), CrucibleError>> {
        self.inner.write_quick(job, scratch)
    }

    /// Several writes, in their order, with one result each appended to `results`.
    pub fn write_batch(&self, jobs: &[WriteJob<'_>], results: &mut Vec<Result<(), CrucibleError>>) {
        let mut stored = Vec::new();
        results.extend(jobs.iter().map(|job| self.inner.write(job, &mut stored)));
        self.wake();
    }

    /// Makes all writes durable, of extents up to and with `limit` if there is one, and notes generation and flush
    /// number in those extents that were written. A read-only region has nothing to flush: Ok. Extents that are
    /// closed are left alone.
    pub fn flush(
        &self,
        flush: u64,
        generation: u64,
        limit: Option<ExtentId>,
    ) -> Result<(), CrucibleError> {
        if limit.is_some_and(|limit| limit.0 > self.geometry().extent_count()) {
            return Err(CrucibleError::InvalidExtent);
        }
        if self.mode() == Mode::ReadOnly {
            return Ok(());
        }
        let last = limit.map_or(u32::MAX, |limit| limit.0);
        let mut extents: Vec<u32> = self.inner.lock_dirty().range(..=last).copied().collect();
        extents.retain(|extent| matches!(self.is_closed(ExtentId(*extent)), Ok(false)));
        let result = self
            .inner
            .commit(&extents, Aim::Flush(Stamp { generation, flush }));
        self.wake();
        result
    }

    /// The same for one extent, closed or open.
    pub fn flush_extent(
        &self,
        extent: ExtentId,
        flush: u64,
        generation: u64,
    ) -> Result<(), CrucibleError> {
        let stamp = Stamp { generation, flush };
        let closed = self.is_closed(extent)?;
        match self.mode() {
            Mode::ReadOnly => Ok(()),
            Mode::ReadWrite if closed => self.inner.close(extent, Aim::Flush(stamp)).map(|_| ()),
            Mode::ReadWrite => self.inner.commit(&[extent.0], Aim::Flush(stamp)),
        }
    }

    /// Closes an extent as it is, for repair; I/O to it fails until [`Region::reopen`]. Its file then has everything.
    /// Closing what is closed answers its state again.
    pub fn close(&self, extent: ExtentId) -> Result<ExtentState, CrucibleError> {
        self.inner.close(extent, Aim::Rest)
    }

    /// Flushes an extent, then closes it.
    pub fn flush_and_close(
        &self,
        extent: ExtentId,
        flush: u64,
        generation: u64,
    ) -> Result<ExtentState, CrucibleError> {
        self.inner
            .close(extent, Aim::Flush(Stamp { generation, flush }))
    }

    /// Opens a closed extent from its file. Ok when it is open.
    pub fn reopen(&self, extent: ExtentId) -> Result<(), CrucibleError> {
        self.inner.reopen(extent)
    }

    /// Opens all that are closed; what a new session begins with. The first error, after trying all.
    pub fn reopen_all(&self) -> Result<(), CrucibleError> {
        let mut result = Ok(());
        for extent in self.inner.ids() {
            let reopened = self.reopen(extent);
            if result.is_ok() {
                result = reopened;
            }
        }
        result
    }

    /// The highest generation that was ever promoted here; 0 for none.
    pub fn promoted_generation(&self) -> u64 {
        self.inner.promoted.load(Ordering::Acquire)
    }

    /// Remembers a promotion over restarts. Lower ones than before change nothing.
    pub fn note_promotion(&self, generation: u64) -> Result<(), CrucibleError> {
        self.inner.note_promotion(generation)
    }

    /// Makes all that was committed durable in its place and empties the journal, so that the files alone are the
    /// region. What was written since the last flush is committed too, as dirty.
    pub fn settle(&self) -> Result<(), CrucibleError> {
        self.inner.settle()
    }

    /// Makes `<region>/.snapshots/<name>/`, a complete region as of the last flush; with ZFS, a ZFS snapshot. To be
    /// called right after that flush, with no write in between. Progress counts bytes.
    pub fn snapshot(&self, name: &str, progress: Progress<'_>) -> Result<(), CrucibleError> {
        self.inner.snapshot(name, progress)
    }

    /// The files of an extent, for `/extent/{eid}/files`: their names, data file first.
    pub fn extent_files(&self, extent: ExtentId) -> Result<Vec<String>, CrucibleError> {
        drop(self.inner.look(extent)?);
        let mut names = Vec::new();
        for file in ExtentFile::ALL {
            if create::kind(&*self.inner.disk, &file.path(extent))? == Some(NodeKind::File) {
                names.push(file.entry_kind().name(extent));
            }
        }
        Ok(names)
    }

    /// Opens a file of an extent to send it away. The extent should be closed, or the region read-only.
    pub fn open_extent_file(
        &self,
        extent: ExtentId,
        file: ExtentFile,
    ) -> Result<Arc<dyn DiskFile>, CrucibleError> {
        drop(self.inner.look(extent)?);
        let path = file.path(extent);
        match create::kind(&*self.inner.disk, &path)? {
            Some(NodeKind::File) => {}
            Some(_) => {
                return Err(CrucibleError::RepairFilesInvalid(format!(
                    "{path} is not a file"
                )));
            }
            None => {
                return Err(CrucibleError::RepairFilesInvalid(format!(
                    "{path} does not exist"
                )));
            }
        }
        Ok(self
            .inner
            .disk
            .open(&path, Access::Read)
            .map_err(StoreError::io(path))?)
    }

    /// Begins to replace the files of a closed extent by those of another region.
    pub fn begin_replacement(
        self: &Arc<Self>,
        extent: ExtentId,
    ) -> Result<Replacement, CrucibleError> {
        Replacement::begin(Arc::clone(self), extent)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Changes what is fixed while the thread of the region runs.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Inner)) -> Result<(), StoreError> {
        let worked = self.worker.take().is_some();
        let inner = Arc::get_mut(&mut self.inner)
            .ok_or_else(|| StoreError::Invalid(String::from("the region is in use")))?;
        change(inner);
        if worked {
            let worker = Worker::start(&self.inner);
            self.worker = Some(worker.map_err(StoreError::io("the thread of the region"))?);
        }
        Ok(())
    }

    fn wake(&self) {
        if let Some(worker) = &self.worker {
            worker.wake_if(|| self.inner.wants_settling());
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.worker = None;
        if self.mode() == Mode::ReadWrite {
            // Whatever fails here is found in the journal next time.
            let _ = self.inner.settle();
        }
    }
}
