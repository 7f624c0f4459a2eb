//! All children of one supervisor: who is meant by a command, who is stopped at random, when the program may end.

use vm_types::{Moment, Span};

use super::child::{Child, ExitKind, Order, State};

/// The place of a child in its fleet, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub usize);

/// Stopping of children at random moments, for tests of what depends on them. Seconds, as users give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomStop {
    /// Whether it happens.
    pub enabled: bool,
    /// The shortest pause, in seconds.
    pub min_s: u64,
    /// The pause stays below this, in seconds; never less than `min_s`.
    pub max_s: u64,
}

impl Default for RandomStop {
    fn default() -> Self {
        Self {
            enabled: false,
            min_s: 9,
            max_s: 10,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A user wants one to run.
    Start(ChildId),
    /// A user wants all to run.
    StartAll,
    /// A user wants one to end.
    Stop(ChildId),
    /// A user wants all to end.
    StopAll,
    /// A user wants any of those that run to end.
    StopRandom,
    /// Whether one is started again when it has ended.
    Restart(ChildId, bool),
    /// The same for all.
    RestartAll(bool),
    /// Random stops on or off.
    RandomStop(bool),
    /// The shortest pause between random stops, in seconds. Raises the longest if need be.
    RandomStopMin(u64),
    /// The longest pause between random stops, in seconds. Lowers the shortest if need be.
    RandomStopMax(u64),
    /// All are to end, and then the program. A second one kills.
    Shutdown,
    /// The launch with this number did not succeed.
    LaunchFailed(ChildId, u64),
    /// The port of the launch with this number answers.
    Ready(ChildId, u64),
    /// The process of the launch with this number has ended.
    Exited(ChildId, u64, ExitKind),
    /// The deadline has come.
    Wake,
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Launch a process and report under this number.
    Launch(ChildId, u64),
    /// Ask the process to end.
    Terminate(ChildId),
    /// End the process.
    Kill(ChildId),
    /// Nothing is left to supervise.
    Quit,
}

/// The children.
#[derive(Clone, Debug)]
pub struct Fleet {
    children: Vec<Child>,
    random_stop: RandomStop,
    random_stop_at: Option<Moment>,
    draws: Draws,
    shutting_down: bool,
    quit: bool,
}

impl Fleet {
    /// `count` children, none started. `seed` decides all random stops.
    pub fn new(count: usize, seed: u64) -> Self {
        Self {
            children: vec![Child::default(); count],
            random_stop: RandomStop::default(),
            random_stop_at: None,
            draws: Draws(seed),
            shutting_down: false,
            quit: false,
        }
    }

    /// The children in order.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// The settings of random stops.
    pub const fn random_stop(&self) -> RandomStop {
        self.random_stop
    }

    /// Whether all answer on their ports.
    pub fn all_running(&self) -> bool {
        self.children.iter().all(|c| c.state() == State::Running)
    }

    /// Whether there is no process and none is about to come back.
    pub fn all_stopped(&self) -> bool {
        self.children
            .iter()
            .all(|c| !c.state().is_live() && c.launch_at().is_none())
    }

    /// When to send [`Event::Wake`] at the latest.
    pub fn deadline(&self) -> Option<Moment> {
        let children = self.children.iter().filter_map(Child::deadline);
        children.chain(self.random_stop_at).min()
    }

    /// Takes an event. Commands to a child that does not exist have no effect; who takes them from users checks.
    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Start(id) => self.start(now, id, out),
            Event::StartAll => self.each(|fleet, id| fleet.start(now, id, out)),
            Event::Stop(id) => self.order(id, out, |child| child.stop(now)),
            Event::StopAll => self.each(|fleet, id| fleet.order(id, out, |c| c.stop(now))),
            Event::StopRandom => self.stop_random(now, out),
            Event::Restart(id, restart) => self.set_restart(id, restart),
            Event::RestartAll(restart) => self.each(|fleet, id| fleet.set_restart(id, restart)),
            Event::RandomStop(enabled) => {
                self.random_stop.enabled = enabled;
                self.plan_random_stop(now);
            }
            Event::RandomStopMin(min_s) => {
                self.random_stop.min_s = min_s;
                self.random_stop.max_s = self.random_stop.max_s.max(min_s);
                self.plan_random_stop(now);
            }
            Event::RandomStopMax(max_s) => {
                self.random_stop.max_s = max_s;
                self.random_stop.min_s = self.random_stop.min_s.min(max_s);
                self.plan_random_stop(now);
            }
            Event::Shutdown => self.shut_down(now, out),
            Event::LaunchFailed(id, run) => self.news(id, run, out, |child| {
                child.launch_failed();
                None
            }),
            Event::Ready(id, run) => self.news(id, run, out, |child| {
                child.ready();
                None
            }),
            Event::Exited(id, run, how) => self.news(id, run, out, |child| child.exited(now, how)),
            Event::Wake => {
                self.each(|fleet, id| fleet.order(id, out, |child| child.wake(now)));
                if self.random_stop_at.is_some_and(|at| at <= now) {
                    self.stop_random(now, out);
                    self.plan_random_stop(now);
                }
            }
        }
        let none_left = self.children.iter().all(|c| !c.state().is_live());
        if self.shutting_down && none_left && !self.quit {
            self.quit = true;
            out.push(Action::Quit);
        }
    }

