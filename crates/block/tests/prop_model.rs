//! Every backend against a model of a disk: a byte array, requests one after the other.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use block::testkit::{Planned, ScriptedSource};
use block::{
    AttachOptions, Chance, Disk, Faults, FileEngine, FileOptions, Operation, Outcome, Segment,
};
use proptest::prelude::*;
use vm_types::{Execution, GuestAddress, GuestMemory, Span};

const BLOCK: u64 = 512;
const BLOCKS: u64 = 64;
const DISK: u64 = BLOCK * BLOCKS;
const MEMORY: u64 = 16 << 12;

#[derive(Clone, Debug)]
struct Step {
    planned: Planned,
    segments: Vec<Segment>,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => Just(Operation::Read),
        4 => Just(Operation::Write),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Discard),
        1 => any::<bool>().prop_map(|may_unmap| Operation::WriteZeroes { may_unmap }),
        2 => Just(Operation::Compare),
        1 => Just(Operation::Verify),
    ]
}

/// Mostly sound requests; some out of range, unaligned, or with memory that is not there.
fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        20 => (0..BLOCKS).prop_map(|block| block * BLOCK),
        1 => Just(DISK),
        1 => Just(u64::MAX - 511),
        1 => any::<u64>(),
        1 => 0..DISK,
    ];
    let lengths = prop::collection::vec(prop_oneof![1..700_u32, Just(512), Just(4096)], 0..6);
    let addresses = prop::collection::vec(
        prop_oneof![30 => 0..MEMORY - 4096, 1 => MEMORY - 100..MEMORY + 100, 1 => any::<u64>()],
        7,
    );
    (
        operation(),
        offset,
        0..12 * BLOCK,
        lengths,
        addresses,
        any::<bool>(),
        0..40_u32,
    )
        .prop_map(
            |(operation, offset, length, lengths, addresses, durable, spoil)| {
                // Whole blocks, covered by the segments, unless spoilt on purpose.
                let length = if spoil == 0 {
                    length
                } else {
                    length / BLOCK * BLOCK
                };
                let mut left = length as u32;
                let mut segments = Vec::new();
                let mut add = |part: u32| {
                    let address = GuestAddress(addresses[segments.len() % addresses.len()]);
                    segments.push(Segment {
                        address,
                        length: part,
                    });
                };
                for part in lengths {
                    let part = part.min(left);
                    add(part);
                    left -= part;
                }
                if left > 0 && spoil != 1 {
                    add(left);
                }
                Step {
                    planned: Planned {
                        operation,
                        offset,
                        length,
                        durable,
                    },
                    segments,
                }
            },
        )
}

struct Model {
    disk: Vec<u8>,
    memory: Vec<u8>,
    discard: bool,
}

impl Model {
    fn range(segment: &Segment) -> Option<std::ops::Range<usize>> {
        let start = segment.address.0;
        let end = start.checked_add(u64::from(segment.length))?;
        (end <= MEMORY).then_some(start as usize..end as usize)
    }

    fn run(&mut self, step: &Step) -> Outcome {
        let Planned {
            operation,
            offset,
            length,
            ..
        } = step.planned;
        if operation == Operation::Flush {
            return Outcome::Ok;
        }
        if operation == Operation::Discard && !self.discard {
            return Outcome::Unsupported;
        }
        let whole = offset % BLOCK == 0 && length % BLOCK == 0;
        if !whole || offset.checked_add(length).is_none_or(|end| end > DISK) {
            return Outcome::OutOfRange;
        }
        let (start, end) = (offset as usize, (offset + length) as usize);
        match operation {
            Operation::Discard | Operation::WriteZeroes { .. } => {
                self.disk[start..end].fill(0);
                return Outcome::Ok;
            }
            Operation::Verify => return Outcome::Ok,
            _ => {}
        }
        let sum: u64 = step.segments.iter().map(|s| u64::from(s.length)).sum();
        let filled = step.segments.iter().filter(|segment| segment.length > 0);
        let ranges: Option<Vec<_>> = filled.map(Self::range).collect();
        let (true, Some(ranges)) = (sum == length, ranges) else {
            return Outcome::GuestMemory;
        };
        let mut at = start;
        let mut outcome = Outcome::Ok;
        for range in ranges {
            let disk = &mut self.disk[at..at + range.len()];
            at += range.len();
            let memory = &mut self.memory[range];
            match operation {
                Operation::Read => memory.copy_from_slice(disk),
                Operation::Write => disk.copy_from_slice(memory),
                _ if disk != memory => outcome = Outcome::Miscompare,
                _ => {}
            }
        }
        outcome
    }
}

fn source(memory: &GuestMemory, steps: Vec<Step>) -> Arc<ScriptedSource> {
    ScriptedSource::new(
        memory.clone(),
        Box::new(move |n, segments| {
            let step = steps.get(n as usize)?;
            segments.extend_from_slice(&step.segments);
            Some(step.planned)
        }),
    )
}

