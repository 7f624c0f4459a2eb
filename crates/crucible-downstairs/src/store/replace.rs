//! Files of an extent from elsewhere (spec: repair 6.2, 6.3).
//!
//! ```text
//! CCC.copy/      what is being fetched; worthless after a crash
//! CCC.replace/   fetched and durable: from here on the replacement happens, now or when the region is opened
//! CCC.completed/ done; only to be removed
//! ```
//!
//! The file is renamed into its place, not copied. When a crash comes right after that, `CCC.replace` is without
//! `CCC`, which [`recover`] takes for what it is; the reference would refuse to open such an extent, but not damage it.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

use crucible_protocol::layout::ExtentLayout;
use crucible_protocol::layout::names::{self, EntryKind};
use crucible_protocol::{CrucibleError, ExtentId, Geometry};

use super::create::{kind, make_directory, sync_directory};
use super::extent::read_metadata;
use super::region::Mode;
use super::{Region, StoreError, legacy};
use crate::disk::{Access, Disk, DiskFile, NodeKind};

/// Which file of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtentFile {
    /// `CCC`.
    Data,
    /// `CCC.db`, of the old format.
    Db,
    /// `CCC.db-shm`.
    DbShm,
    /// `CCC.db-wal`.
    DbWal,
}

impl ExtentFile {
    /// All, data file first.
    pub const ALL: [Self; 4] = [Self::Data, Self::Db, Self::DbShm, Self::DbWal];

    /// Which name it has.
    pub const fn entry_kind(self) -> EntryKind {
        match self {
            Self::Data => EntryKind::Data,
            Self::Db => EntryKind::Database,
            Self::DbShm => EntryKind::DatabaseShared,
            Self::DbWal => EntryKind::DatabaseLog,
        }
    }

    /// The path of this file of an extent, from the region directory.
    pub fn path(self, extent: ExtentId) -> String {
        beside(extent, self.entry_kind())
    }
}

/// A replacement that is going on; dropped before [`Replacement::finish`], it leaves the extent as it was.
#[derive(Debug)]
pub struct Replacement {
    region: Arc<Region>,
    extent: ExtentId,
    files: Vec<(ExtentFile, Arc<dyn DiskFile>, u64)>,
    /// The copies are where the next opening would find them: nothing is to be removed any more.
    settled: bool,
}

impl Replacement {
    pub(super) fn begin(region: Arc<Region>, extent: ExtentId) -> Result<Self, CrucibleError> {
        let inner = region.inner();
        inner.require_writable()?;
        if !inner.look(extent)?.closed {
            return Err(CrucibleError::RepairRequestError(format!(
                "extent {extent} is not closed"
            )));
        }
        let disk = &*inner.disk;
        let copy = beside(extent, EntryKind::Copy);
        for entry in [EntryKind::Copy, EntryKind::Replace] {
            if kind(disk, &beside(extent, entry))?.is_some() {
                return Err(CrucibleError::RepairRequestError(format!(
                    "a replacement of extent {extent} is going on already"
                )));
            }
        }
        disk.create_directory(&copy).map_err(StoreError::io(copy))?;
        Ok(Self {
            region,
            extent,
            files: Vec::new(),
            settled: false,
        })
    }

    /// Appends to a file; the first chunk (it may be empty) makes it.
    pub fn write(&mut self, file: ExtentFile, chunk: &[u8]) -> Result<(), CrucibleError> {
        let inner = self.region.inner();
        // Data files have one length; a database is never longer than the data it describes.
        let limit = inner.layout.file_len().saturating_add(1 << 20);
        let path = format!(
            "{}/{}",
            beside(self.extent, EntryKind::Copy),
            file.entry_kind().name(self.extent)
        );
        let index = match self.files.iter().position(|(known, _, _)| *known == file) {
            Some(index) => index,
            None => {
                let opened = inner
                    .disk
                    .open(&path, Access::Create)
                    .map_err(StoreError::io(path.clone()))?;
                self.files.push((file, opened, 0));
                self.files.len() - 1
            }
        };
        let Some((_, file, length)) = self.files.get_mut(index) else {
            return Err(CrucibleError::InvalidExtent);
        };
        if length.saturating_add(chunk.len() as u64) > limit {
            return Err(CrucibleError::RepairFilesInvalid(format!(
                "{path} is longer than {limit} bytes"
            )));
        }
        file.write_at(&[IoSlice::new(chunk)], *length)
            .map_err(StoreError::io(path))?;
        *length += chunk.len() as u64;
        Ok(())
    }

