//! The loop that waits for events and carries out what [`Lifecycle`] decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use super::state::{Action, Ending, Event, Lifecycle, State};
use crate::hypervisor::Kicker;
use crate::machine::config::ExitPolicy;

/// A machine as the driver moves it. Each call returns when it is done.
pub trait Machine {
    /// See [`Action::StartDevices`].
    fn start_devices(&mut self);
    /// See [`Action::ResumeDevices`].
    fn resume_devices(&mut self);
    /// See [`Action::ReleaseVcpus`].
    fn release_vcpus(&mut self);
    /// See [`Action::HoldVcpus`].
    fn hold_vcpus(&mut self);
    /// See [`Action::PauseDevices`].
    fn pause_devices(&mut self);
    /// See [`Action::ResetDevices`].
    fn reset_devices(&mut self);
    /// See [`Action::ResetMachine`]. Errors (a boot image is gone) end the machine.
    fn reset_machine(&mut self) -> Result<(), String>;
    /// See [`Action::Save`].
    fn save(&mut self) -> Result<(), String>;
    /// See [`Action::HaltDevices`].
    fn halt_devices(&mut self);
    /// See [`Action::StopVcpus`].
    fn stop_vcpus(&mut self);
}

/// Tells the driver of events, from any thread.
#[derive(Clone, Debug)]
pub struct EventSender {
    queue: mpsc::Sender<Event>,
    stop: Arc<Stop>,
}

/// Stops the vCPUs when an event is sent, not only when the driver gets to it: the guest that switches
/// itself off shall not run on, and on a virtual clock it must stop at the same instruction each time.
#[derive(Debug, Default)]
struct Stop {
    wanted: AtomicBool,
    kickers: OnceLock<Vec<Kicker>>,
}

impl EventSender {
    /// Queues an event. After the end of the machine nobody listens, which is fine.
    pub fn send(&self, event: Event) {
        tracing::debug!(?event, "machine event");
        // Every other event holds a machine that runs.
        if !matches!(event, Event::Start | Event::Resume) {
            self.stop.wanted.store(true, Ordering::SeqCst);
            for kicker in self.stop.kickers.get().into_iter().flatten() {
                kicker.kick();
            }
        }
        self.queue.send(event).ok();
    }

    /// Whose vCPUs stop when an event is sent. The first call counts: a machine has one crew.
    pub(crate) fn set_kickers(&self, kickers: Vec<Kicker>) {
        self.stop.kickers.get_or_init(|| kickers);
    }

    /// A vCPU that comes out of the guest shall not go back before it has been held.
    pub(crate) fn stop_wanted(&self) -> bool {
        self.stop.wanted.load(Ordering::SeqCst)
    }

    /// The vCPUs are about to be released.
    pub(crate) fn clear_stop(&self) {
        self.stop.wanted.store(false, Ordering::SeqCst);
    }
}

/// A queue of events: its two ends.
pub fn event_queue() -> (EventSender, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let stop = Arc::default();
    (
        EventSender {
            queue: sender,
            stop,
        },
        receiver,
    )
}

/// Drives `machine` from its first event to its end; returns the process's exit code.
///
/// Blocks while the guest runs. If all senders are gone, the machine is halted.
pub fn drive(machine: &mut dyn Machine, events: &mpsc::Receiver<Event>, policy: ExitPolicy) -> u8 {
    drive_watched(machine, events, policy, &mut |_| {})
}

/// [`drive`], which also tells `watch` of every state that the machine has reached: of
/// [`State::Quiesce`] when it begins, of all others when what they ask for has been done. `watch` is
/// called on this thread and must not block.
pub fn drive_watched(
    machine: &mut dyn Machine,
    events: &mpsc::Receiver<Event>,
    policy: ExitPolicy,
    watch: &mut dyn FnMut(State),
) -> u8 {
    let mut life = Lifecycle::new(policy);
    let mut actions = Vec::new();
    let mut told = life.state();
    let mut tell = |state| {
        if state != std::mem::replace(&mut told, state) {
            watch(state);
        }
    };
    loop {
        if let Some(code) = life.exit_code() {
            return code;
        }
        let event = events.recv().unwrap_or(Event::Halt(Ending::Failure));
        let before = life.state();
        life.handle(event, &mut actions);
        if before != life.state() {
            tracing::info!(?event, from = ?before, to = ?life.state(), "state transition");
        }
        if matches!(life.state(), State::Quiesce(_)) {
            tell(life.state());
        }
        perform(machine, events, &mut life, &mut actions, &mut tell);
        tell(life.state());
    }
}

fn perform(
    machine: &mut dyn Machine,
    events: &mpsc::Receiver<Event>,
    life: &mut Lifecycle,
    actions: &mut Vec<Action>,
    tell: &mut dyn FnMut(State),
) {
    // `Settle` appends, so this is a queue; it ends because each settling leaves `Quiesce` or
    // replaces its goal by a lower one.
    let mut next = 0;
    while let Some(action) = actions.get(next).copied() {
        next += 1;
        match action {
            Action::StartDevices => machine.start_devices(),
            Action::ResumeDevices => machine.resume_devices(),
            Action::ReleaseVcpus => machine.release_vcpus(),
            Action::HoldVcpus => machine.hold_vcpus(),
            Action::PauseDevices => machine.pause_devices(),
            Action::ResetDevices => machine.reset_devices(),
            Action::ResetMachine => {
                if let Err(reason) = machine.reset_machine() {
                    tracing::error!(%reason, "the machine cannot start again");
                    // What the reset would have led to must not happen any more.
                    actions.truncate(next);
                    give_up(life, actions);
                }
            }
            Action::Save => {
                if let Err(reason) = machine.save() {
                    tracing::error!(%reason, "snapshot not written");
                    life.save_failed();
                }
            }
            Action::HaltDevices => machine.halt_devices(),
            Action::StopVcpus => machine.stop_vcpus(),
            Action::Settle => {
                // What was sent until the vCPUs stood still belongs to this turn: it may displace the
                // goal, and it must not be taken for an event of the machine after its reset.
                while let Ok(event) = events.try_recv() {
                    life.handle(event, actions);
                }
                let before = life.state();
                tell(before);
                life.quiesced(actions);
                tracing::info!(from = ?before, to = ?life.state(), "state transition");
            }
        }
    }
    actions.clear();
}

