//! Errors as they cross the wire. The order of the variants is their number there; never reorder them.

use uuid::Uuid;

use crate::ids::{BlockIndex, ExtentId};

/// Why something failed, as one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrucibleError {
    /// Something that has no number of its own.
    #[error("{0}")]
    GenericError(String),
    /// The disk of the region server failed.
    #[error("I/O error: {0}")]
    IoError(String),
    /// The peer cannot do this at all.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The connection is gone.
    #[error("disconnected")]
    Disconnect,
    /// A lock in the peer was poisoned.
    #[error("data lock failed")]
    DataLockError,
    /// A lock in the peer was poisoned.
    #[error("lock failed: {0}")]
    RwLockError(String),
    /// A channel in the peer is gone.
    #[error("receiver is gone")]
    RecvDisconnected,
    /// A channel in the peer is gone.
    #[error("sending failed: {0}")]
    SendError(String),
    /// An offset is not a multiple of the block size.
    #[error("offset is not aligned to blocks")]
    OffsetUnaligned,
    /// A length is not a multiple of the block size.
    #[error("length is not a multiple of the block size")]
    DataLenUnaligned,
    /// Two block sizes that should be equal are not.
    #[error("block sizes differ")]
    BlockSizeMismatch,
    /// A count of blocks that cannot be.
    #[error("invalid number of blocks: {0}")]
    InvalidNumberOfBlocks(String),
    /// Past the end.
    #[error("offset is outside of the region")]
    OffsetInvalid,
    /// Activation is already going on.
    #[error("activation is in progress")]
    UpstairsActivateInProgress,
    /// The volume is being let go.
    #[error("the upstairs is deactivating")]
    UpstairsDeactivating,
    /// The volume is not active.
    #[error("the upstairs is not active")]
    UpstairsInactive,
    /// Somebody else has the region.
    #[error("the uuid does not match")]
    UuidMismatch,
    /// Sealing failed.
    #[error("encryption failed: {0}")]
    EncryptionError(String),
    /// A tag does not fit its block: corrupt, or another key.
    #[error("decryption failed")]
    DecryptionError,
    /// A hash does not fit its block.
    #[error("a block does not match its hash")]
    HashMismatch,
    /// Two parts of a volume overlap.
    #[error("parts of the volume overlap")]
    LbaRangeOverlap,
    /// Parts of a volume have sizes that do not fit.
    #[error("sub-volume sizes do not match")]
    SubvolumeSizeMismatch,
    /// Parts of a volume are of kinds that do not fit.
    #[error("sub-volume types do not match")]
    SubvolumeTypeMismatch,
    /// Nobody has these blocks.
    #[error("cannot serve blocks: {0}")]
    CannotServeBlocks(String),
    /// Nobody takes these blocks.
    #[error("cannot receive blocks: {0}")]
    CannotReceiveBlocks(String),
    /// No snapshot was made.
    #[error("snapshot failed: {0}")]
    SnapshotFailed(String),
    /// A write to what may only be read.
    #[error("the region is read-only")]
    ModifyingReadOnlyRegion,
    /// No such extent.
    #[error("no such extent")]
    InvalidExtent,
    /// A repair could not begin.
    #[error("repair request failed: {0}")]
    RepairRequestError(String),
    /// The source of a repair offers files that it should not.
    #[error("wrong files for repair: {0}")]
    RepairFilesInvalid(String),
    /// A repair broke off.
    #[error("repair broke off: {0}")]
    RepairStreamError(String),
    /// A generation number that cannot be.
    #[error("the generation number is invalid")]
    GenerationNumberInvalid,
    /// Somebody with a higher generation has taken over.
    #[error("no longer active: another upstairs has taken over")]
    NoLongerActive,
    /// The three regions do not fit together.
    #[error("the regions do not make a volume")]
    RegionAssembleError,
    /// Not known before activation.
    #[error("not available yet: {0}")]
    PropertyNotAvailable(String),
    /// This replacement is not possible now.
    #[error("replacement refused: {0}")]
    ReplaceRequestInvalid(String),
    /// A block fits neither of its contexts.
    #[error("block {block} of extent {extent} fits neither of its contexts")]
    MissingContextSlot {
        /// The block, counted within its extent.
        block: BlockIndex,
        /// The extent.
        extent: ExtentId,
    },
    /// Metadata of an extent cannot be read.
    #[error("bad extent metadata: {0}")]
    BadMetadata(String),
    /// A context of an extent cannot be read.
    #[error("bad context slot: {0}")]
    BadContextSlot(String),
    /// A block holds data but has no context.
    #[error("a block has data but no context")]
    MissingBlockContext,
    /// Two regions cannot be used for each other.
    #[error("incompatible region: {0}")]
    RegionIncompatible(String),
    /// The peers did not come to terms.
    #[error("negotiation failed: {0}")]
    NegotiationError(NegotiationError),
}

/// Why two peers did not come to terms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// A message at the wrong time.
    #[error("a message came out of order")]
    OutOfOrder,
    /// Generations begin at 1.
    #[error("generation 0 is not allowed")]
    GenerationZeroIsIllegal,
    /// An older upstairs than the one that was last here.
    #[error("generation {requested} is too low: {actual} is needed")]
    GenerationNumberTooLow {
        /// What was asked for.
        requested: u64,
        /// The least that would do.
        actual: u64,
    },
    /// Versions of the protocol that do not meet.
    #[error("message version {actual} where {expected} is spoken")]
    IncompatibleVersion {
        /// Ours.
        expected: u32,
        /// Theirs.
        actual: u32,
    },
    /// One side encrypts, the other does not.
    #[error("encryption: expected {expected}, found {actual}")]
    EncryptionMismatch {
        /// Ours.
        expected: bool,
        /// Theirs.
        actual: bool,
    },
    /// One side is read-only, the other is not.
    #[error("read-only: expected {expected}, found {actual}")]
    ReadOnlyMismatch {
        /// Ours.
        expected: bool,
        /// Theirs.
        actual: bool,
    },
    /// A message for another volume.
    #[error("upstairs {actual} where {expected} was expected")]
    UpstairsIdMismatch {
        /// Ours.
        expected: Uuid,
        /// Theirs.
        actual: Uuid,
    },
    /// A message for another session.
    #[error("session {actual} where {expected} was expected")]
    SessionIdMismatch {
        /// Ours.
        expected: Uuid,
        /// Theirs.
        actual: Uuid,
    },
}
