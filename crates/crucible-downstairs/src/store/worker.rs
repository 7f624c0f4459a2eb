//! The thread of a region: empties the journal before it is full, so that flushes do not have to.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::inner::Inner;

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Worker {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signal {
    /// There is something to do, or it was not looked at yet.
    awake: AtomicBool,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    settle: bool,
    stop: bool,
}

impl Worker {
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let (inner, orders) = (Arc::clone(inner), Arc::clone(&signal));
        let thread = std::thread::Builder::new()
            .name(String::from("region"))
            .spawn(move || orders.work(&inner))?;
        Ok(Self {
            signal,
            thread: Some(thread),
        })
    }

    /// Wakes the thread if it sleeps and there is reason to.
    pub(super) fn wake_if(&self, reason: impl FnOnce() -> bool) {
        if self.signal.awake.load(Ordering::Acquire) || !reason() {
            return;
        }
        self.signal.order(|orders| orders.settle = true);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal.order(|orders| orders.stop = true);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Signal {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut orders);
        self.awake.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn work(&self, inner: &Inner) {
        loop {
            {
                let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
                while !orders.settle && !orders.stop {
                    self.awake.store(false, Ordering::Release);
                    orders = self
                        .changed
                        .wait(orders)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                if orders.stop {
                    return;
                }
                orders.settle = false;
            }
            // A failure stays with the extents that it concerns; the flush that needs the room will report it.
            let _ = inner.settle_aside();
        }
    }
}
