//! Activation, generations, refusals, fencing, deactivation, read-only volumes, two of three.
//! The table in `BEHAVIOURS.md` says which rows of the specification's section 10 these are.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{World, config, state};
use crucible_protocol::{ClientId, Geometry, Message, SessionId, SessionKey, UpstairsId};
use crucible_upstairs::core::{
    Action, Answer, Command, Event, LinkLoss, Mismatch, Mode, Phase, ReplicaState, Report, Request,
    Step, Token, VolumeError,
};
use uuid::Uuid;
use vm_types::{Moment, Span};

fn connecting(mode: Mode, step: Step) -> ReplicaState {
    ReplicaState::Connecting { mode, step }
}

#[test]
fn nothing_is_dialed_before_activation() {
    let mut world = World::new();
    world.advance(Span::from_secs(100));
    assert!(world.links.iter().all(Option::is_none));
    assert_eq!(world.up.deadline(), None);
    let read = world.read(0, 1);
    assert_eq!(world.answer(read), Err(VolumeError::Inactive));
}

#[test]
fn activation_waits_for_the_third() {
    let mut world = World::new();
    world.crash(2);
    let token = world.activate(1);
    world.advance(Span::from_secs(60));
    assert!(!world.is_answered(token));
    assert_eq!(world.state(0), connecting(Mode::New, Step::WaitQuorum));
    assert_eq!(world.up.status().phase, Phase::Activating);
    world.restart(2);
    world.advance(Span::from_secs(11));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert!(world.all_active());
}

#[test]
fn two_of_three_are_enough_where_configured_and_the_third_is_repaired() {
    let mut config = config();
    config.degraded_activation = Some(Span::from_secs(5));
    let mut world = World::with(config);
    world.replicas[0].set(3, 9);
    world.replicas[1].set(3, 9);
    for replica in 0..2 {
        world.replicas[replica].states[0] = state(4, 7, false);
    }
    world.crash(2);
    let token = world.activate(5);
    world.advance(Span::from_secs(4));
    assert!(!world.is_answered(token), "the third gets its time");
    world.advance(Span::from_secs(2));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    assert_eq!(world.up.status().next_flush, 8);
    let read = world.read(3, 1);
    world.run();
    assert_eq!(world.fills(read), [9]);
    let write = world.write(9, 1, 4);
    assert_eq!(world.answer(write), Ok(Answer::Written));
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.restart(2);
    world.advance(Span::from_secs(20));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[2].fill(3), 9);
}

#[test]
fn generation_zero_is_refused() {
    let mut world = World::new();
    let token = world.activate(0);
    assert_eq!(world.answer(token), Err(VolumeError::GenerationZero));
}

#[test]
fn a_generation_must_be_higher_than_any_on_the_disks_and_both_are_named() {
    let mut world = World::new();
    world.replicas[1].states[2] = state(5, 1, false);
    let token = world.activate(5);
    world.run();
    let error = world.answer(token).unwrap_err();
    assert_eq!(
        error,
        VolumeError::GenerationTooLow {
            requested: 5,
            found: 5
        }
    );
    assert_eq!(
        error.to_string(),
        "generation 5 is too low: the regions were used at 5 or later; use 6 or higher"
    );
    let read = world.read(0, 1);
    assert!(matches!(world.answer(read), Err(VolumeError::Stopped(_))));
    let again = world.activate(6);
    world.run();
    assert!(matches!(world.answer(again), Ok(Answer::Activated(_))));
}

#[test]
fn a_second_activation_is_refused() {
    let mut world = World::new();
    world.activate(1);
    let second = world.activate(2);
    assert_eq!(world.answer(second), Err(VolumeError::Activating));
    world.run();
    let third = world.activate(3);
    assert_eq!(
        world.answer(third),
        Err(VolumeError::Active { generation: 1 })
    );
}

