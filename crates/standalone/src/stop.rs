//! Stopping in good order, and the signals that ask for it.
//!
//! ```text
//!  asked: signal, control         guest's deadline            storage's deadline        last deadline
//!  ------ power button ---------------> halt --------------------> named, cut off -----------> exit
//!                 | the guest switches itself off                     |
//!                 +------> devices come to rest, volumes let go <-----+
//! ```
//!
//! The storage's deadline runs whenever a machine comes to its end, also when the guest switched itself off: no end
//! hangs on a region server. What it waited for is named, with address and with what is not safe, and then the
//! volumes are cut off, so that whatever waits for them fails and the end goes on.

mod course;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use vmm::lifecycle::{Ending, Event, EventSender};

use crate::control::api::StopStatus;
use course::{Act, Course};

/// Presses the power button; whether the guest listens.
pub type Button = Arc<dyn Fn() -> bool + Send + Sync>;

/// What an end may have to wait for.
pub trait Storage: Send + Sync {
    /// Whom it waits for now, by address, and what that means for the data; one line each.
    fn waits_for(&self) -> Vec<String>;

    /// Stops waiting: what is not written stays unwritten. Returns at once.
    fn give_up(&self);
}

/// How long each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The guest, to switch itself off.
    pub guest: Duration,
    /// Disks, from the machine's halt to the last flush.
    pub storage: Duration,
}

/// The orderly stop of one machine. Clones are the same stop.
#[derive(Clone)]
pub struct Stop(Arc<Inner>);

struct Inner {
    state: Mutex<Held>,
    changed: Condvar,
    deadlines: Deadlines,
    button: Button,
    events: EventSender,
}

#[derive(Default)]
struct Held {
    course: Course,
    storage: Option<Arc<dyn Storage>>,
    over: bool,
}

