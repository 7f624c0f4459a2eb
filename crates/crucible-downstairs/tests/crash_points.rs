//! Power cuts: after each operation of a random history, with every kind of loss, the region must open again, and
//! each block must hold what was last flushed or something newer, whole and with its own context.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod store_world;

use std::sync::Arc;

use crucible_downstairs::disk::{Choice, CrashDisk, Disk};
use crucible_downstairs::store::{Options, Region};
use crucible_protocol::ExtentId;
use store_world::{Draw, Model, SMALL, Shape, create, options, read, version_of, write};

const TORN: Shape = Shape {
    block_size: 4096,
    blocks: 5,
    extents: 3,
    encrypted: true,
};

/// Blocks of two sectors, and many of them, so that much is written for the first time.
const WIDE: Shape = Shape {
    block_size: 1024,
    blocks: 40,
    extents: 2,
    encrypted: true,
};

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Write { start: u64, count: u64 },
    Flush { limit: Option<u32> },
    FlushExtent(u32),
    CloseAndReopen { extent: u32, flush: bool },
    Settle,
    Promote,
}

fn history(shape: Shape, draw: &mut Draw, steps: usize) -> Vec<Step> {
    let all = shape.all();
    (0..steps)
        .map(|_| match draw.below(20) {
            0..=11 => {
                let start = draw.below(all);
                let most = if draw.below(8) == 0 { all } else { 3 };
                let count = 1 + draw.below((all - start).min(most));
                Step::Write { start, count }
            }
            12..=15 => Step::Flush { limit: None },
            16 => Step::Flush {
                limit: Some(draw.below(u64::from(shape.extents)) as u32),
            },
            17 => Step::FlushExtent(draw.below(u64::from(shape.extents)) as u32),
            18 if draw.below(2) == 0 => Step::Settle,
            18 => Step::Promote,
            _ => Step::CloseAndReopen {
                extent: draw.below(u64::from(shape.extents)) as u32,
                flush: draw.below(2) == 0,
            },
        })
        .collect()
}

/// A volume that is filled from its beginning, in long runs, with some overwriting and reading back.
fn stream(shape: Shape, draw: &mut Draw, steps: usize) -> Vec<Step> {
    let all = shape.all();
    let mut next = 0;
    (0..steps)
        .map(|_| match draw.below(16) {
            0..=8 if next < all => {
                let start = next;
                let count = 1 + draw.below((all - start).min(12));
                next += count;
                Step::Write { start, count }
            }
            0..=10 => {
                let start = draw.below(next.max(1));
                let count = 1 + draw.below((all - start).min(4));
                Step::Write { start, count }
            }
            11 | 12 => Step::Flush { limit: None },
            13 => Step::FlushExtent(draw.below(u64::from(shape.extents)) as u32),
            14 => Step::Settle,
            _ => Step::CloseAndReopen {
                extent: draw.below(u64::from(shape.extents)) as u32,
                flush: draw.below(2) == 0,
            },
        })
        .collect()
}

/// What has been promised at some point of a history.
#[derive(Clone, Debug, Default)]
struct Promise {
    model: Model,
    /// A flush whose answer has not come yet may have happened already.
    promoted: u64,
    flush: u64,
}

/// Runs a history until the power fails. Answers what was promised by then.
fn run(disk: &CrashDisk, shape: Shape, options: Options, steps: &[Step], seen: &mut Promise) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let Ok(region) = Region::open(disk, crucible_downstairs::store::Mode::ReadWrite, options)
    else {
        return;
    };
    let per_extent = shape.blocks;
    for step in steps {
        let Promise {
            model,
            promoted,
            flush,
        } = seen;
        let extent_of = |index: u64| (index / per_extent) as u32;
        match step {
            Step::Write { start, count } => {
                let version = model.newest + 1;
                // Begun is written, for all that anybody knows.
                model.write(*start, *count, version);
                if write(&region, shape, *start, *count, version).is_err() {
                    return;
                }
            }
            Step::Flush { limit } => {
                *flush += 1;
                if region.flush(*flush, 1, limit.map(ExtentId)).is_err() {
                    return;
                }
                model.flush(|index| limit.is_none_or(|limit| extent_of(index) <= limit));
            }
            Step::FlushExtent(extent) => {
                *flush += 1;
                if region.flush_extent(ExtentId(*extent), *flush, 1).is_err() {
                    return;
                }
                model.flush(|index| extent_of(index) == *extent);
            }
            Step::CloseAndReopen {
                extent,
                flush: with,
            } => {
                *flush += 1;
                let closed = if *with {
                    region.flush_and_close(ExtentId(*extent), *flush, 1)
                } else {
                    region.close(ExtentId(*extent))
                };
                if closed.is_err() {
                    return;
                }
                if *with {
                    model.flush(|index| extent_of(index) == *extent);
                }
                if region.reopen(ExtentId(*extent)).is_err() {
                    return;
                }
            }
            Step::Settle => {
                if region.settle().is_err() {
                    return;
                }
            }
            Step::Promote => {
                if region.note_promotion(*promoted + 1).is_err() {
                    return;
                }
                *promoted += 1;
            }
        }
    }
}

/// The same, with a failed assertion as an answer, so that the seed is told.
fn check(
    after: &CrashDisk,
    shape: Shape,
    options: Options,
    promise: &Promise,
) -> Result<(), String> {
    let checked = || compare(after, shape, options, promise);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(checked))
        .unwrap_or_else(|_| Err(String::from("a block that nobody wrote, see above")))
}

