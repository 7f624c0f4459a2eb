//! A device's queue joined to a disk: the worker thread, or the work done inline, and how both stop.
//!
//! ```text
//!            attach            pause                 quiet: nothing in flight
//!   (none) ----------> Running -------> Paused ----> pause() returns
//!                         ^               |
//!                         +--- resume ----+
//!            detach (from either): Detaching ----> gone: source is never called again
//! ```

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vm_types::{Clock, Execution, Moment, Span, Task, Timer, Timers};

use crate::disk::DiskCore;
use crate::doorbell::Doorbell;
use crate::engine::EngineSetup;
use crate::pump::{Mode, Policy, Pump, Turn};
use crate::request::Source;
use crate::stats::{QueueStats, StatsSnapshot};

/// How a queue is to be served.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// For thread names and logs; systems show about 15 characters.
    pub name: String,
    /// A worker thread, or the thread that rings.
    pub execution: Execution,
    /// Most requests in flight, 1 to 4096 (others are brought into that range).
    pub depth: u32,
    /// Time for latencies, rate limits and scripted delays. Default: the host's monotonic clock.
    pub clock: Option<Clock>,
    /// The machine's timers, of the same clock. Needed where rate limits or delays meet inline
    /// execution, which has no thread to wait on; without them, such a queue moves on only when rung.
    pub timers: Option<Timers>,
    /// How long [`Attachment::detach`] waits for requests in flight before it gives them up.
    pub detach_within: Duration,
    /// How long [`Attachment::pause`] waits.
    pub pause_within: Duration,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            name: "block".to_owned(),
            execution: Execution::Threads,
            depth: 128,
            clock: None,
            timers: None,
            detach_within: Duration::from_secs(5),
            pause_within: Duration::from_secs(30),
        }
    }
}

impl AttachOptions {
    /// Options with the defaults for everything else.
    pub fn new(name: &str, execution: Execution, depth: u32) -> Self {
        Self {
            name: name.to_owned(),
            execution,
            depth,
            ..Self::default()
        }
    }
}

/// One queue of a device, attached to a disk. Dropping it detaches.
pub struct Attachment {
    queue: Arc<Queue>,
    worker: Mutex<Option<JoinHandle<()>>>,
    detach_within: Duration,
    pause_within: Duration,
    disk: Arc<DiskCore>,
    retired: AtomicBool,
}

