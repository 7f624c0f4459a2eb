//! Regions that the reference left: they open, verify and export, and nothing in them changes unless it is written.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod store_world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crucible_downstairs::disk::{Disk, FileDisk};
use crucible_downstairs::store::{Mode, Overwrite, Region, StoreError};
use crucible_protocol::layout::{ExtentMetadata, METADATA_LEN};
use crucible_protocol::{BlockContext, BlockIndex, ExtentId, ReadBlockContext};
use store_world::{SMALL, Scratch, append, create, options, read, write};

/// Recorded regions, as they lie beside the tests of the protocol.
const DATA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crucible-protocol/tests/data"
);

fn recorded() -> Vec<PathBuf> {
    let mut regions = Vec::new();
    for scenario in fs::read_dir(DATA).unwrap() {
        let below = scenario.unwrap().path().join("regions");
        if below.is_dir() {
            regions.extend(
                fs::read_dir(below)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    assert!(!regions.is_empty(), "no recorded regions in {DATA}");
    regions.sort();
    regions
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn copy(from: &Path) -> (Scratch, Arc<dyn Disk>) {
    let scratch = Scratch::new();
    for (name, content) in files(from) {
        let to = scratch.0.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, content).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    (scratch, disk)
}

fn open(disk: &Arc<dyn Disk>, mode: Mode) -> Result<Region, StoreError> {
    Region::open(Arc::clone(disk), mode, options())
}

#[test]
fn every_recorded_region_opens_verifies_and_exports() {
    for path in recorded() {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&path));
        let region = open(&disk, Mode::ReadOnly).unwrap();
        let report = region.verify(2, &|_, _| {}).unwrap();
        assert_eq!(report.blocks, region.geometry().block_count(), "{path:?}");
        assert_eq!(report.bad_count, 0, "{path:?}: {:?}", report.bad);
        let mut exported = Vec::new();
        region
            .export(
                &mut |piece| append(&mut exported, piece),
                0,
                0,
                &mut |_, _| {},
            )
            .unwrap();
        let mut expected = Vec::new();
        let data =
            (region.geometry().bytes() / u64::from(region.geometry().extent_count())) as usize;
        for (name, content) in files(&path) {
            if name != "region.json" {
                expected.extend_from_slice(&content[..data]);
            }
        }
        assert!(exported == expected, "{path:?}");
        for index in 0..region.geometry().block_count() {
            let (context, data) = read(&region, index).unwrap();
            match context {
                ReadBlockContext::Empty => assert!(data.iter().all(|byte| *byte == 0)),
                ReadBlockContext::Unencrypted(hash) => {
                    assert!(!region.definition().encrypted);
                    assert_eq!(BlockContext::plain(&data).hash, hash);
                }
                ReadBlockContext::Encrypted(_) => assert!(region.definition().encrypted),
            }
        }
    }
}

#[test]
fn a_recorded_region_that_is_not_written_to_stays_as_it_is() {
    for path in recorded() {
        let (scratch, disk) = copy(&path);
        let before = files(&scratch.0);
        let region = open(&disk, Mode::ReadWrite).unwrap();
        let states = region.extent_states();
        region.flush(1000, 1000, None).unwrap();
        for extent in 0..region.geometry().extent_count() {
            let extent = ExtentId(extent);
            let closed = region.flush_and_close(extent, 1001, 1000).unwrap();
            assert_eq!(closed, states[extent.0 as usize]);
            region.reopen(extent).unwrap();
        }
        drop(region);
        let mut after = files(&scratch.0);
        after.remove("trivet.journal");
        assert!(before == after, "{path:?}");
    }
}

#[test]
fn a_write_to_a_recorded_region_changes_its_block_and_its_slot_and_nothing_else() {
    let path = recorded()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("plain-one"))
        .unwrap();
    let (scratch, disk) = copy(&path);
    let region = open(&disk, Mode::ReadWrite).unwrap();
    let data = vec![0x5a; 512];
    let context = BlockContext::plain(&data);
    // Block 0 of extent 1 was written once: slot B is active.
    region
        .write(BlockIndex(8), &[context], &data, Overwrite::All)
        .unwrap();
    region.flush(7, 3, None).unwrap();
    drop(region);
    let before = fs::read(path.join("00/000/001")).unwrap();
    let after = fs::read(scratch.0.join("00/000/001")).unwrap();
    let mut expected = before.clone();
    expected[..512].copy_from_slice(&data);
    let slot_a = 512 * 8;
    expected[slot_a] = 1;
    expected[slot_a + 1..slot_a + 9].copy_from_slice(&context.hash.to_le_bytes());
    expected[slot_a + 9] = 0;
    expected[slot_a + 10..slot_a + 18].copy_from_slice(&context.hash.to_le_bytes());
    expected[slot_a + 18..slot_a + 20].copy_from_slice(&1u16.to_le_bytes());
    let bitmap = slot_a + 96 * 8;
    assert_eq!(before[bitmap], 1);
    expected[bitmap] = 0;
    let metadata = &mut expected[bitmap + 1..];
    let mut stated =
        ExtentMetadata::decode(<&[u8; METADATA_LEN]>::try_from(&*metadata).unwrap()).unwrap();
    stated.state.generation = 3;
    stated.state.flush = 7;
    metadata.copy_from_slice(&stated.encode());
    assert!(after == expected);
}

#[test]
fn an_extent_that_the_reference_left_dirty_is_judged_block_by_block() {
    let path = recorded()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("enc-4k"))
        .or_else(|| {
            recorded()
                .into_iter()
                .find(|path| path.to_string_lossy().contains("enc-one"))
        })
        .unwrap();
    let (scratch, disk) = copy(&path);
    let region = open(&disk, Mode::ReadWrite).unwrap();
    let (block_size, blocks) = (
        region.geometry().block_size() as usize,
        region.geometry().blocks_per_extent() as usize,
    );
    let extent = (0..region.geometry().extent_count())
        .find(|extent| {
            (0..blocks as u64).any(|block| {
                let index = u64::from(*extent) * blocks as u64 + block;
                read(&region, index).unwrap().0 != ReadBlockContext::Empty
            })
        })
        .unwrap();
    let first = u64::from(extent) * blocks as u64;
    let before: Vec<_> = (0..blocks as u64)
        .map(|block| read(&region, first + block).unwrap())
        .collect();
    let state = region.extent_state(ExtentId(extent)).unwrap();
    drop(region);
    let file = scratch.0.join(format!("00/000/{extent:03X}"));
    let mut content = fs::read(&file).unwrap();
    let written = before
        .iter()
        .position(|(context, _)| *context != ReadBlockContext::Empty)
        .unwrap();
    let metadata = block_size * blocks + 96 * blocks + blocks.div_ceil(8);
    content[metadata] = 1;
    content[block_size * written + 3] ^= 0x40;
    fs::write(&file, content).unwrap();
    let region = open(&disk, Mode::ReadWrite).unwrap();
    assert_eq!(
        region.damaged_blocks(ExtentId(extent)).unwrap(),
        [written as u32]
    );
    let reported = region.extent_state(ExtentId(extent)).unwrap();
    assert!(reported.dirty && reported < state, "{reported:?} {state:?}");
    for (block, before) in before.iter().enumerate() {
        let now = read(&region, first + block as u64);
        if block == written {
            assert!(now.is_err());
        } else {
            assert_eq!(now.as_ref(), Ok(before));
        }
    }
    // A flush does not make it clean, a restart does not make it forgotten, a write heals it.
    region.flush(50, 9, None).unwrap();
    drop(region);
    let region = open(&disk, Mode::ReadWrite).unwrap();
    assert!(read(&region, first + written as u64).is_err());
    let data = vec![1; block_size];
    region
        .write(
            BlockIndex(first + written as u64),
            &[BlockContext::plain(&data)],
            &data,
            Overwrite::All,
        )
        .unwrap();
    region.flush(51, 9, None).unwrap();
    let healed = region.extent_state(ExtentId(extent)).unwrap();
    assert_eq!(
        (healed.generation, healed.flush, healed.dirty),
        (9, 51, false)
    );
    assert_eq!(read(&region, first + written as u64).unwrap().1, data);
}