    fn each(&mut self, mut what: impl FnMut(&mut Self, ChildId)) {
        for index in 0..self.children.len() {
            what(self, ChildId(index));
        }
    }

    fn start(&mut self, now: Moment, id: ChildId, out: &mut Vec<Action>) {
        if !self.shutting_down {
            self.order(id, out, |child| child.start(now));
        }
    }

    fn set_restart(&mut self, id: ChildId, restart: bool) {
        if let Some(child) = self.children.get_mut(id.0) {
            child.set_restart(restart && !self.shutting_down);
        }
    }

    fn shut_down(&mut self, now: Moment, out: &mut Vec<Action>) {
        let impatient = self.shutting_down;
        self.shutting_down = true;
        self.random_stop.enabled = false;
        self.plan_random_stop(now);
        self.each(|fleet, id| {
            fleet.set_restart(id, false);
            fleet.order(id, out, |child| {
                if impatient {
                    child.kill()
                } else {
                    child.stop(now)
                }
            });
        });
    }

    fn stop_random(&mut self, now: Moment, out: &mut Vec<Action>) {
        let running = |child: &Child| matches!(child.state(), State::Starting | State::Running);
        let count = self.children.iter().filter(|child| running(child)).count();
        if count == 0 {
            return;
        }
        let nth = self.draws.below(count as u64) as usize;
        let chosen = self
            .children
            .iter()
            .enumerate()
            .filter(|(_, child)| running(child))
            .nth(nth);
        if let Some((index, _)) = chosen {
            self.order(ChildId(index), out, |child| child.stop(now));
        }
    }

    fn plan_random_stop(&mut self, now: Moment) {
        self.random_stop_at = self.random_stop.enabled.then(|| {
            let RandomStop { min_s, max_s, .. } = self.random_stop;
            let spread_ms = (max_s - min_s).saturating_mul(1000);
            let drawn_ms = self.draws.below(spread_ms.max(1));
            let pause_ms = min_s.saturating_mul(1000).saturating_add(drawn_ms);
            // A pause of no length would leave the driver no time for anything else.
            now.after(Span::from_millis(pause_ms.max(1)))
        });
    }

    fn news(
        &mut self,
        id: ChildId,
        run: u64,
        out: &mut Vec<Action>,
        what: impl FnOnce(&mut Child) -> Option<Order>,
    ) {
        if self.children.get(id.0).is_some_and(|c| c.run() == run) {
            self.order(id, out, what);
        }
    }

