//! What an upstairs tells of itself. Spec: volume layer, section 7 (`VolumeInfo`, `GET /info`, `GET /work`).

use std::net::SocketAddr;

use crucible_protocol::{BlockIndex, ExtentId, Geometry, JobId, SessionKey};
use uuid::Uuid;
use vm_types::Span;

/// How many more requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Requests.
    pub jobs: usize,
    /// Bytes of reads and writes together.
    pub bytes: usize,
}

/// Where the volume stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not wanted, or stopped. Prints as `initializing`, as does [`Self::Activating`].
    Inactive,
    /// On the way up.
    Activating,
    /// In use.
    Active,
    /// On the way down.
    Deactivating,
}

/// Where one region server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Nobody wants it: the volume is not active.
    Idle,
    /// On the way to be of use.
    Connecting {
        /// What it will have to catch up with.
        mode: Mode,
        /// How far it is.
        step: Step,
    },
    /// In use.
    Active,
    /// In use for what is repaired already.
    LiveRepair,
}

/// What a region server has to catch up with when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The volume is not active yet; it takes part in activation.
    New,
    /// A short absence: jobs are replayed.
    Offline,
    /// It missed jobs, or failed: live repair.
    Faulted,
    /// Another region server has taken its place: live repair.
    Replaced,
}

/// How far a connection is. Spec: negotiation 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Being dialed.
    WaitConnect,
    /// Greeted; waits for the welcome.
    Start,
    /// Waits to be promoted.
    WaitForPromote,
    /// Waits for the definition of the region.
    WaitForRegionInfo,
    /// Waits for the state of the extents.
    GetExtentVersions,
    /// Ready; waits for the others.
    WaitQuorum,
    /// Is being made equal to the others.
    Reconcile,
    /// Ready; waits for live repair to begin.
    LiveRepairReady,
}

/// How far something is, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// To do in all.
    pub total: u64,
}

/// All that is told of the volume.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// Who we are.
    pub key: SessionKey,
    /// Of this activation, or the last one.
    pub generation: u64,
    /// Once it is known.
    pub geometry: Option<Geometry>,
    /// As configured.
    pub read_only: bool,
    /// As configured.
    pub encrypted: bool,
    /// The region servers.
    pub replicas: [ReplicaStatus; 3],
    /// Requests of the guest that wait for their answer.
    pub guest_jobs: usize,
    /// Jobs that are known: in flight, or kept for replay.
    pub jobs: usize,
    /// Bytes of data that is kept.
    pub bytes: usize,
    /// Extents that the running or last reconciliation has done, and how many it has to do.
    pub reconcile: (u64, u64),
    /// Whether a reconciliation is running.
    pub reconciling: bool,
    /// Whether a live repair is running.
    pub live_repairing: bool,
    /// The number that the next flush gets.
    pub next_flush: u64,
    /// Why the volume stopped, if it did.
    pub stopped: Option<super::VolumeError>,
    /// Sums since the start.
    pub counters: Counters,
}

/// All that is told of one region server.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Where.
    pub address: SocketAddr,
    /// Who will take its place as soon as the others have what was flushed with its help.
    pub leaving_for: Option<SocketAddr>,
    /// Its region, once it is known.
    pub region: Option<Uuid>,
    /// Where it serves its extents, once it is known.
    pub repair_address: Option<SocketAddr>,
    /// Where it stands.
    pub state: ReplicaState,
    /// Why the last connection ended.
    pub last_loss: Option<String>,
    /// How far it is with being made equal to the others: by live repair, or by reconciliation before use.
    pub repair: Option<Progress>,
    /// Jobs (but no reads) that it has not answered.
    pub jobs: usize,
    /// Bytes of writes that it has not answered.
    pub bytes: usize,
    /// Jobs of these that wait here for their turn to be sent.
    pub queued: usize,
    /// Reads that it has not answered.
    pub reads: usize,
    /// The last extent that guest I/O goes to while it is repaired.
    pub extent_limit: Option<ExtentId>,
    /// How long a read takes there, about.
    pub read_latency: Span,
    /// How long a write takes there, about: from when it came to us, with the wait for the link.
    pub write_latency: Span,
    /// How long a flush takes there, about.
    pub flush_latency: Span,
    /// Sums since the start.
    pub counters: ReplicaCounters,
}

/// Sums over one region server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounters {
    /// Connections that were made.
    pub connected: u64,
    /// Times it was given up.
    pub faulted: u64,
    /// Replays.
    pub replays: u64,
    /// Jobs that were replayed.
    pub replayed_jobs: u64,
    /// Reads that were asked of it.
    pub reads: u64,
    /// Reads that were asked of another since it was late.
    pub late_reads: u64,
    /// Reads whose data was not to be believed.
    pub bad_reads: u64,
    /// Jobs that it failed.
    pub errors: u64,
    /// Extents that were copied to it by live repair.
    pub extents_repaired: u64,
    /// Extents that live repair found equal.
    pub extents_confirmed: u64,
    /// Live repairs that came to their end.
    pub live_repairs_completed: u64,
    /// Live repairs that broke off.
    pub live_repairs_aborted: u64,
}

