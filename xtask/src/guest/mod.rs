//! What runs inside: kernels and programs of Debian's packages, joined to an initramfs of our own.
//!
//! Reading order: `elf` (what a binary needs), `kernel` (a kernel package and its modules),
//! `programs` (commands with their libraries), `cpio` (the archive format), `initramfs` (all of it
//! together), then `machine` (a `vm.toml` and the process that runs it), `console` (its serial line,
//! read against a clock) and `session` (a shell on it). `debian` is a whole system in place of that.

pub(crate) mod console;
pub(crate) mod cpio;
pub(crate) mod debian;
pub(crate) mod elf;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod session;

use clap::{Args, Subcommand};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    system: System,
}

#[derive(Clone, Debug, Subcommand)]
enum System {
    /// A Debian root image made of packages, booted from a volume of ours to its login prompt.
    Debian(debian::Options),
}

/// Makes and boots a guest.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    match &options.system {
        System::Debian(options) => debian::command(options),
    }
}
