//! `cargo xtask demo`: the main job, on real input, from nothing to a checked disk.
//!
//! Builds the programs, fetches a Debian kernel and busybox by package name, and boots them on a machine whose NVMe
//! disk is an encrypted volume on three region servers. While the guest writes and verifies, one server is killed, its
//! region deleted, and a spare put in its place. Afterwards the three regions are compared, and the file system is
//! looked at from outside. Each stage has a limit, and a machine that misses it is ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;

use crate::guest::console::{Console, Show};
use crate::guest::initramfs;
use crate::guest::kernel::{self, Flavour, Kernel};
use crate::guest::machine::{CONTROL, Disk, Engine, LOG, Machine, Medium, SOCKET};
use crate::guest::programs::MKE2FS;
use crate::measured::{ExitCode, Measured};
use crate::volume::fleet::{Fleet, Programs, Shape};
use crate::{debian, run, tree};

/// What the guest calls the disk, and `ctl` too.
const DISK: &str = "data";
/// The volume as a file, when the machine is off.
const IMAGE: &str = "disk.img";
/// 256 MiB in 64 extents, and a fourth server as a spare.
const SHAPE: Shape = Shape {
    extent_count: 64,
    servers: 4,
    ..Shape::SMALL
};
/// The server that is lost.
const LOST: u16 = 1;
/// The one in its place.
const SPARE: u16 = 3;
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
    /// Programs that were built before, in place of this tree's.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Keep the directories of the run: vm.toml, log, console, regions, disk image.
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
    let mut demo = Demo::default();
    let outcome = demo.run(options, &directory);
    if options.verbose || outcome.is_err() {
        show_log(&directory.join(LOG));
    }
    println!();
    demo.print();
    outcome.map_err(|error| format!("demo: {error}"))?;
    println!("demo: ok");
    Ok(())
}

/// What was done so far.
#[derive(Debug, Default)]
struct Demo {
    /// Each step, and how long it took.
    steps: Vec<(String, Duration)>,
}

