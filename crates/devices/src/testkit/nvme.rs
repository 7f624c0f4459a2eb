//! An NVMe controller and the driver that plays the guest.
//!
//! ```
//! use devices::nvme::command::{Command, io};
//! use devices::testkit::nvme::NvmeRig;
//!
//! let mut rig = NvmeRig::new().with_io_queue(1, 16);
//! rig.submit(1, Command::new(io::FLUSH, 1));
//! assert!(rig.wait(1).status.is_success());
//! assert_eq!(rig.slot.interrupts(), [1]);
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test driver stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::Disk;
use vm_types::{Clock, Execution, ManualClock};

use super::memory::{PAGE, Pages};
use super::pci::Slot;
use crate::nvme::command::{Command, admin};
use crate::nvme::{Nvme, NvmeConfig, NvmePorts, Status};

/// CC with entry sizes 64 and 16 and EN set.
pub const ENABLE: u32 = 0x0046_0001;
/// Register offsets in BAR 0.
pub mod reg {
    /// Controller Capabilities.
    pub const CAP: u64 = 0x00;
    /// Version.
    pub const VS: u64 = 0x08;
    /// Interrupt Mask Set.
    pub const INTMS: u64 = 0x0c;
    /// Interrupt Mask Clear.
    pub const INTMC: u64 = 0x10;
    /// Controller Configuration.
    pub const CC: u64 = 0x14;
    /// Controller Status.
    pub const CSTS: u64 = 0x1c;
    /// Admin Queue Attributes.
    pub const AQA: u64 = 0x24;
    /// Admin Submission Queue.
    pub const ASQ: u64 = 0x28;
    /// Admin Completion Queue.
    pub const ACQ: u64 = 0x30;
    /// The first doorbell.
    pub const DOORBELLS: u64 = 0x1000;
}

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct RigOptions {
    /// The namespace.
    pub disk: Disk,
    /// With [`Execution::Inline`] everything is done when a doorbell write returns.
    pub execution: Execution,
    /// The controller.
    pub config: NvmeConfig,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Entries of both admin queues.
    pub admin_entries: u32,
}

impl Default for RigOptions {
    fn default() -> Self {
        let uuid = NvmeConfig::uuid_from_seed("rig");
        Self {
            disk: Disk::memory(512, 8 << 20).unwrap(),
            execution: Execution::Inline,
            config: NvmeConfig {
                io_queues: 8,
                ..NvmeConfig::new("nvme0", "SN-0001", uuid)
            },
            memory_bytes: 64 << 20,
            admin_entries: 32,
        }
    }
}

/// An answer as the driver found it in a completion queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command's identifier.
    pub id: u16,
    /// How it ended.
    pub status: Status,
    /// Word 0.
    pub result: u32,
    /// The submission queue it came from.
    pub queue: u16,
    /// How far that queue had been fetched.
    pub queue_head: u16,
}

/// The driver's view of a submission queue.
#[derive(Clone, Debug)]
pub struct Submission {
    /// First entry.
    pub base: u64,
    /// Entries.
    pub entries: u32,
    /// The next free entry.
    pub tail: u32,
    /// The completion queue that answers come to.
    pub completion: u16,
}

/// The driver's view of a completion queue.
#[derive(Clone, Debug)]
pub struct Completion {
    /// First entry.
    pub base: u64,
    /// Entries.
    pub entries: u32,
    /// The next entry to look at.
    pub head: u32,
    /// The phase that a new entry there will have.
    pub phase: bool,
}

/// The driver's shadow doorbells.
#[derive(Clone, Copy, Debug)]
pub struct DriverShadows {
    /// Page of the shadows.
    pub shadows: u64,
    /// Page of the EventIdx values.
    pub event_indexes: u64,
    /// Doorbell writes that EventIdx made unnecessary.
    pub saved: u64,
}

/// A controller in a slot, memory, and a driver's state.
#[derive(Debug)]
pub struct NvmeRig {
    /// The device.
    pub nvme: Arc<Nvme>,
    /// The slot it sits in.
    pub slot: Slot,
    /// Guest memory.
    pub pages: Pages,
    /// The device's clock.
    pub clock: ManualClock,
    /// Submission queues by id.
    pub submissions: BTreeMap<u16, Submission>,
    /// Completion queues by id.
    pub completions: BTreeMap<u16, Completion>,
    /// Used instead of doorbell writes on I/O queues, once set up.
    pub shadows: Option<DriverShadows>,
    admin_entries: u32,
    next_id: u16,
}

impl Default for NvmeRig {
    fn default() -> Self {
        Self::new()
    }
}

