//! One queue's io_uring: transfers go straight between file and guest memory, many at a time.
//!
//! New entries reach the kernel when the worker parks, so that one system call hands over a batch and
//! waits for the first answer. The doorbell is a read of an eventfd in the same ring. What the ring does
//! not do (compare, zeroing, unaligned direct I/O) goes to the disk's threads.

use std::io::{Error, ErrorKind, Result as IoResult};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use vm_types::GuestMemory;

use super::host::{HostFile, advance, vector_of};
use super::pool::PoolEngine;
use crate::doorbell::Doorbell;
use crate::engine::{Engine, EngineSetup};
use crate::request::{Batch, Completion, Operation, Outcome, Request, Segment, Token};
use crate::transfer::{Access, note_writes, resolve};

/// Marks the doorbell's entry; requests are marked with their slot.
const BELL: u64 = u64::MAX;

/// Most vectors in one entry (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;

/// How often one request may come back unfinished before the threads get it.
const ROUNDS_MAX: u32 = 64;

/// Whether the system has io_uring with what is needed here, and lets this process use it.
pub(super) fn probe() -> IoResult<()> {
    let ring = IoUring::new(2)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
    ];
    let all = needed.iter().all(|code| probe.is_supported(*code));
    // Timed waits without an entry of their own came with Linux 5.11.
    if all && ring.params().is_feature_ext_arg() && ring.params().is_feature_submit_stable() {
        Ok(())
    } else {
        Err(ErrorKind::Unsupported.into())
    }
}

/// The engine. It lives on the worker's thread; the ring is made there.
pub(super) struct UringEngine {
    host: Arc<HostFile>,
    threads: PoolEngine,
    doorbell: Arc<Doorbell>,
    state: RingState,
    /// Indexed by the token's slot.
    ops: Vec<Op>,
    in_flight: usize,
    /// All addresses in the ring come from this handle, so it outlives them.
    memory: Option<GuestMemory>,
}

enum RingState {
    /// Not made yet; for this depth.
    Unborn(u32),
    Ready(Box<Ring>),
    /// Could not be made: everything goes to the threads.
    Refused,
}

struct Ring {
    uring: IoUring,
    bell: Arc<OwnedFd>,
    /// Where the bell's read puts its count. Heap memory that the kernel may write while `bell_armed`.
    bell_count: Box<u64>,
    bell_armed: bool,
}

/// What the kernel is doing for one slot.
#[derive(Default)]
struct Op {
    request: Option<Pending>,
    segments: Vec<Segment>,
    /// What is left to do; kept between requests for their space.
    vectors: Vec<libc::iovec>,
    /// The first of `vectors` that is not done.
    first: usize,
    /// Bytes done.
    done: u64,
    rounds: u32,
}

#[derive(Clone, Copy)]
struct Pending {
    token: Token,
    operation: Operation,
    offset: u64,
    length: u64,
    durable: bool,
}

impl Pending {
    fn request(self, segments: usize) -> Request {
        Request {
            operation: self.operation,
            offset: self.offset,
            length: self.length,
            durable: self.durable,
            token: self.token,
            segments: 0..segments as u32,
        }
    }
}

// SAFETY: what is not `Send` by itself are the addresses in `vectors`. They point into the guest memory
// that `memory` keeps mapped, which any thread may access by way of the kernel.
unsafe impl Send for UringEngine {}

impl UringEngine {
    pub(super) fn new(host: Arc<HostFile>, threads: PoolEngine, setup: &EngineSetup) -> Self {
        Self {
            host,
            threads,
            doorbell: setup.doorbell.clone(),
            state: RingState::Unborn(setup.depth),
            ops: (0..setup.depth).map(|_| Op::default()).collect(),
            in_flight: 0,
            memory: None,
        }
    }

    /// Makes the ring if that has not been tried: on this thread, which is the only one to use it.
    fn wake_up(&mut self) {
        let RingState::Unborn(depth) = self.state else {
            return;
        };
        self.state = match Ring::new(depth, &self.host) {
            Ok(ring) => {
                let bell = ring.bell.clone();
                self.doorbell.set_hook(Box::new(move || ring_bell(&bell)));
                RingState::Ready(Box::new(ring))
            }
            Err(error) => {
                tracing::warn!(%error, "no io_uring for this queue, using threads");
                RingState::Refused
            }
        };
    }

