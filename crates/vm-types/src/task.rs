//! Tasks and bells: how a doorbell reaches the code that does the work.
//!
//! A device rings a [`Bell`] on the vCPU's thread and returns. In a machine with threads the work runs
//! on a worker of its own; in a deterministic machine it runs inside `ring`, so that two runs take the
//! same steps in the same order.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

/// Something that drains its ready work when run.
///
/// `run` may be called when there is nothing to do, and from any thread, but a [`Bell`] never calls it
/// from two at once.
pub trait Task: Send + Sync {
    /// Does what is ready, then returns. Must not wait for the guest.
    fn run(&self);
}

/// Where tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// On a thread per bell.
    Threads,
    /// On the thread that rings, before `ring` returns.
    Inline,
}

/// Wakes one task. Rings that arrive while the task runs make it run once more; none is lost.
///
/// Clones ring the same bell. Dropping the last clone ends the worker thread.
#[derive(Clone)]
pub struct Bell(Arc<BellInner>);

struct BellInner {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    task: Weak<dyn Task>,
    /// Rung and not yet served.
    rung: AtomicBool,
    stop: AtomicBool,
    mode: Mode,
}

enum Mode {
    Thread { asleep: Mutex<bool>, wake: Condvar },
    Inline { busy: AtomicBool },
}

impl Bell {
    /// A bell for `task`; with threads, the worker is called `name` (cut to what the system shows).
    ///
    /// The bell does not keep the task alive. Errors: the thread could not be made.
    pub fn new(name: &str, task: Weak<dyn Task>, execution: Execution) -> std::io::Result<Self> {
        let mode = match execution {
            Execution::Threads => Mode::Thread {
                asleep: Mutex::new(false),
                wake: Condvar::new(),
            },
            Execution::Inline => Mode::Inline {
                busy: AtomicBool::new(false),
            },
        };
        let shared = Arc::new(Shared {
            task,
            rung: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            mode,
        });
        let worker = match execution {
            Execution::Inline => None,
            Execution::Threads => {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name(name.to_owned());
                Some(builder.spawn(move || shared.serve())?)
            }
        };
        Ok(Self(Arc::new(BellInner {
            shared,
            worker: Mutex::new(worker),
        })))
    }

    /// Makes the task run soon (threads) or now (inline).
    pub fn ring(&self) {
        self.0.shared.ring();
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("rung", &self.0.shared.rung)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn ring(&self) {
        match &self.mode {
            Mode::Thread { asleep, wake } => {
                // Only the first ring since the last service has to look at the lock.
                if !self.rung.swap(true, Ordering::SeqCst) {
                    let asleep = asleep.lock().unwrap_or_else(PoisonError::into_inner);
                    if *asleep {
                        wake.notify_one();
                    }
                }
            }
            Mode::Inline { busy } => {
                self.rung.store(true, Ordering::SeqCst);
                // A task that rings its own bell, or a second thread, leaves the work to whoever is at
                // it, who looks once more after letting go.
                while self.rung.load(Ordering::SeqCst) && !busy.swap(true, Ordering::SeqCst) {
                    while self.rung.swap(false, Ordering::SeqCst) {
                        if let Some(task) = self.task.upgrade() {
                            task.run();
                        }
                    }
                    busy.store(false, Ordering::SeqCst);
                }
            }
        }
    }

    fn serve(&self) {
        let Mode::Thread { asleep, wake } = &self.mode else {
            return;
        };
        loop {
            while self.rung.swap(false, Ordering::SeqCst) {
                let Some(task) = self.task.upgrade() else {
                    return;
                };
                task.run();
            }
            let mut sleeping = asleep.lock().unwrap_or_else(PoisonError::into_inner);
            *sleeping = true;
            while !self.rung.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                sleeping = wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
            }
            *sleeping = false;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl Drop for BellInner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Mode::Thread { asleep, wake } = &self.shared.mode {
            let _asleep = asleep.lock().unwrap_or_else(PoisonError::into_inner);
            wake.notify_all();
        }
        let worker = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(worker) = worker {
            // The task may own the last clone of its own bell; a thread cannot wait for itself.
            if worker.thread().id() != std::thread::current().id() {
                // A worker that panicked has already said so on its own.
                drop(worker.join());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;

    struct Note(mpsc::Sender<()>);
    impl Task for Note {
        fn run(&self) {
            self.0.send(()).ok();
        }
    }

    #[test]
    fn a_ring_reaches_the_worker_thread() {
        let (sender, receiver) = mpsc::channel();
        let task: Arc<dyn Task> = Arc::new(Note(sender));
        let bell = Bell::new("test", Arc::downgrade(&task), Execution::Threads).unwrap();
        bell.ring();
        receiver.recv().unwrap();
        bell.ring();
        receiver.recv().unwrap();
    }

    struct Again {
        bell: OnceLock<Bell>,
        runs: AtomicU32,
    }
    impl Task for Again {
        fn run(&self) {
            if self.runs.fetch_add(1, Ordering::SeqCst) < 3 {
                self.bell.get().unwrap().ring();
            }
        }
    }

    #[test]
    fn an_inline_task_that_rings_itself_is_run_again_without_recursion() {
        let again = Arc::new(Again {
            bell: OnceLock::new(),
            runs: AtomicU32::new(0),
        });
        let task: Arc<dyn Task> = again.clone();
        let bell = Bell::new("test", Arc::downgrade(&task), Execution::Inline).unwrap();
        again.bell.set(bell.clone()).unwrap();
        bell.ring();
        assert_eq!(again.runs.load(Ordering::SeqCst), 4);
    }

    struct Tally {
        asked: AtomicU32,
        served: AtomicU32,
    }
    impl Task for Tally {
        fn run(&self) {
            let asked = self.asked.load(Ordering::SeqCst);
            self.served.fetch_max(asked, Ordering::SeqCst);
        }
    }

    #[test]
    fn rings_from_several_threads_are_all_served_inline() {
        let tally = Arc::new(Tally {
            asked: AtomicU32::new(0),
            served: AtomicU32::new(0),
        });
        let task: Arc<dyn Task> = tally.clone();
        let bell = Bell::new("test", Arc::downgrade(&task), Execution::Inline).unwrap();
        for round in 1..=200 {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        tally.asked.fetch_add(1, Ordering::SeqCst);
                        bell.ring();
                    });
                }
            });
            assert_eq!(tally.served.load(Ordering::SeqCst), 2 * round);
        }
    }
}
