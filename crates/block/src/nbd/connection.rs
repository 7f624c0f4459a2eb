//! One client: a thread that reads its requests, and the queue through which the disk carries them out.
//!
//! The reader takes memory for each request, receives its payload there and rings the disk. The disk's
//! worker fetches, and sends the replies of a whole batch with one system call. So a connection costs two
//! threads, and a client that does not read its replies holds up nobody but itself.
//!
//! Locks, in this order: `writer`, `state`. Neither is held while the disk works; `writer` is held while
//! replies are sent.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use vm_types::{Execution, GuestMemory, GuestSlice};

use crate::attach::{AttachOptions, Attachment};
use crate::disk::Disk;
use crate::request::{Batch, Completion, Operation, Request, Segment, Source, Token};

use super::arena::{Arena, Run};
use super::facts::Facts;
use super::handshake::{Agreed, Handshake, Progress};
use super::inbox::Inbox;
use super::request::{Incoming, Order, Refusal, errno, failure, parse, success};
use super::socket::Socket;
use super::wire::{Errno, REQUEST_BYTES};

/// A handshake must come to its end within this time.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// Longest part of a request without data that the disk gets at once, in bytes.
const RANGE_PART: u64 = 32 << 20;

/// What is the same for all connections of an export.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Disk,
    pub(super) facts: Facts,
    /// Most requests of one connection that wait or are in flight.
    pub(super) depth: u32,
    /// How long requests in flight may take when a connection ends.
    pub(super) drain_within: Duration,
}

impl Shared {
    /// Longest part of a transfer that the disk gets at once, in bytes.
    fn transfer_part(&self) -> u64 {
        let unit = u64::from(self.facts.block_size);
        let most = u64::from(self.disk.info().max_transfer);
        (most - most % unit).max(unit)
    }
}

/// One client's connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    socket: Socket,
    memory: GuestMemory,
    transfer_part: u64,
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// A slot has become free, or the connection is to end.
    changed: Condvar,
    /// From the end of the handshake on.
    queue: OnceLock<Attachment>,
}

/// Replies on their way out.
#[derive(Debug, Default)]
struct Writer {
    agreed: Agreed,
    heads: Vec<u8>,
    finished: Vec<u32>,
    /// The client does not take replies any more.
    broken: bool,
}

/// The requests of a connection.
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    arena: Arena,
    /// Slots with parts that the disk has not fetched, oldest first.
    waiting: VecDeque<u32>,
    /// The reader waits for a slot or for memory.
    short: bool,
    stopping: bool,
}

/// One request between its arrival and its reply.
#[derive(Clone, Copy, Debug)]
struct Slot {
    order: Order,
    run: Run,
    /// The range on the disk.
    start: u64,
    length: u64,
    /// Bytes of it that have been fetched.
    fetched: u64,
    /// Parts that the disk has at the moment.
    parts: u32,
    /// A flush comes after all parts: for durable requests that cannot be durable by themselves.
    flush: bool,
    failed: Option<Errno>,
}

impl State {
    /// A slot and memory for `order`.
    fn admit(&mut self, order: &Order, facts: &Facts) -> Option<u32> {
        let (start, length) = order.range(facts);
        let index = *self.free.last()?;
        let slot = self.slots.get_mut(index as usize)?;
        let run = self.arena.take(if order.carries() { length } else { 0 })?;
        self.free.pop();
        *slot = Slot {
            order: *order,
            run,
            start,
            length,
            fetched: 0,
            parts: 0,
            flush: match order.operation {
                Operation::Flush => true,
                Operation::Discard => order.durable,
                _ => false,
            },
            failed: None,
        };
        Some(index)
    }

