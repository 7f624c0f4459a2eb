//! fio in a guest: the same jobs on a file, on a volume of three region servers, and on QEMU's NVMe with the same file.
//!
//! One machine after the other, so that each has the host to itself; each job is billed to the groups of threads that
//! worked for it, so that one sees what each step of an operation costs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::accounts::threads_time;
use super::{Bound, Options, Row};
use crate::demo::provide_standalone;
use crate::guest::console::{Console, Show};
use crate::guest::initramfs;
use crate::guest::kernel::{self, Flavour};
use crate::guest::machine::{Disk, Engine, Machine, Medium, SOCKET};
use crate::guest::programs::FIO;
use crate::tree;
use crate::volume::fleet::{Fleet, Programs, Shape};

const LIMIT: Duration = Duration::from_secs(600);
const IMAGE: &str = "disk.img";
const END_OF_LINE: &str = " .";
/// Jobs of the guest's script that are figures, and the unit of each: operations of 4 KiB, or of 1 MiB.
const JOBS: &[(&str, &str)] = &[
    ("random-read-1", "/s"),
    ("random-read-32", "/s"),
    ("random-write-1", "/s"),
    ("random-write-32", "/s"),
    ("sequential-read", "MiB/s"),
    ("sequential-write", "MiB/s"),
];
/// 512 MiB, encrypted.
const SHAPE: Shape = Shape {
    extent_count: 128,
    ..Shape::SMALL
};

/// Where processor time goes, by the names of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The guest itself, and what its accesses to devices do at once.
    Guest,
    /// The worker of the device's queue: commands fetched, guest memory copied, answers given.
    Queue,
    /// Everything else in the machine's process: the volume's thread, sealing, its sockets; QEMU's main loop.
    Storage,
    /// Frames read and answers written, in all region servers.
    Servers,
    /// Their files, in all region servers.
    Disks,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest code",
            Self::Queue => "device queue",
            Self::Storage => "the rest of the process",
            Self::Servers => "region servers, frames",
            Self::Disks => "region servers, files",
        }
    }

    /// Whose a machine's thread is. Ours and QEMU's.
    fn of_machine(thread: &str) -> Self {
        match thread {
            "vcpu" => Self::Guest,
            _ if thread.starts_with("CPU ") => Self::Guest,
            _ if thread.ends_with("-q") => Self::Queue,
            _ => Self::Storage,
        }
    }

    /// Whose a region server's thread is.
    fn of_server(thread: &str) -> Self {
        match thread {
            "disk-" | "region" => Self::Disks,
            _ => Self::Servers,
        }
    }
}

type Bill = BTreeMap<Step, Duration>;

/// What a job came to.
#[derive(Clone, Debug, Default)]
struct Figure {
    /// Operations a second.
    rate: f64,
    /// Mean latency in microseconds, as the guest sees it.
    latency: f64,
    /// Processor time an operation, in microseconds.
    steps: BTreeMap<Step, f64>,
}

/// Measures all three.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let program = provide_standalone(options.program.as_deref())?;
    let programs = Programs::provide(options.programs.as_deref())?;
    let directory = tree::target().join("bench/disk");
    std::fs::create_dir_all(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let kernel = kernel::fetch(Flavour::Cloud)?;
    let initrd = directory.join("initramfs.cpio");
    initramfs::build(&kernel, &[FIO], &initrd)?;
    let machine = |medium| Machine {
        name: "bench",
        cpus: 1,
        memory: 512,
        hypervisor: "soft".to_owned(),
        clock: None,
        kernel: kernel.image.clone(),
        initrd: initrd.clone(),
        cmdline: "console=ttyS0 panic=-1 trivet=speed".to_owned(),
        disks: vec![Disk {
            name: "data",
            driver: "pci-nvme",
            medium,
            slot: 4,
        }],
    };
    let ours = Engine::Standalone(program);
    let file = jobs(&machine(Medium::Image(IMAGE)), &ours, &directory, None)?;
    let qemu = jobs(
        &machine(Medium::Image(IMAGE)),
        &Engine::Qemu,
        &directory,
        None,
    )?;
    let mut fleet = Fleet::start(&programs, "bench-disk", SHAPE)?;
    let machine = machine(Medium::Volume(fleet.volume()));
    let volume = jobs(&machine, &ours, &directory, Some(&fleet))?;
    fleet.end()?;
    fleet.remove()?;
    let image = directory.join(IMAGE);
    std::fs::remove_file(&image).map_err(|error| format!("{}: {error}", image.display()))?;

    let mut rows = Vec::new();
    for (index, (job, unit)) in JOBS.iter().enumerate() {
        let beside = &qemu[index];
        for (medium, figure) in [("file", &file[index]), ("volume", &volume[index])] {
            let row = |what: &str, ours, theirs, unit: &str| Row {
                figure: format!("{job}, {medium}{what}"),
                ours,
                theirs,
                unit: unit.to_owned(),
                bound: Bound::None,
            };
            rows.push(row("", figure.rate, Some(beside.rate), unit));
            let latency = row(": latency", figure.latency, Some(beside.latency), "us");
            rows.push(latency);
            for (step, cost) in &figure.steps {
                let theirs = beside.steps.get(step).copied();
                rows.push(row(&format!(": {}", step.name()), *cost, theirs, "us/op"));
            }
        }
    }
    Ok(rows)
}

