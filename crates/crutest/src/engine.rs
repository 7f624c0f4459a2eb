//! Performs the steps of a workload on a volume: many under way at once, each read checked against the write log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::{Answer, Request, VolumeError};
use crucible_upstairs::store::{Ask, Outcome, Sink, Submission};
use crucible_upstairs::volume::{Volume, block_on};

use crate::core::log::{Flushing, Mismatch};
use crate::core::{Expected, Field, Latencies, Step, WriteLog};

/// How often a run says how far it is.
const TICK: Duration = Duration::from_millis(250);
/// Mismatches that are kept for the report.
const MISMATCHES_KEPT: usize = 20;

/// How a run is to go.
#[derive(Debug)]
pub struct Run<'a> {
    /// Operations under way at once; at least one.
    pub depth: usize,
    /// When to stop at the latest.
    pub until: Option<Instant>,
    /// Stops when somebody sets it.
    pub stop: &'a AtomicBool,
    /// Whether wrong data ends the run, or is only counted.
    pub stop_at_mismatch: bool,
    /// Whether all that was written is flushed at the end.
    pub final_flush: bool,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Those that succeeded.
    pub reads: Latencies,
    /// In bytes.
    pub read_bytes: u64,
    /// Those that succeeded.
    pub writes: Latencies,
    /// In bytes.
    pub write_bytes: u64,
    /// Those that succeeded, the last one included.
    pub flushes: Latencies,
    /// The flush at the end, if there was one.
    pub final_flush: Option<Duration>,
    /// From the first submission to the last answer, final flush included.
    pub elapsed: Duration,
    /// Blocks that held what they must.
    pub good_blocks: u64,
    /// Blocks of which nothing was known.
    pub unknown_blocks: u64,
    /// Blocks that held something else.
    pub bad_blocks: u64,
    /// The first of those.
    pub mismatches: Vec<Mismatch>,
    /// What failed first.
    pub error: Option<Failure>,
    /// Whether somebody stopped it.
    pub stopped: bool,
}

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step:?}: {error}")]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// Why.
    pub error: VolumeError,
}

impl Tally {
    /// Whether all operations succeeded and all data was right.
    pub const fn is_good(&self) -> bool {
        self.error.is_none() && self.bad_blocks == 0
    }

    /// This run and `next`, one after the other.
    #[must_use]
    pub fn and(mut self, next: Self) -> Self {
        self.reads.append(&next.reads);
        self.read_bytes += next.read_bytes;
        self.writes.append(&next.writes);
        self.write_bytes += next.write_bytes;
        self.flushes.append(&next.flushes);
        self.final_flush = next.final_flush.or(self.final_flush);
        self.elapsed += next.elapsed;
        self.good_blocks += next.good_blocks;
        self.unknown_blocks += next.unknown_blocks;
        self.bad_blocks += next.bad_blocks;
        let room = MISMATCHES_KEPT.saturating_sub(self.mismatches.len());
        self.mismatches
            .extend(next.mismatches.into_iter().take(room));
        self.error = self.error.or(next.error);
        self.stopped |= next.stopped;
        self
    }

    /// Reads and writes.
    pub const fn operations(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }
}

/// A volume, what is known of its content, and which activation of it this is.
#[derive(Debug)]
pub struct Engine {
    volume: Volume,
    field: Field,
    generation: u64,
    /// What is known of the content.
    pub log: WriteLog,
    inbox: Arc<Inbox>,
}

/// Where answers arrive.
#[derive(Default)]
struct Inbox {
    answers: Mutex<Vec<(u64, Outcome, Instant)>>,
    filled: Condvar,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Sink for Inbox {
    fn complete(&self, tag: u64, outcome: Outcome) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((tag, outcome, Instant::now()));
    }

    fn rest(&self) {
        self.filled.notify_one();
    }
}

impl Inbox {
    /// Takes all answers, after waiting for the first one until `until` at the latest.
    fn take(&self, until: Instant, into: &mut Vec<(u64, Outcome, Instant)>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        while answers.is_empty() {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.filled.wait_timeout(answers, left);
            answers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        into.append(&mut answers);
    }
}

/// An operation under way.
struct Flight {
    step: Step,
    since: Instant,
    expected: Option<Box<[Expected]>>,
    flushing: Option<Flushing>,
}

/// Operations under way, by their tags.
#[derive(Default)]
struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    count: usize,
}

