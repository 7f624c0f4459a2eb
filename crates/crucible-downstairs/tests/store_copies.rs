//! Extents that are replaced by copies from another region: which are taken, which are refused, and what a crash leaves.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod store_world;

use std::sync::Arc;

use crucible_downstairs::disk::{CrashDisk, Disk, Fault, FaultyDisk};
use crucible_downstairs::store::{ExtentFile, Region};
use crucible_protocol::layout::{ExtentLayout, Slot};
use crucible_protocol::{CrucibleError, ExtentId, ExtentState};
use store_world::{Draw, SMALL, Shape, create, open, read, version_of, write};

const SEALED: Shape = Shape {
    block_size: 4096,
    blocks: 6,
    extents: 3,
    encrypted: true,
};

/// The file of extent 0.
const FIRST: &str = "00/000/000";

/// A byte in the middle of the last block of an extent.
const BLOCK_5: u64 = 5 * 4096 + 999;

fn fresh(shape: Shape) -> (CrashDisk, Region) {
    let image = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(image.clone());
    create(&disk, shape);
    let region = open(&disk);
    (image, region)
}

/// A region whose extent 0 is closed, in version 1, and the one that is its source, in version 5.
struct World {
    there: CrashDisk,
    source: Region,
    here: CrashDisk,
    region: Arc<Region>,
}

impl World {
    fn new() -> Self {
        let (there, source) = fresh(SEALED);
        write(&source, SEALED, 0, 6, 5).unwrap();
        let (here, region) = fresh(SEALED);
        let region = Arc::new(region);
        write(&region, SEALED, 0, 6, 1).unwrap();
        region.flush_and_close(ExtentId(0), 3, 4).unwrap();
        Self {
            there,
            source,
            here,
            region,
        }
    }

    /// The source has found after a restart that block 5 is bad; no flush makes its extent clean.
    fn damaged_at_source() -> Self {
        let mut world = Self::new();
        world.source.flush(9, 4, None).unwrap();
        write(&world.source, SEALED, 0, 1, 5).unwrap();
        world.source.settle().unwrap();
        world.rot_block(5);
        drop(world.source);
        let disk: Arc<dyn Disk> = Arc::new(world.there.clone());
        world.source = open(&disk);
        let state = world.source.flush_and_close(ExtentId(0), 10, 4).unwrap();
        assert!(state.dirty);
        assert_eq!(world.source.damaged_blocks(ExtentId(0)), Ok(vec![5]));
        world
    }

    fn rot_block(&self, block: u64) {
        assert!(self.there.rot(FIRST, block * 4096 + 4095, 128));
    }

    fn assert_refused(&self, block: u64) {
        if self.region.is_closed(ExtentId(0)) == Ok(false) {
            self.region.close(ExtentId(0)).unwrap();
        }
        let refused = replace(&self.source, &self.region, ExtentId(0));
        let name = format!("block {block} of extent 0");
        assert!(
            matches!(&refused, Err(CrucibleError::RepairFilesInvalid(text)) if text.contains(&name)),
            "{refused:?}"
        );
    }

    fn version(&self, index: u64) -> Result<u64, CrucibleError> {
        Ok(version_of(SEALED, index, &read(&self.region, index)?, 5))
    }
}

