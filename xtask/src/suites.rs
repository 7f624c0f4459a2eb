//! `cargo xtask test`: all quick tests, then the slow suites, each against a limit.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;

use crate::measured::{ExitCode, Measured};
use crate::{run, tree};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Only what `cargo test --workspace` runs.
    #[arg(long, conflicts_with = "slow_only")]
    quick_only: bool,
    /// Only the slow suites.
    #[arg(long)]
    slow_only: bool,
    /// Minutes that one suite may take.
    #[arg(long, default_value_t = 120, value_name = "MINUTES")]
    limit: u64,
    /// What the property tests of the slow suite draw from; from the clock when not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Whole machines, volumes and systems: chores of this program, each in a process of its own.
const WHOLE: [(&str, &[&str]); 4] = [
    ("scenarios", &["xtask", "scenario"]),
    ("volume", &["xtask", "volume"]),
    ("debian", &["xtask", "guest", "debian", "--check"]),
    ("faults", &["xtask", "faults"]),
];

/// A seed that no earlier run has had.
fn fresh_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// Runs the suites and ends with a summary line.
///
/// Errors: the names of the suites that failed.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let limit = Duration::from_secs(60 * options.limit);
    let mut results = Vec::new();
    let mut record = |name: &'static str, outcome: Result<(), String>, started: Instant| {
        if let Err(error) = &outcome {
            println!("suite {name}: {error}");
        }
        results.push((name, outcome.is_ok(), started.elapsed()));
    };
    if !options.slow_only {
        let started = Instant::now();
        record(
            "quick",
            bounded(cargo(&["test", "--workspace", "--no-fail-fast"]), limit),
            started,
        );
    }
    if !options.quick_only {
        let started = Instant::now();
        // All tests again: many of the quick ones take more cases when they are asked to be slow.
        let mut slow = cargo(&["test", "--workspace", "--release", "--no-fail-fast"]);
        slow.env("TRIVET_SLOW", "1");
        // The quick tests draw the same cases each time (.cargo/config.toml); these go on from there.
        let seed = options.seed.unwrap_or_else(fresh_seed);
        println!("suite slow: property tests draw from --seed {seed}");
        slow.env("PROPTEST_RNG_SEED", seed.to_string());
        record("slow", bounded(slow, limit), started);
        for (name, chore) in WHOLE {
            let started = Instant::now();
            record(name, bounded(cargo(chore), limit), started);
        }
    }
    println!();
    for (name, passed, took) in &results {
        let word = if *passed { "ok" } else { "FAILED" };
        println!("suite {name:<12} {word:<7} {:>7.1} s", took.as_secs_f64());
    }
    let failed: Vec<&str> = results
        .iter()
        .filter(|result| !result.1)
        .map(|result| result.0)
        .collect();
    println!(
        "suites: {} passed, {} failed",
        results.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(tree::root()).args(arguments);
    command
}

/// Runs `command` in a process group of its own, and ends all of the group at the limit.
fn bounded(mut command: Command, limit: Duration) -> Result<(), String> {
    println!("suite: {}", run::spelled(&command));
    command.process_group(0);
    let mut child = Measured::start(&mut command)?;
    match child.wait_or_end_group(limit)? {
        (ExitCode::Code(0), _) => Ok(()),
        (code, _) => Err(format!("`{}`: {code}", run::spelled(&command))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_hangs_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 30 & sleep 30"]);
        let started = Instant::now();
        let message = bounded(command, Duration::from_millis(50)).unwrap_err();
        assert!(message.contains("still running"), "{message}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_exit_code_decides() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 4"]);
        assert!(
            bounded(command, Duration::from_secs(10))
                .unwrap_err()
                .contains("exit code 4")
        );
    }
}