impl Attachment {
    pub(crate) fn new(
        disk: &Arc<DiskCore>,
        source: Weak<dyn Source>,
        options: AttachOptions,
    ) -> std::io::Result<Self> {
        let depth = options.depth.clamp(1, 4096);
        let stats = Arc::new(QueueStats::default());
        let clock = options.clock.unwrap_or_else(Clock::monotonic);
        let policy = Policy {
            info: disk.info,
            skip_flush: disk.skip_flush,
            limiter: disk.limiter.clone(),
            clock: clock.clone(),
        };
        let setup = |doorbell: &Arc<Doorbell>| EngineSetup {
            name: options.name.clone(),
            depth,
            execution: options.execution,
            clock: clock.clone(),
            doorbell: doorbell.clone(),
        };
        let mut failed = None;
        let queue = Arc::new_cyclic(|this: &Weak<Queue>| {
            let doorbell = match options.execution {
                Execution::Threads => Doorbell::for_thread(),
                Execution::Inline => Doorbell::inline(this.clone()),
            };
            let pump = match disk.backend.engine(setup(&doorbell)) {
                Ok(engine) => Some(Pump::new(source, engine, policy, stats.clone(), depth)),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            };
            Queue {
                name: options.name.clone(),
                doorbell,
                mode: AtomicU8::new(Mode::Running as u8),
                give_up: AtomicBool::new(false),
                pump: Mutex::new(pump),
                control: Mutex::new(Control::default()),
                changed: Condvar::new(),
                stats: stats.clone(),
                timers: options.timers.clone(),
                timer: OnceLock::new(),
                armed: AtomicU64::new(NOT_ARMED),
                this: this.clone(),
                inline: options.execution == Execution::Inline,
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let worker = match options.execution {
            Execution::Inline => None,
            Execution::Threads => {
                let pump = queue.lock_pump().take();
                let queue = queue.clone();
                let deadline = options.detach_within;
                std::thread::Builder::new()
                    .name(options.name)
                    .spawn(move || {
                        if let Some(pump) = pump {
                            queue.work(pump, deadline);
                        }
                    })
                    .map(Some)?
            }
        };
        disk.enter(&stats);
        Ok(Self {
            queue,
            worker: Mutex::new(worker),
            detach_within: options.detach_within,
            pause_within: options.pause_within,
            disk: disk.clone(),
            retired: AtomicBool::new(false),
        })
    }

    /// There may be something to fetch. With threads this returns at once; inline, when all that could
    /// be done has been done.
    pub fn kick(&self) {
        self.queue.doorbell.ring();
    }

    /// Stops fetching and waits until nothing is in flight, or for [`AttachOptions::pause_within`].
    /// Returns whether nothing is in flight.
    pub fn pause(&self) -> bool {
        self.begin_pause();
        self.end_pause(self.pause_within)
    }

    /// Pauses several queues at once: all stop fetching before the first is waited for, and the wait is as
    /// long as the longest of theirs, not as their sum. Returns whether nothing is in flight.
    pub fn pause_all<'a>(queues: impl Iterator<Item = &'a Self> + Clone) -> bool {
        queues.clone().for_each(Self::begin_pause);
        let begin = Instant::now();
        queues.fold(true, |quiet, queue| {
            let left = queue.pause_within.saturating_sub(begin.elapsed());
            queue.end_pause(left) && quiet
        })
    }

    fn begin_pause(&self) {
        let queue = &*self.queue;
        {
            let mut control = queue.lock_control();
            if queue.mode() != Mode::Detaching {
                queue.set_mode(Mode::Paused);
                control.quiet = false;
            }
        }
        if queue.inline {
            queue.serve_inline();
        } else {
            queue.doorbell.ring();
        }
    }

    fn end_pause(&self, within: Duration) -> bool {
        let queue = &*self.queue;
        if queue.inline || self.on_worker_thread() {
            return queue.stats.in_flight() == 0;
        }
        let control = queue.wait_until(within, |c| c.quiet || c.gone);
        control.quiet || control.gone
    }

    /// Fetches again after a pause; looks for requests at once.
    pub fn resume(&self) {
        {
            let mut control = self.queue.lock_control();
            if self.queue.mode() == Mode::Detaching {
                return;
            }
            self.queue.set_mode(Mode::Running);
            control.quiet = false;
        }
        self.queue.doorbell.ring();
    }

    /// The guest gives up what is in flight, as by a reset: what a hanging backend can let go of is answered with
    /// [`crate::Outcome::Abandoned`], soon; the rest as it ends. Requests that are fetched after their answers are not
    /// concerned.
    pub fn give_up(&self) {
        self.queue.give_up.store(true, Ordering::SeqCst);
        self.queue.doorbell.ring();
    }

    /// Ends the attachment: fetches nothing more, waits for what is in flight up to
    /// [`AttachOptions::detach_within`], answers the rest with [`crate::Outcome::Abandoned`]. After that
    /// the source is not called again. Returns whether every request came to its own end.
    ///
    /// Called a second time it does nothing. Called from within the source's own `complete`, it starts
    /// the end and returns `false`.
    pub fn detach(&self) -> bool {
        self.begin_detach();
        self.end_detach(self.detach_within)
    }

    /// Detaches several queues at once, as [`Attachment::pause_all`] pauses them. Returns whether every
    /// request came to its own end.
    pub fn detach_all<'a>(queues: impl Iterator<Item = &'a Self> + Clone) -> bool {
        queues.clone().for_each(Self::begin_detach);
        let begin = Instant::now();
        queues.fold(true, |clean, queue| {
            let left = queue.detach_within.saturating_sub(begin.elapsed());
            queue.end_detach(left) && clean
        })
    }

    fn begin_detach(&self) {
        let queue = &*self.queue;
        {
            let _control = queue.lock_control();
            queue.set_mode(Mode::Detaching);
        }
        if queue.inline {
            queue.serve_inline();
        } else {
            queue.doorbell.ring();
        }
    }

    fn end_detach(&self, within: Duration) -> bool {
        let queue = &*self.queue;
        let clean = if queue.inline {
            queue.lock_control().gone_cleanly()
        } else if self.on_worker_thread() {
            false
        } else {
            // The worker keeps the deadline itself; the second is for its own steps.
            let control = queue.wait_until(within + Duration::from_secs(1), |c| c.gone);
            if control.let_go {
                self.join();
            } else {
                tracing::warn!(
                    queue = queue.name,
                    "detached with requests still held by the host"
                );
            }
            control.gone_cleanly()
        };
        if !self.retired.swap(true, Ordering::SeqCst) {
            self.disk.leave(&queue.stats);
        }
        clean
    }

    /// What this queue has done so far.
    pub fn stats(&self) -> StatsSnapshot {
        self.queue.stats.snapshot()
    }

    /// Requests fetched and not yet answered.
    pub fn in_flight(&self) -> u64 {
        self.queue.stats.in_flight()
    }

    fn on_worker_thread(&self) -> bool {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker
            .as_ref()
            .is_some_and(|worker| worker.thread().id() == std::thread::current().id())
    }

    fn join(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = worker.take() {
            // A worker that panicked has already said so on its own.
            drop(worker.join());
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach();
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("name", &self.queue.name)
            .field("mode", &self.queue.mode())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What callers of pause and detach wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Control {
    /// Paused, and nothing in flight.
    quiet: bool,
    /// The source is not called again.
    gone: bool,
    /// Requests that were given up.
    abandoned: usize,
    /// The engine refers to guest memory no more; the worker is about to end.
    let_go: bool,
}

impl Control {
    const fn gone_cleanly(&self) -> bool {
        self.gone && self.abandoned == 0
    }
}

/// The part that worker, attachment and timer share.
struct Queue {
    name: String,
    doorbell: Arc<Doorbell>,
    /// A [`Mode`]. Changed only with `control` locked.
    mode: AtomicU8,
    /// What is in flight is not wanted any more.
    give_up: AtomicBool,
    /// Inline only; a worker thread owns its pump.
    pump: Mutex<Option<Pump>>,
    control: Mutex<Control>,
    changed: Condvar,
    stats: Arc<QueueStats>,
    timers: Option<Timers>,
    /// Registered when a deadline first comes up: few queues have any.
    timer: OnceLock<Timer>,
    /// When it will fire, in nanoseconds of the clock; [`NOT_ARMED`] when it will not.
    armed: AtomicU64,
    this: Weak<Queue>,
    inline: bool,
}

/// No moment that anybody waits for.
const NOT_ARMED: u64 = u64::MAX;

/// A timer has fired, or an inline doorbell was rung. Both mean: take a turn.
impl Task for Queue {
    fn run(&self) {
        self.armed.store(NOT_ARMED, Ordering::SeqCst);
        if self.inline {
            self.serve_inline();
        } else {
            self.doorbell.ring();
        }
    }
}

impl Queue {
    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            mode if mode == Mode::Running as u8 => Mode::Running,
            mode if mode == Mode::Paused as u8 => Mode::Paused,
            _ => Mode::Detaching,
        }
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    fn lock_control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pump(&self) -> MutexGuard<'_, Option<Pump>> {
        self.pump.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, within: Duration, mut done: impl FnMut(&Control) -> bool) -> Control {
        let control = self.lock_control();
        let waited = self
            .changed
            .wait_timeout_while(control, within, |control| !done(control));
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn update(&self, change: impl FnOnce(&mut Control)) {
        change(&mut self.lock_control());
        self.changed.notify_all();
    }

    /// Tells a waiting `pause` that nothing is in flight, unless the pause is over already.
    fn report_quiet(&self) {
        let mut control = self.lock_control();
        if self.mode() == Mode::Paused && !control.quiet {
            control.quiet = true;
            self.changed.notify_all();
        }
    }

    /// The worker thread's life.
    fn work(&self, mut pump: Pump, detach_within: Duration) {
        let mut give_up_at = None;
        loop {
            let rung = self.doorbell.take();
            let mode = self.mode();
            let wait = match pump.turn(rung, mode, &self.give_up) {
                Turn::Again => continue,
                Turn::Orphaned => break,
                Turn::Wait(moment) => moment,
            };
            let mut timeout = self.time_until(wait, pump.clock());
            match mode {
                Mode::Running => {}
                Mode::Paused if pump.in_flight() == 0 => self.report_quiet(),
                Mode::Paused => {}
                Mode::Detaching => {
                    let now = Instant::now();
                    let limit = *give_up_at.get_or_insert(now + detach_within);
                    if pump.in_flight() == 0 || now >= limit {
                        break;
                    }
                    let left = limit - now;
                    timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
                }
            }
            pump.engine.park(&self.doorbell, timeout);
        }
        let abandoned = pump.abandon();
        self.update(|control| {
            control.gone = true;
            control.abandoned = abandoned;
            control.let_go = abandoned == 0;
        });
        // The host may still write into guest memory: the engine stays until that is over.
        while !pump.drain() {
            pump.engine
                .park(&self.doorbell, Some(Duration::from_millis(100)));
        }
    }

    /// The inline counterpart of `work`: does all that can be done now. A call from within (a device
    /// that rings while it is answered) or from another thread leaves its ring to the running call.
    fn serve_inline(&self) {
        loop {
            let mut guard = match self.pump.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let mut deadline = None;
            let mut orphaned = false;
            if let Some(pump) = guard.as_mut() {
                loop {
                    match pump.turn(self.doorbell.take(), self.mode(), &self.give_up) {
                        Turn::Again => {}
                        Turn::Orphaned => {
                            orphaned = true;
                            break;
                        }
                        Turn::Wait(_) if self.doorbell.is_rung() => {}
                        Turn::Wait(moment) => {
                            deadline = moment;
                            break;
                        }
                    }
                }
            }
            if orphaned || self.mode() == Mode::Detaching {
                if let Some(mut pump) = guard.take() {
                    let abandoned = pump.abandon();
                    self.update(|control| {
                        control.gone = true;
                        control.abandoned = abandoned;
                        control.let_go = true;
                    });
                }
                return;
            }
            drop(guard);
            if let Some(moment) = deadline {
                self.arm(moment);
            }
            if !self.doorbell.is_rung() {
                return;
            }
        }
    }

    /// Sees to a wake-up at `moment`: by the machine's timers, or as a timeout for the thread.
    fn time_until(&self, moment: Option<Moment>, clock: &Clock) -> Option<Duration> {
        let moment = moment?;
        if self.arm(moment) {
            return None;
        }
        let left = moment.since(clock.now()).max(Span::from_nanos(1));
        Some(Duration::from_nanos(left.as_nanos()))
    }

    fn arm(&self, moment: Moment) -> bool {
        let Some(timers) = &self.timers else {
            return false;
        };
        let timer = self
            .timer
            .get_or_init(|| timers.register(self.this.clone()));
        // Deadlines of requests only grow. One that is armed for an earlier one leads to a turn that arms it anew, so
        // the timers' own thread need not be woken for each request.
        if self.armed.load(Ordering::SeqCst) > moment.as_nanos() {
            self.armed.store(moment.as_nanos(), Ordering::SeqCst);
            timer.arm(moment);
        }
        true
    }
}
