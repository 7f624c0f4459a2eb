//! What is refused, what waits, what a slow or broken replica costs, and what bad data leads to.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use core_world::{BLOCK, BLOCKS, Cipher, World, config};
use crucible_protocol::{BlockIndex, CrucibleError, ExtentId, Message};
use crucible_upstairs::core::{
    Answer, BadData, Event, Mode, Phase, Relief, ReplicaState, Report, Request, VolumeError,
    Written,
};
use vm_types::Span;

fn mode(world: &World, client: u8) -> Option<Mode> {
    match world.state(client) {
        ReplicaState::Connecting { mode, .. } => Some(mode),
        _ => None,
    }
}

fn snapshot(world: &mut World) -> crucible_upstairs::core::Token {
    world.request(Request::Flush {
        snapshot: Some("monday".to_owned()),
    })
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let mut world = World::active();
    let past = world.read(BLOCKS - 1, 2);
    assert_eq!(
        world.answer(past),
        Err(VolumeError::OutOfRange {
            start: BLOCKS - 1,
            count: 2,
            blocks: BLOCKS
        })
    );
    let overflow = world.read(u64::MAX, 2);
    assert!(matches!(
        world.answer(overflow),
        Err(VolumeError::OutOfRange { .. })
    ));
    let odd = world.request(Request::Write {
        start: BlockIndex(0),
        data: bytes::BytesMut::zeroed(700),
    });
    assert_eq!(
        world.answer(odd),
        Err(VolumeError::NotWholeBlocks {
            bytes: 700,
            block_size: 512
        })
    );
}

#[test]
fn requests_of_no_length_succeed_at_once() {
    let mut world = World::active();
    let read = world.read(BLOCKS, 0);
    let write = world.write(4, 0, 1);
    assert!(matches!(world.answer(read), Ok(Answer::Read(plain)) if plain.data.is_empty()));
    assert_eq!(world.answer(write), Ok(Answer::Written));
    assert_eq!(world.up.status().jobs, 0);
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let mut config = config();
    config.limits.jobs = 3;
    config.limits.bytes = 10 * BLOCK;
    let mut world = World::active_with(config);
    world.paused = [true; 4];
    world.write(0, 8, 1);
    let room = world.up.room();
    assert_eq!((room.jobs, room.bytes), (2, 2 * BLOCK));
    let large = world.read(0, 3);
    assert_eq!(world.answer(large), Err(VolumeError::Full));
    world.read(0, 2);
    world.flush();
    let many = world.flush();
    assert_eq!(world.answer(many), Err(VolumeError::Full));
    world.paused = [false; 4];
    world.advance(Span::from_secs(1));
    assert_eq!(world.up.room().jobs, 3);
}

#[test]
fn writes_that_follow_each_other_and_come_at_once_become_one_job() {
    let mut world = World::active();
    let early = world.write(3, 1, 9);
    assert!(world.is_answered(early));
    let tokens = world.batch(|world| {
        [
            world.write(0, 2, 1),
            world.write(2, 2, 2),
            world.write(4, 4, 3),
            world.write(8, 1, 4), // The next extent.
            world.write(8, 1, 5), // Does not follow.
        ]
    });
    for token in tokens {
        assert_eq!(world.answer(token), Ok(Answer::Written));
    }
    assert_eq!(world.up.status().counters.merged_writes, 2);
    world.run();
    let waits: Vec<(u64, Vec<u64>)> = world.sent[0]
        .iter()
        .filter_map(|message| match message {
            Message::Write { header, .. } => Some((
                header.contexts.len() as u64,
                header.dependencies.iter().map(|id| id.0).collect(),
            )),
            _ => None,
        })
        .collect();
    assert_eq!(
        waits,
        [(1, vec![]), (8, vec![1000]), (1, vec![]), (1, vec![1002])]
    );
    let read = world.read(0, 9);
    world.run();
    assert_eq!(world.fills(read), [1, 1, 2, 2, 3, 3, 3, 3, 5]);
}

