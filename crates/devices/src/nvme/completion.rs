//! A completion queue: slots are set aside before a command is fetched, filled when it ends.
//!
//! So a slow guest cannot make us overwrite entries, and a command never waits with its answer in hand.
//! When no slot is free the queue is *starved*; the guest's next move of the head wakes the submission
//! queues that post here.
//!
//! Source: NVM Express Base 1.4, 4.1 and 4.6.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use vm_types::{GuestAddress, GuestMemory, MemoryError};

use super::command::{Answer, CQE_BYTES};
use super::dbbuf::{Pages, Register, Shadow, Side, poll};
use crate::sync::lock;

/// One completion queue's place, with or without a queue in it.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    id: u16,
    /// The head doorbell.
    pub(super) register: Register,
    /// Entries, or 0 while there is no queue: what a doorbell write is checked against.
    entries: AtomicU32,
    starved: AtomicBool,
    ring: Mutex<Option<Ring>>,
}

/// What Create I/O Completion Queue said, and where we stand.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Ring {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
    /// Slots set aside for commands that are being worked on.
    reserved: u32,
    /// The MSI-X vector, if interrupts are enabled.
    vector: Option<u16>,
    shadow: Option<Shadow>,
}

/// The saved state of a completion queue.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct CompletionState {
    ring: Ring,
    register: u16,
}

impl CompletionQueue {
    pub(super) fn new(id: u16) -> Self {
        Self {
            id,
            register: Register::default(),
            entries: AtomicU32::new(0),
            starved: AtomicBool::new(false),
            ring: Mutex::new(None),
        }
    }

    /// Makes the queue: `entries` slots from `base`, interrupts on `vector` if given.
    pub(super) fn create(&self, base: u64, entries: u32, vector: Option<u16>) {
        let mut ring = self.lock();
        self.register.reset(0);
        self.starved.store(false, Ordering::SeqCst);
        *ring = Some(Ring {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            reserved: 0,
            vector,
            shadow: None,
        });
        self.entries.store(entries, Ordering::SeqCst);
    }

    /// Takes the queue away.
    pub(super) fn delete(&self) {
        *self.lock() = None;
        self.entries.store(0, Ordering::SeqCst);
        self.starved.store(false, Ordering::SeqCst);
    }

    /// Entries; 0 while there is no queue.
    pub(super) fn entries(&self) -> u32 {
        self.entries.load(Ordering::SeqCst)
    }

    /// From now on the head is (also) in the guest's pages.
    pub(super) fn shadow_doorbell(&self, memory: &GuestMemory, pages: Pages) {
        if let Some(ring) = self.lock().as_mut() {
            let head = self.register.value();
            ring.shadow = Some(pages.shadow(memory, self.id, Side::Head, head));
        }
    }

    /// Sets aside up to `wanted` slots and returns how many. Zero: the queue is starved, and a move of
    /// the head will be reported by [`CompletionQueue::head_moved`].
    pub(super) fn reserve(&self, memory: &GuestMemory, wanted: u32) -> u32 {
        let mut guard = self.lock();
        let Some(ring) = guard.as_mut() else {
            return 0;
        };
        // Only when slots seem short is the guest's head looked at.
        if ring.free() < wanted {
            self.look_at_head(ring, memory);
        }
        if ring.free() == 0 && wanted > 0 {
            // First say that we wait, then look again: a head that moves in between is seen by one of us.
            self.starved.store(true, Ordering::SeqCst);
            if let Some(shadow) = &ring.shadow {
                shadow.ask_for_ring(memory, ring.head as u16);
            }
            self.look_at_head(ring, memory);
            if ring.free() > 0 {
                self.starved.store(false, Ordering::SeqCst);
            }
        }
        let granted = ring.free().min(wanted);
        ring.reserved += granted;
        granted
    }

    /// Gives back slots that are not needed after all. Returns whether a submission queue has asked for
    /// some in the meantime.
    pub(super) fn release(&self, slots: u32) -> bool {
        if slots == 0 {
            return false;
        }
        if let Some(ring) = self.lock().as_mut() {
            ring.reserved = ring.reserved.saturating_sub(slots);
        }
        self.starved.swap(false, Ordering::SeqCst)
    }

    /// The guest wrote the head. Returns whether submission queues wait for that.
    pub(super) fn head_moved(&self, head: u16) -> bool {
        self.register.write(head);
        self.starved.swap(false, Ordering::SeqCst)
    }

    /// Fills slots that were set aside, in order, and returns the vector to fire.
    ///
    /// Errors: the queue lies outside guest memory.
    pub(super) fn post(
        &self,
        memory: &GuestMemory,
        answers: &[Answer],
    ) -> Result<Option<u16>, MemoryError> {
        let mut guard = self.lock();
        let Some(ring) = guard.as_mut() else {
            return Ok(None);
        };
        // Whatever becomes of the answers, their slots are not set aside any more.
        ring.reserved = ring.reserved.saturating_sub(answers.len() as u32);
        let mut rest = answers;
        while !rest.is_empty() {
            // One run up to the end of the ring.
            let run = rest.len().min((ring.entries - ring.tail) as usize);
            let (now, later) = rest.split_at(run);
            ring.write_run(memory, now)?;
            ring.tail += run as u32;
            if ring.tail == ring.entries {
                ring.tail = 0;
                ring.phase = !ring.phase;
            }
            rest = later;
        }
        Ok(ring.vector)
    }

