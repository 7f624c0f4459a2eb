//! What the queue does about engines and sources that do not keep their word.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use block::testkit::ScriptedSource;
use block::{
    AttachOptions, Backend, Batch, Completion, Disk, DiskInfo, Engine, EngineSetup, Operation,
    Outcome, Request, Segment, Source, Token,
};
use vm_types::{Execution, GuestAddress, GuestMemory};

/// Answers everything twice, and something that nobody asked.
#[derive(Debug)]
struct Chatterbox;

impl Backend for Chatterbox {
    fn info(&self) -> DiskInfo {
        DiskInfo::new(512, 1 << 20)
    }

    fn engine(&self, _setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        Ok(Box::new(Self))
    }
}

impl Engine for Chatterbox {
    fn submit(&mut self, batch: &Batch, _memory: &GuestMemory, done: &mut Vec<Completion>) {
        for request in &batch.requests {
            for outcome in [Outcome::Ok, Outcome::ReadFailed] {
                done.push(Completion {
                    token: request.token,
                    outcome,
                });
            }
        }
        done.push(Completion {
            token: Token {
                slot: 1000,
                generation: 7,
            },
            outcome: Outcome::Ok,
        });
    }
}

#[test]
fn an_engine_that_answers_twice_is_heard_once() {
    for execution in [Execution::Inline, Execution::Threads] {
        let disk = Disk::new(Arc::new(Chatterbox));
        let memory = GuestMemory::flat(1 << 16).unwrap();
        let source = ScriptedSource::sequential(memory, Operation::Read, 512, 1 << 20, 100);
        let queue = disk
            .attach(source.weak(), AttachOptions::new("t", execution, 8))
            .unwrap();
        queue.kick();
        assert!(source.wait(Duration::from_secs(20)));
        assert!(queue.detach());
        assert_eq!(source.finished(), [Outcome::Ok; 100]);
        assert_eq!(source.faults(), [""; 0]);
    }
}

/// Refuses to make engines.
#[derive(Debug)]
struct Refusal;

impl Backend for Refusal {
    fn info(&self) -> DiskInfo {
        DiskInfo::new(512, 1 << 20)
    }

    fn engine(&self, _setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        Err(std::io::Error::other("out of rings"))
    }
}

#[test]
fn an_engine_that_cannot_be_made_is_an_error_of_attach() {
    let disk = Disk::new(Arc::new(Refusal));
    let memory = GuestMemory::flat(1 << 16).unwrap();
    let source = ScriptedSource::sequential(memory, Operation::Read, 512, 1 << 20, 1);
    for execution in [Execution::Inline, Execution::Threads] {
        let options = AttachOptions::new("t", execution, 8);
        let error = disk.attach(source.weak(), options).unwrap_err();
        assert_eq!(error.to_string(), "out of rings");
    }
}

/// Hands out three times what it is asked for, with segments that are not there.
struct Flood {
    memory: GuestMemory,
    fetched: AtomicUsize,
    answered: AtomicUsize,
}

impl Source for Flood {
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize {
        let before = self.fetched.load(Ordering::SeqCst);
        if before >= 1000 {
            return 0;
        }
        batch.segments.push(Segment {
            address: GuestAddress(0),
            length: 512,
        });
        for number in 0..3 * room {
            let first = if number % 5 == 0 { 7000 } else { 0 };
            batch.requests.push(Request {
                operation: Operation::Write,
                offset: 0,
                length: 512,
                durable: false,
                token: Token {
                    slot: number as u32,
                    generation: 0,
                },
                segments: first..first + 1,
            });
        }
        self.fetched.fetch_add(3 * room, Ordering::SeqCst);
        3 * room
    }

    fn complete(&self, completions: &[Completion]) {
        self.answered.fetch_add(completions.len(), Ordering::SeqCst);
    }

    fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}

#[test]
fn a_source_that_hands_out_too_much_is_answered_all_the_same() {
    let disk = Disk::memory(512, 1 << 20).unwrap();
    let source = Arc::new(Flood {
        memory: GuestMemory::flat(1 << 16).unwrap(),
        fetched: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    });
    let weak = Arc::<Flood>::downgrade(&source);
    let queue = disk
        .attach(weak, AttachOptions::new("t", Execution::Inline, 8))
        .unwrap();
    queue.kick();
    let fetched = source.fetched.load(Ordering::SeqCst);
    assert!(fetched >= 1000);
    assert_eq!(source.answered.load(Ordering::SeqCst), fetched);
}

/// Detaches itself when the first answers come.
struct Quitter {
    memory: GuestMemory,
    queue: std::sync::OnceLock<block::Attachment>,
    calls: AtomicUsize,
}

impl Source for Quitter {
    fn fetch(&self, _room: usize, batch: &mut Batch) -> usize {
        batch.requests.push(Request {
            operation: Operation::Flush,
            offset: 0,
            length: 0,
            durable: false,
            token: Token {
                slot: 0,
                generation: 0,
            },
            segments: 0..0,
        });
        1
    }

    fn complete(&self, _completions: &[Completion]) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.queue.get().unwrap().detach();
    }

    fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}

#[test]
fn a_device_may_detach_while_it_is_answered() {
    for execution in [Execution::Inline, Execution::Threads] {
        let disk = Disk::memory(512, 1 << 20).unwrap();
        let source = Arc::new(Quitter {
            memory: GuestMemory::flat(1 << 16).unwrap(),
            queue: std::sync::OnceLock::new(),
            calls: AtomicUsize::new(0),
        });
        let weak = Arc::<Quitter>::downgrade(&source);
        let queue = disk
            .attach(weak, AttachOptions::new("t", execution, 8))
            .unwrap();
        source.queue.set(queue).unwrap();
        let queue = source.queue.get().unwrap();
        queue.kick();
        while source.calls.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_micros(20));
        }
        queue.detach();
        let calls = source.calls.load(Ordering::SeqCst);
        queue.kick();
        assert_eq!(source.calls.load(Ordering::SeqCst), calls);
        assert_eq!(calls, 1);
    }
}
