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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use block::{Attachment, Batch, Completion, Outcome, Source};
use vm_types::GuestMemory;

use super::command::io;
use super::dbbuf::{Pages, Register, Side};
use super::fetch::{Inner, Life, Ring, Slot};
use super::shared::{Failure, Shared};
use super::status::Status;
use crate::sync::lock;

/// A submission queue's place, with or without a queue in it.
pub(super) struct SubmissionQueue {
    pub(super) id: u16,
    pub(super) shared: Arc<Shared>,
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
        Self {
            id,
            shared,
            register: Register::default(),
            entries: AtomicU32::new(0),
            completion_queue: AtomicU16::new(0),
            inner: Mutex::new(Inner::new(depth)),
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

    /// No command of this life or an earlier one has been taken from its ring and not answered.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.in_flight == 0 && inner.stale == 0 && inner.unfolding.is_none()
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
        lock(&self.inner)
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

impl Counters {
    pub(super) fn count(&self, slot: &Slot) {
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
