//! Worker threads of one disk, shared by its queues.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vm_types::GuestMemory;

use super::host::HostFile;
use crate::doorbell::Doorbell;
use crate::engine::Engine;
use crate::request::{Batch, Completion, Request, Segment};
use crate::transfer::{Scratch, carry_out};

/// The threads, started with the first queue that needs them. They end when the pool is dropped; one
/// that hangs in the kernel then is left behind.
pub(super) struct Pool {
    workers: u32,
    shared: Arc<Shared>,
    started: Mutex<bool>,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    wake: Condvar,
}

/// Jobs wait here only for a free thread; their number is bounded by the depths of the queues.
#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    stop: bool,
}

struct Job {
    request: Request,
    segments: Vec<Segment>,
    memory: GuestMemory,
    host: Arc<HostFile>,
    reply: Arc<Reply>,
}

/// Where a queue's answers gather.
struct Reply {
    done: Mutex<Vec<Completion>>,
    in_flight: AtomicUsize,
    doorbell: Arc<Doorbell>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            workers,
            shared: Arc::default(),
            started: Mutex::new(false),
        }
    }

    /// Errors: not even one thread could be made.
    fn start(&self) -> std::io::Result<()> {
        let mut started = lock(&self.started);
        if *started {
            return Ok(());
        }
        for number in 0..self.workers {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || shared.work());
            match spawned {
                Ok(_) => *started = true,
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, workers = number, "fewer disk threads than asked for");
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.jobs).stop = true;
        self.shared.wake.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn work(&self) {
        let mut scratch = Scratch::default();
        while let Some(job) = self.next() {
            let outcome = carry_out(
                &*job.host,
                &job.memory,
                &job.request,
                &job.segments,
                &mut Vec::with_capacity(job.segments.len()),
                &mut scratch,
            );
            let token = job.request.token;
            let reply = job.reply.clone();
            // Guest memory is let go before the answer says so.
            drop(job);
            lock(&reply.done).push(Completion { token, outcome });
            reply.in_flight.fetch_sub(1, Ordering::SeqCst);
            reply.doorbell.ring();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            // What was accepted is carried out, also when the pool has been dropped.
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.stop {
                return None;
            }
            jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One queue's way to the pool.
pub(super) struct PoolEngine {
    pool: Arc<Pool>,
    host: Arc<HostFile>,
    reply: Arc<Reply>,
}

impl PoolEngine {
    pub(super) fn new(
        pool: &Arc<Pool>,
        host: Arc<HostFile>,
        doorbell: Arc<Doorbell>,
    ) -> std::io::Result<Self> {
        pool.start()?;
        Ok(Self {
            pool: pool.clone(),
            host,
            reply: Arc::new(Reply {
                done: Mutex::default(),
                in_flight: AtomicUsize::new(0),
                doorbell,
            }),
        })
    }

    /// Hands one request over.
    #[cfg(target_os = "linux")]
    pub(super) fn start(&self, request: &Request, segments: &[Segment], memory: &GuestMemory) {
        self.enqueue(&mut lock(&self.pool.shared.jobs), request, segments, memory);
        self.pool.shared.wake.notify_one();
    }

    fn enqueue(
        &self,
        jobs: &mut Jobs,
        request: &Request,
        segments: &[Segment],
        memory: &GuestMemory,
    ) {
        self.reply.in_flight.fetch_add(1, Ordering::SeqCst);
        jobs.waiting.push_back(Job {
            request: request.clone(),
            segments: segments.to_vec(),
            memory: memory.clone(),
            host: self.host.clone(),
            reply: self.reply.clone(),
        });
    }
}

impl Engine for PoolEngine {
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, _done: &mut Vec<Completion>) {
        let mut jobs = lock(&self.pool.shared.jobs);
        for request in &batch.requests {
            self.enqueue(&mut jobs, request, batch.segments_of(request), memory);
        }
        drop(jobs);
        if batch.requests.len() == 1 {
            self.pool.shared.wake.notify_one();
        } else {
            self.pool.shared.wake.notify_all();
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut lock(&self.reply.done));
    }

    fn is_idle(&self) -> bool {
        self.reply.in_flight.load(Ordering::SeqCst) == 0
    }
}