fn check(disk: &Disk, execution: Execution, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let memory = GuestMemory::flat(MEMORY).unwrap();
    let pattern: Vec<u8> = (0..MEMORY).map(|i| ((i * 131) >> 4) as u8).collect();
    memory.write(GuestAddress(0), &pattern).unwrap();
    let mut model = Model {
        disk: vec![0; DISK as usize],
        memory: pattern,
        discard: disk.info().discard,
    };
    let expected: Vec<Outcome> = steps.iter().map(|step| model.run(step)).collect();
    let script = source(&memory, steps);
    // One at a time: what several requests in flight do to the same bytes is nobody's promise.
    let queue = disk
        .attach(script.weak(), AttachOptions::new("p", execution, 1))
        .unwrap();
    queue.kick();
    prop_assert!(script.wait(Duration::from_secs(20)));
    prop_assert_eq!(script.finished(), expected);
    prop_assert!(script.faults().is_empty());
    let mut found = vec![0; MEMORY as usize];
    memory.read(GuestAddress(0), &mut found).unwrap();
    prop_assert!(found == model.memory, "guest memory differs");
    // The disk's content, by its own front door.
    let whole = vec![Step {
        planned: Planned {
            operation: Operation::Read,
            offset: 0,
            length: DISK,
            durable: false,
        },
        segments: vec![Segment {
            address: GuestAddress(0),
            length: DISK as u32,
        }],
    }];
    let script = source(&memory, whole);
    let queue = disk
        .attach(script.weak(), AttachOptions::new("p", execution, 1))
        .unwrap();
    queue.kick();
    prop_assert!(script.wait(Duration::from_secs(20)));
    let mut found = vec![0; DISK as usize];
    memory.read(GuestAddress(0), &mut found).unwrap();
    prop_assert!(found == model.disk, "disk content differs");
    Ok(())
}

fn check_file(
    engine: FileEngine,
    execution: Execution,
    direct: bool,
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("block-prop-{}-{number}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(DISK).unwrap();
    let options = FileOptions {
        engine,
        direct,
        workers: 2,
        ..FileOptions::new(&path)
    };
    let result = match Disk::file(&options) {
        Ok(disk) => check(&disk, execution, steps),
        // Not every file system has direct I/O in blocks of 512.
        Err(_) if direct => Ok(()),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    };
    assert_eq!(file.metadata().unwrap().len(), DISK);
    std::fs::remove_file(&path).unwrap();
    result
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_disk_is_a_disk(steps in steps(), inline in prop::bool::weighted(0.8)) {
        let execution = if inline { Execution::Inline } else { Execution::Threads };
        check(&Disk::memory(512, DISK).unwrap(), execution, steps)?;
    }

}

proptest! {
    // Flushes of real files take their time on a busy host.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_through_the_ring_is_a_disk(steps in steps(), direct in any::<bool>()) {
        check_file(FileEngine::Auto, Execution::Threads, direct, steps)?;
    }

    #[test]
    fn a_file_through_threads_is_a_disk(steps in steps(), inline in prop::bool::weighted(0.8)) {
        let execution = if inline { Execution::Inline } else { Execution::Threads };
        check_file(FileEngine::Threads, execution, false, steps)?;
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Kick,
    Pause,
    Resume,
    Release,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_token_is_answered_once_whatever_happens_to_the_queue(
        acts in prop::collection::vec(
            prop_oneof![
                3 => Just(Act::Kick), 2 => Just(Act::Pause), 2 => Just(Act::Resume), 1 => Just(Act::Release)
            ],
            1..12,
        ),
        seed in any::<u64>(),
        depth in 1..40_u32,
        inline in any::<bool>(),
        stalls in 0..3_u64,
        count in 0..400_u64,
    ) {
        let faults = Faults::new();
        faults.set_chance(Chance {
            seed,
            errors_per_million: 20_000,
            retries_per_million: 20_000,
            delay_max: Span::from_micros(20),
        });
        faults.add(block::Rule {
            class: None,
            bytes: None,
            after: seed % 50,
            times: stalls,
            fault: block::Fault::Stall,
        });
        let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = ScriptedSource::random(memory, Operation::Write, 512, 1 << 20, count);
        let execution = if inline { Execution::Inline } else { Execution::Threads };
        let options = AttachOptions {
            pause_within: Duration::from_millis(2),
            detach_within: Duration::from_millis(2),
            ..AttachOptions::new("p", execution, depth)
        };
        let queue = disk.attach(source.weak(), options).unwrap();
        for act in acts {
            match act {
                Act::Kick => queue.kick(),
                Act::Pause => {
                    if queue.pause() {
                        let (fetched, answered) = source.progress();
                        prop_assert_eq!(fetched, answered);
                    }
                }
                Act::Resume => queue.resume(),
                Act::Release => faults.release(),
            }
        }
        queue.detach();
        let (fetched, answered) = source.progress();
        prop_assert_eq!(fetched, answered);
        prop_assert!(source.faults().is_empty());
        faults.release();
        queue.kick();
        prop_assert_eq!(source.progress(), (fetched, answered));
        let stats = disk.stats();
        prop_assert_eq!(stats.requests(), answered as u64);
        prop_assert_eq!(stats.in_flight, 0);
    }
}
