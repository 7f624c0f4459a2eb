//! One call of the program: attach, verify, work, verify, let go, report.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crucible_upstairs::volume::{Volume, block_on};
use serde::Serialize;

use crate::args::{Arguments, Options, Workload};
use crate::attach::{self, Attachment};
use crate::console;
use crate::core::{Demand, Field, Kind, Lineage, LogFile, Step, WriteLog};
use crate::dsc::Dsc;
use crate::engine::{Engine, Run, Tally};
use crate::report::Summary;
use crate::trouble::{self, Trouble};

/// How long rand-read and rand-write go on when nothing is said, in seconds.
const BENCH_TIME_S: f64 = 10.0;
/// How long `--stable` waits.
const STABLE_PATIENCE: Duration = Duration::from_secs(600);
/// Laps of workloads about region servers when nothing is said.
const LAPS: u64 = 3;
/// How often progress is shown on a terminal.
const PROGRESS: Duration = Duration::from_secs(1);

/// What a call came to, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Whether everything succeeded and all data was right.
    pub ok: bool,
    /// The volume.
    pub block_size: u32,
    /// The volume.
    pub blocks: u64,
    /// Of the last activation.
    pub generation: u64,
    /// The runs in order: verification at the start, the work, verification at the end.
    pub runs: Vec<Summary>,
}

/// Says what a user may want to know: to standard error, unless it is not wanted.
#[derive(Clone, Copy, Debug)]
struct Voice {
    notices: bool,
    progress: bool,
}

impl Voice {
    fn of(options: &Options) -> Self {
        let notices = !options.quiet && !options.json;
        Self {
            notices,
            progress: notices && io::stderr().is_terminal(),
        }
    }

    fn notice(self, line: &str) {
        if self.notices {
            // Nobody reads it: no reason to stop.
            writeln!(io::stderr(), "{line}").ok();
        }
    }

    /// A line that the next one overwrites.
    fn progress(self, line: &str) {
        if self.progress {
            let mut out = io::stderr();
            write!(out, "\r\x1b[K{line}")
                .and_then(|()| out.flush())
                .ok();
        }
    }
}

/// Does it all. `stop`: set when the user wants an end.
///
/// Errors: what kept the work from being done, as text. Work that was done and came out wrong is not an error but
/// an [`Outcome`] that is not ok.
pub fn run(arguments: &Arguments, stop: &AtomicBool) -> Result<Outcome, String> {
    let Arguments { workload, options } = arguments;
    let voice = Voice::of(options);
    let seed = match options.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|error| error.to_string())? >> 16,
    };
    let dsc = options.dsc.as_deref().map(Dsc::new);
    let log_file = options.verify_in.as_deref().map(read_log).transpose()?;
    let attachment = attach::attach(&options.volume, dsc.as_ref())?;
    let begin = Instant::now();
    attach::activate(
        &attachment,
        options.volume.retry_activate,
        stop,
        &mut |line| {
            voice.notice(line);
        },
    )?;
    let Attachment { volume, generation } = attachment;
    let field = attach::field(&volume)?;
    voice.notice(&format!(
        "active after {} ms at generation {generation}: {} blocks of {} bytes, extents of {} blocks; seed {seed}",
        begin.elapsed().as_millis(),
        field.blocks,
        field.block_size,
        field.blocks_per_extent,
    ));
    let log = match &log_file {
        Some(file) => WriteLog::from_file(file, field.block_size, field.blocks)
            .map_err(|error| format!("--verify-in: {error}"))?,
        None => WriteLog::new(field.block_size, field.blocks, Lineage(seed)),
    };
    let mut session = Session {
        engine: Engine::new(volume, field, generation, log),
        options,
        dsc,
        seed,
        stop,
        voice,
        runs: Vec::new(),
    };
    let worked = session.work(workload);
    let let_go = session.let_go(workload);
    // What is known of the content is worth keeping, above all after a failure.
    let kept = session.keep_log();
    let outcome = Outcome {
        ok: session
            .runs
            .iter()
            .all(|summary| summary.bad_blocks == 0 && summary.error.is_none()),
        block_size: field.block_size,
        blocks: field.blocks,
        generation: session.engine.generation(),
        runs: session.runs,
    };
    worked.and(let_go).and(kept)?;
    Ok(outcome)
}