/// Copies a closed extent of one region over that of another, as a repair does.
fn replace(from: &Region, to: &Arc<Region>, extent: ExtentId) -> Result<(), CrucibleError> {
    let file = from.open_extent_file(extent, ExtentFile::Data)?;
    let mut content = vec![0; file.length().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    let mut replacement = to.begin_replacement(extent)?;
    for chunk in content.chunks(1000) {
        replacement.write(ExtentFile::Data, chunk)?;
    }
    replacement.finish()
}

#[test]
fn a_replaced_extent_is_that_of_the_other_region_at_once_and_after_a_crash() {
    let (_disk, source) = fresh(SEALED);
    write(&source, SEALED, 6, 6, 5).unwrap();
    source.flush_and_close(ExtentId(1), 9, 4).unwrap();
    let image = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(image.clone());
    create(&disk, SEALED);
    let region = Arc::new(open(&disk));
    write(&region, SEALED, 0, 18, 1).unwrap();
    region.flush(20, 3, None).unwrap();
    write(&region, SEALED, 7, 1, 2).unwrap();
    region.close(ExtentId(1)).unwrap();
    replace(&source, &region, ExtentId(1)).unwrap();
    assert_eq!(region.is_closed(ExtentId(1)), Ok(true));
    region.reopen(ExtentId(1)).unwrap();
    let state = ExtentState {
        generation: 4,
        flush: 9,
        dirty: false,
    };
    let check = |region: &Region| {
        assert_eq!(region.extent_state(ExtentId(1)), Ok(state));
        for index in 0..18 {
            let expected = if (6..12).contains(&index) { 5 } else { 1 };
            assert_eq!(
                version_of(SEALED, index, &read(region, index).unwrap(), 5),
                expected
            );
        }
    };
    check(&region);
    let crashed: Arc<dyn Disk> = Arc::new(image.crash(crucible_downstairs::disk::Choice::Nothing));
    check(&open(&crashed));
    let names: Vec<String> = crashed
        .list("00/000")
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["000", "001", "002"]);
}

#[test]
fn a_clean_copy_with_a_bad_block_is_refused() {
    let world = World::new();
    world.source.flush_and_close(ExtentId(0), 9, 4).unwrap();
    world.rot_block(5);
    for _ in 0..9 {
        world.assert_refused(5);
    }
    world.region.reopen(ExtentId(0)).unwrap();
    assert_eq!(world.version(5), Ok(1));
}

#[test]
fn a_copy_with_a_bad_nonce_is_refused_whether_clean_or_dirty() {
    for is_dirty in [false, true] {
        let world = if is_dirty {
            World::damaged_at_source()
        } else {
            let world = World::new();
            world.source.flush_and_close(ExtentId(0), 9, 4).unwrap();
            world
        };
        let layout = ExtentLayout::new(&world.region.geometry());
        // Behind the hash, wherever the block's context is.
        for slot in [Slot::A, Slot::B] {
            let place = layout.slots(slot, 3, 1).unwrap();
            world.there.rot(FIRST, place.start + 15, 1);
        }
        world.assert_refused(3);
        world.region.reopen(ExtentId(0)).unwrap();
        assert_eq!(world.version(3), Ok(1));
    }
}

#[test]
fn a_dirty_copy_with_a_bad_block_is_refused_as_long_as_somebody_may_have_a_better_one() {
    let world = World::damaged_at_source();
    // Whoever believes that a source is bad after two refusals asks another one meanwhile.
    for _ in 0..3 {
        world.assert_refused(5);
        world.region.reopen(ExtentId(0)).unwrap();
        assert_eq!(world.version(5), Ok(1));
        world.region.close(ExtentId(0)).unwrap();
    }
    // Who offers it once more has nobody else: the repair is not to begin anew for ever.
    replace(&world.source, &world.region, ExtentId(0)).unwrap();
    world.region.reopen(ExtentId(0)).unwrap();
    assert_eq!(world.region.damaged_blocks(ExtentId(0)), Ok(vec![5]));
    assert!(world.region.extent_state(ExtentId(0)).unwrap().dirty);
    assert_eq!(world.version(4), Ok(5));
}

#[test]
fn a_better_source_ends_the_count_of_refusals() {
    let world = World::damaged_at_source();
    world.assert_refused(5);
    world.assert_refused(5);
    let (_disk, better) = fresh(SEALED);
    write(&better, SEALED, 0, 6, 5).unwrap();
    better.flush_and_close(ExtentId(0), 9, 4).unwrap();
    replace(&better, &world.region, ExtentId(0)).unwrap();
    for _ in 0..3 {
        world.assert_refused(5);
    }
    world.region.reopen(ExtentId(0)).unwrap();
    assert_eq!(world.version(5), Ok(5));
}

