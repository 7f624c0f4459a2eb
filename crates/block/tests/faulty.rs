//! Errors, delays and stalls on purpose, and how pausing and detaching live with them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::testkit::ScriptedSource;
use block::{
    AttachOptions, Attachment, Chance, Class, Disk, Fault, Faults, Operation, Outcome, Rule,
};
use vm_types::{Clock, Execution, GuestMemory, ManualClock, Moment, Span, Timers};

const SECONDS: Duration = Duration::from_secs(20);

fn faulty() -> (Disk, Faults) {
    let faults = Faults::new();
    let disk = Disk::memory(512, 1 << 20).unwrap().faulty(&faults);
    (disk, faults)
}

fn reads(count: u64) -> Arc<ScriptedSource> {
    let memory = GuestMemory::flat(1 << 16).unwrap();
    ScriptedSource::sequential(memory, Operation::Read, 512, 1 << 20, count)
}

/// An inline queue on a clock that the test moves.
fn inline(disk: &Disk, source: &Arc<ScriptedSource>) -> (Attachment, ManualClock, Timers) {
    let (clock, hand) = Clock::manual();
    let timers = Timers::new();
    let options = AttachOptions {
        clock: Some(clock),
        timers: Some(timers.clone()),
        ..AttachOptions::new("t", Execution::Inline, 8)
    };
    let queue = disk.attach(source.weak(), options).unwrap();
    (queue, hand, timers)
}

#[test]
fn rules_meet_the_requests_they_name_and_no_others() {
    let (disk, faults) = faulty();
    faults.add(Rule {
        bytes: Some(1024..1025),
        ..Rule::every(Class::Read, Fault::Fail(Outcome::ReadFailed))
    });
    faults.add(Rule {
        after: 3,
        ..Rule::next(Fault::Fail(Outcome::Retry))
    });
    let source = reads(6);
    let (queue, ..) = inline(&disk, &source);
    queue.kick();
    let expected = [
        Outcome::Ok,
        Outcome::Ok,
        Outcome::ReadFailed,
        Outcome::Ok,
        Outcome::Retry,
        Outcome::Ok,
    ];
    assert_eq!(source.finished(), expected);
    assert_eq!(disk.stats().class(Class::Read).failed, 2);
}

#[test]
fn delayed_answers_come_when_the_clock_says() {
    let (disk, faults) = faulty();
    faults.add(Rule::next(Fault::Delay(Span::from_millis(5))));
    faults.add(Rule::next(Fault::Delay(Span::from_millis(2))));
    let source = reads(3);
    let (queue, hand, timers) = inline(&disk, &source);
    queue.kick();
    assert_eq!(source.order(), [2]);
    for (ms, order) in [(2, vec![2, 1]), (5, vec![2, 1, 0])] {
        let due = Moment::START.after(Span::from_millis(ms));
        assert_eq!(timers.next_deadline(), Some(due));
        hand.advance_to(due);
        timers.fire_due(due);
        assert_eq!(source.order(), order);
    }
    assert!(queue.detach());
}

#[test]
fn a_pause_does_not_wait_for_delays() {
    let (disk, faults) = faulty();
    faults.add(Rule::every(
        Class::Read,
        Fault::Delay(Span::from_secs(1_000_000)),
    ));
    let source = reads(3);
    let (queue, ..) = inline(&disk, &source);
    queue.kick();
    assert_eq!(source.progress(), (3, 0));
    assert!(queue.pause());
    assert_eq!(source.progress(), (3, 3));
}

#[test]
fn a_stall_blocks_a_pause_until_it_is_released() {
    for execution in [Execution::Inline, Execution::Threads] {
        let (disk, faults) = faulty();
        faults.add(Rule::next(Fault::Stall));
        let source = reads(10);
        let options = AttachOptions {
            pause_within: Duration::from_millis(20),
            ..AttachOptions::new("t", execution, 8)
        };
        let queue = disk.attach(source.weak(), options).unwrap();
        queue.kick();
        assert!(!queue.pause() || source.progress().0 == 0);
        queue.resume();
        while source.progress().1 < 9 {
            std::thread::sleep(Duration::from_micros(20));
        }
        assert_eq!(queue.in_flight(), 1);
        faults.release();
        assert!(source.wait(SECONDS));
        assert!(queue.pause());
        assert!(queue.detach());
        assert_eq!(source.faults(), [""; 0]);
    }
}

#[test]
fn detaching_gives_up_what_hangs_and_answers_each_request_once() {
    for execution in [Execution::Inline, Execution::Threads] {
        let (disk, faults) = faulty();
        faults.add(Rule {
            times: 2,
            ..Rule::every(Class::Read, Fault::Stall)
        });
        let source = reads(10);
        let options = AttachOptions {
            detach_within: Duration::from_millis(30),
            ..AttachOptions::new("t", execution, 8)
        };
        let queue = disk.attach(source.weak(), options).unwrap();
        queue.kick();
        while source.progress().1 < 8 {
            std::thread::sleep(Duration::from_micros(20));
        }
        let begin = Instant::now();
        assert!(!queue.detach(), "two requests were given up");
        assert!(begin.elapsed() < Duration::from_secs(5));
        let outcomes = source.finished();
        assert_eq!(outcomes.len(), 10);
        assert_eq!(outcomes[..2], [Outcome::Abandoned; 2]);
        faults.release();
        assert_eq!(source.faults(), [""; 0]);
        assert_eq!(source.order().len(), 10);
    }
}

#[test]
fn many_stalled_queues_are_stopped_in_the_time_of_one() {
    let (disk, faults) = faulty();
    faults.add(Rule::every(Class::Read, Fault::Stall));
    let wait = Duration::from_millis(200);
    let sources: Vec<_> = (0..8).map(|_| reads(1)).collect();
    let queues: Vec<_> = sources
        .iter()
        .map(|source| {
            let options = AttachOptions {
                pause_within: wait,
                detach_within: wait,
                ..AttachOptions::new("t", Execution::Threads, 8)
            };
            disk.attach(source.weak(), options).unwrap()
        })
        .collect();
    for (queue, source) in queues.iter().zip(&sources) {
        queue.kick();
        while source.progress().0 == 0 {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    let begin = Instant::now();
    assert!(!Attachment::pause_all(queues.iter()));
    assert!(!Attachment::detach_all(queues.iter()));
    assert!(begin.elapsed() < 8 * wait, "{:?}", begin.elapsed());
    for source in &sources {
        assert_eq!(source.finished(), [Outcome::Abandoned]);
    }
    assert!(Attachment::detach_all(queues[..0].iter()));
}

#[test]
fn chance_is_the_same_for_the_same_seed() {
    let run = |seed| {
        let (disk, faults) = faulty();
        faults.set_chance(Chance {
            seed,
            errors_per_million: 100_000,
            retries_per_million: 100_000,
            delay_max: Span::ZERO,
        });
        let source = reads(1000);
        let (queue, ..) = inline(&disk, &source);
        queue.kick();
        source.finished()
    };
    let outcomes = run(7);
    assert_eq!(outcomes, run(7));
    assert_ne!(outcomes, run(8));
    for outcome in [Outcome::ReadFailed, Outcome::Retry] {
        let count = outcomes.iter().filter(|found| **found == outcome).count();
        assert!((50..200).contains(&count), "{outcome:?}: {count}");
    }
}