/// Sums over the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads of the guest.
    pub reads: u64,
    /// Bytes of these.
    pub read_bytes: u64,
    /// Writes of the guest.
    pub writes: u64,
    /// Bytes of these.
    pub write_bytes: u64,
    /// Writes of the guest that became part of another's job.
    pub merged_writes: u64,
    /// Flushes of the guest.
    pub flushes: u64,
    /// Flushes of our own.
    pub auto_flushes: u64,
    /// Barriers.
    pub barriers: u64,
    /// Reads that were asked of a second region server.
    pub hedged_reads: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// One job, as `GET /work` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// The job.
    pub id: JobId,
    /// What it does.
    pub kind: JobType,
    /// Whether it was sent again to somebody.
    pub replay: bool,
    /// The first of its blocks; 0 for what is about all.
    pub start: BlockIndex,
    /// Blocks that it is about.
    pub blocks: u64,
    /// What it waits for, as one list for all three: of the jobs that are known, those that must be done before it.
    pub dependencies: Vec<JobId>,
    /// Whether the guest has its answer (or nobody waits for one).
    pub acked: bool,
    /// Where it stands on each region server.
    pub states: [JobState; 3],
}

/// What a job does. The names are those of `GET /work`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobType {
    /// `Read`
    Read,
    /// `Write`
    Write,
    /// `WriteU`
    WriteUnwritten,
    /// `Flush`
    Flush,
    /// `Barrier`
    Barrier,
    /// `FClose`
    Close,
    /// `Repair`
    Repair,
    /// `NoOp`
    NoOp,
    /// `Reopen`
    Reopen,
}

/// Where a job stands on one region server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobState {
    /// Not sent yet: waits for the cipher, for its turn, or for the region server to come back.
    #[default]
    Waiting,
    /// Sent.
    Sent,
    /// Done.
    Done,
    /// Not meant for this region server.
    Skipped,
    /// It failed there.
    Failed,
}

impl JobState {
    /// Nothing more is to come.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Skipped | Self::Failed)
    }

    /// As `GET /work` shows it. The reference knows no waiting jobs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "Wait",
            Self::Sent => "Sent",
            Self::Done => "Done",
            Self::Skipped => "Skip",
            Self::Failed => " Err",
        }
    }
}

impl JobType {
    /// As `GET /work` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::WriteUnwritten => "WriteU",
            Self::Flush => "Flush",
            Self::Barrier => "Barrier",
            Self::Close => "FClose",
            Self::Repair => "Repair",
            Self::NoOp => "NoOp",
            Self::Reopen => "Reopen",
        }
    }
}

impl ReplicaState {
    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::LiveRepair => "repairing",
            Self::Connecting {
                step: Step::Reconcile,
                ..
            } => "reconciling",
            Self::Connecting { mode, .. } => match mode {
                Mode::New => "connecting",
                Mode::Offline => "offline",
                Mode::Faulted => "faulted",
                Mode::Replaced => "replaced",
            },
        }
    }

    /// What will happen next.
    pub const fn outlook(self) -> &'static str {
        match self {
            Self::Idle => "nothing is wanted of it",
            Self::Active => "it is used",
            Self::LiveRepair => {
                "it is made equal to the others, extent by extent, while the volume is used"
            }
            Self::Connecting { mode, step } => match (step, mode) {
                (Step::LiveRepairReady, _) => "it waits for live repair",
                (Step::WaitQuorum, _) => "it waits for the others",
                (Step::Reconcile, _) => "it is made equal to the others, and then used",
                (_, Mode::New) => "it is dialed; activation waits for it",
                (_, Mode::Offline) => "it is dialed; what it missed will be replayed",
                (_, Mode::Faulted | Mode::Replaced) => "it is dialed; live repair will follow",
            },
        }
    }
}

impl Step {
    /// As `VolumeInfo` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitConnect => "wait_connect",
            Self::Start
            | Self::WaitForPromote
            | Self::WaitForRegionInfo
            | Self::GetExtentVersions => "negotiating",
            Self::WaitQuorum => "wait_quorum",
            Self::Reconcile => "reconcile",
            Self::LiveRepairReady => "live_repair_ready",
        }
    }
}

impl Mode {
    /// As `VolumeInfo` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Offline => "offline",
            Self::Faulted => "faulted",
            Self::Replaced => "replaced",
        }
    }
}

impl Phase {
    /// As `GET /info` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inactive | Self::Activating => "initializing",
            Self::Active => "active",
            Self::Deactivating => "deactivating",
        }
    }
}
