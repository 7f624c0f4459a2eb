//! Live repair and replacement: the four jobs of each extent, what waits for what, what the guest may do
//! meanwhile, and every way in which it can break off.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{EXTENTS, World, address, config, dependencies, job};
use crucible_protocol::{ExtentId, Message};
use crucible_upstairs::core::{
    Answer, Command, Config, Mode, ReplaceResult, ReplicaState, Request, VolumeError,
};
use vm_types::Span;

/// One extent in flight, and nobody is kept for replay.
fn strict() -> Config {
    let mut config = config();
    config.limits.live_repair_extents = 1;
    config.limits.offline_jobs = 0;
    config
}

/// Client 1 has missed writes to all extents, and is ready to be repaired; nothing has been sent yet.
fn ready(config: Config) -> World {
    let mut world = World::active_with(config);
    world.crash(1);
    for extent in 0..u64::from(EXTENTS) {
        world.write(extent * 8, 8, extent as u8 + 1);
    }
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.restart(1);
    world.forget();
    let link = world.links[1].as_ref().unwrap();
    world.now = world.now.max(link.not_before);
    world.step_dial(1);
    while world.state(1) != ReplicaState::LiveRepair {
        assert!(world.step_replica(1) | world.step_upstairs(1), "stuck");
    }
    world
}

/// What was sent to a client about live repair: job, kind, extent (99 for no-ops), dependencies.
fn repair_jobs(world: &World, client: usize) -> Vec<(u64, &'static str, u32, Vec<u64>)> {
    let mut jobs: Vec<_> = world.sent[client]
        .iter()
        .filter_map(|message| {
            let (name, extent) = match message {
                Message::ExtentLiveClose { extent, .. } => ("close", extent.0),
                Message::ExtentLiveFlushClose { extent, .. } => ("flush-close", extent.0),
                Message::ExtentLiveRepair { extent, .. } => ("repair", extent.0),
                Message::ExtentLiveReopen { extent, .. } => ("reopen", extent.0),
                Message::ExtentLiveNoOp { .. } => ("no-op", 99),
                _ => return None,
            };
            let waits = dependencies(message).iter().map(|id| id.0).collect();
            Some((job(message)?.0, name, extent, waits))
        })
        .collect();
    jobs.sort();
    jobs
}

#[test]
fn each_extent_takes_four_jobs_in_a_row() {
    let mut world = ready(strict());
    let first = world.up.work().0.last().unwrap().id.0 - 3;
    world.run();
    let (a, b, c, d) = (first, first + 1, first + 2, first + 3);
    assert_eq!(
        repair_jobs(&world, 1)[..4],
        [
            (a, "close", 0, vec![]),
            (b, "repair", 0, vec![a]),
            (c, "no-op", 99, vec![b]),
            (d, "reopen", 0, vec![c]),
        ]
    );
    let whole = &repair_jobs(&world, 0)[..4];
    assert_eq!(whole[0].1, "flush-close");
    assert_eq!(whole[1], (b, "no-op", 99, vec![a]));
    assert_eq!(whole[3], (d, "reopen", 0, vec![c]));
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    world.assert_equal();
    let counters = world.up.status().replicas[1].counters;
    assert_eq!(counters.live_repairs_completed, 1);
    assert_eq!(counters.extents_repaired, u64::from(EXTENTS));
}

#[test]
fn the_highest_whole_replica_is_the_source() {
    let mut world = ready(strict());
    world.run();
    let source = world.sent[1].iter().find_map(|message| match message {
        Message::ExtentLiveRepair {
            source,
            source_address,
            ..
        } => Some((source.0, *source_address)),
        _ => None,
    });
    assert_eq!(source, Some((2, core_world::repair_address(2))));
}

#[test]
fn extents_that_are_equal_are_only_confirmed() {
    let mut config = strict();
    config.limits.offline_jobs = 1000;
    let mut world = World::active_with(config);
    world.write(0, 1, 1);
    world.flush();
    world.run();
    let (old, new) = (address(2), address(3));
    // The newcomer happens to have extents 1 to 3 as they are.
    world.command(Command::Replace { old, new });
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    let counters = world.up.status().replicas[2].counters;
    assert_eq!(
        (counters.extents_repaired, counters.extents_confirmed),
        (1, 3)
    );
}

