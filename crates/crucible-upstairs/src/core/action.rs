//! What goes out: frames, connections, work for the cipher, answers, reports.

use std::fmt;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    BlockIndex, ClientId, CrucibleError, ExtentId, Geometry, JobId, Message, NegotiationError,
    ReadBlockContext,
};
use uuid::Uuid;
use vm_types::{Moment, Span};

use super::event::{BadData, LinkId, Plain, Token};
use super::status::{ReplicaState, Step};

/// What the driver is to do, in this order.
pub type Actions = Vec<Action>;

/// Something to be done.
#[derive(Debug)]
pub enum Action {
    /// Connect; say [`LinkUp`](super::Event::LinkUp) or [`LinkDown`](super::Event::LinkDown).
    Dial {
        /// Which region server.
        client: ClientId,
        /// The number of the new link.
        link: LinkId,
        /// Where.
        address: SocketAddr,
        /// Not earlier.
        not_before: Moment,
    },
    /// Give up the link, dialed or connected. What is still in its transmit queue may be lost.
    HangUp {
        /// Which region server.
        client: ClientId,
        /// Which link.
        link: LinkId,
    },
    /// Send. Say [`Drained`](super::Event::Drained) when all that was given has (nearly) left.
    Send {
        /// Which region server.
        client: ClientId,
        /// Over which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Seal and hash the blocks of a write; say [`Sealed`](super::Event::Sealed).
    Seal {
        /// For the event.
        write: JobId,
        /// Whole blocks as the guest wrote them.
        data: BytesMut,
    },
    /// Check and open blocks that were read; say [`Opened`](super::Event::Opened). There is one context for
    /// each block, and data for all of them.
    Open {
        /// For the event.
        job: JobId,
        /// For the event.
        client: ClientId,
        /// First block.
        start: BlockIndex,
        /// One for each block.
        contexts: Vec<ReadBlockContext>,
        /// The blocks as they travelled.
        data: Bytes,
    },
    /// The event for this [`Open`](Self::Open) is not wanted any more; it may still be sent.
    Cancel {
        /// As named there.
        job: JobId,
    },
    /// The answer to a request or a command.
    Answer {
        /// Whose.
        token: Token,
        /// What came of it.
        result: Result<Answer, VolumeError>,
    },
    /// Something that an operator may want to know.
    Report(Report),
}

/// What came of a request or a command that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read.
    Read(Plain),
    /// A write: it is taken, and every later read sees it. Durable after the next flush.
    Written,
    /// A flush: all that was written before is on at least two disks. With a snapshot: on three, and there it is.
    Flushed,
    /// The volume is active.
    Activated(Geometry),
    /// The volume is let go.
    Deactivated,
    /// A replacement.
    Replace(ReplaceResult),
    /// Shut down.
    ShutDown,
}

/// What came of a wish to replace a region server. Spec: I/O semantics 3.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceResult {
    /// It begins.
    Started,
    /// It began earlier and goes on.
    StartedAlready,
    /// It was done earlier.
    CompletedAlready,
    /// Neither is in use.
    Missing,
    /// Both are the same.
    VcrMatches,
}

