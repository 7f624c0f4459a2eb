//! A region against a model of it: the same jobs, the same answers, over restarts.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod store_world;

use std::sync::Arc;

use crucible_downstairs::disk::{CrashDisk, Disk};
use crucible_downstairs::store::{Mode, Options, Overwrite, Region};
use crucible_protocol::{BlockIndex, ExtentId, ExtentState};
use proptest::prelude::*;
use store_world::{Shape, blocks, create, options, read, version_of};

const SHAPE: Shape = Shape {
    block_size: 512,
    blocks: 130,
    extents: 3,
    encrypted: true,
};

#[derive(Clone, Debug)]
enum Job {
    Write(u64, u64),
    WriteUnwritten(u64, u64),
    Flush,
    FlushTo(u32),
    Close(u32, bool),
    Reopen(u32),
    Restart,
}

fn job() -> impl Strategy<Value = Job> {
    let all = SHAPE.all();
    let range = move || (0..all, prop_oneof![4 => 1..6u64, 1 => 1..=all]);
    let extent = || 0..SHAPE.extents;
    prop_oneof![
        6 => range().prop_map(|(start, count)| Job::Write(start, count)),
        3 => range().prop_map(|(start, count)| Job::WriteUnwritten(start, count)),
        2 => Just(Job::Flush),
        1 => extent().prop_map(Job::FlushTo),
        1 => (extent(), any::<bool>()).prop_map(|(extent, flush)| Job::Close(extent, flush)),
        2 => extent().prop_map(Job::Reopen),
        1 => Just(Job::Restart),
    ]
}

#[derive(Debug)]
struct Model {
    versions: Vec<u64>,
    states: Vec<ExtentState>,
    closed: Vec<bool>,
}

fn extents(start: u64, count: u64) -> std::ops::RangeInclusive<usize> {
    (start / SHAPE.blocks) as usize..=((start + count - 1) / SHAPE.blocks) as usize
}

fn run(jobs: Vec<Job>, options: Options) {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    create(&disk, SHAPE);
    let open = || Region::open(Arc::clone(&disk), Mode::ReadWrite, options).unwrap();
    let mut region = open();
    let count = SHAPE.extents as usize;
    let mut model = Model {
        versions: vec![0; SHAPE.all() as usize],
        states: vec![ExtentState::default(); count],
        closed: vec![false; count],
    };
    let mut version = 0;
    let mut flush = 0;
    for job in jobs {
        match job {
            Job::Write(start, count) | Job::WriteUnwritten(start, count) => {
                let count = count.min(SHAPE.all() - start);
                version += 1;
                let unwritten = matches!(job, Job::WriteUnwritten(..));
                let overwrite = if unwritten {
                    Overwrite::OnlyUnwritten
                } else {
                    Overwrite::All
                };
                let (contexts, data) = blocks(SHAPE, start, count, version);
                let result = region.write(BlockIndex(start), &contexts, &data, overwrite);
                // Parts in extents before a closed one have been written when it fails.
                let mut reached = true;
                for index in start..start + count {
                    let extent = (index / SHAPE.blocks) as usize;
                    reached &= !model.closed[extent];
                    if reached && !(unwritten && model.versions[index as usize] > 0) {
                        model.versions[index as usize] = version;
                        model.states[extent].dirty = true;
                    }
                }
                assert_eq!(
                    result.is_ok(),
                    extents(start, count).all(|extent| !model.closed[extent])
                );
            }
            Job::Flush | Job::FlushTo(_) => {
                flush += 1;
                let limit = match job {
                    Job::FlushTo(limit) => Some(ExtentId(limit)),
                    _ => None,
                };
                region.flush(flush, 3, limit).unwrap();
                for (extent, state) in model.states.iter_mut().enumerate() {
                    let within = limit.is_none_or(|limit| extent <= limit.0 as usize);
                    if within && state.dirty && !model.closed[extent] {
                        *state = ExtentState {
                            generation: 3,
                            flush,
                            dirty: false,
                        };
                    }
                }
            }
            Job::Close(extent, with_flush) => {
                flush += 1;
                let state = &mut model.states[extent as usize];
                let answer = if with_flush {
                    if state.dirty {
                        *state = ExtentState {
                            generation: 3,
                            flush,
                            dirty: false,
                        };
                    }
                    region.flush_and_close(ExtentId(extent), flush, 3)
                } else {
                    region.close(ExtentId(extent))
                };
                model.closed[extent as usize] = true;
                assert_eq!(answer.as_ref(), Ok(&*state));
            }
            Job::Reopen(extent) => {
                region.reopen(ExtentId(extent)).unwrap();
                model.closed[extent as usize] = false;
            }
            Job::Restart => {
                drop(region);
                region = open();
                model.closed.fill(false);
            }
        }
        assert_eq!(region.extent_states(), model.states);
        for (index, expected) in model.versions.iter().enumerate() {
            let index = index as u64;
            match read(&region, index) {
                Ok(found) => {
                    if found.1.iter().any(|byte| *byte != 0) || *expected == 0 {
                        let newest = version.min(*expected);
                        assert_eq!(version_of(SHAPE, index, &found, newest), *expected);
                    }
                }
                Err(_) => assert!(model.closed[(index / SHAPE.blocks) as usize]),
            }
        }
    }
    region.settle().unwrap();
    assert_eq!(region.verify(1, &|_, _| {}).unwrap().bad_count, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("TRIVET_SLOW").is_some() { 500 } else { 12 }, ..ProptestConfig::default() })]

    #[test]
    fn a_region_does_what_its_model_does(jobs in prop::collection::vec(job(), 1..25), narrow in any::<bool>()) {
        let options = if narrow {
            Options { pending_bytes: 4 << 10, context_bytes: 4 << 10, open_files: 1, direct_bytes: usize::MAX, ..options() }
        } else {
            options()
        };
        run(jobs, options);
    }
}
