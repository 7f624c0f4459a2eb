//! Making and enlarging regions, so that what is half made is never taken for whole.
//!
//! While a region is made, its definition stands in a file that is not region.json; that one gets its name when all
//! extents are durable. Who finds the first without the second can go on where it broke off.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use crucible_protocol::layout::{
    EXTENT_VERSION, ExtentLayout, ExtentMetadata, decode_region, encode_region, names,
};
use crucible_protocol::{ExtentId, Geometry, RegionDefinition};

use super::StoreError;
use super::region::Progress;
use crate::disk::{Access, Disk, DiskFile, NodeKind};

/// Stands in for region.json until the region is whole.
pub(super) const UNFINISHED_FILE: &str = "trivet.creating";
/// The next region.json, until it is renamed.
const NEXT_FILE: &str = "trivet.region.json";

/// Up to so many extents, each is synced by itself; beyond, the whole file system is.
const SYNC_EACH_MAX: u32 = 32;

const _: () = assert!(EXTENT_VERSION == 2);

pub(super) fn create(
    disk: &dyn Disk,
    definition: &RegionDefinition,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let geometry = definition.geometry()?;
    if geometry.extent_count() == 0 {
        return Err(StoreError::Invalid(String::from(
            "a region needs at least one extent",
        )));
    }
    make_directory(disk, "")?;
    if kind(disk, names::REGION_FILE)?.is_some() {
        return Err(StoreError::Exists(String::from(names::REGION_FILE)));
    }
    if kind(disk, UNFINISHED_FILE)?.is_some() {
        // An unfinished definition that was never synced may be empty: then nothing was made after it.
        let found = read_small(disk, UNFINISHED_FILE)?;
        match decode_region(&found) {
            Ok(found) if found == *definition => {}
            Ok(found) => {
                return Err(StoreError::Incomplete(format!(
                    "region {} of {} extents was begun here with other sizes; remove the directory or \
                     create that one",
                    found.uuid, found.extent_count
                )));
            }
            Err(_) => write_synced(disk, UNFINISHED_FILE, encode_region(definition).as_bytes())?,
        }
    } else {
        let parts = disk
            .list("")
            .map_err(StoreError::io("the region directory"))?;
        let strange = parts
            .iter()
            .find(|part| part.kind == NodeKind::Directory && part.name.len() == 2);
        if let Some(strange) = strange {
            return Err(StoreError::Incomplete(format!(
                "there is a directory {} but no {}",
                strange.name,
                names::REGION_FILE
            )));
        }
        write_synced(disk, UNFINISHED_FILE, encode_region(definition).as_bytes())?;
    }
    make_extents(disk, &geometry, 0..geometry.extent_count(), progress)?;
    rename_synced(disk, UNFINISHED_FILE, names::REGION_FILE)
}

/// Adds extents to a region that nobody has open.
pub(super) fn extend(
    disk: &dyn Disk,
    extent_count: u32,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let (definition, _) = read_definition(disk)?;
    let _lock = lock(disk)?;
    enlarge(disk, definition.extent_count, extent_count, progress)?;
    Ok(())
}

/// The same for who has the region.
pub(super) fn enlarge(
    disk: &dyn Disk,
    first: u32,
    extent_count: u32,
    progress: Progress<'_>,
) -> Result<RegionDefinition, StoreError> {
    let (mut definition, _) = read_definition(disk)?;
    if extent_count < first || definition.extent_count != first {
        return Err(StoreError::Invalid(format!(
            "the region has {} extents and cannot shrink to {extent_count}",
            definition.extent_count
        )));
    }
    definition.extent_count = extent_count;
    let geometry = definition.geometry()?;
    make_extents(disk, &geometry, first..extent_count, progress)?;
    write_synced(disk, NEXT_FILE, encode_region(&definition).as_bytes())?;
    rename_synced(disk, NEXT_FILE, names::REGION_FILE)?;
    Ok(definition)
}

