//! Workloads about region servers that go, come back and change, with reads and writes all the while: replay,
//! repair, replace. Each lap ends when all three are in use again; at the end all blocks are verified.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crucible_upstairs::core::{Mode, ReplaceResult, ReplicaState, VolumeError};
use crucible_upstairs::volume::{Volume, block_on};

use crate::attach::{all_active, wait_until};
use crate::core::{Demand, Draws, Kind};
use crate::dsc::Dsc;
use crate::engine::{Engine, Run, Tally};

/// How long a repair, replay or reconciliation may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a region server is away for a replay: shorter than it takes to fill what is kept for it.
const AWAY: Duration = Duration::from_millis(200);
/// Operations a second while a replay is wanted.
const GENTLE_PAUSE: Duration = Duration::from_millis(2);

/// What all of these need.
#[derive(Debug)]
pub struct Trouble<'a> {
    /// The volume and what is known of it.
    pub engine: &'a mut Engine,
    /// Stops and starts region servers.
    pub dsc: Option<&'a Dsc>,
    /// Decides all that is random.
    pub seed: u64,
    /// Operations under way at once.
    pub depth: usize,
    /// Laps.
    pub laps: u64,
    /// Gives up.
    pub stop: &'a AtomicBool,
}

/// What a lap may say.
type Notice<'a> = &'a mut (dyn FnMut(&str) + Send);

