//! Extents of the old format, with a database beside the data file: they become extents of the new one.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod store_world;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crucible_downstairs::disk::{Disk, FileDisk};
use crucible_downstairs::store::{ExtentFile, Mode, StoreError};
use crucible_protocol::context::hash;
use crucible_protocol::{CrucibleError, ExtentId, ExtentState, ReadBlockContext};
use rusqlite::Connection;
use store_world::{Scratch, Shape, block, context, create, open, read, try_open, version_of};

const SHAPE: Shape = Shape {
    block_size: 512,
    blocks: 8,
    extents: 3,
    encrypted: true,
};

/// Writes an extent in the old format: these blocks in these versions, and a context of an older version for each.
fn old_extent(directory: &Path, extent: u32, versions: &[(u32, u64)], dirty: bool) {
    let data = directory.join(format!("{extent:03X}"));
    let mut content = vec![0; 512 * 8];
    let database = Connection::open(directory.join(format!("{extent:03X}.db"))).unwrap();
    database
        .execute_batch(
            "CREATE TABLE metadata (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
             CREATE TABLE block_context (block INTEGER, hash INTEGER NOT NULL, nonce BLOB, tag BLOB,
                 on_disk_hash INTEGER NOT NULL, PRIMARY KEY (block, on_disk_hash)) WITHOUT ROWID;",
        )
        .unwrap();
    for (name, value) in [
        ("ext_version", 1),
        ("gen_number", 6),
        ("flush_number", 11),
        ("dirty", i64::from(dirty)),
    ] {
        database
            .execute("INSERT INTO metadata VALUES (?1, ?2)", (name, value))
            .unwrap();
    }
    for (at, version) in versions {
        for version in [version + 100, *version] {
            let index = u64::from(extent) * 8 + u64::from(*at);
            let bytes = block(SHAPE, index, version);
            let context = context(SHAPE, index, version, &bytes);
            let encryption = context.encryption.unwrap();
            content[*at as usize * 512..(*at as usize + 1) * 512].copy_from_slice(&bytes);
            database
                .execute(
                    "INSERT INTO block_context VALUES (?1, ?2, ?3, ?4, ?5)",
                    (
                        at,
                        context.hash.cast_signed(),
                        encryption.nonce,
                        encryption.tag,
                        hash(&bytes).cast_signed(),
                    ),
                )
                .unwrap();
        }
    }
    fs::write(data, content).unwrap();
}

fn region() -> (Scratch, Arc<dyn Disk>, std::path::PathBuf) {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, SHAPE);
    let directory = scratch.0.join("00/000");
    (scratch, disk, directory)
}

#[test]
fn an_extent_of_the_old_format_is_migrated_with_all_that_it_says() {
    let (_scratch, disk, directory) = region();
    old_extent(&directory, 1, &[(0, 3), (5, 4)], false);
    let refused = try_open(&disk, Mode::ReadOnly).unwrap_err();
    assert!(matches!(&refused, StoreError::ReadOnly(reason) if reason.contains("old format")));
    let region = open(&disk);
    let state = ExtentState {
        generation: 6,
        flush: 11,
        dirty: false,
    };
    assert_eq!(region.extent_state(ExtentId(1)), Ok(state));
    for index in 8..16 {
        let expected = match index {
            8 => 3,
            13 => 4,
            _ => 0,
        };
        assert_eq!(
            version_of(SHAPE, index, &read(&region, index).unwrap(), 5),
            expected
        );
    }
    assert_eq!(region.verify(1, &|_, _| {}).unwrap().bad_count, 0);
    assert_eq!(region.extent_files(ExtentId(1)).unwrap(), ["001"]);
    assert!(!directory.join("001.db").exists());
    drop(region);
    assert!(try_open(&disk, Mode::ReadOnly).is_ok());
}

#[test]
fn a_migration_that_was_broken_off_is_done_again() {
    let (_scratch, disk, directory) = region();
    old_extent(&directory, 2, &[(1, 3)], true);
    // The file has its new length already, with half of what belongs there.
    let path = directory.join("002");
    let mut content = fs::read(&path).unwrap();
    content.resize(512 * 8 + 96 * 8 + 1 + 32, 0xff);
    fs::write(&path, content).unwrap();
    let region = open(&disk);
    assert_eq!(version_of(SHAPE, 17, &read(&region, 17).unwrap(), 5), 3);
    assert_eq!(read(&region, 18).unwrap().0, ReadBlockContext::Empty);
    assert!(region.extent_state(ExtentId(2)).unwrap().dirty);
}

#[test]
fn a_torn_block_of_the_old_format_is_damaged_and_the_others_are_not() {
    let (_scratch, disk, directory) = region();
    old_extent(&directory, 0, &[(1, 3), (2, 3)], true);
    let path = directory.join("000");
    let mut content = fs::read(&path).unwrap();
    content[512 + 5] ^= 1;
    fs::write(&path, content).unwrap();
    let region = open(&disk);
    assert_eq!(region.damaged_blocks(ExtentId(0)).unwrap(), [1]);
    assert!(matches!(
        read(&region, 1),
        Err(CrucibleError::MissingContextSlot { .. })
    ));
    assert_eq!(version_of(SHAPE, 2, &read(&region, 2).unwrap(), 5), 3);
}

#[test]
fn a_database_that_is_none_is_refused_with_its_name() {
    let (_scratch, disk, directory) = region();
    fs::write(
        directory.join("001.db"),
        b"this is not a database at all, but long enough",
    )
    .unwrap();
    let error = try_open(&disk, Mode::ReadWrite).unwrap_err().to_string();
    assert!(error.contains("001.db"), "{error}");
}

#[test]
fn a_replacement_of_the_old_format_arrives_in_the_new_one() {
    let (_scratch, disk, _) = region();
    let elsewhere = Scratch::new();
    old_extent(&elsewhere.0, 1, &[(7, 9)], false);
    let region = Arc::new(open(&disk));
    region.close(ExtentId(1)).unwrap();
    let mut replacement = region.begin_replacement(ExtentId(1)).unwrap();
    for (file, name) in [(ExtentFile::Data, "001"), (ExtentFile::Db, "001.db")] {
        replacement
            .write(file, &fs::read(elsewhere.0.join(name)).unwrap())
            .unwrap();
    }
    replacement.finish().unwrap();
    region.reopen(ExtentId(1)).unwrap();
    assert_eq!(version_of(SHAPE, 15, &read(&region, 15).unwrap(), 9), 9);
    assert_eq!(region.extent_files(ExtentId(1)).unwrap(), ["001"]);
}
