//! `GET /metrics`: the numbers of one or several sets of region servers, as Prometheus reads them.

use std::fmt::Write;

use crate::core::{Phase, ReplicaState, ReplicaStatus, Status};

/// Something that is told of each `T`: name, help, and the value.
type Family<T> = (&'static str, &'static str, fn(&T) -> f64);

/// Of a volume; names get `_total`.
const COUNTERS: &[Family<Status>] = &[
    ("reads", "Reads of the guest", |s| s.counters.reads as f64),
    ("read_bytes", "Bytes read by the guest", |s| {
        s.counters.read_bytes as f64
    }),
    ("writes", "Writes of the guest", |s| {
        s.counters.writes as f64
    }),
    ("write_bytes", "Bytes written by the guest", |s| {
        s.counters.write_bytes as f64
    }),
    ("flushes", "Flushes of the guest", |s| {
        s.counters.flushes as f64
    }),
    ("auto_flushes", "Flushes nobody asked for", |s| {
        s.counters.auto_flushes as f64
    }),
    ("barriers", "Barriers", |s| s.counters.barriers as f64),
    (
        "hedged_reads",
        "Reads asked of a second region server",
        |s| s.counters.hedged_reads as f64,
    ),
    ("failed", "Requests that failed", |s| {
        s.counters.failed as f64
    }),
];

/// Of a volume.
const GAUGES: &[Family<Status>] = &[
    ("active", "1 while the volume is in use", |s| {
        f64::from(u8::from(s.phase == Phase::Active))
    }),
    ("generation", "Generation of the activation", |s| {
        s.generation as f64
    }),
    ("guest_jobs", "Requests that wait for their answer", |s| {
        s.guest_jobs as f64
    }),
    ("jobs", "Jobs in flight or kept for replay", |s| {
        s.jobs as f64
    }),
    ("bytes", "Bytes of data that is kept", |s| s.bytes as f64),
    (
        "reconcile_done_extents",
        "Extents that reconciliation has done",
        |s| s.reconcile.0 as f64,
    ),
    (
        "reconcile_needed_extents",
        "Extents that reconciliation has to do",
        |s| s.reconcile.1 as f64,
    ),
];

/// Of a region server; names begin with `replica_`.
const REPLICA_GAUGES: &[Family<ReplicaStatus>] = &[
    ("active", "1 while the region server is in use", |r| {
        f64::from(u8::from(r.state == ReplicaState::Active))
    }),
    ("jobs", "Jobs it has not answered", |r| r.jobs as f64),
    ("bytes", "Bytes of writes it has not answered", |r| {
        r.bytes as f64
    }),
    (
        "read_latency_seconds",
        "How long a read takes there, about",
        |r| r.read_latency.as_nanos() as f64 / 1e9,
    ),
    (
        "write_latency_seconds",
        "How long a write takes there, about",
        |r| r.write_latency.as_nanos() as f64 / 1e9,
    ),
    (
        "flush_latency_seconds",
        "How long a flush takes there, about",
        |r| r.flush_latency.as_nanos() as f64 / 1e9,
    ),
    (
        "queued_jobs",
        "Jobs that wait for their turn to be sent there",
        |r| r.queued as f64,
    ),
    ("open_reads", "Reads it has not answered", |r| {
        r.reads as f64
    }),
    (
        "repair_done_extents",
        "Extents that are equal, while it is made equal to the others",
        |r| r.repair.map_or(0.0, |repair| repair.done as f64),
    ),
    (
        "repair_extents",
        "Extents in all, while it is made equal to the others; else 0",
        |r| r.repair.map_or(0.0, |repair| repair.total as f64),
    ),
];

/// Of a region server; names begin with `replica_` and get `_total`.
const REPLICA_COUNTERS: &[Family<ReplicaStatus>] = &[
    ("connected", "Connections made", |r| {
        r.counters.connected as f64
    }),
    ("faulted", "Times it was given up", |r| {
        r.counters.faulted as f64
    }),
    ("replays", "Replays", |r| r.counters.replays as f64),
    ("replayed_jobs", "Jobs replayed", |r| {
        r.counters.replayed_jobs as f64
    }),
    ("reads", "Reads asked of it", |r| r.counters.reads as f64),
    (
        "late_reads",
        "Reads asked of another since it was late",
        |r| r.counters.late_reads as f64,
    ),
    (
        "bad_reads",
        "Reads whose data was not to be believed",
        |r| r.counters.bad_reads as f64,
    ),
    ("errors", "Jobs that it failed", |r| {
        r.counters.errors as f64
    }),
    ("extents_repaired", "Extents copied to it", |r| {
        r.counters.extents_repaired as f64
    }),
    ("extents_confirmed", "Extents found equal", |r| {
        r.counters.extents_confirmed as f64
    }),
    (
        "live_repairs_completed",
        "Live repairs that came to their end",
        |r| r.counters.live_repairs_completed as f64,
    ),
    ("live_repairs_aborted", "Live repairs that broke off", |r| {
        r.counters.live_repairs_aborted as f64
    }),
];

/// The text for these sets of region servers.
pub fn metrics(all: &[Status]) -> String {
    let mut text = String::new();
    let volumes: Vec<(String, &Status)> = all
        .iter()
        .map(|status| (format!("volume=\"{}\"", status.key.upstairs), status))
        .collect();
    let mut replicas: Vec<(String, &ReplicaStatus)> = Vec::new();
    for (volume, status) in &volumes {
        replicas.extend(status.replicas.iter().enumerate().map(|(client, replica)| {
            let address = replica.address;
            let labels = format!("{volume},client=\"{client}\",address=\"{address}\"");
            (labels, replica)
        }));
    }
    families(&mut text, ("", "_total", "counter"), COUNTERS, &volumes);
    families(&mut text, ("", "", "gauge"), GAUGES, &volumes);
    families(
        &mut text,
        ("replica_", "", "gauge"),
        REPLICA_GAUGES,
        &replicas,
    );
    let kind = ("replica_", "_total", "counter");
    families(&mut text, kind, REPLICA_COUNTERS, &replicas);
    text
}

/// One family after the other, each with a line for each of `those`, which come with their labels.
fn families<T>(
    text: &mut String,
    (before, after, kind): (&str, &str, &str),
    families: &[Family<T>],
    those: &[(String, &T)],
) {
    for (name, help, value) in families {
        let name = format!("crucible_upstairs_{before}{name}{after}");
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}.");
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (labels, of) in those {
            let _ = writeln!(text, "{name}{{{labels}}} {}", value(of));
        }
    }
}
