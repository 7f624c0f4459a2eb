//! Extents of the old format, whose contexts are in a database beside the data file (spec: disk 5.7).

use crucible_protocol::layout::names;
use crucible_protocol::{ExtentId, Geometry};

use super::StoreError;
use super::region::Mode;
use crate::disk::Disk;

/// Turns an extent of the old format into one of the new.
pub(super) fn migrate(
    disk: &dyn Disk,
    extent: ExtentId,
    mode: Mode,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    if mode == Mode::ReadOnly {
        return Err(StoreError::ReadOnly(format!(
            "extent {extent} has the old format (a database beside it); open it read-write once to migrate it"
        )));
    }
    migrate_in(disk, extent, &names::extent_directory(extent), geometry)
}

/// The same for files in another directory.
pub(super) fn migrate_in(
    _disk: &dyn Disk,
    extent: ExtentId,
    _directory: &str,
    _geometry: &Geometry,
) -> Result<(), StoreError> {
    Err(StoreError::Extent {
        extent,
        reason: String::from(
            "it has the old format (a database beside it), which this program was built without",
        ),
    })
}