impl NvmeRig {
    /// A rig with an 8 MiB memory disk, inline, enabled.
    pub fn new() -> Self {
        Self::with_options(RigOptions::default()).enabled()
    }

    /// A rig on `disk`, inline, enabled.
    pub fn on(disk: Disk) -> Self {
        Self::with_options(RigOptions {
            disk,
            ..RigOptions::default()
        })
        .enabled()
    }

    /// A rig whose windows are mapped and whose controller is not yet enabled.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn with_options(options: RigOptions) -> Self {
        let pages = Pages::new(options.memory_bytes);
        let (msi, record) = Slot::messages();
        let (clock, hand) = Clock::manual();
        let ports = NvmePorts {
            memory: pages.memory().clone(),
            msi,
            clock,
            timers: None,
            disk: options.disk,
            execution: options.execution,
        };
        let nvme = Nvme::new(ports, options.config).unwrap();
        let mut slot = Slot::new(nvme.clone(), record);
        slot.set_up();
        Self {
            nvme,
            slot,
            pages,
            clock: hand,
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            shadows: None,
            admin_entries: options.admin_entries,
            next_id: 0,
        }
    }

    /// Reads 4 bytes of BAR 0.
    pub fn read32(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.slot
            .memory
            .read(self.slot.window(0) + offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Reads 8 bytes of BAR 0.
    pub fn read64(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.slot
            .memory
            .read(self.slot.window(0) + offset, &mut data);
        u64::from_le_bytes(data)
    }

    /// Writes 4 bytes of BAR 0.
    pub fn write32(&self, offset: u64, value: u32) {
        let at = self.slot.window(0) + offset;
        self.slot.memory.write(at, &value.to_le_bytes());
    }

    /// Writes 8 bytes of BAR 0.
    pub fn write64(&self, offset: u64, value: u64) {
        let at = self.slot.window(0) + offset;
        self.slot.memory.write(at, &value.to_le_bytes());
    }

    /// Sets up fresh admin queues and enables the controller.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn enabled(mut self) -> Self {
        self.enable();
        self
    }

    /// As [`NvmeRig::enabled`], also after a reset: the driver forgets all its queues.
    ///
    /// # Panics
    /// If the controller does not become ready.
    pub fn enable(&mut self) {
        let entries = self.admin_entries;
        self.program_admin_queues(entries);
        self.write32(reg::CC, ENABLE);
        self.await_ready(true);
    }

    /// Allocates admin queues of `entries` and writes AQA, ASQ and ACQ.
    pub fn program_admin_queues(&mut self, entries: u32) {
        self.submissions.clear();
        self.completions.clear();
        self.shadows = None;
        let submission = self.pages.take(u64::from(entries) * 64);
        let completion = self.pages.take(u64::from(entries) * 16);
        self.write32(reg::AQA, (entries - 1) | (entries - 1) << 16);
        self.write64(reg::ASQ, submission);
        self.write64(reg::ACQ, completion);
        self.remember(0, 0, submission, entries, completion, entries);
    }

    /// Clears CC.EN and waits until RDY has gone.
    ///
    /// # Panics
    /// If it stays.
    pub fn disable(&mut self) {
        self.write32(reg::CC, ENABLE & !1);
        self.await_ready(false);
    }

    /// Waits for CSTS.RDY.
    ///
    /// # Panics
    /// After ten seconds.
    pub fn await_ready(&self, ready: bool) {
        let start = Instant::now();
        while (self.read32(reg::CSTS) & 1 != 0) != ready {
            if start.elapsed() > Duration::from_secs(10) {
                panic!("CSTS stays {:#x}", self.read32(reg::CSTS));
            }
            std::thread::yield_now();
        }
    }

    /// Notes queues that exist, for submitting and polling.
    pub fn remember(
        &mut self,
        submission: u16,
        completion: u16,
        submission_base: u64,
        submission_entries: u32,
        completion_base: u64,
        completion_entries: u32,
    ) {
        let queue = Submission {
            base: submission_base,
            entries: submission_entries,
            tail: 0,
            completion,
        };
        self.submissions.insert(submission, queue);
        self.completions.entry(completion).or_insert(Completion {
            base: completion_base,
            entries: completion_entries,
            head: 0,
            phase: true,
        });
    }

    /// Creates completion and submission queue `id` with `entries` each, interrupts on vector `id`.
    ///
    /// # Panics
    /// If the controller refuses.
    #[must_use]
    pub fn with_io_queue(mut self, id: u16, entries: u32) -> Self {
        self.create_io_queue(id, entries);
        self
    }

    /// As [`NvmeRig::with_io_queue`].
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn create_io_queue(&mut self, id: u16, entries: u32) {
        let completion = self.pages.take(u64::from(entries) * 16);
        let submission = self.pages.take(u64::from(entries) * 64);
        for command in [
            create_cq(id, entries, completion, Some(id)),
            create_sq(id, entries, submission, id),
        ] {
            let answer = self.admin(command);
            assert!(answer.status.is_success(), "{:?}", answer.status);
        }
        // A queue of the same number may have been there before.
        self.completions.remove(&id);
        self.remember(id, id, submission, entries, completion, entries);
        // The creation's own interrupts are not what tests look at.
        self.slot.interrupts();
    }

    /// Puts a command into a queue without ringing; returns the identifier given to it.
    ///
    /// # Panics
    /// If the driver knows no such queue.
    pub fn push(&mut self, queue: u16, command: Command) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.push_as(queue, command, id);
        id
    }

    /// As [`NvmeRig::push`] with an identifier of the caller's choice.
    ///
    /// # Panics
    /// If the driver knows no such queue.
    pub fn push_as(&mut self, queue: u16, command: Command, id: u16) {
        let submission = self.submissions.get_mut(&queue).unwrap();
        let at = submission.base + u64::from(submission.tail) * 64;
        submission.tail = (submission.tail + 1) % submission.entries;
        self.pages.write(at, &command.with_id(id).to_bytes());
    }

    /// Tells the controller of what was pushed, by doorbell or by its shadow.
    ///
    /// # Panics
    /// If the driver knows no such queue.
    pub fn ring(&mut self, queue: u16) {
        let tail = self.submissions.get(&queue).unwrap().tail;
        self.move_doorbell(u64::from(queue) * 8, queue, tail);
    }

    fn move_doorbell(&mut self, offset: u64, queue: u16, value: u32) {
        if let Some(shadows) = self.shadows.as_mut().filter(|_| queue != 0) {
            let old = self.pages.read_u32(shadows.shadows + offset);
            self.pages.write_u32(shadows.shadows + offset, value);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let event = self.pages.read_u32(shadows.event_indexes + offset);
            // The rule of drivers in the field, in 16 bits.
            let passed = (value as u16).wrapping_sub(event as u16).wrapping_sub(1);
            if passed >= (value as u16).wrapping_sub(old as u16) {
                shadows.saved += 1;
                return;
            }
        }
        self.write32(reg::DOORBELLS + offset, value);
    }

    /// Pushes and rings; returns the identifier.
    pub fn submit(&mut self, queue: u16, command: Command) -> u16 {
        let id = self.push(queue, command);
        self.ring(queue);
        id
    }

    /// The next answer in completion queue `queue`, if it is there; the head doorbell is not moved.
    ///
    /// # Panics
    /// If the driver knows no such queue.
    pub fn peek(&mut self, queue: u16) -> Option<Answer> {
        let completion = self.completions.get_mut(&queue).unwrap();
        let at = completion.base + u64::from(completion.head) * 16;
        let last = self.pages.read_u32(at + 12);
        if (last >> 16 & 1 != 0) != completion.phase {
            return None;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        completion.head += 1;
        if completion.head == completion.entries {
            completion.head = 0;
            completion.phase = !completion.phase;
        }
        let middle = self.pages.read_u32(at + 8);
        Some(Answer {
            id: last as u16,
            status: Status::from_bits((last >> 17) as u16),
            result: self.pages.read_u32(at),
            queue: (middle >> 16) as u16,
            queue_head: middle as u16,
        })
    }

    /// Gives the slots of all answers taken so far back to the controller.
    ///
    /// # Panics
    /// If the driver knows no such queue.
    pub fn acknowledge(&mut self, queue: u16) {
        let head = self.completions.get(&queue).unwrap().head;
        self.move_doorbell(u64::from(queue) * 8 + 4, queue, head);
    }

    /// The next answer, acknowledged.
    pub fn poll(&mut self, queue: u16) -> Option<Answer> {
        let answer = self.peek(queue)?;
        self.acknowledge(queue);
        Some(answer)
    }

    /// The next answer, waited for.
    ///
    /// # Panics
    /// After ten seconds.
    pub fn wait(&mut self, queue: u16) -> Answer {
        let start = Instant::now();
        loop {
            if let Some(answer) = self.poll(queue) {
                return answer;
            }
            if start.elapsed() > Duration::from_secs(10) {
                panic!("no answer in completion queue {queue}");
            }
            std::thread::yield_now();
        }
    }

    /// One admin command from start to end.
    pub fn admin(&mut self, command: Command) -> Answer {
        let id = self.submit(0, command);
        let answer = self.wait(0);
        assert_eq!((answer.id, answer.queue), (id, 0));
        answer
    }

    /// One command on submission queue `queue` from start to end.
    ///
    /// # Panics
    /// If another command's answer comes.
    pub fn io(&mut self, queue: u16, command: Command) -> Answer {
        let id = self.submit(queue, command);
        let completion = self.submissions.get(&queue).unwrap().completion;
        let answer = self.wait(completion);
        assert_eq!((answer.id, answer.queue), (id, queue));
        answer
    }

    /// PRP entries for `length` bytes at `buffer`, with list pages where they are needed.
    pub fn prps(&mut self, buffer: u64, length: u64) -> (u64, u64) {
        let first = PAGE - buffer % PAGE;
        if length <= first {
            return (buffer, 0);
        }
        let mut rest: Vec<u64> = (buffer + first..buffer + length)
            .step_by(PAGE as usize)
            .collect();
        if rest.len() == 1 {
            return (buffer, rest.remove(0));
        }
        let list = self.pages.take(PAGE);
        let (mut page, mut slot) = (list, 0);
        for (index, entry) in rest.iter().enumerate() {
            if slot == 511 && index + 1 < rest.len() {
                let next = self.pages.take(PAGE);
                self.pages.write_u64(page + 511 * 8, next);
                (page, slot) = (next, 0);
            }
            self.pages.write_u64(page + slot * 8, *entry);
            slot += 1;
        }
        (buffer, list)
    }

    /// Runs Identify for `cns` and returns the page.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn identify(&mut self, cns: u32, namespace: u32) -> Vec<u8> {
        let page = self.pages.take(PAGE);
        let answer = self.admin(identify(cns, namespace, page));
        assert!(answer.status.is_success(), "{:?}", answer.status);
        self.pages.read(page, PAGE as usize)
    }

    /// Reads the first `length` bytes of a log page.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn log_page(&mut self, id: u8, length: u32) -> Vec<u8> {
        let buffer = self.pages.take(u64::from(length));
        let (prp1, prp2) = self.prps(buffer, u64::from(length));
        let answer = self.admin(get_log_page(id, length).with_prps(prp1, prp2));
        assert!(answer.status.is_success(), "{:?}", answer.status);
        self.pages.read(buffer, length as usize)
    }

    /// Gives the controller shadow doorbells and uses them from now on.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn use_shadow_doorbells(&mut self) {
        let (shadows, event_indexes) = (self.pages.take(PAGE), self.pages.take(PAGE));
        let command = Command::new(admin::DOORBELL_BUFFER, 0).with_prps(shadows, event_indexes);
        let answer = self.admin(command);
        assert!(answer.status.is_success(), "{:?}", answer.status);
        self.shadows = Some(DriverShadows {
            shadows,
            event_indexes,
            saved: 0,
        });
    }
}