    /// Puts a request into the ring; `false` if the ring is not the place for it.
    fn start(&mut self, request: &Request, segments: &[Segment]) -> Result<bool, Outcome> {
        let RingState::Ready(ring) = &mut self.state else {
            return Ok(false);
        };
        let access = match request.operation {
            Operation::Read => Some(Access::Write),
            Operation::Write => Some(Access::Read),
            Operation::Flush => None,
            _ => return Ok(false),
        };
        let (Some(op), Some(memory)) = (
            self.ops.get_mut(request.token.slot as usize),
            self.memory.as_ref(),
        ) else {
            return Ok(false);
        };
        op.segments.clear();
        op.vectors.clear();
        if let Some(access) = access {
            let mut slices = Vec::with_capacity(segments.len());
            resolve(memory, segments, access, &mut slices)?;
            op.vectors.extend(slices.iter().map(vector_of));
            let suits =
                |vector: &libc::iovec| self.host.suits(vector.iov_base.addr(), vector.iov_len);
            if op.vectors.is_empty()
                || op.vectors.len() > VECTORS_MAX
                || !op.vectors.iter().all(suits)
            {
                return Ok(false);
            }
            op.segments.extend_from_slice(segments);
        }
        op.first = 0;
        op.done = 0;
        op.rounds = 0;
        op.request = Some(Pending {
            token: request.token,
            operation: request.operation,
            offset: request.offset,
            length: request.length,
            durable: request.durable,
        });
        if op.push(ring) {
            self.in_flight += 1;
            Ok(true)
        } else {
            op.request = None;
            Ok(false)
        }
    }

    /// Takes the kernel's answers.
    fn reap(&mut self, done: &mut Vec<Completion>) {
        let RingState::Ready(ring) = &mut self.state else {
            return;
        };
        loop {
            let answer = ring.uring.completion().next();
            let Some(entry) = answer else { return };
            if entry.user_data() == BELL {
                ring.bell_armed = false;
                continue;
            }
            let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let Some(op) = self.ops.get_mut(slot) else {
                continue;
            };
            let Some(pending) = op.request else { continue };
            let verdict = op.judge(pending, entry.result(), &self.host);
            if verdict == Verdict::Again && op.push(ring) {
                continue;
            }
            op.request = None;
            self.in_flight -= 1;
            let Some(memory) = &self.memory else { continue };
            if pending.operation == Operation::Read {
                note_writes(memory, &op.segments);
            }
            match verdict {
                Verdict::Done(outcome) => done.push(Completion {
                    token: pending.token,
                    outcome,
                }),
                // The whole of it once more: doing a part twice does no harm.
                Verdict::Again | Verdict::Threads => {
                    let request = pending.request(op.segments.len());
                    self.threads.start(&request, &op.segments, memory);
                }
            }
        }
    }

    /// Hands new entries over and waits for an answer.
    fn enter(&mut self, timeout: Option<Duration>) {
        let RingState::Ready(ring) = &mut self.state else {
            return;
        };
        ring.arm_bell();
        let submitter = ring.uring.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        if let Err(error) = result {
            // Time over, a signal, or the kernel is short of something: the next turn tries again.
            let expected = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
            if !error
                .raw_os_error()
                .is_some_and(|code| expected.contains(&code))
            {
                self.host.note_error("io_uring_enter", 0, &error);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Engine for UringEngine {
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, done: &mut Vec<Completion>) {
        self.wake_up();
        if self.memory.is_none() {
            self.memory = Some(memory.clone());
        }
        for request in &batch.requests {
            let segments = batch.segments_of(request);
            match self.start(request, segments) {
                Ok(true) => {}
                Ok(false) => self.threads.start(request, segments, memory),
                Err(outcome) => done.push(Completion {
                    token: request.token,
                    outcome,
                }),
            }
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.reap(done);
        self.threads.poll(done);
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.threads.is_idle()
    }

    fn park(&mut self, doorbell: &Doorbell, timeout: Option<Duration>) {
        self.wake_up();
        if matches!(self.state, RingState::Refused) {
            doorbell.wait(timeout);
            return;
        }
        if doorbell.going_to_sleep() {
            self.enter(timeout);
        } else {
            // There is more to fetch, but what we have should not wait for it.
            self.enter(Some(Duration::ZERO));
        }
        doorbell.awake();
    }
}

impl Drop for UringEngine {
    /// Waits until the kernel has let go of guest memory and of the bell's count.
    fn drop(&mut self) {
        let mut answers = Vec::new();
        loop {
            self.reap(&mut answers);
            let RingState::Ready(ring) = &mut self.state else {
                return;
            };
            if self.in_flight == 0 && !ring.bell_armed {
                // Rings are taken down in the background; the file should be let go of now. Where that
                // is refused, it happens a little later.
                drop(ring.uring.submitter().unregister_files());
                return;
            }
            if ring.bell_armed {
                ring_bell(&ring.bell);
            }
            let time = Timespec::from(Duration::from_millis(100));
            let args = SubmitArgs::new().timespec(&time);
            // Errors are as good as a timeout here: the loop looks again.
            drop(ring.uring.submitter().submit_with_args(1, &args));
        }
    }
}

impl Ring {
    fn new(depth: u32, host: &HostFile) -> IoResult<Self> {
        // One entry for each slot and one for the bell: neither ring can be full.
        let entries = (depth + 1).next_power_of_two();
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            // Older than Linux 6.1.
            .or_else(|_| IoUring::new(entries))?;
        uring.submitter().register_files(&[host.raw()])?;
        // SAFETY: only numbers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and is nobody else's.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            uring,
            bell: Arc::new(bell),
            bell_count: Box::new(0),
            bell_armed: false,
        })
    }

    fn arm_bell(&mut self) {
        if self.bell_armed {
            return;
        }
        let fd = io_uring::types::Fd(self.bell.as_raw_fd());
        let count: *mut u64 = &raw mut *self.bell_count;
        let entry = opcode::Read::new(fd, count.cast(), 8)
            .build()
            .user_data(BELL);
        // SAFETY: eight bytes of heap memory that is neither moved nor freed before the answer: `drop`
        // of the engine waits for it.
        self.bell_armed = unsafe { push(&mut self.uring, &entry) };
    }
}

/// Enters one entry; `false` if there is no room.
///
/// # Safety
///
/// Memory that the entry names must stay valid until its answer has come.
unsafe fn push(uring: &mut IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: the caller's promise.
    unsafe { uring.submission().push(entry) }.is_ok()
}

fn ring_bell(bell: &OwnedFd) {
    let one = 1_u64;
    // SAFETY: the descriptor is open, and eight bytes of `one` are read. The count cannot overflow:
    // the doorbell writes once for each sleep.
    let written = unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) };
    if written != 8 {
        tracing::warn!(error = %Error::last_os_error(), "a disk's worker could not be woken");
    }
}

