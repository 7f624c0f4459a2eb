//! All that is said on a connection. The order of the variants is their number on the wire; never reorder them.
//!
//! `U>D` marks what an upstairs says, `D>U` what a region server answers.

use std::net::SocketAddr;

use bytes::Bytes;
use uuid::Uuid;

use crate::context::{BlockContext, ReadBlockContext};
use crate::error::CrucibleError;
use crate::geometry::RegionDefinition;
use crate::ids::{BlockIndex, ClientId, ExtentId, JobId, ReconciliationId, SessionId, UpstairsId};

/// Who speaks: volume and run. Every message about a job carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The volume.
    pub upstairs: UpstairsId,
    /// The run.
    pub session: SessionId,
}

/// All of a write but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteHeader {
    /// Who writes.
    pub key: SessionKey,
    /// The job.
    pub job: JobId,
    /// What must be done before.
    pub dependencies: Vec<JobId>,
    /// First block.
    pub start: BlockIndex,
    /// One for each block; their number is the size of the write.
    pub contexts: Vec<BlockContext>,
}

/// All of the answer to a read but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadResponseHeader {
    /// Who asked.
    pub key: SessionKey,
    /// The job.
    pub job: JobId,
    /// One for each block, or why not.
    pub blocks: Result<Vec<ReadBlockContext>, CrucibleError>,
}

