//! `cargo xtask demo`: the main job, on real input, from nothing to a checked disk.
//!
//! Builds `standalone`, fetches a Debian kernel and busybox by package name, boots them on a machine
//! with an NVMe disk, works at the guest's shell over the unix socket, and looks at the disk from
//! outside afterwards. Each stage has a limit, and a machine that misses it is ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;

use crate::guest::console::{Console, Show};
use crate::guest::initramfs;
use crate::guest::kernel::{self, Flavour, Kernel};
use crate::guest::machine::{Disk, Engine, LOG, Machine, Medium, SOCKET};
use crate::guest::programs::MKE2FS;
use crate::measured::{ExitCode, Measured};
use crate::{debian, run, tree};

const IMAGE: &str = "disk.img";
const DISK_BYTES: u64 = 64 << 20;
/// Linux on a serial console; a panic stops the machine instead of hiding behind a reboot.
const CMDLINE: &str = "console=ttyS0 panic=-1";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// RAM in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    memory: u32,
    /// What runs the guest's processors: auto, soft, kvm or bhyve.
    #[arg(long, default_value = "auto")]
    hypervisor: String,
    /// A kernel image of one's own, with NVMe and ext4 built in.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// An initramfs that this command built before, on a machine with Debian's packages.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Debian's full kernel (linux-image-amd64) in place of the cloud one.
    #[arg(long)]
    full_kernel: bool,
    /// A `standalone` that was built before, in place of this tree's.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Run the same guest on QEMU's translator, to compare.
    #[arg(long)]
    qemu: bool,
    /// Keep the directory of the run: vm.toml, disk image, log, console.
    #[arg(long)]
    keep: bool,
    /// Show the program's own log as well.
    #[arg(long)]
    verbose: bool,
}

/// Runs the demo and reports each step.
///
/// Errors: the first step that fails, with what it saw.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let directory = tree::target().join("demo");
    let mut steps = Steps::default();
    let outcome = demonstrate(options, &directory, &mut steps);
    if options.verbose || outcome.is_err() {
        show_log(&directory.join(LOG));
    }
    println!();
    steps.print();
    if outcome.is_ok() {
        print_by_hand(options, &directory);
        if !options.keep {
            // The image is the only large file; the rest is worth a look and costs nothing.
            let _gone = fs::remove_file(directory.join(IMAGE));
        }
        println!("demo: ok");
    }
    outcome.map_err(|error| format!("demo: {error}"))
}

fn demonstrate(options: &Options, directory: &Path, steps: &mut Steps) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let engine = if options.qemu {
        Engine::Qemu
    } else {
        let program = steps.timed("build standalone", || {
            provide_standalone(options.program.as_deref())
        })?;
        Engine::Standalone(program)
    };
    let kernel = steps.timed("fetch the kernel", || provide_kernel(options))?;
    println!("  {}", kernel.name);
    let initrd = match &options.initrd {
        Some(path) => path
            .canonicalize()
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => {
            let place = directory.join("initramfs.cpio");
            steps.timed("make the initramfs", || {
                initramfs::build(&kernel, &[MKE2FS], &place).map(drop)
            })?;
            place
        }
    };
    let machine = Machine {
        name: "demo",
        cpus: options.cpus,
        memory: options.memory,
        hypervisor: options.hypervisor.clone(),
        clock: None,
        kernel: kernel.image.clone(),
        initrd,
        cmdline: CMDLINE.to_owned(),
        disks: vec![Disk {
            name: "data",
            driver: "pci-nvme",
            medium: Medium::Image(IMAGE),
            slot: 4,
        }],
    };
    machine.prepare(directory, DISK_BYTES)?;

    let mut child = machine.start(&engine, directory)?;
    let ended = converse(options, directory, &mut child, steps);
    child.kill();
    ended?;

    let image = directory.join(IMAGE);
    steps.timed("check the disk from outside", || check_disk(&image))
}