/// Runs the guest's jobs to their end.
fn jobs(
    machine: &Machine,
    engine: &Engine,
    directory: &Path,
    fleet: Option<&Fleet<'_>>,
) -> Result<Vec<Figure>, String> {
    machine.prepare(directory, SHAPE.bytes())?;
    let mut child = machine.start(engine, directory)?;
    let id = child.id();
    let servers = match fleet {
        Some(fleet) => (0..3)
            .map(|index| fleet.pid(index))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let accounts = || -> Result<Bill, String> {
        let mut bill = Bill::new();
        for (thread, time) in threads_time(id)? {
            *bill.entry(Step::of_machine(&thread)).or_default() += time;
        }
        for server in &servers {
            for (thread, time) in threads_time(*server)? {
                *bill.entry(Step::of_server(&thread)).or_default() += time;
            }
        }
        Ok(bill)
    };
    let mut console = Console::connect(&directory.join(SOCKET), &mut child, Show::Nothing)?;
    let mut figures = Vec::new();
    for (job, _) in JOBS {
        let begin = format!("guest: speed: {job} begins");
        console.wait_for(&begin, LIMIT, &mut child)?;
        let before = accounts()?;
        // The whole line: its last word may come later than its first.
        console.wait_for(&format!("guest: speed: {job} ends: "), LIMIT, &mut child)?;
        let line = console.wait_for(END_OF_LINE, LIMIT, &mut child)?;
        let after = accounts()?;
        let (rate, latency, seconds) =
            read(&line).ok_or_else(|| format!("not understood: {line}"))?;
        let operations = (rate * seconds).max(1.0);
        let each = |(step, used): (Step, Duration)| {
            let used = used.saturating_sub(before.get(&step).copied().unwrap_or_default());
            (step, used.as_secs_f64() * 1e6 / operations)
        };
        figures.push(Figure {
            rate,
            latency,
            steps: after.into_iter().map(each).collect(),
        });
    }
    console.drain(LIMIT, &mut child)?;
    Ok(figures)
}

/// Rate, mean latency in microseconds, and how long the job ran, of a line of the guest's script: of fio's fields 8, 9,
/// 40, 49, 50 and 81, those of reads are zero where the job wrote, and the other way round.
fn read(line: &str) -> Option<(f64, f64, f64)> {
    let fields = line
        .rsplit(": ")
        .next()?
        .strip_suffix(END_OF_LINE)?
        .split(';');
    let numbers: Vec<f64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[reads, read_ms, read_us, writes, write_ms, write_us] = numbers.as_slice() else {
        return None;
    };
    Some((
        reads + writes,
        read_us + write_us,
        (read_ms + write_ms) / 1e3,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_tells_of_reads_or_of_writes() {
        let line = "guest: speed: random-read-1 ends: 6000;4000;160.5;0;0;0.000000 .";
        assert_eq!(read(line), Some((6000.0, 160.5, 4.0)));
        let line = "guest: speed: random-write-1 ends: 0;0;0.000000;500;2000;20.25 .";
        assert_eq!(read(line), Some((500.0, 20.25, 2.0)));
        assert_eq!(read("guest: speed: random-write-1 ends: 0;0;0.0000"), None);
    }
}
