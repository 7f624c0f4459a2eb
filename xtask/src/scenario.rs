//! `cargo xtask scenario`: whole machines that do something worth showing, one row each.
//!
//! These are the slow suites that need a guest. Each scenario boots a machine that works without a
//! person, waits for the lines that prove the point, and for an orderly end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::demo::provide_standalone;
use crate::guest::console::{Console, Show};
use crate::guest::initramfs;
use crate::guest::kernel::{self, Flavour};
use crate::guest::machine::{self, Disk, Ending, Engine, LOG, Machine, Medium, SOCKET};
use crate::guest::programs::{FIO, MKE2FS, NVME, Program};
use crate::measured::ExitCode;
use crate::tree;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    /// Run only scenarios whose name contains this.
    name: Option<String>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// Run them on QEMU's translator, to compare.
    #[arg(long)]
    qemu: bool,
    /// A `standalone` that was built before, in place of this tree's.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Show the guests' consoles.
    #[arg(long)]
    verbose: bool,
}

/// Form of the kernel that the machine is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    /// As the package holds it.
    Compressed,
    /// The ELF file inside.
    Unpacked,
}

struct Scenario {
    name: &'static str,
    flavour: Flavour,
    image: Image,
    cpus: u32,
    memory: u32,
    clock: Option<&'static str>,
    /// What the guest does: the word after `trivet=`.
    task: &'static str,
    programs: &'static [Program],
    disks: &'static [Disk],
    /// What must be on the console at the end.
    proofs: &'static [&'static str],
    /// How many runs must agree on every byte of the console.
    runs: usize,
}

const NVME_DISK: Disk = Disk {
    name: "first",
    driver: "pci-nvme",
    medium: Medium::Image("first.img"),
    slot: 4,
};
const VIRTIO_DISK: Disk = Disk {
    name: "second",
    driver: "pci-virtio-block",
    medium: Medium::Image("second.img"),
    slot: 5,
};

const PLAIN: Scenario = Scenario {
    name: "plain",
    flavour: Flavour::Cloud,
    image: Image::Compressed,
    cpus: 1,
    memory: 256,
    clock: None,
    task: "off",
    programs: &[],
    disks: &[],
    proofs: &["guest: init reached"],
    runs: 1,
};

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "four-processors",
        cpus: 4,
        task: "parallel",
        proofs: &[
            "guest: processors: 4",
            "guest: parallel load right on 4 processors",
        ],
        ..PLAIN
    },
    Scenario {
        name: "full-kernel",
        flavour: Flavour::Full,
        memory: 512,
        task: "rounds",
        programs: &[MKE2FS],
        disks: &[NVME_DISK],
        proofs: &["guest: data verified"],
        ..PLAIN
    },
    Scenario {
        name: "cloud-vmlinux",
        image: Image::Unpacked,
        ..PLAIN
    },
    Scenario {
        name: "full-vmlinux",
        flavour: Flavour::Full,
        image: Image::Unpacked,
        memory: 512,
        ..PLAIN
    },
    Scenario {
        name: "same-twice",
        clock: Some("virtual"),
        runs: 2,
        ..PLAIN
    },
    Scenario {
        name: "storage",
        memory: 1024,
        task: "storage",
        programs: &[NVME, FIO],
        disks: &[NVME_DISK, VIRTIO_DISK],
        proofs: &["guest: storage verified"],
        ..PLAIN
    },
];

const DISK_BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(60);

/// Runs the scenarios and prints one line for each.
///
/// Errors: how many failed, when any did.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let wanted = |scenario: &&Scenario| {
        options
            .name
            .as_ref()
            .is_none_or(|name| scenario.name.contains(name.as_str()))
    };
    if options.list {
        SCENARIOS
            .iter()
            .filter(wanted)
            .for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    let engine = if options.qemu {
        Engine::Qemu
    } else {
        Engine::Standalone(provide_standalone(options.program.as_deref())?)
    };
    let (mut passed, mut failed) = (0, 0);
    for scenario in SCENARIOS.iter().filter(wanted) {
        // QEMU has its own way to count instructions, which is not the question here.
        if options.qemu && scenario.clock.is_some() {
            continue;
        }
        let started = Instant::now();
        let outcome = run_all(scenario, &engine, options.verbose);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(cost) => {
                passed += 1;
                println!(
                    "scenario {:<16} ok      {seconds:>7.1} s  ({cost})",
                    scenario.name
                );
            }
            Err(error) => {
                failed += 1;
                println!(
                    "scenario {:<16} FAILED  {seconds:>7.1} s  {error}",
                    scenario.name
                );
            }
        }
    }
    println!("scenarios: {passed} passed, {failed} failed");
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} scenarios failed"))
    }
}

