//! Spec 3.2 and 11: what becomes of jobs.

use super::*;

#[test]
fn each_job_has_its_own_answer() {
    let own = key(1, 1);
    let (extent, source) = (ExtentId(1), ClientId(0));
    let source_address = "127.0.0.1:1".parse().unwrap();
    let mut world = World::writable();
    world.running(A, own, 1);
    let mut next = 1000;
    let mut ask = |make: &dyn Fn(JobId) -> Message| {
        next += 1;
        let mut answers = world.say(A, make(JobId(next)));
        assert_eq!(answers.len(), 1);
        (answers.remove(0), JobId(next))
    };
    let dependencies = Vec::new;

    let (answer, _) = ask(&|job| write(own, job.0, &[], 0, 1));
    assert!(matches!(answer, Message::WriteAck { result: Ok(()), .. }));
    let (answer, _) = ask(&|job| unwritten(own, job.0));
    assert!(matches!(
        answer,
        Message::WriteUnwrittenAck { result: Ok(()), .. }
    ));
    let (answer, job) = ask(&|job| read(own, job.0, &[], 30, 2));
    let expected = Message::ReadResponse {
        header: ReadResponseHeader {
            key: own,
            job,
            blocks: Ok(vec![ReadBlockContext::Empty; 2]),
        },
        data: Bytes::from(vec![0; 1024]),
    };
    assert_eq!(answer, expected);
    let (answer, job) = ask(&|job| flush(own, job.0, &[]));
    assert_eq!(answer, flush_ack(own, job.0));
    let (answer, _) = ask(&|job| Message::Barrier {
        key: own,
        job,
        dependencies: dependencies(),
    });
    assert!(matches!(answer, Message::BarrierAck { result: Ok(()), .. }));
    let (answer, _) = ask(&|job| Message::ExtentLiveClose {
        key: own,
        job,
        dependencies: dependencies(),
        extent,
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveCloseAck { result: Ok(_), .. }
    ));
    let (answer, _) = ask(&|job| Message::ExtentLiveFlushClose {
        key: own,
        job,
        dependencies: dependencies(),
        extent,
        flush: 2,
        generation: 1,
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveCloseAck { result: Ok(_), .. }
    ));
    let (answer, _) = ask(&|job| Message::ExtentLiveRepair {
        key: own,
        job,
        dependencies: dependencies(),
        extent,
        source,
        source_address,
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveRepairAckId { result: Ok(()), .. }
    ));
    let (answer, _) = ask(&|job| Message::ExtentLiveNoOp {
        key: own,
        job,
        dependencies: dependencies(),
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveAckId { result: Ok(()), .. }
    ));
    let (answer, _) = ask(&|job| Message::ExtentLiveReopen {
        key: own,
        job,
        dependencies: dependencies(),
        extent,
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveAckId { result: Ok(()), .. }
    ));
}

#[test]
fn jobs_that_do_not_depend_on_each_other_are_under_way_together() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    for job in 1000..1010 {
        world.say(A, write(own, job, &[], job - 1000, 1));
    }
    assert_eq!(world.work.len(), 10);
    world.say(A, flush(own, 1010, &(1000..1010).collect::<Vec<_>>()));
    assert_eq!(world.work.len(), 10, "the flush waits");
    for _ in 0..10 {
        world.obey();
    }
    assert!(matches!(world.work[0].1, Operation::Flush { .. }));
}

#[test]
fn a_reopen_may_come_before_its_close() {
    let own = key(1, 1);
    let extent = ExtentId(0);
    let mut world = World::writable();
    world.running(A, own, 1);
    let reopen = Message::ExtentLiveReopen {
        key: own,
        job: JobId(1003),
        dependencies: ids(&[1002]),
        extent,
    };
    assert_eq!(world.say(A, reopen), []);
    let no_op = Message::ExtentLiveNoOp {
        key: own,
        job: JobId(1002),
        dependencies: ids(&[1001]),
    };
    assert_eq!(world.say(A, no_op), []);
    let close = Message::ExtentLiveClose {
        key: own,
        job: JobId(1001),
        dependencies: Vec::new(),
        extent,
    };
    let answers = world.say(A, close);
    let jobs = |message: &Message| match message {
        Message::ExtentLiveCloseAck { job, .. } | Message::ExtentLiveAckId { job, .. } => job.0,
        _ => 0,
    };
    assert_eq!(
        answers.iter().map(jobs).collect::<Vec<_>>(),
        [1001, 1002, 1003]
    );
}

#[test]
fn a_dependency_from_before_a_flush_is_forgotten() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.say(A, write(own, 1000, &[], 0, 1));
    world.say(A, flush(own, 1001, &[1000]));
    assert_eq!(world.say(A, read(own, 1002, &[1000], 0, 1)), []);
    assert_eq!(world.say(A, read(own, 1003, &[1001], 0, 1)).len(), 1);
}

