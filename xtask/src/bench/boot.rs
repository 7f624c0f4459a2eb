//! Boot to power-off, on the soft processor and on QEMU's translator, at the same time.

use std::path::Path;
use std::time::Duration;

use super::{Bound, Options, Row};
use crate::demo::provide_standalone;
use crate::guest::console::{Console, Show};
use crate::guest::initramfs;
use crate::guest::kernel::{self, Flavour};
use crate::guest::machine::{self, Engine, Machine, SOCKET};
use crate::measured::{Cost, ExitCode};
use crate::tree;

const LIMIT: Duration = Duration::from_secs(600);

/// The machine of both sides: the kernel, an initramfs that powers off at once.
pub(super) fn machine(directory: &Path, task: &str) -> Result<Machine, String> {
    let kernel = kernel::fetch(Flavour::Cloud)?;
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let initrd = directory.join("initramfs.cpio");
    initramfs::build(&kernel, &[], &initrd)?;
    let task = if task.is_empty() {
        String::new()
    } else {
        format!(" trivet={task}")
    };
    Ok(Machine {
        name: "bench",
        cpus: 1,
        memory: 256,
        hypervisor: "soft".to_owned(),
        clock: None,
        kernel: kernel.image,
        initrd,
        cmdline: format!("console=ttyS0 panic=-1{task}"),
        disks: Vec::new(),
    })
}

/// Boots on both at once, several times; the best of each counts.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let program = provide_standalone(options.program.as_deref())?;
    let directory = tree::target().join("bench");
    let machine = machine(&directory, "off")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds() {
        let (here, there) = std::thread::scope(|scope| {
            let standalone = Engine::Standalone(program.clone());
            let place = directory.join("soft");
            let machine = &machine;
            let here = scope.spawn(move || boot(machine, &standalone, &place));
            let there = boot(machine, &Engine::Qemu, &directory.join("qemu"));
            (
                here.join()
                    .unwrap_or_else(|_| Err("the bench itself failed".to_owned())),
                there,
            )
        });
        ours.push(here.map_err(|error| format!("standalone: {error}"))?);
        theirs.push(there.map_err(|error| format!("qemu: {error}"))?);
    }
    let cpu = |costs: &[Cost]| best(costs.iter().map(|cost| cost.cpu.as_secs_f64()));
    let wall = |costs: &[Cost]| best(costs.iter().map(|cost| cost.wall.as_secs_f64()));
    let counted = |task: &str| -> Result<(u64, Cost), String> {
        let machine = Machine {
            clock: Some("virtual"),
            ..self::machine(&directory, task)?
        };
        let place = directory.join("counted");
        let cost = boot(&machine, &Engine::Standalone(program.clone()), &place)?;
        Ok((machine::ending(&place)?.instructions, cost))
    };
    let (boot_count, boot_cost) = counted("off")?;
    let (work_count, work_cost) = counted("digest")?;
    let millions = |count: u64, seconds: f64| count as f64 / seconds.max(1e-9) / 1e6;
    let digest_seconds = work_cost.cpu.saturating_sub(boot_cost.cpu).as_secs_f64();
    Ok(vec![
        Row {
            figure: "guest instructions, boot".to_owned(),
            ours: millions(boot_count, boot_cost.cpu.as_secs_f64()),
            theirs: None,
            unit: "M/s".to_owned(),
            bound: Bound::None,
        },
        Row {
            figure: "guest instructions, sha256sum".to_owned(),
            ours: millions(work_count.saturating_sub(boot_count), digest_seconds),
            theirs: None,
            unit: "M/s".to_owned(),
            bound: Bound::AtLeast(150.0),
        },
        Row {
            figure: "boot to power-off, processor time".to_owned(),
            ours: cpu(&ours),
            theirs: Some(cpu(&theirs)),
            unit: "s".to_owned(),
            bound: Bound::AtMost(8.0),
        },
        Row {
            figure: "boot to power-off, on the clock".to_owned(),
            ours: wall(&ours),
            theirs: Some(wall(&theirs)),
            unit: "s".to_owned(),
            bound: Bound::None,
        },
    ])
}

fn best(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

fn boot(machine: &Machine, engine: &Engine, directory: &Path) -> Result<Cost, String> {
    machine.prepare(directory, 0)?;
    let mut child = machine.start(engine, directory)?;
    let mut console = Console::connect(&directory.join(SOCKET), &mut child, Show::Nothing)?;
    console.wait_for("guest: init reached", LIMIT, &mut child)?;
    console.drain(LIMIT, &mut child)?;
    match child.wait(LIMIT)? {
        (ExitCode::Code(0), cost) => Ok(cost),
        (code, _) => Err(format!("the machine ended with {code}")),
    }
}
