//! Under load: how fast, and how much memory. Slow; runs with TRIVET_SLOW only.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crucible_protocol::{BlockContext, BlockIndex, JobId, Message, WriteHeader};

use crate::cli::{Running, run};
use crate::support::{Directory, Peer, key};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64 * 1024;
const UUID: &str = "12345678-0000-0000-0000-000000008810";

/// Resident memory of a process, in MiB: now, and at most so far.
fn memory(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:") / 1024, field("VmHWM:") / 1024)
}

/// Processor time that a process has used, in microseconds.
fn processor_us(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold spaces; what follows it does not. User and system time, in hundredths of a second.
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

struct Load {
    peer: Peer,
    job: u64,
    flushes: u64,
    last_flush: Vec<JobId>,
    random: u64,
}

impl Load {
    fn next_block(&mut self, count: u64, sequential: bool) -> u64 {
        if sequential {
            return self.job * count % (BLOCKS - count);
        }
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % (BLOCKS - count)
    }

    /// Jobs of one kind for a while, `depth` at once; a flush after each 256. Answers jobs per second.
    fn go(&mut self, blocks: u64, depth: usize, writes: bool, sequential: bool) -> f64 {
        let own = key(1, 1);
        let data = Bytes::from(vec![7; BLOCK * blocks as usize]);
        let contexts = vec![BlockContext::plain(&data[..BLOCK]); blocks as usize];
        let began = Instant::now();
        let (mut sent, mut done, mut since) = (0u64, 0u64, Vec::new());
        while began.elapsed() < Duration::from_secs(4) || done < sent {
            while (sent - done) < depth as u64 && began.elapsed() < Duration::from_secs(4) {
                let job = JobId(self.job);
                let start = BlockIndex(self.next_block(blocks, sequential));
                let message = if writes && since.len() == 256 {
                    self.flushes += 1;
                    since.extend_from_slice(&self.last_flush);
                    let dependencies = std::mem::take(&mut since);
                    self.last_flush = vec![job];
                    Message::Flush {
                        key: own,
                        job,
                        dependencies,
                        flush: self.flushes,
                        generation: 1,
                        snapshot: None,
                        extent_limit: None,
                    }
                } else if writes {
                    since.push(job);
                    Message::Write {
                        header: WriteHeader {
                            key: own,
                            job,
                            dependencies: self.last_flush.clone(),
                            start,
                            contexts: contexts.clone(),
                        },
                        data: data.clone(),
                    }
                } else {
                    Message::ReadRequest {
                        key: own,
                        job,
                        dependencies: self.last_flush.clone(),
                        start,
                        count: blocks,
                    }
                };
                self.peer.queue(&message);
                self.job += 1;
                sent += 1;
            }
            self.peer.send_queued();
            match self.peer.receive().unwrap() {
                Message::WriteAck { result: Ok(()), .. }
                | Message::FlushAck { result: Ok(()), .. } => done += 1,
                Message::ReadResponse { header, .. } if header.blocks.is_ok() => done += 1,
                other => panic!("{other:?}"),
            }
            while let Some(message) = self.peer.buffered() {
                assert!(!matches!(message, Message::ErrorReport { .. }));
                done += 1;
            }
        }
        done as f64 / began.elapsed().as_secs_f64()
    }
}

#[test]
fn slow_memory_stays_bounded_under_load() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        let line = b"slow_memory_stays_bounded_under_load: skipped; set TRIVET_SLOW to run it\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    let directory = Directory::new();
    let here = directory.path();
    let geometry = [
        "--block-size",
        "4096",
        "--extent-size",
        "4096",
        "--extent-count",
        "16",
    ];
    run(
        &[&["create", "-d", "r", "-u", UUID], &geometry[..]].concat(),
        here,
    );
    let server = Running::start(&["-d", "r"], here);
    let mut peer = Peer::connect(server.address);
    peer.activate(key(1, 1), 1, false);
    let mut load = Load {
        peer,
        job: 1000,
        flushes: 0,
        last_flush: Vec::new(),
        random: 1,
    };
    let mut report = String::new();
    for (name, blocks, depth, writes, sequential) in [
        ("write 1 MiB, depth 16", 256, 16, true, true),
        ("read 1 MiB, depth 16", 256, 16, false, true),
        ("write 4 KiB, depth 32", 1, 32, true, false),
        ("read 4 KiB, depth 32", 1, 32, false, false),
        ("write 4 KiB, depth 1", 1, 1, true, false),
        ("read 4 KiB, depth 1", 1, 1, false, false),
    ] {
        let before = processor_us(server.pid());
        let rate = load.go(blocks, depth, writes, sequential);
        let megabytes = rate * blocks as f64 * BLOCK as f64 / 1e6;
        let (now, most) = memory(server.pid());
        let each = (processor_us(server.pid()) - before) as f64 / (4.0 * rate);
        report += &format!(
            "{name}: {rate:.0}/s, {megabytes:.0} MB/s, {each:.1} us of processor each, resident {now} MiB, at most {most} MiB\n"
        );
    }
    std::io::stderr().write_all(report.as_bytes()).unwrap();
    let (_, most) = memory(server.pid());
    assert!(most < 64, "{report}");
}
