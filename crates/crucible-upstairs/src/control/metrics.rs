//! `GET /metrics`: the numbers of one or several sets of region servers, as Prometheus reads them.

use std::fmt::Write;

use crate::core::{ReplicaState, ReplicaStatus, Status};

/// One line of a family: labels and value.
type Sample = (String, f64);

/// The text for these sets of region servers.
pub fn metrics(all: &[Status]) -> String {
    let mut text = String::new();
    let volume = |of: fn(&Status) -> f64| -> Vec<Sample> {
        let sample = |status: &Status| (volume_label(status), of(status));
        all.iter().map(sample).collect()
    };
    let counters: [(&str, &str, fn(&Status) -> f64); 9] = [
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
    for (name, help, of) in counters {
        family(
            &mut text,
            &format!("{name}_total"),
            "counter",
            help,
            &volume(of),
        );
    }
    let gauges: [(&str, &str, fn(&Status) -> f64); 7] = [
        ("active", "1 while the volume is in use", |s| {
            f64::from(u8::from(s.phase == crate::core::Phase::Active))
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
    for (name, help, of) in gauges {
        family(&mut text, name, "gauge", help, &volume(of));
    }
    let replica = |of: fn(&ReplicaStatus) -> f64| -> Vec<Sample> {
        let label = |status: &Status, client: usize, replica: &ReplicaStatus| {
            let (volume, address) = (volume_label(status), replica.address);
            format!("{volume},client=\"{client}\",address=\"{address}\"")
        };
        let samples = all.iter().flat_map(|status| {
            let replicas = status.replicas.iter().enumerate();
            replicas.map(move |(client, replica)| (label(status, client, replica), of(replica)))
        });
        samples.collect()
    };
    let gauges: [(&str, &str, fn(&ReplicaStatus) -> f64); 10] = [
        (
            "replica_active",
            "1 while the region server is in use",
            |r| f64::from(u8::from(r.state == ReplicaState::Active)),
        ),
        ("replica_jobs", "Jobs it has not answered", |r| {
            r.jobs as f64
        }),
        (
            "replica_bytes",
            "Bytes of writes it has not answered",
            |r| r.bytes as f64,
        ),
        (
            "replica_read_latency_seconds",
            "How long a read takes there, about",
            |r| r.read_latency.as_nanos() as f64 / 1e9,
        ),
        (
            "replica_write_latency_seconds",
            "How long a write takes there, about",
            |r| r.write_latency.as_nanos() as f64 / 1e9,
        ),
        (
            "replica_flush_latency_seconds",
            "How long a flush takes there, about",
            |r| r.flush_latency.as_nanos() as f64 / 1e9,
        ),
        (
            "replica_queued_jobs",
            "Jobs that wait for their turn to be sent there",
            |r| r.queued as f64,
        ),
        ("replica_open_reads", "Reads it has not answered", |r| {
            r.reads as f64
        }),
        (
            "replica_repair_done_extents",
            "Extents that are equal, while it is made equal to the others",
            |r| r.repair.map_or(0.0, |repair| repair.done as f64),
        ),
        (
            "replica_repair_extents",
            "Extents in all, while it is made equal to the others; else 0",
            |r| r.repair.map_or(0.0, |repair| repair.total as f64),
        ),
    ];
    for (name, help, of) in gauges {
        family(&mut text, name, "gauge", help, &replica(of));
    }
    let counters: [(&str, &str, fn(&ReplicaStatus) -> f64); 12] = [
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
    for (name, help, of) in counters {
        let name = format!("replica_{name}_total");
        family(&mut text, &name, "counter", help, &replica(of));
    }
    text
}

fn volume_label(status: &Status) -> String {
    format!("volume=\"{}\"", status.key.upstairs)
}

fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: &[Sample]) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP crucible_upstairs_{name} {help}.");
    let _ = writeln!(text, "# TYPE crucible_upstairs_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "crucible_upstairs_{name}{{{labels}}} {value}");
    }
}
