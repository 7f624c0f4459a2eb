//! The supervisor's core against a world that plays its processes: whatever is asked in whatever order.
#![expect(clippy::panic, reason = "test helpers fail loudly")]

use dsc::core::child::{BACKOFF_MAX, STOP_GRACE};
use dsc::core::{Action, ChildId, Event, ExitKind, Fleet, State};
use proptest::prelude::*;
use vm_types::{Moment, Span};

const COUNT: usize = 3;

/// Processes as the system has them.
struct World {
    fleet: Fleet,
    now: Moment,
    /// The launch whose process lives, and when it was asked to end.
    alive: [Option<(u64, Option<Moment>)>; COUNT],
    quit: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Event),
    /// A launched process gets ready, if there is one.
    Ready(usize),
    /// A process ends, if there is one.
    Ends(usize, bool),
    /// The next launch of whichever child does not succeed.
    Fails,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = || (0..COUNT + 1).prop_map(ChildId);
    let event = prop_oneof![
        id().prop_map(Event::Start),
        Just(Event::StartAll),
        id().prop_map(Event::Stop),
        Just(Event::StopAll),
        Just(Event::StopRandom),
        (id(), any::<bool>()).prop_map(|(id, on)| Event::Restart(id, on)),
        any::<bool>().prop_map(Event::RestartAll),
        any::<bool>().prop_map(Event::RandomStop),
        any::<u64>().prop_map(Event::RandomStopMin),
        (0..20u64).prop_map(Event::RandomStopMax),
        (id(), 0..9u64).prop_map(|(id, run)| Event::Ready(id, run)),
        Just(Event::Wake),
    ];
    prop_oneof![
        6 => event.prop_map(Step::Ask),
        4 => (0..COUNT).prop_map(Step::Ready),
        3 => (0..COUNT, any::<bool>()).prop_map(|(id, code)| Step::Ends(id, code)),
        1 => Just(Step::Fails),
        3 => (0..30_000u64).prop_map(Step::Wait),
    ]
}

impl World {
    fn send(&mut self, event: Event, mut fails: bool) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            self.fleet.handle(self.now, event, &mut out);
            let mut never_was = None;
            for action in out {
                match action {
                    Action::Launch(id, run) => {
                        assert!(!self.quit, "a launch after the end");
                        assert_eq!(self.alive[id.0], None, "two processes on one region");
                        if std::mem::take(&mut fails) {
                            never_was = Some(id);
                            events.push(Event::LaunchFailed(id, run));
                        } else {
                            self.alive[id.0] = Some((run, None));
                        }
                    }
                    // A restart and a random stop may come at the same moment.
                    Action::Terminate(id) if never_was == Some(id) => {}
                    Action::Terminate(id) => match &mut self.alive[id.0] {
                        Some((_, asked @ None)) => *asked = Some(self.now),
                        other => panic!("asked twice or nobody: {other:?}"),
                    },
                    Action::Kill(id) => assert!(self.alive[id.0].is_some(), "nobody to kill"),
                    Action::Quit => {
                        assert_eq!(self.alive, [None; COUNT], "left behind");
                        assert!(!self.quit);
                        self.quit = true;
                    }
                }
            }
        }
        for (child, alive) in self.fleet.children().iter().zip(&self.alive) {
            assert_eq!(child.state().is_live(), alive.is_some());
            let asked = alive.is_some_and(|(_, asked)| asked.is_some());
            assert_eq!(child.state() == State::Stopping, asked);
            if let Some(at) = child.launch_at() {
                assert!(child.restart() && !child.state().is_live());
                assert!(at.since(self.now) <= BACKOFF_MAX);
            }
        }
    }

    fn ends(&mut self, id: usize, how: ExitKind) {
        if let Some((run, _)) = self.alive[id].take() {
            self.send(Event::Exited(ChildId(id), run, how), false);
        }
    }
}

proptest! {
    #[test]
    fn no_region_has_two_processes_and_nothing_is_left_behind(
        steps in proptest::collection::vec(step(), 0..120),
        seed in any::<u64>(),
    ) {
        let mut world = World {
            fleet: Fleet::new(COUNT, seed),
            now: Moment::START,
            alive: [None; COUNT],
            quit: false,
        };
        let mut fails = false;
        for step in steps {
            match step {
                Step::Ask(event) => world.send(event, std::mem::take(&mut fails)),
                Step::Ready(id) => {
                    if let Some((run, _)) = world.alive[id] {
                        world.send(Event::Ready(ChildId(id), run), false);
                    }
                }
                Step::Ends(id, true) => world.ends(id, ExitKind::Code(0)),
                Step::Ends(id, false) => world.ends(id, ExitKind::Signal(9)),
                Step::Fails => fails = true,
                Step::Wait(ms) => {
                    world.now = world.now.after(Span::from_millis(ms));
                    world.send(Event::Wake, std::mem::take(&mut fails));
                }
            }
        }
        // The end: whoever does not go when asked is killed after the grace.
        world.send(Event::Shutdown, false);
        for id in [2, 0] {
            world.ends(id, ExitKind::Code(0));
        }
        if world.alive[1].is_some() {
            prop_assert!(!world.quit);
            world.now = world.now.after(STOP_GRACE);
            let mut out = Vec::new();
            world.fleet.handle(world.now, Event::Wake, &mut out);
            let due = world.fleet.children()[1].deadline();
            prop_assert!(out == [Action::Kill(ChildId(1))] || due.is_none());
            world.ends(1, ExitKind::Signal(9));
        }
        prop_assert!(world.quit);
        prop_assert_eq!(world.fleet.deadline(), None);
    }
}
