//! Leaves that work by blocking calls, each on threads of its own: what they have in common.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use crucible_protocol::{BlockIndex, Geometry};

use crate::core::{Answer, Command, Plain, ReplaceResult, Request, VolumeError};
use crate::store::{Ask, Outcome, Reply, Shape, Store, Submission};

/// Blocks by blocking calls. Ranges have been checked; several threads call at once.
pub trait Leaf: Send + Sync + fmt::Debug + 'static {
    /// Size and block size, the same at each call.
    fn shape(&self) -> Shape;

    /// Blocks from `start` on.
    fn read(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError>;

    /// Writes whole blocks; with `unwritten` only those that were never written.
    fn write(&self, start: BlockIndex, data: BytesMut, unwritten: bool) -> Result<(), VolumeError>;

    /// Makes writes durable that have been answered.
    fn flush(&self) -> Result<(), VolumeError>;
}

/// A [`Leaf`] with threads that carry out its requests.
pub struct Threads<L> {
    leaf: Arc<L>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Bounded by the permits of the volume.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submission>,
    stop: bool,
}

impl<L: Leaf> Threads<L> {
    /// Starts `threads` of them. Errors: the system gives none.
    pub fn start(leaf: L, threads: usize, name: &str) -> std::io::Result<Self> {
        let (leaf, shared) = (Arc::new(leaf), Arc::<Shared>::default());
        // Dropped on an error half-way, it ends those that were started.
        let all = Self {
            leaf: leaf.clone(),
            shared: shared.clone(),
        };
        for number in 0..threads.max(1) {
            let (leaf, shared) = (leaf.clone(), shared.clone());
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    while let Some(Submission { ask, reply }) = shared.next() {
                        reply.send(carry_out(&*leaf, ask));
                    }
                })?;
        }
        Ok(all)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Submission> {
        let mut queue = self.lock();
        loop {
            if let Some(submission) = queue.waiting.pop_front() {
                return Some(submission);
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

impl<L: Leaf> Store for Threads<L> {
    fn submit(&self, batch: &mut Vec<Submission>) {
        self.shared.lock().waiting.extend(batch.drain(..));
        self.shared.wake.notify_all();
    }

    fn shape(&self) -> Option<Shape> {
        Some(self.leaf.shape())
    }
}

impl<L> Drop for Threads<L> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.stop = true;
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        // Each says, as it is dropped, that the volume was shut down.
        drop(left);
        self.shared.wake.notify_all();
    }
}

impl<L: fmt::Debug> fmt::Debug for Threads<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.leaf.fmt(f)
    }
}

/// Carries out one submission on the calling thread.
pub(super) fn carry_out(leaf: &impl Leaf, ask: Ask) -> Outcome {
    let shape = leaf.shape();
    let writable = if shape.read_only {
        Err(VolumeError::ReadOnly)
    } else {
        Ok(())
    };
    match ask {
        Ask::Request(Request::Read { start, count }) => {
            shape.check(start, count)?;
            leaf.read(start, count).map(Answer::Read)
        }
        Ask::Request(Request::Write { start, data }) => {
            writable?;
            shape.check(start, shape.whole_blocks(data.len())?)?;
            leaf.write(start, data, false).map(|()| Answer::Written)
        }
        Ask::Request(Request::WriteUnwritten { start, data }) => {
            writable?;
            shape.check(start, shape.whole_blocks(data.len())?)?;
            leaf.write(start, data, true).map(|()| Answer::Written)
        }
        Ask::Request(Request::Flush { snapshot: None }) => leaf.flush().map(|()| Answer::Flushed),
        Ask::Request(Request::Flush { .. }) => Err(VolumeError::SnapshotFailed { failed: 1 }),
        Ask::Command(Command::Activate { .. }) => {
            // A leaf has no extents; for the answer's sake it is one of one block.
            let geometry = Geometry::new(u64::from(shape.block_size), 1, 1);
            geometry
                .map(Answer::Activated)
                .map_err(|error| VolumeError::SealFailed(error.to_string()))
        }
        Ask::Command(Command::Deactivate) => leaf.flush().map(|()| Answer::Deactivated),
        Ask::Command(Command::Replace { .. }) => Ok(Answer::Replace(ReplaceResult::Missing)),
        Ask::Command(Command::ShutDown) => Ok(Answer::ShutDown),
    }
}

/// A [`Leaf`] that is quick enough to be asked on the caller's thread.
#[derive(Debug)]
pub struct Direct<L>(pub L);

impl<L: Leaf> Store for Direct<L> {
    fn submit(&self, batch: &mut Vec<Submission>) {
        let mut replies = crate::store::Replies::default();
        for Submission { ask, reply } in batch.drain(..) {
            let reply: Reply = reply;
            replies.send(reply, carry_out(&self.0, ask));
        }
        replies.rest();
    }

    fn shape(&self) -> Option<Shape> {
        Some(self.0.shape())
    }
}

/// The words of the system, as an error of the volume.
pub(super) fn failed(start: BlockIndex, count: u64, error: &dyn fmt::Display) -> VolumeError {
    VolumeError::ReadFailed {
        start: start.0,
        count,
        error: crucible_protocol::CrucibleError::IoError(error.to_string()),
    }
}
