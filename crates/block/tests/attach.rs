//! Attachments: order, pause, detach, limits and what reaches guest memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::testkit::{Planned, ScriptedSource};
use block::{AttachOptions, Class, Disk, Limit, NullReads, Operation, Outcome, Rate, Segment};
use vm_types::memory::WriteListener;
use vm_types::{Clock, Execution, GuestAddress, GuestMemory, Span, Timers};

const SECONDS: Duration = Duration::from_secs(20);

fn planned(operation: Operation, offset: u64, length: u64) -> Planned {
    Planned {
        operation,
        offset,
        length,
        durable: false,
    }
}

/// A script of given requests, each with given (address, length) segments.
fn list(memory: &GuestMemory, requests: Vec<(Planned, Vec<(u64, u32)>)>) -> Arc<ScriptedSource> {
    ScriptedSource::new(
        memory.clone(),
        Box::new(move |n, segments| {
            let (request, parts) = requests.get(n as usize)?;
            segments.extend(parts.iter().map(|&(address, length)| Segment {
                address: GuestAddress(address),
                length,
            }));
            Some(*request)
        }),
    )
}

fn run_inline(disk: &Disk, source: &Arc<ScriptedSource>) -> Vec<Outcome> {
    let queue = disk
        .attach(source.weak(), AttachOptions::new("t", Execution::Inline, 8))
        .unwrap();
    queue.kick();
    assert!(queue.detach());
    assert_eq!(source.faults(), [""; 0]);
    source.finished()
}

#[test]
fn what_is_written_is_read_back_through_scattered_segments() {
    let disk = Disk::memory(512, 1 << 16).unwrap();
    let memory = GuestMemory::flat(0x8000).unwrap();
    let pattern: Vec<u8> = (0..1024_u32).map(|i| (i * 7) as u8).collect();
    memory.write(GuestAddress(0x100), &pattern).unwrap();
    let source = list(
        &memory,
        vec![
            (
                planned(Operation::Write, 512, 1024),
                vec![(0x100, 3), (0x103, 1000), (0x4eb, 21)],
            ),
            (
                planned(Operation::Read, 512, 1024),
                vec![(0x2ffe, 1023), (0x5000, 1)],
            ),
            (planned(Operation::Flush, 0, 0), vec![]),
        ],
    );
    assert_eq!(run_inline(&disk, &source), [Outcome::Ok; 3]);
    let mut back = vec![0; 1024];
    memory
        .read(GuestAddress(0x2ffe), &mut back[..1023])
        .unwrap();
    memory
        .read(GuestAddress(0x5000), &mut back[1023..])
        .unwrap();
    assert_eq!(back, pattern);
    assert_eq!(source.order(), [0, 1, 2]);
}

#[test]
fn compare_verify_and_zeroes_work_on_every_medium() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let memory = GuestMemory::flat(1 << 20).unwrap();
    memory.fill(GuestAddress(0), 0xa5, 1 << 19).unwrap();
    let long = 200 << 10;
    let source = list(
        &memory,
        vec![
            (planned(Operation::Write, 0, long), vec![(0, long as u32)]),
            (
                planned(Operation::Compare, 0, long),
                vec![(1, 100), (7, long as u32 - 100)],
            ),
            (planned(Operation::Verify, 0, long), vec![]),
            (
                planned(Operation::WriteZeroes { may_unmap: false }, 512, 512),
                vec![],
            ),
            (planned(Operation::Compare, 0, long), vec![(0, long as u32)]),
            (planned(Operation::Compare, 0, 512), vec![(0, 512)]),
            (planned(Operation::Discard, 0, 512), vec![]),
            (planned(Operation::Compare, 0, 512), vec![(0, 512)]),
        ],
    );
    assert_eq!(
        run_inline(&disk, &source),
        [
            Outcome::Ok,
            Outcome::Ok,
            Outcome::Ok,
            Outcome::Ok,
            Outcome::Miscompare,
            Outcome::Ok,
            Outcome::Ok,
            Outcome::Miscompare,
        ]
    );
}

