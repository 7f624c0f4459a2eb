//! What a region does on an ordinary day, and what it answers when it is asked for the impossible.

mod store_world;

use std::sync::Arc;

use bytes::BytesMut;
use crucible_downstairs::disk::{Access, CrashDisk, Disk, FileDisk};
use crucible_downstairs::store::{
    ExtentFile, Mode, Options, Overwrite, Region, SNAPSHOTS, StoreError, WriteJob, snapshots,
};
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, ExtentId, ExtentState, ReadBlockContext,
};
use store_world::{
    SMALL, Scratch, Shape, append, block, blocks, create, open, options, read, try_open,
    version_of, write,
};

const SEALED: Shape = Shape {
    block_size: 4096,
    blocks: 6,
    extents: 3,
    encrypted: true,
};

fn image() -> Arc<dyn Disk> {
    Arc::new(CrashDisk::new())
}

fn fresh(shape: Shape) -> (Arc<dyn Disk>, Region) {
    let disk = image();
    create(&disk, shape);
    let region = open(&disk);
    (disk, region)
}

fn state(generation: u64, flush: u64, dirty: bool) -> ExtentState {
    ExtentState {
        generation,
        flush,
        dirty,
    }
}

#[test]
fn what_is_written_is_read_before_and_after_flush_close_and_restart() {
    for shape in [SMALL, SEALED] {
        let (disk, region) = fresh(shape);
        write(&region, shape, 4, 9, 1).unwrap();
        write(&region, shape, 5, 2, 2).unwrap();
        let check = |region: &Region| {
            for index in 0..shape.all() {
                let expected = match index {
                    5 | 6 => 2,
                    4..13 => 1,
                    _ => 0,
                };
                let found = read(region, index).unwrap();
                assert_eq!(version_of(shape, index, &found, 2), expected);
            }
        };
        check(&region);
        region.flush(1, 1, None).unwrap();
        check(&region);
        region.flush_and_close(ExtentId(1), 2, 1).unwrap();
        region.reopen(ExtentId(1)).unwrap();
        check(&region);
        drop(region);
        check(&open(&disk));
    }
}

