//! Many cases: generate, run on both sides, compare, count.

use crate::compare;
use crate::generate::{self, Generated, Generator};
use crate::native::{BATCH, Host, Native};
use crate::reduce;
use crate::soft::Soft;
use crate::state::Outcome;
use crate::text;
use iced_x86::{Code, Decoder, DecoderOptions};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

/// What happened to one code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cases: u64,
    /// Cases that ended with a fault on the host.
    pub(crate) faults: u64,
    pub(crate) mismatches: u64,
}

/// The shortest failing case of a mnemonic.
pub(crate) struct Example {
    found: Generated,
    differences: Vec<String>,
}

impl Results {
    /// Cases and mismatches in all.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let sum = |of: fn(&Tally) -> u64| {
            self.tallies
                .values()
                .map(|(_, tally)| of(tally))
                .sum::<u64>()
                + of(&self.sequences)
        };
        (sum(|tally| tally.cases), sum(|tally| tally.mismatches))
    }
}

/// Everything that came out.
pub(crate) struct Results {
    pub(crate) tallies: BTreeMap<usize, (Code, Tally)>,
    /// Cases of several instructions.
    pub(crate) sequences: Tally,
    pub(crate) examples: BTreeMap<String, Vec<Example>>,
    pub(crate) lost: Vec<String>,
    pub(crate) elapsed: Duration,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) cases: u64,
    pub(crate) time: Duration,
}

/// Both sides, ready to run.
pub(crate) struct Campaign {
    host: Host,
    soft: Soft,
    generator: Generator,
    outcome: Box<Outcome>,
}

/// Examples kept for a mnemonic: the differences usually come in few kinds.
const EXAMPLES: usize = 3;
/// Stands for a mnemonic where there are several.
const SEQUENCES: &str = "(sequences)";

impl Campaign {
    /// Starts the child and the guest.
    ///
    /// # Errors
    /// When the host refuses what the child needs.
    pub(crate) fn new(filter: &str) -> io::Result<Self> {
        let patterns = generate::patterns();
        Ok(Self {
            host: Host::start(&patterns)?,
            soft: Soft::new(&patterns),
            generator: Generator::new(filter),
            outcome: Box::new(Outcome::empty()),
        })
    }

    /// Runs cases from `seed` on.
    pub(crate) fn run(&mut self, seed: u64, limit: Limit) -> io::Result<Results> {
        let start = Instant::now();
        let mut results = Results {
            tallies: self
                .generator
                .codes()
                .map(|code| (code as usize, (code, Tally::default())))
                .collect(),
            sequences: Tally::default(),
            examples: BTreeMap::new(),
            lost: Vec::new(),
            elapsed: Duration::ZERO,
        };
        let mut next = 0u64;
        let mut done = 0;
        while done < limit.cases && start.elapsed() < limit.time {
            let mut batch = Vec::with_capacity(BATCH);
            // Some codes make a case only now and then; the clock bounds what a filter can cost.
            while batch.len() < BATCH && start.elapsed() < limit.time {
                let case_seed = seed.wrapping_mul(0x0001_0000_0000_0001).wrapping_add(next);
                next += 1;
                batch.extend(self.generator.case(case_seed));
            }
            done += batch.len() as u64;
            self.run_batch(&batch, &mut results)?;
        }
        results.elapsed = start.elapsed();
        Ok(results)
    }

    fn run_batch(&mut self, batch: &[Generated], results: &mut Results) -> io::Result<()> {
        let cases: Vec<_> = batch.iter().map(|generated| generated.case).collect();
        self.host.run(&cases)?;
        for (index, generated) in batch.iter().enumerate() {
            let code = generated.instruction.code();
            let tally = if generated.sequence.is_some() {
                &mut results.sequences
            } else {
                let entry = results.tallies.entry(code as usize);
                &mut entry.or_insert_with(|| (code, Tally::default())).1
            };
            let Native::Ended(host) = self.host.outcome(index) else {
                results
                    .lost
                    .push(text::print(&generated.case, generated.bitness));
                continue;
            };
            tally.cases += 1;
            if !matches!(host.vector, 1 | 3) {
                tally.faults += 1;
            }
            self.soft.run(&generated.case, &mut self.outcome);
            let differences =
                compare::differences(generated, &self.soft.before[..], host, &self.outcome);
            self.soft.settle(&generated.case);
            if !differences.is_empty() {
                tally.mismatches += 1;
                let name = if generated.sequence.is_some() {
                    SEQUENCES.to_owned()
                } else {
                    format!("{:?}", generated.instruction.mnemonic())
                };
                remember(
                    results.examples.entry(name).or_default(),
                    generated,
                    differences,
                );
            }
        }
        Ok(())
    }

    /// The differences of one case by itself.
    pub(crate) fn single(&mut self, generated: &Generated) -> io::Result<Option<Vec<String>>> {
        self.host.run(&[generated.case])?;
        let Native::Ended(host) = self.host.outcome(0) else {
            return Ok(None);
        };
        self.soft.run(&generated.case, &mut self.outcome);
        let differences =
            compare::differences(generated, &self.soft.before[..], host, &self.outcome);
        self.soft.settle(&generated.case);
        Ok(Some(differences))
    }

    /// Text about everything that failed, with cases made small.
    pub(crate) fn report(&mut self, results: &Results) -> String {
        let mut text = String::new();
        let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (code, tally) in results.tallies.values() {
            let entry = by_name.entry(format!("{:?}", code.mnemonic())).or_default();
            entry.0 += tally.cases;
            entry.1 += tally.mismatches;
        }
        by_name.insert(
            SEQUENCES.to_owned(),
            (results.sequences.cases, results.sequences.mismatches),
        );
        for (name, examples) in &results.examples {
            let (cases, mismatches) = by_name.get(name).copied().unwrap_or_default();
            let _ = writeln!(text, "{name}: {mismatches} of {cases} cases differ");
            for example in examples {
                let small = reduce::reduce(&example.found, |changed| {
                    let now = self.single(changed).ok().flatten().unwrap_or_default();
                    kinds(&now) == kinds(&example.differences)
                });
                let differences = self.single(&small).ok().flatten().unwrap_or_default();
                let names: Vec<_> = Decoder::with_ip(
                    small.bitness,
                    small.case.bytes(),
                    small.case.state.rip(),
                    DecoderOptions::NONE,
                )
                .iter()
                .map(|instruction| format!("{:?}", instruction.code()))
                .collect();
                let _ = writeln!(text, "  {}: {}", names.join(" "), differences.join("; "));
                let _ = writeln!(
                    text,
                    "    DIFF_CASE='{}'",
                    text::print(&small.case, small.bitness)
                );
            }
        }
        for lost in &results.lost {
            let _ = writeln!(text, "lost on the host: DIFF_CASE='{lost}'");
        }
        text
    }
}

/// What a list of differences is about: the names before the colons.
fn kinds(differences: &[String]) -> Vec<&str> {
    differences
        .iter()
        .filter_map(|line| line.split([':', ' ']).next())
        .collect()
}

/// Keeps a few examples whose differences are of different kinds, and of each kind the shortest code.
fn remember(examples: &mut Vec<Example>, generated: &Generated, differences: Vec<String>) {
    let same = examples
        .iter()
        .position(|old| kinds(&old.differences) == kinds(&differences));
    match same {
        Some(index) if generated.case.code_len < examples[index].found.case.code_len => {
            examples[index] = Example {
                found: generated.clone(),
                differences,
            };
        }
        None if examples.len() < EXAMPLES => {
            examples.push(Example {
                found: generated.clone(),
                differences,
            });
        }
        Some(_) | None => {}
    }
}
