//! What the world tells the core, and what the core wants done: the whole surface of the state machine.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, ExtentId, ExtentState, Message, NegotiationError,
    ReadBlockContext,
};
use vm_types::Moment;

/// One connection. Never given to two, so that what belongs to one that is gone cannot touch its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One piece of work that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A peer has connected.
    Opened(ConnectionId),
    /// A peer has said something.
    Received(ConnectionId, Message),
    /// A connection is gone, whoever closed it.
    Closed(ConnectionId),
    /// Work is done.
    Finished(Ticket, Outcome),
    /// The deadline has come.
    Wake,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Say this.
    Send(ConnectionId, Message),
    /// Send what is waiting to be sent, then close. Nothing more is expected from this connection.
    HangUp(ConnectionId, Reason),
    /// Read no more from this connection: there is enough to do.
    Pause(ConnectionId),
    /// Read on.
    Resume(ConnectionId),
    /// Do this, in parallel to whatever else runs, and report [`Event::Finished`].
    Run(Ticket, Operation),
    /// Nobody waits for this work any more. It must still be reported, the sooner the better.
    Cancel(Ticket),
    /// Send [`Event::Wake`] at this moment, and not at any that was named before. [`Moment::NEVER`]: not at all.
    Deadline(Moment),
}

/// Work on the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Remember that this generation was promoted, and open the extents that were left closed.
    TakeOver {
        /// Of the new session.
        generation: u64,
    },
    /// Tell the state of every extent.
    States,
    /// Read blocks.
    Read {
        /// First block.
        start: BlockIndex,
        /// How many; all of them exist.
        count: u64,
    },
    /// Write blocks.
    Write(Box<WriteOperation>),
    /// Make everything durable.
    Flush {
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
        /// Only extents up to and with this one.
        extent_limit: Option<ExtentId>,
    },
    /// Keep the region as it is now under this name.
    Snapshot {
        /// As the peer gave it.
        name: String,
    },
    /// Make one extent durable.
    FlushExtent {
        /// Which.
        extent: ExtentId,
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
    },
    /// Close an extent as it is.
    Close {
        /// Which.
        extent: ExtentId,
    },
    /// Make an extent durable, then close it.
    FlushClose {
        /// Which.
        extent: ExtentId,
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
    },
    /// Replace a closed extent by that of another region server.
    Repair {
        /// Which.
        extent: ExtentId,
        /// Where that serves its extents.
        source: SocketAddr,
    },
    /// Open an extent again.
    Reopen {
        /// Which.
        extent: ExtentId,
    },
}

/// A write that fits the region; the hashes are yet to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOperation {
    /// First block.
    pub start: BlockIndex,
    /// One for each block.
    pub contexts: Vec<BlockContext>,
    /// The blocks, one after the other.
    pub data: Bytes,
    /// Leave alone what was written before.
    pub only_unwritten: bool,
}

/// What came of work.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// [`Operation::Read`]: the blocks.
    Blocks(Vec<ReadBlockContext>, Bytes),
    /// [`Operation::Close`], [`Operation::FlushClose`]: what is on disk.
    State(ExtentState),
    /// [`Operation::States`]: one for each extent.
    States(Vec<ExtentState>),
    /// It failed. The operation comes back, to be tried again if that makes sense.
    Failed(CrucibleError, Operation),
}

/// Why the core ends a connection: for the log of who runs this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The two cannot work together, and the peer has been told why where the protocol has a word for it.
    Refused(NegotiationError),
    /// Another session took over.
    Superseded,
    /// A message that has no place here.
    Unexpected {
        /// Which.
        message: &'static str,
        /// What it met.
        while_: &'static str,
    },
    /// A write that contradicts itself.
    MalformedWrite {
        /// How many blocks were announced.
        contexts: usize,
        /// How many bytes came.
        bytes: usize,
    },
    /// A job that waits for more jobs than anybody has.
    TooManyDependencies(usize),
    /// A job id that is still in use.
    DuplicateJob(u64),
    /// A write or a repair for a region that is served read-only.
    ReadOnly {
        /// The message.
        message: &'static str,
    },
    /// More than the queue takes, and nothing in it can make progress.
    QueueFull,
    /// Nothing was heard for too long.
    Silent,
    /// Too many connections.
    TooManyConnections,
    /// A live repair failed; the peer has been told.
    RepairFailed(CrucibleError),
    /// The promotion could not be recorded.
    TakeOverFailed(CrucibleError),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Superseded => f.write_str("another session took over"),
            Self::Unexpected { message, while_ } => write!(f, "{message} came while {while_}"),
            Self::MalformedWrite { contexts, bytes } => {
                write!(f, "a write of {contexts} blocks came with {bytes} bytes")
            }
            Self::TooManyDependencies(count) => {
                write!(
                    f,
                    "a job waits for {count} others, which is more than can be under way"
                )
            }
            Self::DuplicateJob(job) => write!(f, "job {job} came again while it was queued"),
            Self::ReadOnly { message } => {
                write!(f, "{message} came, but the region is served read-only")
            }
            Self::QueueFull => f.write_str("its queue is full of jobs that wait for jobs not sent"),
            Self::Silent => f.write_str("nothing was heard for too long"),
            Self::TooManyConnections => f.write_str("there are too many connections"),
            Self::RepairFailed(error) => write!(f, "a live repair failed: {error}"),
            Self::TakeOverFailed(error) => write!(f, "the promotion was not recorded: {error}"),
        }
    }
}
