//! Disk operations that fail: each is reported, nothing that was flushed is lost, and when the disk is well again so
//! is the region.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod store_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crucible_downstairs::disk::{Choice, CrashDisk, Disk, Fault, FaultyDisk};
use crucible_downstairs::store::{Mode, Options, Region, StoreError};
use crucible_protocol::{CrucibleError, ExtentId};
use store_world::{Draw, Model, Shape, create, options, read, version_of, write};

const SHAPE: Shape = Shape {
    block_size: 512,
    blocks: 5,
    extents: 3,
    encrypted: true,
};

fn narrow() -> Options {
    Options {
        pending_bytes: 6 * SHAPE.block_size as usize,
        direct_bytes: SHAPE.block_size as usize,
        open_files: 2,
        context_bytes: 0,
        ..options()
    }
}

/// Some writes and flushes; what is answered with an error is tried again when the disk is well.
fn history(seed: u64, fault: Fault, skip: u64, count: u64) -> (u64, u64) {
    let image = CrashDisk::new();
    create(&(Arc::new(image.clone()) as Arc<dyn Disk>), SHAPE);
    let faulty = Arc::new(FaultyDisk::new(Arc::new(image.clone())));
    let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
    let region = Region::open(disk, Mode::ReadWrite, narrow()).unwrap();
    let before = faulty.operations();
    faulty.fail(fault, skip, count);
    let mut draw = Draw(seed);
    let mut model = Model::default();
    let mut errors = 0;
    let mut flush = 0;
    for _ in 0..30 {
        match draw.below(8) {
            0..=4 => {
                let start = draw.below(SHAPE.all());
                let blocks = 1 + draw.below((SHAPE.all() - start).min(4));
                let version = model.newest + 1;
                model.write(start, blocks, version);
                while write(&region, SHAPE, start, blocks, version).is_err() {
                    errors += 1;
                    assert!(errors < 200, "seed {seed}: it fails for ever");
                    // What failed may be there in part.
                    check(&region, &model, start..start + blocks, "while it fails");
                }
            }
            5 | 6 => {
                flush += 1;
                while region.flush(flush, 1, None).is_err() {
                    errors += 1;
                    assert!(errors < 200, "seed {seed}: it fails for ever");
                    check(&region, &model, 0..0, "while it runs");
                }
                model.flush(|_| true);
                // What was answered holds over a crash, whatever failed before it.
                let crashed: Arc<dyn Disk> = Arc::new(image.crash(Choice::Seeded(draw.next())));
                let after = Region::open(crashed, Mode::ReadWrite, narrow()).unwrap();
                check(&after, &model, 0..0, "after a crash");
            }
            _ => {
                let extent = ExtentId(draw.below(3) as u32);
                flush += 1;
                while region.flush_and_close(extent, flush, 1).is_err() {
                    errors += 1;
                    assert!(errors < 200, "seed {seed}: it fails for ever");
                }
                model.flush(|index| index / SHAPE.blocks == u64::from(extent.0));
                while region.reopen(extent).is_err() {
                    errors += 1;
                    assert!(errors < 200, "seed {seed}: it fails for ever");
                }
            }
        }
        check(&region, &model, 0..0, "while it runs");
    }
    let operations = faulty.operations() - before;
    faulty.heal();
    region.flush(flush + 1, 1, None).unwrap();
    assert!(region.extent_states().iter().all(|state| !state.dirty));
    assert_eq!(region.verify(1, &|_, _| {}).unwrap().bad_count, 0);
    (operations, errors)
}

/// Reads may fail, but never lie.
fn check(region: &Region, model: &Model, except: std::ops::Range<u64>, when: &str) {
    for index in 0..SHAPE.all() {
        if except.contains(&index) {
            continue;
        }
        if let Ok(found) = read(region, index) {
            let version = version_of(SHAPE, index, &found, model.newest);
            assert_eq!(version, model.now(index), "{when}: block {index}");
        }
    }
}

#[test]
fn every_operation_may_fail_once_and_nothing_that_was_answered_is_lost() {
    let (operations, none) = history(1, Fault::Io, u64::MAX, 0);
    assert_eq!(none, 0);
    let mut errors = 0;
    for skip in (0..operations).step_by(29) {
        errors += history(1, Fault::Io, skip, 1).1;
        errors += history(1, Fault::NoSpace, skip, 3).1;
    }
    assert!(errors > 0);
}

/// Set `TRIVET_SLOW` to run it. Prints a table.
#[test]
fn slow_every_operation_of_many_histories_fails() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        return;
    }
    println!("seed operations errors");
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= 20 {
                return;
            }
            let (operations, _) = history(seed, Fault::Io, u64::MAX, 0);
            let mut errors = 0;
            for skip in 0..operations {
                errors += history(seed, Fault::Io, skip, 1 + seed % 5).1;
                errors += history(seed, Fault::NoSpace, skip, 1 + seed % 9).1;
            }
            println!("{seed:>4} {operations:>10} {errors:>6}");
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
}