#[test]
fn bad_requests_are_answered_and_never_reach_the_backend() {
    let disk = Disk::memory(4096, 1 << 16).unwrap();
    let memory = GuestMemory::flat(0x4000).unwrap();
    let source = list(
        &memory,
        vec![
            (planned(Operation::Read, 1 << 16, 4096), vec![(0, 4096)]),
            (planned(Operation::Read, 0, 4096), vec![(0, 512)]),
            (planned(Operation::Read, 0, 4096), vec![(0x3fff, 4096)]),
            (planned(Operation::Write, 0, 4096), vec![(u64::MAX, 4096)]),
            (planned(Operation::Read, 0, 0), vec![]),
        ],
    );
    assert_eq!(
        run_inline(&disk, &source),
        [
            Outcome::OutOfRange,
            Outcome::GuestMemory,
            Outcome::GuestMemory,
            Outcome::GuestMemory,
            Outcome::Ok,
        ]
    );
    assert_eq!(disk.stats().class(Class::Read).failed, 3);
    let read_only = disk.read_only();
    let source = list(
        &memory,
        vec![(planned(Operation::Write, 0, 4096), vec![(0, 4096)])],
    );
    assert_eq!(run_inline(&read_only, &source), [Outcome::ReadOnly]);
}

#[derive(Default)]
struct Pages(Mutex<Vec<GuestAddress>>);
impl WriteListener for Pages {
    fn page_written(&self, page: GuestAddress) {
        self.0.lock().unwrap().push(page);
    }
}

#[test]
fn data_landing_in_a_watched_page_is_noted() {
    let disk = Disk::memory(512, 1 << 16).unwrap();
    let memory = GuestMemory::flat(0x4000).unwrap();
    let pages = Arc::new(Pages::default());
    memory.set_write_listener(pages.clone());
    memory.watch_page(GuestAddress(0x2000), true);
    let source = list(
        &memory,
        vec![(
            planned(Operation::Read, 0, 1024),
            vec![(0, 512), (0x2200, 512)],
        )],
    );
    run_inline(&disk, &source);
    assert_eq!(*pages.0.lock().unwrap(), [GuestAddress(0x2000)]);
}

#[test]
fn a_worker_thread_does_all_there_is() {
    let disk = Disk::null(512, 1 << 30, NullReads::Zero).unwrap();
    let memory = GuestMemory::flat(1 << 20).unwrap();
    let source = ScriptedSource::random(memory, Operation::Read, 4096, 1 << 30, 10_000);
    let queue = disk
        .attach(
            source.weak(),
            AttachOptions::new("t", Execution::Threads, 64),
        )
        .unwrap();
    queue.kick();
    assert!(source.wait(SECONDS));
    assert!(queue.pause());
    assert_eq!(queue.in_flight(), 0);
    drop(queue);
    let stats = disk.stats();
    assert_eq!(stats.class(Class::Read).completed, 10_000);
    assert_eq!(stats.class(Class::Read).bytes, 4096 * 10_000);
    assert_eq!(stats.class(Class::Read).latency.count(), 10_000);
    assert!(stats.in_flight_max <= 64);
    assert_eq!(source.faults(), [""; 0]);
}

#[test]
fn a_paused_queue_fetches_nothing_until_it_is_resumed() {
    for execution in [Execution::Inline, Execution::Threads] {
        let disk = Disk::memory(512, 1 << 20).unwrap();
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = ScriptedSource::sequential(memory, Operation::Write, 512, 1 << 20, 100);
        let queue = disk
            .attach(source.weak(), AttachOptions::new("t", execution, 4))
            .unwrap();
        assert!(queue.pause());
        queue.kick();
        assert!(queue.pause(), "a second pause finds it quiet, too");
        assert_eq!(source.progress(), (0, 0));
        queue.resume();
        assert!(source.wait(SECONDS));
        assert_eq!(source.progress(), (100, 100));
        assert!(queue.detach());
        queue.resume();
        queue.kick();
        assert!(queue.detach());
    }
}

#[test]
fn a_queue_whose_device_is_gone_ends_quietly() {
    for execution in [Execution::Inline, Execution::Threads] {
        let disk = Disk::memory(512, 1 << 20).unwrap();
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = ScriptedSource::sequential(memory, Operation::Write, 512, 1 << 20, 100);
        let queue = disk
            .attach(source.weak(), AttachOptions::new("t", execution, 4))
            .unwrap();
        drop(source);
        queue.kick();
        assert!(queue.detach());
    }
}

