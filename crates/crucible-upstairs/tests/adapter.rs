//! A volume as a disk: what devices and exports do to it, over a volume in memory.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::testkit::{Planned, ScriptedSource};
use block::{AttachOptions, Disk, Operation, Outcome, Segment};
use bytes::{Bytes, BytesMut};
use crucible_protocol::BlockIndex;
use crucible_upstairs::adapter::VolumeDisk;
use crucible_upstairs::core::{Answer, Plain, Request, VolumeError, Written};
use crucible_upstairs::store::{Ask, Shape, Store, Submission};
use crucible_upstairs::volume::{MemoryLeaf, Volume};
use vm_types::{Execution, GuestAddress, GuestMemory, Span};

const WITHIN: Duration = Duration::from_secs(20);

fn volume(blocks: u64) -> Volume {
    Volume::in_memory(MemoryLeaf::new(512, blocks).unwrap())
}

fn disk(volume: &Volume) -> Disk {
    Disk::new(Arc::new(VolumeDisk::new(volume.clone()).unwrap()))
}

/// Carries out `requests`, each with guest memory from `at` on, cut into two segments.
fn run(
    disk: &Disk,
    memory: &GuestMemory,
    execution: Execution,
    requests: Vec<(Planned, u64)>,
) -> Vec<Outcome> {
    let script = move |n: u64, segments: &mut Vec<Segment>| {
        let (planned, at) = requests.get(n as usize)?;
        let moves = matches!(
            planned.operation,
            Operation::Read | Operation::Write | Operation::Compare
        );
        if moves && planned.length > 0 {
            let first = (planned.length / 3 + 1) as u32;
            for (address, length) in [
                (*at, first),
                (at + u64::from(first), planned.length as u32 - first),
            ] {
                segments.push(Segment {
                    address: GuestAddress(address),
                    length,
                });
            }
        }
        Some(*planned)
    };
    let source = ScriptedSource::new(memory.clone(), Box::new(script));
    let options = AttachOptions::new("test", execution, 8);
    let queue = disk.attach(source.weak(), options).unwrap();
    queue.kick();
    assert!(source.wait(WITHIN), "all requests are answered");
    assert!(queue.detach());
    assert_eq!(source.faults(), Vec::<String>::new());
    source.finished()
}

fn plan(operation: Operation, offset: u64, length: u64) -> Planned {
    Planned {
        operation,
        offset,
        length,
        durable: false,
    }
}

#[test]
fn what_is_written_is_read_in_either_execution() {
    for execution in [Execution::Threads, Execution::Inline] {
        let (volume, memory) = (volume(8192), GuestMemory::flat(8 << 20).unwrap());
        let disk = disk(&volume);
        let content: Vec<u8> = (0..3 << 20).map(|at: usize| (at / 7 % 251) as u8).collect();
        memory.write(GuestAddress(0), &content).unwrap();
        // More than two parts, from within a block of guest memory to within another.
        let length = (2 << 20) + 1024;
        let write = Planned {
            durable: true,
            ..plan(Operation::Write, 512, length)
        };
        assert_eq!(
            run(&disk, &memory, execution, vec![(write, 5)]),
            [Outcome::Ok]
        );
        let read = plan(Operation::Read, 512, length);
        assert_eq!(
            run(&disk, &memory, execution, vec![(read, 4 << 20)]),
            [Outcome::Ok]
        );
        let mut back = vec![0; length as usize];
        memory.read(GuestAddress(4 << 20), &mut back).unwrap();
        assert_eq!(back, content[5..5 + length as usize]);
        let direct = volume.read_blocking(BlockIndex(1), 3).unwrap();
        assert_eq!(direct.data, content[5..5 + 3 * 512]);
    }
}