    fn order(
        &mut self,
        id: ChildId,
        out: &mut Vec<Action>,
        what: impl FnOnce(&mut Child) -> Option<Order>,
    ) {
        let Some(child) = self.children.get_mut(id.0) else {
            return;
        };
        match what(child) {
            Some(Order::Launch) => out.push(Action::Launch(id, child.run())),
            Some(Order::Terminate) => out.push(Action::Terminate(id)),
            Some(Order::Kill) => out.push(Action::Kill(id)),
            None => {}
        }
    }
}

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
struct Draws(u64);

impl Draws {
    /// Below `limit`, which is not zero. The skew of a modulus is nothing here.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        fleet: Fleet,
        now: Moment,
    }

    impl Rig {
        fn new(count: usize) -> Self {
            Self {
                fleet: Fleet::new(count, 7),
                now: Moment::START,
            }
        }

        fn send(&mut self, event: Event) -> Vec<Action> {
            let mut out = Vec::new();
            self.fleet.handle(self.now, event, &mut out);
            out
        }

        fn run_all(&mut self) {
            for action in self.send(Event::StartAll) {
                let Action::Launch(id, run) = action else {
                    panic!("{action:?}");
                };
                assert_eq!(self.send(Event::Ready(id, run)), []);
            }
            assert!(self.fleet.all_running());
        }

        fn states(&self) -> Vec<&'static str> {
            let children = self.fleet.children().iter();
            children.map(|child| child.state().name()).collect()
        }
    }

    #[test]
    fn all_are_started_and_stopped() {
        let mut rig = Rig::new(3);
        assert!(rig.fleet.all_stopped());
        rig.run_all();
        assert!(!rig.fleet.all_stopped());
        assert_eq!(
            rig.send(Event::StopAll),
            [0, 1, 2].map(|id| Action::Terminate(ChildId(id)))
        );
        for id in 0..3 {
            assert!(!rig.fleet.all_stopped());
            assert_eq!(
                rig.send(Event::Exited(ChildId(id), 1, ExitKind::Code(0))),
                []
            );
        }
        assert!(rig.fleet.all_stopped());
        assert_eq!(rig.states(), ["exit", "exit", "exit"]);
    }

    #[test]
    fn news_of_an_earlier_launch_are_out_of_date() {
        let mut rig = Rig::new(1);
        rig.run_all();
        rig.send(Event::Stop(ChildId(0)));
        rig.send(Event::Exited(ChildId(0), 1, ExitKind::Signal(9)));
        assert_eq!(
            rig.send(Event::Start(ChildId(0))),
            [Action::Launch(ChildId(0), 2)]
        );
        rig.send(Event::Ready(ChildId(0), 1));
        rig.send(Event::Exited(ChildId(0), 1, ExitKind::Code(1)));
        assert_eq!(rig.states(), ["starting"]);
        rig.send(Event::Ready(ChildId(0), 2));
        assert_eq!(rig.states(), ["running"]);
    }

    #[test]
    fn a_child_that_does_not_exist_is_nobody() {
        let mut rig = Rig::new(2);
        rig.run_all();
        for event in [
            Event::Start(ChildId(2)),
            Event::Stop(ChildId(2)),
            Event::Restart(ChildId(9), true),
            Event::Exited(ChildId(9), 1, ExitKind::Code(0)),
        ] {
            assert_eq!(rig.send(event), []);
        }
        assert!(rig.fleet.all_running());
    }

    #[test]
    fn shutdown_asks_all_and_quits_when_the_last_is_gone() {
        let mut rig = Rig::new(2);
        rig.send(Event::RestartAll(true));
        rig.run_all();
        rig.send(Event::RandomStop(true));
        assert_eq!(
            rig.send(Event::Shutdown),
            [0, 1].map(|id| Action::Terminate(ChildId(id)))
        );
        assert_eq!(rig.send(Event::Start(ChildId(0))), [], "no more starts");
        assert_eq!(rig.send(Event::RestartAll(true)), []);
        assert_eq!(
            rig.send(Event::Exited(ChildId(1), 1, ExitKind::Signal(15))),
            []
        );
        assert_eq!(
            rig.send(Event::Exited(ChildId(0), 1, ExitKind::Signal(15))),
            [Action::Quit]
        );
        assert_eq!(rig.fleet.deadline(), None);
    }

    #[test]
    fn a_second_shutdown_kills() {
        let mut rig = Rig::new(2);
        rig.run_all();
        rig.send(Event::Shutdown);
        rig.send(Event::Exited(ChildId(1), 1, ExitKind::Signal(15)));
        assert_eq!(rig.send(Event::Shutdown), [Action::Kill(ChildId(0))]);
    }

    #[test]
    fn shutdown_of_nothing_quits_at_once() {
        let mut rig = Rig::new(3);
        assert_eq!(rig.send(Event::Shutdown), [Action::Quit]);
        assert_eq!(rig.send(Event::Shutdown), [], "once");
    }

    #[test]
    fn random_stops_keep_to_their_interval_and_reach_everybody() {
        let mut rig = Rig::new(3);
        rig.run_all();
        rig.send(Event::RestartAll(true));
        rig.send(Event::RandomStopMin(2));
        rig.send(Event::RandomStopMax(4));
        rig.send(Event::RandomStop(true));
        let mut stopped = [0; 3];
        for _ in 0..60 {
            let before = rig.now;
            rig.now = rig.fleet.deadline().unwrap();
            let pause = rig.now.since(before);
            assert!(
                pause >= Span::from_secs(2) && pause < Span::from_secs(4),
                "{pause:?}"
            );
            let out = rig.send(Event::Wake);
            let [Action::Terminate(id)] = out[..] else {
                panic!("{out:?}");
            };
            stopped[id.0] += 1;
            let run = rig.fleet.children()[id.0].run();
            rig.send(Event::Exited(id, run, ExitKind::Signal(15)));
            rig.send(Event::Ready(id, run + 1));
        }
        assert!(stopped.iter().all(|count| *count > 5), "{stopped:?}");
        rig.send(Event::RandomStop(false));
        assert_eq!(rig.fleet.deadline(), None);
    }

    #[test]
    fn a_random_stop_picks_among_those_that_run() {
        let mut rig = Rig::new(3);
        assert_eq!(rig.send(Event::StopRandom), []);
        rig.run_all();
        for id in [0, 2] {
            rig.send(Event::Stop(ChildId(id)));
        }
        assert_eq!(rig.send(Event::StopRandom), [Action::Terminate(ChildId(1))]);
    }

    #[test]
    fn a_launch_that_fails_while_it_is_stopped_leaves_nothing_to_wait_for() {
        let mut rig = Rig::new(1);
        rig.run_all();
        rig.send(Event::RestartAll(true));
        rig.send(Event::Exited(ChildId(0), 1, ExitKind::Signal(9)));
        rig.now = rig.fleet.deadline().unwrap();
        assert_eq!(rig.send(Event::Wake), [Action::Launch(ChildId(0), 2)]);
        // In the same moment, before it is known what came of the launch.
        assert_eq!(rig.send(Event::StopAll), [Action::Terminate(ChildId(0))]);
        rig.send(Event::LaunchFailed(ChildId(0), 2));
        assert_eq!(rig.states(), ["error"]);
        assert_eq!(rig.fleet.deadline(), None);
        assert_eq!(rig.send(Event::Shutdown), [Action::Quit]);
    }

    #[test]
    fn the_ends_of_the_interval_push_each_other() {
        let mut rig = Rig::new(1);
        rig.send(Event::RandomStopMin(20));
        let found = rig.fleet.random_stop();
        assert_eq!((found.min_s, found.max_s), (20, 20));
        rig.send(Event::RandomStopMax(3));
        let found = rig.fleet.random_stop();
        assert_eq!((found.min_s, found.max_s), (3, 3));
        rig.send(Event::RandomStopMax(0));
        rig.send(Event::RandomStop(true));
        assert!(rig.fleet.deadline().unwrap() > rig.now);
    }
}
