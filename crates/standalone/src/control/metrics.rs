//! `GET /metrics`: the machine and its disks as Prometheus reads them.
//!
//! Names begin with `trivet_`; what volumes count follows with names of its own (`crucible_upstairs_`), joined to disks
//! by `trivet_disk_volume`. Latencies are histograms by powers of two of nanoseconds. Their sums are estimates, from
//! the middle of each step: the counts are what is exact.

use std::fmt::Write;

use super::api::{DiskStatus, Latency, MachineState, MachineStatus, OperationStatus};

/// The text; `volumes` is appended.
pub fn text(machine: &MachineStatus, disks: &[DiskStatus], volumes: &str) -> String {
    let mut page = Page(String::new());
    page.machine(machine);
    page.disks(disks);
    page.0.push_str(volumes);
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP trivet_{name} {help}.");
        let _ = writeln!(self.0, "# TYPE trivet_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "trivet_{name}");
        for (index, (label, content)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(content));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn machine(&mut self, machine: &MachineStatus) {
        let name = "machine_info";
        self.family(name, "gauge", "What this machine is; the value is 1");
        let labels = [
            ("name", machine.name.as_str()),
            ("hypervisor", &machine.hypervisor),
            ("clock", &machine.clock),
            ("version", &machine.version),
        ];
        self.sample(name, &labels, 1);
        let name = "machine_state";
        self.family(name, "gauge", "1 for the state that the machine is in");
        for state in MachineState::ALL {
            let here = u8::from(state == machine.state);
            self.sample(name, &[("state", state.name())], here);
        }
        let help = "Times that the guest was started";
        self.one("machine_boots_total", "counter", help, machine.boots);
        self.one("machine_cpus", "gauge", "vCPUs", machine.cpus);
        let help = "Guest memory";
        self.one("machine_memory_bytes", "gauge", help, machine.memory_bytes);
        let help = "Time since the machine was built";
        self.one(
            "machine_uptime_seconds",
            "gauge",
            help,
            machine.uptime_seconds,
        );
    }

    fn disks(&mut self, disks: &[DiskStatus]) {
        if disks.is_empty() {
            return;
        }
        let gauges: [(&str, &str, &str, fn(&DiskStatus) -> u64); 5] = [
            ("disk_size_bytes", "gauge", "Size of the disk", |disk| {
                disk.size_bytes
            }),
            (
                "disk_in_flight",
                "gauge",
                "Requests under way, all queues together",
                |disk| disk.queue.in_flight,
            ),
            (
                "disk_in_flight_max",
                "gauge",
                "The most requests that one queue ever had under way",
                |disk| disk.queue.in_flight_max,
            ),
            (
                "disk_batches_total",
                "counter",
                "Times that something was fetched from a queue",
                |disk| disk.queue.batches,
            ),
            (
                "disk_throttled_total",
                "counter",
                "Times that a rate limit held a queue back",
                |disk| disk.queue.throttled,
            ),
        ];
        for (name, kind, help, of) in gauges {
            self.family(name, kind, help);
            for disk in disks {
                self.sample(name, &[("disk", &disk.name)], of(disk));
            }
        }
        let counters: [(&str, &str, fn(&OperationStatus) -> u64); 3] = [
            ("disk_completed_total", "Requests that ended well", |it| {
                it.completed
            }),
            ("disk_failed_total", "Requests that ended otherwise", |it| {
                it.failed
            }),
            (
                "disk_bytes_total",
                "Bytes of requests that ended well",
                |it| it.bytes,
            ),
        ];
        for (name, help, of) in counters {
            self.family(name, "counter", help);
            for (disk, operation, status) in operations(disks) {
                let labels = [("disk", disk), ("operation", operation)];
                self.sample(name, &labels, of(status));
            }
        }
        let name = "disk_latency_seconds";
        self.family(
            name,
            "histogram",
            "From fetch to completion; sums are estimates",
        );
        for (disk, operation, status) in operations(disks) {
            self.histogram(name, disk, operation, &status.latency);
        }
    }

    fn histogram(&mut self, name: &str, disk: &str, operation: &str, latency: &Latency) {
        let labels = [("disk", disk), ("operation", operation)];
        let (bucket, sum) = (format!("{name}_bucket"), format!("{name}_sum"));
        let (mut below, mut seconds) = (0, 0.0);
        let mut buckets = latency.buckets.iter().peekable();
        // The same steps for every disk and at every time, so that they can be added up: 1 us to 137 s.
        for power in 10..=37 {
            let bound = 1_u64 << power;
            while let Some(step) = buckets.next_if(|step| step.below_ns <= bound) {
                below += step.count;
                seconds += step.count as f64 * step.below_ns as f64 * 0.75e-9;
            }
            let le = format!("{}", bound as f64 / 1e9);
            let with_bound = [labels[0], labels[1], ("le", le.as_str())];
            self.sample(&bucket, &with_bound, below);
        }
        for step in buckets {
            seconds += step.count as f64 * step.below_ns as f64 * 0.75e-9;
        }
        let with_bound = [labels[0], labels[1], ("le", "+Inf")];
        self.sample(&bucket, &with_bound, latency.count);
        self.sample(&sum, &labels, seconds);
        self.sample(&format!("{name}_count"), &labels, latency.count);
    }
}

/// Every kind of request of every disk.
fn operations(disks: &[DiskStatus]) -> impl Iterator<Item = (&str, &str, &OperationStatus)> {
    disks.iter().flat_map(|disk| {
        let operations = disk.operations.iter();
        operations.map(|(operation, status)| (disk.name.as_str(), operation.as_str(), status))
    })
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
