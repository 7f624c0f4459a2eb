//! Chores of the workspace, run as `cargo xtask NAME`: checks, the demo, tests and benchmarks.
//!
//! Reading order: `tree` (where the workspace is and what files it has), `run` and `measured` (child
//! processes and their cost), `debian` (packages by name), `guest` (what runs inside a machine), then
//! one module a chore: `tidy`, `illumos`, `demo`, `scenario`, `volume`, `faults`, `suites`, `bench`.
//!
//! Never here: anything that a user of the programs needs at run time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its purpose"
)]

mod bench;
mod debian;
mod demo;
mod faults;
mod guest;
mod illumos;
mod measured;
mod run;
mod scenario;
mod suites;
mod tidy;
mod tree;
mod volume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Check what the compiler does not: crate arrows, module docs, forbidden words, file sizes.
    Tidy,
    /// Boot a Debian kernel, use an NVMe disk, power off, check the disk.
    Demo(demo::Options),
    /// Run the quick tests, then the slow suites.
    Test(suites::Options),
    /// Boot whole machines that prove one thing each.
    Scenario(scenario::Options),
    /// Make a whole system and boot it.
    Guest(guest::Options),
    /// Run the replicated volume's programs against each other: kills, repairs, takeovers, NBD clients.
    Volume(volume::Options),
    /// Do to a guest's volume what happens to disks, and see what the guest notices.
    Faults(faults::Options),
    /// Measure, as ratios to something that runs beside it.
    Bench(bench::Options),
    /// Type-check the workspace for illumos with Debian's compiler.
    Illumos(illumos::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Tidy => tidy::command(),
        Chore::Demo(options) => demo::command(&options),
        Chore::Test(options) => suites::command(&options),
        Chore::Scenario(options) => scenario::command(&options),
        Chore::Guest(options) => guest::command(&options),
        Chore::Volume(options) => volume::command(&options),
        Chore::Faults(options) => faults::command(&options),
        Chore::Bench(options) => bench::command(&options),
        Chore::Illumos(options) => illumos::command(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