#[test]
fn what_does_not_exist_is_an_error_in_the_answer() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    let answers = world.say(A, write(own, 1000, &[], 31, 2));
    let expected = Message::WriteAck {
        key: own,
        job: JobId(1000),
        result: Err(CrucibleError::OffsetInvalid),
    };
    assert_eq!(answers, [expected]);
    for (job, start, count) in [(1001, 32, 1), (1002, u64::MAX, 2), (1003, 0, u64::MAX)] {
        let answers = world.say(A, read(own, job, &[], start, count));
        let [Message::ReadResponse { header, data }] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(header.blocks, Err(CrucibleError::OffsetInvalid));
        assert!(data.is_empty());
    }
    let answers = world.say(
        A,
        Message::ExtentLiveClose {
            key: own,
            job: JobId(1004),
            dependencies: Vec::new(),
            extent: ExtentId(4),
        },
    );
    assert!(matches!(
        answers[..],
        [Message::ExtentLiveCloseAck {
            result: Err(CrucibleError::InvalidExtent),
            ..
        }]
    ));
    let (repair, extent) = (ReconciliationId(5), ExtentId(u32::MAX));
    assert_eq!(
        world.say(A, Message::ExtentClose { repair, extent }),
        [Message::ExtentError {
            repair,
            extent,
            error: CrucibleError::InvalidExtent
        }]
    );
    assert!(world.is_open(A));
}

#[test]
fn the_extent_limit_of_a_flush_may_be_one_past_the_last() {
    let own = key(1, 1);
    for (limit, fits) in [(3, true), (4, true), (5, false)] {
        let mut world = World::writable();
        world.running(A, own, 1);
        let answers = world.say(
            A,
            Message::Flush {
                key: own,
                job: JobId(1000),
                dependencies: Vec::new(),
                flush: 1,
                generation: 1,
                snapshot: None,
                extent_limit: Some(ExtentId(limit)),
            },
        );
        let result = if fits {
            Ok(())
        } else {
            Err(CrucibleError::InvalidExtent)
        };
        let job = JobId(1000);
        let key = own;
        assert_eq!(answers, [Message::FlushAck { key, job, result }]);
    }
}

#[test]
fn a_read_whose_answer_fits_no_frame_is_refused() {
    let own = key(1, 1);
    let limits = Limits {
        answer_bytes: 3 * 560,
        ..Limits::default()
    };
    let mut world = World::with(Mode::ReadWrite, false, 0, limits);
    world.running(A, own, 1);
    let answers = world.say(A, read(own, 1000, &[], 0, 3));
    assert!(
        matches!(&answers[..], [Message::ReadResponse { header, .. }] if header.blocks.is_ok())
    );
    let answers = world.say(A, read(own, 1001, &[], 0, 4));
    assert!(
        matches!(&answers[..], [Message::ReadResponse { header, .. }] if header.blocks.is_err())
    );
}

#[test]
fn a_write_that_contradicts_itself_ends_the_connection() {
    let own = key(1, 1);
    for (contexts, bytes) in [(1, 0), (1, 511), (2, 512), (0, 512)] {
        let mut world = World::writable();
        world.running(A, own, 1);
        let message = Message::Write {
            header: WriteHeader {
                key: own,
                job: JobId(1000),
                dependencies: Vec::new(),
                start: BlockIndex(0),
                contexts: vec![BlockContext::plain(&[]); contexts],
            },
            data: Bytes::from(vec![0; bytes]),
        };
        assert_eq!(world.say(A, message), []);
        assert_eq!(
            world.hung_up,
            [(A, Reason::MalformedWrite { contexts, bytes })]
        );
    }
}

#[test]
fn a_job_id_in_use_ends_the_connection() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    world.say(A, write(own, 1000, &[], 0, 1));
    world.say(A, write(own, 1000, &[], 0, 1));
    assert_eq!(world.hung_up, [(A, Reason::DuplicateJob(1000))]);
}

#[test]
fn a_failing_disk_is_reported_once_tried_again_and_then_an_error() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    world.say(A, write(own, 1000, &[], 0, 1));
    world.say(A, flush(own, 1001, &[1000]));
    let error = CrucibleError::IoError("bad sector".into());
    let attempts = Limits::default().attempts;
    for _ in 1..attempts {
        world.fail(error.clone());
        assert!(world.work.is_empty(), "it waits a little");
        world.wait(Span::from_secs(1));
        assert_eq!(world.work.len(), 1);
    }
    world.fail(error.clone());
    let job = JobId(1000);
    assert_eq!(
        world.answers(A),
        [
            Message::ErrorReport {
                key: own,
                job,
                error: error.clone()
            },
            Message::WriteAck {
                key: own,
                job,
                result: Err(error.clone())
            },
            Message::FlushAck {
                key: own,
                job: JobId(1001),
                result: Err(error)
            },
        ]
    );
    assert!(world.is_open(A));
}