#[test]
fn a_write_after_anything_else_is_a_job_of_its_own() {
    let mut world = World::active();
    world.batch(|world| {
        world.write(0, 1, 1);
        world.flush();
        world.write(1, 1, 1);
        world.read(0, 1);
        world.write(2, 1, 1);
        world.write_unwritten(3, 1, 1);
    });
    assert_eq!(world.up.status().counters.merged_writes, 0);
    world.write(0, 1, 1);
    world.write(1, 1, 1);
    assert_eq!(
        world.up.status().counters.merged_writes,
        0,
        "the first was given to the cipher before the second came"
    );
    world.run();
    world.assert_equal();
}

#[test]
fn write_unwritten_leaves_what_was_written() {
    let mut world = World::active();
    world.write(1, 1, 1);
    world.write_unwritten(0, 3, 2);
    let read = world.read(0, 4);
    world.run();
    assert_eq!(world.fills(read), [2, 1, 2, 0]);
    let Ok(Answer::Read(plain)) = world.answer(read) else {
        panic!("not a read");
    };
    assert!(plain.written.has(2) && !plain.written.has(3));
    assert!(matches!(plain.written, Written::Some(_)));
}

#[test]
fn a_read_sees_a_write_that_is_still_with_the_cipher() {
    let mut world = World::active();
    let write = world.write(0, 1, 7);
    assert!(world.is_answered(write));
    let read = world.read(0, 1);
    for client in 0..3 {
        while world.step_replica(client) || world.step_upstairs(client) {}
    }
    assert!(!world.is_answered(read), "the write was not sent yet");
    world.run();
    assert_eq!(world.fills(read), [7]);
}

#[test]
fn requests_wait_for_replicas_and_fail_after_a_time_that_is_configured() {
    let mut config = config();
    config.patience = Span::from_secs(8);
    let mut world = World::active_with(config);
    let kept = world.write(0, 1, 1);
    for replica in 0..3 {
        world.crash(replica);
    }
    let read = world.read(0, 1);
    let flush = world.flush();
    world.advance(Span::from_secs(7));
    assert!(world.is_answered(kept) && !world.is_answered(read) && !world.is_answered(flush));
    world.advance(Span::from_secs(2));
    for token in [read, flush] {
        let error = world.answer(token).unwrap_err();
        assert!(matches!(error, VolumeError::Unavailable { .. }), "{error}");
        assert!(error.is_transient());
    }
    for replica in 0..3 {
        world.restart(replica);
    }
    world.advance(Span::from_secs(15));
    assert!(world.all_active());
    let read = world.read(0, 1);
    world.run();
    assert_eq!(world.fills(read), [1], "acknowledged, so kept");
}

#[test]
fn a_write_that_would_be_on_one_disk_only_waits() {
    let mut config = config();
    config.limits.offline_jobs = 0;
    let mut world = World::active_with(config);
    world.crash(0);
    world.write(0, 1, 1);
    world.run();
    assert_eq!(mode(&world, 0), Some(Mode::Faulted));
    world.crash(1);
    world.write(0, 1, 2);
    world.run();
    assert_eq!(
        mode(&world, 1),
        Some(Mode::Offline),
        "given up only while two others are there"
    );
    let read = world.read(0, 1);
    world.run();
    assert_eq!(world.fills(read), [2], "one is enough for reads");
}

#[test]
fn a_snapshot_needs_all_three() {
    let mut world = World::active();
    world.paused[2] = true;
    let token = snapshot(&mut world);
    world.run();
    assert!(!world.is_answered(token));
    world.paused[2] = false;
    world.run();
    assert_eq!(world.answer(token), Ok(Answer::Flushed));
}

#[test]
fn a_snapshot_that_one_replica_refuses_fails_and_the_replica_stays() {
    let mut world = World::active();
    world.paused[1] = true;
    let token = snapshot(&mut world);
    world.run();
    let (key, job) = world.sent[1]
        .iter()
        .find_map(|message| match message {
            Message::Flush { key, job, .. } => Some((*key, *job)),
            _ => None,
        })
        .unwrap();
    let result = Err(CrucibleError::SnapshotFailed("no space".to_owned()));
    world.say(1, Message::FlushAck { key, job, result });
    assert_eq!(
        world.answer(token),
        Err(VolumeError::SnapshotFailed { failed: 1 })
    );
    assert!(world.all_active());
}

