//! The machine's disks as control and an orderly stop see them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::{Class, Disk, Histogram, StatsSnapshot};
use crucible_upstairs::control::metrics;
use crucible_upstairs::core::{self, JobStatus, JobType, VolumeError};
use crucible_upstairs::store::Insight;
use crucible_upstairs::volume::{Volume, block_on};
use vmm::machine::Pc;
use vmm::machine::config::{DeviceConfig, DiskKind, MachineConfig};

use super::api::{
    Bucket, DiskDevice, DiskStatus, Latency, OperationStatus, QueueStatus, RepairProgress,
    ReplaceAnswer, ReplaceRequest, ReplaceResult, ReplicaStatus, VolumeStatus,
};
use super::handle::{Disks, Later, Refusal};
use crate::stop::Storage;
use crate::volumes::Volumes;

/// How long volumes have to say whom they wait for.
const SAY_WITHIN: Duration = Duration::from_secs(1);

/// The disks of one machine, from before it is built. Clones are the same disks.
#[derive(Clone, Debug)]
pub struct DiskHandles(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    /// Those that devices use, once the machine is built.
    built: OnceLock<BTreeMap<String, Disk>>,
    volumes: Volumes,
}

#[derive(Debug)]
struct Entry {
    kind: &'static str,
    path: Option<String>,
    devices: Vec<DiskDevice>,
}

impl DiskHandles {
    /// Those of a machine that will be built from `config`; `volumes` are under some of them.
    pub fn new(config: &MachineConfig, volumes: Volumes) -> Self {
        let entry = |name: &String| {
            let (kind, path) = kind_of(config, &volumes, name);
            let entry = Entry {
                kind,
                path,
                devices: devices_of(config, name),
            };
            (name.clone(), entry)
        };
        let entries = config.disks.keys().map(entry).collect();
        Self(Arc::new(Inner {
            entries,
            built: OnceLock::new(),
            volumes,
        }))
    }

    /// The machine is there: its disks have sizes and counters from now on.
    pub fn built(&self, machine: &Pc) {
        // A machine is built once.
        self.0.built.get_or_init(|| machine.disks().clone());
    }

    /// What there is by now: all disks of the configuration, then those that devices use.
    fn known(&self) -> impl Iterator<Item = (&str, &Entry, Option<&Disk>)> {
        let built = self.0.built.get();
        self.0.entries.iter().filter_map(move |(name, entry)| {
            let disk = built.map(|disks| disks.get(name));
            match disk {
                Some(None) => None,
                disk => Some((name.as_str(), entry, disk.flatten())),
            }
        })
    }

    async fn status(&self, name: &str, entry: &Entry, disk: Option<&Disk>) -> DiskStatus {
        let info = disk.map(Disk::info);
        let stats = disk.map(Disk::stats).unwrap_or_default();
        let volume = match self.0.volumes.get(name) {
            None => None,
            // One volume of a machine is one set of region servers.
            Some(volume) => volume.insights().await.first().map(volume_status),
        };
        DiskStatus {
            name: name.to_owned(),
            kind: entry.kind.to_owned(),
            path: entry.path.clone(),
            devices: entry.devices.clone(),
            size_bytes: info.as_ref().map_or(0, |info| info.size_bytes),
            block_size: info.as_ref().map_or(0, |info| info.block_size),
            read_only: info.as_ref().is_some_and(|info| info.read_only),
            queue: queue_status(&stats),
            operations: operations(&stats),
            volume,
        }
    }

    async fn insights(&self) -> Vec<(String, Insight)> {
        let mut all = Vec::new();
        for (name, volume) in self.0.volumes.iter() {
            let insights = volume.insights().await;
            all.extend(insights.into_iter().map(|it| (name.to_owned(), it)));
        }
        all
    }
}

