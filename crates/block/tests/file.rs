//! The file backend, by io_uring and by threads: what it opens, what it refuses, what it keeps.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use block::testkit::{Planned, ScriptedSource};
use block::{
    AttachOptions, Class, Disk, FileEngine, FileOptions, OpenError, Operation, Outcome, Segment,
};
use vm_types::{Execution, GuestAddress, GuestMemory};

const SECONDS: Duration = Duration::from_secs(20);

/// A file that goes away with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("block-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        Self(path)
    }

    fn options(&self, engine: FileEngine) -> FileOptions {
        FileOptions {
            engine,
            ..FileOptions::new(&self.0)
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

const ENGINES: [FileEngine; 2] = [FileEngine::Auto, FileEngine::Threads];

fn run(disk: &Disk, source: &Arc<ScriptedSource>, execution: Execution) -> Vec<Outcome> {
    let queue = disk
        .attach(source.weak(), AttachOptions::new("t", execution, 16))
        .unwrap();
    queue.kick();
    assert!(source.wait(SECONDS));
    assert!(queue.detach());
    assert_eq!(source.faults(), [""; 0]);
    source.finished()
}

fn one(memory: &GuestMemory, request: Planned, parts: Vec<(u64, u32)>) -> Arc<ScriptedSource> {
    ScriptedSource::new(
        memory.clone(),
        Box::new(move |n, segments| {
            segments.extend(parts.iter().map(|&(address, length)| Segment {
                address: GuestAddress(address),
                length,
            }));
            (n == 0).then_some(request)
        }),
    )
}

fn planned(operation: Operation, offset: u64, length: u64) -> Planned {
    Planned {
        operation,
        offset,
        length,
        durable: false,
    }
}

#[test]
fn writes_reach_the_file_and_reads_bring_them_back() {
    for engine in ENGINES {
        for execution in [Execution::Threads, Execution::Inline] {
            for durable in [false, true] {
                let file = Scratch::new(1 << 20);
                let disk = Disk::file(&file.options(engine)).unwrap();
                let memory = GuestMemory::flat(1 << 16).unwrap();
                let pattern: Vec<u8> = (0..8192_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
                memory.write(GuestAddress(0x3001), &pattern).unwrap();
                let write = Planned {
                    durable,
                    ..planned(Operation::Write, 4096, 8192)
                };
                let source = one(
                    &memory,
                    write,
                    vec![(0x3001, 4096), (0x4001, 1), (0x4002, 4095)],
                );
                assert_eq!(run(&disk, &source, execution), [Outcome::Ok]);
                let source = one(&memory, planned(Operation::Flush, 0, 0), vec![]);
                assert_eq!(run(&disk, &source, execution), [Outcome::Ok]);
                let content = std::fs::read(&file.0).unwrap();
                assert_eq!(content.len(), 1 << 20);
                assert_eq!(content[4096..4096 + 8192], pattern);
                assert!(content[..4096].iter().all(|&byte| byte == 0));
                let read = planned(Operation::Read, 4096, 8192);
                let source = one(&memory, read, vec![(0x8000, 8192)]);
                assert_eq!(run(&disk, &source, execution), [Outcome::Ok]);
                let mut back = vec![0; 8192];
                memory.read(GuestAddress(0x8000), &mut back).unwrap();
                assert_eq!(back, pattern);
            }
        }
    }
}

#[test]
fn many_requests_are_in_flight_and_all_are_answered() {
    for engine in ENGINES {
        let file = Scratch::new(1 << 22);
        let disk = Disk::file(&file.options(engine)).unwrap();
        for operation in [Operation::Write, Operation::Read, Operation::Compare] {
            let memory = GuestMemory::flat(1 << 22).unwrap();
            let source = ScriptedSource::random(memory, operation, 4096, 1 << 22, 2000);
            let outcomes = run(&disk, &source, Execution::Threads);
            assert_eq!(outcomes, [Outcome::Ok; 2000], "{engine:?} {operation:?}");
        }
        assert_eq!(disk.stats().class(Class::Write).bytes, 2000 * 4096);
        assert!(disk.stats().in_flight_max <= 16);
    }
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes_and_give_space_back() {
    for engine in ENGINES {
        let file = Scratch::new(1 << 20);
        std::fs::write(&file.0, vec![0xa5; 1 << 20]).unwrap();
        let disk = Disk::file(&file.options(engine)).unwrap();
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let full = std::fs::metadata(&file.0).unwrap().blocks();
        for (operation, offset) in [
            (Operation::Discard, 0),
            (Operation::WriteZeroes { may_unmap: true }, 1 << 18),
            (Operation::WriteZeroes { may_unmap: false }, 1 << 19),
        ] {
            if operation == Operation::Discard && !disk.info().discard {
                continue;
            }
            let source = one(&memory, planned(operation, offset, 1 << 17), vec![]);
            assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
            let content = std::fs::read(&file.0).unwrap();
            assert_eq!(content.len(), 1 << 20);
            let (start, end) = (offset as usize, offset as usize + (1 << 17));
            assert!(content[start..end].iter().all(|&byte| byte == 0));
            assert_eq!(content[end], 0xa5);
        }
        if disk.info().discard {
            assert!(std::fs::metadata(&file.0).unwrap().blocks() < full);
        }
    }
}

#[test]
fn a_partial_block_at_the_end_is_dropped_and_the_file_never_grows() {
    for engine in ENGINES {
        let file = Scratch::new(4096 + 511);
        let disk = Disk::file(&file.options(engine)).unwrap();
        assert_eq!(disk.info().size_bytes, 4096);
        let memory = GuestMemory::flat(1 << 16).unwrap();
        for request in [
            planned(Operation::Write, 4096, 512),
            planned(Operation::Write, 3584, 1024),
            planned(Operation::WriteZeroes { may_unmap: false }, 4096, 512),
            planned(Operation::Write, u64::MAX - 511, 512),
        ] {
            let source = one(&memory, request, vec![(0, request.length as u32)]);
            assert_eq!(
                run(&disk, &source, Execution::Threads),
                [Outcome::OutOfRange]
            );
        }
        assert_eq!(std::fs::metadata(&file.0).unwrap().len(), 4096 + 511);
    }
}

#[test]
fn a_file_cut_short_behind_our_back_gives_read_errors() {
    for engine in ENGINES {
        let file = Scratch::new(1 << 20);
        let disk = Disk::file(&file.options(engine)).unwrap();
        File::options()
            .write(true)
            .open(&file.0)
            .unwrap()
            .set_len(4096 + 100)
            .unwrap();
        let memory = GuestMemory::flat(1 << 16).unwrap();
        for (offset, outcome) in [
            (0, Outcome::Ok),
            (4096, Outcome::ReadFailed),
            (8192, Outcome::ReadFailed),
        ] {
            let read = planned(Operation::Read, offset, 4096);
            let source = one(&memory, read, vec![(0, 512), (1024, 4096 - 512)]);
            assert_eq!(run(&disk, &source, Execution::Threads), [outcome]);
        }
    }
}

#[test]
fn a_read_only_file_makes_no_writable_disk() {
    let file = Scratch::new(1 << 20);
    std::fs::set_permissions(&file.0, Permissions::from_mode(0o444)).unwrap();
    let options = file.options(FileEngine::Auto);
    let error = Disk::file(&options).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains(&*file.0.to_string_lossy()));
    let disk = Disk::file(&FileOptions {
        read_only: true,
        ..options
    })
    .unwrap();
    let memory = GuestMemory::flat(1 << 16).unwrap();
    let source = one(&memory, planned(Operation::Write, 0, 512), vec![(0, 512)]);
    assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::ReadOnly]);
    let source = one(&memory, planned(Operation::Flush, 0, 0), vec![]);
    assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
}

#[test]
fn two_writers_are_kept_apart_and_readers_are_not() {
    let file = Scratch::new(1 << 20);
    let options = file.options(FileEngine::Auto);
    let read_only = FileOptions {
        read_only: true,
        ..options.clone()
    };
    let writer = Disk::file(&options).unwrap();
    for other in [&options, &read_only] {
        let error = Disk::file(other).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }
    drop(writer);
    let _reader = Disk::file(&read_only).unwrap();
    let _another = Disk::file(&read_only).unwrap();
    assert!(Disk::file(&options).is_err());
}

#[test]
fn a_disk_that_was_used_can_be_opened_again_at_once() {
    let file = Scratch::new(1 << 20);
    for engine in ENGINES.into_iter().cycle().take(20) {
        let disk = Disk::file(&file.options(engine)).unwrap();
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = one(&memory, planned(Operation::Write, 0, 512), vec![(0, 512)]);
        assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
    }
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let file = Scratch::new(100);
    let missing = FileOptions::new("/nonexistent/disk.img");
    let cases = [
        (FileOptions::new(std::env::temp_dir()), "directory"),
        (missing, "/nonexistent/disk.img: cannot be opened"),
        (
            FileOptions::new(Path::new("/dev/null")),
            "expected a regular file",
        ),
        (file.options(FileEngine::Auto), "less than one block"),
        (
            FileOptions {
                workers: 33,
                ..file.options(FileEngine::Auto)
            },
            "1 to 32, found 33",
        ),
        (
            FileOptions {
                block_size: 1000,
                ..file.options(FileEngine::Auto)
            },
            "power of two",
        ),
    ];
    for (options, expected) in cases {
        let error = Disk::file(&options).unwrap_err().to_string();
        assert!(
            error.contains(expected) || error.contains("Is a directory"),
            "{error}"
        );
    }
}

#[test]
fn direct_transfers_bounce_where_guest_memory_is_not_aligned() {
    for engine in ENGINES {
        let file = Scratch::new(1 << 20);
        let options = FileOptions {
            direct: true,
            block_size: 4096,
            ..file.options(engine)
        };
        // Not every file system has it.
        let Ok(disk) = Disk::file(&options) else {
            continue;
        };
        let memory = GuestMemory::flat(1 << 20).unwrap();
        let length = 300 << 10;
        let pattern: Vec<u8> = (0..length as u32).map(|i| ((i * 31) >> 3) as u8).collect();
        memory.write(GuestAddress(5), &pattern).unwrap();
        let parts = vec![(5, 1000), (1005, length as u32 - 1000)];
        let source = one(&memory, planned(Operation::Write, 8192, length), parts);
        assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
        let parts = vec![(0x80000, 4096), (0x81000, length as u32 - 4096)];
        let source = one(
            &memory,
            planned(Operation::Read, 8192, length),
            parts.clone(),
        );
        assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
        let mut back = vec![0; length as usize];
        memory.read(GuestAddress(0x80000), &mut back).unwrap();
        assert_eq!(back, pattern);
        let source = one(&memory, planned(Operation::Compare, 8192, length), parts);
        assert_eq!(run(&disk, &source, Execution::Threads), [Outcome::Ok]);
    }
}

#[test]
fn queues_can_be_made_and_ended_again_and_again_under_load() {
    for engine in ENGINES {
        let file = Scratch::new(1 << 22);
        let disk = Disk::file(&file.options(engine)).unwrap();
        for _ in 0..20 {
            let memory = GuestMemory::flat(1 << 20).unwrap();
            let source = ScriptedSource::random(memory, Operation::Write, 4096, 1 << 22, u64::MAX);
            let queue = disk
                .attach(
                    source.weak(),
                    AttachOptions::new("t", Execution::Threads, 32),
                )
                .unwrap();
            queue.kick();
            while source.progress().1 < 50 {
                std::thread::sleep(Duration::from_micros(20));
            }
            assert!(queue.pause());
            let (fetched, answered) = source.progress();
            assert_eq!(fetched, answered);
            queue.resume();
            assert!(queue.detach());
            let (fetched, answered) = source.progress();
            assert_eq!(fetched, answered);
            assert_eq!(source.faults(), [""; 0]);
        }
    }
}
