//! What a peer can do to a server: nothing but lose its own connection.

use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, ExtentId, JobId, Message, ReconciliationId,
    SessionKey, WriteHeader,
};

use crate::support::{Peer, Server, blocks, http_get, ids, key, read, small, write};

const OWN: (u128, u128) = (1, 1);

fn own() -> SessionKey {
    key(OWN.0, OWN.1)
}

/// A frame whose length says something else than it has.
fn frame(length: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), body].concat()
}

/// The head of a write as it would be encoded, to be bent.
fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    message.encode_into(&mut bytes);
    bytes.to_vec()
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let server = Server::fresh(&small());
    let mut witness = server.active(own(), 1);
    let hello = encoded(&Message::HereIAm {
        version: 13,
        key: key(9, 9),
        generation: 1,
        read_only: false,
        encrypted: false,
        alternate_versions: Vec::new(),
    });
    let mut long_list = hello.clone();
    let end = long_list.len();
    long_list[end - 8..].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut bad_bool = hello;
    bad_bool[end - 9] = 2;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("length 0", frame(0, &[])),
        ("length 1", frame(1, &[])),
        ("length 2", frame(2, &[])),
        ("length 3", frame(3, &[])),
        ("length 4", frame(4, &[])),
        ("length 5", frame(5, &[0])),
        ("length 7", frame(7, &[0; 3])),
        ("length over the limit", frame(104_857_601, &[0; 64])),
        ("length of everything", frame(u32::MAX, &[0; 64])),
        ("no such message", frame(8, &42u32.to_le_bytes())),
        ("no such message at all", frame(8, &u32::MAX.to_le_bytes())),
        ("a body too short", frame(12, &[0; 8])),
        ("a list without end", long_list),
        ("a bool that is none", bad_bool),
        (
            "a request of another protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ),
        (
            "a long frame from a stranger",
            frame(50 << 20, &30u32.to_le_bytes()),
        ),
    ];
    for (name, bytes) in cases {
        let mut peer = server.peer();
        peer.send_bytes(&bytes);
        assert!(peer.is_closed(), "{name}");
        witness.ping();
    }
}