impl Disks for DiskHandles {
    fn all(&self) -> Later<'_, Vec<DiskStatus>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(self.0.entries.len());
            for (name, entry, disk) in self.known() {
                all.push(self.status(name, entry, disk).await);
            }
            all
        })
    }

    fn one<'a>(&'a self, name: &'a str) -> Later<'a, Option<DiskStatus>> {
        Box::pin(async move {
            let (_, entry, disk) = self.known().find(|it| it.0 == name)?;
            Some(self.status(name, entry, disk).await)
        })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        request: ReplaceRequest,
    ) -> Later<'a, Result<ReplaceAnswer, Refusal>> {
        Box::pin(async move {
            let (_, entry, _) = self.known().find(|it| it.0 == name).ok_or_else(|| {
                Refusal::Unknown(format!("no disk is called {name:?}; GET /disks names them"))
            })?;
            let volume = self.0.volumes.get(name);
            let volume = volume.filter(|volume| !volume.regions().is_empty());
            let volume = volume.ok_or_else(|| {
                let kind = entry.kind;
                Refusal::Conflict(format!(
                    "disk {name:?} is of type {kind}: it has no replicas"
                ))
            })?;
            let ReplaceRequest { old, new } = request;
            tracing::info!(disk = name, %old, %new, "replacing a region server");
            match volume.replace(old, new).await {
                Ok(result) => replaced(name, request, result),
                Err(error) => Err(Refusal::Conflict(error.to_string())),
            }
        })
    }

    fn volume_metrics(&self) -> Later<'_, String> {
        Box::pin(async move {
            let insights = self.insights().await;
            let statuses: Vec<core::Status> =
                insights.iter().map(|(_, it)| it.status.clone()).collect();
            let mut text = String::new();
            if !statuses.is_empty() {
                text.push_str(
                    "# HELP trivet_disk_volume Which volume is under a disk; the value is 1.\n\
                     # TYPE trivet_disk_volume gauge\n",
                );
                for (name, insight) in &insights {
                    let volume = insight.status.key.upstairs;
                    text.push_str(&format!(
                        "trivet_disk_volume{{disk=\"{name}\",volume=\"{volume}\"}} 1\n"
                    ));
                }
                text.push_str(&metrics(&statuses));
            }
            text
        })
    }
}

fn replaced(
    disk: &str,
    request: ReplaceRequest,
    result: core::ReplaceResult,
) -> Result<ReplaceAnswer, Refusal> {
    let result = match result {
        core::ReplaceResult::Started => ReplaceResult::Started,
        core::ReplaceResult::StartedAlready => ReplaceResult::StartedAlready,
        core::ReplaceResult::CompletedAlready => ReplaceResult::CompletedAlready,
        core::ReplaceResult::VcrMatches => ReplaceResult::NoChange,
        core::ReplaceResult::Missing => {
            let old = request.old;
            return Err(Refusal::Conflict(format!(
                "disk {disk:?} does not use {old}; GET /disks/{disk} shows the region servers that it uses"
            )));
        }
    };
    Ok(ReplaceAnswer { result })
}

fn kind_of(
    config: &MachineConfig,
    volumes: &Volumes,
    name: &str,
) -> (&'static str, Option<String>) {
    match config.disks.get(name).map(|disk| &disk.kind) {
        Some(DiskKind::File { path, .. }) => ("file", Some(path.display().to_string())),
        Some(DiskKind::Memory { .. }) => ("mem-async", None),
        Some(DiskKind::Null { .. }) => ("null", None),
        Some(DiskKind::Image(_)) => ("cloudinit", None),
        Some(DiskKind::Given) | None => match volumes.get(name).map(Volume::regions) {
            Some([]) => ("crucible-mem", None),
            _ => ("crucible", None),
        },
    }
}

