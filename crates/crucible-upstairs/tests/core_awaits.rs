//! Nothing is ever stuck without a word: whoever is given up, away, somewhere else or about to leave, either things
//! go on, or it is said who is missing and what can be done. And never at the cost of what was flushed.
//! The table in `BEHAVIOURS.md` says which rows of the specification's section 10 these are.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{World, address, config, state};
use crucible_protocol::{CrucibleError, Message};
use crucible_upstairs::core::{
    Answer, Command, Config, Mode, Phase, ReplaceResult, ReplicaState, Report, VolumeError,
};
use uuid::Uuid;
use vm_types::Span;

fn replace(world: &mut World, old: usize, new: usize) -> Result<Answer, VolumeError> {
    let (old, new) = (address(old), address(new));
    let token = world.command(Command::Replace { old, new });
    world.answer(token)
}

fn started() -> Result<Answer, VolumeError> {
    Ok(Answer::Replace(ReplaceResult::Started))
}

/// What was said of the volume.
fn told(world: &World) -> Vec<String> {
    let volume = |report: &Report| match report {
        Report::Volume { what } => Some(what.clone()),
        _ => None,
    };
    world.reports.iter().filter_map(volume).collect()
}

/// How often something with these words was said of the volume.
fn times(world: &World, words: &str) -> usize {
    told(world)
        .iter()
        .filter(|line| line.contains(words))
        .count()
}

fn mode(world: &World, client: u8) -> Option<Mode> {
    match world.state(client) {
        ReplicaState::Connecting { mode, .. } => Some(mode),
        _ => None,
    }
}

/// A region server says that it failed the last write that it was sent, and is given up.
fn fail_a_write(world: &mut World, client: usize) {
    let write = world.sent[client]
        .iter()
        .rev()
        .find_map(|message| match message {
            Message::Write { header, .. } => Some(header.job),
            _ => None,
        });
    let message = Message::WriteAck {
        key: world.up.status().key,
        job: write.unwrap(),
        result: Err(CrucibleError::IoError("of a test".to_owned())),
    };
    world.say(client, message);
    assert_eq!(mode(world, client as u8), Some(Mode::Faulted));
}

/// Block 0 is flushed with 1 on all, and with 2 on clients 0 and 1. Client 1 is to be replaced and stays for client
/// 2, which has not answered. Then 1 goes away, and both others are given up.
fn last_whole_one_leaves(config: Config, elsewhere: bool) -> World {
    let mut world = World::active_with(config);
    world.write(0, 1, 1);
    world.flush();
    world.run();
    world.write(0, 1, 2);
    world.paused[2] = true;
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed), "on 0 and 1");
    assert_eq!(replace(&mut world, 1, 3), started());
    assert_eq!(world.state(1), ReplicaState::Active);
    world.paused = [true, false, true, false];
    world.write(8, 1, 3);
    world.run();
    world.crash(1);
    if elsewhere {
        world.replicas[1].region.uuid = Uuid::from_u128(999);
        world.restart(1);
    }
    world.forget_reports();
    fail_a_write(&mut world, 0);
    fail_a_write(&mut world, 2);
    world.paused = [false; 4];
    world
}

#[test]
fn a_leaver_whose_region_is_gone_is_not_waited_for() {
    let mut world = last_whole_one_leaves(config(), true);
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "{:?}", told(&world));
    assert_eq!(world.links[1].as_ref().unwrap().replica, 3);
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(0), 2, "what was flushed is there");
    // What was not is owned up to.
    let flush = world.flush();
    world.run();
    assert!(matches!(
        world.answer(flush),
        Err(VolumeError::FlushFailed { .. })
    ));
}