/// Create I/O Completion Queue, contiguous; interrupts if a vector is given.
pub fn create_cq(id: u16, entries: u32, base: u64, vector: Option<u16>) -> Command {
    let interrupts = vector.map_or(0, |vector| 2 | u32::from(vector) << 16);
    Command::new(admin::CREATE_CQ, 0)
        .with_prps(base, 0)
        .with_word(10, u32::from(id) | entries.wrapping_sub(1) << 16)
        .with_word(11, 1 | interrupts)
}

/// Create I/O Submission Queue, contiguous.
pub fn create_sq(id: u16, entries: u32, base: u64, completion: u16) -> Command {
    Command::new(admin::CREATE_SQ, 0)
        .with_prps(base, 0)
        .with_word(10, u32::from(id) | entries.wrapping_sub(1) << 16)
        .with_word(11, 1 | u32::from(completion) << 16)
}

/// Identify into one page.
pub fn identify(cns: u32, namespace: u32, page: u64) -> Command {
    Command::new(admin::IDENTIFY, namespace)
        .with_prps(page, 0)
        .with_word(10, cns)
}

/// Get Log Page of `length` bytes, for the controller.
pub fn get_log_page(id: u8, length: u32) -> Command {
    let dwords = (length / 4).wrapping_sub(1);
    Command::new(admin::GET_LOG_PAGE, 0xffff_ffff)
        .with_word(10, u32::from(id) | dwords << 16)
        .with_word(11, dwords >> 16)
}

/// Set Features.
pub fn set_feature(id: u8, value: u32) -> Command {
    Command::new(admin::SET_FEATURES, 0)
        .with_word(10, u32::from(id))
        .with_word(11, value)
}

/// Get Features; `select` is 0 current, 1 default, 2 saved, 3 supported.
pub fn get_feature(id: u8, select: u32, value: u32) -> Command {
    Command::new(admin::GET_FEATURES, 0)
        .with_word(10, u32::from(id) | select << 8)
        .with_word(11, value)
}