#[test]
fn a_read_of_many_blocks_gives_them_in_order_over_extents() {
    let (_disk, region) = fresh(SEALED);
    write(&region, SEALED, 3, 10, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    write(&region, SEALED, 6, 1, 2).unwrap();
    let (mut data, mut contexts) = (
        BytesMut::from(&b"before"[..]),
        vec![ReadBlockContext::Empty],
    );
    region
        .read(BlockIndex(2), 12, &mut data, &mut contexts)
        .unwrap();
    assert_eq!((data.len(), contexts.len()), (6 + 12 * 4096, 13));
    for (at, index) in (2..14).enumerate() {
        let part = data[6 + at * 4096..6 + (at + 1) * 4096].to_vec();
        let expected = match index {
            2 | 13 => 0,
            6 => 2,
            _ => 1,
        };
        let found = (contexts[1 + at], part);
        assert_eq!(version_of(SEALED, index, &found, 2), expected);
    }
}

#[test]
fn a_wrong_hash_is_refused_and_nothing_of_the_job_is_applied() {
    for shape in [SMALL, SEALED] {
        let (_disk, region) = fresh(shape);
        let (contexts, mut data) = blocks(shape, 0, shape.all(), 1);
        *data.last_mut().unwrap() ^= 1;
        let result = region.write(BlockIndex(0), &contexts, &data, Overwrite::All);
        assert_eq!(result, Err(CrucibleError::HashMismatch));
        for index in 0..shape.all() {
            assert_eq!(read(&region, index).unwrap().0, ReadBlockContext::Empty);
        }
        assert!(region.extent_states().iter().all(|state| !state.dirty));
    }
}

#[test]
fn a_batch_is_applied_in_order_and_each_job_has_its_own_result() {
    let (_disk, region) = fresh(SMALL);
    let (first, first_data) = blocks(SMALL, 0, 3, 1);
    let (second, second_data) = blocks(SMALL, 1, 1, 2);
    let job = |start, contexts, data| WriteJob {
        start: BlockIndex(start),
        contexts,
        data,
        overwrite: Overwrite::All,
    };
    let jobs = [
        job(0, &first, &first_data),
        job(1, &first[..1], &second_data),
        job(1, &second, &second_data),
        job(31, &second, &second_data[..511]),
        job(32, &second, &second_data),
        job(0, &[], &[]),
    ];
    let mut results = Vec::new();
    region.write_batch(&jobs, &mut results);
    assert_eq!(
        results,
        [
            Ok(()),
            Err(CrucibleError::HashMismatch),
            Ok(()),
            Err(CrucibleError::DataLenUnaligned),
            Err(CrucibleError::OffsetInvalid),
            Ok(()),
        ]
    );
    for (index, expected) in [(0, 1), (1, 2), (2, 1)] {
        assert_eq!(
            version_of(SMALL, index, &read(&region, index).unwrap(), 2),
            expected
        );
    }
}

#[test]
fn only_unwritten_blocks_are_written_when_that_is_asked_for() {
    let (_disk, region) = fresh(SEALED);
    write(&region, SEALED, 1, 1, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    write(&region, SEALED, 2, 1, 1).unwrap();
    let (contexts, data) = blocks(SEALED, 0, 12, 2);
    region
        .write(BlockIndex(0), &contexts, &data, Overwrite::OnlyUnwritten)
        .unwrap();
    region
        .write(BlockIndex(0), &contexts, &data, Overwrite::OnlyUnwritten)
        .unwrap();
    for index in 0..12 {
        let expected = if index == 1 || index == 2 { 1 } else { 2 };
        assert_eq!(
            version_of(SEALED, index, &read(&region, index).unwrap(), 2),
            expected
        );
    }
}

#[test]
fn a_flush_stamps_those_extents_that_were_written_up_to_its_limit() {
    let (_disk, region) = fresh(SMALL);
    write(&region, SMALL, 0, 1, 1).unwrap();
    write(&region, SMALL, 16, 1, 1).unwrap();
    region.flush(5, 3, Some(ExtentId(1))).unwrap();
    assert_eq!(
        region.extent_states(),
        [
            state(3, 5, false),
            state(0, 0, false),
            state(0, 0, true),
            state(0, 0, false)
        ]
    );
    region.flush(6, 3, None).unwrap();
    region.flush(7, 3, None).unwrap();
    assert_eq!(region.extent_state(ExtentId(2)), Ok(state(3, 6, false)));
    assert_eq!(region.extent_state(ExtentId(0)), Ok(state(3, 5, false)));
    assert_eq!(
        region.flush(8, 3, Some(ExtentId(5))),
        Err(CrucibleError::InvalidExtent)
    );
}

#[test]
fn a_flush_that_comes_again_does_not_pass_for_the_last_one() {
    let (_, region) = fresh(SMALL);
    for flush in 1..=3 {
        write(&region, SMALL, 0, 1, flush).unwrap();
        region.flush(flush, 1, None).unwrap();
    }
    // The answers to 2 and 3 were lost: what they followed is sent again.
    write(&region, SMALL, 0, 1, 2).unwrap();
    region.flush(2, 1, None).unwrap();
    assert_eq!(
        region.extent_states()[0],
        state(1, 2, true),
        "newer blocks may be here"
    );
    // Nothing is written before the third flush this time.
    region.flush(3, 1, None).unwrap();
    assert_eq!(region.extent_states()[0], state(1, 3, false));
    region.flush(4, 1, None).unwrap();
    assert_eq!(region.extent_states()[0], state(1, 3, false));
}

#[test]
fn more_than_may_wait_is_committed_without_a_flush_and_stays_dirty() {
    let disk = image();
    create(&disk, SEALED);
    let narrow = Options {
        pending_bytes: 3 * 4096,
        ..options()
    };
    let region = Region::open(Arc::clone(&disk), Mode::ReadWrite, narrow).unwrap();
    for version in 1..20 {
        write(&region, SEALED, version % 9, 2, version).unwrap();
    }
    assert!(region.extent_state(ExtentId(0)).unwrap().dirty);
    region.flush(1, 1, None).unwrap();
    assert_eq!(region.extent_state(ExtentId(0)), Ok(state(1, 1, false)));
    assert_eq!(version_of(SEALED, 1, &read(&region, 1).unwrap(), 20), 19);
    assert_eq!(region.verify(1, &|_, _| {}).unwrap().bad_count, 0);
}

#[test]
fn a_closed_extent_takes_no_jobs_until_it_is_reopened() {
    let (_disk, region) = fresh(SMALL);
    write(&region, SMALL, 8, 1, 1).unwrap();
    assert_eq!(region.close(ExtentId(1)), Ok(state(0, 0, true)));
    assert_eq!(region.close(ExtentId(1)), Ok(state(0, 0, true)));
    assert_eq!(region.is_closed(ExtentId(1)), Ok(true));
    assert!(matches!(
        read(&region, 8),
        Err(CrucibleError::GenericError(_))
    ));
    assert!(matches!(
        write(&region, SMALL, 7, 2, 2),
        Err(CrucibleError::GenericError(_))
    ));
    region.flush(1, 1, None).unwrap();
    region.reopen(ExtentId(1)).unwrap();
    region.reopen(ExtentId(1)).unwrap();
    assert_eq!(region.extent_state(ExtentId(1)), Ok(state(0, 0, true)));
    assert_eq!(version_of(SMALL, 8, &read(&region, 8).unwrap(), 1), 1);
    assert_eq!(
        region.flush_and_close(ExtentId(1), 9, 4),
        Ok(state(4, 9, false))
    );
    region.reopen_all().unwrap();
    assert_eq!(region.is_closed(ExtentId(1)), Ok(false));
}

#[test]
fn what_does_not_exist_is_an_error_and_never_the_end() {
    let (_disk, region) = fresh(SMALL);
    let region = Arc::new(region);
    for extent in [ExtentId(4), ExtentId(u32::MAX)] {
        assert_eq!(
            region.extent_state(extent),
            Err(CrucibleError::InvalidExtent)
        );
        assert_eq!(region.is_closed(extent), Err(CrucibleError::InvalidExtent));
        assert_eq!(region.close(extent), Err(CrucibleError::InvalidExtent));
        assert_eq!(
            region.flush_and_close(extent, 1, 1),
            Err(CrucibleError::InvalidExtent)
        );
        assert_eq!(
            region.flush_extent(extent, 1, 1),
            Err(CrucibleError::InvalidExtent)
        );
        assert_eq!(region.reopen(extent), Err(CrucibleError::InvalidExtent));
        assert_eq!(
            region.extent_files(extent),
            Err(CrucibleError::InvalidExtent)
        );
        assert!(region.open_extent_file(extent, ExtentFile::Data).is_err());
        assert!(region.begin_replacement(extent).is_err());
    }
    let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
    for (start, count) in [
        (32, 1),
        (0, 33),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let result = region.read(BlockIndex(start), count, &mut data, &mut contexts);
        assert_eq!(result, Err(CrucibleError::OffsetInvalid));
    }
    assert!(data.is_empty() && contexts.is_empty());
    assert!(
        region
            .open_extent_file(ExtentId(0), ExtentFile::Db)
            .is_err()
    );
    assert!(region.begin_replacement(ExtentId(0)).is_err(), "it is open");
}

#[test]
fn a_read_only_region_serves_reads_and_changes_nothing() {
    let (disk, region) = fresh(SMALL);
    write(&region, SMALL, 0, 3, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    drop(region);
    let before = disk.list("").unwrap();
    let region = try_open(&disk, Mode::ReadOnly).unwrap();
    assert_eq!(version_of(SMALL, 2, &read(&region, 2).unwrap(), 1), 1);
    assert_eq!(
        write(&region, SMALL, 0, 1, 2),
        Err(CrucibleError::ModifyingReadOnlyRegion)
    );
    assert_eq!(
        region.note_promotion(3),
        Err(CrucibleError::ModifyingReadOnlyRegion)
    );
    assert_eq!(
        region.snapshot("s", &mut |_, _| {}),
        Err(CrucibleError::ModifyingReadOnlyRegion)
    );
    assert_eq!(region.flush(2, 2, None), Ok(()));
    assert_eq!(region.extent_state(ExtentId(0)), Ok(state(1, 1, false)));
    drop(region);
    assert_eq!(disk.list("").unwrap(), before);
}

#[test]
fn few_files_and_contexts_are_enough_for_many_extents() {
    let shape = Shape {
        extents: 40,
        ..SMALL
    };
    let disk = image();
    create(&disk, shape);
    let narrow = Options {
        open_files: 3,
        context_bytes: 1000,
        ..options()
    };
    let region = Region::open(Arc::clone(&disk), Mode::ReadWrite, narrow).unwrap();
    for index in 0..shape.all() {
        write(&region, shape, index, 1, 1).unwrap();
    }
    region.flush(1, 1, None).unwrap();
    for index in (0..shape.all()).rev() {
        assert_eq!(
            version_of(shape, index, &read(&region, index).unwrap(), 1),
            1
        );
    }
}

#[test]
fn a_promotion_is_remembered_and_never_goes_back() {
    let (disk, region) = fresh(SMALL);
    assert_eq!(region.promoted_generation(), 0);
    region.note_promotion(7).unwrap();
    region.note_promotion(4).unwrap();
    assert_eq!(region.promoted_generation(), 7);
    drop(region);
    assert_eq!(open(&disk).promoted_generation(), 7);
}

#[test]
fn a_second_process_is_kept_out() {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, SMALL);
    let region = open(&disk);
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::InUse)
    ));
    assert!(try_open(&disk, Mode::ReadOnly).is_ok());
    drop(region);
    assert!(try_open(&disk, Mode::ReadWrite).is_ok());
}