impl Trouble<'_> {
    fn dsc(&self) -> Result<&Dsc, String> {
        self.dsc
            .ok_or_else(|| "this workload stops region servers: give --dsc IP:PORT".to_owned())
    }

    /// All region servers, set by set.
    fn targets(&self) -> Result<Vec<SocketAddr>, String> {
        targets(self.engine.volume())
    }

    /// Random reads, writes and flushes while `meanwhile` runs; then what both came to.
    fn under_load(
        &mut self,
        lap: u64,
        pause: Option<Duration>,
        meanwhile: impl FnOnce(&Volume) -> Result<(), String>,
    ) -> Result<Tally, String> {
        let enough = AtomicBool::new(false);
        let demand = Demand {
            seed: self.seed.wrapping_add(lap),
            count: Some(u64::MAX),
            io_blocks: None,
        };
        let depth = if pause.is_some() { 4 } else { self.depth };
        let volume = self.engine.volume().clone();
        let engine = &mut *self.engine;
        let (mut tally, outcome) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut steps = Kind::Generic.steps(engine.field(), demand).inspect(|_| {
                    if let Some(pause) = pause {
                        std::thread::sleep(pause);
                    }
                });
                let run = Run {
                    depth,
                    until: None,
                    stop: &enough,
                    stop_at_mismatch: true,
                    final_flush: true,
                };
                engine.run(&mut steps, &run, &mut |_| {})
            });
            let outcome = meanwhile(&volume);
            enough.store(true, Ordering::Relaxed);
            (load.join().unwrap_or_default(), outcome)
        });
        tally.stopped = false;
        // What went wrong below is mostly why the other thing did not come about.
        if tally.is_good() {
            outcome?;
        }
        Ok(tally)
    }

    fn laps(
        &mut self,
        mut lap: impl FnMut(&mut Self, u64) -> Result<Tally, String>,
    ) -> Result<Vec<Tally>, String> {
        let mut tallies = Vec::new();
        for number in 1..=self.laps {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let tally = lap(self, number)?;
            let good = tally.is_good();
            tallies.push(tally);
            if !good {
                return Ok(tallies);
            }
        }
        tallies.push(self.verify());
        Ok(tallies)
    }

    fn verify(&mut self) -> Tally {
        let demand = Demand {
            seed: self.seed,
            count: None,
            io_blocks: None,
        };
        let mut steps = Kind::Verify.steps(self.engine.field(), demand);
        let run = Run {
            depth: Kind::Verify.depth(),
            until: None,
            stop: self.stop,
            stop_at_mismatch: false,
            final_flush: false,
        };
        self.engine.run(&mut steps, &run, &mut |_| {})
    }

    /// A short absence: the jobs that were missed are sent again.
    pub fn replay(&mut self, notice: Notice<'_>) -> Result<Vec<Tally>, String> {
        let dsc = self.dsc()?.clone();
        let targets = self.targets()?;
        let mut draws = Draws::new(self.seed);
        self.laps(|trouble, lap| {
            let victim = targets[draws.below(targets.len() as u64) as usize];
            let cid = dsc.find(victim)?;
            let stop = trouble.stop;
            let before = counters(trouble.engine.volume(), victim);
            let tally = trouble.under_load(lap, Some(GENTLE_PAUSE), |volume| {
                std::thread::sleep(AWAY);
                dsc.stop(cid)?;
                std::thread::sleep(AWAY);
                dsc.start(cid)?;
                wait_until(volume, PATIENCE, stop, "all are active", all_active)
            })?;
            let after = counters(trouble.engine.volume(), victim);
            let how = if after.1 > before.1 {
                "was repaired"
            } else if after.0 > before.0 {
                "replayed what it had missed"
            } else {
                "had missed nothing"
            };
            notice(&format!("lap {lap}: {victim} was away and {how}"));
            Ok(tally)
        })
    }

    /// A long absence: extents are copied from the others.
    pub fn repair(&mut self, notice: Notice<'_>) -> Result<Vec<Tally>, String> {
        let dsc = self.dsc()?.clone();
        let targets = self.targets()?;
        let mut draws = Draws::new(self.seed);
        self.laps(|trouble, lap| {
            let victim = targets[draws.below(targets.len() as u64) as usize];
            let cid = dsc.find(victim)?;
            let stop = trouble.stop;
            let before = counters(trouble.engine.volume(), victim);
            let tally = trouble.under_load(lap, None, |volume| {
                dsc.stop(cid)?;
                let given_up = |insight: &crucible_upstairs::store::Insight| {
                    let mut replicas = insight.status.replicas.iter();
                    replicas.all(|replica| {
                        replica.address != victim
                            || matches!(
                                replica.state,
                                ReplicaState::Connecting {
                                    mode: Mode::Faulted,
                                    ..
                                }
                            )
                    })
                };
                wait_until(volume, PATIENCE, stop, "it is given up", given_up)?;
                dsc.start(cid)?;
                wait_until(volume, PATIENCE, stop, "all are active", all_active)
            })?;
            let after = counters(trouble.engine.volume(), victim);
            notice(&format!(
                "lap {lap}: {victim} was away and repaired: {} extents copied, {} found equal",
                after.2 - before.2,
                after.3 - before.3,
            ));
            Ok(tally)
        })
    }

    /// Each lap the spare one takes the place of another, whose place as the spare one is free then.
    pub fn replace(&mut self, spare: SocketAddr, notice: Notice<'_>) -> Result<Vec<Tally>, String> {
        let mut spare = spare;
        self.laps(|trouble, lap| {
            let old = in_turn(&trouble.targets()?, lap);
            let new = std::mem::replace(&mut spare, old);
            let stop = trouble.stop;
            let tally = trouble.under_load(lap, None, |volume| {
                replace(volume, old, new, stop)?;
                wait_until(volume, PATIENCE, stop, "all are active", all_active)
            })?;
            notice(&format!("lap {lap}: {new} took the place of {old}"));
            Ok(tally)
        })
    }

    /// One is away; before the volume can be active without it, the spare one takes its place.
    pub fn replace_before_active(
        &mut self,
        spare: SocketAddr,
        notice: Notice<'_>,
    ) -> Result<Vec<Tally>, String> {
        let dsc = self.dsc()?.clone();
        let mut spare = spare;
        self.laps(|trouble, lap| {
            let old = in_turn(&trouble.targets()?, lap);
            let new = std::mem::replace(&mut spare, old);
            let cid = dsc.find(old)?;
            let stop = trouble.stop;
            let volume = trouble.engine.volume().clone();
            let tally = trouble.under_load(lap, None, |_| {
                std::thread::sleep(AWAY);
                Ok(())
            })?;
            block_on(volume.deactivate()).map_err(|error| error.to_string())?;
            dsc.stop(cid)?;
            let outcome = trouble.activate_while(|| replace(&volume, old, new, stop));
            // Whatever came of it, the next lap finds all of them running.
            dsc.start(cid)?;
            outcome?;
            wait_until(&volume, PATIENCE, stop, "all are active", all_active)?;
            notice(&format!(
                "lap {lap}: {new} took the place of {old}, which was away"
            ));
            Ok(tally)
        })
    }

    /// One has missed writes; while the others bring it up to date, the spare one takes the place of one of them.
    pub fn replace_reconcile(
        &mut self,
        spare: SocketAddr,
        notice: Notice<'_>,
    ) -> Result<Vec<Tally>, String> {
        let dsc = self.dsc()?.clone();
        let mut spare = spare;
        self.laps(|trouble, lap| {
            let targets = trouble.targets()?;
            let late = in_turn(&targets, lap);
            let old = beside(&targets, lap);
            let new = std::mem::replace(&mut spare, old);
            let cid = dsc.find(late)?;
            let stop = trouble.stop;
            let volume = trouble.engine.volume().clone();
            let mut tally = trouble.under_load(lap, None, |_| dsc.stop(cid))?;
            if tally.is_good() {
                tally = trouble.under_load(lap, None, |_| {
                    std::thread::sleep(AWAY);
                    Ok(())
                })?;
            }
            block_on(volume.deactivate()).map_err(|error| error.to_string())?;
            dsc.start(cid)?;
            trouble.activate_while(|| {
                let reconciling = |insight: &crucible_upstairs::store::Insight| {
                    insight.status.reconciling || all_active(insight)
                };
                wait_until(&volume, PATIENCE, stop, "it reconciles", reconciling)?;
                replace(&volume, old, new, stop)
            })?;
            wait_until(&volume, PATIENCE, stop, "all are active", all_active)?;
            notice(&format!(
                "lap {lap}: {late} was late; {new} took the place of {old}"
            ));
            Ok(tally)
        })
    }

    fn activate_while(
        &mut self,
        meanwhile: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        let engine = &mut *self.engine;
        let volume = engine.volume().clone();
        std::thread::scope(|scope| {
            let active = scope.spawn(|| engine.activate_next());
            let outcome = meanwhile();
            if outcome.is_err() {
                // Nobody would come to end this activation.
                block_on(volume.shut_down()).ok();
            }
            let active = active.join().unwrap_or(Err(VolumeError::ShutDown));
            outcome?;
            active.map_err(|error| format!("activation failed: {error}"))
        })
    }
}

