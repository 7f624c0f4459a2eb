//! Where vCPU threads are held, released, woken and ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// What the workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Hold,
    Run,
    Stop,
}

#[derive(Debug)]
struct Inner {
    order: Order,
    /// Workers that stand at the gate.
    held: usize,
    /// Workers that have ended.
    ended: usize,
    /// Goes up with each barrier.
    barrier: u64,
    /// The newest barrier that each worker has passed.
    passed: Vec<u64>,
}

/// The gate of a machine's workers. Held at first.
#[derive(Debug)]
pub(super) struct Gate {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// A worker shall look at `inner` before it runs a guest again.
    attention: AtomicBool,
    threads: Vec<OnceLock<Thread>>,
}

impl Gate {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                order: Order::Hold,
                held: 0,
                ended: 0,
                barrier: 0,
                passed: vec![0; workers],
            }),
            changed: Condvar::new(),
            attention: AtomicBool::new(true),
            threads: (0..workers).map(|_| OnceLock::new()).collect(),
        }
    }

    /// A worker introduces itself, so that it can be woken.
    pub(super) fn enter(&self, worker: usize) {
        if let Some(place) = self.threads.get(worker) {
            place.get_or_init(std::thread::current);
        }
    }

    /// A worker between two runs: waits while held. `false` means: end.
    pub(super) fn pass(&self, worker: usize) -> bool {
        if !self.attention.load(Ordering::SeqCst) {
            return true;
        }
        let mut inner = self.lock();
        inner.passed[worker] = inner.barrier;
        if inner.order == Order::Hold {
            inner.held += 1;
            self.changed.notify_all();
            while inner.order == Order::Hold {
                inner = self.wait(inner);
            }
            inner.held -= 1;
            inner.passed[worker] = inner.barrier;
        }
        self.changed.notify_all();
        if inner.order == Order::Stop {
            return false;
        }
        if inner.passed.iter().all(|passed| *passed == inner.barrier) {
            self.attention.store(false, Ordering::SeqCst);
        }
        true
    }

    /// A worker whose vCPU brought the machine to an end or a reset: waits until it is held, so that it
    /// does not run on meanwhile.
    pub(super) fn stand_by(&self, worker: usize) {
        let mut inner = self.lock();
        while inner.order == Order::Run {
            inner.passed[worker] = inner.barrier;
            self.changed.notify_all();
            inner = self.wait(inner);
        }
    }

    /// A worker sleeps until woken, or for `limit`.
    pub(super) fn sleep(&self, limit: Option<Duration>) {
        // An order that came before we sleep has left a token, as every wake does.
        if self.attention.load(Ordering::SeqCst) {
            return;
        }
        match limit {
            Some(limit) => std::thread::park_timeout(limit),
            None => std::thread::park(),
        }
    }

    /// A worker ends.
    pub(super) fn leave(&self) {
        self.lock().ended += 1;
        self.changed.notify_all();
    }

    /// Wakes a worker from `sleep`.
    pub(super) fn wake(&self, worker: usize) {
        if let Some(thread) = self.threads.get(worker).and_then(OnceLock::get) {
            thread.unpark();
        }
    }

    pub(super) fn release(&self) {
        let mut inner = self.lock();
        if inner.order == Order::Hold {
            inner.order = Order::Run;
            self.changed.notify_all();
        }
    }

    pub(super) fn hold(&self, kick: impl FnOnce()) {
        let mut inner = self.lock();
        if inner.order == Order::Run {
            inner.order = Order::Hold;
        }
        inner = self.call(inner, kick);
        while inner.order == Order::Hold && inner.held + inner.ended < inner.passed.len() {
            inner = self.wait(inner);
        }
    }

    pub(super) fn barrier(&self, kick: impl FnOnce()) {
        let mut inner = self.lock();
        inner.barrier += 1;
        let number = inner.barrier;
        inner = self.call(inner, kick);
        while inner.order == Order::Run
            && inner.ended == 0
            && inner.passed.iter().any(|passed| *passed < number)
        {
            inner = self.wait(inner);
        }
    }

    pub(super) fn stop(&self, kick: impl FnOnce()) {
        let mut inner = self.lock();
        inner.order = Order::Stop;
        drop(self.call(inner, kick));
    }

    /// Calls all workers to the gate.
    fn call<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        kick: impl FnOnce(),
    ) -> MutexGuard<'a, Inner> {
        self.attention.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        // A kick may call a waker, which must not find the lock taken.
        drop(inner);
        kick();
        for worker in 0..self.threads.len() {
            self.wake(worker);
        }
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.changed
            .wait(inner)
            .unwrap_or_else(PoisonError::into_inner)
    }
}