#[test]
fn a_region_that_is_there_is_not_made_again_and_a_half_made_one_is_told_from_a_whole_one() {
    let disk = image();
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::Missing(_))
    ));
    create(&disk, SMALL);
    let again = Region::create(&disk, &SMALL.definition(), &mut |_, _| {});
    assert!(matches!(again, Err(StoreError::Exists(_))));
    // As a crash in the middle leaves it.
    disk.rename("region.json", "trivet.creating").unwrap();
    disk.remove_file("00/000/003").unwrap();
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::Incomplete(_))
    ));
    let other = Shape {
        extents: 5,
        ..SMALL
    }
    .definition();
    let refused = Region::create(&disk, &other, &mut |_, _| {});
    assert!(matches!(refused, Err(StoreError::Incomplete(_))));
    create(&disk, SMALL);
    assert_eq!(open(&disk).extent_states().len(), 4);
}

#[test]
fn missing_extents_are_made_when_the_creation_broke_off_and_refused_otherwise() {
    // As the reference leaves it when it dies while it creates.
    let (disk, region) = fresh(SMALL);
    drop(region);
    disk.remove_file("00/000/002").unwrap();
    disk.remove_file("00/000/003").unwrap();
    assert!(matches!(
        try_open(&disk, Mode::ReadOnly),
        Err(StoreError::Extent { .. })
    ));
    let region = open(&disk);
    write(&region, SMALL, 31, 1, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    drop(region);
    disk.remove_file("00/000/001").unwrap();
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::Extent { .. })
    ));
    disk.remove_file("00/000/002").unwrap();
    disk.remove_file("00/000/003").unwrap();
    let region = open(&disk);
    write(&region, SMALL, 0, 1, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    drop(region);
    disk.remove_file("00/000/003").unwrap();
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::Extent { .. })
    ));
}

