//! Answers as tables for people.

use crate::control::api::{
    DiskStatus, MachineStatus, OperationStatus, ReplicaStatus, StopPhase, VolumeStatus,
};

use super::table::{Table, bytes, seconds, span};

/// `status`.
pub(super) fn machine(status: &MachineStatus) -> String {
    let mut table = Table::bare();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("name", status.name.clone());
    row("state", status.state.to_string());
    if status.stop.is_some() {
        row("stop", stopping(status));
    }
    row("boots", status.boots.to_string());
    row("uptime", seconds(status.uptime_seconds));
    row("cpus", status.cpus.to_string());
    row("memory", bytes(status.memory_bytes));
    row("hypervisor", status.hypervisor.clone());
    row("clock", status.clock.clone());
    row("serial", status.serial.clone());
    row("process", status.pid.to_string());
    row("version", status.version.clone());
    table.text()
}

/// How far a stop is, in one line.
pub(super) fn stopping(status: &MachineStatus) -> String {
    match &status.stop {
        None => format!("{}: {}", status.name, status.state),
        Some(stop) => {
            let whom = match stop.waits_for {
                StopPhase::Guest => "the guest has",
                StopPhase::Storage => "storage has",
            };
            let (by, left) = (&stop.asked_by, stop.seconds_left);
            format!("asked by {by}; {whom} {left} s left")
        }
    }
}

/// `disks`.
pub(super) fn disks(disks: &[DiskStatus]) -> String {
    if disks.is_empty() {
        return "no disks\n".to_owned();
    }
    let mut table = Table::new(&[
        "DISK",
        "KIND",
        "SIZE",
        "DEVICE",
        "QUEUE",
        "READS",
        "WRITES",
        "FLUSHES",
        "FAILED",
        "READ p50/p99",
        "WRITE p50/p99",
        "FLUSH p50/p99",
    ]);
    for disk in disks {
        let device = disk.devices.first();
        let completed = |name: &str| operation(disk, name).map_or(0, |it| it.completed);
        let failed = failed(disk);
        let latency = |name: &str| match operation(disk, name) {
            Some(it) if it.latency.count > 0 => {
                format!("{} / {}", span(it.latency.p50_ns), span(it.latency.p99_ns))
            }
            _ => "-".to_owned(),
        };
        table.row([
            disk.name.clone(),
            disk.kind.clone(),
            bytes(disk.size_bytes),
            device.map_or_else(
                || "-".to_owned(),
                |it| format!("{} {}", it.driver, it.pci_path),
            ),
            disk.queue.in_flight.to_string(),
            completed("read").to_string(),
            completed("write").to_string(),
            completed("flush").to_string(),
            failed.to_string(),
            latency("read"),
            latency("write"),
            latency("flush"),
        ]);
    }
    let mut text = table.text();
    let volumes = || {
        disks
            .iter()
            .filter_map(|disk| Some((disk, disk.volume.as_ref()?)))
    };
    if volumes().next().is_some() {
        text.push('\n');
        text.push_str(&replicas(volumes()));
    }
    text
}

/// `disks NAME`.
pub(super) fn disk(disk: &DiskStatus) -> String {
    let mut table = Table::bare();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("name", disk.name.clone());
    row("kind", disk.kind.clone());
    if let Some(path) = &disk.path {
        row("path", path.clone());
    }
    for device in &disk.devices {
        let (name, driver, path) = (&device.name, &device.driver, &device.pci_path);
        row("device", format!("{name}: {driver} at {path}"));
    }
    row("size", bytes(disk.size_bytes));
    row("block size", bytes(u64::from(disk.block_size)));
    row("read-only", disk.read_only.to_string());
    let queue = disk.queue;
    row(
        "queue",
        format!(
            "{} (at most {} in one queue)",
            queue.in_flight, queue.in_flight_max
        ),
    );
    row("batches", queue.batches.to_string());
    row("throttled", queue.throttled.to_string());
    if let Some(volume) = &disk.volume {
        volume_rows(volume, &mut row);
    }
    let mut text = table.text();
    let mut table = Table::new(&[
        "OPERATION",
        "COMPLETED",
        "BYTES",
        "FAILED",
        "p50",
        "p99",
        "p99.9",
    ]);
    for (name, it) in &disk.operations {
        table.row([
            name.clone(),
            it.completed.to_string(),
            bytes(it.bytes),
            it.failed.to_string(),
            span(it.latency.p50_ns),
            span(it.latency.p99_ns),
            span(it.latency.p999_ns),
        ]);
    }
    text.push('\n');
    text.push_str(&table.text());
    if let Some(volume) = &disk.volume {
        text.push('\n');
        text.push_str(&replicas(std::iter::once((disk, volume))));
    }
    text
}

