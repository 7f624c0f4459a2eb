//! One operation against the region: from what the core wants to what the store does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::CrucibleError;
use crucible_protocol::layout::StoredContext;

use super::link::lock;
use crate::core::{Operation, Outcome, Ticket, WriteOperation};
use crate::repair;
use crate::store::{Overwrite, Region, WriteJob};

/// Errors and delays made on purpose, to try out the other side (spec: tools 8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// One job in four goes to the back of the queue, one in four waits 100 ms.
    pub lossy: bool,
    /// One read in four fails.
    pub read_errors: bool,
    /// One write in four fails.
    pub write_errors: bool,
    /// One flush in four fails.
    pub flush_errors: bool,
}

/// What lossiness asks of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Do it.
    Work,
    /// Put it at the back of the queue.
    Later,
}

/// Does operations. Shared by all threads that do.
#[derive(Debug)]
pub(super) struct Executor {
    region: Arc<Region>,
    faults: Faults,
    /// State of a small generator; faults need no better one.
    dice: AtomicU64,
    /// Repairs that are under way, with what ends them early.
    repairs: Mutex<HashMap<Ticket, Arc<AtomicBool>>>,
}

impl Executor {
    pub(super) fn new(region: Arc<Region>, faults: Faults, seed: u64) -> Self {
        Self {
            region,
            faults,
            dice: AtomicU64::new(seed | 1),
            repairs: Mutex::default(),
        }
    }