impl Demo {
    fn run(&mut self, options: &Options, directory: &Path) -> Result<(), String> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let (standalone, mut programs) = self.timed("build the programs", || {
            let standalone = options
                .programs
                .as_ref()
                .map(|built| built.join("standalone"));
            let programs = Programs::provide(options.programs.as_deref())?;
            Ok((provide_standalone(standalone.as_deref())?, programs))
        })?;
        programs.verbose = options.verbose;
        let kernel = self.timed("fetch the kernel", || provide_kernel(options))?;
        println!("  {}", kernel.name);
        let initrd = match &options.initrd {
            Some(path) => path
                .canonicalize()
                .map_err(|error| format!("{}: {error}", path.display()))?,
            None => {
                let place = directory.join("initramfs.cpio");
                self.timed("make the initramfs", || {
                    initramfs::build(&kernel, &[MKE2FS], &place).map(drop)
                })?;
                place
            }
        };
        let mut fleet = self.timed("start the region servers", || {
            Fleet::start(&programs, "demo", SHAPE)
        })?;
        by_hand(&run::spelled(&fleet.creation()));
        by_hand(&format!("{} &", run::spelled(&fleet.starting())));
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
                name: DISK,
                driver: "pci-nvme",
                medium: Medium::Volume(fleet.volume()),
                slot: 4,
            }],
        };
        machine.prepare(directory, 0)?;

        let ctl = Ctl {
            program: standalone.clone(),
            directory: directory.to_owned(),
        };
        let mut child = machine.start(&Engine::Standalone(standalone), directory)?;
        let ended = self.converse(options, &ctl, &mut fleet, &mut child);
        child.kill();
        ended?;

        let image = directory.join(IMAGE);
        self.timed("copy the volume to a file", || {
            // The machine was the first to have the volume.
            fleet.skip_generations(1);
            let mut command = programs.command("crudd");
            command.arg("read").arg(&image);
            fleet.attach(&mut command);
            by_hand(&run::spelled(&command));
            programs.quiet(&mut command).map(drop)
        })?;
        self.timed("compare the three regions", || {
            fleet.end()?;
            fleet.verify_regions()?;
            fleet.regions_are_equal()
        })?;
        println!("  each block of each region fits its context, and the three hold the same bytes");
        self.timed("check the file system from outside", || check_disk(&image))?;
        if !options.keep {
            drop(fs::remove_file(image));
            fleet.remove()?;
        }
        Ok(())
    }

    fn converse(
        &mut self,
        options: &Options,
        ctl: &Ctl,
        fleet: &mut Fleet<'_>,
        child: &mut Measured,
    ) -> Result<(), String> {
        let mut console = self.timed("start the machine", || {
            let (place, program) = (ctl.directory.display(), ctl.program.display());
            by_hand(&format!("(cd {place} && {program} vm.toml) &"));
            by_hand(&format!("{program} console {place}/{SOCKET}"));
            Console::connect(&ctl.directory.join(SOCKET), child, Show::Lines)
        })?;
        let talked = self.talk(options, ctl, fleet, &mut console, child);
        let place = ctl.directory.join("console.txt");
        fs::write(&place, console.transcript())
            .map_err(|error| format!("{}: {error}", place.display()))?;
        talked
    }

    fn talk(
        &mut self,
        options: &Options,
        ctl: &Ctl,
        fleet: &mut Fleet<'_>,
        console: &mut Console,
        child: &mut Measured,
    ) -> Result<(), String> {
        self.pass_all(BOOT, console, child)?;
        // The sum is the proof that the guest reads what we type, and does not merely echo it.
        console.send("echo \"sum: $((6 * 7)), processors: $(nproc)\"\n")?;
        let answer = milestone("shell answers", "sum: 42, processors:", 60);
        let line = self.pass(&answer, console, child)?;
        if !line.ends_with(&format!(": {}", options.cpus)) {
            return Err(format!(
                "the guest says \"{line}\", but it has {} processors",
                options.cpus
            ));
        }
        let task = "/trivet/rounds nvme0n1 1000";
        by_hand(&format!("{task}    # in the guest"));
        console.send(&format!("{task}\n"))?;
        self.pass_all(WORK, console, child)?;
        self.lose_a_server(ctl, fleet, console, child)?;
        // Any line ends the rounds.
        console.send("enough\n")?;
        self.pass_all(END, console, child)?;
        self.timed("machine ends", || console.drain(END_LIMIT, child))?;
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

    /// Kills a region server, deletes its region, and puts the spare in its place, all under the writing guest.
    fn lose_a_server(
        &mut self,
        ctl: &Ctl,
        fleet: &mut Fleet<'_>,
        console: &mut Console,
        child: &mut Measured,
    ) -> Result<(), String> {
        let region = fleet.region(LOST);
        self.timed("kill a region server", || {
            let stay = ["disable-restart", "-c", &LOST.to_string()];
            by_hand(&run::spelled(&fleet.dsc_command(&stay)));
            fleet.dsc(&stay)?;
            by_hand(&format!("kill -9 {}", fleet.pid(LOST)?));
            fleet.kill(LOST)
        })?;
        self.pass(&ROUND, console, child)?;
        self.timed("delete its region", || {
            by_hand(&format!("rm -r {}", region.display()));
            fs::remove_dir_all(&region).map_err(|error| format!("{}: {error}", region.display()))
        })?;
        self.pass(&ROUND, console, child)?;
        self.timed("put the spare in its place", || {
            let (old, new) = (fleet.address(LOST), fleet.address(SPARE));
            ctl.run(&["replace", DISK, &old, &new, "--wait"])
        })?;
        fleet.replaced(LOST, SPARE);
        ctl.run(&["disks"])?;
        self.pass(&ROUND, console, child)?;
        self.pass(&ROUND, console, child).map(drop)
    }

    fn timed<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        println!("demo: {name} ...");
        let started = Instant::now();
        let outcome = work().map_err(|error| format!("{name}: {error}"))?;
        self.steps.push((name.to_owned(), started.elapsed()));
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
        self.steps.push((milestone.step.to_owned(), took));
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
        println!("step                                seconds");
        for (name, took) in &self.steps {
            println!("{name:<34} {:>8.2}", took.as_secs_f64());
        }
        println!();
    }
}

/// `standalone ctl` on the machine's control socket.
#[derive(Debug)]
struct Ctl {
    program: PathBuf,
    directory: PathBuf,
}

impl Ctl {
    /// Runs it to its end; what it prints is for the user.
    fn run(&self, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command
            .arg("ctl")
            .arg(self.directory.join(CONTROL))
            .args(words);
        by_hand(&run::spelled(&command));
        run::run(&mut command)
    }
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
    ROUND,
];

/// The guest has written again, and read back all that it has written.
const ROUND: Milestone = milestone("a round verified", "guest: round ", 120);

const END: &[Milestone] = &[
    milestone("data verified", "guest: data verified", 120),
    milestone("power off", "guest: power off", 60),
];

const END_LIMIT: Duration = Duration::from_secs(60);

/// Runs `e2fsck` and reads a file out of the image, without mounting it.
fn check_disk(image: &Path) -> Result<(), String> {
    let e2fsck = debian::provide("e2fsck", "e2fsprogs")?;
    let name = image.file_name().unwrap_or_default();
    let place = image.parent().unwrap_or_else(|| Path::new("."));
    by_hand(&format!("e2fsck -fn {}", image.display()));
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

fn show_log(log: &Path) {
    if let Ok(text) = fs::read_to_string(log) {
        println!("{}:", log.display());
        for line in text.lines() {
            println!("    > {line}");
        }
    }
}

/// Prints a command that does by hand what is done now, as a person in the workspace's root would type it.
fn by_hand(command: &str) {
    let root = format!("{}/", tree::root().display());
    println!("  $ {}", command.replace(&root, ""));
}