#[test]
fn a_snapshot_that_may_have_been_made_is_not_asked_for_again_by_a_replay() {
    let mut world = World::active();
    world.paused[1] = true;
    let token = snapshot(&mut world);
    world.run();
    let asked = |world: &World| {
        let with_a_name = |message: &&Message| {
            matches!(
                message,
                Message::Flush {
                    snapshot: Some(_),
                    ..
                }
            )
        };
        world.sent[1].iter().filter(with_a_name).count()
    };
    assert_eq!(asked(&world), 1);
    world.cut(1);
    assert_eq!(
        world.answer(token),
        Err(VolumeError::SnapshotFailed { failed: 1 })
    );
    world.write(0, 1, 1);
    world.paused[1] = false;
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    assert_eq!(
        asked(&world),
        1,
        "by then there is more than the others have in theirs"
    );
    world.assert_equal();
}

#[test]
fn a_write_that_fails_on_one_replica_costs_that_replica_only() {
    let mut world = World::active();
    world.paused[1] = true;
    world.write(0, 1, 1);
    world.run();
    let (key, job) = world.sent[1]
        .iter()
        .find_map(|message| match message {
            Message::Write { header, .. } => Some((header.key, header.job)),
            _ => None,
        })
        .unwrap();
    let result = Err(CrucibleError::IoError("bad disk".to_owned()));
    world.say(1, Message::WriteAck { key, job, result });
    assert_eq!(mode(&world, 1), Some(Mode::Faulted));
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world.paused[1] = false;
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    world.assert_equal();
}

#[test]
fn a_job_that_keeps_failing_costs_the_replica_but_one_error_does_not() {
    let mut world = World::active();
    let failing: fn(&Message) -> bool = |message| matches!(message, Message::Write { .. });
    world.replicas[2].fails = Some(failing);
    // As a region server of the reference does it: many reports at once, and then it works after all.
    for _ in 0..10 {
        world.write(0, 1, 1);
        world.run();
    }
    world.replicas[2].fails = None;
    world.write(0, 1, 2);
    world.run();
    world.advance(Span::from_secs(5));
    assert!(world.all_active(), "it got better");
    world.assert_equal();
    // And one that does not get better, and says so no more.
    world.replicas[2].fails = Some(failing);
    for _ in 0..3 {
        world.write(1, 1, 1);
        world.run();
    }
    world.pass(Span::from_millis(900));
    assert!(world.all_active(), "it may get better");
    world.pass(Span::from_millis(200));
    assert_eq!(mode(&world, 2), Some(Mode::Faulted));
    world.replicas[2].fails = None;
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    world.assert_equal();
}

#[test]
fn answers_that_lie_drop_the_link_and_nothing_else() {
    let lies: [fn(&Message) -> Option<Message>; 3] = [
        |sent| match sent {
            Message::Write { header, .. } => Some(Message::FlushAck {
                key: header.key,
                job: header.job,
                result: Ok(()),
            }),
            _ => None,
        },
        |sent| match sent {
            Message::Write { header, .. } => Some(Message::WriteAck {
                key: crucible_protocol::SessionKey {
                    session: crucible_protocol::SessionId(uuid::Uuid::nil()),
                    ..header.key
                },
                job: header.job,
                result: Ok(()),
            }),
            _ => None,
        },
        |_| Some(Message::RegionInfoPlease),
    ];
    for lie in lies {
        let mut world = World::active();
        world.paused[0] = true;
        world.write(0, 1, 1);
        world.run();
        let lie = world.sent[0].iter().find_map(lie).unwrap();
        world.say(0, lie);
        assert_eq!(mode(&world, 0), Some(Mode::Offline));
        assert_eq!(world.up.status().phase, Phase::Active);
    }
}

#[test]
fn a_late_read_is_asked_of_a_second_replica_within_bounds() {
    let mut world = World::active();
    world.write(0, 1, 9);
    world.run();
    world.forget();
    world.paused = [true; 4];
    let read = world.read(0, 1);
    let first = (0..3)
        .find(|&client| !world.sent[client].is_empty())
        .unwrap();
    world.paused = [false; 4];
    world.paused[first] = true;
    world.advance(Span::from_millis(200));
    assert_eq!(world.fills(read), [9]);
    assert_eq!(world.up.status().counters.hedged_reads, 1);
    // All are slow: not every read is doubled.
    world.paused = [true; 4];
    for _ in 0..16 {
        world.read(0, 1);
    }
    world.pass(Span::from_millis(300));
    world.pass(Span::from_millis(300));
    let hedged = world.up.status().counters.hedged_reads;
    assert!(hedged <= 1 + 4, "{hedged}");
}