#[test]
fn a_disk_that_recovers_is_forgiven() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    world.say(A, write(own, 1000, &[], 0, 1));
    world.fail(CrucibleError::IoError("once".into()));
    world.wait(Span::from_secs(1));
    world.obey();
    assert_eq!(world.answers(A).last(), Some(&write_ack(own, 1000)));
}

#[test]
fn a_wrong_hash_is_not_tried_again_and_starves_nobody() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    world.say(A, write(own, 1000, &[], 0, 1));
    world.fail(CrucibleError::HashMismatch);
    assert_eq!(
        world.answers(A),
        [Message::WriteAck {
            key: own,
            job: JobId(1000),
            result: Err(CrucibleError::HashMismatch)
        }]
    );
    world.prompt = true;
    let answers = world.say(A, write(own, 1001, &[], 0, 1));
    assert_eq!(answers, [write_ack(own, 1001)]);
}

#[test]
fn a_read_that_fails_holds_up_no_write() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    world.say(A, read(own, 1000, &[], 0, 1));
    world.say(A, write(own, 1001, &[1000], 0, 1));
    world.fail(CrucibleError::MissingBlockContext);
    world.obey();
    assert_eq!(world.answers(A).last(), Some(&write_ack(own, 1001)));
}

#[test]
fn a_live_repair_that_fails_is_reported_and_ends_the_connection() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    let job = JobId(1000);
    world.say(
        A,
        Message::ExtentLiveRepair {
            key: own,
            job,
            dependencies: Vec::new(),
            extent: ExtentId(0),
            source: ClientId(1),
            source_address: "127.0.0.1:1".parse().unwrap(),
        },
    );
    let error = CrucibleError::RepairStreamError("refused".into());
    world.fail(error.clone());
    let key = own;
    let report = Message::ErrorReport {
        key,
        job,
        error: error.clone(),
    };
    assert_eq!(world.answers(A), [report]);
    assert_eq!(world.hung_up, [(A, Reason::RepairFailed(error))]);
}

#[test]
fn a_snapshot_follows_its_flush_and_its_failure_is_told() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    let ask = |job, name: &str| Message::Flush {
        key: own,
        job: JobId(job),
        dependencies: Vec::new(),
        flush: 1,
        generation: 1,
        snapshot: Some(name.into()),
        extent_limit: None,
    };
    world.say(A, ask(1000, "s1"));
    world.obey();
    assert!(matches!(&world.work[0].1, Operation::Snapshot { name } if name == "s1"));
    assert_eq!(world.answers(A), []);
    world.obey();
    assert_eq!(world.answers(A), [flush_ack(own, 1000)]);

    world.say(A, ask(1001, "s2"));
    world.obey();
    let error = CrucibleError::SnapshotFailed("no space".into());
    world.fail(error.clone());
    assert_eq!(
        world.answers(A),
        [Message::FlushAck {
            key: own,
            job: JobId(1001),
            result: Err(error)
        }]
    );
    // The flush itself is safe: what depends on it goes on.
    world.say(A, write(own, 1002, &[1001], 0, 1));
    assert_eq!(world.work.len(), 1);
}

#[test]
fn a_snapshot_cannot_be_named_like_a_path() {
    let own = key(1, 1);
    for name in ["", "..", "a/b", "/etc", "a\0b", ".hidden"] {
        let mut world = World::writable();
        world.running(A, own, 1);
        let answers = world.say(
            A,
            Message::Flush {
                key: own,
                job: JobId(1000),
                dependencies: Vec::new(),
                flush: 1,
                generation: 1,
                snapshot: Some(name.into()),
                extent_limit: None,
            },
        );
        assert!(
            matches!(
                answers[..],
                [Message::FlushAck {
                    result: Err(CrucibleError::SnapshotFailed(_)),
                    ..
                }]
            ),
            "{name:?}"
        );
        // It was flushed all the same, and what depends on it goes on.
        world.prompt = false;
        world.say(A, write(own, 1001, &[1000], 0, 1));
        assert_eq!(world.work.len(), 1, "{name:?}");
    }
}

#[test]
fn a_flush_comes_before_its_snapshot_is_refused() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    let flush = Message::Flush {
        key: own,
        job: JobId(1000),
        dependencies: Vec::new(),
        flush: 7,
        generation: 1,
        snapshot: Some("../up".into()),
        extent_limit: None,
    };
    assert_eq!(world.say(A, flush), []);
    let work = world.work.front().map(|(_, operation)| operation);
    assert!(
        matches!(work, Some(Operation::Flush { flush: 7, .. })),
        "{work:?}"
    );
    world.obey();
    assert!(world.work.is_empty());
    assert_eq!(world.answers(A).len(), 1);
}

