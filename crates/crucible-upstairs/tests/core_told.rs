//! What is told: lines for people, progress, queues; and how long requests wait for what is away.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{EXTENTS, World, config};
use crucible_upstairs::core::{Answer, BadData, Progress, ReplicaState, VolumeError};
use vm_types::Span;

/// The lines since the world was told to forget.
fn lines(world: &World) -> Vec<String> {
    world.reports.iter().map(ToString::to_string).collect()
}

#[test]
fn a_replica_that_goes_and_comes_back_gives_one_line_for_each_state() {
    let mut world = World::active();
    world.crash(1);
    world.write(0, 1, 1);
    world.run();
    let address = core_world::address(1);
    let said = lines(&world);
    assert_eq!(said.len(), 1, "{said:?}");
    let gone = format!("region server {address} (client 1) is offline: ");
    assert!(said[0].starts_with(&gone), "{said:?}");
    assert!(said[0].ends_with("what it missed will be replayed"));
    assert!(world.reports[0].is_trouble());
    world.forget();
    world.advance(Span::from_secs(2));
    let said = lines(&world);
    assert_eq!(
        said.len(),
        1,
        "why it cannot be reached is told once: {said:?}"
    );
    world.forget();
    world.advance(Span::from_secs(60));
    assert_eq!(lines(&world), Vec::<String>::new());
    world.restart(1);
    world.advance(Span::from_secs(15));
    let said = lines(&world);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains(&format!("{address} (client 1) is active")),
        "{said:?}"
    );
    assert!(!world.reports[0].is_trouble());
}

#[test]
fn the_progress_of_a_live_repair_is_told_extent_by_extent() {
    let mut config = config();
    config.limits.live_repair_extents = 1;
    config.limits.offline_jobs = 0;
    let mut world = World::active_with(config);
    world.crash(1);
    for extent in 0..u64::from(EXTENTS) {
        world.write(extent * 8, 8, 3);
    }
    world.run();
    assert_eq!(world.up.status().replicas[1].repair, None);
    world.restart(1);
    let link = world.links[1].as_ref().unwrap();
    world.now = world.now.max(link.not_before);
    let mut seen = Vec::new();
    for _ in 0..10_000 {
        let mut any = world.step_cipher(0);
        for client in 0..3 {
            any |=
                world.step_dial(client) | world.step_replica(client) | world.step_upstairs(client);
            let repair = world.up.status().replicas[1].repair;
            if repair.is_some() && seen.last() != Some(&repair) {
                seen.push(repair);
            }
        }
        if !any {
            break;
        }
    }
    let total = u64::from(EXTENTS);
    let all: Vec<Option<Progress>> = (0..=total)
        .map(|done| Some(Progress { done, total }))
        .collect();
    assert_eq!(seen, all);
    assert_eq!(world.up.status().replicas[1].repair, None);
    assert!(world.all_active());
}

#[test]
fn queues_and_latencies_are_told() {
    let mut world = World::active();
    world.paused[2] = true;
    world.write(0, 1, 1);
    world.run();
    let read = world.read(0, 1);
    let status = world.up.status();
    let reads: usize = status.replicas.iter().map(|replica| replica.reads).sum();
    assert_eq!((status.replicas[2].jobs, reads), (1, 1));
    world.pass(Span::from_millis(30));
    world.paused[2] = false;
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    assert!(world.answer(read).is_ok());
    let status = world.up.status();
    assert_eq!(status.replicas[2].write_latency, Span::from_millis(30));
    assert_eq!(status.replicas[0].write_latency, Span::ZERO);
    assert_eq!(status.replicas[2].jobs, 0);
}

#[test]
fn work_tells_what_each_job_waits_for() {
    let mut world = World::active();
    world.paused = [true; 4];
    world.write(0, 2, 1);
    world.write(8, 1, 1);
    world.read(1, 1);
    world.write(0, 1, 2);
    world.flush();
    world.run();
    let (jobs, _) = world.up.work();
    let first = jobs[0].id.0;
    let waits: Vec<Vec<u64>> = jobs
        .iter()
        .map(|job| job.dependencies.iter().map(|id| id.0 - first).collect())
        .collect();
    assert_eq!(
        waits,
        [vec![], vec![], vec![0], vec![0], vec![1, 2, 3]],
        "{jobs:?}"
    );
    assert_eq!(jobs[2].start.0, 1);
}

