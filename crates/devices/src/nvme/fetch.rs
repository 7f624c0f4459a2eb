//! What an I/O submission queue has under its lock: the ring, the commands at the disk, and the steps of
//! fetching, unfolding and answering them.

use block::{Batch, Completion, Operation, Outcome, Request, Token};
use vm_types::{GuestAddress, GuestMemory, MemoryError};

use super::command::{Answer, Command, SQE_BYTES};
use super::dbbuf::{Register, Shadow, poll};
use super::io::{Range, Work, decode};
use super::shared::{Failure, Shared};
use super::status::Status;
use super::submission::{Notes, SubmissionQueue};

/// Commands read from the ring in one piece.
const CHUNK: usize = 16;
/// Commands looked at in one fetch, so that a guest that keeps a queue full of nonsense is not served
/// for ever in one call.
const FETCH_MAX: u32 = 1024;
/// Entries that an Abort looks at; a command further back is simply not aborted.
const ABORT_LOOKS_AT: u32 = 1024;
/// Aborted commands that may wait to be passed over.
const ABORTED_MAX: usize = 64;
/// The slot of tokens for our own flush.
const OWN_FLUSH: u32 = u32::MAX;

/// The state of a queue's place, locked.
pub(super) struct Inner {
    pub(super) life: Life,
    pub(super) ring: Option<Ring>,
    pub(super) generation: u32,
    /// Requests of this life that the disk has.
    pub(super) in_flight: u32,
    /// Requests of earlier lives that the disk still has.
    pub(super) stale: u32,
    /// Somebody waits for `stale` to become zero.
    pub(super) reset_waits: bool,
    pub(super) slots: Box<[Slot]>,
    pub(super) free: Vec<u32>,
    /// A fetch found no free slot.
    pub(super) short_of_slots: bool,
    /// A command that became several requests, not all of them fetched yet.
    pub(super) unfolding: Option<Unfolding>,
    pub(super) ranges: Vec<Range>,
    /// Ring positions of commands that were aborted, and answered, before they were fetched.
    pub(super) aborted: Vec<u32>,
    pub(super) own_flush_wanted: bool,
    pub(super) answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Absent,
    Live,
    Deleting,
}

/// What Create I/O Submission Queue said, and where we stand.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Ring {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) completion_queue: u16,
    pub(super) shadow: Option<Shadow>,
}

/// A command that the disk works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) command: u16,
    pub(super) opcode: u8,
    /// Requests of it that are not answered yet, those not yet fetched included.
    pub(super) pending: u16,
    pub(super) status: Status,
    pub(super) block: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Unfolding {
    pub(super) slot: u32,
    pub(super) next: usize,
}

impl Inner {
    /// An empty place with room for `depth` commands at the disk.
    pub(super) fn new(depth: u32) -> Self {
        let slot = Slot {
            command: 0,
            opcode: 0,
            pending: 0,
            status: Status::SUCCESS,
            block: 0,
            bytes: 0,
        };
        Self {
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
        }
    }

    /// Fetches commands until the batch holds `limit` requests or nothing more can be taken. Returns
    /// whether it stopped for having looked at enough.
    pub(super) fn fetch(
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
    pub(super) fn waiting(&mut self, queue: &SubmissionQueue, room: usize) -> Option<(u32, usize)> {
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
    pub(super) fn take(
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

    pub(super) fn advance(&mut self, position: u32) {
        if let Some(ring) = self.ring.as_mut() {
            ring.head = (position + 1) % ring.entries;
        }
    }

    /// Turns one command into requests, or answers it.
    pub(super) fn begin(
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

    pub(super) fn open_slot(&mut self, command: &Command, pending: u16, bytes: u64) -> Option<u32> {
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
    pub(super) fn unfold(&mut self, unfolding: Unfolding, limit: usize, batch: &mut Batch) {
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

    pub(super) fn push_own_flush(&mut self, batch: &mut Batch) {
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

    pub(super) fn token(&self, slot: u32) -> Token {
        Token {
            slot,
            generation: self.generation,
        }
    }

    /// One request has been answered.
    pub(super) fn finish(
        &mut self,
        queue: &SubmissionQueue,
        completion: &Completion,
        notes: &mut Notes,
    ) {
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
            slot.status = match (self.life, completion.outcome) {
                (Life::Deleting, Outcome::Abandoned) => Status::ABORTED_QUEUE_DELETED,
                (_, outcome) => Status::of(outcome),
            };
        }
        if slot.pending == 0 {
            self.answer(queue, token.slot, notes);
        }
    }

    /// All of a command's requests have been answered: so is the command, and its slot is free.
    pub(super) fn answer(&mut self, queue: &SubmissionQueue, index: u32, notes: &mut Notes) {
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

    pub(super) fn push_answer(&mut self, queue: u16, command: u16, status: Status) {
        self.answers.push(Answer {
            result: 0,
            queue,
            queue_head: 0,
            command,
            status,
        });
    }

    /// Posts the answers that have come together; returns the vector to fire.
    pub(super) fn post(&mut self, shared: &Shared, notes: &mut Notes) -> Option<u16> {
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
    pub(super) fn find_waiting(&mut self, queue: &SubmissionQueue, id: u16) -> Option<u32> {
        if self.life != Life::Live || self.aborted.len() >= ABORTED_MAX {
            return None;
        }
        let memory = &queue.shared.memory;
        let ring = self.ring.as_mut()?;
        ring.look_at_tail(memory, &queue.register);
        let mut position = ring.head;
        for _ in 0..ABORT_LOOKS_AT {
            if position == ring.tail {
                break;
            }
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
    pub(super) fn look_at_tail(&mut self, memory: &GuestMemory, register: &Register) {
        let last = self.tail as u16;
        let tail = u32::from(poll(self.shadow.as_mut(), memory, register, last));
        if tail < self.entries {
            self.tail = tail;
        }
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