    /// Nobody waits for this work any more.
    pub(super) fn cancel(&self, ticket: Ticket) {
        if let Some(flag) = lock(&self.repairs).get(&ticket) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Ends all repairs early.
    pub(super) fn cancel_all(&self) {
        for flag in lock(&self.repairs).values() {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Whether each job is to be asked about on its own.
    pub(super) fn is_lossy(&self) -> bool {
        self.faults.lossy
    }

    /// What lossiness wants done with this one; may take a while to say so.
    pub(super) fn mood(&self, operation: &Operation) -> Mood {
        if !self.faults.lossy || matches!(operation, Operation::TakeOver { .. } | Operation::States)
        {
            return Mood::Work;
        }
        if self.one_in_four() {
            return Mood::Later;
        }
        if self.one_in_four() {
            std::thread::sleep(Duration::from_millis(100));
        }
        Mood::Work
    }

    /// Whether this operation is to fail although nothing is wrong.
    fn injected(&self, operation: &Operation) -> Option<CrucibleError> {
        let wanted = match operation {
            Operation::Read { .. } => self.faults.read_errors,
            Operation::Write(_) => self.faults.write_errors,
            Operation::Flush { .. } => self.faults.flush_errors,
            _ => false,
        };
        (wanted && self.one_in_four()).then(|| CrucibleError::GenericError("test error".into()))
    }

    fn one_in_four(&self) -> bool {
        // splitmix64: one addition that all threads share, and a mix of its own.
        let mut x = self
            .dice
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).is_multiple_of(4)
    }

    /// Does a read or a write at once if that takes no more than a look at it; `None` if it is for the disk threads.
    pub(super) fn quick(
        &self,
        operation: &Operation,
        scratch: &mut Vec<StoredContext>,
    ) -> Option<Outcome> {
        if self.faults != Faults::default() {
            return None;
        }
        let done = match operation {
            Operation::Write(write) => self
                .region
                .write_quick(&job_of(write), scratch)?
                .map(|()| Outcome::Done),
            Operation::Read { start, count } => {
                let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
                self.region
                    .read_quick(*start, *count, &mut data, &mut contexts)?
                    .map(|()| Outcome::Blocks(contexts, data.freeze()))
            }
            _ => return None,
        };
        Some(done.unwrap_or_else(|error| Outcome::Failed(error, operation.clone())))
    }

    /// Several writes at once; in their order where they touch.
    pub(super) fn write_all(
        &self,
        writes: Vec<(Ticket, Operation)>,
        results: &mut Vec<(Ticket, Outcome)>,
    ) {
        let mut good = Vec::with_capacity(writes.len());
        for (ticket, operation) in writes {
            match self.injected(&operation) {
                Some(error) => results.push((ticket, Outcome::Failed(error, operation))),
                None => good.push((ticket, operation)),
            }
        }
        let jobs: Vec<WriteJob<'_>> = good
            .iter()
            .filter_map(|(_, operation)| match operation {
                Operation::Write(write) => Some(job_of(write)),
                _ => None,
            })
            .collect();
        let mut written = Vec::with_capacity(jobs.len());
        self.region.write_batch(&jobs, &mut written);
        let mut written = written.into_iter();
        for (ticket, operation) in good {
            let outcome = match written.next() {
                Some(Ok(())) => Outcome::Done,
                Some(Err(error)) => Outcome::Failed(error, operation),
                None => Outcome::Failed(missing_result(), operation),
            };
            results.push((ticket, outcome));
        }
    }

    /// One operation.
    pub(super) fn run(&self, ticket: Ticket, operation: Operation) -> Outcome {
        if let Some(error) = self.injected(&operation) {
            return Outcome::Failed(error, operation);
        }
        let region = &self.region;
        let done = match &operation {
            Operation::TakeOver { generation } => {
                region.note_promotion(*generation).map(|()| {
                    if let Err(error) = region.reopen_all() {
                        // It stays closed: I/O to it fails, and says so, until it is repaired.
                        tracing::warn!(%error, "an extent that was left closed cannot be opened");
                    }
                    Outcome::Done
                })
            }
            Operation::States => Ok(Outcome::States(region.extent_states())),
            Operation::Read { start, count } => {
                let bytes = count.saturating_mul(u64::from(region.geometry().block_size()));
                let mut data = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or_default());
                let mut contexts = Vec::with_capacity(usize::try_from(*count).unwrap_or_default());
                region
                    .read(*start, *count, &mut data, &mut contexts)
                    .map(|()| Outcome::Blocks(contexts, data.freeze()))
            }
            Operation::Write(_) => {
                let mut results = Vec::with_capacity(1);
                self.write_all(vec![(ticket, operation.clone())], &mut results);
                match results.pop() {
                    Some((_, outcome)) => return outcome,
                    None => Err(missing_result()),
                }
            }
            Operation::Flush {
                flush,
                generation,
                extent_limit,
            } => region
                .flush(*flush, *generation, *extent_limit)
                .map(|()| Outcome::Done),
            Operation::Snapshot { name } => self.snapshot(name),
            Operation::FlushExtent {
                extent,
                flush,
                generation,
            } => region
                .flush_extent(*extent, *flush, *generation)
                .map(|()| Outcome::Done),
            Operation::Close { extent } => region.close(*extent).map(Outcome::State),
            Operation::FlushClose {
                extent,
                flush,
                generation,
            } => region
                .flush_and_close(*extent, *flush, *generation)
                .map(Outcome::State),
            Operation::Repair { extent, source } => {
                let stop = Arc::new(AtomicBool::new(false));
                lock(&self.repairs).insert(ticket, Arc::clone(&stop));
                let repaired = repair::copy_extent(region, *extent, *source, &stop);
                lock(&self.repairs).remove(&ticket);
                match &repaired {
                    Ok(bytes) => tracing::info!(%extent, %source, bytes, "extent repaired"),
                    Err(error) => tracing::warn!(%extent, %source, %error, "repair failed"),
                }
                repaired.map(|_| Outcome::Done)
            }
            Operation::Reopen { extent } => region.reopen(*extent).map(|()| Outcome::Done),
        };
        match done {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error, operation),
        }
    }

    fn snapshot(&self, name: &str) -> Result<Outcome, CrucibleError> {
        let mut told = 0;
        let made = self.region.snapshot(name, &mut |done, all| {
            let tenths = done.saturating_mul(10) / all.max(1);
            if tenths > told {
                told = tenths;
                tracing::info!(name, "snapshot: {done} of {all} bytes");
            }
        });
        match &made {
            Ok(()) => tracing::info!(name, "snapshot made"),
            Err(error) => tracing::warn!(name, %error, "snapshot failed"),
        }
        made.map(|()| Outcome::Done)
    }
}

fn job_of(write: &WriteOperation) -> WriteJob<'_> {
    WriteJob {
        start: write.start,
        contexts: &write.contexts,
        data: &write.data,
        overwrite: if write.only_unwritten {
            Overwrite::OnlyUnwritten
        } else {
            Overwrite::All
        },
    }
}

fn missing_result() -> CrucibleError {
    CrucibleError::GenericError("a write came back without a result".into())
}
