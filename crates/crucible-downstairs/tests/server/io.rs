//! Negotiation and jobs, from socket to disk and back.

use std::sync::Arc;

use bytes::Bytes;
use crucible_downstairs::drive::{Config, Faults};
use crucible_downstairs::store::Mode;
use crucible_protocol::{
    CrucibleError, ExtentId, JobId, Message, ReadBlockContext, ReconciliationId, context,
};

use crate::support::{Directory, Server, blocks, create, flush, ids, key, read, small, write};

#[test]
fn refusals_arrive_before_the_end() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.peer();
    let answer = peer.ask(&Message::HereIAm {
        version: 4,
        key: own,
        generation: 1,
        read_only: false,
        encrypted: false,
        alternate_versions: vec![3],
    });
    assert_eq!(answer, Message::VersionMismatch { version: 13 });
    assert!(peer.is_closed());

    let mut peer = server.peer();
    let answer = peer.greet(own, true, false);
    assert_eq!(answer, Message::ReadOnlyMismatch { expected: false });
    assert!(peer.is_closed());

    let mut peer = server.peer();
    let answer = peer.greet(own, false, true);
    assert_eq!(answer, Message::EncryptedMismatch { expected: false });
    assert!(peer.is_closed());

    let mut peer = server.peer();
    peer.greet(own, false, false);
    // Words that nobody will read do not take the answer back.
    let answer = peer.ask(&Message::PromoteToActive {
        key: key(2, 1),
        generation: 1,
    });
    let expected = own.upstairs.0;
    assert_eq!(answer, Message::UuidMismatch { expected });
    assert!(peer.is_closed());
}

#[test]
fn the_repair_address_is_the_one_that_listens() {
    let server = Server::fresh(&small());
    let yes = server.peer().greet(key(1, 1), false, false);
    let expected = Message::YesItsMe {
        version: 13,
        repair_address: server.repair,
    };
    assert_eq!(yes, expected);
}

#[test]
fn what_is_written_is_read_again_also_by_the_next_session_and_process() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let data = blocks(7, 5);
    peer.send(&write(own, 1000, &[], 6, &data));
    peer.send(&read(own, 1001, &[1000], 5, 7));
    peer.send(&flush(own, 1002, &[1000, 1001], 1));
    let answers: Vec<_> = (0..3).map(|_| peer.receive().unwrap()).collect();
    assert!(matches!(
        answers[0],
        Message::WriteAck { result: Ok(()), .. }
    ));
    check_read(&answers[1], &data);
    assert!(matches!(
        answers[2],
        Message::FlushAck { result: Ok(()), .. }
    ));
    drop(peer);

    let directory = server.stop();
    let server = Server::over(directory, Mode::ReadWrite);
    let next = key(1, 2);
    let mut peer = server.peer();
    peer.greet(next, false, false);
    peer.ask(&Message::PromoteToActive {
        key: next,
        generation: 2,
    });
    peer.ask(&Message::RegionInfoPlease);
    let versions = peer.ask(&Message::ExtentVersionsPlease);
    let expected = Message::ExtentVersions {
        generations: vec![1, 1, 0, 0],
        flushes: vec![1, 1, 0, 0],
        dirty: vec![false; 4],
    };
    assert_eq!(versions, expected);
    check_read(&peer.ask(&read(next, 1000, &[], 5, 7)), &data);
}

/// One block never written, five written, one never written.
fn check_read(answer: &Message, data: &Bytes) {
    let Message::ReadResponse { header, data: got } = answer else {
        panic!("{answer:?}");
    };
    let mut expected = vec![ReadBlockContext::Empty];
    expected.extend(
        data.chunks(512)
            .map(|block| ReadBlockContext::Unencrypted(context::hash(block))),
    );
    expected.push(ReadBlockContext::Empty);
    assert_eq!(header.blocks.as_ref().unwrap(), &expected);
    assert_eq!(got[..512], [0; 512]);
    assert_eq!(got[512..512 * 6], data[..]);
    assert_eq!(got[512 * 6..], [0; 512]);
}

#[test]
fn unwritten_blocks_are_filled_and_others_left_alone() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let (old, new) = (blocks(1, 1), blocks(100, 3));
    peer.ask(&write(own, 1000, &[], 1, &old));
    let Message::Write { header, data } = write(own, 1001, &[1000], 0, &new) else {
        unreachable!()
    };
    let answer = peer.ask(&Message::WriteUnwritten { header, data });
    assert!(matches!(
        answer,
        Message::WriteUnwrittenAck { result: Ok(()), .. }
    ));
    let Message::ReadResponse { data, .. } = peer.ask(&read(own, 1002, &[1001], 0, 3)) else {
        panic!("no blocks");
    };
    let expected = [&new[..512], &old[..], &new[1024..]].concat();
    assert_eq!(data[..], expected[..]);
}

