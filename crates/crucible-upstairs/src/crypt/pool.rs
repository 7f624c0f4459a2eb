//! Large runs over several cores: cut into parts, each part sealed or opened by whichever thread is free.
//!
//! Runs up to [`INLINE_BYTES`] are done on the calling thread: waking another one costs more than it saves. The
//! threads start with the first large run, live as long as the [`Crypt`], and hold a bounded number of parts; what
//! would exceed it is done by the caller, which slows the caller down as it should.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use crucible_protocol::{BlockContext, ReadBlockContext};

use super::blocks::{Envelope, OpenError};
use super::cipher::SealError;
use super::nonce::Nonces;
use super::reuse::Buffers;

/// Most bytes of a run that is not spread.
pub const INLINE_BYTES: usize = 32 << 10;
/// Bytes of a part, rounded down to whole blocks.
const PART_BYTES: usize = 64 << 10;
/// Most parts that wait for a thread.
const WAITING_MAX: usize = 2048;
/// Most threads; past this, memory is the limit.
const THREADS_MAX: usize = 8;

/// A run that was sealed: its bytes as they travel, and the context of each block.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// As they travel.
    pub data: Bytes,
    /// One for each block.
    pub contexts: Vec<BlockContext>,
}

/// A large run is finished.
#[derive(Debug)]
pub enum Done<T> {
    /// By [`Crypt::seal`].
    Sealed(T, Result<Sealed, SealError>),
    /// By [`Crypt::open`].
    Opened(T, Result<Bytes, OpenError>),
}

/// Seals and opens runs of blocks; large ones on threads of its own. `T` names a run to the caller.
pub struct Crypt<T> {
    envelope: Envelope,
    nonces: Nonces,
    threads: usize,
    started: bool,
    buffers: Buffers,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    wake: Condvar,
    done: Mutex<Vec<Done<T>>>,
    notify: Box<dyn Fn() + Send + Sync>,
}

struct Queue<T> {
    waiting: VecDeque<Part<T>>,
    stop: bool,
}

/// One part of a run, and where its result goes.
struct Part<T> {
    job: Arc<Job<T>>,
    index: usize,
    work: Work,
}

enum Work {
    Seal(BytesMut),
    Open {
        contexts: Vec<ReadBlockContext>,
        sealed: Bytes,
        into: BytesMut,
    },
}

/// A run whose parts are under way.
struct Job<T> {
    block_size: usize,
    /// Parts that are not finished.
    left: AtomicUsize,
    state: Mutex<JobState<T>>,
}

struct JobState<T> {
    /// Taken by whoever finishes the last part.
    tag: Option<T>,
    parts: Vec<Option<PartDone>>,
}

