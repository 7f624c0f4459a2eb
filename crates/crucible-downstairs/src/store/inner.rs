//! What the threads of a region share: the extents, each behind its lock, and the log, behind one of its own.
//!
//! Order of locks: log, then the gate, then extents one at a time, then the set of dirty extents. Who holds an extent
//! never asks for the log. At the gate nobody waits but who wants it alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crucible_protocol::layout::{ExtentLayout, names};
use crucible_protocol::{CrucibleError, ExtentId, Geometry, RegionDefinition};

use super::extent::Extent;
use super::journal::Journal;
use super::pending::Pieces;
use super::region::{Mode, Options};
use super::vet::Refusals;
use crate::disk::{Access, Disk, DiskFile};

/// A region that is open, without its thread.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) definition: RegionDefinition,
    pub(super) geometry: Geometry,
    pub(super) layout: ExtentLayout,
    pub(super) mode: Mode,
    pub(super) options: Options,
    pub(super) extents: Vec<RwLock<Extent>>,
    pub(super) log: Mutex<Log>,
    /// Extents that a flush has to look at.
    pub(super) dirty: Mutex<BTreeSet<u32>>,
    /// Bytes that wait for a commit.
    pub(super) pending_bytes: AtomicUsize,
    pub(super) pieces: Pieces,
    pub(super) open_files: AtomicUsize,
    pub(super) context_bytes: AtomicUsize,
    /// Held while something is written in place without the log; alone by who needs the files to stay as they are.
    pub(super) direct_gate: RwLock<()>,
    /// Where the search for something to let go of goes on.
    hand: AtomicUsize,
    pub(super) promoted: AtomicU64,
    pub(super) refusals: Mutex<Refusals>,
    /// Keeps other processes out as long as it is open.
    _lock: Option<Arc<dyn DiskFile>>,
}

/// The journal, and which extents it speaks of.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Begun with the first commit.
    pub(super) journal: Option<Journal>,
    /// Written in place since their last sync.
    pub(super) unsettled: BTreeSet<u32>,
    /// Being synced by the thread of the region just now.
    pub(super) syncing: BTreeSet<u32>,
    /// What a record says of them did not come to its place; it has to be written there again from the journal.
    pub(super) stuck: BTreeSet<u32>,
}

impl Inner {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        definition: RegionDefinition,
        geometry: Geometry,
        mode: Mode,
        options: Options,
        lock: Option<Arc<dyn DiskFile>>,
    ) -> Self {
        Self {
            disk,
            definition,
            geometry,
            layout: ExtentLayout::new(&geometry),
            mode,
            options,
            extents: Vec::new(),
            log: Mutex::new(Log::default()),
            dirty: Mutex::new(BTreeSet::new()),
            pending_bytes: AtomicUsize::new(0),
            pieces: Pieces::default(),
            open_files: AtomicUsize::new(0),
            context_bytes: AtomicUsize::new(0),
            direct_gate: RwLock::new(()),
            hand: AtomicUsize::new(0),
            promoted: AtomicU64::new(0),
            refusals: Mutex::default(),
            _lock: lock,
        }
    }

    pub(super) fn block_size(&self) -> usize {
        self.geometry.block_size() as usize
    }

    pub(super) fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_dirty(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An extent, to look at.
    pub(super) fn look(
        &self,
        extent: ExtentId,
    ) -> Result<RwLockReadGuard<'_, Extent>, CrucibleError> {
        let extent = self.cell(extent)?;
        Ok(extent.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An extent, to change.
    pub(super) fn hold(
        &self,
        extent: ExtentId,
    ) -> Result<RwLockWriteGuard<'_, Extent>, CrucibleError> {
        let extent = self.cell(extent)?;
        Ok(extent.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn cell(&self, extent: ExtentId) -> Result<&RwLock<Extent>, CrucibleError> {
        self.extents
            .get(extent.0 as usize)
            .ok_or(CrucibleError::InvalidExtent)
    }

    pub(super) fn require_writable(&self) -> Result<(), CrucibleError> {
        match self.mode {
            Mode::ReadWrite => Ok(()),
            Mode::ReadOnly => Err(CrucibleError::ModifyingReadOnlyRegion),
        }
    }

    /// Opens the file of an extent if it is not open.
    pub(super) fn ensure_file(&self, extent: &mut Extent) -> std::io::Result<()> {
        if extent.file.is_none() {
            let access = match self.mode {
                Mode::ReadWrite => Access::Write,
                Mode::ReadOnly => Access::Read,
            };
            let path = names::extent_path(extent.id);
            extent.file = Some(self.disk.open(&path, access)?);
            self.open_files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes file, bitmap and contexts of these blocks ready.
    pub(super) fn ensure(
        &self,
        extent: &mut Extent,
        first: u32,
        count: u32,
    ) -> std::io::Result<()> {
        self.ensure_file(extent)?;
        let before = extent.contexts.bytes();
        let loaded = extent.load(first, count, &self.layout);
        let grown = extent.contexts.bytes() - before;
        self.context_bytes.fetch_add(grown, Ordering::Relaxed);
        loaded
    }

    /// Lets go of what is in memory of an extent and can be read again.
    pub(super) fn release(&self, extent: &mut Extent) {
        if extent.file.take().is_some() {
            self.open_files.fetch_sub(1, Ordering::Relaxed);
        }
        let freed = extent.contexts.clear();
        self.context_bytes.fetch_sub(freed, Ordering::Relaxed);
        if !extent.pinned {
            extent.active = None;
        }
    }

    /// Keeps open files and contexts within their limits. Called without any extent held; extents that somebody else
    /// holds are left alone.
    pub(super) fn trim(&self) {
        let over = || {
            self.open_files.load(Ordering::Relaxed) > self.options.open_files.max(1)
                || self.context_bytes.load(Ordering::Relaxed) > self.options.context_bytes
        };
        for _ in 0..self.extents.len() {
            if !over() {
                return;
            }
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % self.extents.len().max(1);
            let Some(cell) = self.extents.get(at) else {
                return;
            };
            if let Ok(mut extent) = cell.try_write() {
                self.release(&mut extent);
            }
        }
    }

    /// Looks at all extents in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = ExtentId> + use<> {
        (0..self.geometry.extent_count()).map(ExtentId)
    }
}