impl Flights {
    fn insert(&mut self, flight: Flight) -> u64 {
        self.count += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(flight);
        slot as u64
    }

    fn remove(&mut self, tag: u64) -> Option<Flight> {
        let slot = usize::try_from(tag).ok()?;
        let flight = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.count -= 1;
        Some(flight)
    }
}

impl Engine {
    /// Over an active volume. `generation`: of the activation that it has.
    pub fn new(volume: Volume, field: Field, generation: u64, log: WriteLog) -> Self {
        Self {
            volume,
            field,
            generation,
            log,
            inbox: Arc::default(),
        }
    }

    /// The volume.
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Its size.
    pub const fn field(&self) -> Field {
        self.field
    }

    /// The generation of the activation.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Deactivates, and activates with the next generation.
    pub fn reactivate(&mut self) -> Result<(), VolumeError> {
        self.volume.deactivate_blocking()?;
        self.activate_next()
    }

    /// Activates with the next generation.
    pub fn activate_next(&mut self) -> Result<(), VolumeError> {
        self.activate(None)
    }

    /// Activates with this generation, or with the next one.
    pub fn activate(&mut self, generation: Option<u64>) -> Result<(), VolumeError> {
        self.generation = generation.unwrap_or_else(|| self.generation.saturating_add(1));
        self.volume
            .activate_blocking(Some(self.generation))
            .map(drop)
    }

    /// Performs `steps` in order until they end, or the run is stopped, or something fails. `watch` hears now and
    /// then how far it is.
    pub fn run(
        &mut self,
        steps: &mut dyn Iterator<Item = Step>,
        run: &Run<'_>,
        watch: &mut dyn FnMut(&Tally),
    ) -> Tally {
        let begin = Instant::now();
        let mut tally = Tally::default();
        let mut flights = Flights::default();
        let mut batch = Vec::new();
        let mut answers = Vec::new();
        let mut next_tick = begin + TICK;
        let mut held: Option<Step> = None;
        let mut ended = false;
        loop {
            let now = Instant::now();
            if run.stop.load(Ordering::Relaxed) {
                tally.stopped = true;
                ended = true;
            }
            let failed = tally.error.is_some() || (run.stop_at_mismatch && tally.bad_blocks > 0);
            if failed || run.until.is_some_and(|until| until <= now) {
                ended = true;
            }
            while !ended && flights.count < run.depth.max(1) {
                let Some(step) = held.take().or_else(|| steps.next()) else {
                    ended = true;
                    break;
                };
                if let Err(step) = self.submit(step, &mut batch, &mut flights) {
                    held = Some(step);
                    break;
                }
            }
            self.volume.submit(&mut batch);
            if flights.count == 0 {
                match held.take() {
                    _ if ended => break,
                    // It may only run alone, or there was no room; now there is.
                    Some(step) => self.alone(step, run, &mut batch, &mut flights, &mut tally),
                    None => {}
                }
                self.volume.submit(&mut batch);
                continue;
            }
            self.inbox.take(next_tick, &mut answers);
            for (tag, outcome, at) in answers.drain(..) {
                if let Some(flight) = flights.remove(tag) {
                    self.land(flight, outcome, at, &mut tally);
                }
            }
            if Instant::now() >= next_tick {
                tally.elapsed = begin.elapsed();
                watch(&tally);
                next_tick = Instant::now() + TICK;
            }
        }
        if run.final_flush && tally.error.is_none() {
            self.final_flush(&mut tally);
        }
        tally.elapsed = begin.elapsed();
        tally
    }