#[test]
fn files_that_are_no_extents_and_no_regions_are_refused_with_a_reason() {
    let (disk, region) = fresh(SMALL);
    drop(region);
    let file = disk.open("00/000/001", Access::Write).unwrap();
    file.set_length(100).unwrap();
    let error = try_open(&disk, Mode::ReadWrite).unwrap_err().to_string();
    assert!(
        error.contains("extent 1") && error.contains("100 bytes"),
        "{error}"
    );
    let json = disk.open("region.json", Access::Write).unwrap();
    json.set_length(20).unwrap();
    assert!(matches!(
        try_open(&disk, Mode::ReadWrite),
        Err(StoreError::Definition(_))
    ));
}

#[test]
fn a_write_is_quick_when_nothing_has_to_be_read_written_or_waited_for() {
    let disk = image();
    create(&disk, SEALED);
    let room = Options {
        pending_bytes: 3 * 4096,
        direct_bytes: usize::MAX,
        ..options()
    };
    let region = Region::open(Arc::clone(&disk), Mode::ReadWrite, room).unwrap();
    let quick = |start, count, version, overwrite| {
        let (contexts, data) = blocks(SEALED, start, count, version);
        let job = WriteJob {
            start: BlockIndex(start),
            contexts: &contexts,
            data: &data,
            overwrite,
        };
        region.write_quick(&job, &mut Vec::new())
    };
    assert_eq!(quick(0, 2, 1, Overwrite::All), Some(Ok(())));
    assert_eq!(version_of(SEALED, 1, &read(&region, 1).unwrap(), 1), 1);
    assert_eq!(quick(2, 1, 1, Overwrite::OnlyUnwritten), None, "reads");
    assert_eq!(quick(2, 2, 1, Overwrite::All), None, "no room");
    region.flush(1, 1, None).unwrap();
    assert_eq!(quick(5, 2, 1, Overwrite::All), None, "two extents");
    region.close(ExtentId(0)).unwrap();
    assert_eq!(quick(2, 1, 1, Overwrite::All), None, "closed");
    assert_eq!(
        quick(18, 1, 1, Overwrite::All),
        Some(Err(CrucibleError::OffsetInvalid))
    );
    let (mut contexts, data) = blocks(SEALED, 6, 1, 1);
    contexts[0].hash ^= 1;
    let wrong = WriteJob {
        start: BlockIndex(6),
        contexts: &contexts,
        data: &data,
        overwrite: Overwrite::All,
    };
    assert_eq!(
        region.write_quick(&wrong, &mut Vec::new()),
        Some(Err(CrucibleError::HashMismatch))
    );
    assert_eq!(read(&region, 6).unwrap().0, ReadBlockContext::Empty);
}

