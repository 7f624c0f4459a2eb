//! One region server as its supervisor sees it.
//!
//! ```text
//!                    start                     port answers
//!   Stopped ────────────────────▶ Starting ─────────────────▶ Running
//!   Exit, Failed, Error ─────────▲   │  │                        │ │
//!      ▲     ▲      ▲     cannot be  │  │ ends by itself:        │ │
//!      │     │      └─── launched ───┘  │   code   → Failed ◀────┤ │
//!      │     │                          └── signal → Exit   ◀────┘ │
//!      └─────┴── ended ── Stopping ◀────────── stop ───────────────┘
//! ```
//!
//! A child that died by a signal, or that was stopped, starts again when restart is enabled; after a stop at
//! once, after a death of its own with a delay that doubles with each death (spec: section 8.1, the delay is ours).

use serde::{Deserialize, Serialize};
use vm_types::{Moment, Span};

/// How long a child has after it was asked to end, before it is killed.
pub const STOP_GRACE: Span = Span::from_secs(5);
/// The delay before the first restart of a child that died.
pub const BACKOFF_FIRST: Span = Span::from_millis(100);
/// The longest delay before a restart.
pub const BACKOFF_MAX: Span = Span::from_secs(10);
/// A child that ran for this long has earned a short delay again.
pub const HEALTHY_AFTER: Span = Span::from_secs(10);

/// What a child is in. The names in JSON are the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not started yet.
    Stopped,
    /// Asked to end, not gone yet.
    Stopping,
    /// Launched; its port does not answer yet.
    Starting,
    /// Its port answers.
    Running,
    /// Ended by a signal or because it was told to.
    Exit,
    /// Could not be launched.
    Error,
    /// Ended by itself with an exit code.
    Failed,
}

impl State {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Stopping => "stopping",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Exit => "exit",
            Self::Error => "error",
            Self::Failed => "failed",
        }
    }

    /// Whether there is a process.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Stopping | Self::Starting | Self::Running)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What the driver is to do with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Launch one.
    Launch,
    /// Ask it to end.
    Terminate,
    /// End it.
    Kill,
}

/// One child. All methods that take `now` expect a time that does not run backwards.
#[derive(Clone, Debug)]
pub struct Child {
    state: State,
    restart: bool,
    /// Counts launches; the driver's news of an earlier one are out of date.
    run: u64,
    /// A start was asked for while it was stopping.
    start_when_gone: bool,
    /// Deaths in a row without a healthy run between them.
    deaths: u32,
    launched_at: Moment,
    launch_at: Option<Moment>,
    kill_at: Option<Moment>,
}

impl Default for Child {
    fn default() -> Self {
        Self {
            state: State::Stopped,
            restart: false,
            run: 0,
            start_when_gone: false,
            deaths: 0,
            launched_at: Moment::START,
            launch_at: None,
            kill_at: None,
        }
    }
}

/// The delay before the restart that follows `deaths` deaths in a row (1 for the first).
pub fn backoff(deaths: u32) -> Span {
    let doublings = deaths.saturating_sub(1).min(32);
    let delay = BACKOFF_FIRST.as_nanos().saturating_mul(1 << doublings);
    Span::from_nanos(delay.min(BACKOFF_MAX.as_nanos()))
}

impl Child {
    /// What it is in.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Which launch this is, from 1 on; 0 before the first.
    pub const fn run(&self) -> u64 {
        self.run
    }

    /// Whether it is started again when it has ended.
    pub const fn restart(&self) -> bool {
        self.restart
    }

    /// When it will be launched again, if it will.
    pub const fn launch_at(&self) -> Option<Moment> {
        self.launch_at
    }

    /// When [`Child::wake`] has something to do.
    pub fn deadline(&self) -> Option<Moment> {
        self.kill_at.into_iter().chain(self.launch_at).min()
    }

    /// Sets whether it is started again. Switching off also takes back a restart that is waiting.
    pub fn set_restart(&mut self, restart: bool) {
        self.restart = restart;
        if !restart {
            self.launch_at = None;
        }
    }

    /// A user wants it to run. Without effect if it does.
    pub fn start(&mut self, now: Moment) -> Option<Order> {
        match self.state {
            State::Starting | State::Running => None,
            State::Stopping => {
                self.start_when_gone = true;
                None
            }
            State::Stopped | State::Exit | State::Error | State::Failed => {
                self.deaths = 0;
                Some(self.launch(now))
            }
        }
    }

    /// A user wants it gone. Without effect if it is; a restart that waits stays, as it is not running.
    pub fn stop(&mut self, now: Moment) -> Option<Order> {
        match self.state {
            State::Starting | State::Running => {
                self.state = State::Stopping;
                self.start_when_gone = false;
                self.kill_at = Some(now.after(STOP_GRACE));
                Some(Order::Terminate)
            }
            State::Stopping => {
                self.start_when_gone = false;
                None
            }
            State::Stopped | State::Exit | State::Error | State::Failed => None,
        }
    }

    /// A user has no patience: a process that there is dies now.
    pub fn kill(&mut self) -> Option<Order> {
        if !self.state.is_live() {
            return None;
        }
        self.state = State::Stopping;
        self.start_when_gone = false;
        self.kill_at = None;
        Some(Order::Kill)
    }

    /// It could not be launched. It may have been stopped in the moment in which it was to be launched.
    pub fn launch_failed(&mut self) {
        if matches!(self.state, State::Starting | State::Stopping) {
            self.state = State::Error;
            self.kill_at = None;
            self.start_when_gone = false;
        }
    }

    /// Its port answers.
    pub fn ready(&mut self) {
        if self.state == State::Starting {
            self.state = State::Running;
        }
    }