/// Replaces; tries again while others are not whole themselves.
fn replace(
    volume: &Volume,
    old: SocketAddr,
    new: SocketAddr,
    stop: &AtomicBool,
) -> Result<(), String> {
    let begin = std::time::Instant::now();
    loop {
        match volume.replace_blocking(old, new) {
            Ok(
                ReplaceResult::Started
                | ReplaceResult::StartedAlready
                | ReplaceResult::CompletedAlready,
            ) => return Ok(()),
            Ok(other) => return Err(format!("replacing {old} by {new}: {other:?}")),
            Err(VolumeError::ReplaceRefused(_) | VolumeError::Deactivating)
                if begin.elapsed() < PATIENCE && !stop.load(Ordering::Relaxed) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(format!("replacing {old} by {new}: {error}")),
        }
    }
}

/// The region servers of a volume, three by three.
fn targets(volume: &Volume) -> Result<Vec<SocketAddr>, String> {
    let insights = block_on(volume.insights());
    let replicas = insights.iter().flat_map(|insight| &insight.status.replicas);
    let targets: Vec<SocketAddr> = replicas.map(|replica| replica.address).collect();
    if targets.is_empty() {
        return Err("this workload needs a volume on region servers".to_owned());
    }
    Ok(targets)
}

/// Each lap another one. There is at least one set of three.
fn in_turn(targets: &[SocketAddr], lap: u64) -> SocketAddr {
    targets[(lap % targets.len() as u64) as usize]
}

/// The next one of the same three.
fn beside(targets: &[SocketAddr], lap: u64) -> SocketAddr {
    let place = (lap % targets.len() as u64) as usize;
    targets[place - place % 3 + (place + 1) % 3]
}

/// Replays, repairs, extents copied, extents found equal.
fn counters(volume: &Volume, target: SocketAddr) -> (u64, u64, u64, u64) {
    let insights = block_on(volume.insights());
    let mut replicas = insights.iter().flat_map(|insight| &insight.status.replicas);
    let found = replicas.find(|replica| replica.address == target);
    found.map_or((0, 0, 0, 0), |replica| {
        let counters = replica.counters;
        (
            counters.replays,
            counters.live_repairs_completed,
            counters.extents_repaired,
            counters.extents_confirmed,
        )
    })
}

/// Everything of several runs, one after the other.
pub fn sum(tallies: Vec<Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), Tally::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_through_all_sets_and_neighbours_are_of_one() {
        let targets: Vec<SocketAddr> = (0..6)
            .map(|at| SocketAddr::from(([127, 0, 0, 1], at)))
            .collect();
        let places = |pick: fn(&[SocketAddr], u64) -> SocketAddr| {
            (0..7)
                .map(|lap| pick(&targets, lap).port())
                .collect::<Vec<_>>()
        };
        assert_eq!(places(in_turn), [0, 1, 2, 3, 4, 5, 0]);
        assert_eq!(places(beside), [1, 2, 0, 4, 5, 3, 1]);
    }
}