#[test]
fn a_read_is_quick_when_nothing_has_to_be_waited_for_and_answers_the_same() {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, SEALED);
    let region = open(&disk);
    let quick = |start, count| {
        let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
        let done = region.read_quick(BlockIndex(start), count, &mut data, &mut contexts)?;
        Some(done.map(|()| (contexts, data.to_vec())))
    };
    write(&region, SEALED, 0, 2, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    assert_eq!(quick(0, 3), None, "contexts have to be read");
    let first = read(&region, 0).unwrap();
    write(&region, SEALED, 1, 1, 2).unwrap();

    // Where the file system cannot tell what is in memory, nothing is quick; what is, is right.
    if let Some(done) = quick(0, 3) {
        let (contexts, data) = done.unwrap();
        for (index, block) in data.chunks(4096).enumerate() {
            let found = (contexts[index], block.to_vec());
            assert_eq!(found, read(&region, index as u64).unwrap());
        }
        assert_eq!(contexts[0], first.0);
        assert_eq!(contexts[2], ReadBlockContext::Empty);
    }
    assert_eq!(quick(4, 4), None, "two extents");
    assert_eq!(quick(17, 2), None, "past the end");
    region.close(ExtentId(0)).unwrap();
    assert_eq!(quick(0, 1), None, "closed");
}

#[test]
fn zeros_written_to_a_plain_region_are_stored_as_holes_and_stay_written() {
    use std::os::unix::fs::MetadataExt;
    let shape = Shape {
        block_size: 4096,
        blocks: 256,
        extents: 1,
        encrypted: false,
    };
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, shape);
    let region = open(&disk);
    let file = scratch.0.join("00/000/000");
    let used = || 512 * std::fs::metadata(&file).unwrap().blocks();
    write(&region, shape, 0, 128, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    region.settle().unwrap();
    let full = used();
    assert!(full >= 128 * 4096);

    // Over what was written, then where nothing was, with a block of data in front that leads the way past the journal.
    let zeros = vec![0; 64 * 4096];
    let contexts = vec![BlockContext::plain(&zeros[..4096]); 64];
    for start in [32, 160] {
        write(&region, shape, start - 32, 1, 2).unwrap();
        let start = BlockIndex(start);
        region
            .write(start, &contexts, &zeros, Overwrite::All)
            .unwrap();
        region.flush(start.0, 1, None).unwrap();
    }
    region.settle().unwrap();

    let probe = disk.open("00/000/000", Access::Write).unwrap();
    if probe.punch(200 * 4096, 4096).unwrap() {
        // Less what the file system needs to remember the pieces.
        assert!(used() <= full - 56 * 4096, "{} of {full}", used());
    }
    drop(region);
    let region = open(&disk);
    for index in [32, 95, 160, 223] {
        let (context, data) = read(&region, index).unwrap();
        assert_eq!(context, contexts[0].into());
        assert!(data.iter().all(|byte| *byte == 0));
    }
    assert_eq!(version_of(shape, 31, &read(&region, 31).unwrap(), 2), 1);
    let report = region.verify(1, &|_, _| {}).unwrap();
    assert_eq!((report.bad_count, report.written), (0, 128 + 64 + 1));
}