#[test]
fn an_extent_whose_opening_fails_is_opened_by_the_next_job_that_needs_it() {
    let image = CrashDisk::new();
    create(&(Arc::new(image.clone()) as Arc<dyn Disk>), SHAPE);
    let faulty = Arc::new(FaultyDisk::new(Arc::new(image)));
    let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
    let region = Region::open(disk, Mode::ReadWrite, options()).unwrap();
    write(&region, SHAPE, 0, 5, 1).unwrap();
    let close = || {
        region.flush_and_close(ExtentId(0), 1, 1).unwrap();
        faulty.fail(Fault::Io, 0, 2);
        assert!(region.reopen(ExtentId(0)).is_err());
    };

    close();
    let error = read(&region, 2).unwrap_err();
    assert!(matches!(error, CrucibleError::IoError(_)), "{error:?}");
    assert_eq!(version_of(SHAPE, 2, &read(&region, 2).unwrap(), 1), 1);
    assert_eq!(region.is_closed(ExtentId(0)), Ok(false));

    close();
    assert!(write(&region, SHAPE, 3, 1, 2).is_err());
    write(&region, SHAPE, 3, 1, 2).unwrap();
    assert_eq!(version_of(SHAPE, 3, &read(&region, 3).unwrap(), 2), 2);
}

#[test]
fn what_a_failed_sync_has_dropped_is_an_error_until_it_is_written_again() {
    let image = CrashDisk::new();
    create(&(Arc::new(image.clone()) as Arc<dyn Disk>), SHAPE);
    let faulty = Arc::new(FaultyDisk::new(Arc::new(image.clone())));
    let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
    let region = Region::open(disk, Mode::ReadWrite, options()).unwrap();
    write(&region, SHAPE, 0, 1, 1).unwrap();
    // The first block waits, so these go to their place.
    write(&region, SHAPE, 1, 4, 2).unwrap();
    // Everything before the sync only reads.
    let failed = (0..8).find_map(|skip| {
        faulty.fail(Fault::Io, skip, 1);
        let error = region.flush(1, 1, None).err()?.to_string();
        error.contains("sync of an extent").then_some(error)
    });
    assert!(failed.is_some());
    faulty.heal();
    assert!(image.rot("00/000/000", 3 * SHAPE.block_size, 1));

    region.flush(1, 1, None).unwrap();

    for index in [0, 1, 2, 4] {
        let version = version_of(SHAPE, index, &read(&region, index).unwrap(), 2);
        assert_eq!(version, if index == 0 { 1 } else { 2 });
    }
    assert!(read(&region, 3).is_err());
    assert!(region.extent_state(ExtentId(0)).unwrap().dirty);
    write(&region, SHAPE, 3, 1, 3).unwrap();
    region.flush(2, 1, None).unwrap();
    assert!(!region.extent_state(ExtentId(0)).unwrap().dirty);
    assert_eq!(region.verify(1, &|_, _| {}).unwrap().bad_count, 0);
}

#[test]
fn a_creation_that_fails_can_be_done_again() {
    for skip in 0..60 {
        let faulty = Arc::new(FaultyDisk::new(Arc::new(CrashDisk::new())));
        let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
        faulty.fail(Fault::NoSpace, skip, 1);
        let first = Region::create(&disk, &SHAPE.definition(), &mut |_, _| {});
        if first.is_err() {
            // The very last sync may be what failed: then it is there.
            let second = Region::create(&disk, &SHAPE.definition(), &mut |_, _| {});
            assert!(
                matches!(second, Ok(()) | Err(StoreError::Exists(_))),
                "{second:?}"
            );
        }
        let region = store_world::open(&disk);
        assert_eq!(region.extent_states().len(), 3);
    }
}

#[test]
fn a_crash_at_any_point_of_a_creation_leaves_a_region_none_or_one_that_can_be_finished() {
    let whole = CrashDisk::new();
    create(&(Arc::new(whole.clone()) as Arc<dyn Disk>), SHAPE);
    let mut draw = Draw(3);
    for until in 0..=whole.operations() {
        for _ in 0..4 {
            let image = CrashDisk::new();
            image.power_until(Some(until));
            let disk: Arc<dyn Disk> = Arc::new(image.clone());
            let done = Region::create(&disk, &SHAPE.definition(), &mut |_, _| {}).is_ok();
            let after: Arc<dyn Disk> = Arc::new(image.crash(Choice::Seeded(draw.next())));
            let opened = store_world::try_open(&after, Mode::ReadWrite).is_ok();
            assert!(opened || !done, "a region that was made is not there");
            if !opened {
                create(&after, SHAPE);
            }
            let region = store_world::open(&after);
            assert_eq!(region.verify(1, &|_, _| {}).unwrap().written, 0);
        }
    }
}
