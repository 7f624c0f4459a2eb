//! `cargo xtask faults`: a Debian guest works on a volume while everything happens to it that happens to disks.
//!
//! Reading order: `inject` (the faults), `stage` (what they are done to), `watch` and `status` (what the guest and the
//! machine's control socket say about it), `proxy` (a connection that can be cut). Each fault ends with a comparison
//! of the three regions, for which the load stands still.

mod inject;
mod proxy;
mod stage;
mod status;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::guest::console::Show;
use crate::guest::debian;
use crate::guest::machine::Engine;
use inject::{Dice, FAULTS, Fault};
use stage::{EXTENT_BYTES, Stage};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Seeds of the mixed runs, and of which server each fault meets.
    #[arg(long, default_values_t = [1, 2, 3], value_delimiter = ',')]
    seed: Vec<u64>,
    /// Only these faults; `mixed` is the run that mixes them.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// List the faults.
    #[arg(long)]
    list: bool,
    /// Print the table as JSON too, on one line, at the end.
    #[arg(long)]
    json: bool,
    /// Programs that were built before, in place of this tree's.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Show the guest's console.
    #[arg(long)]
    verbose: bool,
}

const MIXED: &str = "mixed";
/// Faults of one mixed run.
const MIXED_STEPS: u64 = 6;
/// The load goes on for so long before each fault.
const BEFORE: Duration = Duration::from_secs(3);

/// One line of the table.
#[derive(Debug, Default)]
struct Row {
    name: String,
    /// What it was done to, or why it failed.
    what: String,
    errors: u64,
    stall: f64,
    copied: u64,
    replayed: u64,
    equal: bool,
    verified: bool,
    seconds: f64,
}

/// Runs the faults and prints the table.
///
/// Errors: the stage that does not stand, or how many faults did harm.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    if let Some(unknown) = options
        .only
        .iter()
        .find(|only| *only != MIXED && FAULTS.iter().all(|fault| fault.name != only.as_str()))
    {
        return Err(format!("no fault is called {unknown}; see --list"));
    }
    let chosen: Vec<&Fault> = FAULTS.iter().filter(|fault| wanted(fault.name)).collect();
    if options.list {
        for fault in &chosen {
            println!("{:<13} {}", fault.name, fault.about);
        }
        println!(
            "{MIXED:<13} {MIXED_STEPS} of them, drawn by a seed, each hard upon the one before"
        );
        return Ok(());
    }
    inject::ignore_limit_signals();
    let system = debian::provide()?;
    let (programs, engine) = debian::provide_programs(options.programs.as_deref())?;
    let Engine::Standalone(program) = &engine else {
        return Err("only standalone has a control socket".to_owned());
    };
    let show = if options.verbose {
        Show::Lines
    } else {
        Show::Nothing
    };
    let mut stage = Stage::start(&programs, &engine, program, system, show)?;
    let mut rows = Vec::new();
    let mut dice = Dice::new(options.seed.first().copied().unwrap_or(1));
    for fault in chosen {
        rows.push(run(&mut stage, fault.name, |stage| {
            (fault.inject)(stage, &mut dice)
        }));
        if is_over(&mut stage, &rows) {
            break;
        }
    }
    for seed in options.seed.iter().filter(|_| wanted(MIXED)) {
        if is_over(&mut stage, &rows) {
            break;
        }
        let mut dice = Dice::new(*seed);
        let name = format!("{MIXED} {seed}");
        rows.push(run(&mut stage, &name, |stage| mix(stage, &mut dice)));
    }
    let ended = stage.end();
    print(&rows);
    if options.json {
        println!("{}", json(&rows));
    }
    let bad = rows.iter().filter(|row| !row.is_good()).count();
    ended.map_err(|error| format!("at the end: {error}"))?;
    if bad == 0 {
        println!("faults: ok");
        Ok(())
    } else {
        Err(format!("{bad} of {} faults did harm", rows.len()))
    }
}

impl Row {
    fn is_good(&self) -> bool {
        self.errors == 0 && self.equal && self.verified
    }
}

/// After a row that failed, the stage may be no place for another.
fn is_over(stage: &mut Stage<'_>, rows: &[Row]) -> bool {
    rows.last().is_some_and(|row| !row.verified) && stage.heal().is_err()
}