#[test]
fn a_bad_block_of_a_dirty_copy_is_taken_where_nothing_is_better() {
    let world = World::damaged_at_source();
    // Never written here.
    let (_disk, empty) = fresh(SEALED);
    let empty = Arc::new(empty);
    write(&empty, SEALED, 0, 5, 1).unwrap();
    empty.flush_and_close(ExtentId(0), 3, 4).unwrap();
    replace(&world.source, &empty, ExtentId(0)).unwrap();
    empty.reopen(ExtentId(0)).unwrap();
    assert_eq!(empty.damaged_blocks(ExtentId(0)), Ok(vec![5]));

    // Bad here, too.
    assert!(world.here.rot(FIRST, BLOCK_5, 1));
    replace(&world.source, &world.region, ExtentId(0)).unwrap();
    world.region.reopen(ExtentId(0)).unwrap();
    assert_eq!(world.region.damaged_blocks(ExtentId(0)), Ok(vec![5]));
    assert_eq!(world.version(4), Ok(5));
}

#[test]
fn a_copy_that_the_disk_here_cannot_read_is_not_the_source_s_fault() {
    let image = CrashDisk::new();
    create(&(Arc::new(image.clone()) as Arc<dyn Disk>), SEALED);
    let faulty = Arc::new(FaultyDisk::new(Arc::new(image)));
    let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
    let region = Arc::new(open(&disk));
    write(&region, SEALED, 0, 6, 1).unwrap();
    region.flush_and_close(ExtentId(0), 3, 4).unwrap();
    for world in [World::damaged_at_source(), {
        let world = World::new();
        world.source.flush_and_close(ExtentId(0), 9, 4).unwrap();
        world
    }] {
        let before = faulty.operations();
        let whole = replace(&world.source, &region, ExtentId(0));
        let operations = faulty.operations() - before;
        assert!(operations > 20);
        for skip in 0..operations {
            faulty.fail(Fault::Io, skip, 1);
            let failed = replace(&world.source, &region, ExtentId(0));
            faulty.heal();
            let is_as_before = failed == whole || whole.is_err() && failed == Ok(());
            assert!(
                is_as_before || matches!(failed, Err(CrucibleError::IoError(_))),
                "operation {skip}: {failed:?}"
            );
            region.reopen(ExtentId(0)).unwrap();
            region.close(ExtentId(0)).unwrap();
        }
    }
}

#[test]
fn whatever_rots_in_the_source_no_block_that_is_good_here_is_lost_to_it() {
    let mut draw = Draw(11);
    for _ in 0..300 {
        let world = World::damaged_at_source();
        let length = ExtentLayout::new(&world.region.geometry()).file_len();
        for _ in 0..draw.below(3) {
            // Not what says that the extent is dirty, of which there is nothing to check it by.
            let at = draw.below(length - 32);
            world.there.rot(FIRST, at, 1 << draw.below(8));
        }
        let refused = replace(&world.source, &world.region, ExtentId(0));
        assert!(matches!(refused, Err(CrucibleError::RepairFilesInvalid(_))));
        world.region.reopen(ExtentId(0)).unwrap();
        for index in 0..6 {
            assert_eq!(world.version(index), Ok(1));
        }
    }
}

#[test]
fn a_replacement_that_is_given_up_or_bad_leaves_the_extent_as_it_was() {
    let (_disk, region) = fresh(SMALL);
    let region = Arc::new(region);
    write(&region, SMALL, 0, 8, 1).unwrap();
    region.flush_and_close(ExtentId(0), 1, 1).unwrap();
    let mut given_up = region.begin_replacement(ExtentId(0)).unwrap();
    given_up.write(ExtentFile::Data, &[1; 100]).unwrap();
    assert!(
        region.begin_replacement(ExtentId(0)).is_err(),
        "one is going on"
    );
    drop(given_up);
    let mut short = region.begin_replacement(ExtentId(0)).unwrap();
    short.write(ExtentFile::Data, &[1; 100]).unwrap();
    assert!(matches!(
        short.finish(),
        Err(CrucibleError::RepairFilesInvalid(_))
    ));
    let mut long = region.begin_replacement(ExtentId(0)).unwrap();
    let endless = vec![0; 1 << 20];
    assert!((0..4).any(|_| long.write(ExtentFile::Data, &endless).is_err()));
    drop(long);
    let none = region.begin_replacement(ExtentId(0)).unwrap();
    assert!(none.finish().is_err());
    region.reopen(ExtentId(0)).unwrap();
    assert_eq!(version_of(SMALL, 3, &read(&region, 3).unwrap(), 1), 1);
}
