//! A volume as a disk for devices and exports: a [`block::Backend`].
//!
//! The queue's worker copies guest bytes into the buffer that they are sealed in and sent from, and hands whole
//! batches over; answers gather until the worker is rung, once a turn. Requests are cut into parts of [`PART_BYTES`],
//! which wait here, uncopied, while the volume has no room.
//!
//! Discard is advice. Plain blocks take it as zeroes, which region servers keep as holes. Sealed blocks do not: sealed
//! zeroes are bytes like all others, so the answer is "done" and nothing is.
//!
//! A guest that resets its device is not held up by region servers that are away: nothing outside of this file refers
//! to its memory, so what is under way can be let go at any time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use block::request::{Operation, Outcome, Request as DiskRequest, Segment, Token};
use block::{Backend, Batch, Completion, DiskInfo, Doorbell, Engine, EngineSetup};
use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use vm_types::{Clock, Execution, GuestMemory, Moment, Span};

use crate::core::{Answer, Request, VolumeError};
use crate::store::{self, Ask, Shape, Sink, Submission};
use crate::volume::Volume;

/// Largest part that a request is cut into. Parts are sealed and sent side by side.
const PART_BYTES: u64 = 1 << 20;
/// A longer range is not discarded: writing its zeroes would hold the guest up for longer than the space is worth.
const DISCARD_MAX: u64 = 128 << 20;
/// While other queues have all the room, this often is looked for some.
const LOOK_EVERY: Span = Span::from_millis(1);
/// Inline, the guest's thread waits for its answers; it looks again this often.
const WAIT_INLINE: Duration = Duration::from_secs(1);

/// An active volume as a disk. Size and block size are those of its activation.
#[derive(Debug)]
pub struct VolumeDisk {
    volume: Volume,
    shape: Shape,
    limit: Option<Span>,
    ended: Arc<Ended>,
}

/// Whether the volume has ended under the disk: a thing to be said once, whichever queue notices.
#[derive(Debug)]
struct Ended {
    name: String,
    said: AtomicBool,
}

impl VolumeDisk {
    /// A disk over `volume`, which has been activated. `None`: it has not, and nothing says how large it is.
    pub fn new(volume: Volume) -> Option<Self> {
        Self::named("volume", volume)
    }

    /// The same, with a name for logs.
    pub fn named(name: &str, volume: Volume) -> Option<Self> {
        let shape = volume.shape()?;
        let ended = Arc::new(Ended {
            name: name.to_owned(),
            said: AtomicBool::new(false),
        });
        Some(Self {
            volume,
            shape,
            limit: None,
            ended,
        })
    }

    /// The same, where the guest hears "try again" of every request that has no answer after `limit`, whatever the
    /// volume does meanwhile.
    #[must_use]
    pub fn with_limit(mut self, limit: Span) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl Backend for VolumeDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            read_only: self.shape.read_only,
            discard: true,
            write_zeroes: true,
            volatile_cache: true,
            ..DiskInfo::new(self.shape.block_size, self.shape.bytes())
        }
    }

    fn engine(&self, setup: EngineSetup) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(VolumeEngine::new(self, setup)))
    }
}

/// One queue's way to the volume.
struct VolumeEngine {
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

/// A request that is under way, or was, and has parts under way still.
struct Slot {
    /// `None`: the request has been answered, or given up.
    token: Option<Token>,
    operation: Operation,
    offset: u64,
    durable: bool,
    /// Keeps its room from request to request.
    segments: Vec<Segment>,
    /// Parts without an answer, those that wait included.
    left: u64,
    failed: Option<Outcome>,
}

/// One part of a request, or a flush that makes several requests durable.
struct Part {
    owner: Owner,
    /// Bytes from the beginning of the request.
    at: u64,
    /// In bytes; 0 is a flush.
    length: u64,
}

/// Whose answer it will be.
#[derive(Clone, Copy)]
enum Owner {
    Slot(usize),
    /// Of `flushes`.
    Flush(usize),
}

impl Owner {
    /// In a tag: set for [`Owner::Flush`].
    const FLUSH: u64 = 1 << 63;

    /// For the answer; `number` is that of the part.
    fn tag(self, number: u64) -> u64 {
        match self {
            Self::Slot(slot) => (slot as u64) << PART_BITS | number,
            Self::Flush(flush) => Self::FLUSH | (flush as u64) << PART_BITS,
        }
    }

