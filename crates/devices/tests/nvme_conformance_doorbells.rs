//! NVMe conformance, row A13 under race: shadow doorbells that move while the device looks at them.

use devices::nvme::Status;
use devices::nvme::command::{Command, io};
use devices::testkit::nvme::{NvmeRig, RigOptions, create_cq, create_sq};

#[test]
fn a13_shadow_doorbells_lose_nothing_between_threads() {
    let mut rig = NvmeRig::with_options(RigOptions {
        execution: vm_types::Execution::Threads,
        ..RigOptions::default()
    })
    .enabled();
    rig.use_shadow_doorbells();
    rig.create_io_queue(1, 8);
    rig.create_io_queue(2, 64);
    // Bursts of all sizes, so that the worker is met asleep, going to sleep and at work.
    for turn in 0..150u32 {
        for (queue, room) in [(1, 7), (2, 30)] {
            for _ in 0..turn.wrapping_mul(2_654_435_761) % room + 1 {
                rig.push(queue, Command::new(io::FLUSH, 1));
            }
            rig.ring(queue);
        }
        for (queue, room) in [(1, 7), (2, 30)] {
            for _ in 0..turn.wrapping_mul(2_654_435_761) % room + 1 {
                assert!(rig.wait(queue).status.is_success());
            }
        }
    }
    let saved = rig.shadows.map_or(0, |shadows| shadows.saved);
    assert!(saved > 0);
}

/// Plays a driver on another processor: moves a shadow at the very moment at which the device has written
/// EventIdx and not yet looked again. That driver saw the old EventIdx and does not ring.
struct Racer {
    memory: vm_types::GuestMemory,
    /// How many writes of EventIdx to let pass, then where to write what.
    next: std::sync::Mutex<Option<(u32, u64, u32)>>,
}

impl vm_types::memory::WriteListener for Racer {
    fn page_written(&self, _page: vm_types::GuestAddress) {
        let Ok(mut next) = self.next.lock() else {
            return;
        };
        match *next {
            Some((0, at, value)) => {
                *next = None;
                drop(self.memory.write_value(vm_types::GuestAddress(at), value));
            }
            Some((left, at, value)) => *next = Some((left - 1, at, value)),
            None => {}
        }
    }
}

fn racing(rig: &NvmeRig) -> std::sync::Arc<Racer> {
    let memory = rig.pages.memory().clone();
    let racer = std::sync::Arc::new(Racer {
        memory: memory.clone(),
        next: std::sync::Mutex::default(),
    });
    memory.set_write_listener(racer.clone());
    let events = rig.shadows.map_or(0, |shadows| shadows.event_indexes);
    memory.watch_page(vm_types::GuestAddress(events), true);
    racer
}

fn move_after_one_more(racer: &Racer, at: u64, value: u32) {
    if let Ok(mut next) = racer.next.lock() {
        *next = Some((1, at, value));
    }
}

#[test]
fn a13_a_tail_that_moves_while_event_index_is_written_is_seen() {
    let mut rig = NvmeRig::new();
    rig.use_shadow_doorbells();
    rig.create_io_queue(1, 8);
    let racer = racing(&rig);
    let shadows = rig.shadows.map_or(0, |shadows| shadows.shadows);
    rig.push(1, Command::new(io::FLUSH, 1));
    rig.ring(1);
    assert!(rig.poll(1).is_some());
    rig.push(1, Command::new(io::FLUSH, 1));
    // The first EventIdx comes while the command is at the disk, the second when all is done.
    move_after_one_more(&racer, shadows + 8, 3);
    rig.ring(1);
    // The third entry is the racer's.
    let third = rig.submissions[&1].base + 2 * 64;
    assert_eq!(rig.pages.read_u32(shadows + 8), 3);
    assert_eq!(
        rig.pages.read(third, 64),
        [0; 64],
        "all zeroes: a flush of no namespace"
    );
    assert!(rig.poll(1).is_some());
    let answer = rig.poll(1).map(|answer| answer.status.code());
    assert_eq!(answer, Some(Status::INVALID_NAMESPACE.code()));
}

#[test]
fn a13_a_head_that_moves_while_event_index_is_written_is_seen() {
    let mut rig = NvmeRig::new();
    rig.use_shadow_doorbells();
    let (cq, sq) = (rig.pages.take(4096), rig.pages.take(4096));
    assert!(rig.admin(create_cq(1, 2, cq, Some(1))).status.is_success());
    assert!(rig.admin(create_sq(1, 8, sq, 1)).status.is_success());
    rig.remember(1, 1, sq, 8, cq, 2);
    let racer = racing(&rig);
    let shadows = rig.shadows.map_or(0, |shadows| shadows.shadows);
    rig.push(1, Command::new(io::FLUSH, 1));
    let second = rig.push(1, Command::new(io::FLUSH, 1));
    // One slot: set aside for the first command, then filled with its answer.
    move_after_one_more(&racer, shadows + 12, 1);
    rig.ring(1);
    assert_eq!(rig.pages.read_u32(shadows + 12), 1);
    assert!(rig.peek(1).is_some());
    assert_eq!(rig.peek(1).map(|answer| answer.id), Some(second));
}