/// Does one fault and measures what comes of it.
fn run(
    stage: &mut Stage<'_>,
    name: &str,
    inject: impl FnOnce(&mut Stage<'_>) -> Result<String, String>,
) -> Row {
    stage.note(&format!("{name} ..."));
    let started = Instant::now();
    let mut row = Row {
        name: name.to_owned(),
        ..Row::default()
    };
    match go(stage, &mut row, inject) {
        Ok(what) => row.what = what,
        Err(error) => row.what = error,
    }
    for error in stage.watch.errors.iter().take(5) {
        println!("    | {error}");
    }
    row.seconds = started.elapsed().as_secs_f64();
    println!("faults: {}", line(&row));
    row
}

fn go(
    stage: &mut Stage<'_>,
    row: &mut Row,
    inject: impl FnOnce(&mut Stage<'_>) -> Result<String, String>,
) -> Result<String, String> {
    stage.watch.begin();
    stage.wait(BEFORE)?;
    let before = stage.ctl.status()?;
    let process = stage.session.child.id();
    let outcome = inject(stage).and_then(|what| Ok((what, stage.heal()?)));
    row.errors = stage.watch.errors.len() as u64;
    row.stall = stage.watch.longest;
    let (what, after) = outcome?;
    // Another process counts from nothing.
    let is_same = process == stage.session.child.id();
    let since = |now: u64, then: u64| {
        if is_same {
            now.saturating_sub(then)
        } else {
            now
        }
    };
    row.errors += since(after.failed, before.failed);
    row.copied = since(after.extents_copied, before.extents_copied) * EXTENT_BYTES;
    row.replayed = since(after.jobs_replayed, before.jobs_replayed);
    row.verified = true;
    stage.compare()?;
    row.equal = true;
    Ok(what)
}

/// Several faults one hard upon the other: what one leaves undone meets the next.
fn mix(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    let faults: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.mixes).collect();
    let mut names = Vec::new();
    for _ in 0..MIXED_STEPS {
        let drawn = usize::try_from(dice.below(faults.len() as u64)).unwrap_or(0);
        let fault = faults[drawn];
        stage.note(&format!("  {}", fault.name));
        (fault.inject)(stage, dice).map_err(|error| format!("{}: {error}", fault.name))?;
        names.push(fault.name);
        // Two times in three the volume has no time to become whole before the next; one good copy is always left,
        // because what needs others' help to come back waits for that itself.
        if dice.below(3) == 0 {
            stage.heal()?;
        } else {
            stage.until_two_are_active()?;
        }
    }
    Ok(names.join(", "))
}

fn line(row: &Row) -> String {
    let yes = |is: bool| if is { "yes" } else { "NO" };
    format!(
        "{:<13} {:>6} {:>8.1} {:>11.1} {:>9} {:>6} {:>8} {:>6.0}  {}",
        row.name,
        row.errors,
        row.stall,
        row.copied as f64 / f64::from(1 << 20),
        row.replayed,
        yes(row.equal),
        if row.verified { "clean" } else { "FAILED" },
        row.seconds,
        row.what
    )
}

fn print(rows: &[Row]) {
    println!();
    println!(
        "{:<13} {:>6} {:>8} {:>11} {:>9} {:>6} {:>8} {:>6}  what",
        "fault", "errors", "stall s", "copied MiB", "replayed", "equal", "verify", "took s"
    );
    for row in rows {
        println!("{}", line(row));
    }
    println!();
}

fn json(rows: &[Row]) -> String {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "fault": row.name,
                "what": row.what,
                "guest_errors": row.errors,
                "longest_stall_s": row.stall,
                "bytes_copied": row.copied,
                "jobs_replayed": row.replayed,
                "replicas_equal": row.equal,
                "verify_clean": row.verified,
                "seconds": row.seconds,
            })
        })
        .collect();
    serde_json::Value::Array(rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_good_only_if_nothing_was_noticed_and_nothing_is_left() {
        let good = Row {
            name: "kill".to_owned(),
            equal: true,
            verified: true,
            copied: 3 << 20,
            ..Row::default()
        };
        assert!(good.is_good());
        assert!(line(&good).contains("3.0"));
        assert!(json(&[good]).contains("\"bytes_copied\":3145728"));
        let bad = Row {
            errors: 1,
            equal: true,
            verified: true,
            ..Row::default()
        };
        assert!(!bad.is_good());
        assert!(line(&Row::default()).contains("FAILED"));
    }

    #[test]
    fn enough_faults_can_be_mixed() {
        assert!(FAULTS.iter().filter(|fault| fault.mixes).count() >= 5);
        assert!(FAULTS.iter().all(|fault| fault.name != MIXED));
    }
}