/// Opens what a crash left and compares it with what was promised. Answers what is wrong.
fn compare(
    after: &CrashDisk,
    shape: Shape,
    options: Options,
    promise: &Promise,
) -> Result<(), String> {
    let disk: Arc<dyn Disk> = Arc::new(after.clone());
    let region = Region::open(disk, crucible_downstairs::store::Mode::ReadWrite, options)
        .map_err(|error| format!("does not open: {error}"))?;
    if region.promoted_generation() < promise.promoted {
        return Err(format!("promotion {} is forgotten", promise.promoted));
    }
    for index in 0..shape.all() {
        let found = read(&region, index).map_err(|error| format!("block {index}: {error}"))?;
        let version = version_of(shape, index, &found, promise.model.newest);
        if !promise.model.may_be(index, version) {
            return Err(format!(
                "block {index}: version {version}; flushed {:?}, since {:?}",
                promise.model.flushed.get(&index),
                promise.model.since.get(&index)
            ));
        }
    }
    let report = region
        .verify(1, &|_, _| {})
        .map_err(|error| format!("verify: {error}"))?;
    if report.bad_count > 0 {
        return Err(format!("verify: {:?}", report.bad));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    histories: u64,
    operations: u64,
    crashes: u64,
    violations: u64,
}

/// One history: the power fails after each of its operations, with each kind of loss; then again while it recovers.
fn torment(
    shape: Shape,
    history: fn(Shape, &mut Draw, usize) -> Vec<Step>,
    seed: u64,
    steps: usize,
    losses: u64,
    tally: &mut Tally,
) {
    let mut draw = Draw(seed);
    let options = Options {
        journal_bytes: 1 << 20,
        // Small, so that writes are also committed without a flush.
        pending_bytes: if draw.below(2) == 0 {
            1 << 20
        } else {
            6 * shape.block_size as usize
        },
        context_bytes: if draw.below(2) == 0 { 1 << 20 } else { 0 },
        open_files: if draw.below(2) == 0 { 64 } else { 1 },
        direct_bytes: match draw.below(4) {
            0 => usize::MAX,
            1 => shape.block_size as usize,
            _ => 2 * shape.block_size as usize,
        },
        direct_after: if draw.below(2) == 0 {
            1
        } else {
            3 * shape.block_size as usize
        },
        ..options()
    };
    let steps = history(shape, &mut draw, steps);
    let fresh = CrashDisk::new();
    create(&(Arc::new(fresh.clone()) as Arc<dyn Disk>), shape);
    fresh.sync_all().unwrap();
    let before = fresh.operations();
    let whole = fresh.duplicate();
    run(&whole, shape, options, &steps, &mut Promise::default());
    let operations = whole.operations();
    tally.histories += 1;
    tally.operations += operations - before;
    for until in before..=operations {
        let disk = fresh.duplicate();
        disk.power_until(Some(until));
        let mut promise = Promise::default();
        run(&disk, shape, options, &steps, &mut promise);
        let choices = [Choice::Nothing, Choice::Everything]
            .into_iter()
            .chain((0..losses).map(|_| Choice::Seeded(draw.next())))
            .collect::<Vec<_>>();
        for choice in choices {
            tally.crashes += 1;
            let after = disk.crash(choice);
            let begun = after.duplicate();
            let mut result = check(&after, shape, options, &promise);
            if result.is_ok() {
                // The power fails once more, in the middle of the recovery.
                let again = draw.below(after.operations() + 1);
                begun.power_until(Some(again));
                let _ = check(&begun, shape, options, &promise);
                let second = begun.crash(Choice::Seeded(draw.next()));
                tally.crashes += 1;
                result = check(&second, shape, options, &promise)
                    .map_err(|error| format!("after a second crash at {again}: {error}"));
            }
            if let Err(error) = result {
                tally.violations += 1;
                panic!(
                    "seed {seed:#x}, {shape:?}, power until operation {until} of {operations}, {choice:?}: {error}\n{steps:#?}"
                );
            }
        }
    }
}

#[test]
fn whatever_a_power_cut_loses_flushed_blocks_survive_and_no_block_is_torn() {
    let mut tally = Tally::default();
    torment(SMALL, history, 1, 14, 2, &mut tally);
    torment(TORN, history, 2, 10, 2, &mut tally);
    for seed in 3..6 {
        torment(WIDE, stream, seed, 14, 2, &mut tally);
    }
    assert!(tally.crashes > 300 && tally.violations == 0, "{tally:?}");
}

/// Set `TRIVET_SLOW` to run it. Prints a table.
#[test]
fn slow_power_cuts_over_many_histories() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        return;
    }
    let mut tally = Tally::default();
    println!("histories operations crashes violations");
    for seed in 0..50 {
        torment(SMALL, history, 10_000 + seed, 24, 4, &mut tally);
        torment(TORN, history, 20_000 + seed, 16, 4, &mut tally);
        torment(WIDE, stream, 30_000 + seed, 24, 4, &mut tally);
        if seed % 5 == 4 {
            println!(
                "{:>9} {:>10} {:>7} {:>10}",
                tally.histories, tally.operations, tally.crashes, tally.violations
            );
        }
    }
    assert_eq!(tally.violations, 0);
}