/// Makes fresh extent files, durable with their names. What is there under these names is cut down first.
pub(super) fn make_extents(
    disk: &dyn Disk,
    geometry: &Geometry,
    extents: std::ops::Range<u32>,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let layout = ExtentLayout::new(geometry);
    let all = u64::from(extents.end - extents.start);
    let each = all <= u64::from(SYNC_EACH_MAX);
    let mut directories: Vec<String> = Vec::new();
    for extent in extents.clone() {
        let directory = names::extent_directory(ExtentId(extent));
        if directories.last() != Some(&directory) {
            if let Some((above, _)) = directory.split_once('/') {
                make_directory(disk, above)?;
            }
            make_directory(disk, &directory)?;
            directories.push(directory);
        }
        let path = names::extent_path(ExtentId(extent));
        let failed = || StoreError::io(path.clone());
        let file = disk.open(&path, Access::CreateOrOpen).map_err(failed())?;
        fresh(&*file, &layout).map_err(failed())?;
        if each {
            file.sync_all().map_err(failed())?;
        }
        progress(u64::from(extent - extents.start) + 1, all);
    }
    if !each && !disk.sync_all().map_err(StoreError::io("the file system"))? {
        for extent in extents {
            let path = names::extent_path(ExtentId(extent));
            let failed = || StoreError::io(path.clone());
            let file = disk.open(&path, Access::Write).map_err(failed())?;
            file.sync_all().map_err(failed())?;
        }
    }
    for directory in &directories {
        sync_directory(disk, directory)?;
        if let Some((above, _)) = directory.split_once('/') {
            sync_directory(disk, above)?;
        }
    }
    sync_directory(disk, "")
}

fn fresh(file: &dyn DiskFile, layout: &ExtentLayout) -> io::Result<()> {
    if file.length()? != 0 {
        file.set_length(0)?;
    }
    file.set_length(layout.file_len())?;
    let metadata = ExtentMetadata::default().encode();
    file.write_at(&[IoSlice::new(&metadata)], layout.metadata().start)
}

/// Reads region.json, or says what is there instead.
pub(super) fn read_definition(disk: &dyn Disk) -> Result<(RegionDefinition, Geometry), StoreError> {
    if kind(disk, names::REGION_FILE)?.is_none() {
        return Err(if kind(disk, UNFINISHED_FILE)?.is_some() {
            StoreError::Incomplete(String::from(
                "its creation broke off; create it again with the same options to finish it",
            ))
        } else {
            StoreError::Missing(format!("there is no {}", names::REGION_FILE))
        });
    }
    let bytes = read_small(disk, names::REGION_FILE)?;
    let definition =
        decode_region(&bytes).map_err(|error| StoreError::Definition(error.to_string()))?;
    let geometry = definition.geometry()?;
    if geometry.extent_count() == 0 {
        return Err(StoreError::Incomplete(String::from(
            "region.json says that there are no extents; remove the directory and create it again",
        )));
    }
    Ok((definition, geometry))
}

/// Takes the region for this process.
pub(super) fn lock(disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, StoreError> {
    let failed = || StoreError::io(names::REGION_FILE);
    let file = disk
        .open(names::REGION_FILE, Access::Write)
        .map_err(failed())?;
    match file.lock() {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(StoreError::InUse),
        Err(error) => Err(failed()(error)),
    }
}

pub(super) fn kind(disk: &dyn Disk, path: &str) -> Result<Option<NodeKind>, StoreError> {
    disk.kind(path).map_err(StoreError::io(path))
}

pub(super) fn sync_directory(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    disk.sync_directory(path)
        .map_err(StoreError::io(if path.is_empty() { "." } else { path }))
}

pub(super) fn make_directory(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match disk.create_directory(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StoreError::io(
            if path.is_empty() { "." } else { path },
        )(error)),
        _ => Ok(()),
    }
}

/// The content of a file that cannot be long.
pub(super) fn read_small(disk: &dyn Disk, path: &str) -> Result<Vec<u8>, StoreError> {
    const MAX: u64 = 1 << 20;
    let failed = || StoreError::io(path);
    let file = disk.open(path, Access::Read).map_err(failed())?;
    let length = file.length().map_err(failed())?;
    if length > MAX {
        return Err(StoreError::Definition(format!("{path} has {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(failed())?;
    Ok(bytes)
}

/// Writes a whole file, durable with its name.
pub(super) fn write_synced(disk: &dyn Disk, path: &str, content: &[u8]) -> Result<(), StoreError> {
    let failed = || StoreError::io(path);
    let file = disk.open(path, Access::CreateOrOpen).map_err(failed())?;
    file.set_length(0).map_err(failed())?;
    file.write_at(&[IoSlice::new(content)], 0)
        .map_err(failed())?;
    file.sync_all().map_err(failed())?;
    sync_directory(disk, "")
}

/// Renames a file in the region directory, durably.
pub(super) fn rename_synced(disk: &dyn Disk, from: &str, to: &str) -> Result<(), StoreError> {
    disk.rename(from, to).map_err(StoreError::io(to))?;
    sync_directory(disk, "")
}