#[test]
fn a_thousand_jobs_at_once_are_all_answered() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let mut since_flush = Vec::new();
    let mut last = Vec::new();
    for number in 0..1000u64 {
        let job = 1000 + number;
        if number % 50 == 49 {
            since_flush.append(&mut last);
            peer.send(&flush(own, job, &since_flush, number / 50 + 1));
            since_flush.clear();
            last = vec![job];
        } else if number % 3 == 0 {
            peer.send(&read(own, job, &last, number % 31, 1));
            since_flush.push(job);
        } else {
            let data = blocks(number as u8, 1);
            // Writes to a block come one after the other.
            let mut after = last.clone();
            after.extend(
                since_flush
                    .iter()
                    .filter(|job| (*job - 1000) % 31 == number % 31),
            );
            peer.send(&write(own, job, &after, number % 31, &data));
            since_flush.push(job);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let (job, good) = match peer.receive().unwrap() {
            Message::WriteAck { job, result, .. } | Message::FlushAck { job, result, .. } => {
                (job, result.is_ok())
            }
            Message::ReadResponse { header, .. } => (header.job, header.blocks.is_ok()),
            other => panic!("{other:?}"),
        };
        assert!(good && seen.insert(job), "{job}");
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn extents_are_closed_and_opened_again_by_jobs_and_by_steps() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let extent = ExtentId(0);
    peer.ask(&write(own, 1000, &[], 0, &blocks(1, 1)));
    // The opening arrives first.
    peer.send(&Message::ExtentLiveReopen {
        key: own,
        job: JobId(1003),
        dependencies: ids(&[1002]),
        extent,
    });
    peer.send(&Message::ExtentLiveNoOp {
        key: own,
        job: JobId(1002),
        dependencies: ids(&[1001]),
    });
    let answer = peer.ask(&Message::ExtentLiveFlushClose {
        key: own,
        job: JobId(1001),
        dependencies: ids(&[1000]),
        extent,
        flush: 4,
        generation: 3,
    });
    let Message::ExtentLiveCloseAck {
        result: Ok(state), ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!((state.generation, state.flush, state.dirty), (3, 4, false));
    for job in [1002, 1003] {
        let expected = Message::ExtentLiveAckId {
            key: own,
            job: JobId(job),
            result: Ok(()),
        };
        assert_eq!(peer.receive(), Some(expected));
    }
    let repair = ReconciliationId(0);
    let done = Message::RepairAckId { repair };
    assert_eq!(peer.ask(&Message::ExtentClose { repair, extent }), done);
    assert_eq!(peer.ask(&Message::ExtentReopen { repair, extent }), done);
}

#[test]
fn a_snapshot_can_be_served_read_only() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let data = blocks(9, 1);
    peer.ask(&write(own, 1000, &[], 3, &data));
    let answer = peer.ask(&Message::Flush {
        key: own,
        job: JobId(1001),
        dependencies: ids(&[1000]),
        flush: 1,
        generation: 1,
        snapshot: Some("first".into()),
        extent_limit: None,
    });
    assert!(
        matches!(answer, Message::FlushAck { result: Ok(()), .. }),
        "{answer:?}"
    );
    peer.ask(&write(own, 1002, &[1001], 3, &blocks(10, 1)));

    let copy = Arc::new(Directory::new());
    let made = server.directory.join("region/.snapshots/first");
    std::fs::rename(made, copy.join("region")).unwrap();
    let reader = Server::over(copy, Mode::ReadOnly);
    let mut peer = reader.peer();
    peer.activate(own, 1, true);
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(own, 1000, &[], 3, 1)) else {
        panic!("no blocks");
    };
    assert_eq!(got, data);
}

#[test]
fn readers_of_a_read_only_region_do_not_disturb_each_other() {
    let directory = Arc::new(Directory::new());
    create(&directory.join("region"), &small());
    let server = Server::over(directory, Mode::ReadOnly);
    let mut peers: Vec<_> = (0..4)
        .map(|number| (key(number, 1), server.peer()))
        .collect();
    for (key, peer) in &mut peers {
        peer.activate(*key, 1, true);
    }
    let (own, mut bad) = peers.remove(0);
    bad.send(&write(own, 1000, &[], 0, &blocks(1, 1)));
    assert!(bad.is_closed());
    for (key, peer) in &mut peers {
        let answer = peer.ask(&read(*key, 1000, &[], 0, 32));
        assert!(matches!(answer, Message::ReadResponse { header, .. } if header.blocks.is_ok()));
        let answer = peer.ask(&flush(*key, 1001, &[1000], 1));
        assert!(matches!(answer, Message::FlushAck { result: Ok(()), .. }));
    }
}

#[test]
fn errors_made_on_purpose_are_reported_and_overcome() {
    let directory = Arc::new(Directory::new());
    create(&directory.join("region"), &small());
    let mut config = Config::at("127.0.0.1:0".parse().unwrap());
    config.faults = Faults {
        lossy: false,
        read_errors: true,
        write_errors: true,
        flush_errors: true,
    };
    let server = Server::with(directory, Mode::ReadWrite, config);
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let (mut reports, mut acks) = (0, 0);
    for job in 1000..1100 {
        peer.send(&write(own, job, &[], job % 32, &blocks(1, 1)));
    }
    while acks < 100 {
        match peer.receive().unwrap() {
            Message::WriteAck { result: Ok(()), .. } => acks += 1,
            Message::ErrorReport { error, .. } => {
                assert_eq!(error, CrucibleError::GenericError("test error".into()));
                reports += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1..=100).contains(&reports), "{reports}");
}

#[test]
fn a_lossy_server_answers_everything_in_the_end() {
    let directory = Arc::new(Directory::new());
    create(&directory.join("region"), &small());
    let mut config = Config::at("127.0.0.1:0".parse().unwrap());
    config.faults.lossy = true;
    let server = Server::with(directory, Mode::ReadWrite, config);
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    for job in 1000..1016 {
        peer.send(&write(own, job, &[], job - 1000, &blocks(1, 1)));
    }
    peer.send(&flush(own, 1016, &(1000..1016).collect::<Vec<_>>(), 1));
    let answers: Vec<_> = (0..17).map(|_| peer.receive().unwrap()).collect();
    assert!(matches!(
        answers[16],
        Message::FlushAck { result: Ok(()), .. }
    ));
}