fn devices_of(config: &MachineConfig, disk: &str) -> Vec<DiskDevice> {
    let device = |(name, device): (&String, &DeviceConfig)| {
        let (driver, under, path) = match device {
            DeviceConfig::Nvme { disk, path } => ("pci-nvme", disk, path),
            DeviceConfig::VirtioBlock { disk, path } => ("pci-virtio-block", disk, path),
            DeviceConfig::VirtioRng { .. }
            | DeviceConfig::Pvpanic
            | DeviceConfig::DebugExit { .. } => return None,
        };
        (under == disk).then(|| DiskDevice {
            name: name.clone(),
            driver: driver.to_owned(),
            pci_path: path.to_string(),
        })
    };
    config.devices.iter().filter_map(device).collect()
}

fn queue_status(stats: &StatsSnapshot) -> QueueStatus {
    QueueStatus {
        in_flight: stats.in_flight,
        in_flight_max: stats.in_flight_max,
        batches: stats.batches,
        throttled: stats.throttled,
    }
}

fn operations(stats: &StatsSnapshot) -> BTreeMap<String, OperationStatus> {
    let operation = |class: Class| {
        let counts = stats.class(class);
        let status = OperationStatus {
            completed: counts.completed,
            bytes: counts.bytes,
            failed: counts.failed,
            latency: latency(&counts.latency),
        };
        (class.name().to_owned(), status)
    };
    Class::ALL.into_iter().map(operation).collect()
}

fn latency(histogram: &Histogram) -> Latency {
    let at = |percent| histogram.percentile(percent).as_nanos();
    let buckets = histogram.buckets().iter().enumerate();
    Latency {
        count: histogram.count(),
        p50_ns: at(50.0),
        p99_ns: at(99.0),
        p999_ns: at(99.9),
        buckets: buckets
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| Bucket {
                // The last one has no upper bound.
                below_ns: 2_u64
                    .checked_shl(index as u32)
                    .filter(|it| *it > 0)
                    .unwrap_or(u64::MAX),
                count,
            })
            .collect(),
    }
}

fn volume_status(insight: &Insight) -> VolumeStatus {
    let status = &insight.status;
    VolumeStatus {
        upstairs_id: status.key.upstairs.to_string(),
        phase: status.phase.name().to_owned(),
        generation: status.generation,
        encrypted: status.encrypted,
        guest_jobs: status.guest_jobs as u64,
        jobs: status.jobs as u64,
        bytes: status.bytes as u64,
        stopped: status.stopped.as_ref().map(VolumeError::to_string),
        replicas: status.replicas.iter().map(replica_status).collect(),
    }
}

fn replica_status(replica: &core::ReplicaStatus) -> ReplicaStatus {
    ReplicaStatus {
        address: replica.address,
        state: replica.state.name().to_owned(),
        next: replica.state.outlook().to_owned(),
        leaving_for: replica.leaving_for,
        region: replica.region.map(|region| region.to_string()),
        repair_address: replica.repair_address,
        last_loss: replica.last_loss.clone(),
        repair: replica.repair.map(|it| RepairProgress {
            done: it.done,
            total: it.total,
        }),
        jobs: replica.jobs as u64,
        queued: replica.queued as u64,
        reads: replica.reads as u64,
        bytes: replica.bytes as u64,
        read_latency_ns: replica.read_latency.as_nanos(),
        write_latency_ns: replica.write_latency.as_nanos(),
        flush_latency_ns: replica.flush_latency.as_nanos(),
        counters: counters(&replica.counters),
    }
}

fn counters(counters: &core::ReplicaCounters) -> BTreeMap<String, u64> {
    let all = [
        ("connected", counters.connected),
        ("faulted", counters.faulted),
        ("replays", counters.replays),
        ("replayed_jobs", counters.replayed_jobs),
        ("reads", counters.reads),
        ("late_reads", counters.late_reads),
        ("bad_reads", counters.bad_reads),
        ("errors", counters.errors),
        ("extents_repaired", counters.extents_repaired),
        ("extents_confirmed", counters.extents_confirmed),
        ("live_repairs_completed", counters.live_repairs_completed),
        ("live_repairs_aborted", counters.live_repairs_aborted),
    ];
    all.map(|(name, count)| (name.to_owned(), count)).into()
}

