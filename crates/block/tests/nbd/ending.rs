//! How connections and exports end.

use std::collections::HashMap;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::nbd::{ExportError, ExportOptions, export};
use block::{Class, Disk, Fault, Faults, Rule};

use crate::client::{DISCONNECT, READ, Served, WRITE, request_bytes};

#[test]
fn goodbye_waits_for_what_is_in_flight() {
    let faults = Faults::new();
    faults.add(Rule::every(Class::Write, Fault::Stall));
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    client.request(WRITE, 0, 1, 0, 512);
    client.say(&[9; 512]);
    client.request(DISCONNECT, 0, 2, 0, 0);
    while disk.stats().in_flight == 0 {
        std::thread::yield_now();
    }
    faults.clear();
    faults.release();
    let (cookie, reply) = client.reply(&HashMap::new());
    assert_eq!((cookie, reply.error), (1, 0));
    assert!(client.is_closed());
}

#[test]
fn stopping_answers_what_is_in_flight_and_hangs_up() {
    let faults = Faults::new();
    faults.add(Rule::every(Class::Read, Fault::Stall));
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let served = Arc::new(Served::new(&disk, ExportOptions::default()));
    let (mut client, ..) = served.enter(true);
    let mut idle = served.dial();
    client.request(READ, 0, 1, 0, 512);
    while disk.stats().in_flight == 0 {
        std::thread::yield_now();
    }
    let stopping = {
        let served = served.clone();
        std::thread::spawn(move || served.export.stop())
    };
    assert!(idle.is_closed());
    faults.clear();
    faults.release();
    let (cookie, reply) = client.reply(&[(1, 512)].into());
    assert_eq!((cookie, reply.error), (1, 0));
    assert!(client.is_closed());
    stopping.join().unwrap();
    assert!(std::os::unix::net::UnixStream::connect(served.socket()).is_err());
    assert_eq!(served.export.connections(), 0);
}

#[test]
fn a_disk_that_hangs_holds_up_the_end_only_so_long() {
    let faults = Faults::new();
    faults.add(Rule::every(Class::Read, Fault::Stall));
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let options = ExportOptions {
        drain_within: Duration::from_millis(50),
        depth: 1,
        ..ExportOptions::default()
    };
    let served = Served::new(&disk, options);
    let (mut client, ..) = served.enter(true);
    // The second finds no slot, so that its reader waits, too.
    client.request(READ, 0, 1, 0, 512);
    client.request(READ, 0, 2, 0, 512);
    while disk.stats().in_flight == 0 {
        std::thread::yield_now();
    }
    let begin = Instant::now();
    served.export.stop();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(client.is_closed());
}

#[test]
fn clients_that_come_again_to_a_disk_that_hangs_do_not_add_up() {
    let faults = Faults::new();
    faults.add(Rule::every(Class::Write, Fault::Stall));
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let options = ExportOptions {
        drain_within: Duration::from_millis(1),
        connections_max: 2,
        ..ExportOptions::default()
    };
    let served = Served::new(&disk, options);
    for number in 0..2 {
        let (mut client, ..) = served.enter(true);
        client.request(WRITE, 0, number, number * 512, 512);
        client.say(&[number as u8 + 1; 512]);
        while disk.stats().in_flight <= number {
            std::thread::yield_now();
        }
    }
    // Both have left, and their writes have not.
    let mut third = std::os::unix::net::UnixStream::connect(served.socket()).unwrap();
    assert!(!matches!(third.read(&mut [0]), Ok(1)));
    assert_eq!(served.export.connections(), 2);
    faults.clear();
    faults.release();
    while served.export.connections() > 0 {
        std::thread::yield_now();
    }
    let (mut client, ..) = served.enter(true);
    assert_eq!(client.read(0, 512), [1; 512]);
    assert_eq!(client.read(512, 512), [2; 512]);
}

#[test]
fn a_client_that_does_not_read_holds_up_only_itself() {
    let disk = Disk::memory(512, 4 << 20).unwrap();
    let options = ExportOptions {
        drain_within: Duration::from_millis(50),
        ..ExportOptions::default()
    };
    let served = Served::new(&disk, options);
    let (mut deaf, ..) = served.enter(true);
    for cookie in 0..100 {
        deaf.request(READ, 0, cookie, 0, 1 << 20);
    }
    let (mut other, ..) = served.enter(true);
    assert_eq!(other.write(0, 0, &[1; 512]), 0);
    assert_eq!(other.read(0, 512), [1; 512]);
    let begin = Instant::now();
    served.export.stop();
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing_behind() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let served = Served::new(&disk, ExportOptions::default());
    for cut in [1, 27, 28, 29, 28 + 511] {
        let (mut client, ..) = served.enter(true);
        let request = [request_bytes(WRITE, 0, 1, 0, 512), vec![1; 512]].concat();
        client.say(&request[..cut]);
    }
    let (mut client, ..) = served.enter(true);
    while served.export.connections() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(client.read(0, 512), [0; 512]);
}

#[test]
fn nonsense_ends_the_connection() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    client.say(&[0; 28]);
    assert!(client.is_closed());
}

#[test]
fn more_clients_than_allowed_are_sent_away() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let options = ExportOptions {
        connections_max: 1,
        ..ExportOptions::default()
    };
    let served = Served::new(&disk, options);
    let (mut first, ..) = served.enter(true);
    let mut second = std::os::unix::net::UnixStream::connect(served.socket()).unwrap();
    assert!(!matches!(second.read(&mut [0]), Ok(1)));
    assert_eq!(first.read(0, 1), [0]);
    drop(first);
    while served.export.connections() > 0 {
        std::thread::yield_now();
    }
    let (mut third, ..) = served.enter(true);
    assert_eq!(third.read(0, 1), [0]);
}

#[test]
fn tcp_serves_as_well() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let export = export(&disk, listener, ExportOptions::default()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, *b"NBDMAGICIHAVEOPT\0\x03");
    export.stop();
    assert!(!matches!(stream.read(&mut [0]), Ok(1)));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn options_out_of_range_are_named() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let refused = |options: ExportOptions| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        match export(&disk, listener, options) {
            Err(error @ (ExportError::OutOfRange { .. } | ExportError::Text { .. })) => {
                error.to_string()
            }
            other => panic!("unexpected {other:?}"),
        }
    };
    let sound = ExportOptions::default;
    assert_eq!(
        refused(ExportOptions {
            depth: 0,
            ..sound()
        }),
        "depth: expected 1 to 4096, found 0"
    );
    let connections_max = 1000;
    assert_eq!(
        refused(ExportOptions {
            connections_max,
            ..sound()
        }),
        "connections_max: expected 1 to 256, found 1000"
    );
    let request_max = 64 << 20;
    assert_eq!(
        refused(ExportOptions {
            request_max,
            ..sound()
        }),
        "request_max: expected 65536 to 33554432, found 67108864"
    );
    let name = "x".repeat(4097);
    assert_eq!(
        refused(ExportOptions { name, ..sound() }),
        "export name: expected at most 4096 bytes, found 4097"
    );
}
