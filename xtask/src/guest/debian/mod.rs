//! `cargo xtask guest debian`: a real system on a machine and a volume of ours.
//!
//! `recipe` makes the image; `host` says where its disks lie; `check` uses them as a user would. Without `--check` the
//! guest boots to its login prompt and is switched off, or left to whoever wants to use it.

mod check;
mod host;
mod recipe;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::demo::provide_standalone;
use crate::guest::console::Show;
use crate::guest::machine::{Engine, LOG, SOCKET};
use crate::guest::session::Session;
use crate::volume::fleet::Programs;
use crate::{run, tree};

pub(crate) use host::{Host, Root, machine};
pub(crate) use recipe::{System, provide};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Virtual processors.
    #[arg(long, default_value_t = 4)]
    cpus: u32,
    /// RAM in MiB.
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u32,
    /// Keep the root file system on an image file in place of an encrypted volume on three region servers.
    #[arg(long)]
    file: bool,
    /// Leave the machine running after its login prompt, until it is switched off from inside or by Ctrl-C.
    #[arg(long, conflicts_with = "check")]
    stay: bool,
    /// Root on a file, a volume of 32 GiB beside it: file system, fio with verify, fstrim, reboot, and data still there.
    #[arg(long, conflicts_with = "file")]
    check: bool,
    /// Only make the image.
    #[arg(long)]
    image: bool,
    /// Programs that were built before, in place of this tree's.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Show the guest's console.
    #[arg(long)]
    verbose: bool,
}

/// How long a boot may take, on a slow machine that does other things too.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(900);
/// The same for an orderly end.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(300);

/// Makes the image, boots it, and says how to do that by hand.
///
/// Errors: the first step that fails, with what it saw.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let system = provide()?;
    if options.image {
        return Ok(());
    }
    let (programs, engine) = provide_programs(options.programs.as_deref())?;
    let show = if options.verbose {
        Show::Lines
    } else {
        Show::Nothing
    };
    let said = if options.check {
        check::run(
            &system,
            &programs,
            &engine,
            options.cpus,
            options.memory,
            show,
        )
    } else {
        boot(options, &system, &programs, &engine, show)
    };
    println!("debian: ok: {}", said?);
    Ok(())
}

/// The programs of volume and machine: those in `built`, or this tree's.
pub(crate) fn provide_programs(
    built: Option<&std::path::Path>,
) -> Result<(Programs, Engine), String> {
    let programs = Programs::provide(built)?;
    let standalone = built.map(|built| built.join("standalone"));
    let engine = Engine::Standalone(provide_standalone(standalone.as_deref())?);
    Ok((programs, engine))
}

fn boot(
    options: &Options,
    system: &System,
    programs: &Programs,
    engine: &Engine,
    show: Show,
) -> Result<String, String> {
    let directory = tree::target().join("guest/debian-run");
    let root = if options.file {
        Root::Image
    } else {
        Root::Volume
    };
    let mut host = Host::start(programs, system, &directory, root)?;
    let machine = machine(system, options.cpus, options.memory, host.disks());
    machine.configure(&directory)?;
    by_hand(&host, engine, &directory);
    let started = Instant::now();
    let mut session = Session::start(&machine, engine, &directory, show)?;
    let place = directory.join(LOG);
    session
        .log_in(BOOT_LIMIT)
        .map_err(|error| format!("{error}; see {}", place.display()))?;
    let seconds = started.elapsed().as_secs_f64();
    println!("debian: logged in on the serial console after {seconds:.1} s");
    let kernel = session.run("uname -sr", Duration::from_secs(60))?;
    let root = session.run(
        "findmnt -n -o SOURCE,FSTYPE,SIZE /",
        Duration::from_secs(60),
    )?;
    println!("debian: {}, root on {}", kernel.trim(), root.trim());
    if options.stay {
        println!("debian: it stays until it is switched off");
        session.console.send("exec bash -l\n")?;
        session.leave()?;
    } else {
        let cost = session.power_off(END_LIMIT)?;
        println!("debian: switched off; the machine used {cost}");
    }
    host.end()?;
    Ok(format!("a login prompt after {seconds:.1} s"))
}

fn by_hand(host: &Host<'_>, engine: &Engine, directory: &std::path::Path) {
    println!("by hand:");
    for line in host.commands() {
        println!("    {line}");
    }
    if let Engine::Standalone(program) = engine {
        let program = run::quoted(&program.to_string_lossy());
        let place = run::quoted(&directory.to_string_lossy());
        println!("    cd {place}");
        println!("    {program} vm.toml &");
        println!("    {program} console {SOCKET}");
    }
}
