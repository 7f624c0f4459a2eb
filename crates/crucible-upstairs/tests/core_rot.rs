//! Bad blocks do not spread by copying, and what one region server cannot hold is kept back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{EXTENTS, World, address, config, job};
use crucible_protocol::{CrucibleError, Message};
use crucible_upstairs::core::{Answer, Config, Mode, ReplicaState, VolumeError};
use vm_types::Span;

/// Nobody is kept for replay.
fn forgetful() -> Config {
    let mut config = config();
    config.limits.offline_jobs = 0;
    config
}

/// All extents are written and flushed; then client 1 misses a write to extent 2, and is given up.
fn missed() -> World {
    let mut world = World::active_with(forgetful());
    for extent in 0..u64::from(EXTENTS) {
        world.write(extent * 8, 8, 1);
    }
    world.flush();
    world.run();
    world.crash(1);
    world.write(16, 1, 2);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.forget();
    world
}

fn told(world: &World, words: &str) -> usize {
    let lines = world.reports.iter().map(ToString::to_string);
    lines.filter(|line| line.contains(words)).count()
}

fn is_out(world: &World, client: u8) -> bool {
    matches!(
        world.state(client),
        ReplicaState::Connecting {
            mode: Mode::Faulted,
            ..
        }
    )
}

#[test]
fn a_copy_that_is_refused_is_taken_from_another_and_the_bad_source_is_mended() {
    let mut world = missed();
    // The highest is the source; it has a bad block that nobody has read.
    world.replicas[2].rot(17);
    world.restart(1);
    world.advance(Span::from_secs(30));
    assert!(world.all_active(), "{:?}", world.reports);
    for replica in 0..3 {
        assert_eq!(world.replicas[replica].fill(16), 2);
        assert_eq!(world.replicas[replica].fill(17), 1, "replica {replica}");
    }
    world.assert_equal();
    let source = address(2);
    assert_eq!(
        told(&world, &format!("refused a copy of extent 2 from {source}")),
        2
    );
    let counters = world.up.status().replicas[2].counters;
    assert_eq!(counters.live_repairs_completed, 1, "the source, afterwards");
}

#[test]
fn without_another_source_it_is_said_who_has_what_and_nothing_turns_in_circles() {
    let mut world = missed();
    world.crash(0);
    world.write(24, 1, 2);
    world.run();
    world.replicas[2].rot(17);
    world.restart(1);
    world.advance(Span::from_secs(500));
    assert_eq!(world.state(2), ReplicaState::Active);
    assert!(is_out(&world, 1));
    let words = format!("extent 2 is bad on {}", address(2));
    assert_eq!(told(&world, &words), 1, "{:?}", world.reports);
    assert_eq!(
        told(&world, "live repair begins"),
        2,
        "one refusal may be chance"
    );
    // Reads of what is good go on.
    let read = world.read(16, 1);
    world.run();
    assert_eq!(world.fills(read), [2]);
    // After a while it is tried again; by then the block has been written anew.
    world.replicas[2].set(17, 5);
    world.replicas[2].states[2].flush += 1;
    world.advance(Span::from_secs(200));
    assert_eq!(world.state(1), ReplicaState::Active, "{:?}", world.reports);
    assert_eq!(world.replicas[1].fill(17), 5);
}

#[test]
fn what_nobody_has_can_be_written_anew_and_then_all_are_made_whole() {
    let mut world = missed();
    world.crash(0);
    world.write(24, 1, 2);
    world.run();
    world.replicas[2].rot(17);
    world.restart(1);
    world.advance(Span::from_secs(60));
    assert!(is_out(&world, 1));
    let write = world.write(17, 1, 7);
    world.advance(Span::from_secs(20));
    assert_eq!(world.answer(write), Ok(Answer::Written), "it did not wait");
    assert_eq!(world.state(1), ReplicaState::Active, "{:?}", world.reports);
    world.restart(0);
    world.advance(Span::from_secs(60));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[0].fill(17), 7);
}

#[test]
fn another_source_that_comes_back_ends_the_wait() {
    let mut world = missed();
    // Client 0 is away, and has all extents in good state.
    world.crash(0);
    world.replicas[2].rot(17);
    world.restart(1);
    world.advance(Span::from_secs(60));
    assert!(is_out(&world, 1));
    world.restart(0);
    world.advance(Span::from_secs(60));
    assert!(world.all_active(), "{:?}", world.reports);
    assert_eq!(world.replicas[1].fill(17), 1);
    world.assert_equal();
}

/// A volume whose regions differ in extent 2, in that `newest` have another state.
fn differing(newest: &[usize]) -> World {
    let mut world = World::new();
    for replica in 0..3 {
        for block in 0..u64::from(EXTENTS) * 8 {
            world.replicas[replica].set(block, 1);
        }
        let flush = if newest.contains(&replica) { 9 } else { 8 };
        world.replicas[replica].states[2] = core_world::state(1, flush, false);
    }
    world
}

#[test]
fn before_use_a_refused_copy_is_taken_from_another_with_the_same_state() {
    let mut world = differing(&[0, 1]);
    world.replicas[0].rot(17);
    let token = world.activate(5);
    world.advance(Span::from_secs(20));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[0].fill(17), 1, "mended on the way");
}

#[test]
fn before_use_the_newest_state_has_no_substitute_and_that_is_said() {
    let mut world = differing(&[2]);
    world.replicas[2].rot(17);
    let token = world.activate(5);
    world.advance(Span::from_secs(20));
    let error = world.answer(token).unwrap_err();
    let expected = VolumeError::BadExtent {
        extent: crucible_protocol::ExtentId(2),
        address: address(2),
    };
    assert_eq!(error, expected);
    let words = error.to_string();
    assert!(words.contains("extent 2 is bad"), "{words}");
    assert!(words.contains(&address(2).to_string()), "{words}");
    assert!(matches!(
        error.as_crucible(),
        CrucibleError::RepairFilesInvalid(_)
    ));
}

#[test]
fn no_more_is_sent_than_a_region_server_may_hold_and_repair_passes_what_waits() {
    let mut config = forgetful();
    config.limits.live_repair_extents = 2;
    config.limits.sent_jobs = 3;
    config.limits.sent_bytes = 4 * core_world::BLOCK;
    let mut world = World::active_with(config);
    world.crash(1);
    for extent in 0..u64::from(EXTENTS) {
        world.write(extent * 8, 8, 3);
        world.run();
    }
    world.restart(1);
    let link = world.links[1].as_ref().unwrap();
    world.now = world.now.max(link.not_before);
    while world.state(1) != ReplicaState::LiveRepair {
        let any = world.step_dial(1) | world.step_replica(1) | world.step_upstairs(1);
        assert!(any, "stuck");
    }
    // All of these wait for extents that are being repaired, and fill what may be sent.
    let mut fill = 10;
    for _ in 0..4 {
        for block in 0..16 {
            fill += 1;
            world.write(block, 1, fill);
        }
    }
    world.forget();
    for _ in 0..100_000 {
        let mut any = world.step_cipher(0);
        for client in 0..3 {
            any |=
                world.step_dial(client) | world.step_replica(client) | world.step_upstairs(client);
            let done = &world.replicas[client].done;
            let open = world.sent[client]
                .iter()
                .filter(|message| matches!(message, Message::Write { .. }))
                .filter(|message| job(message).is_some_and(|id| !done.contains(&id)))
                .count();
            assert!(
                open <= 4,
                "client {client} was sent {open} writes it cannot do"
            );
        }
        if !any {
            break;
        }
    }
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "{:?}", world.reports);
    world.flush();
    world.run();
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(15), fill);
}
