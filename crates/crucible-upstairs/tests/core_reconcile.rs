//! Making replicas equal before use, and what ends it half-way.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{World, address, config, state};
use crucible_protocol::{ClientId, CrucibleError, ExtentId, Message};
use crucible_upstairs::core::{Answer, Command, Mode, Phase, ReplaceResult, ReplicaState, Step};
use vm_types::Span;

/// Three regions, of which the second is ahead in extent 1 and all differ in extent 3.
fn differing() -> World {
    let mut world = World::new();
    world.replicas[1].set(9, 5);
    world.replicas[1].states[1] = state(2, 6, false);
    for (replica, flush) in [(0, 3), (1, 4), (2, 5)] {
        world.replicas[replica].set(30, 10 + flush as u8);
        world.replicas[replica].states[3] = state(2, flush, false);
    }
    world
}

/// Runs until a client is being reconciled.
fn reconciling(world: &mut World) {
    for _ in 0..1000 {
        for client in 0..3 {
            world.step_dial(client);
            world.step_replica(client);
            world.step_upstairs(client);
            if world.up.status().reconciling {
                return;
            }
        }
    }
    panic!("no reconciliation");
}

#[test]
fn extents_that_differ_are_made_equal_and_numbers_go_on_above_the_stamp() {
    let mut world = differing();
    let token = world.activate(3);
    world.run();
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    world.assert_equal();
    assert_eq!(world.replicas[0].fill(9), 5);
    assert_eq!(world.replicas[0].fill(30), 15);
    let status = world.up.status();
    assert_eq!(status.reconcile, (2, 2));
    let stamp = world.sent[1]
        .iter()
        .find_map(|message| match message {
            Message::ExtentFlush {
                flush, generation, ..
            } => Some((*flush, *generation)),
            _ => None,
        })
        .unwrap();
    assert_eq!(stamp, (7, 3));
    assert_eq!(status.next_flush, 8, "the stamp is not used again");
}

#[test]
fn a_dirty_source_is_stamped_and_taken_for_all() {
    let mut world = World::new();
    world.replicas[2].set(0, 1);
    world.replicas[2].states[0].dirty = true;
    world.activate(1);
    world.run();
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[0].states[0], state(1, 1, false));
    assert_eq!(world.up.status().next_flush, 2);
}

#[test]
fn steps_are_numbered_in_a_row_and_go_to_whom_they_concern() {
    let mut config = config();
    config.limits.reconcile_extents = 1;
    let mut world = World::with(config);
    world.replicas[1].states[2] = state(1, 1, false);
    world.activate(2);
    world.run();
    let mut steps = Vec::new();
    for client in 0..3 {
        for message in &world.sent[client] {
            let (repair, what, extent) = match message {
                Message::ExtentFlush { repair, extent, .. } => (repair, "flush", extent),
                Message::ExtentClose { repair, extent } => (repair, "close", extent),
                Message::ExtentRepair {
                    repair,
                    extent,
                    source,
                    source_address,
                    destinations,
                } => {
                    assert_eq!(*source, ClientId(1));
                    assert_eq!(*source_address, core_world::repair_address(1));
                    assert_eq!(*destinations, [ClientId(0), ClientId(2)]);
                    (repair, "repair", extent)
                }
                Message::ExtentReopen { repair, extent } => (repair, "reopen", extent),
                _ => continue,
            };
            assert_eq!(*extent, ExtentId(2));
            steps.push((repair.0, client, what));
        }
    }
    steps.sort_unstable();
    assert_eq!(
        steps,
        [
            (0, 1, "flush"),
            (1, 0, "close"),
            (1, 1, "close"),
            (1, 2, "close"),
            (2, 0, "repair"),
            (2, 2, "repair"),
            (3, 0, "reopen"),
            (3, 1, "reopen"),
            (3, 2, "reopen"),
        ]
    );
}

#[test]
fn several_extents_are_in_flight_but_not_more_than_allowed() {
    let mut config = config();
    config.limits.reconcile_extents = 2;
    let mut world = World::with(config);
    for extent in 0..4 {
        world.replicas[0].states[extent] = state(1, 1, false);
    }
    world.activate(2);
    reconciling(&mut world);
    let flushes = world.sent[0]
        .iter()
        .filter(|message| matches!(message, Message::ExtentFlush { .. }))
        .count();
    assert_eq!(flushes, 2);
    world.run();
    assert!(world.all_active());
    world.assert_equal();
}