#[test]
fn an_encrypted_region_is_refused_by_a_plain_volume() {
    let mut world = World::new();
    world.replicas[1].region.encrypted = true;
    let token = world.activate(1);
    world.run();
    assert!(matches!(
        world.answer(token),
        Err(VolumeError::Mismatch {
            client: ClientId(1),
            mismatch: Mismatch::Encryption {
                ours: false,
                theirs: true
            },
            ..
        })
    ));
    assert!(world.links.iter().all(Option::is_none));
}

#[test]
fn a_region_server_in_the_other_mode_is_refused() {
    let mut world = World::new();
    world.replicas[0].read_only = true;
    let token = world.activate(1);
    world.run();
    assert!(matches!(
        world.answer(token),
        Err(VolumeError::Mismatch {
            mismatch: Mismatch::ReadOnly {
                ours: false,
                theirs: true
            },
            ..
        })
    ));
}

#[test]
fn another_geometry_is_refused_and_both_are_named() {
    let mut config = config();
    config.geometry = Some(Geometry::new(512, 8, 5).unwrap());
    let mut world = World::with(config);
    let token = world.activate(1);
    world.run();
    let error = world.answer(token).unwrap_err().to_string();
    assert!(
        error.contains("4 extents of 8 blocks of 512 bytes, expected are 5 extents"),
        "{error}"
    );
}

#[test]
fn three_distinct_regions_are_needed() {
    let mut world = World::new();
    world.replicas[2].region.uuid = world.replicas[0].region.uuid;
    let token = world.activate(1);
    world.run();
    assert!(matches!(
        world.answer(token),
        Err(VolumeError::Mismatch {
            mismatch: Mismatch::SameRegion { .. },
            ..
        })
    ));
}

#[test]
fn another_region_on_reconnect_is_refused_and_the_others_go_on() {
    let mut world = World::active();
    world.crash(1);
    world.replicas[1].region.uuid = Uuid::from_u128(999);
    world.restart(1);
    world.advance(Span::from_secs(5));
    assert_eq!(world.state(1), connecting(Mode::Offline, Step::WaitConnect));
    let told = world.up.status().replicas[1].last_loss.clone().unwrap();
    assert!(told.contains("a replacement must be asked for"), "{told}");
    let read = world.read(0, 1);
    world.run();
    assert!(world.is_answered(read));
}

#[test]
fn another_version_is_dropped_and_tried_again() {
    let mut world = World::new();
    world.replicas[1].version = 14;
    let token = world.activate(1);
    world.advance(Span::from_secs(3));
    assert!(!world.is_answered(token));
    let told = world.up.status().replicas[1].last_loss.clone().unwrap();
    assert!(told.contains("version 14"), "{told}");
    world.replicas[1].version = 13;
    world.advance(Span::from_secs(10));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
}

#[test]
fn a_message_out_of_order_drops_the_link() {
    let mut world = World::new();
    world.activate(1);
    world.step_dial(0);
    world.say(
        0,
        Message::ExtentVersions {
            generations: vec![],
            flushes: vec![],
            dirty: vec![],
        },
    );
    assert_eq!(world.state(0), connecting(Mode::New, Step::WaitConnect));
}

#[test]
fn extent_versions_of_the_wrong_length_drop_the_link() {
    let mut world = World::new();
    world.activate(1);
    world.paused = [true; 4];
    world.step_dial(0);
    world.paused = [false; 4];
    while world.state(0) != connecting(Mode::New, Step::GetExtentVersions) {
        world.step_replica(0);
        world.step_upstairs(0);
    }
    world.say(
        0,
        Message::ExtentVersions {
            generations: vec![1; 4],
            flushes: vec![1; 3],
            dirty: vec![false; 4],
        },
    );
    assert_eq!(world.state(0), connecting(Mode::New, Step::WaitConnect));
}

