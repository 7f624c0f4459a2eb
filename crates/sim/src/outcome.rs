//! What came of runs: numbers for the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use vm_types::Span;

use crate::faults::Fault;
use crate::scenario::Scenario;

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As it was asked for.
    pub scenario: Scenario,
    /// What must not have happened.
    pub violation: Option<String>,
    /// The same for the same run.
    pub hash: u64,
    /// Things that happened.
    pub events: u64,
    /// How long it took in the world.
    pub virtual_time: Span,
    /// Faults injected, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Requests of the guest that succeeded.
    pub answered: u64,
    /// Requests and commands that failed.
    pub refused: u64,
    /// Activations.
    pub activations: u64,
    /// Extents that came over complete from another region server.
    pub copies: u64,
    /// Reports of bad data.
    pub integrity: u64,
    /// Snapshots that were told to be there.
    pub snapshots: u64,
    /// Volumes that were served read-only in the end, and read, with two missing, one, none.
    pub read_only: [u64; 3],
    /// Times that all replicas of an active volume were given up.
    pub given_up: u64,
    /// The most jobs that an upstairs knew at once.
    pub jobs_most: usize,
    /// What the upstairs counted.
    pub totals: Totals,
    /// Lines, if they were asked for.
    pub trace: Vec<String>,
}

/// What the upstairs counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the upstairs' counters")]
pub struct Totals {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub auto_flushes: u64,
    pub barriers: u64,
    pub hedged_reads: u64,
    pub connections: u64,
    pub replays: u64,
    pub replayed_jobs: u64,
    pub live_repairs: u64,
    pub live_repairs_aborted: u64,
    pub extents_repaired: u64,
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Runs.
    pub seeds: u64,
    /// Those that failed: the line that repeats it, and why.
    pub violations: Vec<(String, String)>,
    faults: BTreeMap<Fault, u64>,
    sums: BTreeMap<&'static str, u64>,
    jobs_most: usize,
}

impl Outcome {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.clone(),
            violation: None,
            hash: 0,
            events: 0,
            virtual_time: Span::ZERO,
            faults: BTreeMap::new(),
            answered: 0,
            refused: 0,
            activations: 0,
            copies: 0,
            integrity: 0,
            snapshots: 0,
            read_only: [0; 3],
            given_up: 0,
            jobs_most: 0,
            totals: Totals::default(),
            trace: Vec::new(),
        }
    }

    fn numbers(&self) -> [(&'static str, u64); 24] {
        let totals = &self.totals;
        [
            ("guest reads", totals.reads),
            ("guest writes", totals.writes),
            ("guest flushes", totals.flushes),
            ("requests that succeeded", self.answered),
            ("requests and commands that failed", self.refused),
            ("activations", self.activations),
            ("connections", totals.connections),
            ("replays", totals.replays),
            ("replayed jobs", totals.replayed_jobs),
            ("live repairs", totals.live_repairs),
            ("live repairs broken off", totals.live_repairs_aborted),
            ("extents live-repaired", totals.extents_repaired),
            ("extents copied", self.copies),
            ("automatic flushes", totals.auto_flushes),
            ("barriers", totals.barriers),
            ("hedged reads", totals.hedged_reads),
            ("reports of bad data", self.integrity),
            ("snapshots", self.snapshots),
            ("read-only with two missing", self.read_only[0]),
            ("read-only with one missing", self.read_only[1]),
            ("read-only with all three", self.read_only[2]),
            ("all replicas given up", self.given_up),
            ("events", self.events),
            (
                "virtual seconds",
                self.virtual_time.as_nanos() / 1_000_000_000,
            ),
        ]
    }
}

impl Table {
    /// Adds one run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        if let Some(why) = &outcome.violation {
            self.violations
                .push((outcome.scenario.to_string(), why.clone()));
        }
        for (kind, count) in &outcome.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (name, number) in outcome.numbers() {
            *self.sums.entry(name).or_default() += number;
        }
        self.jobs_most = self.jobs_most.max(outcome.jobs_most);
    }

    /// Adds the runs of another table.
    pub fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.violations.extend(other.violations);
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (name, number) in other.sums {
            *self.sums.entry(name).or_default() += number;
        }
        self.jobs_most = self.jobs_most.max(other.jobs_most);
    }

    /// How many faults were injected.
    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// How often one kind of fault was injected.
    pub fn fault(&self, kind: Fault) -> u64 {
        self.faults.get(&kind).copied().unwrap_or_default()
    }

    /// One of the sums, by its name in the table.
    pub fn sum(&self, name: &str) -> u64 {
        self.sums.get(name).copied().unwrap_or_default()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{:<36}{:>14}\n", "seeds run", self.seeds);
        let mut line = |name: &str, number: u64| {
            let _ = writeln!(text, "{name:<36}{number:>14}");
        };
        for kind in Fault::ALL {
            line(&format!("fault: {}", kind.name()), self.fault(*kind));
        }
        line("faults in all", self.faults());
        for (name, number) in &self.sums {
            line(name, *number);
        }
        line("most jobs at once", self.jobs_most as u64);
        line("violations", self.violations.len() as u64);
        for (repeat, why) in &self.violations {
            let _ = writeln!(text, "{repeat}\n    {why}");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let faults: BTreeMap<&str, u64> = Fault::ALL
            .iter()
            .map(|kind| (kind.name(), self.fault(*kind)))
            .collect();
        let violations: Vec<Value> = self
            .violations
            .iter()
            .map(|(repeat, why)| json!({"repeat": repeat, "why": why}))
            .collect();
        json!({
            "seeds": self.seeds,
            "faults": faults,
            "sums": self.sums,
            "most_jobs_at_once": self.jobs_most,
            "violations": violations,
        })
    }
}