#[test]
fn several_extents_are_in_flight() {
    let mut config = strict();
    config.limits.live_repair_extents = 3;
    let mut world = ready(config);
    assert_eq!(world.up.work().0.len(), 12);
    assert_eq!(
        world.up.status().replicas[1].extent_limit,
        Some(ExtentId(2))
    );
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    world.assert_equal();
}

/// Where a write goes: sent to the replica under repair or not.
fn goes_to_target(world: &World) -> bool {
    world.sent[1]
        .iter()
        .any(|message| matches!(message, Message::Write { .. }))
}

#[test]
fn writes_below_the_limit_go_to_all_and_wait_for_the_reopening() {
    let mut world = ready(strict());
    world.write(3, 1, 77);
    let id = world.up.work().0.last().unwrap().id.0;
    while world.step_cipher(0) {}
    assert!(goes_to_target(&world));
    let waits = world.sent[1]
        .iter()
        .find_map(|message| match message {
            Message::Write { header, .. } => Some(header.dependencies.clone()),
            _ => None,
        })
        .unwrap();
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].0, id - 1, "the reopening of extent 0");
    world.advance(Span::from_secs(1));
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(3), 77);
}

#[test]
fn writes_above_the_limit_are_left_out_and_come_with_the_copy() {
    let mut world = ready(strict());
    world.write(25, 1, 78);
    while world.step_cipher(0) {}
    assert!(!goes_to_target(&world));
    world.advance(Span::from_secs(1));
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(25), 78);
}

#[test]
fn a_write_that_reaches_past_the_limit_begins_the_repair_of_what_it_reaches() {
    let mut world = ready(strict());
    world.write(6, 12, 79); // Extents 0, 1 and 2.
    while world.step_cipher(0) {}
    assert!(goes_to_target(&world));
    assert_eq!(
        world.up.status().replicas[1].extent_limit,
        Some(ExtentId(2))
    );
    let waits = world.sent[1].iter().find_map(|message| match message {
        Message::Write { header, .. } => Some(header.dependencies.len()),
        _ => None,
    });
    assert_eq!(waits, Some(3), "three reopenings");
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(17), 79);
}

#[test]
fn a_flush_reaches_as_far_as_the_repair_and_is_not_counted_as_whole() {
    let mut world = ready(strict());
    world.paused[2] = true;
    let flush = world.flush();
    let limits: Vec<Option<ExtentId>> = [0, 1]
        .into_iter()
        .map(|client| {
            world.sent[client]
                .iter()
                .find_map(|message| match message {
                    Message::Flush { extent_limit, .. } => Some(*extent_limit),
                    _ => None,
                })
                .unwrap()
        })
        .collect();
    assert_eq!(limits, [None, Some(ExtentId(0))]);
    world.run();
    assert!(!world.is_answered(flush), "one whole replica is to come");
    world.paused[2] = false;
    world.advance(Span::from_secs(1));
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
}

#[test]
fn a_snapshot_during_a_repair_fails_at_once_since_one_would_have_only_a_part() {
    let snapshot = |world: &mut World, name: &str| {
        world.request(Request::Flush {
            snapshot: Some(name.to_owned()),
        })
    };
    let mut world = ready(strict());
    let early = snapshot(&mut world, "early");
    world.run();
    assert_eq!(
        world.answer(early),
        Err(VolumeError::SnapshotFailed { failed: 1 })
    );
    assert!(world.all_active());
    let late = snapshot(&mut world, "late");
    world.run();
    assert_eq!(world.answer(late), Ok(Answer::Flushed));
}

#[test]
fn a_replica_under_repair_is_not_read_from() {
    let mut world = ready(strict());
    for _ in 0..200 {
        world.read(30, 1);
    }
    assert!(
        world.sent[1]
            .iter()
            .all(|message| !matches!(message, Message::ReadRequest { .. }))
    );
}

#[test]
fn no_id_from_before_the_repair_reaches_its_target() {
    let mut world = ready(strict());
    let first = world.up.work().0.last().unwrap().id.0 - 3;
    for round in 0..40 {
        world.write(round % 30, 2, round as u8 + 1);
        for _ in 0..3 {
            world.step_cipher(0);
            for client in 0..3 {
                world.step_replica(client);
                world.step_upstairs(client);
            }
        }
    }
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    world.assert_equal();
    let mut named = 0;
    for message in &world.sent[1] {
        for id in dependencies(message) {
            assert!(id.0 >= first, "{id} in {message:?}");
            named += 1;
        }
    }
    assert!(named > 40);
}