#[test]
fn bit_rot_is_found_by_verify() {
    let image = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(image.clone());
    create(&disk, SEALED);
    let region = open(&disk);
    write(&region, SEALED, 0, 7, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    assert_eq!(region.verify(0, &|_, _| {}).unwrap().written, 7);
    assert!(image.rot("00/000/000", 2 * 4096 + 17, 4));
    assert!(image.rot("00/000/001", 3 * 4096, 1));
    let report = region.verify(3, &|_, _| {}).unwrap();
    assert_eq!((report.blocks, report.bad_count), (18, 2));
    assert_eq!(report.bad, [(ExtentId(0), 2), (ExtentId(1), 3)]);
}

#[test]
fn plain_data_come_in_and_go_out_again() {
    let (disk, mut region) = fresh(SMALL);
    let source: Vec<u8> = (0..512 * 75 + 100).map(|at| (at * 7 % 251) as u8).collect();
    assert_eq!(
        region.import(&mut &source[..], &mut |_, _| {}).unwrap(),
        source.len() as u64
    );
    assert_eq!(region.geometry().extent_count(), 10);
    let check = |region: &Region| {
        let mut all = Vec::new();
        region
            .export(&mut |piece| append(&mut all, piece), 0, 76, &mut |_, _| {})
            .unwrap();
        assert!(all.starts_with(&source));
        assert!(all[source.len()..].iter().all(|byte| *byte == 0));
        let mut part = Vec::new();
        region
            .export(&mut |piece| append(&mut part, piece), 10, 3, &mut |_, _| {})
            .unwrap();
        assert_eq!(part, source[5120..5120 + 3 * 512]);
        assert!(
            region
                .export(&mut |piece| append(&mut part, piece), 80, 1, &mut |_, _| {})
                .is_err()
        );
        assert_eq!(region.extent_state(ExtentId(9)), Ok(state(0, 1, false)));
        assert_eq!(region.verify(0, &|_, _| {}).unwrap().bad_count, 0);
    };
    check(&region);
    drop(region);
    check(&open(&disk));
}

#[test]
fn a_snapshot_is_a_region_of_that_moment() {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, SEALED);
    let region = open(&disk);
    write(&region, SEALED, 0, 10, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    let mut last = (0, 0);
    region
        .snapshot("first", &mut |done, all| last = (done, all))
        .unwrap();
    assert!(last.0 == last.1 && last.0 > 0, "{last:?}");
    region.snapshot("first", &mut |_, _| {}).unwrap();
    write(&region, SEALED, 0, 10, 2).unwrap();
    region.flush(2, 1, None).unwrap();
    let refused = region.snapshot("first", &mut |_, _| {});
    assert!(
        matches!(&refused, Err(CrucibleError::SnapshotFailed(why)) if why.contains("another moment")),
        "{refused:?}"
    );
    region.snapshot("second", &mut |_, _| {}).unwrap();
    for name in ["", ".", "..", "a/b", "-x"] {
        let refused = region.snapshot(name, &mut |_, _| {});
        assert!(
            matches!(refused, Err(CrucibleError::SnapshotFailed(_))),
            "{name}"
        );
    }
    assert_eq!(snapshots(&*disk).unwrap(), ["first", "second"]);
    for (name, version) in [("first", 1), ("second", 2)] {
        let path = scratch.0.join(SNAPSHOTS).join(name);
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(path));
        let region = try_open(&disk, Mode::ReadOnly).unwrap();
        for index in 0..10 {
            assert_eq!(
                version_of(SEALED, index, &read(&region, index).unwrap(), 2),
                version
            );
        }
        assert_eq!(region.verify(0, &|_, _| {}).unwrap().bad_count, 0);
    }
}