#[test]
fn garbage_from_an_active_session_ends_it_and_the_next_one_begins() {
    let server = Server::fresh(&small());
    let good = encoded(&write(own(), 1000, &[], 0, &blocks(1, 1)));
    let data_length_at = good.len() - 512 - 8;
    let contexts_at = data_length_at - 9 - 8;
    let mut data_too_long = good.clone();
    data_too_long[data_length_at..data_length_at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut data_past_frame = good.clone();
    data_past_frame[data_length_at..data_length_at + 8].copy_from_slice(&513u64.to_le_bytes());
    let mut contexts_past_frame = good.clone();
    contexts_past_frame[contexts_at..contexts_at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut dependencies_past_frame = good;
    dependencies_past_frame[64..72].copy_from_slice(&(u64::MAX / 8).to_le_bytes());
    let two_contexts = encoded(&Message::Write {
        header: WriteHeader {
            key: own(),
            job: JobId(1000),
            dependencies: Vec::new(),
            start: BlockIndex(0),
            contexts: vec![BlockContext::plain(&[]); 2],
        },
        data: blocks(1, 1),
    });
    for (generation, (name, bytes)) in [
        ("data longer than anything", data_too_long),
        ("data longer than the frame", data_past_frame),
        ("more contexts than bytes", contexts_past_frame),
        ("more dependencies than bytes", dependencies_past_frame),
        ("two contexts for one block", two_contexts),
        ("a frame of length 3", frame(3, &[])),
        ("an answer", encoded(&Message::Imok)),
        ("a second greeting", {
            encoded(&Message::PromoteToActive {
                key: own(),
                generation: 99,
            })
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut peer = server.active(own(), generation as u64 + 1);
        peer.send_bytes(&bytes);
        assert!(peer.is_closed(), "{name}");
    }
    server.active(own(), 100).ping();
}

fn assert_lives(peer: &mut Peer, job: u64) {
    peer.ping();
    let answer = peer.ask(&write(own(), job, &[], 30, &blocks(1, 1)));
    assert!(
        matches!(answer, Message::WriteAck { result: Ok(()), .. }),
        "{answer:?}"
    );
}

#[test]
fn blocks_that_do_not_exist_are_an_error() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    let mut job = 1000;
    for (start, count) in [
        (32, 1),
        (31, 2),
        (0, 33),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (0, u64::MAX),
        (1 << 60, 1 << 60),
    ] {
        job += 1;
        let Message::ReadResponse { header, data } = peer.ask(&read(own(), job, &[], start, count))
        else {
            panic!("another answer");
        };
        assert_eq!(header.blocks, Err(CrucibleError::OffsetInvalid));
        assert!(data.is_empty());
    }
    for start in [32, 31, u64::MAX, u64::MAX - 1] {
        job += 1;
        let answer = peer.ask(&write(own(), job, &[], start, &blocks(1, 2)));
        let expected = Message::WriteAck {
            key: own(),
            job: JobId(job),
            result: Err(CrucibleError::OffsetInvalid),
        };
        assert_eq!(answer, expected);
    }
    assert_lives(&mut peer, job + 1);
}

#[test]
fn extents_that_do_not_exist_are_an_error() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    let repair = ReconciliationId(1);
    let source = "127.0.0.1:1".parse().unwrap();
    for extent in [4, 5, 4096, u32::MAX].map(ExtentId) {
        let error = CrucibleError::InvalidExtent;
        let expected = Message::ExtentError {
            repair,
            extent,
            error: error.clone(),
        };
        for step in [
            Message::ExtentClose { repair, extent },
            Message::ExtentReopen { repair, extent },
            Message::ExtentFlush {
                repair,
                extent,
                client: crucible_protocol::ClientId(200),
                flush: 1,
                generation: 1,
            },
            Message::ExtentRepair {
                repair,
                extent,
                source: crucible_protocol::ClientId(0),
                source_address: source,
                destinations: Vec::new(),
            },
        ] {
            assert_eq!(peer.ask(&step), expected);
        }
        let answer = peer.ask(&Message::ExtentLiveClose {
            key: own(),
            job: JobId(2000 + u64::from(extent.0)),
            dependencies: Vec::new(),
            extent,
        });
        assert!(matches!(answer, Message::ExtentLiveCloseAck { result: Err(e), .. } if e == error));
    }
    assert_lives(&mut peer, 1000);
}

#[test]
fn closing_twice_opening_twice_and_jobs_on_a_closed_extent_harm_nobody() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    let extent = ExtentId(0);
    let repair = ReconciliationId(0);
    let done = Message::RepairAckId { repair };
    assert_eq!(peer.ask(&Message::ExtentReopen { repair, extent }), done);
    assert_eq!(peer.ask(&Message::ExtentClose { repair, extent }), done);
    assert_eq!(peer.ask(&Message::ExtentClose { repair, extent }), done);

    let failed = |answer: Message| match answer {
        Message::ReadResponse { header, .. } => header.blocks.is_err(),
        Message::WriteAck { result, .. } => result.is_err(),
        Message::ErrorReport { .. } => false,
        other => panic!("{other:?}"),
    };
    for message in [
        read(own(), 1000, &[], 0, 1),
        write(own(), 1001, &[], 0, &blocks(1, 1)),
    ] {
        peer.send(&message);
        // A report may come first; the answer comes in any case.
        while !failed(peer.receive().unwrap()) {}
    }
    for job in [1002, 1003] {
        let answer = peer.ask(&Message::ExtentLiveClose {
            key: own(),
            job: JobId(job),
            dependencies: Vec::new(),
            extent,
        });
        assert!(
            matches!(answer, Message::ExtentLiveCloseAck { result: Ok(_), .. }),
            "{answer:?}"
        );
    }
    for job in [1004, 1005] {
        let answer = peer.ask(&Message::ExtentLiveReopen {
            key: own(),
            job: JobId(job),
            dependencies: Vec::new(),
            extent,
        });
        assert!(
            matches!(answer, Message::ExtentLiveAckId { result: Ok(()), .. }),
            "{answer:?}"
        );
    }
    assert_lives(&mut peer, 1006);
}

#[test]
fn a_write_with_a_wrong_hash_is_refused_once() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    let Message::Write { mut header, data } = write(own(), 1000, &[], 0, &blocks(1, 2)) else {
        unreachable!()
    };
    header.contexts[1].hash ^= 1;
    let answer = peer.ask(&Message::Write { header, data });
    let expected = Message::WriteAck {
        key: own(),
        job: JobId(1000),
        result: Err(CrucibleError::HashMismatch),
    };
    assert_eq!(answer, expected);
    // Nothing of it was applied.
    let Message::ReadResponse { header, .. } = peer.ask(&read(own(), 1001, &[], 0, 2)) else {
        panic!("no blocks");
    };
    let empty = vec![crucible_protocol::ReadBlockContext::Empty; 2];
    assert_eq!(header.blocks, Ok(empty));
    assert_lives(&mut peer, 1002);
}