fn run_all(scenario: &Scenario, engine: &Engine, verbose: bool) -> Result<String, String> {
    let directory = tree::target().join("scenario").join(scenario.name);
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let machine = build(scenario, &directory)?;
    let mut first: Option<(String, Option<Ending>)> = None;
    let mut cost = String::new();
    for _ in 0..scenario.runs {
        let (transcript, spent) = run_once(scenario, &machine, engine, &directory, verbose)
            .map_err(|error| format!("{error}; see {}", directory.join(LOG).display()))?;
        cost = spent;
        // On the virtual clock two runs must agree in more than their consoles.
        let ending = scenario
            .clock
            .map(|_| machine::ending(&directory))
            .transpose()?;
        let Some((console, memory)) = &first else {
            first = Some((transcript, ending));
            continue;
        };
        if *console != transcript {
            return Err(first_difference(console, &transcript));
        }
        if *memory != ending {
            return Err(format!(
                "the guests' memory differs: {memory:?} and {ending:?}"
            ));
        }
    }
    if let Some((_, Some(ending))) = &first {
        cost = format!(
            "{} instructions, memory {}, {cost}",
            ending.instructions, ending.hash
        );
    }
    Ok(cost)
}

fn build(scenario: &Scenario, directory: &Path) -> Result<Machine, String> {
    let kernel = kernel::fetch(scenario.flavour)?;
    let image: PathBuf = match scenario.image {
        Image::Compressed => kernel.image.clone(),
        Image::Unpacked => kernel.unpack(&directory.join("vmlinux"))?,
    };
    let initrd = directory.join("initramfs.cpio");
    initramfs::build(&kernel, scenario.programs, &initrd)?;
    Ok(Machine {
        name: scenario.name,
        cpus: scenario.cpus,
        memory: scenario.memory,
        hypervisor: "soft".to_owned(),
        clock: scenario.clock,
        kernel: image,
        initrd,
        cmdline: format!("console=ttyS0 panic=-1 trivet={}", scenario.task),
        disks: scenario.disks.to_vec(),
    })
}

fn run_once(
    scenario: &Scenario,
    machine: &Machine,
    engine: &Engine,
    directory: &Path,
    verbose: bool,
) -> Result<(String, String), String> {
    machine.prepare(directory, DISK_BYTES)?;
    let mut child = machine.start(engine, directory)?;
    let show = if verbose { Show::Lines } else { Show::Nothing };
    let mut console = Console::connect(&directory.join(SOCKET), &mut child, show)?;
    let outcome = scenario
        .proofs
        .iter()
        .try_for_each(|proof| console.wait_for(proof, LIMIT, &mut child).map(drop))
        .and_then(|()| console.drain(END_LIMIT, &mut child));
    let place = directory.join("console.txt");
    fs::write(&place, console.transcript())
        .map_err(|error| format!("{}: {error}", place.display()))?;
    outcome?;
    match child.poll()? {
        Some((ExitCode::Code(0), cost)) => Ok((console.transcript().to_owned(), cost.to_string())),
        Some((code, _)) => Err(format!("the machine ended with {code}")),
        None => Err("the machine does not end".to_owned()),
    }
}

fn first_difference(before: &str, after: &str) -> String {
    let differing = before
        .lines()
        .zip(after.lines())
        .enumerate()
        .find(|(_, (a, b))| a != b);
    match differing {
        Some((index, (a, b))) => {
            format!(
                "the consoles differ in line {}: \"{a}\" and \"{b}\"",
                index + 1
            )
        }
        None => "one console is longer than the other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_table() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(scenario.name.len() <= 16, "{}", scenario.name);
            assert!(
                SCENARIOS[..index]
                    .iter()
                    .all(|other| other.name != scenario.name)
            );
        }
    }

    #[test]
    fn a_difference_is_shown_where_it_starts() {
        let message = first_difference("a\nb\nc\n", "a\nx\nc\n");
        assert_eq!(message, "the consoles differ in line 2: \"b\" and \"x\"");
        assert!(first_difference("a\n", "a\nb\n").contains("longer"));
    }
}
