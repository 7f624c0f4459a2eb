//! Extents of the old format, whose contexts are in a database beside the data file (spec: disk 5.7).
//!
//! They are rewritten in the new format when a region is opened read-write; the database is removed after that. What
//! a crash leaves is the database and a data file of one length or the other, from which it starts again.

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

#[cfg(not(feature = "sqlite"))]
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
            "it has the old format (a database beside it), and this program was built without `sqlite`",
        ),
    })
}

#[cfg(feature = "sqlite")]
pub(super) use database::migrate_in;

#[cfg(feature = "sqlite")]
mod database {
    use std::collections::BTreeSet;
    use std::io::IoSlice;

    use crucible_protocol::context::{NONCE_LEN, TAG_LEN, hash};
    use crucible_protocol::layout::names::EntryKind;
    use crucible_protocol::layout::{
        ActiveSlots, ExtentLayout, ExtentMetadata, SLOT_LEN, Slot, StoredContext,
    };
    use crucible_protocol::{BlockContext, EncryptionContext, ExtentId, ExtentState, Geometry};
    use rusqlite::{Connection, OptionalExtension, Row};

    use super::super::StoreError;
    use super::super::create::sync_directory;
    use super::super::extent::write_tail;
    use super::super::replace::remove_if_there;
    use crate::disk::{Access, Disk, DiskFile};

    /// The version that the database says.
    const OLD_VERSION: u64 = 1;

    /// The same for files in another directory.
    pub(crate) fn migrate_in(
        disk: &dyn Disk,
        extent: ExtentId,
        directory: &str,
        geometry: &Geometry,
    ) -> Result<(), StoreError> {
        let layout = ExtentLayout::new(geometry);
        let path = |kind: EntryKind| format!("{directory}/{}", kind.name(extent));
        let refused = |reason: String| StoreError::Extent { extent, reason };
        let Some(root) = disk.host_path() else {
            return Err(refused(String::from(
                "it has the old format, and its database is not in a file system",
            )));
        };
        let failed =
            |error: rusqlite::Error| refused(format!("{}: {error}", path(EntryKind::Database)));
        let data = path(EntryKind::Data);
        let io = || StoreError::io(data.clone());
        let file = disk.open(&data, Access::Write).map_err(io())?;
        let length = file.length().map_err(io())?;
        if length < layout.data_len() {
            return Err(refused(format!(
                "it has the old format and {length} bytes of data where {} are expected",
                layout.data_len()
            )));
        }
        let connection = Connection::open(root.join(path(EntryKind::Database))).map_err(failed)?;
        let metadata = read_metadata(&connection).map_err(failed)?;
        if metadata.version != OLD_VERSION {
            return Err(refused(format!(
                "its database has version {}: only {OLD_VERSION} is known",
                metadata.version
            )));
        }
        let (slots, torn) =
            contexts(&connection, &*file, &layout, geometry).map_err(|error| match error {
                Failure::Database(error) => failed(error),
                Failure::File(error) => io()(error),
                Failure::Content(reason) => refused(reason),
            })?;
        drop(connection);
        file.set_length(layout.data_len()).map_err(io())?;
        file.set_length(layout.file_len()).map_err(io())?;
        let place = layout
            .slots(Slot::A, 0, layout.blocks())
            .unwrap_or_default();
        file.write_at(&[IoSlice::new(slots.as_flattened())], place.start)
            .map_err(io())?;
        let active = ActiveSlots::new(layout.blocks());
        let mut metadata = ExtentMetadata {
            state: metadata.state,
            ..ExtentMetadata::default()
        };
        // What is torn is found again when the dirty extent is opened.
        metadata.state.dirty |= !torn.is_empty();
        write_tail(&*file, &active, &metadata, &layout).map_err(io())?;
        file.sync_all().map_err(io())?;
        // From here on it is an extent of the new format.
        remove_if_there(disk, &path(EntryKind::Database))?;
        sync_directory(disk, directory)?;
        remove_if_there(disk, &path(EntryKind::DatabaseLog))?;
        remove_if_there(disk, &path(EntryKind::DatabaseShared))
    }