#[test]
fn a_lost_replica_makes_all_begin_anew() {
    for victim in 0..3 {
        let mut world = differing();
        let token = world.activate(3);
        reconciling(&mut world);
        world.step_replica(0);
        world.cut(victim);
        for client in 0..3 {
            assert_eq!(
                world.state(client),
                ReplicaState::Connecting {
                    mode: Mode::New,
                    step: Step::WaitConnect
                }
            );
        }
        assert!(!world.up.status().reconciling);
        world.advance(Span::from_secs(5));
        assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
        world.assert_equal();
    }
}

#[test]
fn an_error_makes_all_begin_anew() {
    let mut world = differing();
    let token = world.activate(3);
    reconciling(&mut world);
    let repair = world.sent[1]
        .iter()
        .find_map(|message| match message {
            Message::ExtentFlush { repair, .. } => Some(*repair),
            _ => None,
        })
        .unwrap();
    world.say(
        1,
        Message::ExtentError {
            repair,
            extent: ExtentId(1),
            error: CrucibleError::IoError("bad disk".to_owned()),
        },
    );
    assert!(!world.up.status().reconciling);
    world.advance(Span::from_secs(5));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
}

#[test]
fn an_answer_to_a_step_that_was_not_sent_makes_all_begin_anew() {
    let mut world = differing();
    world.activate(3);
    reconciling(&mut world);
    world.say(
        0,
        Message::RepairAckId {
            repair: crucible_protocol::ReconciliationId(77),
        },
    );
    assert!(!world.up.status().reconciling);
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
}

#[test]
fn a_replacement_in_the_middle_makes_all_begin_anew_with_the_new_one() {
    let mut world = differing();
    let token = world.activate(3);
    reconciling(&mut world);
    let (old, new) = (address(1), address(3));
    let replaced = world.command(Command::Replace { old, new });
    assert_eq!(
        world.answer(replaced),
        Ok(Answer::Replace(ReplaceResult::Started))
    );
    world.advance(Span::from_secs(5));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(30), 15);
}

#[test]
fn two_of_three_reconcile_and_one_who_comes_meanwhile_is_repaired_later() {
    let mut config = config();
    config.degraded_activation = Some(Span::ZERO);
    let mut world = World::with(config);
    world.crash(2);
    world.replicas[0].set(0, 1);
    world.replicas[0].states[0] = state(1, 1, false);
    world.replicas[1].states[1] = state(1, 1, false);
    let token = world.activate(2);
    reconciling(&mut world);
    world.restart(2);
    world.paused = [true, true, false, false];
    world.advance(Span::from_secs(2));
    assert_eq!(
        world.state(2),
        ReplicaState::Connecting {
            mode: Mode::Faulted,
            step: Step::LiveRepairReady
        }
    );
    world.paused = [false; 4];
    world.advance(Span::from_secs(2));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert_eq!(world.up.status().phase, Phase::Active);
    assert!(world.all_active());
    world.assert_equal();
}

#[test]
fn one_who_came_too_late_takes_part_when_one_of_the_two_is_gone() {
    let mut config = config();
    config.degraded_activation = Some(Span::ZERO);
    let mut world = World::with(config);
    world.crash(2);
    world.replicas[0].set(0, 1);
    world.replicas[0].states[0] = state(1, 1, false);
    world.replicas[1].states[1] = state(1, 1, false);
    world.replicas[2].states[1] = state(1, 1, false);
    let token = world.activate(2);
    reconciling(&mut world);
    world.restart(2);
    world.paused = [true, true, false, false];
    world.advance(Span::from_secs(2));
    world.paused = [false; 4];
    world.crash(1);
    world.advance(Span::from_secs(5));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert_eq!(world.state(0), ReplicaState::Active);
    assert_eq!(world.state(2), ReplicaState::Active);
    assert_eq!(world.replicas[2].fill(0), 1);
}