/// Breaks the repair when the job that `is_there` describes has reached the replica under repair, goes on, and
/// expects that all ends well.
fn break_off(is_there: fn(&Message) -> bool, how: fn(&mut World)) {
    let mut world = ready(strict());
    let mut broken = false;
    for _ in 0..2_000 {
        if !broken && world.sent[1].iter().any(is_there) {
            broken = true;
            how(&mut world);
            assert_eq!(
                world.up.status().replicas[1].counters.live_repairs_aborted,
                1
            );
            assert!(matches!(
                world.state(1),
                ReplicaState::Connecting {
                    mode: Mode::Faulted,
                    ..
                }
            ));
            world.write(0, 32, 0x42);
            let flush = world.flush();
            world.run();
            assert_eq!(
                world.answer(flush),
                Ok(Answer::Flushed),
                "the guest goes on"
            );
            break;
        }
        for client in 0..3 {
            world.step_replica(client);
            world.step_upstairs(client);
        }
    }
    assert!(broken);
    world.advance(Span::from_secs(20));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[1].fill(31), 0x42);
    assert_eq!(world.up.status().jobs, 0);
}

const CLOSE: fn(&Message) -> bool = |message| matches!(message, Message::ExtentLiveClose { .. });
const REPAIR: fn(&Message) -> bool = |message| matches!(message, Message::ExtentLiveRepair { .. });
const NO_OP: fn(&Message) -> bool = |message| matches!(message, Message::ExtentLiveNoOp { .. });
const LAST_REOPEN: fn(&Message) -> bool =
    |message| matches!(message, Message::ExtentLiveReopen { extent, .. } if extent.0 == 3);
const LAST_FLUSH: fn(&Message) -> bool = |message| matches!(message, Message::Flush { .. });

#[test]
fn a_target_that_is_lost_at_any_step_is_repaired_from_the_start() {
    for step in [CLOSE, REPAIR, NO_OP, LAST_REOPEN, LAST_FLUSH] {
        break_off(step, |world| world.cut(1));
    }
}

#[test]
fn a_target_that_crashes_at_any_step_is_repaired_from_the_start() {
    for step in [CLOSE, REPAIR, NO_OP, LAST_REOPEN, LAST_FLUSH] {
        break_off(step, |world| {
            world.crash(1);
            world.restart(1);
        });
    }
}

#[test]
fn a_step_that_fails_at_the_target_costs_the_target() {
    for step in [CLOSE, REPAIR, NO_OP, LAST_REOPEN] {
        break_off(step, |world| {
            let (jobs, _) = world.up.work();
            let id = jobs[0].id;
            let key = world.up.status().key;
            let error = crucible_protocol::CrucibleError::IoError("bad disk".to_owned());
            let open = jobs
                .iter()
                .find(|job| job.states[1] == crucible_upstairs::core::JobState::Sent)
                .map_or(id, |job| job.id);
            let job = open;
            world.say(1, Message::ErrorReport { key, job, error });
        });
    }
}

#[test]
fn a_write_that_fails_at_the_target_for_a_moment_costs_nothing() {
    let mut world = ready(strict());
    world.replicas[1].fails = Some(|message| matches!(message, Message::Write { .. }));
    world.write(0, 1, 8);
    world.run();
    assert_eq!(world.state(1), ReplicaState::LiveRepair);
    world.replicas[1].fails = None;
    world.write(0, 1, 9);
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(
        world.up.status().replicas[1].counters.live_repairs_aborted,
        0
    );
}

#[test]
fn a_target_that_copies_may_be_silent_for_longer() {
    let mut world = ready(strict());
    let is_copy = |message: &Message| matches!(message, Message::ExtentLiveRepair { .. });
    while !world.sent[1].iter().any(is_copy) {
        assert!((0..3).any(|client| world.step_replica(client) | world.step_upstairs(client)));
    }
    world.paused[1] = true;
    for round in 0..20 {
        world.write(0, 1, round);
        world.advance(Span::from_secs(1));
    }
    assert_eq!(world.state(1), ReplicaState::LiveRepair);
    world.paused[1] = false;
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(
        world.up.status().replicas[1].counters.live_repairs_aborted,
        0
    );
}