/// The program at `chosen`, or this tree's, built in release mode.
pub(crate) fn provide_standalone(chosen: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = chosen {
        return path
            .canonicalize()
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(tree::root())
        .args(["build", "--release", "--package", "standalone"]);
    run::run(&mut build)?;
    Ok(tree::target().join("release/standalone"))
}

fn provide_kernel(options: &Options) -> Result<Kernel, String> {
    match &options.kernel {
        Some(path) => Kernel::from_file(path),
        None if options.full_kernel => kernel::fetch(Flavour::Full),
        None => kernel::fetch(Flavour::Cloud),
    }
}

/// A text that the guest prints when it has come this far.
struct Milestone {
    step: &'static str,
    text: &'static str,
    limit: Duration,
}

const fn milestone(step: &'static str, text: &'static str, seconds: u64) -> Milestone {
    Milestone {
        step,
        text,
        limit: Duration::from_secs(seconds),
    }
}

const BOOT: &[Milestone] = &[
    milestone("kernel starts", "Linux version", 120),
    milestone("init reached", "guest: init reached", 600),
    milestone("shell prompts", "guest# ", 120),
];

const WORK: &[Milestone] = &[
    milestone("disk found", "guest: disk found", 60),
    milestone("file system made", "guest: file system made", 120),
    milestone("data written", "guest: data written", 300),
    milestone("data verified", "guest: data verified", 300),
    milestone("power off", "guest: power off", 60),
];

const END_LIMIT: Duration = Duration::from_secs(60);

fn converse(
    options: &Options,
    directory: &Path,
    child: &mut Measured,
    steps: &mut Steps,
) -> Result<(), String> {
    let mut console = steps.timed("start the machine", || {
        Console::connect(&directory.join(SOCKET), child, Show::Lines)
    })?;
    let talked = talk(options, &mut console, child, steps);
    let place = directory.join("console.txt");
    fs::write(&place, console.transcript())
        .map_err(|error| format!("{}: {error}", place.display()))?;
    talked
}

fn talk(
    options: &Options,
    console: &mut Console,
    child: &mut Measured,
    steps: &mut Steps,
) -> Result<(), String> {
    steps.pass_all(BOOT, console, child)?;
    // The sum is the proof that the guest reads what we type, and does not merely echo it.
    console.send("echo \"sum: $((6 * 7)), processors: $(nproc)\"\n")?;
    let answer = milestone("shell answers", "sum: 42, processors:", 60);
    let line = steps.pass(&answer, console, child)?;
    if !line.ends_with(&format!(": {}", options.cpus)) {
        return Err(format!(
            "the guest says \"{line}\", but it has {} processors",
            options.cpus
        ));
    }
    console.send("/trivet/disk nvme0n1\n")?;
    steps.pass_all(WORK, console, child)?;
    steps.timed("machine ends", || console.drain(END_LIMIT, child))?;
    match child.poll()? {
        Some((ExitCode::Code(0), cost)) => {
            println!("  the machine used {cost}");
            Ok(())
        }
        Some((code, _)) => Err(format!(
            "the machine ended with {code}, expected exit code 0"
        )),
        None => Err("the machine does not end".to_owned()),
    }
}

/// Runs `e2fsck` and reads a file out of the image, without mounting it.
fn check_disk(image: &Path) -> Result<(), String> {
    let e2fsck = debian::provide("e2fsck", "e2fsprogs")?;
    let name = image.file_name().unwrap_or_default();
    let place = image.parent().unwrap_or_else(|| Path::new("."));
    let report = run::quiet(Command::new(e2fsck).current_dir(place).arg("-fn").arg(name))?;
    for line in report.lines() {
        println!("  {line}");
    }
    let debugfs = debian::provide("debugfs", "e2fsprogs")?;
    let numbers = run::quiet(
        Command::new(debugfs)
            .args(["-R", "cat /numbers"])
            .arg(image),
    )?;
    if numbers
        .lines()
        .map(str::parse)
        .eq((1..=200_000).map(Ok::<u32, std::num::ParseIntError>))
    {
        println!("  /numbers holds 1 to 200000, as the guest wrote it");
        Ok(())
    } else {
        Err("the image's /numbers is not what the guest wrote".to_owned())
    }
}

/// What was done, and how long each step took.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    fn timed<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        println!("demo: {name} ...");
        let started = Instant::now();
        let outcome = work().map_err(|error| format!("{name}: {error}"))?;
        self.done.push((name.to_owned(), started.elapsed()));
        Ok(outcome)
    }

    fn pass(
        &mut self,
        milestone: &Milestone,
        console: &mut Console,
        child: &mut Measured,
    ) -> Result<String, String> {
        let started = Instant::now();
        let line = console
            .wait_for(milestone.text, milestone.limit, child)
            .map_err(|error| format!("{}: {error}", milestone.step))?;
        let took = started.elapsed();
        println!("demo: {} ({:.2} s)", milestone.step, took.as_secs_f64());
        self.done.push((milestone.step.to_owned(), took));
        Ok(line)
    }

    fn pass_all(
        &mut self,
        milestones: &[Milestone],
        console: &mut Console,
        child: &mut Measured,
    ) -> Result<(), String> {
        milestones
            .iter()
            .try_for_each(|milestone| self.pass(milestone, console, child).map(drop))
    }

    fn print(&self) {
        println!("step                          seconds");
        for (name, took) in &self.done {
            println!("{name:<28} {:>8.2}", took.as_secs_f64());
        }
    }
}

fn show_log(log: &Path) {
    if let Ok(text) = fs::read_to_string(log) {
        println!("{}:", shown(log));
        for line in text.lines() {
            println!("    > {line}");
        }
    }
}

fn print_by_hand(options: &Options, directory: &Path) {
    println!();
    println!("by hand:");
    println!("    cd {}", shown(directory));
    println!("    truncate -s {DISK_BYTES} {IMAGE}");
    if options.qemu {
        println!("    qemu-system-x86_64 ... -drive file={IMAGE}");
    } else {
        let built = tree::target().join("release/standalone");
        let program = options.program.clone().unwrap_or(built);
        let program = run::quoted(&program.to_string_lossy());
        println!("    {program} vm.toml &");
        println!("    {program} console {SOCKET}");
        println!("    # in the guest: /trivet/disk nvme0n1");
    }
    println!("    e2fsck -fn {IMAGE}");
    println!();
}

/// A path as a person in the workspace's root would type it.
fn shown(path: &Path) -> String {
    let short = path.strip_prefix(tree::root()).unwrap_or(path);
    run::quoted(&short.to_string_lossy())
}