#[test]
fn a_fresh_region_is_that_of_the_reference_byte_for_byte() {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(scratch.0.join("region")));
    create(&disk, SMALL);
    let all = files(&scratch.0.join("region"));
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "00/000/000",
            "00/000/001",
            "00/000/002",
            "00/000/003",
            "region.json"
        ]
    );
    let mut extent = vec![0; 512 * 8 + 96 * 8 + 1 + 32];
    extent[512 * 8 + 96 * 8 + 1 + 17] = 2;
    assert_eq!(all["00/000/002"], extent);
}

#[test]
fn what_was_flushed_is_in_the_files_when_the_process_is_killed() {
    let scratch = Scratch::new();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&scratch.0));
    create(&disk, SMALL);
    let region = open(&disk, Mode::ReadWrite).unwrap();
    write(&region, SMALL, 0, 20, 1).unwrap();
    region.flush(1, 1, None).unwrap();
    write(&region, SMALL, 3, 9, 2).unwrap();
    // What a killed process leaves; the journal is not among what the reference looks at.
    let (killed, left) = copy(&scratch.0);
    fs::remove_file(killed.0.join("trivet.journal")).unwrap();
    let found = open(&left, Mode::ReadOnly).unwrap();
    assert_eq!(found.verify(1, &|_, _| {}).unwrap().bad_count, 0);
    for index in 0..20 {
        assert_eq!(
            read(&found, index).unwrap().1,
            store_world::block(SMALL, index, 1)
        );
    }
    assert!(found.extent_states().iter().all(|state| !state.dirty));
}