#[test]
fn end_of_file_after_promotion_is_told_as_a_generation_that_may_be_too_low() {
    let mut world = World::new();
    world.activate(3);
    world.step_dial(0);
    while world.state(0) != connecting(Mode::New, Step::WaitForPromote) {
        world.step_replica(0);
        world.step_upstairs(0);
    }
    world.cut(0);
    let told = world.reports.iter().any(|report| {
        matches!(report, Report::Replica { reason, .. }
            if reason.contains("generation 3") && reason.contains("use a higher one"))
    });
    assert!(told, "{:?}", world.reports);
}

#[test]
fn two_that_refuse_the_generation_again_and_again_end_the_activation() {
    let mut world = World::new();
    let token = world.activate(3);
    for _ in 0..60 {
        for client in [0, 2] {
            world.step_dial(client);
            for _ in 0..10 {
                if world.state(client as u8) == connecting(Mode::New, Step::WaitForPromote) {
                    world.cut(client);
                }
                world.step_replica(client);
                world.step_upstairs(client);
            }
        }
        if world.is_answered(token) {
            break;
        }
        world.pass(Span::from_secs(1));
    }
    assert_eq!(
        world.answer(token),
        Err(VolumeError::GenerationTooLow {
            requested: 3,
            found: 3
        })
    );
}

fn no_longer_active(new_generation: u64) -> Message {
    Message::YouAreNoLongerActive {
        new_key: SessionKey {
            upstairs: UpstairsId(Uuid::from_u128(7)),
            session: SessionId(Uuid::from_u128(55)),
        },
        new_generation,
    }
}

#[test]
fn a_higher_generation_fences_at_once() {
    let mut world = World::active();
    world.say(1, no_longer_active(2));
    assert_eq!(world.up.status().phase, Phase::Inactive);
    assert!(matches!(
        world.up.status().stopped,
        Some(VolumeError::TakenOver {
            generation: Some(2),
            ..
        })
    ));
    assert!(world.links.iter().all(Option::is_none));
    let read = world.read(0, 1);
    assert!(matches!(world.answer(read), Err(VolumeError::Stopped(_))));
}

/// Clients 0 and 1 of three are ready, and what the world has for 0 and says stays on its way.
fn two_ready_and_one_of_them_silent() -> (World, Token) {
    let mut config = config();
    config.degraded_activation = Some(Span::ZERO);
    let mut world = World::with(config);
    world.crash(1);
    world.crash(2);
    let token = world.activate(1);
    world.run();
    assert_eq!(world.state(0), connecting(Mode::New, Step::WaitQuorum));
    world.paused[0] = true;
    world.restart(1);
    world.advance(Span::from_secs(2));
    (world, token)
}

#[test]
fn what_a_replica_said_before_another_took_over_is_not_relied_on() {
    let (mut world, token) = two_ready_and_one_of_them_silent();
    assert!(!world.is_answered(token), "0 may have been taken over");
    world.say(0, no_longer_active(9));
    assert_eq!(
        world.answer(token),
        Err(VolumeError::TakenOver {
            upstairs: Uuid::from_u128(7),
            generation: Some(9),
        })
    );
}

#[test]
fn one_that_is_silent_when_the_volume_is_about_to_be_used_is_left_out_after_seven_seconds() {
    let (mut world, token) = two_ready_and_one_of_them_silent();
    world.advance(Span::from_secs(6));
    assert_ne!(world.state(0), connecting(Mode::New, Step::Reconcile));
    let told = world.up.status().replicas[0].last_loss.clone().unwrap();
    assert!(told.contains("the volume waits for it"), "{told}");
    assert_eq!(world.state(1), connecting(Mode::New, Step::WaitQuorum));
    world.restart(2);
    world.advance(Span::from_secs(11));
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    world.paused[0] = false;
    world.advance(Span::from_secs(60));
    assert!(world.all_active());
}

#[test]
fn a_second_connection_of_our_own_does_not_fence() {
    let mut world = World::active();
    let own = Message::YouAreNoLongerActive {
        new_key: world.up.status().key,
        new_generation: 1,
    };
    for replica in [1_u8, 2] {
        world.say(usize::from(replica), own.clone());
        assert_eq!(world.up.status().phase, Phase::Active);
        assert!(matches!(
            world.state(replica),
            ReplicaState::Connecting {
                mode: Mode::Offline,
                ..
            }
        ));
    }
}