#[test]
fn the_other_operations_mean_what_they_say() {
    let (volume, memory) = (volume(64), GuestMemory::flat(1 << 20).unwrap());
    volume
        .write_blocking(BlockIndex(0), BytesMut::from(&[7; 64 * 512][..]))
        .unwrap();
    memory.fill(GuestAddress(0), 7, 4096).unwrap();
    memory.fill(GuestAddress(8192), 8, 4096).unwrap();
    let requests = vec![
        (plan(Operation::Compare, 512, 2048), 0),
        (plan(Operation::Compare, 512, 2048), 8192),
        (plan(Operation::Verify, 0, 4096), 0),
        (plan(Operation::Flush, 0, 0), 0),
        (
            plan(Operation::WriteZeroes { may_unmap: true }, 1024, 512),
            0,
        ),
        (plan(Operation::Discard, 2048, 512), 0),
        (plan(Operation::Read, 100, 512), 0),
        (plan(Operation::Read, 64 * 512, 512), 0),
    ];
    let outcomes = run(&disk(&volume), &memory, Execution::Inline, requests);
    use Outcome::{Miscompare, Ok, OutOfRange};
    assert_eq!(
        outcomes,
        [Ok, Miscompare, Ok, Ok, Ok, Ok, OutOfRange, OutOfRange]
    );
    let plain = volume.read_blocking(BlockIndex(0), 6).unwrap();
    let firsts: Vec<u8> = plain.data.chunks(512).map(|block| block[0]).collect();
    assert_eq!(firsts, [7, 7, 0, 7, 0, 7]);
}

#[test]
fn more_than_the_volume_has_room_for_waits_and_is_answered() {
    let (volume, memory) = (volume(64 << 11), GuestMemory::flat(32 << 20).unwrap());
    let disk = disk(&volume);
    // All but 2 MiB of the room is taken by somebody else, until the queue has begun.
    let taken = volume.try_permit(62 << 20).unwrap();
    let requests = (0..40)
        .map(|n| (plan(Operation::Write, n << 20, 1 << 20), n << 19))
        .collect();
    let outcomes = run(&disk, &memory, Execution::Threads, requests);
    assert_eq!(outcomes, [Outcome::Ok; 40]);
    drop(taken);
    assert!(
        volume.try_permit(64 << 20).is_some(),
        "all room has come back"
    );
}

#[test]
fn a_disk_of_an_unknown_size_is_none() {
    let volume = Volume::composed(
        crucible_upstairs::volume::Composite::new(512, vec![], None),
        Vec::new(),
    );
    assert!(VolumeDisk::new(volume).is_none());
}

/// A store that answers when it is told to, with 0xee wherever one reads.
#[derive(Debug)]
struct Slow {
    shape: Shape,
    held: Mutex<Vec<Submission>>,
    /// What was asked for: `r`, `w`, `f`.
    seen: Mutex<String>,
    holds: bool,
}

impl Slow {
    fn new(encrypted: bool, holds: bool) -> Arc<Self> {
        Arc::new(Self {
            shape: Shape {
                block_size: 512,
                blocks: 1 << 20,
                read_only: false,
                encrypted,
            },
            held: Mutex::default(),
            seen: Mutex::default(),
            holds,
        })
    }

    /// Answers what is held; how much that was.
    fn answer(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        let count = held.len();
        for Submission { ask, reply } in held {
            reply.send(match ask {
                Ask::Request(Request::Read { count, .. }) => Ok(Answer::Read(Plain {
                    data: Bytes::from(vec![0xee; count as usize * 512]),
                    written: Written::All,
                })),
                Ask::Request(Request::Flush { .. }) => Ok(Answer::Flushed),
                Ask::Request(_) => Ok(Answer::Written),
                Ask::Command(_) => Err(VolumeError::Inactive),
            });
        }
        count
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }
}

impl Store for Slow {
    fn submit(&self, batch: &mut Vec<Submission>) {
        let letters = batch.iter().map(|submission| match submission.ask {
            Ask::Request(Request::Read { .. }) => 'r',
            Ask::Request(Request::Flush { .. }) => 'f',
            _ => 'w',
        });
        self.seen.lock().unwrap().extend(letters);
        self.held.lock().unwrap().append(batch);
        if !self.holds {
            self.answer();
        }
    }

    fn shape(&self) -> Option<Shape> {
        Some(self.shape)
    }
}