#[test]
fn a_source_that_is_away_for_a_moment_costs_nothing_but_time() {
    for moment in 0..30 {
        let mut world = ready(strict());
        for _ in 0..moment {
            for client in 0..3 {
                world.step_replica(client);
                world.step_upstairs(client);
            }
        }
        world.cut(2);
        world.write(5, 20, 0x33);
        world.advance(Span::from_secs(20));
        assert!(world.all_active(), "cut at {moment}");
        world.assert_equal();
        assert_eq!(world.replicas[1].fill(24), 0x33);
        assert_eq!(world.up.status().jobs, 0);
    }
}

#[test]
fn two_replicas_that_were_given_up_are_both_repaired() {
    let mut world = World::active_with(strict());
    world.crash(0);
    world.write(0, 16, 3);
    world.run();
    assert!(!world.all_active());
    let failing: fn(&Message) -> bool = |message| matches!(message, Message::Write { .. });
    world.replicas[1].fails = Some(failing);
    for _ in 0..3 {
        world.write(20, 8, 4);
        world.run();
    }
    world.pass(Span::from_secs(1));
    for client in [0, 1] {
        assert!(matches!(
            world.state(client),
            ReplicaState::Connecting {
                mode: Mode::Faulted,
                ..
            }
        ));
    }
    assert_eq!(world.state(2), ReplicaState::Active);
    world.replicas[1].fails = None;
    world.restart(0);
    world.advance(Span::from_secs(20));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[0].fill(20), 4);
}

#[test]
fn a_flush_that_two_replicas_were_lost_under_is_done_again_when_they_are_whole() {
    let mut world = World::active_with(strict());
    world.crash(0);
    world.write(0, 16, 3);
    world.run();
    // The second fails while the flush is on its way; the third has done it.
    world.replicas[1].fails = Some(|message| matches!(message, Message::Flush { .. }));
    let flush = world.flush();
    world.run();
    assert!(
        !world.is_answered(flush),
        "the data is on one disk: neither durable nor lost"
    );
    world.replicas[1].fails = None;
    world.restart(0);
    world.advance(Span::from_secs(20));
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    assert!(world.all_active());
    world.assert_equal();
}

#[test]
fn the_last_whole_replica_is_not_given_up_for_a_step_that_fails() {
    let mut config = strict();
    config.degraded_activation = Some(Span::ZERO);
    let mut world = World::active_with(config);
    world.write(0, 32, 1);
    world.flush();
    world.run();
    world.crash(0);
    world.write(0, 32, 2);
    world.run();
    // The third is given up, too; the second alone is whole, and fails to close an extent.
    world.replicas[2].fails = Some(|message| matches!(message, Message::Write { .. }));
    for _ in 0..3 {
        world.write(0, 32, 3);
        world.run();
    }
    world.pass(Span::from_secs(1));
    world.crash(2);
    world.replicas[1].fails =
        Some(|message| matches!(message, Message::ExtentLiveFlushClose { .. }));
    world.restart(0);
    world.advance(Span::from_secs(10));
    assert_eq!(world.state(1), ReplicaState::Active);
    assert_eq!(world.state(0), ReplicaState::LiveRepair);
    world.replicas[1].fails = None;
    world.replicas[2].fails = None;
    world.restart(2);
    world.cut(1); // It is away for a moment, and does what it failed to do.
    world.advance(Span::from_secs(30));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[0].fill(31), 3);
}

#[test]
fn when_all_were_given_up_they_are_made_equal_as_at_activation() {
    let mut config = strict();
    config.relief = crucible_upstairs::core::Relief::Barrier;
    config.limits.relief_jobs = 1;
    let mut world = World::active_with(config);
    world.write(0, 8, 9);
    world.run();
    assert_eq!(world.up.status().counters.barriers, 1);
    for client in 0..3 {
        world.cut(client);
    }
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    let read = world.read(0, 1);
    world.run();
    assert_eq!(world.fills(read), [9]);
    world.assert_equal();
}

// Replacement.

