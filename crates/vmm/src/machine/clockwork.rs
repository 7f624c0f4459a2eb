//! The machine's clock and timers, and the thread that fires them when the clock is the host's.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vm_types::{Clock, ManualClock, Timers};

use super::config::ClockMode;
use crate::vcpu::Schedule;

/// Wall time at the start of a machine whose runs must repeat: 1 January 2026, in nanoseconds.
const REPEATABLE_WALL_NS: i64 = 1_767_225_600_000_000_000;

/// Clock, timers, and how the vCPUs are run.
#[derive(Debug)]
pub(super) struct Clockwork {
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    pub(super) mode: ClockMode,
    hand: Option<ManualClock>,
    thread: Option<TimerThread>,
}

impl Clockwork {
    /// Errors: there is no thread.
    pub(super) fn new(mode: ClockMode) -> std::io::Result<Self> {
        let timers = Timers::new();
        let (clock, hand) = match mode {
            ClockMode::Host => (Clock::monotonic(), None),
            ClockMode::Virtual => {
                let (clock, hand) = Clock::manual();
                (clock, Some(hand))
            }
        };
        let thread = match mode {
            ClockMode::Host => Some(TimerThread::start(clock.clone(), timers.clone())?),
            ClockMode::Virtual => None,
        };
        Ok(Self {
            clock,
            timers,
            mode,
            hand,
            thread,
        })
    }

    pub(super) fn schedule(&self) -> Schedule {
        match &self.hand {
            Some(hand) => Schedule::Rounds {
                clock: hand.clone(),
                timers: self.timers.clone(),
            },
            None => Schedule::Threads {
                clock: self.clock.clone(),
            },
        }
    }

    /// What the RTC shows at the clock's start.
    pub(super) fn wall_start_ns(&self) -> i64 {
        match self.mode {
            ClockMode::Virtual => REPEATABLE_WALL_NS,
            ClockMode::Host => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let wall = now.map_or(0, |since| since.as_nanos() as i64);
                wall - self.clock.now().as_nanos() as i64
            }
        }
    }

    /// Ends the thread: no timer fires any more.
    pub(super) fn stop(&mut self) {
        self.thread = None;
    }
}

/// Fires timers at their moments of the host's clock.
#[derive(Debug)]
struct TimerThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// An earlier deadline was armed since the thread looked.
    earlier: bool,
    stop: bool,
}

impl TimerThread {
    fn start(clock: Clock, timers: Timers) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let waking = shared.clone();
        timers.set_waker(Arc::new(move || {
            waking.lock().earlier = true;
            waking.changed.notify_one();
        }));
        let own = shared.clone();
        let builder = std::thread::Builder::new().name("timers".to_owned());
        let thread = builder.spawn(move || own.serve(&clock, &timers))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, clock: &Clock, timers: &Timers) {
        loop {
            timers.fire_due(clock.now());
            let mut state = self.lock();
            if state.stop {
                return;
            }
            // A deadline armed after this look has set the flag, or sets it and notifies.
            let next = timers.next_deadline();
            if std::mem::take(&mut state.earlier) {
                continue;
            }
            drop(match next {
                Some(at) => {
                    let left = Duration::from_nanos(at.since(clock.now()).as_nanos());
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use vm_types::{Span, Task};

    struct Note(mpsc::Sender<()>);
    impl Task for Note {
        fn run(&self) {
            self.0.send(()).ok();
        }
    }

    #[test]
    fn the_thread_fires_timers_and_notices_earlier_ones() {
        let clockwork = Clockwork::new(ClockMode::Host).unwrap();
        let (sender, fired) = mpsc::channel();
        let note: Arc<dyn Task> = Arc::new(Note(sender));
        let late = clockwork.timers.register(Arc::downgrade(&note));
        let soon = clockwork.timers.register(Arc::downgrade(&note));
        let now = clockwork.clock.now();
        late.arm(now.after(Span::from_secs(3600)));
        soon.arm(now.after(Span::from_millis(2)));
        fired.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(clockwork.clock.now().since(now) >= Span::from_millis(2));
        assert!(fired.try_recv().is_err());
    }

    #[test]
    fn a_repeatable_machine_starts_at_the_same_wall_time() {
        let clockwork = Clockwork::new(ClockMode::Virtual).unwrap();
        assert_eq!(clockwork.wall_start_ns(), REPEATABLE_WALL_NS);
        assert!(matches!(clockwork.schedule(), Schedule::Rounds { .. }));
    }
}