fn three_with_data() -> World {
    let mut world = World::active();
    world.write(0, 8, 4);
    let flush = world.flush();
    world.run();
    assert_eq!(world.answer(flush), Ok(Answer::Flushed));
    world
}

/// Reads until the replica was asked.
fn read_from_all(world: &mut World) {
    for _ in 0..200 {
        let read = world.read(0, 1);
        world.run();
        assert_eq!(world.fills(read), [4]);
    }
}

#[test]
fn bad_data_is_read_from_another_and_the_replica_is_repaired() {
    let mut world = three_with_data();
    world.replicas[0].rot(0);
    read_from_all(&mut world);
    let bad = world.reports.iter().any(|report| {
        matches!(
            report,
            Report::Integrity {
                bad: BadData::Hash,
                ..
            }
        )
    });
    assert!(bad);
    assert!(!world.all_active() || world.replicas[0].fill(0) == 4);
    world.advance(Span::from_secs(5));
    assert!(world.all_active());
    assert_eq!(world.replicas[0].fill(0), 4, "though its state was equal");
    assert_eq!(
        world.up.status().replicas[0]
            .counters
            .live_repairs_completed,
        1
    );
}

#[test]
fn proof_that_comes_after_a_replica_was_given_up_counts_too() {
    for late in [Span::ZERO, Span::from_millis(150)] {
        let mut world = World::active();
        world.write(0, 16, 4);
        world.flush();
        world.run();
        world.replicas[0].rot(0);
        world.replicas[0].rot(9);
        world.paused = [false, true, true, false];
        let reads: Vec<_> = (0..6)
            .map(|round| world.read([0, 9][round % 2], 1))
            .collect();
        world.run();
        // Replica 0 has given bad data of both extents. The first proof costs it; the other comes later.
        world.paused[1] = false;
        while world.state(0) == ReplicaState::Active {
            assert!((0..3).any(|client| world.step_replica(client)
                | world.step_upstairs(client)
                | world.step_cipher(0)));
        }
        world.paused[1] = late > Span::ZERO;
        world.advance(late);
        world.paused = [false; 4];
        world.advance(Span::from_secs(5));
        assert!(reads.iter().all(|read| world.fills(*read) == [4]));
        assert!(world.all_active());
        world.assert_equal();
        assert_eq!(
            (world.replicas[0].fill(0), world.replicas[0].fill(9)),
            (4, 4)
        );
    }
}

#[test]
fn a_replica_that_gave_bad_data_while_no_other_was_there_is_mended_when_they_are() {
    let mut config = config();
    config.patience = Span::from_secs(2);
    let mut world = World::active_with(config);
    world.write(0, 8, 4);
    world.flush();
    world.run();
    world.replicas[0].rot(0);
    world.crash(1);
    world.crash(2);
    let read = world.read(0, 1);
    world.advance(Span::from_secs(4));
    assert!(matches!(
        world.answer(read),
        Err(VolumeError::BadData { .. })
    ));
    assert_eq!(world.state(0), ReplicaState::Active, "it is all there is");
    world.restart(1);
    world.restart(2);
    world.advance(Span::from_secs(20));
    assert!(world.all_active());
    assert_eq!(world.replicas[0].fill(0), 4);
}

#[test]
fn data_that_is_bad_on_all_three_is_an_error_and_costs_nobody() {
    let mut world = three_with_data();
    for replica in 0..3 {
        world.replicas[replica].rot(0);
    }
    let read = world.read(0, 1);
    world.run();
    assert_eq!(
        world.answer(read),
        Err(VolumeError::BadData {
            start: 0,
            count: 1,
            bad: BadData::Hash
        })
    );
    assert!(world.all_active());
}

#[test]
fn a_read_error_of_one_replica_is_not_seen_by_the_guest() {
    let mut world = three_with_data();
    let failing: fn(&Message) -> bool = |message| matches!(message, Message::ReadRequest { .. });
    world.replicas[0].fails = Some(failing);
    read_from_all(&mut world);
    assert!(world.all_active(), "read errors never cost a replica");
}

