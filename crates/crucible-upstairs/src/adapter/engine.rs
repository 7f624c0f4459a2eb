//! One queue of a disk: parts that begin as there is room, answers that end them, the flushes that durable writes need,
//! and the time after which a guest waits no longer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use block::request::{Operation, Outcome, Request as DiskRequest, Segment, Token};
use block::{Batch, Completion, Engine, EngineSetup};
use vm_types::{Clock, Execution, GuestMemory, Moment, Span};

use super::inbox::Inbox;
use super::request::{Owner, Part, Slot, parts_of};
use super::{Ended, VolumeDisk, outcome_of};
use crate::core::{Answer, Request};
use crate::store::{self, Ask, Shape, Submission};
use crate::volume::Volume;

/// While other queues have all the room, this often is looked for some.
const LOOK_EVERY: Span = Span::from_millis(1);

/// One queue's way to the volume.
pub(super) struct VolumeEngine {
    volume: Volume,
    shape: Shape,
    ended: Arc<Ended>,
    clock: Clock,
    inline: bool,
    inbox: Arc<Inbox>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Parts that wait for room, first come, first served.
    waiting: VecDeque<Part>,
    /// Writes that are there, and must be durable before they are answered: one flush serves all of a turn.
    unflushed: Vec<usize>,
    /// Flushes of that kind under way, and whom each serves; kept for their room.
    flushes: Vec<Vec<usize>>,
    limit: Option<Span>,
    /// With a limit: which requests began when, in that order; those that have ended go when they are first.
    begun: VecDeque<(Moment, usize, Token)>,
    batch: Vec<Submission>,
    arrived: Vec<(u64, store::Outcome)>,
    memory: Option<GuestMemory>,
}

impl VolumeEngine {
    pub(super) fn new(disk: &VolumeDisk, setup: EngineSetup) -> Self {
        let inline = setup.execution == Execution::Inline;
        Self {
            volume: disk.volume.clone(),
            shape: disk.shape,
            ended: disk.ended.clone(),
            clock: setup.clock,
            inline,
            inbox: Arc::new(Inbox::new(setup.doorbell, inline)),
            slots: Vec::with_capacity(setup.depth as usize),
            free: Vec::new(),
            waiting: VecDeque::new(),
            unflushed: Vec::new(),
            flushes: Vec::new(),
            limit: disk.limit,
            begun: VecDeque::new(),
            batch: Vec::new(),
            arrived: Vec::new(),
            memory: None,
        }
    }

