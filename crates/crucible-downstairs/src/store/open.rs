//! Opening a region: what a crash broke off is finished, then every extent is looked at once.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crucible_protocol::ExtentId;
use crucible_protocol::layout::names::{self, EntryKind};
use crucible_protocol::layout::{ExtentMetadata, METADATA_LEN};

use super::create::{self, make_extents};
use super::extent::{Extent, read_metadata, write_tail};
use super::inner::Inner;
use super::journal::{JOURNAL_FILE, Journal};
use super::region::{Mode, Options};
use super::{StoreError, legacy, promoted, recover, replace};
use crate::disk::{Access, Disk};

/// Extents that are recovered at the same time.
const THREADS_MAX: usize = 8;

pub(super) fn open(disk: Arc<dyn Disk>, mode: Mode, options: Options) -> Result<Inner, StoreError> {
    let (definition, geometry) = create::read_definition(&*disk)?;
    let lock = match mode {
        Mode::ReadWrite => Some(create::lock(&*disk)?),
        Mode::ReadOnly => None,
    };
    let mut inner = Inner::new(disk, definition, geometry, mode, options, lock);
    clear_up(&inner)?;
    replay(&mut inner)?;
    inner.promoted = promoted::load(&*inner.disk)?.into();
    let mut dirty = BTreeSet::new();
    for id in inner.ids() {
        let metadata = metadata(&inner, id)?;
        if metadata.state.dirty {
            dirty.insert(id.0);
        }
        inner.extents.push(RwLock::new(Extent::new(id, metadata)));
    }
    recover_all(&inner, &dirty)?;
    *inner.lock_dirty() = dirty;
    inner.trim();
    Ok(inner)
}

/// Left-overs of replacements, extents of the old format, and extents that are not there.
fn clear_up(inner: &Inner) -> Result<(), StoreError> {
    let disk = &*inner.disk;
    let mut missing = Vec::new();
    let mut directory = String::new();
    let mut present: BTreeSet<(u32, EntryKind)> = BTreeSet::new();
    for id in inner.ids() {
        let here = names::extent_directory(id);
        if here != directory {
            directory = here;
            present = list(disk, &directory)?;
        }
        let number = id.0;
        let has = |kind| present.contains(&(number, kind));
        if [EntryKind::Copy, EntryKind::Replace, EntryKind::Completed]
            .into_iter()
            .any(has)
        {
            replace::recover(disk, id, inner.mode, &inner.geometry)?;
        }
        let mut data = has(EntryKind::Data);
        if !data && has(EntryKind::Replace) {
            data = create::kind(disk, &names::extent_path(id))?.is_some();
        }
        let database = names::extent_directory(id) + "/" + &EntryKind::Database.name(id);
        if has(EntryKind::Database) && create::kind(disk, &database)?.is_some() {
            legacy::migrate(disk, id, inner.mode, &inner.geometry)?;
        } else if inner.mode == Mode::ReadWrite {
            // What is left of a migration whose last step broke off.
            for kind in [EntryKind::DatabaseLog, EntryKind::DatabaseShared] {
                if has(kind) && data {
                    let path = names::extent_directory(id) + "/" + &kind.name(id);
                    replace::remove_if_there(disk, &path)?;
                }
            }
        }
        if !data {
            missing.push(id);
        }
    }
    finish_creation(inner, &missing)
}

fn list(disk: &dyn Disk, directory: &str) -> Result<BTreeSet<(u32, EntryKind)>, StoreError> {
    if create::kind(disk, directory)?.is_none() {
        return Ok(BTreeSet::new());
    }
    let entries = disk.list(directory).map_err(StoreError::io(directory))?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| names::parse_path(&format!("{directory}/{}", entry.name)))
        .map(|(id, kind)| (id.0, kind))
        .collect())
}

/// The reference writes region.json before the extents. When the last ones are missing and nothing was ever written
/// to the others, its creation broke off and can be finished.
fn finish_creation(inner: &Inner, missing: &[ExtentId]) -> Result<(), StoreError> {
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let count = inner.geometry.extent_count();
    let refused = |reason: &str| StoreError::Extent {
        extent: *first,
        reason: format!("its file is missing{reason}"),
    };
    if missing.len() as u64 != u64::from(count - first.0) {
        return Err(refused(""));
    }
    for id in (0..first.0).map(ExtentId) {
        if metadata(inner, id)? != ExtentMetadata::default() {
            return Err(refused(", and others have been written to"));
        }
    }
    if inner.mode == Mode::ReadOnly {
        return Err(refused(
            ": the region was not made to its end; open it read-write once to finish it",
        ));
    }
    make_extents(
        &*inner.disk,
        &inner.geometry,
        first.0..count,
        &mut |_, _| {},
    )
}

