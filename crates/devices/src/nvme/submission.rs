//! One I/O submission queue as a [`block::Source`]: the disk's worker fetches commands from it and brings
//! their answers back.
//!
//! ```text
//!            create              delete              nothing in flight
//!   Absent ---------> Live ----------------> Deleting -----------------> Absent
//!     ^                 |  controller reset      |  controller reset
//!     +-----------------+------------------------+   (answers of that life go nowhere)
//! ```
//!
//! The place of a queue lives as long as the controller and with it the worker, so that a guest that
//! makes and deletes queues starts no threads. Each batch takes this queue's lock and its completion
//! queue's lock once; nothing is allocated for a command.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use block::{Attachment, Batch, Completion, Operation, Outcome, Request, Source, Token};
use vm_types::{GuestAddress, GuestMemory, MemoryError};

use super::command::{Answer, Command, SQE_BYTES, io};
use super::dbbuf::{Pages, Register, Shadow, Side, poll};
use super::io::{Range, Work, decode};
use super::shared::{Failure, Shared};
use super::status::Status;

/// Commands read from the ring in one piece.
const CHUNK: usize = 16;
/// Commands looked at in one fetch, so that a guest that keeps a queue full of nonsense is not served
/// for ever in one call.
const FETCH_MAX: u32 = 1024;
/// The slot of tokens for our own flush.
const OWN_FLUSH: u32 = u32::MAX;

/// A submission queue's place, with or without a queue in it.
pub(super) struct SubmissionQueue {
    id: u16,
    shared: Arc<Shared>,
    /// The tail doorbell.
    pub(super) register: Register,
    /// Entries, or 0 unless the queue is live: what a doorbell write is checked against.
    entries: AtomicU32,
    /// The completion queue it posts to, 0 without a queue.
    completion_queue: AtomicU16,
    inner: Mutex<Inner>,
    attachment: OnceLock<Attachment>,
    pub(super) counters: Counters,
}

/// What SMART counts, for all lives of the queue.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read_commands: AtomicU64,
    pub(super) write_commands: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
}

struct Inner {
    life: Life,
    ring: Option<Ring>,
    generation: u32,
    /// Requests of this life that the disk has.
    in_flight: u32,
    /// Requests of earlier lives that the disk still has.
    stale: u32,
    /// Somebody waits for `stale` to become zero.
    reset_waits: bool,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// A fetch found no free slot.
    short_of_slots: bool,
    /// A command that became several requests, not all of them fetched yet.
    unfolding: Option<Unfolding>,
    ranges: Vec<Range>,
    /// Ring positions of commands that were aborted, and answered, before they were fetched.
    aborted: Vec<u32>,
    own_flush_wanted: bool,
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Absent,
    Live,
    Deleting,
}

/// What Create I/O Submission Queue said, and where we stand.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Ring {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    completion_queue: u16,
    shadow: Option<Shadow>,
}

/// A command that the disk works on.
#[derive(Clone, Copy, Debug)]
struct Slot {
    command: u16,
    opcode: u8,
    /// Requests of it that are not answered yet, those not yet fetched included.
    pending: u16,
    status: Status,
    block: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Unfolding {
    slot: u32,
    next: usize,
}

/// The saved state of a submission queue.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct SubmissionState {
    ring: Ring,
    register: u16,
    aborted: Vec<u32>,
}

/// What is to be told to the controller once the queue's lock is free.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) failures: Vec<Failure>,
    /// The queue's memory is gone.
    pub(super) fatal: bool,
    /// The last request of lives before a reset has been answered.
    pub(super) drained: bool,
    /// The queue, deleted in this generation, has gone.
    pub(super) deleted: Option<u32>,
    /// Our own flush has ended.
    pub(super) flushed: Option<Outcome>,
    /// Slots of this completion queue came free while another submission queue wanted some.
    pub(super) freed: Option<u16>,
}

