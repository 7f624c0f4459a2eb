//! `sim`: runs seeds, prints the table.
//!
//! `sim --seed 7 --trace` repeats one run and tells what happens; `sim --from 0 --count 10000` runs many.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use sim::scenario::STEPS;
use sim::{DiskKind, Faults, Scenario, Table, run, shrink};

/// Deterministic simulation of the replicated store.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// Run this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// The first of many seeds
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// What may go wrong: all, none, or kinds with commas, where `-kind` takes one out; else drawn from each seed
    #[arg(long, allow_hyphen_values = true)]
    faults: Option<Faults>,
    /// Requests of the guest in each run
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// What regions are kept in: store or model
    #[arg(long, default_value = "store")]
    disk: DiskKind,
    /// Tell what happens, line by line
    #[arg(long)]
    trace: bool,
    /// For a run that fails, look for a smaller one that fails too
    #[arg(long)]
    shrink: bool,
    /// The table as JSON
    #[arg(long)]
    json: bool,
    /// Threads (0: one for each processor)
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// End after so many violations
    #[arg(long, default_value_t = 20)]
    stop_after: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => arguments.from..arguments.from.saturating_add(arguments.count),
    };
    let scenario = |seed| Scenario {
        seed,
        faults: arguments.faults.unwrap_or_else(|| Faults::drawn(seed)),
        steps: arguments.steps,
        disk: arguments.disk,
        trace: arguments.trace,
    };
    let mut out = std::io::stdout().lock();
    let table = run_all(&arguments, seeds, scenario, &mut out);
    let text = if arguments.json {
        format!("{:#}\n", table.json())
    } else {
        table.text()
    };
    let _ = out.write_all(text.as_bytes());
    if table.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_all(
    arguments: &Arguments,
    seeds: std::ops::Range<u64>,
    scenario: impl Fn(u64) -> Scenario + Sync,
    out: &mut impl Write,
) -> Table {
    let threads = match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicU64::new(seeds.start);
    let shared = Mutex::new((Table::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min((seeds.end - seeds.start) as usize) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let mut outcome = run(&scenario(seed));
                    if outcome.violation.is_some() && arguments.shrink {
                        outcome = run(&shrink(&outcome.scenario));
                    }
                    let Ok(mut shared) = shared.lock() else {
                        break;
                    };
                    shared.0.add(&outcome);
                    shared.1.append(&mut outcome.trace);
                    if shared.0.violations.len() >= arguments.stop_after {
                        break;
                    }
                }
            });
        }
    });
    let (table, lines) = shared.into_inner().unwrap_or_default();
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    table
}