#[test]
fn what_a_guest_gives_up_ends_at_once_and_touches_its_memory_no_more() {
    let slow = Slow::new(false, true);
    let volume = Volume::over(slow.clone(), Vec::new());
    let memory = GuestMemory::flat(8 << 20).unwrap();
    // Writes of 60 MiB take the room, so that some of the reads begin and others wait.
    let requests: Vec<Planned> = (0..15)
        .map(|n| plan(Operation::Write, n << 22, 4 << 20))
        .chain((0..5).map(|n| plan(Operation::Read, n << 20, 1 << 20)))
        .chain([plan(Operation::Flush, 0, 0)])
        .collect();
    let count = requests.len();
    let script = move |n: u64, segments: &mut Vec<Segment>| {
        let planned = *requests.get(n as usize)?;
        if planned.length > 0 {
            segments.push(Segment {
                address: GuestAddress(0),
                length: planned.length as u32,
            });
        }
        Some(planned)
    };
    let source = ScriptedSource::new(memory.clone(), Box::new(script));
    let options = AttachOptions::new("test", Execution::Threads, 64);
    let queue = disk(&volume).attach(source.weak(), options).unwrap();
    queue.kick();
    while slow.seen().len() < 63 {
        std::thread::yield_now();
    }
    queue.give_up();
    assert!(source.wait(WITHIN), "all end");
    assert_eq!(source.finished(), vec![Outcome::Abandoned; count]);
    assert!(slow.answer() > 60);
    assert!(queue.detach());
    let mut back = vec![0xff; 8 << 20];
    memory.read(GuestAddress(0), &mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 0));
    assert_eq!(source.faults(), Vec::<String>::new());
    assert!(volume.try_permit(64 << 20).is_some(), "all room is back");
}

#[test]
fn a_request_without_an_answer_may_be_tried_again_after_its_time() {
    let slow = Slow::new(true, true);
    let volume = Volume::over(slow.clone(), Vec::new());
    let memory = GuestMemory::flat(1 << 20).unwrap();
    let limited = VolumeDisk::new(volume.clone()).unwrap();
    let limited = Disk::new(Arc::new(limited.with_limit(Span::from_millis(50))));
    let requests = || {
        vec![
            (plan(Operation::Read, 0, 4096), 0),
            (
                Planned {
                    durable: true,
                    ..plan(Operation::Write, 4096, 4096)
                },
                8192,
            ),
            (plan(Operation::Flush, 0, 0), 0),
        ]
    };
    for _ in 0..3 {
        let outcomes = run(&limited, &memory, Execution::Threads, requests());
        assert_eq!(outcomes, [Outcome::Retry; 3]);
    }
    assert_eq!(slow.answer(), 9);
    let mut back = [1; 4096];
    memory.read(GuestAddress(0), &mut back).unwrap();
    assert_eq!(back, [0; 4096]);
    assert!(volume.try_permit(64 << 20).is_some(), "all room is back");
}

#[test]
fn writes_that_must_be_durable_share_a_flush() {
    let slow = Slow::new(true, false);
    let volume = Volume::over(slow.clone(), Vec::new());
    let memory = GuestMemory::flat(1 << 20).unwrap();
    let write = Planned {
        durable: true,
        ..plan(Operation::Write, 0, 4096)
    };
    let requests = (0..8).map(|_| (write, 0)).collect();
    let outcomes = run(&disk(&volume), &memory, Execution::Threads, requests);
    assert_eq!(outcomes, [Outcome::Ok; 8]);
    assert_eq!(slow.seen(), "wwwwwwwwf");
}

#[test]
fn discard_is_advice_that_sealed_blocks_do_not_take() {
    let memory = GuestMemory::flat(1 << 20).unwrap();
    for (encrypted, seen) in [(true, "w"), (false, "www")] {
        let slow = Slow::new(encrypted, false);
        let volume = Volume::over(slow.clone(), Vec::new());
        let disk = disk(&volume);
        assert!(disk.info().discard);
        let requests = vec![
            (plan(Operation::Discard, 0, 2 << 20), 0),
            (plan(Operation::Discard, 0, 256 << 20), 0),
            (plan(Operation::WriteZeroes { may_unmap: true }, 0, 4096), 0),
        ];
        let outcomes = run(&disk, &memory, Execution::Inline, requests);
        assert_eq!(outcomes, [Outcome::Ok; 3]);
        assert_eq!(slow.seen(), seen, "encrypted {encrypted}");
    }
}