impl SubmissionQueue {
    /// A place for queue `id` with room for `depth` commands at the disk.
    pub(super) fn new(id: u16, depth: u32, shared: Arc<Shared>) -> Self {
        let slot = Slot {
            command: 0,
            opcode: 0,
            pending: 0,
            status: Status::SUCCESS,
            block: 0,
            bytes: 0,
        };
        Self {
            id,
            shared,
            register: Register::default(),
            entries: AtomicU32::new(0),
            completion_queue: AtomicU16::new(0),
            inner: Mutex::new(Inner {
                life: Life::Absent,
                ring: None,
                generation: 0,
                in_flight: 0,
                stale: 0,
                reset_waits: false,
                slots: vec![slot; depth as usize].into_boxed_slice(),
                free: (0..depth).rev().collect(),
                short_of_slots: false,
                unfolding: None,
                ranges: Vec::new(),
                aborted: Vec::new(),
                own_flush_wanted: false,
                answers: Vec::with_capacity(depth as usize),
            }),
            attachment: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    /// The join with the disk, made at the queue's first use.
    pub(super) fn attachment(&self) -> Option<&Attachment> {
        self.attachment.get()
    }

    /// Keeps the join with the disk. A second one is dropped.
    pub(super) fn set_attachment(&self, attachment: Attachment) {
        drop(self.attachment.set(attachment));
    }

    /// Wakes the worker.
    pub(super) fn kick(&self) {
        if let Some(attachment) = self.attachment.get() {
            attachment.kick();
        }
    }

    /// Entries; 0 unless the queue is live.
    pub(super) fn entries(&self) -> u32 {
        self.entries.load(Ordering::SeqCst)
    }

    /// Whether the id is in use: live, or being deleted.
    pub(super) fn exists(&self) -> bool {
        self.lock().life != Life::Absent
    }

    /// The completion queue it posts to; 0 without a queue.
    pub(super) fn completion_queue(&self) -> u16 {
        self.completion_queue.load(Ordering::SeqCst)
    }

    /// Makes the queue: `entries` commands from `base`, answers to `completion_queue`.
    pub(super) fn create(
        &self,
        base: u64,
        entries: u32,
        completion_queue: u16,
        pages: Option<Pages>,
    ) {
        let mut inner = self.lock();
        self.register.reset(0);
        inner.ring = Some(Ring {
            base,
            entries,
            head: 0,
            tail: 0,
            completion_queue,
            shadow: pages.map(|pages| pages.shadow(&self.shared.memory, self.id, Side::Tail, 0)),
        });
        inner.life = Life::Live;
        inner.aborted.clear();
        self.completion_queue
            .store(completion_queue, Ordering::SeqCst);
        self.entries.store(entries, Ordering::SeqCst);
    }

    /// From now on the tail is (also) in the guest's pages.
    pub(super) fn shadow_doorbell(&self, pages: Pages) {
        if let Some(ring) = self.lock().ring.as_mut() {
            let tail = self.register.value();
            ring.shadow = Some(pages.shadow(&self.shared.memory, self.id, Side::Tail, tail));
        }
    }

    /// Begins the end of the queue: fetches nothing more. Returns its generation if the disk still works
    /// on commands of it; the controller is told when it has gone ([`Notes::deleted`]).
    pub(super) fn delete(&self) -> Option<u32> {
        let mut inner = self.lock();
        self.entries.store(0, Ordering::SeqCst);
        inner.life = Life::Deleting;
        // Ranges that the disk has not seen yet are dropped with the queue.
        if let Some(unfolding) = inner.unfolding.take() {
            let left = (inner.ranges.len() - unfolding.next) as u16;
            let index = unfolding.slot as usize;
            if let Some(slot) = inner.slots.get_mut(index) {
                slot.pending = slot.pending.saturating_sub(left);
                slot.status = Status::ABORTED_QUEUE_DELETED;
                if slot.pending == 0 {
                    let mut notes = Notes::default();
                    inner.answer(self, unfolding.slot, &mut notes);
                    // The vector fires with the deletion's own answer at the latest.
                    let vector = inner.post(&self.shared, &mut notes);
                    self.shared.fire(vector);
                }
            }
        }
        if inner.in_flight == 0 {
            self.clear(&mut inner);
            return None;
        }
        Some(inner.generation)
    }

    /// Ends this life at once, as a controller reset does. If the disk still holds requests of it, the
    /// controller is told when it does no more ([`Notes::drained`]).
    pub(super) fn retire(&self) {
        let mut inner = self.lock();
        inner.stale += inner.in_flight;
        inner.in_flight = 0;
        inner.generation = inner.generation.wrapping_add(1);
        inner.unfolding = None;
        inner.own_flush_wanted = false;
        inner.free = (0..inner.slots.len() as u32).rev().collect();
        self.clear(&mut inner);
        if inner.stale > 0 && !inner.reset_waits {
            inner.reset_waits = true;
            self.shared.count_stale_queue(true);
        }
    }

    fn clear(&self, inner: &mut Inner) {
        self.entries.store(0, Ordering::SeqCst);
        self.completion_queue.store(0, Ordering::SeqCst);
        inner.life = Life::Absent;
        inner.ring = None;
        inner.aborted.clear();
        inner.short_of_slots = false;
    }

    /// Asks for a flush of the disk on the controller's own behalf; [`Notes::flushed`] tells its end.
    pub(super) fn flush_for_controller(&self) {
        self.lock().own_flush_wanted = true;
        self.kick();
    }

    /// Aborts command `id` if it has not been fetched: it is answered now and passed over later.
    pub(super) fn abort(&self, id: u16) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(position) = inner.find_waiting(self, id) else {
            return false;
        };
        let Some(queue) = self.shared.completion(self.completion_queue()) else {
            return false;
        };
        if queue.reserve(&self.shared.memory, 1) == 0 {
            return false;
        }
        inner.aborted.push(position);
        inner.push_answer(self.id, id, Status::ABORT_REQUESTED);
        let mut notes = Notes::default();
        let vector = inner.post(&self.shared, &mut notes);
        drop(guard);
        self.shared.fire(vector);
        true
    }

    pub(super) fn save(&self) -> Option<SubmissionState> {
        let inner = self.lock();
        (inner.life == Life::Live).then_some(())?;
        Some(SubmissionState {
            ring: inner.ring.clone()?,
            register: self.register.value(),
            aborted: inner.aborted.clone(),
        })
    }

    /// Takes back a queue; refuses one that contradicts itself.
    pub(super) fn restore(&self, state: &SubmissionState) -> Result<(), String> {
        let ring = &state.ring;
        let sane = (2..=super::registers::QUEUE_ENTRIES_MAX).contains(&ring.entries)
            && ring.head < ring.entries
            && ring.tail < ring.entries
            && u32::from(state.register) < ring.entries
            && state.aborted.len() <= ring.entries as usize;
        let posts = self.shared.completion(ring.completion_queue);
        if !sane || ring.completion_queue == 0 || posts.is_none_or(|queue| queue.entries() == 0) {
            return Err(format!("submission queue {}", self.id));
        }
        let mut inner = self.lock();
        self.register.write(state.register);
        self.completion_queue
            .store(ring.completion_queue, Ordering::SeqCst);
        self.entries.store(ring.entries, Ordering::SeqCst);
        inner.aborted.clone_from(&state.aborted);
        inner.ring = Some(ring.clone());
        inner.life = Life::Live;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for SubmissionQueue {
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize {
        let before = batch.requests.len();
        let mut notes = Notes::default();
        let mut guard = self.lock();
        let more = guard.fetch(self, before + room, batch, &mut notes);
        let vector = guard.post(&self.shared, &mut notes);
        drop(guard);
        self.shared.fire(vector);
        self.shared.take_notes(self.id, notes);
        let fetched = batch.requests.len() - before;
        if more && fetched == 0 {
            // An empty batch means "ring again", and there is more.
            self.kick();
        }
        fetched
    }

    fn complete(&self, completions: &[Completion]) {
        let mut notes = Notes::default();
        let mut guard = self.lock();
        for completion in completions {
            guard.finish(self, completion, &mut notes);
        }
        let vector = guard.post(&self.shared, &mut notes);
        if guard.life == Life::Deleting && guard.in_flight == 0 {
            self.clear(&mut guard);
            notes.deleted = Some(guard.generation);
        }
        if guard.reset_waits && guard.stale == 0 {
            guard.reset_waits = false;
            self.shared.count_stale_queue(false);
            notes.drained = true;
        }
        let kick = std::mem::take(&mut guard.short_of_slots);
        drop(guard);
        self.shared.fire(vector);
        self.shared.take_notes(self.id, notes);
        if kick {
            self.kick();
        }
    }

    fn memory(&self) -> &GuestMemory {
        &self.shared.memory
    }
}

impl Inner {
    /// Fetches commands until the batch holds `limit` requests or nothing more can be taken. Returns
    /// whether it stopped for having looked at enough.
    fn fetch(
        &mut self,
        queue: &SubmissionQueue,
        limit: usize,
        batch: &mut Batch,
        notes: &mut Notes,
    ) -> bool {
        if self.own_flush_wanted && batch.requests.len() < limit {
            self.own_flush_wanted = false;
            self.push_own_flush(batch);
        }
        let shared = &*queue.shared;
        let mut budget = FETCH_MAX;
        while batch.requests.len() < limit {
            if let Some(unfolding) = self.unfolding {
                self.unfold(unfolding, limit, batch);
                continue;
            }
            if self.life != Life::Live || shared.is_fatal() {
                return false;
            }
            if budget == 0 {
                return true;
            }
            let room = limit - batch.requests.len();
            let (position, count) = match self.waiting(queue, room) {
                Some(run) => run,
                None => return false,
            };
            let Some(completion_queue) = shared.completion(queue.completion_queue()) else {
                return false;
            };
            let granted = completion_queue.reserve(&shared.memory, count as u32);
            if granted == 0 {
                return false;
            }
            match self.take(queue, position, granted, batch, notes) {
                Ok(taken) => {
                    budget = budget.saturating_sub(taken);
                    if completion_queue.release(granted - taken) {
                        notes.freed = Some(queue.completion_queue());
                    }
                }
                Err(error) => {
                    completion_queue.release(granted);
                    // With bus mastering off there is nothing to see, and nothing wrong.
                    notes.fatal |= !matches!(error, MemoryError::Closed);
                    return false;
                }
            }
        }
        false
    }

    /// Where the next commands are and how many can be taken in one piece: waiting in the ring, up to
    /// its end, with slots free.
    fn waiting(&mut self, queue: &SubmissionQueue, room: usize) -> Option<(u32, usize)> {
        let memory = &queue.shared.memory;
        let slots = self.free.len();
        let ring = self.ring.as_mut()?;
        ring.look_at_tail(memory, &queue.register);
        if ring.head == ring.tail {
            // Nothing more: ask for a ring, then look once more (see `dbbuf`).
            let shadow = ring.shadow.as_ref()?;
            shadow.ask_for_ring(memory, ring.head as u16);
            ring.look_at_tail(memory, &queue.register);
            if ring.head == ring.tail {
                return None;
            }
        }
        let end = if ring.tail > ring.head {
            ring.tail
        } else {
            ring.entries
        };
        if slots == 0 {
            self.short_of_slots = true;
            return None;
        }
        let count = (end - ring.head) as usize;
        Some((ring.head, count.min(room).min(slots).min(CHUNK)))
    }

    /// Takes `count` (at most [`CHUNK`]) commands from `position` on and returns how many it took: fewer
    /// if one of them unfolds into several requests.
    fn take(
        &mut self,
        queue: &SubmissionQueue,
        position: u32,
        count: u32,
        batch: &mut Batch,
        notes: &mut Notes,
    ) -> Result<u32, MemoryError> {
        let shared = &*queue.shared;
        let base = self.ring.as_ref().map_or(0, |ring| ring.base);
        let at = base.wrapping_add(u64::from(position) * SQE_BYTES as u64);
        let mut bytes = [[0; SQE_BYTES]; CHUNK];
        let count = (count as usize).min(CHUNK);
        let flat = bytes.as_flattened_mut();
        shared
            .memory
            .read(GuestAddress(at), &mut flat[..count * SQE_BYTES])?;
        for (index, bytes) in bytes.iter().take(count).enumerate() {
            let position = position + index as u32;
            self.advance(position);
            let passed = self.aborted.iter().position(|aborted| *aborted == position);
            if let Some(passed) = passed {
                self.aborted.swap_remove(passed);
                // It was answered when it was aborted.
                let id = queue.completion_queue();
                if shared.completion(id).is_some_and(|queue| queue.release(1)) {
                    notes.freed = Some(id);
                }
                continue;
            }
            let command = Command::from_bytes(bytes);
            self.begin(queue, &command, batch, notes);
            if self.unfolding.is_some() {
                return Ok(index as u32 + 1);
            }
        }
        Ok(count as u32)
    }

    fn advance(&mut self, position: u32) {
        if let Some(ring) = self.ring.as_mut() {
            ring.head = (position + 1) % ring.entries;
        }
    }

    /// Turns one command into requests, or answers it.
    fn begin(
        &mut self,
        queue: &SubmissionQueue,
        command: &Command,
        batch: &mut Batch,
        notes: &mut Notes,
    ) {
        let shared = &*queue.shared;
        let first_segment = batch.segments.len();
        let decoded = decode(
            command,
            &shared.namespace,
            &shared.memory,
            shared.write_through(),
            &mut batch.segments,
            &mut self.ranges,
        );
        let status = match decoded {
            Ok(Work::One(need)) => {
                let segments = first_segment as u32..batch.segments.len() as u32;
                // `waiting` has counted the free slots.
                if let Some(slot) = self.open_slot(command, 1, need.length) {
                    self.in_flight += 1;
                    batch.requests.push(Request {
                        operation: need.operation,
                        offset: need.offset,
                        length: need.length,
                        durable: need.durable,
                        token: self.token(slot),
                        segments,
                    });
                    return;
                }
                Status::INTERNAL_ERROR
            }
            Ok(Work::Ranges) => match self.open_slot(command, self.ranges.len() as u16, 0) {
                Some(slot) => {
                    self.unfolding = Some(Unfolding { slot, next: 0 });
                    return;
                }
                None => Status::INTERNAL_ERROR,
            },
            Ok(Work::Nothing) => Status::SUCCESS,
            Err(status) => {
                batch.segments.truncate(first_segment);
                status
            }
        };
        let status = if status.is_success() {
            status
        } else {
            notes.failures.push(Failure {
                queue: queue.id,
                command: command.id(),
                status,
                block: command.pair(10),
                namespace: command.namespace(),
            });
            status.logged()
        };
        self.push_answer(queue.id, command.id(), status);
    }

    fn open_slot(&mut self, command: &Command, pending: u16, bytes: u64) -> Option<u32> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        *slot = Slot {
            command: command.id(),
            opcode: command.opcode(),
            pending,
            status: Status::SUCCESS,
            block: command.pair(10),
            bytes,
        };
        Some(index)
    }

    /// Puts requests for the ranges that are left into the batch.
    fn unfold(&mut self, unfolding: Unfolding, limit: usize, batch: &mut Batch) {
        let room = limit.saturating_sub(batch.requests.len());
        let token = self.token(unfolding.slot);
        let ranges = self.ranges.get(unfolding.next..).unwrap_or_default();
        let count = ranges.len().min(room);
        for range in &ranges[..count] {
            batch.requests.push(Request {
                operation: Operation::Discard,
                offset: range.offset,
                length: range.length,
                durable: false,
                token,
                segments: 0..0,
            });
        }
        self.in_flight += count as u32;
        let next = unfolding.next + count;
        let left = next < self.ranges.len();
        self.unfolding = left.then_some(Unfolding { next, ..unfolding });
    }

    fn push_own_flush(&mut self, batch: &mut Batch) {
        self.in_flight += 1;
        batch.requests.push(Request {
            operation: Operation::Flush,
            offset: 0,
            length: 0,
            durable: false,
            token: self.token(OWN_FLUSH),
            segments: 0..0,
        });
    }

    fn token(&self, slot: u32) -> Token {
        Token {
            slot,
            generation: self.generation,
        }
    }

    /// One request has been answered.
    fn finish(&mut self, queue: &SubmissionQueue, completion: &Completion, notes: &mut Notes) {
        let token = completion.token;
        if token.generation != self.generation {
            // Of a life before a reset: its command and its queue are no more.
            self.stale = self.stale.saturating_sub(1);
            return;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if token.slot == OWN_FLUSH {
            notes.flushed = Some(completion.outcome);
            return;
        }
        let Some(slot) = self.slots.get_mut(token.slot as usize) else {
            return;
        };
        slot.pending = slot.pending.saturating_sub(1);
        if slot.status.is_success() {
            slot.status = Status::of(completion.outcome);
        }
        if slot.pending == 0 {
            self.answer(queue, token.slot, notes);
        }
    }

    /// All of a command's requests have been answered: so is the command, and its slot is free.
    fn answer(&mut self, queue: &SubmissionQueue, index: u32, notes: &mut Notes) {
        let Some(slot) = self.slots.get(index as usize).copied() else {
            return;
        };
        self.free.push(index);
        let status = if slot.status.is_success() {
            queue.counters.count(&slot);
            slot.status
        } else {
            notes.failures.push(Failure {
                queue: queue.id,
                command: slot.command,
                status: slot.status,
                block: slot.block,
                namespace: super::namespace::NAMESPACE,
            });
            slot.status.logged()
        };
        self.push_answer(queue.id, slot.command, status);
    }

    fn push_answer(&mut self, queue: u16, command: u16, status: Status) {
        self.answers.push(Answer {
            result: 0,
            queue,
            queue_head: 0,
            command,
            status,
        });
    }

    /// Posts the answers that have come together; returns the vector to fire.
    fn post(&mut self, shared: &Shared, notes: &mut Notes) -> Option<u16> {
        if self.answers.is_empty() {
            return None;
        }
        let ring = self.ring.as_ref();
        let head = ring.map_or(0, |ring| ring.head as u16);
        let completion_queue = ring.and_then(|ring| shared.completion(ring.completion_queue));
        for answer in &mut self.answers {
            answer.queue_head = head;
        }
        let posted = completion_queue.map(|queue| queue.post(&shared.memory, &self.answers));
        self.answers.clear();
        match posted {
            Some(Ok(vector)) => vector,
            Some(Err(error)) => {
                notes.fatal |= !matches!(error, MemoryError::Closed);
                None
            }
            None => None,
        }
    }

    /// The ring position of command `id` among those not fetched yet.
    fn find_waiting(&mut self, queue: &SubmissionQueue, id: u16) -> Option<u32> {
        if self.life != Life::Live {
            return None;
        }
        let memory = &queue.shared.memory;
        let ring = self.ring.as_mut()?;
        ring.look_at_tail(memory, &queue.register);
        let mut position = ring.head;
        while position != ring.tail {
            let at = ring
                .base
                .wrapping_add(u64::from(position) * SQE_BYTES as u64);
            let first = memory.read_value::<u32>(GuestAddress(at)).ok()?;
            if (first >> 16) as u16 == id && !self.aborted.contains(&position) {
                return Some(position);
            }
            position = (position + 1) % ring.entries;
        }
        None
    }
}

impl Ring {
    fn look_at_tail(&mut self, memory: &GuestMemory, register: &Register) {
        let last = self.tail as u16;
        let tail = u32::from(poll(self.shadow.as_mut(), memory, register, last));
        if tail < self.entries {
            self.tail = tail;
        }
    }
}

impl Counters {
    fn count(&self, slot: &Slot) {
        let (commands, bytes) = match slot.opcode {
            io::READ | io::COMPARE => (Some(&self.read_commands), Some(&self.bytes_read)),
            io::VERIFY => (None, Some(&self.bytes_read)),
            io::WRITE => (Some(&self.write_commands), Some(&self.bytes_written)),
            _ => (None, None),
        };
        // Only this queue's worker adds, so plain loads and stores would do; readers are elsewhere.
        if let Some(commands) = commands {
            commands.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(counter) = bytes {
            counter.fetch_add(slot.bytes, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for SubmissionQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubmissionQueue")
            .field("id", &self.id)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small() {
        // 256 of them a queue.
        assert!(size_of::<Slot>() <= 32);
    }
}