#[test]
fn a_leaver_that_is_only_away_is_waited_for_and_named() {
    let mut world = last_whole_one_leaves(config(), false);
    world.advance(Span::from_secs(30));
    assert_eq!(mode(&world, 1), Some(Mode::Offline));
    let words =
        "127.0.0.1:3810 and 127.0.0.1:3830 cannot be made whole before 127.0.0.1:3820 is back";
    assert_eq!(times(&world, words), 1, "{:?}", told(&world));
    assert_eq!(times(&world, "deactivate the volume, replace it then"), 1);
    // The same wish again is known; another is not taken.
    let again = Ok(Answer::Replace(ReplaceResult::StartedAlready));
    assert_eq!(replace(&mut world, 1, 3), again);
    let last = format!("{:?}", world.reports.last().unwrap());
    assert!(last.contains("127.0.0.1:3810 (faulted)"), "{last}");
    let other = replace(&mut world, 0, 3).unwrap_err().to_string();
    assert!(other.contains("is about to take the place of"), "{other}");
    // It comes back, and nothing at all is lost.
    world.restart(1);
    world.advance(Span::from_secs(30));
    assert!(world.all_active());
    assert_eq!(world.links[1].as_ref().unwrap().replica, 3);
    world.assert_equal();
    assert_eq!(
        (world.replicas[3].fill(0), world.replicas[3].fill(8)),
        (2, 3)
    );
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
}

#[test]
fn the_way_out_that_is_named_is_one() {
    let mut config = config();
    config.degraded_activation = Some(Span::ZERO);
    let mut world = last_whole_one_leaves(config, false);
    world.advance(Span::from_secs(30));
    let down = world.command(Command::Deactivate);
    world.run();
    assert!(matches!(
        world.answer(down),
        Err(VolumeError::FlushFailed { .. })
    ));
    assert_eq!(world.up.status().phase, Phase::Inactive);
    // Client 0 alone has what was flushed last: without it, the two others are not enough.
    world.crash(0);
    world.forget_reports();
    let up = world.activate(2);
    world.advance(Span::from_secs(60));
    assert!(!world.is_answered(up));
    let words = "127.0.0.1:3840 is new to this volume and may lack what was flushed, so that 127.0.0.1:3810 is";
    assert_eq!(times(&world, words), 1, "{:?}", told(&world));
    world.restart(0);
    world.advance(Span::from_secs(11));
    assert!(matches!(world.answer(up), Ok(Answer::Activated(_))));
    assert!(world.all_active());
    assert_eq!(world.links[1].as_ref().unwrap().replica, 3);
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(0), 2);
}

#[test]
fn a_leaver_stays_while_the_volume_is_let_go() {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.paused[2] = true;
    world.flush();
    world.run();
    assert_eq!(replace(&mut world, 1, 3), started());
    world.write(0, 1, 2);
    world.run();
    let down = world.command(Command::Deactivate);
    world.paused[2] = false;
    // The second catches up with what the leaver stays for, and the last flush is still on its way to all.
    world.paused[0] = true;
    world.run();
    assert!(!world.is_answered(down));
    world.paused[0] = false;
    world.run();
    assert_eq!(world.answer(down), Ok(Answer::Deactivated));
    assert_eq!(world.replicas[1].done.last(), world.replicas[0].done.last());
    assert_eq!(world.replicas[3].done, []);
}

/// All were given up; block 0 is flushed with 1 on all, and with 2 on clients 0 and 2.
fn nobody_is_whole() -> World {
    let mut world = World::active();
    world.write(0, 1, 1);
    world.flush();
    world.run();
    world.paused[1] = true;
    world.write(0, 1, 2);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed), "on 0 and 2");
    world.paused = [true; 4];
    world.write(8, 1, 3);
    world.run();
    world.forget_reports();
    for client in 0..3 {
        fail_a_write(&mut world, client);
    }
    world.paused = [false; 4];
    world
}

#[test]
fn when_nobody_is_whole_the_one_that_is_missing_is_named_and_can_be_replaced() {
    let mut world = nobody_is_whole();
    world.crash(2);
    world.advance(Span::from_secs(60));
    assert!((0..3).all(|client| mode(&world, client) == Some(Mode::Faulted)));
    let words =
        "when all three are there; missing: 127.0.0.1:3830; if it is gone for good, replace it";
    assert_eq!(times(&world, words), 1, "{:?}", told(&world));
    assert_eq!(replace(&mut world, 2, 3), started());
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "{:?}", told(&world));
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(0), 2, "what was flushed is there");
}