    pub(super) fn save(&self) -> Option<CompletionState> {
        let ring = self.lock().clone()?;
        Some(CompletionState {
            ring,
            register: self.register.value(),
        })
    }

    /// Takes back a queue; refuses one that contradicts itself.
    pub(super) fn restore(&self, state: &CompletionState) -> Result<(), String> {
        let ring = &state.ring;
        let sane = (2..=super::registers::QUEUE_ENTRIES_MAX).contains(&ring.entries)
            && ring.head < ring.entries
            && ring.tail < ring.entries
            && u32::from(state.register) < ring.entries;
        if !sane {
            return Err(format!("completion queue {}", self.id));
        }
        let mut guard = self.lock();
        let mut ring = ring.clone();
        // Whoever had slots set aside was idle when the state was taken.
        ring.reserved = 0;
        self.entries.store(ring.entries, Ordering::SeqCst);
        self.register.write(state.register);
        self.starved.store(true, Ordering::SeqCst);
        *guard = Some(ring);
        Ok(())
    }

    fn look_at_head(&self, ring: &mut Ring, memory: &GuestMemory) {
        let last = ring.head as u16;
        let head = u32::from(poll(ring.shadow.as_mut(), memory, &self.register, last));
        // A head that runs past the tail would free slots that the guest has not read.
        if head < ring.entries && ring.distance(ring.head, head) <= ring.used() {
            ring.head = head;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ring>> {
        lock(&self.ring)
    }
}

impl Ring {
    fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from {
            to - from
        } else {
            to + self.entries - from
        }
    }

    fn used(&self) -> u32 {
        self.distance(self.head, self.tail)
    }

    /// One slot stays empty, so that a full ring differs from an empty one.
    fn free(&self) -> u32 {
        (self.entries - 1).saturating_sub(self.used() + self.reserved)
    }

    fn write_run(&self, memory: &GuestMemory, answers: &[Answer]) -> Result<(), MemoryError> {
        let at = GuestAddress(
            self.base
                .wrapping_add(u64::from(self.tail) * CQE_BYTES as u64),
        );
        let length = answers.len() * CQE_BYTES;
        let slots = memory.writable_slice(at, length as u64)?;
        let unmapped = |_| MemoryError::Unmapped {
            at: at.0,
            length: length as u64,
        };
        for (index, answer) in answers.iter().enumerate() {
            let words = answer.words(self.phase);
            let offset = index * CQE_BYTES;
            let body = slots.subslice(offset, CQE_BYTES - 4).map_err(unmapped)?;
            body.copy_from(&words[..3]);
            // The word with the phase comes last: a polling guest then finds the rest in place.
            std::sync::atomic::fence(Ordering::Release);
            let last = slots
                .subslice(offset + CQE_BYTES - 4, 4)
                .map_err(unmapped)?;
            last.copy_from(&words[3..]);
        }
        memory.note_write(at, length as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::status::Status;

    fn answers(count: u16) -> Vec<Answer> {
        (0..count)
            .map(|command| Answer {
                result: 0,
                queue: 1,
                queue_head: 0,
                command,
                status: Status::SUCCESS,
            })
            .collect()
    }

    fn entry(memory: &GuestMemory, index: u64) -> u32 {
        memory
            .read_value(GuestAddress(0x1000 + index * 16 + 12))
            .unwrap()
    }

    #[test]
    fn the_phase_turns_at_the_end_of_the_ring() {
        let memory = GuestMemory::flat(0x2000).unwrap();
        let queue = CompletionQueue::new(1);
        queue.create(0x1000, 4, Some(9));
        assert_eq!(queue.reserve(&memory, 8), 3);
        assert_eq!(queue.post(&memory, &answers(3)).unwrap(), Some(9));
        assert_eq!(queue.reserve(&memory, 1), 0);
        assert!(queue.head_moved(3));
        assert_eq!(queue.reserve(&memory, 2), 2);
        queue.post(&memory, &answers(2)).unwrap();
        assert_eq!(entry(&memory, 3), 0x0001_0000);
        assert_eq!(entry(&memory, 0), 0x0000_0001);
    }

    #[test]
    fn a_head_past_the_tail_frees_nothing() {
        let memory = GuestMemory::flat(0x2000).unwrap();
        let queue = CompletionQueue::new(1);
        queue.create(0x1000, 4, None);
        assert_eq!(queue.reserve(&memory, 3), 3);
        queue.head_moved(2);
        assert_eq!(queue.reserve(&memory, 1), 0);
        queue.release(1);
        assert_eq!(queue.reserve(&memory, 3), 1);
    }

    #[test]
    fn a_starved_queue_asks_for_a_ring_of_its_head() {
        let memory = GuestMemory::flat(0x4000).unwrap();
        let queue = CompletionQueue::new(2);
        queue.create(0x1000, 2, None);
        let pages = Pages {
            shadows: 0x2000,
            event_indexes: 0x3000,
        };
        queue.shadow_doorbell(&memory, pages);
        assert_eq!(queue.reserve(&memory, 1), 1);
        queue.post(&memory, &answers(1)).unwrap();
        assert_eq!(queue.reserve(&memory, 1), 0);
        assert_eq!(memory.read_value::<u32>(GuestAddress(0x3014)).unwrap(), 0);
        memory.write_value(GuestAddress(0x2014), 1u32).unwrap();
        assert!(queue.head_moved(1));
        assert_eq!(queue.reserve(&memory, 1), 1);
    }
}
