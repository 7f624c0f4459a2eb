//! Extents from one server to another, and from servers that lie.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crucible_downstairs::store::Mode;
use crucible_protocol::layout::ExtentLayout;
use crucible_protocol::{ClientId, CrucibleError, ExtentId, JobId, Message, ReconciliationId};

use crate::support::{
    Directory, PATIENCE, Peer, Server, blocks, create, flush, http_get, ids, key, read, small,
    write,
};

const EXTENT: ExtentId = ExtentId(1);

/// A server whose extent 1 is closed, so that it can be fetched, and what is in its first block.
fn source() -> (Server, Peer, Vec<u8>) {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut peer = server.active(own, 1);
    let data = blocks(42, 3);
    peer.ask(&write(own, 1000, &[], 8, &data));
    peer.ask(&flush(own, 1001, &[1000], 5));
    let repair = ReconciliationId(0);
    peer.ask(&Message::ExtentClose {
        repair,
        extent: EXTENT,
    });
    (server, peer, data.to_vec())
}

/// A session whose extent 1 is closed, to be repaired.
fn target(server: &Server, generation: u64) -> Peer {
    let own = key(2, generation.into());
    let mut peer = server.active(own, generation);
    let answer = peer.ask(&Message::ExtentLiveClose {
        key: own,
        job: JobId(1000),
        dependencies: Vec::new(),
        extent: EXTENT,
    });
    assert!(matches!(
        answer,
        Message::ExtentLiveCloseAck { result: Ok(_), .. }
    ));
    peer
}

fn live_repair(generation: u64, address: SocketAddr) -> Message {
    Message::ExtentLiveRepair {
        key: key(2, generation.into()),
        job: JobId(1001),
        dependencies: ids(&[1000]),
        extent: EXTENT,
        source: ClientId(1),
        source_address: address,
    }
}

#[test]
fn the_endpoints_answer_as_others_expect() {
    let (server, _peer, _) = source();
    let at = server.repair;
    assert_eq!(http_get(at, "/extent/1/files"), (200, r#"["001"]"#.into()));
    assert_eq!(http_get(at, "/extent/1/repair-ready"), (200, "true".into()));
    assert_eq!(
        http_get(at, "/extent/0/repair-ready"),
        (200, "false".into())
    );
    assert_eq!(http_get(at, "/region-mode"), (200, "false".into()));
    assert_eq!(http_get(at, "/work"), (200, "true".into()));
    let (status, info) = http_get(at, "/region-info");
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((status, &info["extent_count"]), (200, &4.into()));
    assert_eq!(info["extent_size"]["value"], 8);
    assert_eq!(http_get(at, "/newextent/1/db").0, 400);
    // An extent that is written to is no copy of anything.
    assert_eq!(http_get(at, "/newextent/0/data").0, 400);
    assert_eq!(http_get(at, "/newextent/1/data").0, 200);
}

#[test]
fn an_extent_is_repaired_from_another_server() {
    let (source, _peer, data) = source();
    let server = Server::fresh(&small());
    let mut peer = target(&server, 1);
    let own = key(2, 1);
    let expected = Message::ExtentLiveRepairAckId {
        key: own,
        job: JobId(1001),
        result: Ok(()),
    };
    assert_eq!(peer.ask(&live_repair(1, source.repair)), expected);
    peer.ask(&Message::ExtentLiveReopen {
        key: own,
        job: JobId(1002),
        dependencies: ids(&[1001]),
        extent: EXTENT,
    });
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(own, 1003, &[1002], 8, 3)) else {
        panic!("no blocks");
    };
    assert_eq!(got[..], data[..]);
    drop(peer);
    let directory = server.stop();
    let server = Server::over(directory, Mode::ReadWrite);
    let next = key(2, 2);
    let mut peer = server.active(next, 2);
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(next, 1000, &[], 8, 3)) else {
        panic!("no blocks");
    };
    assert_eq!(got[..], data[..]);
}

#[test]
fn an_extent_is_repaired_by_the_steps_of_a_reconciliation() {
    let (source, _peer, data) = source();
    let server = Server::fresh(&small());
    let own = key(2, 1);
    let mut peer = server.active(own, 1);
    let steps = [
        Message::ExtentClose {
            repair: ReconciliationId(0),
            extent: EXTENT,
        },
        Message::ExtentRepair {
            repair: ReconciliationId(1),
            extent: EXTENT,
            source: ClientId(1),
            source_address: source.repair,
            destinations: vec![ClientId(0)],
        },
        Message::ExtentReopen {
            repair: ReconciliationId(2),
            extent: EXTENT,
        },
    ];
    // All at once: each waits for the one before it.
    for step in &steps {
        peer.send(step);
    }
    for number in 0..3 {
        let repair = ReconciliationId(number);
        assert_eq!(peer.receive(), Some(Message::RepairAckId { repair }));
    }
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(own, 1000, &[], 8, 3)) else {
        panic!("no blocks");
    };
    assert_eq!(got[..], data[..]);
}

/// A server of extents that answers each path with what it is told to.
fn liar(answers: impl Fn(&str) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // Ends with the process: the last connection of the test has come by then.
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            while let Some(path) = request(&mut stream) {
                if stream.write_all(&answers(&path)).is_err() {
                    break;
                }
            }
        }
    });
    address
}

fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).ok()?;
    Some(text.split(' ').nth(1)?.to_owned())
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn sources_that_lie_are_refused_and_the_extent_stays_as_it_was() {
    let server = Server::fresh(&small());
    let own = key(2, 1);
    let mut peer = server.active(own, 1);
    let data = blocks(7, 1);
    peer.ask(&write(own, 900, &[], 8, &data));
    peer.ask(&flush(own, 901, &[900], 1));
    drop(peer);

    let length = ExtentLayout::new(&small().geometry().unwrap()).file_len() as usize;
    type Lie = Box<dyn Fn(&str) -> Vec<u8> + Send>;
    let honest_list = || answer("200 OK", br#"["001"]"#);
    let lies: Vec<(&str, Lie)> = vec![
        (
            "no such thing",
            Box::new(|_| answer("404 Not Found", br#"{"message":"no"}"#)),
        ),
        ("no JSON", Box::new(|_| answer("200 OK", b"{{{{"))),
        ("no HTTP", Box::new(|_| b"\x00\x01\x02\r\n\r\n".to_vec())),
        (
            "another extent",
            Box::new(|_| answer("200 OK", br#"["002"]"#)),
        ),
        ("nothing", Box::new(|_| answer("200 OK", b"[]"))),
        (
            "a path",
            Box::new(|_| answer("200 OK", br#"["../../etc/passwd"]"#)),
        ),
        (
            "the old format",
            Box::new(|_| answer("200 OK", br#"["001","001.db"]"#)),
        ),
        (
            "a list without end",
            Box::new(|_| {
                answer(
                    "200 OK",
                    format!("[{}\"1\"]", "\"0\",".repeat(100_000)).as_bytes(),
                )
            }),
        ),
        (
            "a short file",
            Box::new(move |path| match path {
                "/newextent/1/data" => answer("200 OK", &vec![0; length - 1]),
                _ => honest_list(),
            }),
        ),
        (
            "a long file",
            Box::new(move |path| match path {
                "/newextent/1/data" => answer("200 OK", &vec![0; length + 1]),
                _ => honest_list(),
            }),
        ),
        (
            "metadata that cannot be",
            Box::new(move |path| match path {
                "/newextent/1/data" => answer("200 OK", &vec![0xff; length]),
                "/extent/1/repair-ready" => answer("200 OK", b"true"),
                _ => honest_list(),
            }),
        ),
        (
            "an extent that was opened",
            Box::new(move |path| match path {
                "/newextent/1/data" => {
                    let mut file = vec![0; length];
                    file[length - 15] = 2;
                    answer("200 OK", &file)
                }
                "/extent/1/repair-ready" => answer("200 OK", b"false"),
                _ => honest_list(),
            }),
        ),
    ];
    for (number, (name, lie)) in lies.into_iter().enumerate() {
        let generation = number as u64 + 2;
        let mut peer = target(&server, generation);
        let answer = peer.ask(&live_repair(generation, liar(lie)));
        let Message::ErrorReport {
            job: JobId(1001),
            error,
            ..
        } = answer
        else {
            panic!("{name}: {answer:?}");
        };
        // Only what is wrong with the files themselves is held against them.
        match name {
            "an extent that was opened" => {
                assert!(
                    matches!(error, CrucibleError::RepairRequestError(_)),
                    "{error}"
                );
            }
            "metadata that cannot be" => {
                assert!(
                    matches!(error, CrucibleError::RepairFilesInvalid(_)),
                    "{error}"
                );
            }
            _ => {}
        }
        assert!(peer.is_closed(), "{name}");
        let next = key(2, 1000);
        let mut peer = server.active(next, generation);
        let Message::ReadResponse { data: got, .. } = peer.ask(&read(next, 1000, &[], 8, 1)) else {
            panic!("{name}: no blocks");
        };
        assert_eq!(got, data, "{name}");
    }
}

#[test]
fn a_source_that_is_gone_is_an_error() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server::fresh(&small());
    let mut peer = target(&server, 1);
    let answer = peer.ask(&live_repair(1, gone));
    assert!(matches!(answer, Message::ErrorReport { .. }));
    assert!(peer.is_closed());
}

#[test]
fn pings_and_other_extents_go_on_while_a_copy_stalls() {
    let (release, released) = mpsc::channel::<()>();
    let stalling = liar(move |_| {
        let _ = released.recv_timeout(Duration::from_secs(10).min(PATIENCE));
        answer("404 Not Found", b"{}")
    });
    let server = Server::fresh(&small());
    let own = key(2, 1);
    let mut peer = target(&server, 1);
    peer.send(&live_repair(1, stalling));
    peer.ping();
    for job in 2000..2032 {
        let start = if job % 2 == 0 { 0 } else { 16 };
        let answer = peer.ask(&write(own, job, &[], start, &blocks(1, 1)));
        assert!(matches!(answer, Message::WriteAck { result: Ok(()), .. }));
    }
    release.send(()).unwrap();
    assert!(matches!(peer.receive(), Some(Message::ErrorReport { .. })));
}

#[test]
fn a_read_only_region_hands_out_all_of_its_extents() {
    let directory = Arc::new(Directory::new());
    create(&directory.join("region"), &small());
    let server = Server::over(directory, Mode::ReadOnly);
    assert_eq!(
        http_get(server.repair, "/region-mode"),
        (200, "true".into())
    );
    for extent in 0..4 {
        let ready = http_get(server.repair, &format!("/extent/{extent}/repair-ready"));
        assert_eq!(ready, (200, "true".into()));
        let path = format!("/newextent/{extent}/data");
        assert_eq!(http_get(server.repair, &path).0, 200);
    }
}
