//! What comes in: requests, connections, frames, time.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{BlockContext, BlockIndex, ClientId, JobId, Message};

/// Names a request or a command of the caller, who chooses it. Each is answered exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One attempt to be connected to one region server. Never used twice, so late news of an old link is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The guest wants something. Not more than [`room`](super::Upstairs::room) tells; what exceeds it is
    /// answered with [`VolumeError::Full`](super::VolumeError::Full).
    Request {
        /// For the answer.
        token: Token,
        /// What.
        request: Request,
    },
    /// [`Action::Seal`](super::Action::Seal) is done.
    Sealed {
        /// The job that was named there.
        write: JobId,
        /// One for each block.
        contexts: Vec<BlockContext>,
        /// The blocks as they shall travel.
        data: Bytes,
    },
    /// [`Action::Seal`](super::Action::Seal) cannot be done. The guest has its answer already, so the volume stops.
    SealFailed {
        /// The job that was named there.
        write: JobId,
        /// Why.
        reason: String,
    },
    /// [`Action::Open`](super::Action::Open) is done.
    Opened {
        /// The job that was named there.
        job: JobId,
        /// The client that was named there.
        client: ClientId,
        /// The blocks, or why they are not to be believed.
        result: Result<Plain, BadData>,
    },
    /// [`Action::Dial`](super::Action::Dial) succeeded.
    LinkUp {
        /// Which region server.
        client: ClientId,
        /// As dialed.
        link: LinkId,
    },
    /// The link is gone, or could not be made. The last word on that link; not sent after
    /// [`Action::HangUp`](super::Action::HangUp), but harmless then.
    LinkDown {
        /// Which region server.
        client: ClientId,
        /// As dialed.
        link: LinkId,
        /// Why.
        loss: LinkLoss,
    },
    /// A message came.
    Frame {
        /// Which region server.
        client: ClientId,
        /// Over which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// The transmit queue of the link is (nearly) empty: more may be sent.
    Drained {
        /// Which region server.
        client: ClientId,
        /// Which link.
        link: LinkId,
    },
    /// The [`deadline`](super::Upstairs::deadline) has come.
    Time,
    /// The operator wants something.
    Command {
        /// For the answer.
        token: Token,
        /// What.
        command: Command,
    },
}

/// What a guest asks for. Data is whole blocks.
#[derive(Debug)]
pub enum Request {
    /// Read.
    Read {
        /// First block.
        start: BlockIndex,
        /// How many blocks.
        count: u64,
    },
    /// Write.
    Write {
        /// First block.
        start: BlockIndex,
        /// Not sealed yet.
        data: BytesMut,
    },
    /// Write those blocks that were never written.
    WriteUnwritten {
        /// First block.
        start: BlockIndex,
        /// Not sealed yet.
        data: BytesMut,
    },
    /// Make durable what was written before.
    Flush {
        /// The name of a snapshot to make then.
        snapshot: Option<String>,
    },
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect and become the one who uses the regions.
    Activate {
        /// Higher than any before.
        generation: u64,
    },
    /// Flush, and let go.
    Deactivate,
    /// Use another region server in the place of one.
    Replace {
        /// The one to leave.
        old: SocketAddr,
        /// The one to come; its region may hold anything.
        new: SocketAddr,
    },
    /// Let go at once. Everything that is not answered is answered with an error.
    ShutDown,
}

/// Why a link is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkLoss {
    /// Closed by the peer without a word.
    Closed,
    /// Could not be made, or failed; with the words of the system.
    Failed(String),
    /// The peer sent what is not a message.
    Malformed(String),
}

/// Blocks as the guest wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// One block after the other.
    pub data: Bytes,
    /// Which of them were ever written.
    pub written: Written,
}

/// Which blocks of a read were ever written. Those that were not are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those that are marked.
    Some(Box<[bool]>),
}

impl Written {
    /// Whether the block with this place in the read was ever written.
    pub fn has(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Some(marks) => marks.get(index).copied().unwrap_or(false),
        }
    }
}

/// Why blocks that came from a region server are not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadData {
    /// A hash does not fit its block.
    #[error("a block does not match its hash")]
    Hash,
    /// A tag does not fit its block.
    #[error("a block does not match its tag")]
    Tag,
    /// A block holds data without a context, or with one of the other kind.
    #[error("a block has data but no fitting context")]
    Context,
    /// Fewer or more blocks or contexts than were asked for.
    #[error("the answer has the wrong length")]
    Length,
}