#[test]
fn an_answer_of_the_wrong_length_is_not_believed() {
    let mut world = three_with_data();
    world.forget();
    world.paused = [true; 4];
    let read = world.read(0, 2);
    let (client, key, job) = (0..3)
        .find_map(|client| {
            world.sent[client].iter().find_map(|message| match message {
                Message::ReadRequest { key, job, .. } => Some((client, *key, *job)),
                _ => None,
            })
        })
        .unwrap();
    world.say(
        client,
        Message::ReadResponse {
            header: crucible_protocol::ReadResponseHeader {
                key,
                job,
                blocks: Ok(vec![]),
            },
            data: bytes::Bytes::new(),
        },
    );
    world.paused = [false; 4];
    world.paused[client] = true;
    world.run();
    assert_eq!(world.fills(read), [4, 4]);
}

#[test]
fn a_slow_replica_gets_its_jobs_as_its_link_takes_them() {
    let mut config = config();
    config.limits.transmit_bytes = 8 * BLOCK;
    let mut world = World::active_with(config);
    world.paused[2] = true;
    for _ in 0..10 {
        world.write(0, 4, 1);
    }
    world.run();
    let writes = |world: &World, client: usize| {
        world.sent[client]
            .iter()
            .filter(|message| matches!(message, Message::Write { .. }))
            .count()
    };
    assert_eq!(writes(&world, 0), 10);
    assert!(writes(&world, 2) <= 3, "the rest is not in its queue");
    world.paused[2] = false;
    world.run();
    assert_eq!(writes(&world, 2), 10);
}

#[test]
fn many_jobs_without_a_flush_bring_one() {
    let mut config = config();
    config.limits.relief_jobs = 5;
    let mut world = World::active_with(config);
    for block in 0..12 {
        world.write(block, 1, 1);
        world.run();
    }
    assert_eq!(world.up.status().counters.auto_flushes, 2);
    assert_eq!(world.up.status().jobs, 2);
}

#[test]
fn many_bytes_bring_a_barrier_where_configured_and_then_a_lost_link_means_repair() {
    let mut config = config();
    config.relief = Relief::Barrier;
    config.limits.relief_bytes = 4 * BLOCK;
    let mut world = World::active_with(config);
    world.write(0, 4, 1);
    world.run();
    assert_eq!(world.up.status().counters.barriers, 1);
    assert_eq!(world.up.status().jobs, 0, "retired by the barrier");
    world.cut(1);
    assert_eq!(mode(&world, 1), Some(Mode::Faulted), "no replay");
    world.advance(Span::from_secs(2));
    assert!(world.all_active());
    world.cut(1);
    assert_eq!(mode(&world, 1), Some(Mode::Offline), "after a flush again");
}

#[test]
fn what_a_barrier_retired_is_flushed_all_the_same() {
    let mut config = config();
    config.relief = Relief::Barrier;
    config.limits.relief_jobs = 1;
    let mut world = World::active_with(config.clone());
    world.write(0, 4, 1);
    world.run();
    assert_eq!(world.up.status().jobs, 0, "retired by the barrier");
    assert!(world.replicas[0].states[0].dirty);
    world.advance(Span::from_secs(1));
    assert!(!world.replicas[0].states[0].dirty, "in time");

    let mut world = World::active_with(config);
    world.write(0, 4, 1);
    world.run();
    let down = world.command(crucible_upstairs::core::Command::Deactivate);
    world.run();
    assert_eq!(world.answer(down), Ok(Answer::Deactivated));
    for replica in 0..3 {
        assert!(!world.replicas[replica].states[0].dirty, "at the end");
    }
}

#[test]
fn what_a_barrier_retired_is_owned_up_to_when_all_are_given_up_before_a_flush() {
    let mut config = config();
    config.relief = Relief::Barrier;
    config.limits.relief_jobs = 1;
    let lost = || {
        let mut world = World::active_with(config.clone());
        world.write(0, 4, 1);
        world.run();
        assert_eq!(world.up.status().jobs, 0, "retired by the barrier");
        for replica in 0..3 {
            world.crash(replica);
        }
        // A flush of our own finds nobody.
        world.advance(Span::from_secs(3));
        world
    };
    let mut world = lost();
    let down = world.command(crucible_upstairs::core::Command::Deactivate);
    world.run();
    assert!(matches!(
        world.answer(down),
        Err(VolumeError::FlushFailed { .. })
    ));
    let mut world = lost();
    for replica in 0..3 {
        world.restart(replica);
    }
    world.advance(Span::from_secs(20));
    assert!(world.all_active());
    for expected in [
        Err(VolumeError::FlushFailed { failed: 3 }),
        Ok(Answer::Flushed),
    ] {
        let flush = world.flush();
        world.run();
        assert_eq!(world.answer(flush), expected, "once");
    }
}