enum PartDone {
    Sealed(Result<(BytesMut, Vec<BlockContext>), SealError>),
    Opened(Result<BytesMut, OpenError>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Crypt<T> {
    /// Over `envelope`. `notify` is called by a thread of the pool after it has finished a run; the caller then
    /// takes it by [`Crypt::take_done`].
    pub fn new(envelope: Envelope, notify: Box<dyn Fn() + Send + Sync>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            envelope,
            nonces: Nonces::new(),
            threads: cores.min(THREADS_MAX),
            started: false,
            buffers: Buffers::default(),
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    waiting: VecDeque::new(),
                    stop: false,
                }),
                wake: Condvar::new(),
                done: Mutex::default(),
                notify,
            }),
        }
    }

    /// Whether blocks travel sealed.
    pub const fn is_encrypted(&self) -> bool {
        self.envelope.is_encrypted()
    }

    /// Seals `data`, whole blocks of `block_size` bytes, in place. A small run comes back at once; a large one
    /// later, under `tag`.
    pub fn seal(
        &mut self,
        tag: T,
        block_size: usize,
        mut data: BytesMut,
    ) -> Option<(T, Result<Sealed, SealError>)> {
        let whole = block_size > 0 && data.len().is_multiple_of(block_size);
        if !whole || data.len() <= INLINE_BYTES || !self.has_room(data.len()) {
            let mut contexts = Vec::new();
            let result = self
                .envelope
                .seal(block_size, &mut data, &mut self.nonces, &mut contexts);
            let data = data.freeze();
            return Some((tag, result.map(|()| Sealed { data, contexts })));
        }
        let step = part_bytes(block_size);
        let mut parts = Vec::with_capacity(data.len().div_ceil(step));
        while data.len() > step {
            let rest = data.split_off(step);
            parts.push(Work::Seal(std::mem::replace(&mut data, rest)));
        }
        parts.push(Work::Seal(data));
        self.spread(tag, block_size, parts);
        None
    }

    /// Checks `sealed` against `contexts` and decrypts it, if it is encrypted. A small run comes back at once; a
    /// large one later, under `tag`. On a plain volume the bytes that come back are those that were given.
    pub fn open(
        &mut self,
        tag: T,
        block_size: usize,
        contexts: &[ReadBlockContext],
        mut sealed: Bytes,
    ) -> Option<(T, Result<Bytes, OpenError>)> {
        let encrypted = self.envelope.is_encrypted();
        let whole = block_size > 0 && contexts.len().checked_mul(block_size) == Some(sealed.len());
        // A hash alone is a matter of a tenth of a millisecond for a mebibyte.
        if !whole || !encrypted || sealed.len() <= INLINE_BYTES || !self.has_room(sealed.len()) {
            let mut into = BytesMut::zeroed(if encrypted { sealed.len() } else { 0 });
            let result = self
                .envelope
                .open(block_size, contexts, &sealed, &mut into)
                .map(|()| if encrypted { into.freeze() } else { sealed });
            return Some((tag, result));
        }
        let step = part_bytes(block_size);
        let mut into = self.buffers.take(sealed.len());
        let mut parts = Vec::with_capacity(sealed.len().div_ceil(step));
        for contexts in contexts.chunks(step / block_size) {
            let length = contexts.len() * block_size;
            parts.push(Work::Open {
                contexts: contexts.to_vec(),
                sealed: sealed.split_to(length),
                into: into.split_to(length),
            });
        }
        self.spread(tag, block_size, parts);
        None
    }

    /// Takes what the threads have finished since.
    pub fn take_done(&mut self, into: &mut Vec<Done<T>>) {
        let had = into.len();
        into.append(&mut lock(&self.shared.done));
        for done in into.iter().skip(had) {
            if let Done::Opened(_, Ok(bytes)) = done {
                self.buffers.give(bytes);
            }
        }
    }

    /// Whether the threads can take a run of this many bytes.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.threads > 1
            && self.start()
            && lock(&self.shared.queue).waiting.len() + bytes.div_ceil(PART_BYTES) <= WAITING_MAX
    }

    /// Starts the threads, once. False where the system gives none.
    fn start(&mut self) -> bool {
        while !self.started && self.threads > 1 {
            let mut count = 0;
            for number in 0..self.threads {
                let shared = self.shared.clone();
                let envelope = self.envelope.clone();
                let thread = std::thread::Builder::new().name(format!("crypt-{number}"));
                if thread.spawn(move || shared.work(&envelope)).is_err() {
                    break;
                }
                count += 1;
            }
            if count == 0 {
                self.threads = 1;
            }
            self.started = count > 0;
        }
        self.started
    }

    fn spread(&self, tag: T, block_size: usize, parts: Vec<Work>) {
        let job = Arc::new(Job {
            block_size,
            left: AtomicUsize::new(parts.len()),
            state: Mutex::new(JobState {
                tag: Some(tag),
                parts: parts.iter().map(|_| None).collect(),
            }),
        });
        let parts = parts.into_iter().enumerate().map(|(index, work)| Part {
            job: job.clone(),
            index,
            work,
        });
        lock(&self.shared.queue).waiting.extend(parts);
        self.shared.wake.notify_all();
    }
}

impl<T> Drop for Crypt<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.stop = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.wake.notify_all();
    }
}

impl<T> fmt::Debug for Crypt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypt")
            .field("encrypted", &self.envelope.is_encrypted())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Bytes of a part: whole blocks, at least one.
fn part_bytes(block_size: usize) -> usize {
    (PART_BYTES / block_size).max(1) * block_size
}

impl<T> Shared<T> {
    fn work(&self, envelope: &Envelope) {
        let mut nonces = Nonces::new();
        while let Some(part) = self.next() {
            let Part { job, index, work } = part;
            let done = work.carry_out(job.block_size, envelope, &mut nonces);
            if let Some(slot) = lock(&job.state).parts.get_mut(index) {
                *slot = Some(done);
            }
            if job.left.fetch_sub(1, Ordering::AcqRel) == 1
                && let Some(done) = job.assemble()
            {
                lock(&self.done).push(done);
                (self.notify)();
            }
        }
    }