fn volume_rows(volume: &VolumeStatus, row: &mut impl FnMut(&str, String)) {
    row(
        "volume",
        format!("{}, {}", volume.upstairs_id, volume.phase),
    );
    row("generation", volume.generation.to_string());
    row("encrypted", volume.encrypted.to_string());
    row(
        "jobs",
        format!(
            "{} of the guest, {} known, {} kept",
            volume.guest_jobs,
            volume.jobs,
            bytes(volume.bytes)
        ),
    );
    if let Some(reason) = &volume.stopped {
        row("stopped", reason.clone());
    }
}

fn replicas<'a>(volumes: impl Iterator<Item = (&'a DiskStatus, &'a VolumeStatus)>) -> String {
    let mut table = Table::new(&[
        "DISK", "REPLICA", "STATE", "REPAIR", "JOBS", "QUEUED", "READ", "WRITE", "FLUSH", "NEXT",
    ]);
    for (disk, volume) in volumes {
        for replica in &volume.replicas {
            table.row([
                disk.name.clone(),
                replica.address.to_string(),
                replica.state.clone(),
                repair(replica),
                replica.jobs.saturating_add(replica.reads).to_string(),
                replica.queued.to_string(),
                span(replica.read_latency_ns),
                span(replica.write_latency_ns),
                span(replica.flush_latency_ns),
                outlook(replica),
            ]);
        }
    }
    table.text()
}

fn repair(replica: &ReplicaStatus) -> String {
    match replica.repair {
        None => "-".to_owned(),
        Some(it) => format!("{}/{}", it.done, it.total),
    }
}

/// What happens next, and why it is not as it should be.
fn outlook(replica: &ReplicaStatus) -> String {
    let mut text = replica.next.clone();
    if let Some(new) = replica.leaving_for {
        text.push_str(&format!("; {new} takes its place"));
    }
    if let Some(loss) = replica
        .last_loss
        .as_deref()
        .filter(|_| replica.state != "active")
    {
        text.push_str(&format!(" ({loss})"));
    }
    text
}

/// Requests of all kinds that failed.
fn failed(disk: &DiskStatus) -> u64 {
    let each = disk.operations.values().map(|it| it.failed);
    each.fold(0, u64::saturating_add)
}

pub(super) fn operation<'a>(disk: &'a DiskStatus, name: &str) -> Option<&'a OperationStatus> {
    disk.operations.get(name)
}

/// One look of `watch`: what happened between two looks, as rates.
pub(super) fn look(
    machine: &MachineStatus,
    before: &[DiskStatus],
    now: &[DiskStatus],
    elapsed: f64,
) -> String {
    let mut text = format!("{}: {}", machine.name, machine.state);
    if machine.stop.is_some() {
        text.push_str(&format!(", {}", stopping(machine)));
    }
    let boots = machine.boots;
    text.push_str(&format!(
        ", boot {boots}, up {}\n",
        seconds(machine.uptime_seconds)
    ));
    let mut table = Table::new(&[
        "DISK", "READ/s", "READ", "WRITE/s", "WRITE", "FLUSH/s", "QUEUE", "FAILED", "REPLICAS",
    ]);
    for disk in now {
        let earlier = before.iter().find(|it| it.name == disk.name);
        let rate = |name: &str, of: fn(&OperationStatus) -> u64| {
            let count = |disk: &DiskStatus| operation(disk, name).map_or(0, of);
            // The first look has nothing to compare with.
            let since = earlier.map_or_else(|| count(disk), count);
            count(disk).saturating_sub(since) as f64 / elapsed.max(1e-3)
        };
        let per_second = |name| format!("{:.0}", rate(name, |it| it.completed));
        let throughput = |name| format!("{}/s", bytes(rate(name, |it| it.bytes) as u64));
        let failed = failed(disk);
        table.row([
            disk.name.clone(),
            per_second("read"),
            throughput("read"),
            per_second("write"),
            throughput("write"),
            per_second("flush"),
            disk.queue.in_flight.to_string(),
            failed.to_string(),
            disk.volume
                .as_ref()
                .map_or_else(|| "-".to_owned(), in_short),
        ]);
    }
    text.push_str(&table.text());
    text
}

/// The last column of `watch`.
pub(super) fn replica_words(disks: &[DiskStatus]) -> String {
    let volumes = disks.iter().filter_map(|disk| disk.volume.as_ref());
    volumes.map(in_short).collect()
}

/// All replicas in a few words.
fn in_short(volume: &VolumeStatus) -> String {
    let words = volume.replicas.iter().map(|replica| match replica.repair {
        Some(it) if replica.state != "active" => {
            let percent = it.done.saturating_mul(100).checked_div(it.total);
            format!("{} {}%", replica.state, percent.unwrap_or(100))
        }
        _ => replica.state.clone(),
    });
    words.collect::<Vec<_>>().join(", ")
}