/// Why a request or a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The volume is not active.
    #[error("the volume is not active")]
    Inactive,
    /// The volume is being activated.
    #[error("the volume is being activated already")]
    Activating,
    /// The volume is active already.
    #[error("the volume is active already, at generation {generation}")]
    Active {
        /// Of this activation.
        generation: u64,
    },
    /// The volume is being let go.
    #[error("the volume is being deactivated")]
    Deactivating,
    /// The volume stopped for good reasons; activate it again when they are gone.
    #[error("the volume is stopped: {0}")]
    Stopped(Box<VolumeError>),
    /// A write, or a flush with snapshot, of a read-only volume.
    #[error("the volume is read-only")]
    ReadOnly,
    /// Blocks that do not exist.
    #[error("blocks {start}+{count} reach past the end of a volume of {blocks} blocks")]
    OutOfRange {
        /// First block.
        start: u64,
        /// How many.
        count: u64,
        /// How many there are.
        blocks: u64,
    },
    /// Data that is not whole blocks.
    #[error("{bytes} bytes are not whole blocks of {block_size} bytes")]
    NotWholeBlocks {
        /// As given.
        bytes: usize,
        /// Of the volume.
        block_size: u32,
    },
    /// A single request larger than allowed.
    #[error("a request of {bytes} bytes: at most {max} are taken at once")]
    TooLarge {
        /// As given.
        bytes: u64,
        /// Of the configuration.
        max: usize,
    },
    /// More than there is room for; try again later.
    #[error("too many requests at once")]
    Full,
    /// Too few region servers, for too long; try again later.
    #[error("too few region servers are there; waited {} ms; the same request may succeed later", .waited.as_nanos() / 1_000_000)]
    Unavailable {
        /// How long the request has waited.
        waited: Span,
    },
    /// A flush that is not on two disks: writes that were answered may be lost, and the same flush again would not
    /// bring them back.
    #[error(
        "the flush failed on {failed} of 3 region servers: writes since the last good flush may be lost"
    )]
    FlushFailed {
        /// How many failed or were left out.
        failed: u32,
    },
    /// A snapshot that is not on all three.
    #[error("the snapshot failed on {failed} of 3 region servers")]
    SnapshotFailed {
        /// How many failed or were left out.
        failed: u32,
    },
    /// No region server has these blocks in good state.
    #[error("blocks {start}+{count} are bad on all region servers that were asked: {bad}")]
    BadData {
        /// First block.
        start: u64,
        /// How many.
        count: u64,
        /// What the last one's fault was.
        bad: BadData,
    },
    /// No region server can read these blocks.
    #[error("blocks {start}+{count} cannot be read: {error}")]
    ReadFailed {
        /// First block.
        start: u64,
        /// How many.
        count: u64,
        /// What the last one said.
        error: CrucibleError,
    },
    /// Replicas cannot be made equal before use: who has the newest state of an extent has it with a bad block.
    #[error(
        "extent {extent} is bad on region server {address}, and no other has it in the same state; replace that region \
         server (what only it has is lost), or bring back one that has the extent"
    )]
    BadExtent {
        /// Which.
        extent: ExtentId,
        /// Whose copy was refused.
        address: SocketAddr,
    },
    /// Sealing failed.
    #[error("sealing failed: {0}")]
    SealFailed(String),
    /// Generations begin at 1.
    #[error("generation 0 is not allowed; use 1 or higher")]
    GenerationZero,
    /// Somebody used the volume with this generation or a higher one.
    #[error("generation {requested} is too low: the regions were used at {found} or later; use {} or higher", .found.saturating_add(1))]
    GenerationTooLow {
        /// As asked.
        requested: u64,
        /// On the disks; as requested, where the region servers only refuse and do not say.
        found: u64,
    },
    /// Another upstairs has taken over.
    #[error("another upstairs ({upstairs}) has taken the volume over")]
    TakenOver {
        /// Who, where known.
        upstairs: Uuid,
        /// Its generation, where known.
        generation: Option<u64>,
    },
    /// A region server does not fit.
    #[error("client {client} ({address}): {mismatch}")]
    Mismatch {
        /// Which.
        client: ClientId,
        /// Where.
        address: SocketAddr,
        /// In what.
        mismatch: Mismatch,
    },
    /// A replacement that is not possible now.
    #[error("replacement refused: {0}")]
    ReplaceRefused(String),
    /// Everything was let go.
    #[error("the volume was shut down")]
    ShutDown,
}

/// In what a region does not fit the volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// One is encrypted, the other is not.
    #[error("its region has encryption {theirs}, the volume is configured with {ours}")]
    Encryption {
        /// Of the volume.
        ours: bool,
        /// Of the region.
        theirs: bool,
    },
    /// One is read-only, the other is not.
    #[error("it serves its region with read-only {theirs}, the volume is configured with {ours}")]
    ReadOnly {
        /// Of the volume.
        ours: bool,
        /// Of the region server.
        theirs: bool,
    },
    /// Another shape.
    #[error(
        "its region has {} extents of {} blocks of {} bytes, expected are {} extents of {} blocks of {} bytes",
        theirs.extent_count(), theirs.blocks_per_extent(), theirs.block_size(),
        ours.extent_count(), ours.blocks_per_extent(), ours.block_size()
    )]
    Geometry {
        /// As configured, or of the first region.
        ours: Geometry,
        /// Of this region.
        theirs: Geometry,
    },
    /// A shape that cannot be.
    #[error("its region cannot be: {0}")]
    Impossible(String),
    /// The same region as that of another client.
    #[error(
        "its region {uuid} is the one that client {other} has too; three distinct regions are needed"
    )]
    SameRegion {
        /// The region.
        uuid: Uuid,
        /// Who has it too.
        other: ClientId,
    },
    /// Another region than before.
    #[error("its region is {theirs}, it was {ours} before; a replacement must be asked for")]
    OtherRegion {
        /// As before.
        ours: Uuid,
        /// As now.
        theirs: Uuid,
    },
}

/// News for an operator: who, what, and what happens next.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A region server changed its state.
    Replica {
        /// Which.
        client: ClientId,
        /// Where.
        address: SocketAddr,
        /// What it is now.
        state: ReplicaState,
        /// Why.
        reason: String,
        /// What will happen.
        next: String,
    },
    /// A region server gave data that is not to be believed.
    Integrity {
        /// Which.
        client: ClientId,
        /// Where.
        address: SocketAddr,
        /// First block of the read.
        start: BlockIndex,
        /// Its length in blocks.
        count: u64,
        /// What is wrong.
        bad: BadData,
    },
    /// A region server could not do a job.
    JobFailed {
        /// Which.
        client: ClientId,
        /// Where.
        address: SocketAddr,
        /// Which job.
        job: JobId,
        /// Why.
        error: CrucibleError,
    },
    /// The volume changed its state.
    Volume {
        /// What happened.
        what: String,
    },
}