#[test]
fn a_stream_on_a_real_disk_is_read_back_at_once_after_a_flush_and_after_a_kill() {
    const LONG: Shape = Shape {
        block_size: 4096,
        blocks: 1024,
        extents: 3,
        encrypted: true,
    };
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, LONG);
    let region = open(&disk);
    let check = |region: &Region, newest: u64| {
        for index in (0..LONG.all()).step_by(37) {
            let found = version_of(LONG, index, &read(region, index).unwrap(), 3);
            assert_eq!(found, newest, "block {index}");
        }
    };
    // Over what was never written, some of it in the page cache as zeros, then over what was.
    for version in 1..4 {
        for start in (0..LONG.all()).step_by(128) {
            if version == 1 {
                let found = read(&region, start + 5).unwrap();
                assert_eq!(version_of(LONG, start + 5, &found, 1), 0);
            }
            write(&region, LONG, start, 128, version).unwrap();
            let found = read(&region, start + 77).unwrap();
            assert_eq!(version_of(LONG, start + 77, &found, version), version);
        }
        check(&region, version);
        region.flush(version, 1, None).unwrap();
        check(&region, version);
    }
    // As the files are now, without what a good end would do.
    let copy = Scratch::new();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(scratch.0.join("."))
        .arg(&copy.0)
        .status()
        .unwrap();
    assert!(copied.success());
    let killed: Arc<dyn Disk> = Arc::new(FileDisk::new(&copy.0));
    let killed = open(&killed);
    check(&killed, 3);
    assert_eq!(killed.verify(2, &|_, _| {}).unwrap().bad_count, 0);
    drop(region);
    let region = open(&disk);
    let report = region.verify(2, &|_, _| {}).unwrap();
    assert_eq!((report.written, report.bad_count), (LONG.all(), 0));
}

#[test]
fn a_stream_and_snapshots_do_not_wait_for_each_other_for_ever() {
    const LONG: Shape = Shape {
        block_size: 512,
        blocks: 4096,
        extents: 8,
        encrypted: false,
    };
    let (disk, region) = fresh(LONG);
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..2)
            .map(|half| {
                let region = &region;
                scope.spawn(move || {
                    let begin = half * LONG.all() / 2;
                    for start in (begin..begin + LONG.all() / 2).step_by(64) {
                        write(region, LONG, start, 64, 1).unwrap();
                    }
                })
            })
            .collect();
        let mut count = 0;
        while !streams
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
            && count < 64
        {
            count += 1;
            region.flush(count, 1, None).unwrap();
            let name = format!("s{count}");
            region.snapshot(&name, &mut |_, _| {}).unwrap();
        }
    });
    region.flush(100, 1, None).unwrap();
    drop(region);
    let region = open(&disk);
    let report = region.verify(2, &|_, _| {}).unwrap();
    assert_eq!((report.written, report.bad_count), (LONG.all(), 0));
}

#[test]
fn sixteen_threads_read_and_write_and_flush_without_waiting_for_ever() {
    let shape = Shape {
        block_size: 512,
        blocks: 64,
        extents: 8,
        encrypted: false,
    };
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, shape);
    let options = Options {
        pending_bytes: 32 << 10,
        journal_bytes: 1 << 20,
        open_files: 4,
        context_bytes: 8 << 10,
        direct_bytes: 512,
        direct_after: 1,
        background: true,
    };
    let region = Region::open(Arc::clone(&disk), Mode::ReadWrite, options).unwrap();
    let per_thread = shape.all() / 16;
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let region = &region;
            scope.spawn(move || {
                let mut draw = store_world::Draw(thread);
                let first = thread * per_thread;
                let mut versions = vec![0; per_thread as usize];
                for round in 1..150 {
                    let at = draw.below(per_thread);
                    write(region, shape, first + at, 1, round).unwrap();
                    versions[at as usize] = round;
                    if draw.below(20) == 0 {
                        region.flush(round, 1, None).unwrap();
                    }
                    let at = draw.below(per_thread);
                    let found = read(region, first + at).unwrap();
                    let version = versions[at as usize];
                    if version == 0 {
                        assert_eq!(found.0, ReadBlockContext::Empty);
                    } else {
                        assert_eq!(found.1, block(shape, first + at, version));
                        assert_eq!(found.0, BlockContext::plain(&found.1).into());
                    }
                }
            });
        }
    });
    region.flush(1000, 1, None).unwrap();
    assert_eq!(region.verify(0, &|_, _| {}).unwrap().bad_count, 0);
}