impl Stop {
    /// Nothing is asked yet.
    pub fn new(deadlines: Deadlines, button: Button, events: EventSender) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changed: Condvar::new(),
            deadlines,
            button,
            events,
        }))
    }

    /// What an end may have to wait for.
    pub fn set_storage(&self, storage: Arc<dyn Storage>) {
        self.lock().storage = Some(storage);
    }

    /// Somebody wants the machine to stop. `deadline`: for the guest, instead of the usual one; zero presses no
    /// button. Asked again, the earlier deadline counts.
    pub fn begin(&self, by: &str, deadline: Option<Duration>) {
        let deadline = deadline.unwrap_or(self.0.deadlines.guest);
        let listens = !deadline.is_zero() && (self.0.button)();
        if listens {
            // A guest that is held cannot hear its button.
            self.0.events.send(Event::Resume);
            tracing::info!(
                by,
                seconds = deadline.as_secs_f64(),
                "power button pressed; the guest has this long, a second signal stops at once"
            );
        } else {
            tracing::info!(by, "stopping the machine");
        }
        let now = Instant::now();
        let until = now + if listens { deadline } else { Duration::ZERO };
        self.lock().course.ask(by, now, until);
        self.0.changed.notify_all();
    }

    /// The guest will not run again: from now on it is for storage to come to rest.
    pub fn ending(&self) {
        let until = Instant::now() + self.0.deadlines.storage;
        self.lock().course.ending(until);
        self.0.changed.notify_all();
    }

    /// How far it is, if it is asked or under way.
    pub fn status(&self) -> Option<StopStatus> {
        self.lock().course.status(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the deadlines until the end is over.
    fn keep(&self, sockets: &[PathBuf]) {
        let mut held = self.lock();
        while !held.over {
            let now = Instant::now();
            if let Some(act) = held.course.due(now) {
                let storage = held.storage.clone();
                drop(held);
                self.perform(act, storage.as_deref(), sockets);
                held = self.lock();
                continue;
            }
            held = match held.course.deadline() {
                None => self
                    .0
                    .changed
                    .wait(held)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    let waited = self.0.changed.wait_timeout(held, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn perform(&self, act: Act, storage: Option<&dyn Storage>, sockets: &[PathBuf]) {
        let name_them = || {
            let lines = storage.map(Storage::waits_for).unwrap_or_default();
            for line in &lines {
                tracing::error!("{line}");
            }
            lines.is_empty()
        };
        match act {
            Act::Halt { late } => {
                if late {
                    tracing::warn!("the guest did not switch itself off in time; it is halted");
                    // Most guests that are late are late by themselves.
                    name_them();
                }
                self.0.events.send(Event::Halt(Ending::PowerOff));
                // A machine that is just being paused or reset may hang on storage before it hears of this.
                self.ending();
            }
            Act::GiveUp => {
                let seconds = self.0.deadlines.storage.as_secs_f64();
                tracing::error!(
                    seconds,
                    "storage does not come to rest; this is what the end waited for:"
                );
                if name_them() {
                    tracing::error!("no disk has anything under way; something else hangs");
                }
                if let Some(storage) = storage {
                    storage.give_up();
                }
            }
            Act::Exit => {
                tracing::error!("still not at rest; ending the process as it is");
                at_once(1, sockets);
            }
        }
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop")
            .field("deadlines", &self.0.deadlines)
            .finish_non_exhaustive()
    }
}

/// Listens to signals and watches deadlines while it lives. The first signal asks for a stop in good order, a second
/// one ends the process at once.
#[derive(Debug)]
pub struct Stopper {
    handle: Handle,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Stopper {
    /// Begins to listen. `sockets` are removed when the process has to end at once.
    ///
    /// Errors: the system refuses.
    pub fn start(stop: Stop, sockets: Vec<PathBuf>) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let mut stopper = Self {
            handle,
            stop: stop.clone(),
            threads: Vec::new(),
        };
        let (keeper, removed) = (stop.clone(), sockets.clone());
        let mut spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let builder = std::thread::Builder::new().name(name.to_owned());
            builder.spawn(body).map(|it| stopper.threads.push(it))
        };
        spawn("stop", Box::new(move || keeper.keep(&removed)))?;
        spawn(
            "signals",
            Box::new(move || {
                let mut asked = false;
                for signal in signals.forever() {
                    if std::mem::replace(&mut asked, true) {
                        tracing::warn!(signal, "stopping at once");
                        at_once(128 + signal, &sockets);
                    }
                    stop.begin(&format!("signal {signal}"), None);
                }
            }),
        )?;
        Ok(stopper)
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.handle.close();
        self.stop.lock().over = true;
        self.stop.0.changed.notify_all();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

#[expect(
    clippy::exit,
    reason = "whatever the orderly way waits for, this does not: the operator asked twice, or nothing helps"
)]
fn at_once(code: i32, sockets: &[PathBuf]) {
    for socket in sockets {
        // What is left behind, the next machine replaces.
        std::fs::remove_file(socket).ok();
    }
    std::process::exit(code);
}

/// A stop without a machine.
#[cfg(test)]
pub(crate) mod testkit {
    use std::sync::mpsc::Receiver;

    use super::*;

    pub(crate) struct Doubles {
        pub(crate) stop: Stop,
        pub(crate) events: EventSender,
        pub(crate) queue: Receiver<Event>,
    }

    /// Of a guest that listens to its button or not.
    pub(crate) fn doubles(listens: bool) -> Doubles {
        let (events, queue) = vmm::lifecycle::event_queue();
        let deadlines = Deadlines {
            guest: Duration::from_millis(20),
            storage: Duration::from_millis(20),
        };
        let stop = Stop::new(deadlines, Arc::new(move || listens), events.clone());
        Doubles {
            stop,
            events,
            queue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testkit::doubles;
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);
    const OFF: Event = Event::Halt(Ending::PowerOff);

    #[test]
    fn a_guest_that_does_not_listen_is_halted_at_once() {
        let doubles = doubles(false);
        let _stopper = Stopper::start(doubles.stop.clone(), Vec::new()).unwrap();
        doubles.stop.begin("test", Some(PATIENCE));
        assert_eq!(doubles.queue.recv_timeout(PATIENCE), Ok(OFF));
    }

    #[test]
    fn a_guest_that_listens_has_its_time_and_is_woken_for_it() {
        let doubles = doubles(true);
        let _stopper = Stopper::start(doubles.stop.clone(), Vec::new()).unwrap();
        doubles.stop.begin("test", Some(PATIENCE * 100));
        assert_eq!(doubles.queue.recv_timeout(PATIENCE), Ok(Event::Resume));
        let status = doubles.stop.status().unwrap();
        assert!(status.seconds_left > 60, "{status:?}");
        assert!(doubles.queue.try_recv().is_err());
        // Somebody has less patience.
        doubles.stop.begin("test", Some(Duration::ZERO));
        assert_eq!(doubles.queue.recv_timeout(PATIENCE), Ok(OFF));
    }

    #[test]
    fn storage_that_does_not_come_to_rest_is_cut_off() {
        struct Hanging(Mutex<mpsc::Sender<()>>);
        impl Storage for Hanging {
            fn waits_for(&self) -> Vec<String> {
                vec!["10.0.0.1:3810 says nothing".to_owned()]
            }
            fn give_up(&self) {
                self.0.lock().unwrap().send(()).unwrap();
            }
        }
        let doubles = doubles(false);
        let (sender, given_up) = mpsc::channel();
        doubles
            .stop
            .set_storage(Arc::new(Hanging(Mutex::new(sender))));
        let stopper = Stopper::start(doubles.stop.clone(), Vec::new()).unwrap();
        doubles.stop.ending();
        assert_eq!(given_up.recv_timeout(PATIENCE), Ok(()));
        // Dropped before the last deadline, else this process would be gone.
        drop(stopper);
    }
}