    /// Adds a step to the batch, or gives it back if it must wait: for room, or for all that is under way.
    fn submit(
        &mut self,
        step: Step,
        batch: &mut Vec<Submission>,
        flights: &mut Flights,
    ) -> Result<(), Step> {
        let block_size = u64::from(self.field.block_size);
        let (count, is_io) = match step {
            Step::Read { count, .. } | Step::Write { count, .. } => (count, true),
            Step::Flush => (0, true),
            Step::Drain if flights.count == 0 => return Ok(()),
            Step::Drain | Step::Reactivate | Step::Pause(_) => (0, false),
        };
        if !is_io {
            return Err(step);
        }
        let bytes = usize::try_from(count.saturating_mul(block_size)).unwrap_or(usize::MAX);
        let permit = self.volume.try_permit(bytes).ok_or(step)?;
        let mut expected = None;
        let mut flushing = None;
        let request = match step {
            Step::Read { start, count } => {
                expected = self.log.expectations(start, count);
                let start = BlockIndex(start);
                Request::Read { start, count }
            }
            Step::Write { start, .. } => {
                let mut data = BytesMut::zeroed(bytes);
                self.log.write(start, &mut data);
                let start = BlockIndex(start);
                Request::Write { start, data }
            }
            _ => {
                flushing = Some(self.log.flush());
                Request::Flush { snapshot: None }
            }
        };
        let tag = flights.insert(Flight {
            step,
            since: Instant::now(),
            expected,
            flushing,
        });
        batch.push(Submission {
            ask: Ask::Request(request),
            reply: permit.reply(self.inbox.clone(), tag),
        });
        Ok(())
    }

    /// A step that needs nothing else to be under way.
    fn alone(
        &mut self,
        step: Step,
        run: &Run<'_>,
        batch: &mut Vec<Submission>,
        flights: &mut Flights,
        tally: &mut Tally,
    ) {
        match step {
            Step::Drain => {}
            Step::Pause(span) => {
                let until = Instant::now() + Duration::from_nanos(span.as_nanos());
                while Instant::now() < until && !run.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Step::Reactivate => {
                if let Err(error) = self.reactivate() {
                    tally.error = Some(Failure { step, error });
                }
            }
            Step::Read { count, .. } | Step::Write { count, .. } => {
                self.with_patience(step, count, batch, flights, tally);
            }
            Step::Flush => self.with_patience(step, 0, batch, flights, tally),
        }
    }

    /// Submits when others who use the volume have left room.
    fn with_patience(
        &mut self,
        step: Step,
        blocks: u64,
        batch: &mut Vec<Submission>,
        flights: &mut Flights,
        tally: &mut Tally,
    ) {
        let bytes = blocks.saturating_mul(u64::from(self.field.block_size));
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let waited = block_on(self.volume.permit(bytes)).map(drop);
        let taken = waited.map(|()| self.submit(step, batch, flights));
        if let Err(error) = taken.and_then(|t| t.map_err(|_| VolumeError::Full)) {
            tally.error = Some(Failure { step, error });
        }
    }

    fn land(&mut self, flight: Flight, outcome: Outcome, at: Instant, tally: &mut Tally) {
        let took = at.saturating_duration_since(flight.since);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let size = u64::from(self.field.block_size);
        let step = flight.step;
        match (step, outcome) {
            (Step::Read { start, count }, Ok(Answer::Read(plain))) => {
                tally.reads.add(ns);
                tally.read_bytes += count * size;
                let Some(expected) = flight.expected else {
                    tally.unknown_blocks += count;
                    return;
                };
                let verdict = self.log.check(start, &plain.data, &expected);
                tally.good_blocks += verdict.good;
                tally.unknown_blocks += verdict.unknown;
                tally.bad_blocks += verdict.bad.len() as u64;
                let room = MISMATCHES_KEPT.saturating_sub(tally.mismatches.len());
                tally.mismatches.extend(verdict.bad.into_iter().take(room));
            }
            (Step::Write { count, .. }, Ok(_)) => {
                tally.writes.add(ns);
                tally.write_bytes += count * size;
            }
            (_, Ok(_)) => {
                tally.flushes.add(ns);
                if let Some(flushing) = flight.flushing {
                    self.log.flushed(flushing);
                }
            }
            (_, Err(error)) => {
                if let Some(flushing) = flight.flushing {
                    self.log.flush_failed(flushing);
                }
                if let Step::Write { start, count } = step {
                    self.log.write_failed(start, count);
                }
                tally.error.get_or_insert(Failure { step, error });
            }
        }
    }

    fn final_flush(&mut self, tally: &mut Tally) {
        let flushing = self.log.flush();
        let begin = Instant::now();
        match self.volume.flush_blocking(None) {
            Ok(()) => {
                self.log.flushed(flushing);
                let took = begin.elapsed();
                let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                tally.flushes.add(ns);
                tally.final_flush = Some(took);
            }
            Err(error) => {
                self.log.flush_failed(flushing);
                let step = Step::Flush;
                tally.error = Some(Failure { step, error });
            }
        }
    }
}
