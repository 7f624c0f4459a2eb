//! What everything that holds blocks has in common: requests go in by batches, answers come out of order.
//!
//! A [`Store`] takes every submission at once and answers each exactly once; how many there may be is decided
//! where they are made, by permits ([`crate::volume::Volume`] hands them out). Part of a submission is where its
//! answer goes: to one who waits, or to a [`Sink`] that gathers many.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::core::{Answer, Command, JobStatus, Request, Status, VolumeError};
use crucible_protocol::{BlockIndex, JobId};

/// How a submission ended.
pub type Outcome = Result<Answer, VolumeError>;

/// Something that holds blocks: three region servers, a file, an image behind HTTP, or several of these together.
pub trait Store: Send + Sync + fmt::Debug {
    /// Takes all of `batch`, in order. Never waits.
    fn submit(&self, batch: &mut Vec<Submission>);

    /// Block size, number of blocks, and whether it may be written; `None` while that is not known.
    fn shape(&self) -> Option<Shape>;

    /// What it is made of.
    fn outline(&self) -> Outline {
        Outline::Leaf(self.shape())
    }
}

/// What a store is made of.
#[derive(Debug)]
pub enum Outline {
    /// Other stores.
    Volume {
        /// One after the other.
        parts: Vec<Outline>,
        /// What shows through.
        parent: Option<Box<Outline>>,
    },
    /// Three region servers, and where they will tell of themselves; not if they have ended.
    Region(oneshot::Receiver<Box<Insight>>),
    /// A file, an image, memory.
    Leaf(Option<Shape>),
}

/// Size and block size of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// In bytes; a power of two.
    pub block_size: u32,
    /// In blocks.
    pub blocks: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Blocks travel, and are kept, sealed.
    pub encrypted: bool,
}

impl Shape {
    /// In bytes.
    pub const fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size as u64)
    }

    /// Whether there are `count` blocks from `start` on.
    pub fn check(&self, start: BlockIndex, count: u64) -> Result<(), VolumeError> {
        let end = start.0.checked_add(count);
        if end.is_some_and(|end| end <= self.blocks) {
            return Ok(());
        }
        Err(VolumeError::OutOfRange {
            start: start.0,
            count,
            blocks: self.blocks,
        })
    }

    /// How many blocks `bytes` are.
    pub fn whole_blocks(&self, bytes: usize) -> Result<u64, VolumeError> {
        let (length, size) = (bytes as u64, u64::from(self.block_size));
        if size > 0 && length.is_multiple_of(size) {
            return Ok(length / size);
        }
        Err(VolumeError::NotWholeBlocks {
            bytes,
            block_size: self.block_size,
        })
    }
}

/// Something that is wanted.
#[derive(Debug)]
pub enum Ask {
    /// By the guest.
    Request(Request),
    /// By the operator.
    Command(Command),
}

/// Something that is wanted, and where the answer goes.
#[derive(Debug)]
pub struct Submission {
    /// What.
    pub ask: Ask,
    /// Where to.
    pub reply: Reply,
}

/// Takes the answers of many submissions. Called by threads that must not be held up.
pub trait Sink: Send + Sync {
    /// The submission that was given this tag has ended.
    fn complete(&self, tag: u64, outcome: Outcome);

    /// No more answers for the moment: the time to wake somebody.
    fn rest(&self) {}
}

/// Where an answer goes. Dropped without one, it says [`VolumeError::ShutDown`].
pub struct Reply {
    to: Option<To>,
    /// Room for one more submission comes back with the answer.
    _permit: Option<OwnedSemaphorePermit>,
}

enum To {
    One(oneshot::Sender<Outcome>),
    Many(Arc<dyn Sink>, u64),
}

impl Reply {
    /// To one who waits.
    pub fn channel(permit: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let reply = Self {
            to: Some(To::One(sender)),
            _permit: permit,
        };
        (reply, receiver)
    }

    /// To a sink, which is told `tag`.
    pub fn sink(sink: Arc<dyn Sink>, tag: u64, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            to: Some(To::Many(sink, tag)),
            _permit: permit,
        }
    }

    /// Answers.
    pub fn send(self, outcome: Outcome) {
        if let Some(sink) = self.send_later(outcome) {
            sink.rest();
        }
    }

    /// Answers; the caller sees to it that the sink is told to rest.
    pub(crate) fn send_later(mut self, outcome: Outcome) -> Option<Arc<dyn Sink>> {
        match self.to.take() {
            Some(To::Many(sink, tag)) => {
                sink.complete(tag, outcome);
                Some(sink)
            }
            Some(To::One(sender)) => {
                // Whoever does not wait any more does not want to know.
                let _ = sender.send(outcome);
                None
            }
            None => None,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(To::Many(sink, tag)) = self.to.take() {
            sink.complete(tag, Err(VolumeError::ShutDown));
            sink.rest();
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply(..)")
    }
}

/// Answers of one turn: each sink is woken once.
#[derive(Default)]
pub(crate) struct Replies {
    touched: Vec<Arc<dyn Sink>>,
}

impl Replies {
    pub(crate) fn send(&mut self, reply: Reply, outcome: Outcome) {
        if let Some(sink) = reply.send_later(outcome) {
            // Few queues are attached to one volume, and mostly one.
            if !self.touched.iter().any(|known| Arc::ptr_eq(known, &sink)) {
                self.touched.push(sink);
            }
        }
    }

    pub(crate) fn rest(&mut self) {
        for sink in self.touched.drain(..) {
            sink.rest();
        }
    }
}

/// What a set of region servers tells of itself.
#[derive(Clone, Debug)]
pub struct Insight {
    /// Where everything stands.
    pub status: Status,
    /// The jobs that are known.
    pub work: Vec<JobStatus>,
    /// The last that were retired.
    pub retired: Vec<JobId>,
}