    /// Checks what came and puts it in place, durably. The extent stays closed. `RepairFilesInvalid` for files that are
    /// no extent, and for one that has a block which is not what its context says; `vet` has the rules. `IoError` when
    /// the disk here has failed.
    pub fn finish(mut self) -> Result<(), CrucibleError> {
        let region = Arc::clone(&self.region);
        let inner = region.inner();
        let disk = &*inner.disk;
        let extent = self.extent;
        let copy = beside(extent, EntryKind::Copy);
        let came: Vec<ExtentFile> = {
            let mut came: Vec<_> = self.files.iter().map(|(file, _, _)| *file).collect();
            came.sort_unstable();
            came
        };
        let known = [
            &[ExtentFile::Data][..],
            &[ExtentFile::Data, ExtentFile::Db],
            &ExtentFile::ALL,
        ];
        if !known.contains(&came.as_slice()) {
            return Err(CrucibleError::RepairFilesInvalid(format!("{came:?}")));
        }
        for (file, opened, _) in &self.files {
            opened
                .sync_all()
                .map_err(StoreError::io(file.path(extent)))?;
        }
        self.files.clear();
        if came.len() > 1 {
            legacy::migrate_in(disk, extent, &copy, &inner.geometry)?;
        }
        let path = format!("{copy}/{}", EntryKind::Data.name(extent));
        let file = disk
            .open(&path, Access::Read)
            .map_err(StoreError::io(path.clone()))?;
        inner.vet(extent, file)?;
        sync_directory(disk, &copy)?;
        // Nobody writes to the file that is about to go: the extent is closed and settled, and stays so meanwhile.
        let held = inner.hold(extent)?;
        if !held.closed {
            return Err(CrucibleError::RepairRequestError(format!(
                "extent {extent} was opened again"
            )));
        }
        let replace = beside(extent, EntryKind::Replace);
        disk.rename(&copy, &replace)
            .map_err(StoreError::io(replace))?;
        self.settled = true;
        sync_directory(disk, &names::extent_directory(extent))?;
        complete(disk, extent, &inner.geometry)?;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.settled {
            self.files.clear();
            let disk = &*self.region.inner().disk;
            // What cannot be removed now is removed when the region is opened.
            let _ = remove_tree(disk, &beside(self.extent, EntryKind::Copy));
        }
    }
}

/// Finishes or clears away what a replacement left behind.
pub(super) fn recover(
    disk: &dyn Disk,
    extent: ExtentId,
    mode: Mode,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    let replace = beside(extent, EntryKind::Replace);
    if mode == Mode::ReadOnly {
        let waiting = format!("{replace}/{}", EntryKind::Data.name(extent));
        return match kind(disk, &waiting)? {
            None => Ok(()),
            Some(_) => Err(StoreError::Unfinished(format!(
                "a replacement of extent {extent} was broken off"
            ))),
        };
    }
    for entry in [EntryKind::Copy, EntryKind::Completed] {
        remove_tree(disk, &beside(extent, entry))?;
    }
    if kind(disk, &replace)?.is_some() {
        complete(disk, extent, geometry)?;
    }
    Ok(())
}

/// From `CCC.replace` to the end; may be done again from any point.
fn complete(disk: &dyn Disk, extent: ExtentId, geometry: &Geometry) -> Result<(), StoreError> {
    let directory = names::extent_directory(extent);
    let replace = beside(extent, EntryKind::Replace);
    let database = format!("{replace}/{}", EntryKind::Database.name(extent));
    if kind(disk, &database)?.is_some() {
        // Left by somebody who knows the old format.
        legacy::migrate_in(disk, extent, &replace, geometry)?;
    }
    let source = format!("{replace}/{}", EntryKind::Data.name(extent));
    let target = names::extent_path(extent);
    if kind(disk, &source)?.is_some() {
        let failed = || StoreError::io(source.clone());
        let file = disk.open(&source, Access::Write).map_err(failed())?;
        read_metadata(&*file, &ExtentLayout::new(geometry))
            .map_err(|error| error.of_extent(extent))?;
        file.sync_all().map_err(failed())?;
        drop(file);
        disk.rename(&source, &target).map_err(failed())?;
        sync_directory(disk, &replace)?;
        sync_directory(disk, &directory)?;
    }
    for file in [ExtentFile::Db, ExtentFile::DbShm, ExtentFile::DbWal] {
        remove_if_there(disk, &file.path(extent))?;
    }
    sync_directory(disk, &directory)?;
    let completed = beside(extent, EntryKind::Completed);
    remove_tree(disk, &completed)?;
    disk.rename(&replace, &completed)
        .map_err(StoreError::io(replace))?;
    sync_directory(disk, &directory)?;
    remove_tree(disk, &completed)?;
    sync_directory(disk, &directory)
}

pub(super) fn beside(extent: ExtentId, entry: EntryKind) -> String {
    format!("{}/{}", names::extent_directory(extent), entry.name(extent))
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory with what is in it, if it is there.
pub(super) fn remove_tree(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match kind(disk, path)? {
        None => return Ok(()),
        Some(NodeKind::File | NodeKind::Other) => return remove_if_there(disk, path),
        Some(NodeKind::Directory) => {}
    }
    for entry in disk.list(path).map_err(StoreError::io(path))? {
        let below = format!("{path}/{}", entry.name);
        if entry.kind == NodeKind::Directory {
            remove_tree(disk, &below)?;
        } else {
            remove_if_there(disk, &below)?;
        }
    }
    disk.remove_directory(path).map_err(StoreError::io(path))
}

/// Makes a directory below the region, with those above it.
pub(super) fn make_tree(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    for (at, _) in path.match_indices('/') {
        make_directory(disk, &path[..at])?;
    }
    make_directory(disk, path)
}