/// Reads fail for a while at some region servers, which report it and go on.
fn failing_reads(at: &[usize]) -> World {
    let mut world = three_with_data();
    for &replica in at {
        world.replicas[replica].fails =
            Some(|message| matches!(message, Message::ReadRequest { .. }));
    }
    world.forget();
    world
}

/// The region servers have got better, and something makes them try again.
fn reads_work_again(world: &mut World) {
    for replica in 0..3 {
        world.replicas[replica].fails = None;
    }
    world.write(20, 1, 1);
    world.run();
}

#[test]
fn a_read_that_each_has_reported_once_is_answered_when_one_manages_to() {
    let mut world = failing_reads(&[0, 1, 2]);
    let read = world.read(0, 8);
    world.run();
    let asked = |world: &World| {
        let is_read = |message: &&Message| matches!(message, Message::ReadRequest { .. });
        (0..3)
            .map(|client| world.sent[client].iter().filter(is_read).count())
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&world), [1, 1, 1], "each at once after a report");
    world.advance(Span::from_secs(4));
    assert!(!world.is_answered(read));
    assert_eq!(asked(&world), [1, 1, 1], "and no more");
    reads_work_again(&mut world);
    assert_eq!(world.fills(read), [4; 8]);
    assert!(world.all_active());
    let open: usize = world.up.status().replicas.iter().map(|one| one.reads).sum();
    assert_eq!(open, 0, "every attempt has come to its end");
}

#[test]
fn a_read_that_all_report_for_ever_fails_after_a_time() {
    let mut world = failing_reads(&[0, 1, 2]);
    let read = world.read(0, 8);
    world.run();
    world.advance(Span::from_millis(4_900));
    assert!(!world.is_answered(read));
    world.advance(Span::from_millis(200));
    assert!(matches!(
        world.answer(read),
        Err(VolumeError::ReadFailed { .. })
    ));
    assert!(world.all_active());
    reads_work_again(&mut world);
    let open: usize = world.up.status().replicas.iter().map(|one| one.reads).sum();
    assert_eq!(open, 0, "every attempt has come to its end");
}

#[test]
fn a_read_that_was_reported_is_asked_of_one_that_comes_back() {
    let mut world = failing_reads(&[0, 1]);
    world.crash(2);
    let read = world.read(0, 8);
    world.run();
    world.advance(Span::from_secs(6));
    assert!(!world.is_answered(read), "it waits for the third");
    world.restart(2);
    world.advance(Span::from_secs(11));
    assert_eq!(world.fills(read), [4; 8]);
}

#[test]
fn a_cipher_that_fails_stops_the_volume() {
    let mut world = World::active();
    let flush = world.flush();
    world.write(0, 1, 1);
    let Some(Cipher::Seal(write, _)) = world.cipher.pop_front() else {
        panic!("nothing to seal");
    };
    world.event(Event::SealFailed {
        write,
        reason: "no entropy".to_owned(),
    });
    assert_eq!(
        world.up.status().stopped,
        Some(VolumeError::SealFailed("no entropy".to_owned()))
    );
    assert!(world.answer(flush).is_err());
}

#[test]
fn work_shows_each_job_with_its_states() {
    let mut world = World::active();
    world.paused[1] = true;
    world.write(0, 2, 1);
    world.run();
    let (jobs, _) = world.up.work();
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].kind.name(), jobs[0].blocks), ("Write", 2));
    assert_eq!(
        jobs[0].states.map(|state| state.name()),
        ["Done", "Sent", "Done"]
    );
    world.paused[1] = false;
    world.advance(Span::from_secs(1));
    let (jobs, retired) = world.up.work();
    assert!(jobs.is_empty());
    assert_eq!(retired.len(), 2);
    assert_eq!(world.up.status().replicas[0].extent_limit, None::<ExtentId>);
    let _ = BlockIndex(0);
}
