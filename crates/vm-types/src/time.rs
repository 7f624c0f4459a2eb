//! Time as the machine sees it: moments, spans, clocks and timers.
//!
//! Nobody above this crate asks the operating system for the time. A [`Clock`] is a handle; behind it
//! stands the host's monotonic clock, a manual clock in tests, or executed instructions in a
//! deterministic run.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::task::Task;

/// A point on a clock's axis: nanoseconds since the clock's own start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Moment {
    /// The clock's start.
    pub const START: Self = Self(0);
    /// Later than anything a clock will say.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `ns` nanoseconds after the clock's start.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// `span` later; stays at [`Moment::NEVER`] instead of wrapping.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `ns` nanoseconds.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// `us` microseconds, saturating.
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// `ms` milliseconds, saturating.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// `s` seconds, saturating.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }

    /// The length in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How often a counter of `hz` ticks in this span, rounded down, saturating.
    pub const fn ticks(self, hz: u64) -> u64 {
        let ticks = (self.0 as u128 * hz as u128) / 1_000_000_000;
        if ticks > u64::MAX as u128 {
            u64::MAX
        } else {
            ticks as u64
        }
    }

    /// The time a counter of `hz` needs for `ticks`, rounded up so that it has really got there.
    ///
    /// A rate of zero never ticks: the span is the longest there is.
    pub const fn of_ticks(ticks: u64, hz: u64) -> Self {
        if hz == 0 {
            return Self(u64::MAX);
        }
        let ns = (ticks as u128 * 1_000_000_000).div_ceil(hz as u128);
        Self(if ns > u64::MAX as u128 {
            u64::MAX
        } else {
            ns as u64
        })
    }
}

/// Where a [`Clock`] gets its time from. `now` never goes backwards.
pub trait TimeSource: Send + Sync {
    /// The current moment.
    fn now(&self) -> Moment;
}

/// A handle to some time source; clones read the same one.
#[derive(Clone)]
pub struct Clock(Arc<dyn TimeSource>);

impl Clock {
    /// A clock over any source.
    pub fn new(source: Arc<dyn TimeSource>) -> Self {
        Self(source)
    }

    /// The host's monotonic clock, starting now.
    pub fn monotonic() -> Self {
        struct Monotonic(Instant);
        impl TimeSource for Monotonic {
            fn now(&self) -> Moment {
                let ns = self.0.elapsed().as_nanos();
                Moment(u64::try_from(ns).unwrap_or(u64::MAX))
            }
        }
        Self(Arc::new(Monotonic(Instant::now())))
    }

    /// A clock that stands still until its other end moves it.
    pub fn manual() -> (Self, ManualClock) {
        let hand = ManualClock(Arc::new(AtomicU64::new(0)));
        (Self(Arc::new(hand.clone())), hand)
    }

    /// The current moment.
    pub fn now(&self) -> Moment {
        self.0.now()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// The hand of a manual clock. Also the clock of a deterministic run, moved by executed instructions.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Moves the clock on by `span`.
    pub fn advance(&self, span: Span) {
        self.0.fetch_add(span.0, Ordering::SeqCst);
    }

    /// Moves the clock on to `moment`; a moment in the past is ignored.
    pub fn advance_to(&self, moment: Moment) {
        self.0.fetch_max(moment.0, Ordering::SeqCst);
    }
}

impl TimeSource for ManualClock {
    fn now(&self) -> Moment {
        Moment(self.0.load(Ordering::SeqCst))
    }
}

/// All armed timers of one machine, in order of their moments.
///
/// Passive: somebody (a thread, or the loop of a deterministic run) asks for [`Timers::next_deadline`],
/// waits, and calls [`Timers::fire_due`]. The waker tells a waiting thread that an earlier deadline
/// has been armed.
#[derive(Clone, Default)]
pub struct Timers(Arc<TimersInner>);

#[derive(Default)]
struct TimersInner {
    state: Mutex<TimerTable>,
    waker: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

#[derive(Default)]
struct TimerTable {
    /// Ordered by moment, then by slot: the order of firing is the same in each run.
    armed: BTreeSet<(Moment, usize)>,
    slots: Vec<TimerSlot>,
    /// Slots whose timers are gone.
    free: Vec<usize>,
}

struct TimerSlot {
    task: Weak<dyn Task>,
    at: Option<Moment>,
}

impl TimerTable {
    fn disarm(&mut self, slot: usize) {
        if let Some(old) = self.slots[slot].at.take() {
            self.armed.remove(&(old, slot));
        }
    }
}

impl Timers {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disarmed timer that runs `task` when it fires, until it is dropped. It does not keep the task
    /// alive.
    pub fn register(&self, task: Weak<dyn Task>) -> Timer {
        let mut table = self.table();
        let entry = TimerSlot { task, at: None };
        let slot = match table.free.pop() {
            Some(slot) => {
                table.slots[slot] = entry;
                slot
            }
            None => {
                table.slots.push(entry);
                table.slots.len() - 1
            }
        };
        Timer {
            timers: self.clone(),
            slot,
        }
    }

    /// When the next timer is due, if one is armed.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.table().armed.first().map(|(at, _)| *at)
    }