    /// Its process has ended.
    pub fn exited(&mut self, now: Moment, how: ExitKind) -> Option<Order> {
        match self.state {
            State::Stopping => {
                self.kill_at = None;
                self.state = State::Exit;
                self.deaths = 0;
                (self.start_when_gone || self.restart).then(|| self.launch(now))
            }
            State::Starting | State::Running => {
                match how {
                    ExitKind::Code(_) => self.state = State::Failed,
                    ExitKind::Signal(_) => {
                        self.state = State::Exit;
                        if now.since(self.launched_at) >= HEALTHY_AFTER {
                            self.deaths = 0;
                        }
                        self.deaths = self.deaths.saturating_add(1);
                        if self.restart {
                            self.launch_at = Some(now.after(backoff(self.deaths)));
                        }
                    }
                }
                None
            }
            State::Stopped | State::Exit | State::Error | State::Failed => None,
        }
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Moment) -> Option<Order> {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            return Some(Order::Kill);
        }
        if self.launch_at.is_some_and(|at| at <= now) {
            return Some(self.launch(now));
        }
        None
    }

    fn launch(&mut self, now: Moment) -> Order {
        self.state = State::Starting;
        self.run += 1;
        self.start_when_gone = false;
        self.launched_at = now;
        self.launch_at = None;
        Order::Launch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script of words and checks the state and the order after each: "word > state" or
    /// "word > state order". `+N` lets N milliseconds pass and wakes the child.
    fn check(script: &[&str]) {
        let mut child = Child::default();
        let mut now = Moment::START;
        for line in script {
            let (word, expected) = line.split_once(" > ").unwrap();
            let order = match word {
                "start" => child.start(now),
                "stop" => child.stop(now),
                "kill" => child.kill(),
                "ready" => {
                    child.ready();
                    None
                }
                "unlaunchable" => {
                    child.launch_failed();
                    None
                }
                "code" => child.exited(now, ExitKind::Code(1)),
                "signal" => child.exited(now, ExitKind::Signal(9)),
                "restart" => {
                    child.set_restart(true);
                    None
                }
                "no-restart" => {
                    child.set_restart(false);
                    None
                }
                wait => {
                    let ms = wait.strip_prefix('+').unwrap().parse().unwrap();
                    now = now.after(Span::from_millis(ms));
                    child.wake(now)
                }
            };
            let mut found = child.state().name().to_owned();
            if let Some(order) = order {
                found = format!("{found} {order:?}").to_lowercase();
            }
            assert_eq!(found, expected, "after {word:?} of {script:?}");
        }
    }

    #[test]
    fn starts_runs_and_stops() {
        check(&[
            "start > starting launch",
            "start > starting",
            "ready > running",
            "start > running",
            "stop > stopping terminate",
            "stop > stopping",
            "code > exit",
            "stop > exit",
            "start > starting launch",
        ]);
    }

    #[test]
    fn a_child_that_does_not_listen_to_the_request_is_killed_after_the_grace() {
        check(&[
            "start > starting launch",
            "ready > running",
            "stop > stopping terminate",
            "+4999 > stopping",
            "+1 > stopping kill",
            "+60000 > stopping",
            "signal > exit",
            "+60000 > exit",
        ]);
    }

    #[test]
    fn an_exit_code_of_its_own_is_a_failure_and_stays_one() {
        check(&[
            "restart > stopped",
            "start > starting launch",
            "code > failed",
            "+60000 > failed",
            "start > starting launch",
        ]);
    }

    #[test]
    fn a_death_by_signal_restarts_only_when_enabled() {
        check(&[
            "start > starting launch",
            "ready > running",
            "signal > exit",
            "+60000 > exit",
        ]);
        check(&[
            "restart > stopped",
            "start > starting launch",
            "ready > running",
            "signal > exit",
            "+99 > exit",
            "+1 > starting launch",
        ]);
    }

    #[test]
    fn a_restart_that_waits_is_taken_back() {
        check(&[
            "restart > stopped",
            "start > starting launch",
            "signal > exit",
            "no-restart > exit",
            "+60000 > exit",
        ]);
    }

    #[test]
    fn deaths_in_a_row_wait_longer_and_a_healthy_run_forgives() {
        check(&[
            "restart > stopped",
            "start > starting launch",
            "signal > exit",
            "+100 > starting launch",
            "signal > exit",
            "+199 > exit",
            "+1 > starting launch",
            "signal > exit",
            "+399 > exit",
            "+1 > starting launch",
            "ready > running",
            "+10000 > running",
            "signal > exit",
            "+100 > starting launch",
        ]);
    }

    #[test]
    fn a_stop_with_restart_enabled_starts_at_once() {
        check(&[
            "restart > stopped",
            "start > starting launch",
            "ready > running",
            "stop > stopping terminate",
            "signal > starting launch",
        ]);
    }

    #[test]
    fn a_start_while_stopping_waits_for_the_end_and_a_stop_takes_it_back() {
        check(&[
            "start > starting launch",
            "stop > stopping terminate",
            "start > stopping",
            "signal > starting launch",
            "stop > stopping terminate",
            "start > stopping",
            "stop > stopping",
            "signal > exit",
        ]);
    }

    #[test]
    fn what_cannot_be_launched_is_an_error_until_it_is_started_again() {
        check(&[
            "start > starting launch",
            "unlaunchable > error",
            "+60000 > error",
            "start > starting launch",
            "ready > running",
            "unlaunchable > running",
        ]);
    }

    #[test]
    fn the_delay_doubles_up_to_its_limit() {
        let delays: Vec<u64> = (0..10).map(|n| backoff(n).as_nanos() / 1_000_000).collect();
        assert_eq!(
            delays,
            [100, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]
        );
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