fn read_log(path: &std::path::Path) -> Result<LogFile, String> {
    let at = |error: &dyn std::fmt::Display| format!("--verify-in {}: {error}", path.display());
    let text = fs::read(path).map_err(|error| at(&error))?;
    serde_json::from_slice(&text).map_err(|error| at(&error))
}

struct Session<'a> {
    engine: Engine,
    options: &'a Options,
    dsc: Option<Dsc>,
    seed: u64,
    stop: &'a AtomicBool,
    voice: Voice,
    runs: Vec<Summary>,
}

impl Session<'_> {
    fn work(&mut self, workload: &Workload) -> Result<(), String> {
        if self.options.verify_at_start {
            self.plain("verify at start", Kind::Verify)?;
        }
        if workload.fills_first() && !self.is_over() {
            self.fill_first()?;
        }
        if self.is_over() {
            return Ok(());
        }
        match workload.kind() {
            Some(kind) => self.plain(kind.name(), kind)?,
            None => self.special(workload)?,
        }
        if self.options.verify_at_end && !self.is_over() {
            self.plain("verify at end", Kind::Verify)?;
        }
        if self.options.stable && !self.is_over() {
            let volume = self.engine.volume();
            let what = "all region servers have done everything";
            let stable = attach::is_stable;
            attach::wait_until(volume, STABLE_PATIENCE, self.stop, what, stable)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let wrong = |summary: &Summary| summary.bad_blocks > 0 || summary.error.is_some();
        self.stop.load(Ordering::Relaxed) || self.runs.iter().any(wrong)
    }

    fn demand(&self, field: Field) -> Result<Demand, String> {
        let io_size = self.options.io_size;
        let blocks = io_size
            .map(|size| size.blocks(field.block_size))
            .transpose()?;
        Ok(Demand {
            seed: self.seed,
            count: self.options.count,
            io_blocks: blocks,
        })
    }

    /// A workload that is a sequence of operations.
    fn plain(&mut self, name: &str, kind: Kind) -> Result<(), String> {
        let field = self.engine.field();
        let verify = kind == Kind::Verify;
        if verify && self.engine.log.known() == 0 {
            self.voice
                .notice("nothing is known of any block; --verify-in would tell");
        }
        self.refuse_writes(kind)?;
        let demand = self.demand(field)?;
        let depth = self.options.io_depth.unwrap_or_else(|| kind.depth()).max(1);
        let goes_on = matches!(kind, Kind::RandRead | Kind::RandWrite) && demand.count.is_none();
        let time_s = self.options.time.filter(|_| !verify);
        let time_s = time_s.or_else(|| goes_on.then_some(BENCH_TIME_S));
        let time = time_s.map(Duration::try_from_secs_f64).transpose();
        let time = time.map_err(|error| format!("--time: {error}"))?;
        let run = Run {
            depth,
            until: time.and_then(|time| Instant::now().checked_add(time)),
            stop: self.stop,
            stop_at_mismatch: !verify,
            final_flush: kind.writes() && kind != Kind::Dirty,
        };
        let mut steps = kind.steps(field, demand);
        let tally = self.run_steps(name, &mut steps, &run);
        self.add(name, depth, &tally);
        Ok(())
    }

    /// All blocks, as fast as it goes: what is said of the measurement that follows is not meant for this.
    fn fill_first(&mut self) -> Result<(), String> {
        let kind = Kind::FastFill;
        self.refuse_writes(kind)?;
        let demand = Demand {
            seed: self.seed,
            count: None,
            io_blocks: None,
        };
        let run = Run {
            depth: kind.depth(),
            until: None,
            stop: self.stop,
            stop_at_mismatch: true,
            final_flush: true,
        };
        let name = "fill first";
        let mut steps = kind.steps(self.engine.field(), demand);
        let tally = self.run_steps(name, &mut steps, &run);
        self.add(name, run.depth, &tally);
        Ok(())
    }

    fn refuse_writes(&self, kind: Kind) -> Result<(), String> {
        if self.options.volume.read_only && kind.writes() {
            return Err(format!(
                "{} writes, and --read-only forbids it",
                kind.name()
            ));
        }
        Ok(())
    }

    fn run_steps(
        &mut self,
        name: &str,
        steps: &mut dyn Iterator<Item = Step>,
        run: &Run<'_>,
    ) -> Tally {
        let voice = self.voice;
        let mut shown = Instant::now();
        let tally = self.engine.run(steps, run, &mut |tally| {
            if shown.elapsed() >= PROGRESS {
                shown = Instant::now();
                let mb = (tally.read_bytes + tally.write_bytes) / 1_000_000;
                let seconds = tally.elapsed.as_secs();
                let operations = tally.operations();
                voice.progress(&format!(
                    "{name}: {operations} operations, {mb} MB in {seconds} s"
                ));
            }
        });
        voice.progress("");
        tally
    }

    fn add(&mut self, name: &str, depth: usize, tally: &Tally) {
        self.runs.push(Summary::new(name, self.seed, depth, tally));
    }

    /// A workload that is more than a sequence of operations.
    fn special(&mut self, workload: &Workload) -> Result<(), String> {
        let voice = self.voice;
        if matches!(workload, Workload::Cli) {
            let (mut input, mut output) = (io::stdin().lock(), io::stdout());
            let engine = &mut self.engine;
            let total = console::run(engine, self.seed, self.stop, &mut input, &mut output)
                .map_err(|error| error.to_string())?;
            self.add("cli", 1, &total);
            return Ok(());
        }
        let depth = self.options.io_depth.unwrap_or(8).max(1);
        let mut trouble = Trouble {
            engine: &mut self.engine,
            dsc: self.dsc.as_ref(),
            seed: self.seed,
            depth,
            laps: self.options.count.unwrap_or(LAPS),
            stop: self.stop,
        };
        let notice = &mut |line: &str| voice.notice(line);
        let tallies = match workload {
            Workload::Replay => trouble.replay(notice),
            Workload::Repair => trouble.repair(notice),
            Workload::Replace(with) => trouble.replace(with.replacement, notice),
            Workload::ReplaceBeforeActive(with) => {
                trouble.replace_before_active(with.replacement, notice)
            }
            Workload::ReplaceReconcile(with) => trouble.replace_reconcile(with.replacement, notice),
            other => Err(format!("{} is no such workload", other.name())),
        }?;
        self.add(workload.name(), depth, &trouble::sum(tallies));
        Ok(())
    }

    /// `dirty` leaves as a crash would; everything else flushes.
    fn let_go(&mut self, workload: &Workload) -> Result<(), String> {
        let volume: &Volume = self.engine.volume();
        let outcome = if matches!(workload, Workload::Dirty) {
            block_on(volume.shut_down())
        } else {
            volume.deactivate_blocking()
        };
        match outcome {
            // Whoever let go already, at the console or by a failure, has said so.
            Err(crucible_upstairs::core::VolumeError::Inactive) => Ok(()),
            outcome => outcome.map_err(|error| format!("deactivation failed: {error}")),
        }
    }

    fn keep_log(&self) -> Result<(), String> {
        let Some(path) = &self.options.verify_out else {
            return Ok(());
        };
        let at =
            |error: &dyn std::fmt::Display| format!("--verify-out {}: {error}", path.display());
        let text = serde_json::to_string(&self.engine.log.file()).map_err(|error| at(&error))?;
        // Beside it first, so that a log that is read and written by one call is never half a log.
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        fs::write(&beside, text).map_err(|error| at(&error))?;
        fs::rename(&beside, path).map_err(|error| at(&error))
    }
}