#[test]
fn steps_of_a_reconciliation_keep_their_order_on_each_extent_only() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    world.prompt = false;
    let close = |repair, extent| Message::ExtentClose {
        repair: ReconciliationId(repair),
        extent: ExtentId(extent),
    };
    let reopen = |repair, extent| Message::ExtentReopen {
        repair: ReconciliationId(repair),
        extent: ExtentId(extent),
    };
    world.say(A, close(0, 0));
    world.say(A, reopen(1, 0));
    world.say(A, close(2, 1));
    assert_eq!(world.work.len(), 2);
    world.sent.clear();
    world.obey();
    let ack = |repair| Message::RepairAckId {
        repair: ReconciliationId(repair),
    };
    assert_eq!(world.answers(A), [ack(0)]);
    let error = CrucibleError::IoError("no".into());
    world.fail(error.clone());
    world.obey();
    let failed = Message::ExtentError {
        repair: ReconciliationId(2),
        extent: ExtentId(1),
        error,
    };
    assert_eq!(world.answers(A), [ack(0), failed, ack(1)]);
}

#[test]
fn reading_pauses_when_there_is_enough_to_do_and_we_still_say_that_we_live() {
    let own = key(1, 1);
    let limits = Limits {
        jobs: 4,
        ..Limits::default()
    };
    let mut world = World::with(Mode::ReadWrite, false, 0, limits);
    world.running(A, own, 1);
    world.paused.clear();
    world.prompt = false;
    for job in 1000..1004 {
        world.say(A, write(own, job, &[], 0, 1));
    }
    assert_eq!(world.paused, [(A, true)]);
    world.sent.clear();
    for _ in 0..12 {
        world.wait(Span::from_secs(5));
    }
    assert_eq!(world.answers(A), vec![Message::Imok; 12]);
    assert!(world.is_open(A), "its silence is ours");
    world.obey();
    assert_eq!(world.paused, [(A, true)], "still close to the limit");
    world.obey();
    assert_eq!(world.paused, [(A, true), (A, false)]);
}

#[test]
fn a_queue_of_jobs_that_wait_for_more_is_read_on_and_bounded() {
    let own = key(1, 1);
    let limits = Limits {
        jobs: 4,
        ..Limits::default()
    };
    let mut world = World::with(Mode::ReadWrite, false, 0, limits);
    world.running(A, own, 1);
    world.paused.clear();
    for job in 1000..1015 {
        world.say(A, write(own, job, &[5000], 0, 1));
    }
    assert_eq!(world.paused, []);
    assert!(world.is_open(A));
    world.say(A, write(own, 1015, &[5000], 0, 1));
    assert_eq!(world.hung_up, [(A, Reason::QueueFull)]);
}

#[test]
fn a_list_of_more_jobs_than_anybody_has_ends_the_connection() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    let longest: Vec<u64> = (2000..102_000).collect();
    world.say(A, flush(own, 1000, &longest));
    assert!(world.is_open(A));
    let longer: Vec<u64> = (2000..102_001).collect();
    world.say(A, flush(own, 1001, &longer));
    assert_eq!(
        world.hung_up,
        [(A, Reason::TooManyDependencies(longer.len()))]
    );
}

#[test]
fn a_small_write_that_waits_does_not_keep_the_buffer_that_it_came_in() {
    let own = key(1, 1);
    let mut world = World::writable();
    world.running(A, own, 1);
    world.prompt = false;
    let first = write(own, 1000, &[], 0, 1);
    let second = write(own, 1001, &[1000], 0, 1);
    let place = |message: &Message| match message {
        Message::Write { data, .. } => data.as_ptr(),
        other => panic!("{other:?}"),
    };
    let places = [place(&first), place(&second)];
    world.say(A, first);
    world.say(A, second);
    let mut found = Vec::new();
    for _ in 0..2 {
        match world.work.front() {
            Some((_, Operation::Write(write))) => found.push(write.data.as_ptr()),
            other => panic!("{other:?}"),
        }
        world.obey();
    }
    assert_eq!(found[0], places[0]);
    assert_ne!(found[1], places[1]);
}

#[test]
fn what_is_remembered_of_jobs_is_bounded() {
    let own = key(1, 1);
    let limits = Limits {
        memory: 100,
        ..Limits::default()
    };
    let mut world = World::with(Mode::ReadWrite, false, 0, limits);
    world.running(A, own, 1);
    for job in 0..100 {
        world.say(A, write(own, 1000 + 2 * job, &[], 0, 1));
    }
    assert!(world.is_open(A));
    world.say(A, write(own, 1200, &[], 0, 1));
    assert_eq!(world.hung_up, [(A, Reason::QueueFull)]);
}
