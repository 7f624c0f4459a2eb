//! One run, as it is asked for: everything that decides what will happen.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use crate::faults::Faults;
use crate::outcome::Outcome;
use crate::world::World;

/// Requests of the guest in a run, if nobody says otherwise.
pub const STEPS: u64 = 300;

/// What a region server keeps its region in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// The model of the store.
    Model,
    /// The store, on a disk that crashes.
    Store,
}

/// Everything that decides what will happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Of all chance.
    pub seed: u64,
    /// What may go wrong.
    pub faults: Faults,
    /// Requests of the guest, before faults stop.
    pub steps: u64,
    /// Below the region servers.
    pub disk: DiskKind,
    /// Whether to keep lines about what happens.
    pub trace: bool,
}

impl Scenario {
    /// A run of this seed with the faults that are drawn for it.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Faults::drawn(seed),
            steps: STEPS,
            disk: DiskKind::Store,
            trace: false,
        }
    }
}

impl fmt::Display for Scenario {
    /// The command that repeats it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            faults,
            steps,
            disk,
            ..
        } = self;
        write!(
            f,
            "cargo run -p sim -- --seed {seed} --faults {faults} --steps {steps} --disk {disk}"
        )
    }
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Store => "store",
        })
    }
}

impl FromStr for DiskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "model" => Ok(Self::Model),
            "store" => Ok(Self::Store),
            _ => Err(format!("disk {text:?}: expected model or store")),
        }
    }
}

/// Lets it happen. A panic is a violation like any other.
pub fn run(scenario: &Scenario) -> Outcome {
    let attempt = catch_unwind(AssertUnwindSafe(|| World::new(scenario).map(World::run)));
    let why = match attempt {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(why)) => why,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    let mut outcome = Outcome::new(scenario);
    outcome.violation = Some(why);
    outcome
}

/// The smallest run found that still fails, from one that does: fewer kinds of faults, then fewer steps.
pub fn shrink(scenario: &Scenario) -> Scenario {
    let fails = |candidate: &Scenario| run(candidate).violation.is_some();
    let mut best = scenario.clone();
    for kind in scenario.faults.iter() {
        let mut candidate = best.clone();
        candidate.faults = candidate.faults.without(kind);
        if fails(&candidate) {
            best = candidate;
        }
    }
    let mut step = best.steps / 2;
    while step > 0 {
        let mut candidate = best.clone();
        candidate.steps -= step;
        if candidate.steps > 0 && fails(&candidate) {
            best = candidate;
        }
        step = step.min(best.steps) / 2;
    }
    best
}