    fn of(tag: u64) -> Self {
        let number = ((tag & !Self::FLUSH) >> PART_BITS) as usize;
        if tag & Self::FLUSH == 0 {
            Self::Slot(number)
        } else {
            Self::Flush(number)
        }
    }
}

/// Answers, until the worker comes for them. A tag holds the slot, above, and the number of the part.
struct Inbox {
    answers: Mutex<Vec<(u64, store::Outcome)>>,
    doorbell: Arc<Doorbell>,
    /// For a guest's thread that waits for its answers.
    inline: Option<Condvar>,
}

const PART_BITS: u32 = 32;

impl Sink for Inbox {
    fn complete(&self, tag: u64, outcome: store::Outcome) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((tag, outcome));
    }

    fn rest(&self) {
        match &self.inline {
            Some(arrived) => arrived.notify_all(),
            None => self.doorbell.ring(),
        }
    }
}

impl VolumeEngine {
    fn new(disk: &VolumeDisk, setup: EngineSetup) -> Self {
        let inline = setup.execution == Execution::Inline;
        Self {
            volume: disk.volume.clone(),
            shape: disk.shape,
            ended: disk.ended.clone(),
            clock: setup.clock,
            inline,
            inbox: Arc::new(Inbox {
                answers: Mutex::default(),
                doorbell: setup.doorbell,
                inline: inline.then(Condvar::new),
            }),
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
        let flush = request.operation == Operation::Flush;
        let declined = request.operation == Operation::Discard
            && (self.shape.encrypted || request.length > DISCARD_MAX);
        let parts = match (flush, declined) {
            (true, _) => 1,
            (_, true) => 0,
            _ => request.length.div_ceil(PART_BYTES),
        };
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Slot::default());
        }
        if let Some(place) = self.slots.get_mut(slot) {
            place.token = Some(request.token);
            place.operation = request.operation;
            place.offset = request.offset;
            place.durable = request.durable && !declined;
            place.segments.clear();
            place.segments.extend_from_slice(segments);
            // Without a part there is one answer all the same, by the same way as all others.
            place.left = parts.max(1);
            place.failed = None;
        }
        if self.limit.is_some() {
            self.begun
                .push_back((self.clock.now(), slot, request.token));
        }
        if parts == 0 {
            self.arrived
                .push((Owner::Slot(slot).tag(0), Ok(Answer::Written)));
        }
        for number in 0..parts {
            let at = number * PART_BYTES;
            let length = if flush {
                0
            } else {
                PART_BYTES.min(request.length - at)
            };
            let owner = Owner::Slot(slot);
            self.waiting.push_back(Part { owner, at, length });
        }
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
            let tag = part.owner.tag(part.at / PART_BYTES);
            match self.request_of(&part) {
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

    fn request_of(&self, part: &Part) -> Result<Request, Outcome> {
        let slot = match part.owner {
            Owner::Slot(slot) if part.length > 0 => self.slots.get(slot),
            _ => return Ok(Request::Flush { snapshot: None }),
        };
        let slot = slot.ok_or(Outcome::Abandoned)?;
        let size = u64::from(self.shape.block_size);
        let start = BlockIndex((slot.offset + part.at) / size);
        let count = part.length / size;
        match slot.operation {
            Operation::Read | Operation::Compare | Operation::Verify => {
                Ok(Request::Read { start, count })
            }
            Operation::Discard | Operation::WriteZeroes { .. } => Ok(Request::Write {
                start,
                data: BytesMut::zeroed(part.length as usize),
            }),
            Operation::Write => {
                let mut data = BytesMut::zeroed(part.length as usize);
                let memory = self.memory.as_ref().ok_or(Outcome::GuestMemory)?;
                let mut done = 0;
                for piece in pieces(&slot.segments, part.at, part.length) {
                    let piece = piece?;
                    let end = done + piece.length as usize;
                    let into = data.get_mut(done..end).ok_or(Outcome::GuestMemory)?;
                    memory
                        .read(piece.address, into)
                        .map_err(|_| Outcome::GuestMemory)?;
                    done = end;
                }
                Ok(Request::Write { start, data })
            }
            Operation::Flush => Ok(Request::Flush { snapshot: None }),
        }
    }

    /// Takes answers; finished requests go to `done`.
    fn collect(&mut self, done: &mut Vec<Completion>) {
        loop {
            let mut arrived = std::mem::take(&mut self.arrived);
            {
                let answers = self.inbox.answers.lock();
                arrived.append(&mut answers.unwrap_or_else(PoisonError::into_inner));
            }
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
        let at = (tag & u64::from(u32::MAX)) * PART_BYTES;
        slot.left = slot.left.saturating_sub(1);
        let moved = match outcome {
            // Nobody waits any more, and the memory is the guest's again.
            _ if slot.token.is_none() => Ok(()),
            Ok(Answer::Read(plain)) => deliver(self.memory.as_ref(), slot, at, &plain.data),
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
        self.waiting.push_front(Part {
            owner: Owner::Flush(flush),
            at: 0,
            length: 0,
        });
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
            if let Some(arrived) = &self.inbox.inline {
                let answers = self.inbox.answers.lock();
                let answers = answers.unwrap_or_else(PoisonError::into_inner);
                if answers.is_empty() {
                    // Waking early is allowed.
                    let waited = arrived.wait_timeout(answers, WAIT_INLINE);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
            }
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

impl Default for Slot {
    fn default() -> Self {
        Self {
            token: None,
            operation: Operation::Flush,
            offset: 0,
            durable: false,
            segments: Vec::new(),
            left: 0,
            failed: None,
        }
    }
}

/// Puts what was read where it belongs.
fn deliver(memory: Option<&GuestMemory>, slot: &Slot, at: u64, data: &[u8]) -> Result<(), Outcome> {
    let compare = match slot.operation {
        Operation::Read => false,
        Operation::Compare => true,
        _ => return Ok(()),
    };
    let memory = memory.ok_or(Outcome::GuestMemory)?;
    let mut done = 0;
    let mut guest = Vec::new();
    for piece in pieces(&slot.segments, at, data.len() as u64) {
        let piece = piece?;
        let end = done + piece.length as usize;
        let from = data.get(done..end).ok_or(Outcome::ReadFailed)?;
        if compare {
            guest.resize(from.len(), 0);
            memory
                .read(piece.address, &mut guest)
                .map_err(|_| Outcome::GuestMemory)?;
            if guest != from {
                return Err(Outcome::Miscompare);
            }
        } else {
            memory
                .write(piece.address, from)
                .map_err(|_| Outcome::GuestMemory)?;
        }
        done = end;
    }
    Ok(())
}

/// The guest memory that bytes `at..at + length` of a request lie in.
fn pieces(
    segments: &[Segment],
    at: u64,
    length: u64,
) -> impl Iterator<Item = Result<Segment, Outcome>> + '_ {
    let end = at.saturating_add(length);
    let mut begin = 0_u64;
    segments.iter().filter_map(move |segment| {
        let (first, last) = (begin, begin + u64::from(segment.length));
        begin = last;
        let (from, to) = (first.max(at), last.min(end));
        (from < to).then(|| {
            let address = segment.address.0.checked_add(from - first);
            Ok(Segment {
                address: vm_types::GuestAddress(address.ok_or(Outcome::GuestMemory)?),
                length: (to - from) as u32,
            })
        })
    })
}

impl Ended {
    fn look_at(&self, error: &VolumeError) {
        if matches!(
            error,
            VolumeError::Stopped(_) | VolumeError::TakenOver { .. }
        ) && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                disk = self.name,
                %error,
                "this disk has ended; every request of the guest fails from now on"
            );
        }
    }
}

/// What a guest learns of an error.
fn outcome_of(error: &VolumeError, operation: Operation) -> Outcome {
    match error {
        VolumeError::ReadOnly => Outcome::ReadOnly,
        VolumeError::OutOfRange { .. } | VolumeError::NotWholeBlocks { .. } => Outcome::OutOfRange,
        // Region servers may come back.
        error if error.is_transient() => Outcome::Retry,
        _ if matches!(
            operation,
            Operation::Read | Operation::Compare | Operation::Verify
        ) =>
        {
            Outcome::ReadFailed
        }
        _ => Outcome::WriteFailed,
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