#[test]
fn jobs_that_wait_for_ever_are_bounded() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    for job in 0..20_000 {
        peer.send(&read(own(), 1000 + job, &[7], 0, 1));
    }
    assert!(peer.is_closed());
    server.active(own(), 2).ping();
}

#[test]
fn a_job_that_came_twice_and_one_of_another_session() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    let stranger = key(5, 5);
    let answer = peer.ask(&read(stranger, 1000, &[], 0, 1));
    let expected = own().upstairs.0;
    assert_eq!(answer, Message::UuidMismatch { expected });
    peer.send(&read(own(), 1000, &[7], 0, 1));
    peer.ping();
    peer.send(&read(own(), 1000, &[7], 0, 1));
    assert!(peer.is_closed());
}

#[test]
fn a_snapshot_that_leads_elsewhere_is_refused() {
    let server = Server::fresh(&small());
    let mut peer = server.active(own(), 1);
    for (job, name) in [(1000, "../escape"), (1001, ""), (1002, "a/b")] {
        let answer = peer.ask(&Message::Flush {
            key: own(),
            job: JobId(job),
            dependencies: ids(&[]),
            flush: 1,
            generation: 1,
            snapshot: Some(name.into()),
            extent_limit: None,
        });
        assert!(
            matches!(
                answer,
                Message::FlushAck {
                    result: Err(CrucibleError::SnapshotFailed(_)),
                    ..
                }
            ),
            "{answer:?}"
        );
    }
}

#[test]
fn absurd_http_requests_are_answered() {
    let server = Server::fresh(&small());
    for extent in [
        "4",
        "4294967295",
        "4294967296",
        "-1",
        "x",
        "%00",
        "99999999999999999999",
    ] {
        for path in [
            format!("/extent/{extent}/files"),
            format!("/extent/{extent}/repair-ready"),
            format!("/newextent/{extent}/data"),
        ] {
            let (status, body) = http_get(server.repair, &path);
            assert_eq!(status, 400, "{path}: {body}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(json["message"].is_string() && json["request_id"].is_string());
        }
    }
    assert_eq!(http_get(server.repair, "/newextent/0/passwd").0, 400);
    assert_eq!(http_get(server.repair, "/nothing").0, 404);
    server.active(own(), 1).ping();
}

#[test]
fn connections_that_say_nothing_to_the_repair_port_make_room_for_those_that_do() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    let server = Server::fresh(&small());
    let mut silent = Vec::new();
    for index in 0..200 {
        let mut stream = TcpStream::connect(server.repair).unwrap();
        if index % 2 == 0 {
            stream.write_all(b"GET /region-info HTTP/1.1\r\n").unwrap();
        }
        silent.push(stream);
        if index % 50 == 49 {
            assert_eq!(http_get(server.repair, "/region-info").0, 200);
        }
    }
    let timeout = Some(std::time::Duration::from_secs(20));
    for stream in &mut silent[..100] {
        stream.set_read_timeout(timeout).unwrap();
        // Closed, with or without a word.
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        assert!(
            !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "{end:?}"
        );
    }
    server.active(own(), 1).ping();
}