    /// Runs the tasks of all timers that are due at `now`, oldest first; returns how many.
    ///
    /// A task that arms its timer again for a moment not after `now` is run again in the next call, so
    /// that a guest's zero period cannot hold the caller here.
    pub fn fire_due(&self, now: Moment) -> usize {
        let mut due = Vec::new();
        {
            let mut table = self.table();
            while let Some(&(at, slot)) = table.armed.first() {
                if at > now {
                    break;
                }
                table.armed.pop_first();
                table.slots[slot].at = None;
                due.push(table.slots[slot].task.clone());
            }
        }
        let mut fired = 0;
        for task in due {
            if let Some(task) = task.upgrade() {
                task.run();
                fired += 1;
            }
        }
        fired
    }

    /// Sets what is called when the earliest deadline moves forward.
    pub fn set_waker(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    fn table(&self) -> std::sync::MutexGuard<'_, TimerTable> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        f.debug_struct("Timers")
            .field("registered", &(table.slots.len() - table.free.len()))
            .field("armed", &table.armed)
            .finish()
    }
}

/// One timer. Cheap to arm and disarm; holds at most one deadline. Dropping it gives up its place.
#[derive(Debug)]
pub struct Timer {
    timers: Timers,
    slot: usize,
}

impl Timer {
    /// Fires at `at` (at once, if that is past); replaces an earlier deadline.
    pub fn arm(&self, at: Moment) {
        let earlier = {
            let mut table = self.timers.table();
            if let Some(old) = table.slots[self.slot].at.replace(at) {
                table.armed.remove(&(old, self.slot));
            }
            let earlier = table.armed.first().is_none_or(|(first, _)| at < *first);
            table.armed.insert((at, self.slot));
            earlier
        };
        if earlier {
            let waker = self
                .timers
                .0
                .waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(waker) = waker {
                waker();
            }
        }
    }

    /// Forgets the deadline, if there is one.
    pub fn disarm(&self) {
        self.timers.table().disarm(self.slot);
    }

    /// The deadline, if armed.
    pub fn deadline(&self) -> Option<Moment> {
        self.timers.table().slots[self.slot].at
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let task = {
            let mut table = self.timers.table();
            table.disarm(self.slot);
            table.free.push(self.slot);
            // Dropped without the lock: it may be the last trace of a task of any kind.
            std::mem::replace(&mut table.slots[self.slot].task, Weak::<Nobody>::new())
        };
        drop(task);
    }
}

/// The task of a place that is free.
struct Nobody;

impl Task for Nobody {
    fn run(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);
    impl Task for Count {
        fn run(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counting(timers: &Timers) -> (Timer, Arc<Count>) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let task: Arc<dyn Task> = count.clone();
        (timers.register(Arc::downgrade(&task)), count)
    }

    #[test]
    fn a_timer_fires_once_at_its_moment() {
        let timers = Timers::new();
        let (timer, count) = counting(&timers);
        timer.arm(Moment::from_nanos(10));
        assert_eq!(timers.fire_due(Moment::from_nanos(9)), 0);
        assert_eq!(timers.fire_due(Moment::from_nanos(10)), 1);
        assert_eq!(timers.fire_due(Moment::from_nanos(11)), 0);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn rearming_replaces_the_deadline_and_disarming_forgets_it() {
        let timers = Timers::new();
        let (timer, count) = counting(&timers);
        timer.arm(Moment::from_nanos(10));
        timer.arm(Moment::from_nanos(20));
        assert_eq!(timers.next_deadline(), Some(Moment::from_nanos(20)));
        timer.disarm();
        assert_eq!(timers.next_deadline(), None);
        assert_eq!(timers.fire_due(Moment::NEVER), 0);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_waker_hears_of_an_earlier_deadline_only() {
        let timers = Timers::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        timers.set_waker(Arc::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        let (first, _a) = counting(&timers);
        let (second, _b) = counting(&timers);
        first.arm(Moment::from_nanos(10));
        second.arm(Moment::from_nanos(20));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        second.arm(Moment::from_nanos(5));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_dropped_task_is_passed_over() {
        let timers = Timers::new();
        let (timer, count) = counting(&timers);
        drop(count);
        timer.arm(Moment::START);
        assert_eq!(timers.fire_due(Moment::START), 0);
    }

    #[test]
    fn a_dropped_timer_gives_up_its_deadline_and_its_place() {
        let timers = Timers::new();
        let (kept, _a) = counting(&timers);
        kept.arm(Moment::from_nanos(30));
        for _ in 0..100 {
            let (timer, count) = counting(&timers);
            timer.arm(Moment::from_nanos(10));
            drop(timer);
            assert_eq!(timers.fire_due(Moment::from_nanos(20)), 0);
            assert_eq!(count.0.load(Ordering::SeqCst), 0);
        }
        assert_eq!(timers.table().slots.len(), 2);
        assert_eq!(timers.next_deadline(), Some(Moment::from_nanos(30)));
        assert!(format!("{timers:?}").contains("registered: 1,"));
    }

    #[test]
    fn ticks_and_spans_agree() {
        let span = Span::of_ticks(3, 1_193_182);
        assert_eq!(span.ticks(1_193_182), 3);
        assert_eq!(Span::of_ticks(1, 0), Span::from_nanos(u64::MAX));
    }
}