fn metadata(inner: &Inner, extent: ExtentId) -> Result<ExtentMetadata, StoreError> {
    let path = names::extent_path(extent);
    let file = inner
        .disk
        .open(&path, Access::Read)
        .map_err(StoreError::io(path))?;
    read_metadata(&*file, &inner.layout).map_err(|error| error.of_extent(extent))
}

/// Brings what the journal has into its place.
fn replay(inner: &mut Inner) -> Result<(), StoreError> {
    let disk = Arc::clone(&inner.disk);
    if create::kind(&*disk, JOURNAL_FILE)?.is_none() {
        return Ok(());
    }
    let failed = || StoreError::io(JOURNAL_FILE);
    let block_size = inner.geometry.block_size();
    if inner.mode == Mode::ReadOnly {
        return match Journal::peek(&*disk, block_size).map_err(failed())? {
            Some((_, sections)) => check_in_place(inner, sections),
            None => Ok(()),
        };
    }
    let (mut journal, sections) =
        Journal::open(&*disk, inner.journal_capacity(), block_size).map_err(failed())?;
    for (id, plan) in recover::plan(sections) {
        if id.0 >= inner.geometry.extent_count() {
            return Err(StoreError::Journal(format!(
                "it speaks of extent {id}, which does not exist"
            )));
        }
        let path = names::extent_path(id);
        let failed = || StoreError::io(path.clone());
        let file = disk.open(&path, Access::Write).map_err(failed())?;
        let found = read_metadata(&*file, &inner.layout).map_err(|error| error.of_extent(id))?;
        if plan.is_overtaken(&found.encode(), &inner.layout) {
            continue;
        }
        plan.redo(&*file, &journal, &inner.geometry, found)
            .map_err(failed())?;
        file.sync_data().map_err(failed())?;
    }
    // Also when there were no records: one that was torn must not be completed by a later one of its number.
    journal.start_over().map_err(failed())?;
    inner.lock_log().journal = Some(journal);
    Ok(())
}

/// A region that is not to be changed can only be used when its journal has nothing to say.
fn check_in_place(inner: &Inner, sections: Vec<super::journal::Section>) -> Result<(), StoreError> {
    for (id, plan) in recover::plan(sections) {
        let path = names::extent_path(id);
        let failed = || StoreError::io(path.clone());
        let file = inner.disk.open(&path, Access::Read).map_err(failed())?;
        let found = read_metadata(&*file, &inner.layout).map_err(|error| error.of_extent(id))?;
        let bytes: [u8; METADATA_LEN] = found.encode();
        if plan.is_overtaken(&bytes, &inner.layout) {
            continue;
        }
        let whole = plan
            .is_in_place(&*file, &inner.geometry, &found)
            .map_err(failed())?;
        if !whole {
            return Err(StoreError::Unfinished(String::from(
                "its journal has writes that a crash kept from their place",
            )));
        }
    }
    Ok(())
}

/// Finds the contexts of all dirty extents, several at a time.
fn recover_all(inner: &Inner, dirty: &BTreeSet<u32>) -> Result<(), StoreError> {
    let ids: Vec<u32> = dirty.iter().copied().collect();
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = recover_extent(inner, ExtentId(*id)) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(THREADS_MAX).min(ids.len());
    if threads <= 1 || !inner.options.background {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn recover_extent(inner: &Inner, id: ExtentId) -> Result<(), StoreError> {
    let mut extent = inner.hold(id).map_err(|error| StoreError::Extent {
        extent: id,
        reason: error.to_string(),
    })?;
    load_dirty(inner, &mut extent).map_err(StoreError::io(names::extent_path(id)))?;
    if inner.mode == Mode::ReadWrite {
        inner.release(&mut extent);
    }
    Ok(())
}

/// Finds the contexts of an extent whose file is marked dirty; read-write, the file is made to say what was found,
/// durably, so that it can be built upon.
pub(super) fn load_dirty(inner: &Inner, extent: &mut Extent) -> std::io::Result<()> {
    inner.ensure_file(extent)?;
    let found = recover::recover_dirty(extent, &inner.geometry, &inner.layout)?;
    extent.damaged = found.damaged;
    match inner.mode {
        Mode::ReadOnly => {
            extent.blank = found.blank;
            extent.pinned = true;
            extent.active = Some(found.active);
        }
        Mode::ReadWrite => {
            let file = extent.file()?;
            let zeros = vec![0; inner.block_size()];
            for block in &found.blank {
                if let Some(place) = inner.layout.data(*block, 1) {
                    file.write_at(&[IoSlice::new(&zeros)], place.start)?;
                }
            }
            write_tail(&**file, &found.active, &extent.metadata, &inner.layout)?;
            file.sync_data()?;
            extent.active = Some(found.active);
            extent.marked = true;
        }
    }
    Ok(())
}