#[test]
fn a_read_that_is_bad_where_it_was_asked_waits_for_the_replica_that_is_away() {
    let mut world = World::active();
    world.write(0, 8, 4);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.crash(2);
    world.replicas[0].rot(0);
    world.replicas[1].rot(0);
    let read = world.read(0, 1);
    world.advance(Span::from_secs(1));
    assert!(!world.is_answered(read), "a good copy may come back");
    world.restart(2);
    world.advance(Span::from_secs(20));
    assert_eq!(world.fills(read), [4]);
}

#[test]
fn a_read_that_waited_in_vain_says_what_was_wrong_where_it_was_asked() {
    let mut config = config();
    config.patience = Span::from_secs(4);
    let mut world = World::active_with(config);
    world.write(0, 8, 4);
    world.flush();
    world.run();
    world.crash(2);
    world.replicas[0].rot(0);
    world.replicas[1].rot(0);
    let read = world.read(0, 1);
    world.advance(Span::from_secs(5));
    let error = world.answer(read).unwrap_err();
    let expected = VolumeError::BadData {
        start: 0,
        count: 1,
        bad: BadData::Hash,
    };
    assert_eq!(error, expected);
    assert!(!error.is_transient());
}

#[test]
fn waiting_is_told_once_and_its_end_too() {
    let mut config = config();
    config.limits.offline_jobs = 0;
    let mut world = World::active_with(config);
    world.crash(1);
    world.write(0, 1, 1);
    world.run();
    world.crash(2);
    world.run();
    let is_two_away =
        world.state(1) != ReplicaState::Active && world.state(2) != ReplicaState::Active;
    assert!(is_two_away);
    // One is given up and one is kept for replay: writes still go on. The last goes, and reads wait.
    world.crash(0);
    world.run();
    world.forget();
    let reads = [world.read(0, 1), world.read(1, 1)];
    world.run();
    let waits = |world: &World| {
        lines(world)
            .iter()
            .filter(|line| line.contains("requests wait for up"))
            .count()
    };
    assert_eq!(waits(&world), 1, "{:?}", lines(&world));
    for replica in 0..3 {
        world.restart(replica);
    }
    world.advance(Span::from_secs(20));
    assert!(reads.iter().all(|read| world.answer(*read).is_ok()));
    assert_eq!(waits(&world), 1);
    let ends = lines(&world)
        .iter()
        .filter(|line| line.contains("requests go on"))
        .count();
    assert_eq!(ends, 1, "{:?}", lines(&world));
}

#[test]
fn a_flush_that_failed_is_not_to_be_tried_again_without_a_word() {
    assert!(!VolumeError::FlushFailed { failed: 3 }.is_transient());
    let waited = Span::from_secs(60);
    assert!(VolumeError::Unavailable { waited }.is_transient());
    assert!(VolumeError::Full.is_transient());
}

#[test]
fn a_frozen_replica_does_not_use_up_what_late_reads_may_ask_of_others() {
    let mut world = World::active();
    world.write(0, 8, 4);
    world.flush();
    world.run();
    world.paused[1] = true;
    let mut slowest = Span::ZERO;
    for _ in 0..300 {
        // Now and then one of the others is late too, and the frozen one is asked in its place.
        let read = world.read(0, 1);
        let begin = world.now;
        for _ in 0..1_000 {
            world.run();
            if world.is_answered(read) {
                break;
            }
            world.advance(Span::from_millis(5));
        }
        assert_eq!(world.fills(read), [4]);
        slowest = slowest.max(world.now.since(begin));
    }
    assert!(slowest < Span::from_millis(300), "{slowest:?}");
    let asked = world.up.status().replicas[1].reads;
    assert!(asked <= 8, "the frozen one was asked {asked} times");
}

#[test]
fn a_frozen_replica_with_a_long_backlog_is_given_up_before_the_guest_must_wait() {
    let mut config = config();
    config.limits.offline_jobs = 20;
    config.limits.jobs = 100;
    let mut world = World::active_with(config);
    world.paused[1] = true;
    let mut refused = 0;
    for round in 0..40_u8 {
        let write = world.write(u64::from(round % 8), 1, round);
        world.advance(Span::from_millis(250));
        refused += usize::from(world.answer(write) != Ok(Answer::Written));
    }
    assert_eq!(refused, 0);
    let flush = world.flush();
    world.advance(Span::from_secs(1));
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    let said = lines(&world);
    assert!(
        said.iter()
            .any(|line| line.contains("nothing was heard for 7 s")),
        "{said:?}"
    );
    assert!(
        world.up.status().jobs < 20,
        "nothing is kept for it any more"
    );
    // Slow is not frozen: who answers is waited for.
    let mut world = World::active_with(core_world::config());
    world.paused[1] = true;
    world.write(0, 1, 1);
    world.advance(Span::from_secs(30));
    assert!(world.all_active(), "there is no hurry");
}