    fn next(&self) -> Option<Part<T>> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(part) = queue.waiting.pop_front() {
                return Some(part);
            }
            if queue.stop {
                return None;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Work {
    fn carry_out(self, block_size: usize, envelope: &Envelope, nonces: &mut Nonces) -> PartDone {
        match self {
            Self::Seal(mut data) => {
                let mut contexts = Vec::new();
                let result = envelope.seal(block_size, &mut data, nonces, &mut contexts);
                PartDone::Sealed(result.map(|()| (data, contexts)))
            }
            Self::Open {
                contexts,
                sealed,
                mut into,
            } => {
                let result = envelope.open(block_size, &contexts, &sealed, &mut into);
                PartDone::Opened(result.map(|()| into))
            }
        }
    }
}

impl<T> Job<T> {
    /// Puts the parts together again, which were cut from one buffer and so need no copy.
    fn assemble(&self) -> Option<Done<T>> {
        let mut state = lock(&self.state);
        let tag = state.tag.take()?;
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        let per_part = part_bytes(self.block_size) / self.block_size;
        let (mut data, mut all) = (BytesMut::new(), Vec::new());
        let (mut sealing, mut seal_error, mut open_error) = (false, None, None);
        for (index, part) in parts.into_iter().flatten().enumerate() {
            match part {
                PartDone::Sealed(Ok((part, contexts))) => {
                    sealing = true;
                    data.unsplit(part);
                    all.extend(contexts);
                }
                PartDone::Sealed(Err(error)) => seal_error = seal_error.or(Some(error)),
                PartDone::Opened(Ok(part)) => data.unsplit(part),
                PartDone::Opened(Err(error)) => {
                    open_error = open_error.or(Some(OpenError {
                        block: error.block + index * per_part,
                        ..error
                    }));
                }
            }
        }
        let data = data.freeze();
        Some(match (seal_error, open_error) {
            (Some(error), _) => Done::Sealed(tag, Err(error)),
            (None, Some(error)) => Done::Opened(tag, Err(error)),
            (None, None) if sealing => Done::Sealed(
                tag,
                Ok(Sealed {
                    data,
                    contexts: all,
                }),
            ),
            (None, None) => Done::Opened(tag, Ok(data)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::blocks::OpenFault;
    use super::super::key::Key;
    use super::*;

    /// A pool with two threads on any host, and its bell.
    fn pool(key: Option<&Key>) -> (Crypt<u32>, mpsc::Receiver<()>) {
        let (ring, rung) = mpsc::channel();
        let notify = move || {
            let _ = ring.send(());
        };
        let mut crypt = Crypt::new(Envelope::new(key), Box::new(notify));
        crypt.threads = 2;
        (crypt, rung)
    }

    fn content(length: usize) -> BytesMut {
        (0..length).map(|at| (at / 5 % 253) as u8).collect()
    }

    fn wait(crypt: &mut Crypt<u32>, rung: &mpsc::Receiver<()>) -> Done<u32> {
        rung.recv().unwrap();
        let mut done = Vec::new();
        crypt.take_done(&mut done);
        assert_eq!(done.len(), 1);
        done.pop().unwrap()
    }

    fn seal_and_wait(crypt: &mut Crypt<u32>, rung: &mpsc::Receiver<()>, length: usize) -> Sealed {
        match crypt.seal(7, 4096, content(length)) {
            Some((7, sealed)) => sealed.unwrap(),
            None => match wait(crypt, rung) {
                Done::Sealed(7, sealed) => sealed.unwrap(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn runs_of_every_size_come_back_as_they_were() {
        for key in [None, Some(Key::random().unwrap())] {
            let (mut crypt, rung) = pool(key.as_ref());
            for blocks in [0, 1, 8, 9, 16, 17, 100, 256] {
                let sealed = seal_and_wait(&mut crypt, &rung, blocks * 4096);
                assert_eq!(sealed.contexts.len(), blocks);
                let contexts: Vec<_> = sealed.contexts.into_iter().map(Into::into).collect();
                let opened = match crypt.open(8, 4096, &contexts, sealed.data) {
                    Some((8, opened)) => opened.unwrap(),
                    None => match wait(&mut crypt, &rung) {
                        Done::Opened(8, opened) => opened.unwrap(),
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                };
                assert_eq!(opened, content(blocks * 4096));
            }
        }
    }

    #[test]
    fn the_first_bad_block_of_a_spread_run_is_named() {
        let (mut crypt, rung) = pool(Some(&Key::random().unwrap()));
        let sealed = seal_and_wait(&mut crypt, &rung, 64 * 4096);
        let mut contexts: Vec<_> = sealed.contexts.into_iter().map(Into::into).collect();
        contexts[41] = contexts[3];
        contexts[63] = contexts[3];
        assert!(crypt.open(9, 4096, &contexts, sealed.data).is_none());
        match wait(&mut crypt, &rung) {
            Done::Opened(9, Err(error)) => {
                assert_eq!((error.block, error.fault), (41, OpenFault::Tag));
            }
            other => panic!("{other:?}"),
        }
    }
}