impl fmt::Display for Report {
    /// One line for people: who, what, why, and what happens next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica {
                client,
                address,
                state,
                reason,
                next,
            } => {
                let state = state.name();
                write!(
                    f,
                    "region server {address} (client {client}) is {state}: {reason}; {next}"
                )
            }
            Self::Integrity {
                client,
                address,
                start,
                count,
                bad,
            } => write!(
                f,
                "region server {address} (client {client}) gave bad data for blocks {start}+{count}: {bad}; the others \
                 are asked"
            ),
            Self::JobFailed {
                client,
                address,
                job,
                error,
            } => write!(
                f,
                "region server {address} (client {client}) failed job {job}: {error}"
            ),
            Self::Volume { what } => f.write_str(what),
        }
    }
}

impl Report {
    /// Whether somebody may have to act: a replica is not of use, or has done something wrong.
    pub const fn is_trouble(&self) -> bool {
        match self {
            Self::Replica { state, .. } => !matches!(
                state,
                ReplicaState::Idle
                    | ReplicaState::Active
                    | ReplicaState::LiveRepair
                    | ReplicaState::Connecting {
                        step: Step::WaitQuorum | Step::Reconcile | Step::LiveRepairReady,
                        ..
                    }
            ),
            Self::Integrity { .. } | Self::JobFailed { .. } => true,
            Self::Volume { .. } => false,
        }
    }
}

impl VolumeError {
    /// The error of the protocol's list that says this best; for the HTTP status of the control interface.
    pub fn as_crucible(&self) -> CrucibleError {
        match self {
            Self::Inactive | Self::ShutDown => CrucibleError::UpstairsInactive,
            Self::Activating | Self::Active { .. } => CrucibleError::UpstairsActivateInProgress,
            Self::Deactivating => CrucibleError::UpstairsDeactivating,
            Self::Stopped(why) => why.as_crucible(),
            Self::ReadOnly => CrucibleError::ModifyingReadOnlyRegion,
            Self::OutOfRange { .. } => CrucibleError::OffsetInvalid,
            Self::NotWholeBlocks { .. } => CrucibleError::DataLenUnaligned,
            Self::TooLarge { .. } => CrucibleError::InvalidNumberOfBlocks(self.to_string()),
            Self::Full | Self::Unavailable { .. } | Self::FlushFailed { .. } => {
                CrucibleError::IoError(self.to_string())
            }
            Self::SnapshotFailed { .. } => CrucibleError::SnapshotFailed(self.to_string()),
            Self::BadData { bad, .. } => match bad {
                BadData::Hash => CrucibleError::HashMismatch,
                BadData::Tag => CrucibleError::DecryptionError,
                BadData::Context => CrucibleError::MissingBlockContext,
                BadData::Length => CrucibleError::IoError(self.to_string()),
            },
            Self::ReadFailed { error, .. } => error.clone(),
            Self::BadExtent { .. } => CrucibleError::RepairFilesInvalid(self.to_string()),
            Self::SealFailed(why) => CrucibleError::EncryptionError(why.clone()),
            Self::GenerationZero => {
                CrucibleError::NegotiationError(NegotiationError::GenerationZeroIsIllegal)
            }
            Self::GenerationTooLow { requested, found } => {
                CrucibleError::NegotiationError(NegotiationError::GenerationNumberTooLow {
                    requested: *requested,
                    actual: found.saturating_add(1),
                })
            }
            Self::TakenOver { .. } => CrucibleError::NoLongerActive,
            Self::Mismatch { mismatch, .. } => match *mismatch {
                Mismatch::Encryption { ours, theirs } => {
                    CrucibleError::NegotiationError(NegotiationError::EncryptionMismatch {
                        expected: ours,
                        actual: theirs,
                    })
                }
                Mismatch::ReadOnly { ours, theirs } => {
                    CrucibleError::NegotiationError(NegotiationError::ReadOnlyMismatch {
                        expected: ours,
                        actual: theirs,
                    })
                }
                _ => CrucibleError::RegionIncompatible(self.to_string()),
            },
            Self::ReplaceRefused(why) => CrucibleError::ReplaceRequestInvalid(why.clone()),
        }
    }

    /// Whether the same request may succeed later, without anybody changing anything. A failed flush is not of that
    /// kind: who tried it again would be told that all is well.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Full | Self::Unavailable { .. })
    }
}
