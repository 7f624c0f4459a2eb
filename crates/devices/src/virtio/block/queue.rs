//! One request queue, as the disk's worker sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use block::{Attachment, Batch, Completion, Operation, Outcome, Request, Segment, Source, Token};
use vm_types::{GuestAddress, GuestMemory};

use super::command::{Action, Command, Status, parse};
use super::config::{BlockConfiguration, feature};
use crate::virtio::ring::Chain;
use crate::virtio::shared::{Service, Shared};

/// Bytes of the disk's name.
const ID_BYTES: usize = 20;

/// Most chains taken in one turn, answered right away or not: a driver that goes on offering nonsense
/// must not hold the worker.
const TURN_MAX: usize = 1024;

/// A queue of a block device.
pub(super) struct BlockQueue {
    shared: Arc<Shared>,
    index: u16,
    config: Arc<BlockConfiguration>,
    /// The disk's name, as Get Id tells it.
    id: [u8; ID_BYTES],
    attachment: OnceLock<Attachment>,
    /// Attaching failed; said once.
    failed: AtomicBool,
    work: Mutex<Work>,
}

/// What the worker needs, allocated once.
#[derive(Debug)]
struct Work {
    chain: Chain,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// A request that the disk has.
#[derive(Clone, Copy, Debug)]
struct Slot {
    head: u16,
    status: GuestAddress,
    /// Bytes of data that the driver gets if all goes well.
    read_bytes: u32,
}

const VACANT: Slot = Slot {
    head: 0,
    status: GuestAddress(0),
    read_bytes: 0,
};

impl BlockQueue {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: u16,
        config: Arc<BlockConfiguration>,
        serial: &str,
        depth: u32,
    ) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Self {
            shared,
            index,
            config,
            id,
            attachment: OnceLock::new(),
            failed: AtomicBool::new(false),
            work: Mutex::new(Work {
                chain: Chain::default(),
                slots: vec![VACANT; depth as usize],
                free: (0..depth).rev().collect(),
            }),
        }
    }

    pub(super) fn attachment(&self) -> Option<&Attachment> {
        self.attachment.get()
    }

    /// The disk still holds requests of a life that is over.
    pub(super) fn is_draining(&self) -> bool {
        let queue = self.shared.queue(self.index);
        queue.is_some_and(|queue| queue.lock().is_draining())
    }

    /// Attaches at the first call, and rings. The queue stays attached over resets.
    pub(super) fn kick(&self, attach: impl FnOnce() -> std::io::Result<Attachment>) {
        if self.attachment.get().is_none() && !self.failed.load(Ordering::Relaxed) {
            match attach() {
                // Two that come at once: the second attachment ends where it began.
                Ok(attachment) => drop(self.attachment.set(attachment)),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    let device = &self.shared.name;
                    tracing::error!(device, %error, "a queue cannot be attached to its disk");
                    let mut registers = self.shared.registers();
                    self.shared
                        .need_reset(&mut registers, "the disk cannot be attached");
                }
            }
        }
        if let Some(attachment) = self.attachment.get() {
            attachment.kick();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes must be on the medium when they are answered: the driver has no flush, or has turned the
    /// cache off (5.2.6.2).
    fn writes_through(&self) -> bool {
        !self.shared.has(feature::FLUSH)
            || (self.shared.has(feature::CONFIG_WCE) && !self.config.writeback())
    }

    /// Starts the command of the chain in `work`, or answers it right away. Whether `batch` has it now.
    fn start(
        &self,
        service: &mut Service<'_>,
        work: &mut Work,
        head: u16,
        command: &Command,
        batch: &mut Batch,
    ) -> bool {
        let refusal = match command.action {
            Action::Disk {
                operation,
                offset,
                length,
            } => match work.free.pop() {
                Some(slot) => {
                    let reads = operation == Operation::Read;
                    if let Some(place) = work.slots.get_mut(slot as usize) {
                        *place = Slot {
                            head,
                            status: command.status,
                            read_bytes: if reads { command.data_bytes } else { 0 },
                        };
                    }
                    let first = batch.segments.len() as u32;
                    match operation {
                        Operation::Read => batch.segments.extend_from_slice(&work.chain.writable),
                        Operation::Write => batch.segments.extend_from_slice(&work.chain.readable),
                        _ => {}
                    }
                    batch.requests.push(Request {
                        operation,
                        offset,
                        length,
                        durable: operation != Operation::Flush && self.writes_through(),
                        token: Token {
                            slot,
                            generation: service.generation(),
                        },
                        segments: first..batch.segments.len() as u32,
                    });
                    return true;
                }
                None => (Status::IoError, 0),
            },
            Action::Identify => self.identify(&work.chain.writable),
            Action::Refuse(status) => (status, 0),
        };
        let (status, written) = refusal;
        self.answer(
            service,
            service.generation(),
            head,
            command.status,
            status,
            written,
        );
        false
    }

    /// Writes the name into the buffers; status, and bytes written.
    fn identify(&self, segments: &[Segment]) -> (Status, u32) {
        let mut done = 0;
        for segment in segments {
            let count = (segment.length as usize).min(ID_BYTES - done);
            let Some(part) = self.id.get(done..done + count) else {
                break;
            };
            if self.shared.memory.write(segment.address, part).is_err() {
                return (Status::IoError, 0);
            }
            done += count;
        }
        if done == ID_BYTES {
            (Status::Ok, ID_BYTES as u32)
        } else {
            // The driver has to make room for all of it.
            (Status::IoError, 0)
        }
    }

    fn answer(
        &self,
        service: &mut Service<'_>,
        generation: u32,
        head: u16,
        at: GuestAddress,
        status: Status,
        written: u32,
    ) {
        if generation == service.generation() {
            // Where the status cannot be written, the chain is given back all the same.
            drop(self.shared.memory.write(at, &[status as u8]));
        }
        service.answer(generation, head, written.saturating_add(1));
    }
}

impl Source for BlockQueue {
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize {
        let mut fetched = 0;
        let mut taken = 0;
        self.shared.serve(self.index, |service| {
            let work = &mut *self.lock();
            while fetched < room && taken < TURN_MAX {
                let Some(head) = service.pop(&mut work.chain) else {
                    break;
                };
                taken += 1;
                match parse(&self.shared.memory, self.config.info(), &mut work.chain) {
                    Some(command) => {
                        let started = self.start(service, work, head, &command, batch);
                        fetched += usize::from(started);
                    }
                    None => service.fail("a request without header or status"),
                }
            }
        });
        if let (TURN_MAX, Some(attachment)) = (taken, self.attachment.get()) {
            attachment.kick();
        }
        fetched
    }

    fn complete(&self, completions: &[Completion]) {
        self.shared.serve(self.index, |service| {
            let work = &mut *self.lock();
            for completion in completions {
                let Token { slot, generation } = completion.token;
                let Some(&Slot {
                    head,
                    status,
                    read_bytes,
                }) = work.slots.get(slot as usize)
                else {
                    continue;
                };
                work.free.push(slot);
                let good = completion.outcome == Outcome::Ok;
                let written = if good { read_bytes } else { 0 };
                let result = Status::of(completion.outcome);
                self.answer(service, generation, head, status, result, written);
            }
        });
    }

    fn memory(&self) -> &GuestMemory {
        &self.shared.memory
    }
}

impl std::fmt::Debug for BlockQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockQueue")
            .field("index", &self.index)
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}
