//! Reads, writes and flushes on three replicas: what is sent, what waits for what, who is answered when.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{World, dependencies, job};
use crucible_protocol::{JobId, Message};
use crucible_upstairs::core::{Answer, Phase, ReplicaState};
use vm_types::Span;

/// The dependencies of each job that was sent to a client, by id.
fn sent(world: &World, client: usize) -> Vec<(u64, Vec<u64>)> {
    let mut jobs: Vec<(u64, Vec<u64>)> = world.sent[client]
        .iter()
        .filter_map(|message| Some((job(message)?.0, message)))
        .map(|(id, message)| (id, dependencies(message).iter().map(|id| id.0).collect()))
        .collect();
    jobs.sort();
    jobs
}

#[test]
fn three_equal_regions_become_a_volume() {
    let world = World::active();
    assert_eq!(world.up.status().phase, Phase::Active);
    assert!(world.all_active());
    assert_eq!(world.up.status().next_flush, 1);
}

#[test]
fn what_was_written_is_read_from_one_replica_and_lies_on_all_three() {
    let mut world = World::active();
    let write = world.write(3, 2, 0xaa);
    assert_eq!(
        world.answer(write),
        Ok(Answer::Written),
        "before anything was sent"
    );
    let read = world.read(2, 4);
    world.run();
    assert_eq!(world.fills(read), [0, 0xaa, 0xaa, 0]);
    let asked = (0..3)
        .filter(|&client| {
            world.sent[client]
                .iter()
                .any(|message| matches!(message, Message::ReadRequest { .. }))
        })
        .count();
    assert_eq!(asked, 1);
    world.assert_equal();
    assert_eq!(world.replicas[2].fill(3), 0xaa);
}

#[test]
fn a_flush_is_answered_when_two_have_done_it() {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.paused[1] = true;
    world.paused[2] = true;
    let flush = world.flush();
    world.run();
    assert!(!world.is_answered(flush), "one is not enough");
    world.paused[1] = false;
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    assert_eq!(world.up.status().jobs, 2, "kept for the third");
    world.paused[2] = false;
    world.run();
    assert_eq!(world.up.status().jobs, 0, "retired");
}

#[test]
fn a_write_waits_for_the_write_before_it_and_a_flush_for_both() {
    let mut world = World::active();
    world.write(0, 4, 1);
    world.write(2, 4, 2);
    world.flush();
    world.write(3, 1, 3);
    world.run();
    for client in 0..3 {
        assert_eq!(
            sent(&world, client),
            [
                (1000, vec![]),
                (1001, vec![1000]),
                (1002, vec![1000, 1001]),
                (1003, vec![1002]),
            ]
        );
    }
}

#[test]
fn a_write_waits_for_reads_only_where_they_were_sent() {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.run();
    world.forget();
    world.read(0, 1);
    world.write(0, 1, 2);
    world.run();
    let lists: Vec<Vec<u64>> = (0..3)
        .map(|client| sent(&world, client).pop().unwrap().1)
        .collect();
    let mut sorted = lists;
    sorted.sort();
    assert_eq!(sorted, [vec![1000], vec![1000], vec![1001]]);
}

#[test]
fn a_flush_of_our_own_comes_in_time_also_under_load() {
    let mut world = World::active();
    for round in 0..20 {
        world.write(round, 1, 1);
        world.advance(Span::from_millis(100));
    }
    let flushes = world.up.status().counters.auto_flushes;
    assert!((3..=5).contains(&flushes), "{flushes} in two seconds");
    world.advance(Span::from_secs(1));
    let settled = world.up.status().counters.auto_flushes;
    world.advance(Span::from_secs(10));
    assert_eq!(world.up.status().counters.auto_flushes, settled, "idle");
    assert_eq!(world.up.status().jobs, 0);
}

#[test]
fn flush_numbers_rise_by_one() {
    let mut world = World::active();
    for _ in 0..3 {
        world.flush();
    }
    world.run();
    let numbers: Vec<u64> = world.sent[0]
        .iter()
        .filter_map(|message| match message {
            Message::Flush { flush, .. } => Some(*flush),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn a_short_absence_is_made_up_by_replay() {
    let mut world = World::active();
    world.write(0, 1, 1);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.write(1, 1, 2);
    world.run();
    world.cut(2);
    world.write(2, 1, 3);
    world.forget();
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    let last = world.sent[2].iter().find_map(|message| match message {
        Message::LastFlush { last } => Some(*last),
        _ => None,
    });
    assert_eq!(last, Some(Some(JobId(1001))));
    assert_eq!(
        sent(&world, 2)[..2],
        [(1002, vec![1001]), (1003, vec![1001])],
        "the acknowledged one, too"
    );
    world.assert_equal();
}

#[test]
fn a_crash_loses_nothing_that_replay_does_not_bring_back() {
    let mut world = World::active();
    world.write(0, 8, 1);
    world.run();
    world.crash(0);
    world.restart(0);
    assert_eq!(world.replicas[0].fill(0), 0, "lost");
    world.advance(Span::from_secs(2));
    assert!(world.all_active());
    assert_eq!(world.replicas[0].fill(0), 1);
    world.assert_equal();
}

#[test]
fn one_who_is_away_too_long_is_repaired() {
    let mut config = core_world::config();
    config.limits.offline_jobs = 10;
    let mut world = World::active_with(config);
    world.crash(1);
    for block in 0..32 {
        world.write(block, 1, block as u8 + 1);
        world.run();
    }
    assert!(matches!(
        world.state(1),
        ReplicaState::Connecting {
            mode: crucible_upstairs::core::Mode::Faulted,
            ..
        }
    ));
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed), "two are enough");
    world.restart(1);
    world.advance(Span::from_secs(15));
    assert!(world.all_active());
    world.advance(Span::from_secs(1));
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(31), 32);
    assert_eq!(world.up.status().jobs, 0);
}