    fn release(&mut self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            self.arena.give(slot.run);
            self.free.push(index);
        }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl Connection {
    /// A connection over `socket`. Errors: no memory.
    pub(super) fn new(shared: Arc<Shared>, socket: Socket) -> std::io::Result<Self> {
        // The longest request, not aligned at either end.
        let room = u64::from(shared.facts.request_max) + 2 * u64::from(shared.facts.block_size);
        let (memory, arena) = Arena::new(room).map_err(std::io::Error::other)?;
        let vacant = Slot {
            order: Order {
                operation: Operation::Flush,
                cookie: 0,
                offset: 0,
                length: 0,
                durable: false,
            },
            run: Run::default(),
            start: 0,
            length: 0,
            fetched: 0,
            parts: 0,
            flush: false,
            failed: None,
        };
        let depth = shared.depth;
        Ok(Self {
            transfer_part: shared.transfer_part(),
            shared,
            socket,
            memory,
            writer: Mutex::default(),
            state: Mutex::new(State {
                slots: vec![vacant; depth as usize],
                free: (0..depth).rev().collect(),
                arena,
                waiting: VecDeque::with_capacity(depth as usize),
                short: false,
                stopping: false,
            }),
            changed: Condvar::new(),
            queue: OnceLock::new(),
        })
    }

    /// Lets what is in flight come to its end, takes nothing more. Returns at once.
    pub(super) fn begin_stop(&self) {
        self.lock_state().stopping = true;
        self.changed.notify_all();
        self.socket.shutdown(Shutdown::Read);
    }

    /// The connection's life, on its thread. `name` is for the thread of its queue.
    pub(super) fn serve(self: &Arc<Self>, name: &str) -> std::io::Result<()> {
        let mut inbox = Inbox::new();
        let served = self.greet(&mut inbox).and_then(|agreed| match agreed {
            None => Ok(()),
            Some(agreed) => {
                self.lock_writer().agreed = agreed;
                self.transmit(name, &mut inbox)
            }
        });
        self.socket.shutdown(Shutdown::Both);
        served
    }

    /// The handshake; `None` if the client goes without having chosen the export.
    fn greet(&self, inbox: &mut Inbox) -> std::io::Result<Option<Agreed>> {
        let begin = Instant::now();
        let mut out = Vec::new();
        let mut handshake = Handshake::new(&mut out);
        let mut progress = Progress::Haggling;
        // Who asks for much and takes no answer does not keep the place of others.
        self.socket.set_write_timeout(Some(HANDSHAKE_WITHIN))?;
        loop {
            self.socket.write(&out, &[])?;
            out.clear();
            match progress {
                Progress::Ready(agreed) => {
                    self.socket.set_read_timeout(None)?;
                    self.socket.set_write_timeout(None)?;
                    return Ok(Some(agreed));
                }
                Progress::Over => return Ok(None),
                Progress::Haggling => {}
            }
            let left = HANDSHAKE_WITHIN.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            if !inbox.fill(&self.socket)? {
                return Ok(None);
            }
            let facts = &self.shared.facts;
            let (taken, next) = handshake.advance(facts, inbox.bytes(), &mut out);
            inbox.consume(taken);
            progress = next;
        }
    }

    /// Requests and replies.
    fn transmit(self: &Arc<Self>, name: &str, inbox: &mut Inbox) -> std::io::Result<()> {
        let source: Weak<Self> = Arc::downgrade(self);
        let mut options = AttachOptions::new(name, Execution::Threads, self.shared.depth);
        options.detach_within = Duration::from_secs(1);
        let queue = self.shared.disk.attach(source, options)?;
        let queue = self.queue.get_or_init(|| queue);
        let read = self.read(queue, inbox);
        queue.kick();
        self.drain();
        queue.detach();
        read
    }

    /// Waits for what is in flight. A client that does not take its replies holds that up for
    /// `drain_within` at most. A disk that hangs does so until the export stops: meanwhile the connection
    /// counts as one, so that clients that come again and again do not add up.
    fn drain(&self) {
        let within = self.shared.drain_within;
        let idle = |state: &mut State| {
            state.short = true;
            state.is_idle()
        };
        let state = self.lock_state();
        let waited = self
            .changed
            .wait_timeout_while(state, within, |state| !idle(state));
        drop(waited);
        self.socket.shutdown(Shutdown::Both);
        let mut state = self.lock_state();
        while !idle(&mut state) && !state.stopping {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self
            .changed
            .wait_timeout_while(state, within, |state| !idle(state));
        drop(waited);
    }

    /// Takes requests until the client goes or the export stops.
    fn read(&self, queue: &Attachment, inbox: &mut Inbox) -> std::io::Result<()> {
        let mut unrung = false;
        loop {
            let Some(incoming) = parse(&self.shared.facts, inbox.bytes()) else {
                if std::mem::take(&mut unrung) {
                    queue.kick();
                }
                // A client that goes on sending is not told otherwise by a socket closed for reading.
                if self.lock_state().stopping || !inbox.fill(&self.socket)? {
                    return Ok(());
                }
                continue;
            };
            inbox.consume(REQUEST_BYTES);
            match incoming {
                Incoming::Goodbye => return Ok(()),
                Incoming::Nonsense => return Err(std::io::ErrorKind::InvalidData.into()),
                Incoming::Refusal(refusal) => {
                    if unrung && inbox.bytes().len() < refusal.payload as usize {
                        unrung = false;
                        queue.kick();
                    }
                    if !inbox.skip(&self.socket, refusal.payload as usize)? {
                        return Ok(());
                    }
                    self.answer(|agreed, out| failure(agreed, &refusal, out))?;
                }
                Incoming::Order(order) if order.is_empty() => {
                    self.answer(|agreed, out| success(agreed, &order, out))?;
                }
                Incoming::Order(order) => {
                    let Some((index, run)) = self.admit(&order, queue) else {
                        return Ok(());
                    };
                    if order.payload() > 0 {
                        let into = self.memory.slice(run.address(0), order.payload().into());
                        let into = into.map_err(std::io::Error::other)?;
                        let ring = || queue.kick();
                        let whole = inbox.receive(&self.socket, &into, ring);
                        if !matches!(whole, Ok(true)) {
                            self.lock_state().release(index);
                            return whole.map(drop);
                        }
                    }
                    self.lock_state().waiting.push_back(index);
                    unrung = true;
                }
            }
        }
    }

    /// A slot and memory, when there is room. `None`: the export stops.
    fn admit(&self, order: &Order, queue: &Attachment) -> Option<(u32, Run)> {
        let mut state = self.lock_state();
        let mut rung = false;
        loop {
            if state.stopping {
                return None;
            }
            if let Some(index) = state.admit(order, &self.shared.facts) {
                let run = state.slots.get(index as usize)?.run;
                return Some((index, run));
            }
            if !rung {
                // What is to make room may still be waiting for its ring.
                rung = true;
                drop(state);
                queue.kick();
                state = self.lock_state();
                continue;
            }
            state.short = true;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends one reply that needs no disk.
    fn answer(&self, put: impl FnOnce(Agreed, &mut Vec<u8>)) -> std::io::Result<()> {
        let mut writer = self.lock_writer();
        let Writer { agreed, heads, .. } = &mut *writer;
        heads.clear();
        put(*agreed, heads);
        self.socket.write(heads, &[])
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the next part of `slot` to `batch`; a flush when all others have been fetched.
    fn next_part(&self, index: u32, slot: &mut Slot, batch: &mut Batch) {
        let first = batch.segments.len() as u32;
        let carries = slot.order.carries();
        let most = if carries {
            self.transfer_part
        } else {
            RANGE_PART
        };
        let length = (slot.length - slot.fetched).min(most);
        let mut operation = slot.order.operation;
        if length == 0 {
            operation = Operation::Flush;
            slot.flush = false;
        } else if carries {
            batch.segments.push(Segment {
                address: slot.run.address(slot.fetched),
                length: length as u32,
            });
        }
        batch.requests.push(Request {
            operation,
            offset: slot.start + slot.fetched,
            length,
            durable: slot.order.durable,
            token: Token {
                slot: index,
                generation: 0,
            },
            segments: first..batch.segments.len() as u32,
        });
        slot.fetched += length;
        slot.parts += 1;
    }

    /// Appends the reply to a request that is done, and where its data belong.
    fn put_reply<'m>(
        &'m self,
        slot: &Slot,
        writer: &mut Writer,
        data: &mut Vec<(usize, GuestSlice<'m>)>,
    ) {
        let order = &slot.order;
        let mut failed = slot.failed;
        let mut bytes = None;
        if failed.is_none() && order.operation == Operation::Read {
            let address = slot.run.address(order.offset - slot.start);
            bytes = self.memory.slice(address, order.length.into()).ok();
            failed = bytes.is_none().then_some(Errno::Io);
        }
        match failed {
            None => success(writer.agreed, order, &mut writer.heads),
            Some(error) => {
                let refusal = Refusal {
                    cookie: order.cookie,
                    error,
                    why: "the disk could not carry out the request",
                    payload: 0,
                };
                failure(writer.agreed, &refusal, &mut writer.heads);
            }
        }
        if let Some(bytes) = bytes {
            data.push((writer.heads.len(), bytes));
        }
    }
}

impl Source for Connection {
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize {
        let mut state = self.lock_state();
        let State { waiting, slots, .. } = &mut *state;
        let before = batch.requests.len();
        while batch.requests.len() - before < room
            && let Some(&index) = waiting.front()
        {
            match slots.get_mut(index as usize) {
                Some(slot) if slot.failed.is_none() => {
                    self.next_part(index, slot, batch);
                    if slot.fetched == slot.length {
                        waiting.pop_front();
                    }
                }
                // The client hears of the part that failed; the others are not worth the trouble.
                _ => drop(waiting.pop_front()),
            }
        }
        batch.requests.len() - before
    }

    fn complete(&self, completions: &[Completion]) {
        let mut writer = self.lock_writer();
        let writer = &mut *writer;
        writer.heads.clear();
        writer.finished.clear();
        let mut data = Vec::new();
        let mut ring = false;
        {
            let mut state = self.lock_state();
            let State { waiting, slots, .. } = &mut *state;
            for completion in completions {
                let index = completion.token.slot;
                let Some(slot) = slots.get_mut(index as usize) else {
                    continue;
                };
                slot.parts = slot.parts.saturating_sub(1);
                slot.failed = slot.failed.or_else(|| errno(completion.outcome));
                if slot.parts > 0 {
                    continue;
                }
                if slot.failed.is_some() {
                    // The slot is about to be used again: nobody may find it here.
                    waiting.retain(|other| *other != index);
                } else if slot.fetched < slot.length {
                    continue;
                } else if slot.flush {
                    waiting.push_front(index);
                    ring = true;
                    continue;
                }
                self.put_reply(slot, writer, &mut data);
                writer.finished.push(index);
            }
        }
        if ring && let Some(queue) = self.queue.get() {
            queue.kick();
        }
        if !writer.broken && self.socket.write(&writer.heads, &data).is_err() {
            writer.broken = true;
            // Wakes the reader, which sees to the rest.
            self.socket.shutdown(Shutdown::Both);
        }
        let mut state = self.lock_state();
        for index in writer.finished.drain(..) {
            state.release(index);
        }
        if std::mem::take(&mut state.short) {
            drop(state);
            self.changed.notify_all();
        }
    }

    fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}