#[test]
fn who_may_be_the_only_one_that_has_what_was_flushed_is_not_replaced() {
    let mut world = World::active();
    world.paused[3] = true;
    assert_eq!(replace(&mut world, 1, 3), started());
    world.write(0, 1, 2);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed), "on 0 and 2");
    world.paused = [true; 4];
    world.write(8, 1, 3);
    world.run();
    world.forget_reports();
    fail_a_write(&mut world, 0);
    fail_a_write(&mut world, 2);
    world.paused = [false; 4];
    world.crash(2);
    world.advance(Span::from_secs(60));
    let words = "missing: 127.0.0.1:3830; it may be the only one that has what was flushed, since 127.0.0.1:3840";
    assert_eq!(times(&world, words), 1, "{:?}", told(&world));
    let refused = replace(&mut world, 2, 1).unwrap_err();
    assert!(matches!(refused, VolumeError::ReplaceRefused(_)));
    assert!(
        refused.to_string().contains("deactivate the volume"),
        "{refused}"
    );
    world.restart(2);
    world.advance(Span::from_secs(11));
    assert!(world.all_active());
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(0), 2);
}

#[test]
fn a_region_that_is_gone_is_no_source_and_can_be_replaced() {
    let mut world = World::active();
    world.write(0, 1, 2);
    world.flush();
    world.run();
    world.paused = [true; 4];
    world.write(8, 1, 3);
    world.run();
    fail_a_write(&mut world, 1);
    world.paused = [true, false, true, false];
    world.advance(Span::from_millis(200));
    assert_eq!(world.state(1), ReplicaState::LiveRepair);
    // Of the two whole ones, one is given up, and in the place of the other there is another region.
    world.forget_reports();
    fail_a_write(&mut world, 2);
    world.crash(0);
    world.replicas[0].region.uuid = Uuid::from_u128(999);
    world.restart(0);
    world.paused = [false; 4];
    world.advance(Span::from_secs(20));
    assert_eq!(mode(&world, 1), Some(Mode::Faulted));
    assert_eq!(times(&world, "missing: 127.0.0.1:3810; if it is gone"), 1);
    assert!(matches!(
        replace(&mut world, 1, 3),
        Err(VolumeError::ReplaceRefused(_))
    ));
    assert_eq!(replace(&mut world, 0, 3), started());
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "{:?}", told(&world));
    world.assert_equal();
    assert_eq!(world.replicas[3].fill(0), 2);
}

#[test]
fn two_are_not_enough_when_one_of_them_was_never_written_to() {
    let mut config = config();
    config.degraded_activation = Some(Span::from_secs(3));
    let mut world = World::with(config);
    world.replicas[0].states[1] = state(4, 7, false);
    world.crash(2);
    let up = world.activate(5);
    world.advance(Span::from_secs(60));
    assert!(!world.is_answered(up));
    assert_eq!(
        times(&world, "two region servers are not enough this time"),
        1
    );
    assert_eq!(replace(&mut world, 2, 3), started());
    world.advance(Span::from_secs(1));
    assert!(matches!(world.answer(up), Ok(Answer::Activated(_))));
    assert!(world.all_active());
}

#[test]
fn two_new_ones_are_enough_for_a_new_volume_but_not_in_the_place_of_others() {
    let mut config = config();
    config.degraded_activation = Some(Span::from_secs(3));
    let mut world = World::with(config.clone());
    world.crash(2);
    let up = world.activate(1);
    world.advance(Span::from_secs(4));
    assert!(matches!(world.answer(up), Ok(Answer::Activated(_))));
    let mut world = World::with(config);
    world.crash(2);
    assert_eq!(replace(&mut world, 1, 3), started());
    let up = world.activate(1);
    world.advance(Span::from_secs(60));
    assert!(!world.is_answered(up));
}