#[test]
fn an_inline_limit_moves_on_with_the_machines_timers() {
    let limit = Limit {
        requests: Rate::per_second(1000).and_then(|rate| rate.burst(2)),
        bytes: None,
    };
    let disk = Disk::memory(512, 1 << 20).unwrap().limited(limit);
    let memory = GuestMemory::flat(1 << 16).unwrap();
    let source = ScriptedSource::sequential(memory, Operation::Write, 512, 1 << 20, 12);
    let (clock, hand) = Clock::manual();
    let timers = Timers::new();
    let queue = disk
        .attach(
            source.weak(),
            AttachOptions {
                clock: Some(clock.clone()),
                timers: Some(timers.clone()),
                ..AttachOptions::new("t", Execution::Inline, 8)
            },
        )
        .unwrap();
    queue.kick();
    assert_eq!(source.progress(), (2, 2));
    for more in 1..=10 {
        let next = timers.next_deadline().unwrap();
        assert_eq!(next.as_nanos(), more * 1_000_000);
        hand.advance_to(next);
        timers.fire_due(clock.now());
        assert_eq!(source.progress().1 as u64, 2 + more);
    }
    assert!(
        source.wait(Duration::ZERO) || {
            hand.advance(Span::from_millis(1));
            timers.fire_due(clock.now());
            source.wait(Duration::ZERO)
        }
    );
    assert!(queue.stats().throttled > 0);
}

#[test]
fn a_limit_on_a_thread_keeps_its_rate() {
    let limit = Limit {
        requests: None,
        bytes: Rate::per_second(512 * 2000).and_then(|rate| rate.burst(512)),
    };
    let disk = Disk::memory(512, 1 << 20).unwrap().limited(limit);
    let memory = GuestMemory::flat(1 << 16).unwrap();
    let source = ScriptedSource::sequential(memory, Operation::Write, 512, 1 << 20, 200);
    let begin = std::time::Instant::now();
    let queue = disk
        .attach(
            source.weak(),
            AttachOptions::new("t", Execution::Threads, 8),
        )
        .unwrap();
    queue.kick();
    assert!(source.wait(SECONDS));
    // 200 requests at 2000 a second: 100 ms, less the burst.
    assert!(begin.elapsed() >= Duration::from_millis(98));
}

#[test]
fn skipped_flushes_succeed_without_the_backend() {
    let disk = Disk::memory(512, 1 << 20).unwrap().skip_flush();
    let memory = GuestMemory::flat(1 << 16).unwrap();
    let source = ScriptedSource::sequential(memory, Operation::Flush, 512, 1 << 20, 3);
    assert_eq!(run_inline(&disk, &source), [Outcome::Ok; 3]);
    assert_eq!(disk.stats().class(Class::Flush).completed, 3);
}

#[test]
fn sizes_that_make_no_disk_are_refused() {
    assert!(Disk::memory(500, 1 << 20).is_err());
    assert!(Disk::memory(512, 511).is_err());
    assert!(Disk::null(1 << 16, 1 << 20, NullReads::Zero).is_err());
    assert_eq!(Disk::memory(512, 1025).unwrap().info().size_bytes, 1024);
    assert_eq!(Disk::image(512, &[1; 513]).unwrap().info().blocks(), 2);
}

#[test]
fn queues_that_come_and_go_leave_no_timers_behind() {
    let (clock, _hand) = Clock::manual();
    let timers = Timers::new();
    let limit = Limit {
        requests: Rate::per_second(1).and_then(|rate| rate.burst(1)),
        bytes: None,
    };
    let disk = Disk::memory(512, 1 << 16).unwrap().limited(limit);
    for _ in 0..20 {
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = ScriptedSource::sequential(memory, Operation::Read, 512, 1 << 16, 8);
        let options = AttachOptions {
            clock: Some(clock.clone()),
            timers: Some(timers.clone()),
            ..AttachOptions::new("timed", Execution::Inline, 4)
        };
        let queue = disk.attach(source.weak(), options).unwrap();
        queue.kick();
        assert!(timers.next_deadline().is_some(), "held to the limit");
    }
    let state = format!("{timers:?}");
    assert!(state.contains("registered: 0, armed: {}"), "{state}");
}