fn replace(world: &mut World, old: usize, new: usize) -> Result<Answer, VolumeError> {
    let (old, new) = (address(old), address(new));
    let token = world.command(Command::Replace { old, new });
    world.answer(token)
}

#[test]
fn a_replacement_gets_all_data_while_the_guest_goes_on() {
    let mut world = World::active();
    world.write(0, 32, 1);
    world.run();
    assert_eq!(
        replace(&mut world, 1, 3),
        Ok(Answer::Replace(ReplaceResult::Started))
    );
    world.write(9, 4, 2);
    assert_eq!(
        replace(&mut world, 1, 3),
        Ok(Answer::Replace(ReplaceResult::StartedAlready))
    );
    world.advance(Span::from_secs(2));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(10), 2);
    assert_eq!(
        replace(&mut world, 1, 3),
        Ok(Answer::Replace(ReplaceResult::CompletedAlready))
    );
}

#[test]
fn who_is_replaced_stays_until_the_others_have_what_was_flushed_with_its_help() {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.paused[2] = true;
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed), "on 0 and 1");
    let started = Ok(Answer::Replace(ReplaceResult::Started));
    assert_eq!(replace(&mut world, 1, 3), started);
    let again = Ok(Answer::Replace(ReplaceResult::StartedAlready));
    assert_eq!(replace(&mut world, 1, 3), again);
    assert!(matches!(
        replace(&mut world, 0, 3),
        Err(VolumeError::ReplaceRefused(_))
    ));
    world.run();
    assert_eq!(world.state(1), ReplicaState::Active);
    // What is flushed meanwhile does not rely on it.
    world.write(1, 1, 2);
    let later = world.flush();
    world.run();
    assert!(!world.is_answered(later));
    world.paused[2] = false;
    world.advance(Span::from_secs(2));
    assert_eq!(world.answer(later), Ok(Answer::Flushed));
    assert!(world.all_active());
    assert_eq!(world.links[1].as_ref().unwrap().replica, 3);
    world.assert_equal();
}

#[test]
fn a_replacement_that_waits_when_the_volume_is_let_go_is_done_at_the_next_activation() {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.paused[2] = true;
    world.flush();
    world.run();
    let started = Ok(Answer::Replace(ReplaceResult::Started));
    assert_eq!(replace(&mut world, 1, 3), started);
    world.command(Command::ShutDown);
    world.paused[2] = false;
    let up = world.activate(2);
    world.run();
    assert!(matches!(world.answer(up), Ok(Answer::Activated(_))));
    assert_eq!(world.links[1].as_ref().unwrap().replica, 3);
    world.assert_equal();
}

#[test]
fn replacements_that_make_no_sense_are_told_apart() {
    let mut world = World::active();
    assert_eq!(
        replace(&mut world, 1, 1),
        Ok(Answer::Replace(ReplaceResult::VcrMatches))
    );
    assert!(matches!(
        replace(&mut world, 0, 1),
        Err(VolumeError::ReplaceRefused(_))
    ));
    assert_eq!(
        replace(&mut world, 3, 3),
        Ok(Answer::Replace(ReplaceResult::VcrMatches))
    );
    let (old, new) = (address(3), "127.0.0.1:9".parse().unwrap());
    let token = world.command(Command::Replace { old, new });
    assert_eq!(
        world.answer(token),
        Ok(Answer::Replace(ReplaceResult::Missing))
    );
}

#[test]
fn a_replacement_is_refused_while_another_replica_is_not_whole() {
    let mut world = World::active();
    world.crash(0);
    assert!(matches!(
        replace(&mut world, 1, 3),
        Err(VolumeError::ReplaceRefused(_))
    ));
    assert_eq!(
        replace(&mut world, 0, 3),
        Ok(Answer::Replace(ReplaceResult::Started)),
        "the broken one itself may go"
    );
    world.advance(Span::from_secs(2));
    assert!(world.all_active());
}

#[test]
fn a_replacement_before_activation_changes_whom_to_dial() {
    let mut world = World::new();
    assert_eq!(
        replace(&mut world, 2, 3),
        Ok(Answer::Replace(ReplaceResult::Started))
    );
    let token = world.activate(1);
    world.run();
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert_eq!(world.links[2].as_ref().unwrap().replica, 3);
}