/// What an answer of the kernel means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Done(Outcome),
    /// Part of it is done, or none: the rest goes in again.
    Again,
    /// The ring cannot do it.
    Threads,
}

impl Op {
    /// Enters what is left of the request; `false` if there is no room.
    fn push(&mut self, ring: &mut Ring) -> bool {
        let Some(pending) = self.request else {
            return false;
        };
        let file = Fixed(0);
        let at = pending.offset + self.done;
        let vectors = self.vectors.get(self.first..).unwrap_or(&[]);
        let flags = if pending.durable { libc::RWF_DSYNC } else { 0 };
        let entry = match (pending.operation, vectors) {
            (Operation::Read, [one]) => opcode::Read::new(
                file,
                one.iov_base.cast(),
                u32::try_from(one.iov_len).unwrap_or(u32::MAX),
            )
            .offset(at)
            .build(),
            (Operation::Read, many) => opcode::Readv::new(file, many.as_ptr(), many.len() as u32)
                .offset(at)
                .build(),
            (Operation::Write, [one]) => opcode::Write::new(
                file,
                one.iov_base.cast_const().cast(),
                u32::try_from(one.iov_len).unwrap_or(u32::MAX),
            )
            .offset(at)
            .rw_flags(flags)
            .build(),
            (Operation::Write, many) => opcode::Writev::new(file, many.as_ptr(), many.len() as u32)
                .offset(at)
                .rw_flags(flags)
                .build(),
            _ => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        };
        let entry = entry.user_data(u64::from(pending.token.slot));
        // SAFETY: guest memory stays mapped by the engine's own handle, and `vectors` is not touched
        // before the answer. The engine's drop waits for all answers.
        unsafe { push(&mut ring.uring, &entry) }
    }

    fn judge(&mut self, pending: Pending, result: i32, host: &HostFile) -> Verdict {
        let (failure, action) = match pending.operation {
            Operation::Read => (Outcome::ReadFailed, "read"),
            Operation::Write => (Outcome::WriteFailed, "write"),
            _ => (Outcome::WriteFailed, "flush"),
        };
        self.rounds += 1;
        let failed = |error: Error| {
            host.note_error(action, pending.offset + self.done, &error);
            Verdict::Done(failure)
        };
        let again = if self.rounds < ROUNDS_MAX {
            Verdict::Again
        } else {
            Verdict::Threads
        };
        match (-result, usize::try_from(result)) {
            (libc::EINTR, _) => again,
            // Not without waiting, or not with this alignment: the threads wait, and bounce.
            (libc::EAGAIN | libc::EINVAL | libc::EOPNOTSUPP, _) => Verdict::Threads,
            (code, Err(_)) => failed(Error::from_raw_os_error(code)),
            (_, Ok(_)) if pending.operation == Operation::Flush => Verdict::Done(Outcome::Ok),
            (_, Ok(moved)) => {
                let left = pending.length - self.done;
                if moved as u64 >= left {
                    return Verdict::Done(Outcome::Ok);
                }
                if moved == 0 {
                    return failed(ErrorKind::UnexpectedEof.into());
                }
                self.done += moved as u64;
                let before = self.vectors.len();
                let rest = self.vectors.get_mut(self.first..).unwrap_or(&mut []);
                self.first = before - advance(rest, moved).len();
                again
            }
        }
    }
}