#[test]
fn one_replica_alone_does_not_fence_with_the_same_generation_but_two_do() {
    let mut world = World::active();
    world.say(1, no_longer_active(1));
    assert_eq!(world.up.status().phase, Phase::Active);
    assert!(matches!(
        world.state(1),
        ReplicaState::Connecting {
            mode: Mode::Faulted,
            ..
        }
    ));
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "promoted again, and repaired");
    world.say(1, no_longer_active(1));
    let expected = Uuid::from_u128(66);
    world.say(2, Message::UuidMismatch { expected });
    assert_eq!(world.up.status().phase, Phase::Inactive);
}

#[test]
fn deactivation_flushes_and_lets_go() {
    let mut world = World::active();
    world.write(0, 4, 3);
    let token = world.command(Command::Deactivate);
    let late = world.write(5, 1, 1);
    assert_eq!(world.answer(late), Err(VolumeError::Deactivating));
    world.run();
    assert_eq!(world.answer(token), Ok(Answer::Deactivated));
    assert!(world.links.iter().all(Option::is_none));
    assert!(!world.replicas[0].states[0].dirty);
    assert_eq!(world.replicas[0].states[0], state(1, 1, false));
    let again = world.command(Command::Deactivate);
    assert_eq!(world.answer(again), Err(VolumeError::Inactive));
    let up = world.activate(2);
    world.run();
    assert!(matches!(world.answer(up), Ok(Answer::Activated(_))));
    let read = world.read(0, 1);
    world.run();
    assert_eq!(world.fills(read), [3]);
}

#[test]
fn deactivation_waits_for_all_who_are_there_and_for_none_who_is_away() {
    let mut world = World::active();
    world.write(0, 1, 3);
    world.run();
    world.crash(0);
    world.paused[1] = true;
    let token = world.command(Command::Deactivate);
    world.run();
    assert!(!world.is_answered(token));
    world.paused[1] = false;
    world.run();
    assert_eq!(world.answer(token), Ok(Answer::Deactivated));
}

#[test]
fn deactivation_while_activating_answers_both() {
    let mut world = World::new();
    let up = world.activate(1);
    let down = world.command(Command::Deactivate);
    assert_eq!(world.answer(up), Err(VolumeError::Deactivating));
    assert_eq!(world.answer(down), Ok(Answer::Deactivated));
}

#[test]
fn shutting_down_answers_everything() {
    let mut world = World::active();
    world.paused = [true; 4];
    let read = world.read(0, 1);
    let flush = world.flush();
    let down = world.command(Command::ShutDown);
    assert_eq!(world.answer(read), Err(VolumeError::ShutDown));
    assert_eq!(world.answer(flush), Err(VolumeError::ShutDown));
    assert_eq!(world.answer(down), Ok(Answer::ShutDown));
    assert_eq!(world.up.deadline(), None);
}

fn read_only() -> World {
    let mut config = config();
    config.read_only = true;
    let mut world = World::with(config);
    for replica in &mut world.replicas {
        replica.read_only = true;
        replica.set(5, 0x55);
    }
    world
}

#[test]
fn a_read_only_volume_is_active_with_one_and_the_others_join() {
    let mut world = read_only();
    world.crash(1);
    world.crash(2);
    let token = world.activate(0);
    world.run();
    assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
    let read = world.read(5, 1);
    world.run();
    assert_eq!(world.fills(read), [0x55]);
    world.restart(1);
    world.restart(2);
    world.advance(Span::from_secs(15));
    assert!(world.all_active());
}