/// What an extent says of itself: which generation and flush it last took in, and whether writes came since.
/// Ordered the way a source of repair is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtentState {
    /// Generation of the last flush.
    pub generation: u64,
    /// Number of the last flush.
    pub flush: u64,
    /// Whether writes came since.
    pub dirty: bool,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// U>D: the first word on a connection.
    HereIAm {
        /// [`crate::MESSAGE_VERSION`].
        version: u32,
        /// Who.
        key: SessionKey,
        /// Of this attachment; higher wins.
        generation: u64,
        /// Only reads will come.
        read_only: bool,
        /// Blocks will come sealed.
        encrypted: bool,
        /// Other versions that would do.
        alternate_versions: Vec<u32>,
    },
    /// D>U: welcome.
    YesItsMe {
        /// The version to speak.
        version: u32,
        /// Where other region servers fetch extents from this one.
        repair_address: SocketAddr,
    },
    /// D>U: no common version.
    VersionMismatch {
        /// The version that would do.
        version: u32,
    },
    /// D>U: the region is served the other way.
    ReadOnlyMismatch {
        /// How it is served.
        expected: bool,
    },
    /// D>U: the region is made the other way.
    EncryptedMismatch {
        /// How it is made.
        expected: bool,
    },
    /// U>D: from now on, mine.
    PromoteToActive {
        /// Who.
        key: SessionKey,
        /// Of this attachment.
        generation: u64,
    },
    /// D>U: yes.
    YouAreNowActive {
        /// As asked.
        key: SessionKey,
        /// As asked.
        generation: u64,
    },
    /// D>U: another has taken over.
    YouAreNoLongerActive {
        /// Who has.
        new_key: SessionKey,
        /// Its generation.
        new_generation: u64,
    },
    /// D>U: a message that is not of this session.
    UuidMismatch {
        /// The upstairs or, when that was right, the session that is active.
        expected: Uuid,
    },
    /// U>D: are you there?
    Ruok,
    /// D>U: yes.
    Imok,
    /// U>D, reconciliation: close an extent.
    ExtentClose {
        /// The step.
        repair: ReconciliationId,
        /// Which.
        extent: ExtentId,
    },
    /// U>D, reconciliation: open it again.
    ExtentReopen {
        /// The step.
        repair: ReconciliationId,
        /// Which.
        extent: ExtentId,
    },
    /// U>D, reconciliation: make what is there durable.
    ExtentFlush {
        /// The step.
        repair: ReconciliationId,
        /// Which.
        extent: ExtentId,
        /// Who is addressed.
        client: ClientId,
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
    },
    /// U>D, reconciliation: replace the extent by that of another region server.
    ExtentRepair {
        /// The step.
        repair: ReconciliationId,
        /// Which.
        extent: ExtentId,
        /// Where from.
        source: ClientId,
        /// Where that serves its extents.
        source_address: SocketAddr,
        /// Who is to do it.
        destinations: Vec<ClientId>,
    },
    /// D>U, reconciliation: done.
    RepairAckId {
        /// The step.
        repair: ReconciliationId,
    },
    /// D>U, reconciliation: it failed.
    ExtentError {
        /// The step.
        repair: ReconciliationId,
        /// Which.
        extent: ExtentId,
        /// Why.
        error: CrucibleError,
    },
    /// U>D, live repair: close an extent as it is.
    ExtentLiveClose {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// Which.
        extent: ExtentId,
    },
    /// U>D, live repair: make an extent durable, then close it.
    ExtentLiveFlushClose {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// Which.
        extent: ExtentId,
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
    },
    /// U>D, live repair: replace the extent by that of another region server.
    ExtentLiveRepair {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// Which.
        extent: ExtentId,
        /// Where from.
        source: ClientId,
        /// Where that serves its extents.
        source_address: SocketAddr,
    },
    /// U>D, live repair: open an extent again.
    ExtentLiveReopen {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// Which.
        extent: ExtentId,
    },
    /// U>D, live repair: nothing; keeps the order.
    ExtentLiveNoOp {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
    },
    /// D>U: closed, in either way.
    ExtentLiveCloseAck {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// The state on disk after closing.
        result: Result<ExtentState, CrucibleError>,
    },
    /// D>U: replaced.
    ExtentLiveRepairAckId {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// D>U: opened again, or nothing done.
    ExtentLiveAckId {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// U>D: what region is this?
    RegionInfoPlease,
    /// D>U: this one.
    RegionInfo(RegionDefinition),
    /// U>D: in what state are the extents?
    ExtentVersionsPlease,
    /// D>U: in these, indexed by extent.
    ExtentVersions {
        /// Generation of the last flush of each.
        generations: Vec<u64>,
        /// Number of the last flush of each.
        flushes: Vec<u64>,
        /// Whether writes came since.
        dirty: Vec<bool>,
    },
    /// U>D: take up again after this flush. Has no answer.
    LastFlush {
        /// The job (not the flush number) of the last flush that was acknowledged.
        last: Option<JobId>,
    },
    /// U>D: write blocks.
    Write {
        /// Everything but the data.
        header: WriteHeader,
        /// The blocks, one after the other.
        data: Bytes,
    },
    /// D>U: written.
    WriteAck {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// U>D: make all that came before durable.
    Flush {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// To be stamped.
        flush: u64,
        /// To be stamped.
        generation: u64,
        /// The name of a snapshot to make afterwards.
        snapshot: Option<String>,
        /// Only extents up to and with this one.
        extent_limit: Option<ExtentId>,
    },
    /// D>U: durable.
    FlushAck {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// U>D: forget what came before.
    Barrier {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
    },
    /// D>U: forgotten.
    BarrierAck {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// U>D: read blocks.
    ReadRequest {
        /// Who.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// What must be done before.
        dependencies: Vec<JobId>,
        /// First block.
        start: BlockIndex,
        /// How many.
        count: u64,
    },
    /// D>U: the blocks.
    ReadResponse {
        /// Everything but the data.
        header: ReadResponseHeader,
        /// The blocks, one after the other; empty on error.
        data: Bytes,
    },
    /// U>D: write those of these blocks that were never written.
    WriteUnwritten {
        /// Everything but the data.
        header: WriteHeader,
        /// The blocks, one after the other.
        data: Bytes,
    },
    /// D>U: written, where nothing was.
    WriteUnwrittenAck {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// How it went.
        result: Result<(), CrucibleError>,
    },
    /// D>U: a job failed.
    ErrorReport {
        /// Who asked.
        key: SessionKey,
        /// The job.
        job: JobId,
        /// Why.
        error: CrucibleError,
    },
    /// Reserved; nobody sends it.
    Unknown {
        /// What it says of itself.
        number: u32,
        /// The rest.
        body: Bytes,
    },
}