    enum Failure {
        Database(rusqlite::Error),
        File(std::io::Error),
        Content(String),
    }

    struct OldMetadata {
        version: u64,
        state: ExtentState,
    }

    fn read_metadata(connection: &Connection) -> rusqlite::Result<OldMetadata> {
        let value = |name: &str| {
            connection.query_row(
                "SELECT value FROM metadata WHERE name = ?1",
                [name],
                |row| unsigned(row, 0),
            )
        };
        let dirty = connection
            .query_row(
                "SELECT value FROM metadata WHERE name = 'dirty'",
                [],
                |row| unsigned(row, 0),
            )
            .optional()?;
        Ok(OldMetadata {
            version: value("ext_version")?,
            state: ExtentState {
                generation: value("gen_number")?,
                flush: value("flush_number")?,
                dirty: dirty.unwrap_or(0) != 0,
            },
        })
    }

    /// Of all contexts that the database has for a block, the one whose hash is that of the block; and the blocks that
    /// fit none.
    fn contexts(
        connection: &Connection,
        file: &dyn DiskFile,
        layout: &ExtentLayout,
        geometry: &Geometry,
    ) -> Result<(Vec<[u8; SLOT_LEN]>, BTreeSet<u32>), Failure> {
        let mut slots = vec![[0; SLOT_LEN]; layout.blocks() as usize];
        let mut block = vec![0; geometry.block_size() as usize];
        let mut loaded = None;
        let mut on_disk = 0;
        let mut torn = BTreeSet::new();
        let mut statement = connection
            .prepare(
                "SELECT block, hash, nonce, tag, on_disk_hash FROM block_context ORDER BY block",
            )
            .map_err(Failure::Database)?;
        let mut rows = statement.query([]).map_err(Failure::Database)?;
        while let Some(row) = rows.next().map_err(Failure::Database)? {
            let (index, stored) = context(row).map_err(Failure::Database)?;
            let place = u32::try_from(index)
                .ok()
                .and_then(|index| Some((index, layout.data(index, 1)?.start)));
            let Some((index, at)) = place else {
                return Err(Failure::Content(format!(
                    "its database speaks of block {index}, which it does not have"
                )));
            };
            let first = loaded != Some(index);
            if first {
                file.read_at(&mut block, at).map_err(Failure::File)?;
                on_disk = hash(&block);
                loaded = Some(index);
            }
            if let Some(slot) = slots.get_mut(index as usize) {
                // One that fits, or at least one, so that the block does not pass for unwritten.
                let fits = stored.on_disk_hash == on_disk;
                if fits || *slot == [0; SLOT_LEN] {
                    *slot = StoredContext::encode(Some(&stored));
                }
                if fits {
                    torn.remove(&index);
                } else if first {
                    torn.insert(index);
                }
            }
        }
        Ok((slots, torn))
    }

    fn context(row: &Row<'_>) -> rusqlite::Result<(u64, StoredContext)> {
        let nonce: Option<Vec<u8>> = row.get(2)?;
        let tag: Option<Vec<u8>> = row.get(3)?;
        let encryption = nonce.zip(tag).and_then(|(nonce, tag)| {
            Some(EncryptionContext {
                nonce: <[u8; NONCE_LEN]>::try_from(nonce).ok()?,
                tag: <[u8; TAG_LEN]>::try_from(tag).ok()?,
            })
        });
        let stored = StoredContext {
            context: BlockContext {
                hash: unsigned(row, 1)?,
                encryption,
            },
            on_disk_hash: unsigned(row, 4)?,
            flush_id: 0,
        };
        Ok((unsigned(row, 0)?, stored))
    }

    /// Numbers of 64 bits are stored as signed ones.
    fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
        Ok(row.get::<_, i64>(column)?.cast_unsigned())
    }
}
