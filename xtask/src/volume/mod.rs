//! `cargo xtask volume`: the replicated volume as its users run it: real programs, real sockets, one row each.
//!
//! `fleet` starts three region servers under `dsc`; `trials` says what is done to them.

mod background;
pub(crate) mod fleet;
mod nbd;
pub(crate) mod trials;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use fleet::Programs;
use trials::TRIALS;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    /// Run only trials whose name contains this.
    name: Option<String>,
    /// List the trials.
    #[arg(long)]
    list: bool,
    /// Programs that were built before, in place of this tree's.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Show each command and what it says.
    #[arg(long)]
    verbose: bool,
}

/// Runs the trials and prints one line for each.
///
/// Errors: how many failed, when any did.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let wanted = |name: &str| {
        options
            .name
            .as_ref()
            .is_none_or(|part| name.contains(part.as_str()))
    };
    let chosen: Vec<_> = TRIALS.iter().filter(|trial| wanted(trial.name)).collect();
    if options.list {
        for trial in &chosen {
            println!("{:<18} {}", trial.name, trial.about);
        }
        return Ok(());
    }
    let mut programs = Programs::provide(options.programs.as_deref())?;
    programs.verbose = options.verbose;
    let mut failed = 0;
    for trial in &chosen {
        let started = Instant::now();
        let outcome = (trial.run)(&programs);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(said) => println!("volume {:<18} ok      {seconds:>7.1} s  {said}", trial.name),
            Err(error) => {
                failed += 1;
                println!(
                    "volume {:<18} FAILED  {seconds:>7.1} s  {error}",
                    trial.name
                );
            }
        }
    }
    println!("volume: {} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} trials of the volume failed"))
    }
}
