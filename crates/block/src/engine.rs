//! What a backend has to offer: a medium that works at once, or an engine with many in flight.
//!
//! Most backends implement [`Medium`], five verbs on the calling thread, and get the rest from
//! [`Direct`]. One that keeps requests in flight by itself (io_uring, a network volume) implements
//! [`Engine`], one per attached queue.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vm_types::{Clock, Execution, GuestMemory, GuestSlice, Moment};

use crate::doorbell::Doorbell;
use crate::info::DiskInfo;
use crate::request::{Batch, Completion, Outcome};
use crate::transfer::{Scratch, carry_out};

/// A disk that carries requests out on the calling thread. Ranges have been checked against
/// [`Medium::info`]; several threads call at once.
///
/// The error of each verb is the [`Outcome`] that the guest's request gets; never [`Outcome::Ok`].
pub trait Medium: Send + Sync + fmt::Debug {
    /// The disk's properties, the same at each call.
    fn info(&self) -> DiskInfo;

    /// Fills `into`, slice after slice, from `offset`.
    fn read(&self, offset: u64, into: &[GuestSlice<'_>]) -> Result<(), Outcome>;

    /// Writes `from`, slice after slice, at `offset`; on the medium itself when `durable`.
    fn write(&self, offset: u64, from: &[GuestSlice<'_>], durable: bool) -> Result<(), Outcome>;

    /// Makes completed writes durable.
    fn flush(&self) -> Result<(), Outcome>;

    /// Forgets a range. Called only if `info` says so.
    fn discard(&self, _offset: u64, _length: u64) -> Result<(), Outcome> {
        Err(Outcome::Unsupported)
    }

    /// Zeroes a range, freeing it if `may_unmap` allows. [`Outcome::Unsupported`] makes the caller
    /// write zeroes instead.
    fn write_zeroes(&self, _offset: u64, _length: u64, _may_unmap: bool) -> Result<(), Outcome> {
        Err(Outcome::Unsupported)
    }
}

/// What a disk is made of.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The disk's properties, the same at each call.
    fn info(&self) -> DiskInfo;

    /// An engine for one more queue. Errors: the system refuses what it needs (threads, rings).
    fn engine(&self, setup: EngineSetup) -> std::io::Result<Box<dyn Engine>>;
}

/// What an engine is told about its queue.
#[derive(Clone, Debug)]
pub struct EngineSetup {
    /// For thread names and logs.
    pub name: String,
    /// Most requests in flight at a time, at least 1.
    pub depth: u32,
    /// With [`Execution::Inline`], `submit` and `poll` run on the guest's thread and answers should
    /// be there when `submit` returns, in order, so that two runs are alike.
    pub execution: Execution,
    /// The queue's time.
    pub clock: Clock,
    /// Makes the queue poll the engine. For engines whose answers come from other threads.
    pub doorbell: Arc<Doorbell>,
}

/// Carries out the requests of one queue. Called from one thread at a time.
///
/// Each request that was submitted is answered once, by its token. Guest memory that the engine has
/// handed to the system must stay mapped: an engine keeps its own clone of the handle, and its drop
/// waits until the system has let go.
pub trait Engine: Send {
    /// Starts the requests of `batch`, never more in flight than the depth. Answers that are there at
    /// once go to `done`.
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, done: &mut Vec<Completion>);

    /// Collects answers that have come since. Never waits.
    fn poll(&mut self, _done: &mut Vec<Completion>) {}

    /// When to poll although nobody rings, for engines that hold answers back.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// The queue wants to be quiet: answer what is only being held back, now. What truly hangs may go
    /// on hanging.
    fn hurry(&mut self, _done: &mut Vec<Completion>) {}

    /// The guest gives up everything that is under way: requests that nothing in the system refers to any more end
    /// now, with [`Outcome::Abandoned`], so that a backend that hangs holds up no reset. Whether they are carried out
    /// later is open, but no data of theirs reaches guest memory, and nothing overtakes what is submitted after this.
    /// Others come to their own end.
    fn give_up(&mut self, _done: &mut Vec<Completion>) {}

    /// Nothing of the engine's refers to guest memory any more.
    fn is_idle(&self) -> bool {
        true
    }

    /// Waits for a ring, an answer or the timeout, whichever comes first; may return early. Not called
    /// inline.
    fn park(&mut self, doorbell: &Doorbell, timeout: Option<Duration>) {
        doorbell.wait(timeout);
    }
}

/// A [`Medium`] as a [`Backend`]: each queue carries out its requests on its own thread.
#[derive(Debug)]
pub struct Direct<M>(Arc<M>);

impl<M: Medium + 'static> Direct<M> {
    /// A backend over `medium`, which must not block for long.
    pub fn new(medium: M) -> Self {
        Self(Arc::new(medium))
    }
}

impl<M: Medium + 'static> Backend for Direct<M> {
    fn info(&self) -> DiskInfo {
        self.0.info()
    }

    fn engine(&self, _setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        Ok(Box::new(DirectEngine::new(self.0.clone())))
    }
}

/// The engine of [`Direct`]; also what other backends run inline.
pub(crate) struct DirectEngine<M> {
    medium: Arc<M>,
    scratch: Scratch,
}

impl<M: Medium> DirectEngine<M> {
    pub(crate) fn new(medium: Arc<M>) -> Self {
        Self {
            medium,
            scratch: Scratch::default(),
        }
    }
}

impl<M: Medium> Engine for DirectEngine<M> {
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, done: &mut Vec<Completion>) {
        let mut slices = Vec::new();
        for request in &batch.requests {
            let segments = batch.segments_of(request);
            let outcome = carry_out(
                &*self.medium,
                memory,
                request,
                segments,
                &mut slices,
                &mut self.scratch,
            );
            done.push(Completion {
                token: request.token,
                outcome,
            });
        }
    }
}