/// From a half-done reset to the end.
fn give_up(life: &mut Lifecycle, actions: &mut Vec<Action>) {
    life.handle(Event::Halt(Ending::Failure), actions);
    // Holding and pausing what stands still is harmless; what matters is that the end is reached.
    if actions.last() != Some(&Action::Settle) {
        actions.push(Action::Settle);
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Goal;
    use super::*;

    #[derive(Default)]
    struct Recorder {
        done: Vec<&'static str>,
        /// Sent when the vCPUs are held: an event that was on its way.
        late: Option<(EventSender, Event)>,
        broken_reset: bool,
    }

    impl Machine for Recorder {
        fn start_devices(&mut self) {
            self.done.push("start");
        }
        fn resume_devices(&mut self) {
            self.done.push("resume");
        }
        fn release_vcpus(&mut self) {
            self.done.push("release");
        }
        fn hold_vcpus(&mut self) {
            self.done.push("hold");
            if let Some((sender, event)) = self.late.take() {
                sender.send(event);
            }
        }
        fn pause_devices(&mut self) {
            self.done.push("pause");
        }
        fn reset_devices(&mut self) {
            self.done.push("reset devices");
        }
        fn reset_machine(&mut self) -> Result<(), String> {
            self.done.push("reset machine");
            if self.broken_reset {
                Err("no kernel".to_owned())
            } else {
                Ok(())
            }
        }
        fn save(&mut self) -> Result<(), String> {
            Err("no disk".to_owned())
        }
        fn halt_devices(&mut self) {
            self.done.push("halt devices");
        }
        fn stop_vcpus(&mut self) {
            self.done.push("stop");
        }
    }

    fn run(mut machine: Recorder, events: &[Event], late: Option<Event>) -> (String, u8) {
        let (sender, receiver) = event_queue();
        machine.late = late.map(|event| (sender.clone(), event));
        for event in events {
            sender.send(*event);
        }
        drop(sender);
        let code = drive(&mut machine, &receiver, ExitPolicy::default());
        (machine.done.join(", "), code)
    }

    #[test]
    fn a_whole_life() {
        let (done, code) = run(
            Recorder::default(),
            &[Event::Start, Event::Halt(Ending::PowerOff)],
            Some(Event::Halt(Ending::Code(5))),
        );
        assert_eq!(done, "start, release, hold, pause, halt devices, stop");
        assert_eq!(code, 0);
    }

    #[test]
    fn a_watcher_is_told_of_states_when_they_are_reached() {
        let (sender, receiver) = event_queue();
        let off = Event::Halt(Ending::PowerOff);
        let mut machine = Recorder {
            late: Some((sender.clone(), Event::Reset)),
            ..Recorder::default()
        };
        for event in [Event::Start, Event::Pause, Event::Resume] {
            sender.send(event);
        }
        let mut told = Vec::new();
        let code = drive_watched(
            &mut machine,
            &receiver,
            ExitPolicy::default(),
            &mut |state| {
                told.push(state);
                // The resume was drained together with the late reset.
                if told.len() == 4 {
                    sender.send(Event::Pause);
                }
                if state == State::Paused {
                    sender.send(off);
                }
            },
        );
        let expected = [
            State::Run,
            State::Quiesce(Goal::Pause),
            State::Quiesce(Goal::Reset),
            State::Run,
            State::Quiesce(Goal::Pause),
            State::Paused,
            State::Quiesce(Goal::Halt),
            State::Destroyed,
        ];
        assert_eq!((told.as_slice(), code), (expected.as_slice(), 0));
        assert_eq!(
            machine.done.join(", "),
            "start, release, hold, pause, reset devices, reset machine, resume, release, hold, pause, \
             halt devices, stop"
        );
    }

    #[test]
    fn without_anybody_to_send_events_the_machine_ends() {
        let (done, code) = run(Recorder::default(), &[Event::Start], None);
        assert_eq!(done, "start, release, hold, pause, halt devices, stop");
        assert_eq!(code, 1);
    }

    #[test]
    fn an_event_that_arrives_while_quiescing_displaces_the_goal() {
        let (done, code) = run(
            Recorder::default(),
            &[Event::Start, Event::Reset],
            Some(Event::Halt(Ending::Code(5))),
        );
        assert_eq!(done, "start, release, hold, pause, halt devices, stop");
        assert_eq!(code, 5);
    }

    #[test]
    fn a_reset_that_fails_ends_the_machine() {
        let machine = Recorder {
            broken_reset: true,
            ..Recorder::default()
        };
        let (done, code) = run(machine, &[Event::Start, Event::Reset], None);
        assert_eq!(code, 1);
        assert!(done.ends_with("halt devices, stop"), "{done}");
        assert!(!done.contains("resume"), "{done}");
    }

    #[test]
    fn a_snapshot_that_fails_is_told_by_the_exit_code() {
        let (_, code) = run(Recorder::default(), &[Event::Start, Event::Save], None);
        assert_eq!(code, 1);
    }
}