    /// Enters a request and its parts, which wait for [`VolumeEngine::start`].
    fn enter(&mut self, request: &DiskRequest, segments: &[Segment]) {
        let parts = parts_of(request, self.shape.encrypted);
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Slot::default());
        }
        if let Some(place) = self.slots.get_mut(slot) {
            place.begin(request, segments, parts);
        }
        if self.limit.is_some() {
            self.begun
                .push_back((self.clock.now(), slot, request.token));
        }
        let owner = Owner::Slot(slot);
        if parts == 0 {
            self.arrived.push((owner.tag(0), Ok(Answer::Written)));
        }
        let parts = (0..parts).map(|number| Part::new(owner, request, number));
        self.waiting.extend(parts);
    }

    /// Submits parts while there is room.
    fn start(&mut self) {
        while let Some(part) = self.waiting.front() {
            let Some(permit) = self.volume.try_permit(part.length as usize) else {
                break;
            };
            let Some(part) = self.waiting.pop_front() else {
                break;
            };
            let tag = part.tag();
            match self.ask(&part) {
                Ok(request) => self.batch.push(Submission {
                    ask: Ask::Request(request),
                    reply: permit.reply(self.inbox.clone(), tag),
                }),
                Err(outcome) => {
                    if let Owner::Slot(slot) = part.owner
                        && let Some(slot) = self.slots.get_mut(slot)
                    {
                        slot.failed = slot.failed.or(Some(outcome));
                    }
                    self.arrived.push((tag, Ok(Answer::Written)));
                }
            }
        }
        if !self.batch.is_empty() {
            self.volume.submit(&mut self.batch);
        }
    }

    fn ask(&self, part: &Part) -> Result<Request, Outcome> {
        match part.owner {
            Owner::Slot(slot) => {
                let slot = self.slots.get(slot).ok_or(Outcome::Abandoned)?;
                slot.ask(part, self.shape.block_size, self.memory.as_ref())
            }
            Owner::Flush(_) => Ok(Request::Flush { snapshot: None }),
        }
    }

    /// Takes answers; finished requests go to `done`.
    fn collect(&mut self, done: &mut Vec<Completion>) {
        loop {
            let mut arrived = std::mem::take(&mut self.arrived);
            self.inbox.take(&mut arrived);
            if arrived.is_empty() {
                self.arrived = arrived;
                return;
            }
            for (tag, outcome) in arrived.drain(..) {
                match Owner::of(tag) {
                    Owner::Slot(slot) => self.part_done(slot, tag, outcome, done),
                    Owner::Flush(flush) => self.flush_done(flush, &outcome, done),
                }
            }
            if self.arrived.is_empty() {
                // Its room is of use again.
                self.arrived = arrived;
            }
            self.flush_what_must_be_durable();
            // Parts may have found room.
            self.start();
        }
    }

    fn part_done(
        &mut self,
        number: usize,
        tag: u64,
        outcome: store::Outcome,
        done: &mut Vec<Completion>,
    ) {
        let Some(slot) = self.slots.get_mut(number) else {
            return;
        };
        let at = Owner::part_at(tag);
        slot.left = slot.left.saturating_sub(1);
        let moved = match outcome {
            // Nobody waits any more, and the memory is the guest's again.
            _ if slot.token.is_none() => Ok(()),
            Ok(Answer::Read(plain)) => slot.deliver(at, &plain.data, self.memory.as_ref()),
            Ok(_) => Ok(()),
            Err(error) => {
                self.ended.look_at(&error);
                Err(outcome_of(&error, slot.operation))
            }
        };
        if let Err(outcome) = moved {
            slot.failed = slot.failed.or(Some(outcome));
        }
        if slot.left > 0 {
            return;
        }
        if slot.durable && slot.failed.is_none() && slot.token.is_some() {
            slot.left = 1;
            self.unflushed.push(number);
        } else {
            self.finish(number, done);
        }
    }

    /// One flush for all writes that came to their end in this turn and must be durable.
    fn flush_what_must_be_durable(&mut self) {
        if self.unflushed.is_empty() {
            return;
        }
        let free = self.flushes.iter().position(Vec::is_empty);
        let flush = free.unwrap_or(self.flushes.len());
        if flush == self.flushes.len() {
            self.flushes.push(Vec::new());
        }
        if let Some(members) = self.flushes.get_mut(flush) {
            members.append(&mut self.unflushed);
        }
        // Before all others: nothing of these requests is left to wait for.
        self.waiting.push_front(Part::flush(Owner::Flush(flush)));
    }

    fn flush_done(&mut self, flush: usize, outcome: &store::Outcome, done: &mut Vec<Completion>) {
        let failed = outcome.as_ref().err().map(|error| {
            self.ended.look_at(error);
            outcome_of(error, Operation::Flush)
        });
        let Some(members) = self.flushes.get_mut(flush) else {
            return;
        };
        let mut members = std::mem::take(members);
        for number in members.drain(..) {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.left = 0;
                slot.failed = slot.failed.or(failed);
            }
            self.finish(number, done);
        }
        if let Some(place) = self.flushes.get_mut(flush) {
            *place = members;
        }
    }

    /// All of a slot has come to its end: it is answered, if anybody waits, and free.
    fn finish(&mut self, number: usize, done: &mut Vec<Completion>) {
        let Some(slot) = self.slots.get_mut(number) else {
            return;
        };
        if let Some(token) = slot.token.take() {
            let outcome = slot.failed.unwrap_or(Outcome::Ok);
            done.push(Completion { token, outcome });
        }
        self.free.push(number);
    }

    /// Ends requests that have waited too long, and forgets those that came to their end before.
    fn expire(&mut self, done: &mut Vec<Completion>) {
        let Some(limit) = self.limit else { return };
        while let Some(&(began, number, token)) = self.begun.front() {
            let slot = self.slots.get_mut(number);
            if let Some(slot) = slot.filter(|slot| slot.token == Some(token)) {
                if self.clock.now().since(began) < limit {
                    return;
                }
                tracing::warn!(
                    disk = self.ended.name,
                    operation = ?slot.operation,
                    offset = slot.offset,
                    seconds = limit.as_nanos() / 1_000_000_000,
                    "no answer in time; the guest may try again"
                );
                slot.token = None;
                let outcome = Outcome::Retry;
                done.push(Completion { token, outcome });
                // What has not begun never will: the memory is the guest's again.
                let waiting = self.waiting.len();
                self.waiting
                    .retain(|part| !matches!(part.owner, Owner::Slot(it) if it == number));
                slot.left -= ((waiting - self.waiting.len()) as u64).min(slot.left);
                if slot.left == 0 {
                    self.free.push(number);
                }
            }
            self.begun.pop_front();
        }
    }

    /// Inline: all answers, before the guest goes on. Waits as long as the volume takes.
    fn wait_for_all(&mut self, done: &mut Vec<Completion>) {
        loop {
            self.collect(done);
            if self.free.len() == self.slots.len() {
                return;
            }
            self.start();
            self.inbox.wait();
        }
    }
}

impl Engine for VolumeEngine {
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, done: &mut Vec<Completion>) {
        if self.memory.is_none() {
            self.memory = Some(memory.clone());
        }
        for request in &batch.requests {
            self.enter(request, batch.segments_of(request));
            if self.inline {
                // One by one, so that two runs are alike.
                self.start();
                self.wait_for_all(done);
            }
        }
        self.start();
        self.collect(done);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.collect(done);
        self.expire(done);
        self.start();
    }

    fn give_up(&mut self, done: &mut Vec<Completion>) {
        self.collect(done);
        for slot in &mut self.slots {
            let abandoned = |token| Completion {
                token,
                outcome: Outcome::Abandoned,
            };
            done.extend(slot.token.take().map(abandoned));
        }
        // What has not begun never will; what has begun keeps its slot until its answers have come.
        for part in std::mem::take(&mut self.waiting) {
            match part.owner {
                Owner::Slot(number) => {
                    if let Some(slot) = self.slots.get_mut(number) {
                        slot.left = slot.left.saturating_sub(1);
                        if slot.left == 0 {
                            self.free.push(number);
                        }
                    }
                }
                Owner::Flush(flush) => self.flush_done(flush, &Ok(Answer::Flushed), done),
            }
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let look = (!self.waiting.is_empty()).then(|| self.clock.now().after(LOOK_EVERY));
        let late = self
            .limit
            .and_then(|limit| Some(self.begun.front()?.0.after(limit)));
        match (look, late) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl fmt::Debug for VolumeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeEngine")
            .field("shape", &self.shape)
            .field("in_flight", &(self.slots.len() - self.free.len()))
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
