//! Requests and replies.

use std::collections::{HashMap, HashSet};

use block::nbd::ExportOptions;
use block::{Class, Disk, Fault, Faults, Outcome, Rule};

use crate::client::{FLUSH, FUA, NO_HOLE, READ, Served, TRIM, WRITE, WRITE_ZEROES, request_bytes};

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

fn served(block_size: u32) -> Served {
    let disk = Disk::memory(block_size, 1 << 20).unwrap();
    Served::new(&disk, ExportOptions::default())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ at as u8).collect()
}

#[test]
fn what_is_written_is_read_again_in_both_kinds_of_reply() {
    for structured in [false, true] {
        let served = served(512);
        let (mut client, ..) = served.enter(structured);
        let data = pattern(300 << 10);
        assert_eq!(client.write(0, 4096, &data), 0);
        assert_eq!(client.read(4096, 300 << 10), data);
        assert_eq!(client.write(FUA, 0, &data[..512]), 0);
        assert_eq!(client.ask(FLUSH, 0, 0, 0).error, 0);
        assert_eq!(client.read(0, 512), data[..512]);
        assert_eq!(client.ask(READ, 0, 0, 0).data, []);
        assert_eq!(client.write(0, 0, &[]), 0);
    }
}

#[test]
fn reads_may_begin_and_end_anywhere() {
    let served = served(4096);
    let (mut client, ..) = served.enter(true);
    let data = pattern(16 << 10);
    assert_eq!(client.write(0, 0, &data), 0);
    for (from, to) in [(0, 1), (4095, 4097), (1, 16383), (8192, 8193), (5000, 5100)] {
        let read = client.read(from as u64, (to - from) as u32);
        assert_eq!(read, data[from..to], "{from}..{to}");
    }
    assert_eq!(client.read((1 << 20) - 1, 1), [0]);
}

#[test]
fn zeroing_and_trimming_leave_zeroes() {
    let served = served(512);
    let (mut client, ..) = served.enter(true);
    for (command, flags) in [
        (WRITE_ZEROES, 0),
        (WRITE_ZEROES, NO_HOLE | FUA),
        (TRIM, 0),
        (TRIM, FUA),
    ] {
        assert_eq!(client.write(0, 0, &[7; 4096]), 0);
        assert_eq!(client.ask(command, flags, 512, 1024).error, 0);
        let expected = [vec![7; 512], vec![0; 1024], vec![7; 2560]].concat();
        assert_eq!(client.read(0, 4096), expected, "{command} {flags}");
    }
}

#[test]
fn a_durable_trim_is_flushed() {
    let faults = Faults::new();
    faults.add(Rule::every(Class::Flush, Fault::Fail(Outcome::WriteFailed)));
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    assert_eq!(client.ask(TRIM, 0, 0, 512).error, 0);
    assert_eq!(client.ask(TRIM, FUA, 0, 512).error, EIO);
    faults.clear();
    assert_eq!(client.ask(TRIM, FUA, 0, 512).error, 0);
}

#[test]
fn what_must_not_be_is_refused_with_the_protocols_numbers() {
    for structured in [false, true] {
        let served = served(4096);
        let (mut client, ..) = served.enter(structured);
        let end = 1 << 20;
        for (command, flags, offset, length, error) in [
            (READ, 0, end, 1, EINVAL),
            (READ, 0, u64::MAX, 1, EINVAL),
            (READ, 0, 0, (32 << 20) + 1, EOVERFLOW),
            (READ, NO_HOLE, 0, 4096, EINVAL),
            (WRITE_ZEROES, 0, end, 4096, ENOSPC),
            (WRITE_ZEROES, 0, 512, 4096, EINVAL),
            (WRITE_ZEROES, 1 << 4, 0, 4096, EINVAL),
            (TRIM, 0, end, 4096, EINVAL),
            (TRIM, 0, 0, 100, EINVAL),
            (5, 0, 0, 4096, EINVAL),
            (7, 0, 0, 4096, EINVAL),
            (0xffff, 0, 0, 4096, EINVAL),
        ] {
            let reply = client.ask(command, flags, offset, length);
            assert_eq!(reply.error, error, "{command} {flags} {offset} {length}");
        }
        // Their payload is thrown away, whatever its length.
        assert_eq!(client.write(0, end, &[1; 4096]), ENOSPC);
        assert_eq!(client.write(0, 1, &[1; 5000]), EINVAL);
        assert_eq!(client.write(0, 0, &vec![1; (32 << 20) + 4096]), EINVAL);
        assert_eq!(client.read(0, 8192), [0; 8192]);
    }
}