#[test]
fn a_read_only_volume_takes_no_writes_and_its_flushes_do_nothing() {
    let mut world = read_only();
    world.activate(0);
    world.run();
    world.forget();
    let write = world.write(0, 1, 1);
    assert_eq!(world.answer(write), Err(VolumeError::ReadOnly));
    let flush = world.flush();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    let snapshot = world.request(Request::Flush {
        snapshot: Some("a".to_owned()),
    });
    assert_eq!(world.answer(snapshot), Err(VolumeError::ReadOnly));
    world.advance(Span::from_secs(60));
    for sent in &world.sent {
        assert!(sent.iter().all(|message| *message == Message::Ruok));
    }
}

#[test]
fn many_reads_of_a_read_only_volume_bring_a_barrier_so_that_peers_may_forget() {
    let mut config = config();
    config.read_only = true;
    config.limits.relief_jobs = 10;
    let mut world = World::with(config);
    for replica in &mut world.replicas {
        replica.read_only = true;
    }
    world.activate(0);
    world.run();
    for _ in 0..35 {
        world.read(0, 4);
        world.run();
    }
    assert_eq!(world.up.status().counters.barriers, 3);
    assert_eq!(world.up.status().jobs, 0);
    let flushed = world
        .sent
        .iter()
        .flatten()
        .any(|message| matches!(message, Message::Flush { .. }));
    assert!(!flushed);
}

#[test]
fn a_read_only_replica_that_comes_back_is_used_again() {
    let mut world = read_only();
    world.activate(0);
    world.run();
    world.crash(0);
    let read = world.read(5, 1);
    world.run();
    assert_eq!(world.fills(read), [0x55]);
    world.restart(0);
    world.advance(Span::from_secs(15));
    assert!(world.all_active());
}

#[test]
fn pings_go_out_every_five_seconds_and_silence_ends_the_link() {
    let mut world = World::active();
    world.paused[2] = true;
    world.advance(Span::from_secs(44));
    let pings = world.sent[0]
        .iter()
        .filter(|message| **message == Message::Ruok)
        .count();
    assert_eq!(pings, 8);
    assert!(world.all_active());
    world.advance(Span::from_secs(1));
    assert!(matches!(
        world.state(2),
        ReplicaState::Connecting {
            mode: Mode::Offline,
            ..
        }
    ));
}

#[test]
fn reconnects_back_off_from_a_tenth_of_a_second_to_ten() {
    let mut world = World::new();
    for replica in 0..3 {
        world.crash(replica);
    }
    world.activate(1);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let link = world.links[0].as_ref().unwrap();
        delays.push(link.not_before.since(world.now).as_nanos() / 1_000_000);
        world.now = link.not_before;
        world.step_dial(0);
    }
    assert_eq!(delays[0], 0);
    for (delay, full) in delays[1..]
        .iter()
        .zip([100, 200, 400, 800, 1600, 3200, 6400])
    {
        assert!((full / 2..=full).contains(delay), "{delay} of {full}");
    }
    assert!(
        delays[8..]
            .iter()
            .all(|delay| (5_000..=10_000).contains(delay))
    );
}

#[test]
fn a_peer_that_hangs_up_after_promotion_or_replay_is_not_dialed_in_a_storm() {
    let mut before_use = World::new();
    before_use.crash(2);
    before_use.activate(1);
    before_use.run();
    for mut world in [before_use, World::active()] {
        let begin = world.now;
        let mut connections = 0;
        while world.now.since(begin) < Span::from_secs(120) {
            world.cut(0);
            world.advance(Span::from_millis(10));
            while world.links[0].as_ref().unwrap().not_before > world.now {
                world.advance(Span::from_millis(10));
            }
            world.run();
            let is_connected = matches!(
                world.state(0),
                ReplicaState::Active
                    | ReplicaState::Connecting {
                        step: Step::WaitQuorum | Step::LiveRepairReady,
                        ..
                    }
            );
            assert!(is_connected, "{:?}", world.state(0));
            connections += 1;
        }
        assert!((15..=35).contains(&connections), "{connections} in 120 s");
    }
}

