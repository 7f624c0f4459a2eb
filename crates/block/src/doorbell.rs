//! How a queue's worker is woken: by the guest, by an engine's own threads, by a timer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use vm_types::Task;

/// Rings the worker of one queue. A ring while the worker is awake costs one atomic exchange; none is
/// lost.
pub struct Doorbell {
    /// Rung and not yet taken.
    rung: AtomicBool,
    /// The worker sleeps or is about to.
    asleep: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    /// Wakes a worker that sleeps elsewhere than on `wake`, say in the kernel.
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Runs on the ringing thread instead of a worker.
    inline: Option<Weak<dyn Task>>,
}

impl Doorbell {
    pub(crate) fn for_thread() -> Arc<Self> {
        Arc::new(Self::with(None))
    }

    pub(crate) fn inline(task: Weak<dyn Task>) -> Arc<Self> {
        Arc::new(Self::with(Some(task)))
    }

    fn with(inline: Option<Weak<dyn Task>>) -> Self {
        Self {
            rung: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            hook: OnceLock::new(),
            inline,
        }
    }

    /// Makes the worker look, soon (threads) or before this returns (inline).
    pub fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(task) = &self.inline {
            if let Some(task) = task.upgrade() {
                task.run();
            }
        } else if self.asleep.load(Ordering::SeqCst) {
            match self.hook.get() {
                Some(hook) => hook(),
                None => {
                    // The lock makes sure that the worker is either waiting or has not looked yet.
                    drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Takes the ring, if there is one.
    pub fn take(&self) -> bool {
        // The plain look keeps the line shared while nobody rings.
        self.rung.load(Ordering::SeqCst) && self.rung.swap(false, Ordering::SeqCst)
    }

    /// Rung and not yet taken.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// Sleeps until rung (the ring stays to be taken) or the time is over.
    pub fn wait(&self, timeout: Option<Duration>) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::SeqCst);
        while !self.is_rung() {
            match timeout {
                None => {
                    guard = self
                        .wake
                        .wait(guard)
                        .unwrap_or_else(PoisonError::into_inner)
                }
                Some(timeout) => {
                    // Waking early is allowed, so one wait is enough.
                    let waited = self.wake.wait_timeout(guard, timeout);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                    break;
                }
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// For workers that sleep in the kernel: sets what wakes them. The first call counts.
    pub fn set_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        self.hook.get_or_init(|| hook);
    }

    /// Announces sleep outside of [`Doorbell::wait`]; with `false` there is a ring and the worker must
    /// not sleep. [`Doorbell::awake`] comes after, in either case.
    pub fn going_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.is_rung()
    }

    /// Ends [`Doorbell::going_to_sleep`].
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("rung", &self.rung)
            .field("asleep", &self.asleep)
            .field("inline", &self.inline.is_some())
            .finish_non_exhaustive()
    }
}
