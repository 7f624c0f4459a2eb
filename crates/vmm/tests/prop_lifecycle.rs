//! Any events in any order: the actions keep the promises that devices and vCPUs rely on.

use proptest::prelude::*;
use vmm::lifecycle::{Action, Ending, Event, Lifecycle, State};
use vmm::machine::config::ExitPolicy;

/// What a driver knows of the machine.
#[derive(Debug, Default)]
struct World {
    started: bool,
    running: bool,
    paused: bool,
    ended: bool,
}

impl World {
    fn perform(&mut self, action: Action) {
        assert!(!self.ended, "{action:?} after the end");
        match action {
            Action::StartDevices => {
                assert!(!self.started);
                self.started = true;
            }
            Action::ReleaseVcpus => {
                assert!(self.started && !self.running && !self.paused);
                self.running = true;
            }
            Action::HoldVcpus => self.running = false,
            Action::PauseDevices => {
                assert!(!self.running);
                self.paused = true;
            }
            Action::ResumeDevices => {
                assert!(self.paused);
                self.paused = false;
            }
            Action::ResetDevices | Action::ResetMachine | Action::Save => {
                assert!(self.paused && !self.running, "{action:?}");
            }
            // Devices that were never started may be halted as they are.
            Action::HaltDevices => assert!(!self.running && (self.paused || !self.started)),
            Action::StopVcpus => self.ended = true,
            Action::Settle => {}
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Pause),
        Just(Event::Resume),
        Just(Event::Save),
        Just(Event::Reset),
        Just(Event::Halt(Ending::PowerOff)),
        Just(Event::Halt(Ending::Failure)),
        any::<u8>().prop_map(|code| Event::Halt(Ending::Code(code))),
    ]
}

proptest! {
    #[test]
    fn promises_hold(
        on_halt in any::<u8>(),
        on_reboot in any::<Option<u8>>(),
        // Each turn: one event, and those that arrive while the machine comes to a stand.
        turns in prop::collection::vec((event(), prop::collection::vec(event(), 0..3)), 0..12),
    ) {
        let mut life = Lifecycle::new(ExitPolicy { on_halt, on_reboot });
        let mut world = World::default();
        for (first, late) in turns {
            let mut late = late.into_iter();
            let mut actions = Vec::new();
            life.handle(first, &mut actions);
            let mut next = 0;
            while let Some(action) = actions.get(next).copied() {
                next += 1;
                prop_assert!(next < 64, "the machine never settles");
                world.perform(action);
                if action == Action::Settle {
                    for event in late.by_ref() {
                        life.handle(event, &mut actions);
                    }
                    life.quiesced(&mut actions);
                }
            }
            prop_assert_eq!(world.ended, life.exit_code().is_some());
            let held = life.state() == State::Paused;
            prop_assert!(!held || (world.paused && !world.running));
            prop_assert!(world.running || world.ended || held || !world.started);
        }
    }
}
