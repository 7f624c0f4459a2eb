//! The engine on volumes in memory: every workload runs clean on a good one, and a bad one is found out.
#![expect(clippy::unwrap_used, reason = "test helpers fail loudly")]

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crucible_protocol::BlockIndex;
use crucible_upstairs::volume::{MemoryLeaf, Volume};
use crutest::core::{Demand, Field, Kind, Lineage, Step, WriteLog};
use crutest::engine::{Engine, Run, Tally};

const FIELD: Field = Field {
    block_size: 512,
    blocks: 640,
    blocks_per_extent: 64,
};

fn engine() -> Engine {
    let volume = Volume::in_memory(MemoryLeaf::new(FIELD.block_size, FIELD.blocks).unwrap());
    volume.activate_blocking(Some(1)).unwrap();
    let log = WriteLog::new(FIELD.block_size, FIELD.blocks, Lineage(1));
    Engine::new(volume, FIELD, 1, log)
}

fn demand(count: Option<u64>) -> Demand {
    Demand {
        seed: 42,
        count,
        io_blocks: None,
    }
}

fn run(engine: &mut Engine, steps: &mut dyn Iterator<Item = Step>, depth: usize) -> Tally {
    let run = Run {
        depth,
        until: None,
        stop: &AtomicBool::new(false),
        stop_at_mismatch: true,
        final_flush: true,
    };
    engine.run(steps, &run, &mut |_| {})
}

#[test]
fn every_workload_runs_clean_on_a_good_volume() {
    for kind in Kind::ALL {
        let mut engine = engine();
        let count = kind.count().unwrap_or(200).min(200);
        let count = if matches!(kind, Kind::Burst | Kind::Deactivate) {
            1
        } else {
            count
        };
        let mut steps = kind.steps(FIELD, demand(Some(count)));
        let tally = run(&mut engine, &mut steps, kind.depth());
        assert!(tally.is_good(), "{}: {tally:?}", kind.name());
        assert!(tally.operations() > 0, "{}", kind.name());
        assert!(tally.final_flush.is_some());
    }
}

#[test]
fn a_fill_knows_every_block_and_verify_checks_them_all() {
    let mut engine = engine();
    let tally = run(&mut engine, &mut Kind::Fill.steps(FIELD, demand(None)), 4);
    assert_eq!(tally.good_blocks, FIELD.blocks);
    assert_eq!(engine.log.known(), FIELD.blocks);
    let tally = run(&mut engine, &mut Kind::Verify.steps(FIELD, demand(None)), 4);
    assert_eq!((tally.good_blocks, tally.unknown_blocks), (FIELD.blocks, 0));
}

#[test]
fn one_bad_block_among_many_is_found_and_named() {
    let mut engine = engine();
    run(
        &mut engine,
        &mut Kind::FastFill.steps(FIELD, demand(None)),
        4,
    );
    // Somebody else puts the content of block 8 into block 7.
    let volume = engine.volume().clone();
    let stolen = volume.read_blocking(BlockIndex(8), 1).unwrap();
    let data = bytes::BytesMut::from(&stolen.data[..]);
    volume.write_blocking(BlockIndex(7), data).unwrap();
    let tally = run(&mut engine, &mut Kind::Verify.steps(FIELD, demand(None)), 4);
    assert_eq!(tally.bad_blocks, 1);
    assert_eq!(
        tally.mismatches[0].to_string(),
        "block 7: expected write 1, found write 1 to block 8"
    );
    assert!(!tally.is_good());
}

#[test]
fn what_fails_ends_the_run_and_is_named() {
    let mut engine = engine();
    let outside = Step::Read {
        start: FIELD.blocks,
        count: 1,
    };
    let inside = Step::Read { start: 0, count: 1 };
    let tally = run(&mut engine, &mut [outside, inside].into_iter(), 1);
    let text = tally.error.as_ref().unwrap().to_string();
    assert!(text.contains("past the end"), "{text}");
    assert_eq!(tally.reads.count(), 0);
}

#[test]
fn time_and_stop_end_a_run_that_has_no_end() {
    let mut engine = engine();
    let mut steps = Kind::RandWrite.steps(FIELD, demand(None));
    let limits = Run {
        depth: 8,
        until: Some(Instant::now() + Duration::from_millis(20)),
        stop: &AtomicBool::new(false),
        stop_at_mismatch: true,
        final_flush: true,
    };
    let tally = engine.run(&mut steps, &limits, &mut |_| {});
    assert!(tally.is_good() && !tally.stopped && tally.writes.count() > 0);
    let limits = Run {
        until: None,
        stop: &AtomicBool::new(true),
        ..limits
    };
    let tally = engine.run(&mut steps, &limits, &mut |_| {});
    assert!(tally.stopped && tally.writes.count() == 0);
}

#[test]
fn more_than_the_volume_has_room_for_waits() {
    let field = Field {
        block_size: 4096,
        blocks: 8192,
        blocks_per_extent: 4096,
    };
    let volume = Volume::in_memory(MemoryLeaf::new(4096, field.blocks).unwrap());
    volume.activate_blocking(Some(1)).unwrap();
    let log = WriteLog::new(4096, field.blocks, Lineage(1));
    let mut engine = Engine::new(volume, field, 1, log);
    let tally = run(
        &mut engine,
        &mut Kind::Biggest.steps(field, demand(None)),
        64,
    );
    assert!(tally.is_good(), "{tally:?}");
    assert_eq!(tally.writes.count(), 10);
}