#[test]
fn a_read_only_disk_refuses_every_kind_of_write() {
    let disk = Disk::memory(512, 1 << 20).unwrap().read_only();
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    assert_eq!(client.write(0, 0, &[1; 512]), EPERM);
    assert_eq!(client.ask(WRITE_ZEROES, 0, 0, 512).error, EPERM);
    assert_eq!(client.ask(TRIM, 0, 0, 512).error, EPERM);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).error, 0);
    assert_eq!(client.read(0, 512), [0; 512]);
}

#[test]
fn a_failing_medium_is_an_error_of_that_request_only() {
    let faults = Faults::new();
    faults.add(Rule {
        bytes: Some(3 << 20..(3 << 20) + 512),
        ..Rule::every(Class::Read, Fault::Fail(Outcome::ReadFailed))
    });
    let disk = Disk::memory(512, 8 << 20).unwrap().faulty(&faults);
    let served = Served::new(&disk, ExportOptions::default());
    for structured in [false, true] {
        let (mut client, ..) = served.enter(structured);
        assert_eq!(client.ask(READ, 0, 3 << 20, 512).error, EIO);
        // One part of eight fails.
        assert_eq!(client.ask(READ, 0, 0, 8 << 20).error, EIO);
        assert_eq!(client.read(0, 3 << 20).len(), 3 << 20);
    }
}

#[test]
fn replies_overtake_each_other() {
    let faults = Faults::new();
    faults.add(Rule {
        bytes: Some(0..512),
        ..Rule::every(Class::Read, Fault::Stall)
    });
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    let lengths: HashMap<u64, u32> = [(1, 512), (2, 512)].into();
    client.request(READ, 0, 1, 0, 512);
    client.request(READ, 0, 2, 4096, 512);
    assert_eq!(client.reply(&lengths).0, 2);
    faults.clear();
    faults.release();
    assert_eq!(client.reply(&lengths).0, 1);
}

#[test]
fn many_requests_at_once_are_each_answered_once() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    // Fewer slots, and less memory, than the client would like to use.
    let options = ExportOptions {
        depth: 4,
        request_max: 64 << 10,
        ..ExportOptions::default()
    };
    let served = Served::new(&disk, options);
    let (mut client, ..) = served.enter(true);
    let data = pattern(64 << 10);
    let mut script = Vec::new();
    let mut lengths = HashMap::new();
    for cookie in 0..200_u64 {
        let offset = (cookie % 16) << 16;
        if cookie % 3 == 0 {
            script.extend(request_bytes(WRITE, 0, cookie, offset, 64 << 10));
            script.extend(&data);
        } else {
            script.extend(request_bytes(READ, 0, cookie, offset, 60 << 10));
            lengths.insert(cookie, 60 << 10);
        }
    }
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        std::io::Write::write_all(&mut sender, &script).unwrap();
    });
    let mut answered = HashSet::new();
    for _ in 0..200 {
        let (cookie, reply) = client.reply(&lengths);
        assert_eq!(reply.error, 0);
        assert!(answered.insert(cookie), "{cookie} twice");
        let whole = reply.data == data[..reply.data.len()];
        assert!(whole || reply.data.iter().all(|byte| *byte == 0) || reply.data.len() == 60 << 10);
    }
    sending.join().unwrap();
    assert_eq!(client.read(0, 64 << 10), data);
}

#[test]
fn requests_longer_than_the_disk_likes_go_in_parts() {
    let disk = Disk::memory(512, 40 << 20).unwrap();
    let served = Served::new(&disk, ExportOptions::default());
    let (mut client, ..) = served.enter(true);
    let data = pattern(32 << 20);
    assert_eq!(client.write(FUA, 512, &data), 0);
    assert!(client.read(512, 32 << 20) == data, "the same data");
    assert_eq!(client.ask(WRITE_ZEROES, 0, 0, 40 << 20).error, 0);
    assert_eq!(client.read(1 << 20, 512), [0; 512]);
    let stats = disk.stats();
    let writes = stats.class(Class::Write).completed;
    assert!(writes >= 32, "{writes} writes reached the disk");
}

#[test]
fn several_connections_see_each_others_writes() {
    let served = served(512);
    let mut clients: Vec<_> = (0..8).map(|_| served.enter(true).0).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            client.write(FUA, number as u64 * 512, &[number as u8; 512]),
            0
        );
    }
    for client in &mut clients {
        for number in 0..8 {
            assert_eq!(client.read(number * 512, 512), [number as u8; 512]);
        }
    }
    assert_eq!(served.export.connections(), 8);
}
