//! What control answers and takes, as types; `openapi.json` describes the same for other languages.
//!
//! Serialised by the server, read by `standalone ctl`. Fields are never renamed and never go: what a script reads
//! today, it reads tomorrow. Times are nanoseconds, sizes are bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Longest time that a guest may be given to switch itself off: a day, in seconds.
pub const STOP_DEADLINE_MAX: u64 = 86_400;

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Waits for its disks' region servers; not built yet.
    Starting,
    /// Built; waits for the first client on its serial console.
    Created,
    /// The guest runs.
    Running,
    /// On its way to stand still.
    Pausing,
    /// vCPUs and devices stand still.
    Paused,
    /// On its way to a fresh start.
    Resetting,
    /// On its way to its end.
    Stopping,
    /// Nothing runs any more; the program is about to end.
    Ended,
}

impl MachineState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Created,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resetting,
        Self::Stopping,
        Self::Ended,
    ];

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resetting => "resetting",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }

    /// There is no way back from here.
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Stopping | Self::Ended)
    }
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `GET /machine`, and the answer to every order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: MachineState,
    /// How often the guest has been started: 1, and one more for each reset.
    pub boots: u64,
    /// An orderly stop that is under way.
    pub stop: Option<StopStatus>,
    /// What executes the guest.
    pub hypervisor: String,
    /// `host` or `virtual`.
    pub clock: String,
    /// vCPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_bytes: u64,
    /// The serial console's socket.
    pub serial: String,
    /// The process.
    pub pid: u32,
    /// Since the process began with the machine, in seconds.
    pub uptime_seconds: f64,
    /// Of the program.
    pub version: String,
}

/// How far an orderly stop is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStatus {
    /// Who asked: `signal 15`, `control`.
    pub asked_by: String,
    /// Whom it waits for.
    pub waits_for: StopPhase,
    /// Whole seconds until it goes on without.
    pub seconds_left: u64,
}

/// Whom an orderly stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPhase {
    /// The guest, which heard its power button.
    Guest,
    /// Disks: what is under way, and what is to be flushed.
    Storage,
}

/// `GET /disks/{name}`; `GET /disks` answers a list of them, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The name of its `[block_dev]` table.
    pub name: String,
    /// What the bytes are kept on: `file`, `mem-async`, `null`, `cloudinit`, `crucible`, `crucible-mem`.
    pub kind: String,
    /// The path of a file.
    pub path: Option<String>,
    /// The devices in front of it.
    pub devices: Vec<DiskDevice>,
    /// Size. 0 while the machine is starting: then it is not known.
    pub size_bytes: u64,
    /// Logical block. 0 while the machine is starting.
    pub block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// What its queues do.
    pub queue: QueueStatus,
    /// By kind of request: `read`, `write`, `flush`, `discard`, `check`.
    pub operations: BTreeMap<String, OperationStatus>,
    /// Of a disk on region servers.
    pub volume: Option<VolumeStatus>,
}

/// A device in front of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDevice {
    /// The name of its `[dev]` table.
    pub name: String,
    /// `pci-nvme` or `pci-virtio-block`.
    pub driver: String,
    /// Bus, slot and function.
    pub pci_path: String,
}

/// Requests between devices and a disk, all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Under way now.
    pub in_flight: u64,
    /// The most that one queue ever had under way.
    pub in_flight_max: u64,
    /// Times that something was fetched.
    pub batches: u64,
    /// Times that a rate limit held a queue back.
    pub throttled: u64,
}

/// Sums over one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Requests that ended well.
    pub completed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that ended otherwise.
    pub failed: u64,
    /// How long they took.
    pub latency: Latency,
}

/// A histogram, and what one mostly wants to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer. Percentiles are exact to a factor of two.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub p999_ns: u64,
    /// By powers of two; empty ones are left out.
    pub buckets: Vec<Bucket>,
}

/// One step of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// These took less than this, and at least half of it.
    pub below_ns: u64,
    /// How many.
    pub count: u64,
}

/// The volume under a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The upstairs' identifier.
    pub upstairs_id: String,
    /// `initializing`, `active`, `deactivating`.
    pub phase: String,
    /// Of this activation.
    pub generation: u64,
    /// Blocks are sealed.
    pub encrypted: bool,
    /// Requests of the guest that wait for their answer.
    pub guest_jobs: u64,
    /// Jobs in flight, or kept for replay.
    pub jobs: u64,
    /// Bytes of data that are kept for them.
    pub bytes: u64,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
    /// The region servers.
    pub replicas: Vec<ReplicaStatus>,
}

/// One region server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Where.
    pub address: SocketAddr,
    /// One word: `active`, `repairing`, `reconciling`, `connecting`, `offline`, `faulted`, `replaced`, `idle`.
    pub state: String,
    /// What happens next, for people.
    pub next: String,
    /// Who will take its place when what it holds is safe without it.
    pub leaving_for: Option<SocketAddr>,
    /// Its region.
    pub region: Option<String>,
    /// Where it serves extents for repairs.
    pub repair_address: Option<SocketAddr>,
    /// Why the last connection ended.
    pub last_loss: Option<String>,
    /// How far it is with being made equal to the others.
    pub repair: Option<RepairProgress>,
    /// Jobs that it has not answered, reads apart.
    pub jobs: u64,
    /// Jobs of these that wait for their turn to be sent.
    pub queued: u64,
    /// Reads that it has not answered.
    pub reads: u64,
    /// Bytes of writes that it has not answered.
    pub bytes: u64,
    /// How long a read takes there, about.
    pub read_latency_ns: u64,
    /// How long a write takes there, about.
    pub write_latency_ns: u64,
    /// How long a flush takes there, about.
    pub flush_latency_ns: u64,
    /// Sums since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

/// How far a repair is, in extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairProgress {
    /// Copied, or found equal.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// The body of `POST /machine/stop`; none at all is the same as `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Seconds that the guest has to switch itself off; 0 asks it nothing. Not given: `[main] "stop_deadline"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
}

/// The body of `POST /disks/{name}/replace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// The region server that goes.
    pub old: SocketAddr,
    /// The one that takes its place, with a region of its own.
    pub new: SocketAddr,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceAnswer {
    /// What came of it.
    pub result: ReplaceResult,
}

/// What came of a wish to replace a region server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplaceResult {
    /// It begins; the replica's `state` and `repair` tell how far it is.
    Started,
    /// It had begun before.
    StartedAlready,
    /// It had come to its end before.
    CompletedAlready,
    /// Old and new are the same.
    NoChange,
}

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, and what to do about it.
    pub message: String,
}
