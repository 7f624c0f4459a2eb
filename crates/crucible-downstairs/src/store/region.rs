//! The region: what the rest of the region server sees of the store.

use std::sync::Arc;

use bytes::BytesMut;
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, ExtentId, ExtentState, Geometry, ReadBlockContext,
    RegionDefinition,
};

use super::StoreError;
use crate::disk::Disk;

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

/// A region that is open. Calls may come from many threads; those to different extents do not wait for each other.
#[derive(Debug)]
pub struct Region {
    definition: RegionDefinition,
    geometry: Geometry,
    mode: Mode,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pending_bytes: 8 << 20,
            context_bytes: 16 << 20,
            open_files: 256,
            journal_bytes: 64 << 20,
            background: true,
        }
    }
}

#[expect(
    clippy::unused_self,
    unused_variables,
    reason = "the signatures come first"
)]
impl Region {
    /// Makes the files of a region in an empty or missing directory. A creation that was broken off is finished
    /// when the definition is the same. Progress counts extents.
    pub fn create(
        disk: &Arc<dyn Disk>,
        definition: &RegionDefinition,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Invalid(String::from("not yet")))
    }

    /// Opens a region. Read-write, it finishes what a crash broke off.
    pub fn open(disk: Arc<dyn Disk>, mode: Mode, options: Options) -> Result<Self, StoreError> {
        Err(StoreError::Invalid(String::from("not yet")))
    }

    /// What region.json says.
    pub const fn definition(&self) -> &RegionDefinition {
        &self.definition
    }

    /// The sizes.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// As opened.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Of all extents, in order: what `ExtentVersions` says.
    pub fn extent_states(&self) -> Vec<ExtentState> {
        Vec::new()
    }

    /// Of one extent. `InvalidExtent`.
    pub fn extent_state(&self, extent: ExtentId) -> Result<ExtentState, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Whether the extent is closed, for repair. `InvalidExtent`.
    pub fn is_closed(&self, extent: ExtentId) -> Result<bool, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
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
        Err(CrucibleError::OffsetInvalid)
    }

    /// Checks every hash, then writes. Nothing is applied when one does not fit (`HashMismatch`).
    pub fn write(
        &self,
        start: BlockIndex,
        contexts: &[BlockContext],
        data: &[u8],
        overwrite: Overwrite,
    ) -> Result<(), CrucibleError> {
        Err(CrucibleError::OffsetInvalid)
    }

    /// Several writes, in their order, with one result each appended to `results`.
    pub fn write_batch(&self, jobs: &[WriteJob<'_>], results: &mut Vec<Result<(), CrucibleError>>) {
    }

    /// Makes all writes durable, of extents up to and with `limit` if there is one, and notes generation and flush
    /// number in those extents that were written. A read-only region has nothing to flush: Ok.
    pub fn flush(
        &self,
        flush: u64,
        generation: u64,
        limit: Option<ExtentId>,
    ) -> Result<(), CrucibleError> {
        Ok(())
    }

    /// The same for one extent, closed or open.
    pub fn flush_extent(
        &self,
        extent: ExtentId,
        flush: u64,
        generation: u64,
    ) -> Result<(), CrucibleError> {
        Ok(())
    }

    /// Closes an extent as it is, for repair; I/O to it fails until [`Region::reopen`]. Its file then has everything.
    /// Closing what is closed answers its state again.
    pub fn close(&self, extent: ExtentId) -> Result<ExtentState, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Flushes an extent, then closes it.
    pub fn flush_and_close(
        &self,
        extent: ExtentId,
        flush: u64,
        generation: u64,
    ) -> Result<ExtentState, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Opens a closed extent from its file. Ok when it is open.
    pub fn reopen(&self, extent: ExtentId) -> Result<(), CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Opens all that are closed; what a new session begins with. The first error, after trying all.
    pub fn reopen_all(&self) -> Result<(), CrucibleError> {
        Ok(())
    }

    /// The highest generation that was ever promoted here; 0 for none.
    pub fn promoted_generation(&self) -> u64 {
        0
    }

    /// Remembers a promotion over restarts. Lower ones than before change nothing.
    pub fn note_promotion(&self, generation: u64) -> Result<(), CrucibleError> {
        Ok(())
    }

    /// Makes `<region>/.snapshots/<name>/`, a complete region as of the last flush (with ZFS, a ZFS snapshot). To be
    /// called after that flush. Progress counts bytes.
    pub fn snapshot(&self, name: &str, progress: Progress<'_>) -> Result<(), CrucibleError> {
        Err(CrucibleError::SnapshotFailed(String::from("not yet")))
    }

    /// The files of an extent, for `/extent/{eid}/files`: their names, data file first.
    pub fn extent_files(&self, extent: ExtentId) -> Result<Vec<String>, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Opens a file of an extent to send it away. The extent should be closed, or the region read-only.
    pub fn open_extent_file(
        &self,
        extent: ExtentId,
        file: super::ExtentFile,
    ) -> Result<Arc<dyn crate::disk::DiskFile>, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Begins to replace the files of a closed extent by those of another region.
    pub fn begin_replacement(
        self: &Arc<Self>,
        extent: ExtentId,
    ) -> Result<super::Replacement, CrucibleError> {
        Err(CrucibleError::InvalidExtent)
    }

    /// Fills the region with plain data, from its first block on, and flushes (flush 1, generation 0); adds extents
    /// when there is more. Read-write and plain only. Answers the bytes read.
    pub fn import(
        &mut self,
        from: &mut dyn std::io::Read,
        progress: Progress<'_>,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Writes `count` blocks (0: all) from block `skip` on as they are stored.
    pub fn export(
        &self,
        to: &mut dyn std::io::Write,
        skip: u64,
        count: u64,
        progress: Progress<'_>,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Checks each block against its context, on so many threads (0: one for each processor).
    pub fn verify(
        &self,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<super::VerifyReport, StoreError> {
        Ok(super::VerifyReport::default())
    }
}
