//! Chores of the workspace, run as `cargo xtask NAME`: checks, the demo, tests and benchmarks.
//!
//! Reading order: `tree` (where the workspace is and what files it has), `run` (child processes and
//! their cost), `debian` (packages by name), then one module a chore: `tidy`, `illumos`, `demo`,
//! `suites`, `bench`.
//!
//! Never here: anything that a user of the programs needs at run time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program: its output is its purpose"
)]

mod debian;
mod illumos;
mod run;
mod tidy;
mod tree;

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
    /// Type-check the workspace for illumos with Debian's compiler.
    Illumos(illumos::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Tidy => tidy::command(),
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
