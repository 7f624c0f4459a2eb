//! The threads that do disk work: a bounded number, one queue, as much in one go as is cheap.
//!
//! Work that may take long (copies from other region servers, snapshots) has a queue and threads of its own, so
//! that it never stands in the way of I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crucible_protocol::CrucibleError;

use super::execute::{Executor, Mood};
use super::link::lock;
use crate::core::{Operation, Outcome, Ticket};

/// One piece of work.
pub(super) type Task = (Ticket, Operation);

/// Told about work that is done, from any of the threads.
pub(super) type Report = dyn Fn(&mut Vec<(Ticket, Outcome)>) + Send + Sync;

/// Writes of one turn.
const WRITES: usize = 64;
/// Bytes of one turn, after which the next thread may have the rest.
const TURN_BYTES: usize = 1 << 20;
/// What one turn of reads should take at most, in nanoseconds, if earlier ones are anything to go by.
const TURN_NS: u64 = 100_000;

/// Both queues and their threads.
#[derive(Debug)]
pub(super) struct Pool {
    quick: Arc<Lane>,
    slow: Arc<Lane>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    bell: Condvar,
    /// A moving average of what one read takes, in nanoseconds.
    read_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct LaneState {
    tasks: VecDeque<Task>,
    idle: usize,
    stopping: bool,
}

impl Pool {
    /// Starts the threads.
    pub(super) fn start(
        quick: usize,
        slow: usize,
        executor: &Arc<Executor>,
        report: &Arc<Report>,
    ) -> std::io::Result<Self> {
        let pool = Self {
            quick: Arc::default(),
            slow: Arc::default(),
            threads: Mutex::default(),
        };
        for (name, lane, count) in [("disk", &pool.quick, quick), ("copy", &pool.slow, slow)] {
            for index in 0..count.max(1) {
                let lane = Arc::clone(lane);
                let executor = Arc::clone(executor);
                let report = Arc::clone(report);
                let thread = std::thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .stack_size(512 << 10)
                    .spawn(move || lane.work(&executor, &*report))?;
                lock(&pool.threads).push(thread);
            }
        }
        Ok(pool)
    }

    /// Queues work.
    pub(super) fn submit(&self, tasks: Vec<Task>) {
        if tasks.is_empty() {
            return;
        }
        let is_slow = |task: &Task| {
            matches!(
                task.1,
                Operation::Repair { .. } | Operation::Snapshot { .. }
            )
        };
        if tasks.iter().any(is_slow) {
            let (slow, quick) = tasks.into_iter().partition(is_slow);
            self.slow.add(slow);
            self.quick.add(quick);
        } else {
            self.quick.add(tasks);
        }
    }

    /// Takes back work that has not begun.
    pub(super) fn withdraw(&self, ticket: Ticket) -> Option<Operation> {
        [&self.quick, &self.slow].into_iter().find_map(|lane| {
            let mut state = lock(&lane.state);
            let place = state.tasks.iter().position(|task| task.0 == ticket)?;
            state.tasks.remove(place).map(|task| task.1)
        })
    }

    /// Lets the threads finish what they have begun and what is queued, and waits for them.
    pub(super) fn stop(&self) {
        for lane in [&self.quick, &self.slow] {
            lock(&lane.state).stopping = true;
            lane.bell.notify_all();
        }
        let me = std::thread::current().id();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.thread().id() != me {
                // A thread that panicked has said so on its own.
                let _ = thread.join();
            }
        }
    }
}

impl Lane {
    fn add(&self, tasks: Vec<Task>) {
        let mut state = lock(&self.state);
        state.tasks.extend(tasks);
        if state.idle > 0 {
            self.bell.notify_one();
        }
    }

    fn work(&self, executor: &Executor, report: &Report) {
        let mut turn = Vec::new();
        let mut done = Vec::new();
        while self.take(executor.is_lossy(), &mut turn) {
            self.perform(executor, &mut turn, &mut done);
            report(&mut done);
            done.clear();
        }
    }

    /// Waits for work and takes as much of it as should be done in one go, or one piece. False when it is over.
    fn take(&self, one: bool, turn: &mut Vec<Task>) -> bool {
        let mut state = lock(&self.state);
        while state.tasks.is_empty() {
            if state.stopping {
                return false;
            }
            state.idle += 1;
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        let reads = (TURN_NS / self.read_ns.load(Ordering::Relaxed).max(1)).clamp(1, 32) as usize;
        let mut bytes = 0;
        while bytes < TURN_BYTES
            && let Some((_, next)) = state.tasks.front()
        {
            let fits = match (turn.first(), next) {
                (None, _) => true,
                (Some((_, Operation::Write(_))), Operation::Write(_)) => turn.len() < WRITES,
                (Some((_, Operation::Read { .. })), Operation::Read { .. }) => turn.len() < reads,
                _ => false,
            };
            if !fits || (one && !turn.is_empty()) {
                break;
            }
            bytes += match next {
                Operation::Write(write) => write.data.len(),
                // The block size is not known here; large reads are told by their count.
                Operation::Read { count, .. } => {
                    usize::try_from(count.saturating_mul(4096)).unwrap_or(TURN_BYTES)
                }
                _ => TURN_BYTES,
            };
            turn.extend(state.tasks.pop_front());
        }
        if !state.tasks.is_empty() && state.idle > 0 {
            self.bell.notify_one();
        }
        true
    }

    fn perform(
        &self,
        executor: &Executor,
        turn: &mut Vec<Task>,
        done: &mut Vec<(Ticket, Outcome)>,
    ) {
        if let [(_, operation)] = turn.as_slice()
            && executor.mood(operation) == Mood::Later
        {
            self.add(std::mem::take(turn));
            return;
        }
        if turn.len() > 1 && matches!(turn.first(), Some((_, Operation::Write(_)))) {
            executor.write_all(std::mem::take(turn), done);
            return;
        }
        let reads = turn
            .iter()
            .filter(|(_, operation)| matches!(operation, Operation::Read { .. }))
            .count() as u64;
        let before = Instant::now();
        for (ticket, operation) in turn.drain(..) {
            done.push((ticket, executor.run(ticket, operation)));
        }
        if let Some(each) = (before.elapsed().as_nanos() as u64).checked_div(reads) {
            let old = self.read_ns.load(Ordering::Relaxed);
            self.read_ns
                .store(old - old / 8 + each / 8, Ordering::Relaxed);
        }
    }
}

/// What is reported for work that was taken back.
pub(super) fn withdrawn(operation: Operation) -> Outcome {
    Outcome::Failed(CrucibleError::Disconnect, operation)
}