impl Storage for DiskHandles {
    fn waits_for(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, _, disk) in self.known() {
            let in_flight = disk.map_or(0, |disk| disk.stats().in_flight);
            if in_flight > 0 {
                let requests = counted(in_flight, "request", "requests");
                lines.push(format!("disk {name:?}: {requests} of the guest unanswered"));
            }
        }
        // Whoever hangs must not hang us: the question is left behind when nobody answers.
        let (sender, answer) = std::sync::mpsc::channel();
        let asked = self.clone();
        let thread = std::thread::Builder::new().name("last-question".to_owned());
        let asking = thread.spawn(move || sender.send(block_on(asked.insights())));
        match asking.map(|_| answer.recv_timeout(SAY_WITHIN)) {
            Ok(Ok(insights)) => {
                for (name, insight) in insights {
                    lines.extend(unflushed(&name, &insight));
                }
            }
            _ => lines.push("the volumes do not say whom they wait for".to_owned()),
        }
        lines
    }

    fn give_up(&self) {
        let volumes = self.0.volumes.clone();
        let thread = std::thread::Builder::new().name("give-up".to_owned());
        if let Err(error) = thread.spawn(move || volumes.shut_down()) {
            tracing::error!(%error, "no thread to let go of the volumes");
        }
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Who of the region servers keeps a volume waiting, and what that means for the data.
fn unflushed(disk: &str, insight: &Insight) -> Vec<String> {
    let status = &insight.status;
    let mut lines = Vec::new();
    for (index, replica) in status.replicas.iter().enumerate() {
        let open = |of: &dyn Fn(JobType) -> bool| {
            let left = |job: &&JobStatus| {
                of(job.kind) && job.states.get(index).is_some_and(|it| !it.is_finished())
            };
            insight.work.iter().filter(left).count() as u64
        };
        let writes = open(&|kind| matches!(kind, JobType::Write | JobType::WriteUnwritten));
        let flushes = open(&|kind| kind == JobType::Flush);
        let state = replica.state;
        if writes + flushes == 0 && state == core::ReplicaState::Active {
            continue;
        }
        let loss = replica.last_loss.as_deref();
        let loss = loss.map_or_else(String::new, |loss| format!(", last loss: {loss}"));
        lines.push(format!(
            "disk {disk:?}: {} ({}: {}{loss}) has not confirmed {} with {} bytes, and {}",
            replica.address,
            state.name(),
            state.outlook(),
            counted(writes, "write", "writes"),
            replica.bytes,
            counted(flushes, "flush", "flushes"),
        ));
    }
    let unsafe_writes = insight.work.iter().filter(|job| is_unsafe(job)).count() as u64;
    if unsafe_writes > 0 {
        lines.push(format!(
            "disk {disk:?}: {} with less than two copies: not safe",
            counted(unsafe_writes, "write is", "writes are")
        ));
    }
    lines
}

/// A write that fewer than two region servers have confirmed.
fn is_unsafe(job: &JobStatus) -> bool {
    let writes = matches!(job.kind, JobType::Write | JobType::WriteUnwritten);
    let done = |state: &&core::JobState| **state == core::JobState::Done;
    writes && job.states.iter().filter(done).count() < 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_types::Span;

    #[test]
    fn a_histogram_keeps_its_bounds_to_the_last_bucket() {
        let mut histogram = Histogram::default();
        for nanos in [0, 1, 2, 1000, u64::MAX] {
            histogram.record(Span::from_nanos(nanos));
        }
        let latency = latency(&histogram);
        let buckets: Vec<(u64, u64)> = latency
            .buckets
            .iter()
            .map(|bucket| (bucket.below_ns, bucket.count))
            .collect();
        assert_eq!(buckets, [(2, 2), (4, 1), (1024, 1), (u64::MAX, 1)]);
        assert_eq!(latency.count, 5);
        assert!(latency.p50_ns <= 4, "{latency:?}");
    }
}