#[test]
fn news_of_an_old_link_means_nothing() {
    let mut world = World::active();
    let old = world.links[0].as_ref().unwrap().id;
    world.cut(0);
    world.advance(Span::from_secs(1));
    assert!(world.all_active());
    let client = ClientId(0);
    for event in [
        Event::LinkDown {
            client,
            link: old,
            loss: LinkLoss::Closed,
        },
        Event::Frame {
            client,
            link: old,
            message: no_longer_active(9),
        },
        Event::LinkUp { client, link: old },
        Event::Drained { client, link: old },
        Event::Frame {
            client: ClientId(7),
            link: old,
            message: Message::Imok,
        },
    ] {
        world.event(event);
    }
    assert!(world.all_active());
}

#[test]
fn a_dial_without_an_end_is_given_up() {
    let mut world = World::new();
    let mut actions = Vec::new();
    let command = Command::Activate { generation: 1 };
    let token = world.token();
    world.up.handle(
        Moment::START,
        Event::Command { token, command },
        &mut actions,
    );
    actions.clear();
    let late = Moment::START.after(Span::from_secs(10));
    assert_eq!(world.up.deadline(), Some(late));
    world.up.handle(late, Event::Time, &mut actions);
    let hung = actions
        .iter()
        .filter(|action| matches!(action, Action::HangUp { .. }))
        .count();
    let dialed = actions
        .iter()
        .filter(|action| matches!(action, Action::Dial { .. }))
        .count();
    assert_eq!((hung, dialed), (3, 3));
}

#[test]
fn what_our_own_flushes_put_on_one_disk_only_is_not_called_safe_when_the_volume_is_let_go() {
    for is_repaired in [false, true] {
        let mut config = config();
        config.limits.offline_jobs = 0;
        let mut world = World::active_with(config);
        for replica in 0..2 {
            world.replicas[replica].fails =
                Some(|message| matches!(message, Message::Write { .. }));
        }
        for _ in 0..4 {
            world.write(0, 1, 3);
            world.run();
        }
        world.pass(Span::from_secs(1));
        for replica in 0..2 {
            world.crash(replica);
            world.replicas[replica].fails = None;
        }
        // A flush of our own comes, and then nothing of the write is left to be told.
        world.advance(Span::from_secs(3));
        assert_eq!(world.state(2), ReplicaState::Active);
        assert!(world.up.work().0.is_empty(), "{:?}", world.up.work());
        if is_repaired {
            world.restart(0);
            world.advance(Span::from_secs(20));
            assert_eq!(world.state(0), ReplicaState::Active);
        }
        let down = world.command(Command::Deactivate);
        world.run();
        let expected = if is_repaired {
            Ok(Answer::Deactivated)
        } else {
            Err(VolumeError::FlushFailed { failed: 2 })
        };
        assert_eq!(world.answer(down), expected);
    }
}

#[test]
fn deactivation_does_not_wait_long_for_one_that_says_nothing_when_two_have_everything() {
    for hung in 1..3 {
        let mut world = World::active();
        world.write(0, 1, 3);
        world.run();
        for replica in 0..hung {
            world.paused[replica] = true;
        }
        let token = world.command(Command::Deactivate);
        world.advance(Span::from_millis(2_900));
        assert!(!world.is_answered(token));
        world.advance(Span::from_millis(200));
        if hung == 1 {
            assert_eq!(world.answer(token), Ok(Answer::Deactivated));
            let told = world.reports.iter().map(ToString::to_string);
            let address = core_world::address(0).to_string();
            let named = |line: &String| line.contains(&address) && line.contains("last flush");
            assert_eq!(told.filter(named).count(), 1, "{:?}", world.reports);
            world.paused[0] = false;
            let token = world.activate(2);
            world.run();
            assert!(matches!(world.answer(token), Ok(Answer::Activated(_))));
            world.assert_equal();
            assert_eq!(world.replicas[0].fill(0), 3);
        } else {
            assert!(!world.is_answered(token), "one disk is not enough");
        }
    }
}
