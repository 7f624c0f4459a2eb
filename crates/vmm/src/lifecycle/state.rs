//! What happens to a machine when, as a state machine without clock, threads or I/O.
//!
//! ```text
//!               Start
//!  Initialize ---------> Run <----------------------------------+
//!      |                  |  Pause, Save, Reset, Halt           | Resume
//!      |                  v                                     |
//!      |               Quiesce --quiesced--> Paused ------------+
//!      |                ^ |  |                 | Save, Reset, Halt
//!      |                +-|--|-----------------+                |
//!      |                  |  +--quiesced--> Reset --------------+
//!      |                  |  |                 | exit_on_reboot
//!      |                  |  +--> Save --+     |
//!      | Halt             v              v     v
//!      +----------------> Halt <-------------- + --stopped--> Destroyed
//! ```
//!
//! An event ranks (start < pause < save < reset < halt). While the machine quiesces for one event, a
//! higher one takes its place and one that is no higher is dropped: two vCPUs that triple-fault at once
//! are one reset. A save that a reset displaces is done after it. Every way to `Halt` performs the same
//! actions.
//!
//! A pause holds until it is taken back: a machine that is reset while paused comes back paused, and a
//! resume that comes before the machine stands still lets it run on.

use crate::machine::config::ExitPolicy;

/// What the world tells the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Run for the first time.
    Start,
    /// Stand still until [`Event::Resume`].
    Pause,
    /// Run on after [`Event::Pause`].
    Resume,
    /// Write a snapshot, then end.
    Save,
    /// The guest or a triple fault resets the machine.
    Reset,
    /// The machine ends.
    Halt(Ending),
}

/// Why a machine ends; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off, or the operator asked for it.
    PowerOff,
    /// The guest named an exit code itself.
    Code(u8),
    /// A vCPU or a device failed in a way that the guest cannot be told.
    Failure,
}

/// Exit code after [`Ending::Failure`] and after a snapshot that could not be written.
pub const FAILURE_CODE: u8 = 1;

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Built, not yet started.
    Initialize,
    /// The guest runs.
    Run,
    /// On its way to one of the following, because of this event.
    Quiesce(Goal),
    /// Held by the operator: vCPUs and devices stand still.
    Paused,
    /// Nothing is left.
    Destroyed,
}

/// What the machine quiesces for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// Standing still.
    Pause,
    /// A snapshot.
    Save,
    /// A fresh start.
    Reset,
    /// The end.
    Halt,
}

/// What the driver has to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start devices for the first time.
    StartDevices,
    /// Let paused devices work again.
    ResumeDevices,
    /// Let the vCPUs run.
    ReleaseVcpus,
    /// Stop the vCPUs at a point where their state is consistent.
    HoldVcpus,
    /// Stop device work; wait until none is outstanding.
    PauseDevices,
    /// Devices back to power-on.
    ResetDevices,
    /// Memory map, hypervisor and vCPUs back to power-on, boot images loaded again.
    ResetMachine,
    /// Write a snapshot. Its failure is told by [`Lifecycle::save_failed`].
    Save,
    /// Let go of device threads and files.
    HaltDevices,
    /// End the vCPU threads.
    StopVcpus,
    /// Call [`Lifecycle::quiesced`] now.
    Settle,
}

/// The machine's life.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    policy: ExitPolicy,
    state: State,
    /// The operator wants it to stand still.
    hold: bool,
    /// A save that a reset displaced.
    save_pending: bool,
    ending: Option<Ending>,
    save_failed: bool,
    rebooted_out: bool,
}

impl Lifecycle {
    /// A machine that is built and not started.
    pub fn new(policy: ExitPolicy) -> Self {
        Self {
            policy,
            state: State::Initialize,
            hold: false,
            save_pending: false,
            ending: None,
            save_failed: false,
            rebooted_out: false,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes an event; appends what is to be done.
    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        match (self.state, event) {
            (State::Initialize, Event::Start) => {
                actions.extend([Action::StartDevices, Action::ReleaseVcpus]);
                self.state = State::Run;
            }
            // Nothing has run: there is nothing to hold or reset.
            (State::Initialize, Event::Pause | Event::Resume | Event::Reset) => {}
            (State::Initialize, Event::Save) => self.quiesce(Goal::Save, actions),
            (State::Initialize, Event::Halt(ending)) => {
                self.ending = Some(ending);
                self.halt(actions);
            }
            (State::Run, Event::Start | Event::Resume) => {}
            (State::Run, Event::Pause) => {
                self.hold = true;
                self.quiesce(Goal::Pause, actions);
            }
            (State::Run, Event::Save) => self.quiesce(Goal::Save, actions),
            (State::Run, Event::Reset) => self.quiesce(Goal::Reset, actions),
            (State::Run, Event::Halt(ending)) => {
                self.ending = Some(ending);
                self.quiesce(Goal::Halt, actions);
            }
            (State::Quiesce(_), Event::Start) => {}
            (State::Quiesce(_), Event::Pause) => self.hold = true,
            (State::Quiesce(_), Event::Resume) => self.hold = false,
            (State::Quiesce(goal), Event::Save) => match goal {
                Goal::Pause => self.state = State::Quiesce(Goal::Save),
                Goal::Reset => self.save_pending = true,
                Goal::Save | Goal::Halt => {}
            },
            (State::Quiesce(goal), Event::Reset) => {
                if goal < Goal::Reset {
                    self.save_pending = goal == Goal::Save;
                    self.state = State::Quiesce(Goal::Reset);
                }
            }
            (State::Quiesce(goal), Event::Halt(ending)) => {
                if goal < Goal::Halt {
                    self.ending = Some(ending);
                    self.state = State::Quiesce(Goal::Halt);
                }
            }
            (State::Paused, Event::Start | Event::Pause) => {}
            (State::Paused, Event::Resume) => {
                self.hold = false;
                self.run_on(actions);
            }
            (State::Paused, Event::Save) => self.settle(Goal::Save, actions),
            (State::Paused, Event::Reset) => self.settle(Goal::Reset, actions),
            (State::Paused, Event::Halt(ending)) => {
                self.ending = Some(ending);
                self.settle(Goal::Halt, actions);
            }
            (State::Destroyed, _) => {}
        }
    }

    /// vCPUs and devices stand still; appends what is to be done next.
    pub fn quiesced(&mut self, actions: &mut Vec<Action>) {
        let State::Quiesce(goal) = self.state else {
            return;
        };
        match goal {
            Goal::Pause => self.run_on(actions),
            Goal::Halt => self.halt(actions),
            Goal::Save => {
                actions.push(Action::Save);
                self.ending = Some(Ending::PowerOff);
                self.halt(actions);
            }
            Goal::Reset => match self.policy.on_reboot {
                Some(_) => {
                    self.rebooted_out = true;
                    self.halt(actions);
                }
                None => {
                    actions.extend([Action::ResetDevices, Action::ResetMachine]);
                    if std::mem::take(&mut self.save_pending) {
                        self.state = State::Quiesce(Goal::Save);
                        actions.push(Action::Settle);
                    } else {
                        self.run_on(actions);
                    }
                }
            },
        }
    }

    /// The snapshot could not be written.
    pub fn save_failed(&mut self) {
        self.save_failed = true;
    }

    /// The process's exit code, once the machine is destroyed.
    pub fn exit_code(&self) -> Option<u8> {
        if self.state != State::Destroyed {
            return None;
        }
        if self.save_failed {
            return Some(FAILURE_CODE);
        }
        if self.rebooted_out {
            return self.policy.on_reboot;
        }
        Some(match self.ending {
            Some(Ending::Code(code)) => code,
            Some(Ending::Failure) => FAILURE_CODE,
            Some(Ending::PowerOff) | None => self.policy.on_halt,
        })
    }

    fn quiesce(&mut self, goal: Goal, actions: &mut Vec<Action>) {
        actions.extend([Action::HoldVcpus, Action::PauseDevices]);
        self.settle(goal, actions);
    }

    /// Everything stands still already.
    fn settle(&mut self, goal: Goal, actions: &mut Vec<Action>) {
        actions.push(Action::Settle);
        self.state = State::Quiesce(goal);
    }

    /// From standing still to running, unless the operator wants it to stand still.
    fn run_on(&mut self, actions: &mut Vec<Action>) {
        if self.hold {
            self.state = State::Paused;
        } else {
            actions.extend([Action::ResumeDevices, Action::ReleaseVcpus]);
            self.state = State::Run;
        }
    }

    fn halt(&mut self, actions: &mut Vec<Action>) {
        actions.extend([Action::HaltDevices, Action::StopVcpus]);
        self.state = State::Destroyed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Event = Event::Halt(Ending::PowerOff);

    /// Runs events in order; `settle` stands for the driver's call after it carried out `Settle`.
    fn check(on_reboot: Option<u8>, script: &[Option<Event>], expected: &str, code: Option<u8>) {
        let policy = ExitPolicy {
            on_halt: 7,
            on_reboot,
        };
        let mut life = Lifecycle::new(policy);
        let mut actions = Vec::new();
        for step in script {
            match step {
                Some(event) => life.handle(*event, &mut actions),
                None => life.quiesced(&mut actions),
            }
        }
        let words: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
        assert_eq!(words.join(" "), expected, "{script:?}");
        assert_eq!(life.exit_code(), code, "{script:?}");
    }

    const QUIESCE: &str = "HoldVcpus PauseDevices Settle";
    const START: &str = "StartDevices ReleaseVcpus";
    const AGAIN: &str = "ResetDevices ResetMachine ResumeDevices ReleaseVcpus";
    const END: &str = "HaltDevices StopVcpus";

    #[test]
    fn start_and_power_off() {
        check(
            None,
            &[Some(Event::Start), Some(OFF), None],
            &format!("{START} {QUIESCE} {END}"),
            Some(7),
        );
    }

    #[test]
    fn events_before_the_start() {
        check(None, &[Some(Event::Reset)], "", None);
        check(None, &[Some(OFF)], END, Some(7));
        check(
            None,
            &[Some(Event::Save), None],
            &format!("{QUIESCE} Save {END}"),
            Some(7),
        );
    }

    #[test]
    fn a_reset_runs_again() {
        check(
            None,
            &[Some(Event::Start), Some(Event::Reset), None],
            &format!("{START} {QUIESCE} {AGAIN}"),
            None,
        );
    }

    #[test]
    fn two_resets_at_once_are_one() {
        check(
            None,
            &[
                Some(Event::Start),
                Some(Event::Reset),
                Some(Event::Reset),
                None,
            ],
            &format!("{START} {QUIESCE} {AGAIN}"),
            None,
        );
    }

    #[test]
    fn a_power_off_displaces_a_reset_but_not_the_other_way_round() {
        let expected = format!("{START} {QUIESCE} {END}");
        let reset_then_off = [Some(Event::Start), Some(Event::Reset), Some(OFF), None];
        check(None, &reset_then_off, &expected, Some(7));
        let off_then_reset = [Some(Event::Start), Some(OFF), Some(Event::Reset), None];
        check(None, &off_then_reset, &expected, Some(7));
    }

    #[test]
    fn the_first_ending_decides_the_code() {
        check(
            None,
            &[
                Some(Event::Start),
                Some(Event::Halt(Ending::Code(33))),
                Some(Event::Halt(Ending::Failure)),
                None,
            ],
            &format!("{START} {QUIESCE} {END}"),
            Some(33),
        );
        check(
            None,
            &[Some(Event::Start), Some(Event::Halt(Ending::Failure)), None],
            &format!("{START} {QUIESCE} {END}"),
            Some(FAILURE_CODE),
        );
    }

    #[test]
    fn exit_on_reboot_halts_properly() {
        check(
            Some(9),
            &[Some(Event::Start), Some(Event::Reset), None],
            &format!("{START} {QUIESCE} {END}"),
            Some(9),
        );
    }

    #[test]
    fn a_displaced_save_is_done_after_the_reset() {
        check(
            None,
            &[
                Some(Event::Start),
                Some(Event::Save),
                Some(Event::Reset),
                None,
                None,
            ],
            &format!("{START} {QUIESCE} ResetDevices ResetMachine Settle Save {END}"),
            Some(7),
        );
    }

    #[test]
    fn a_pause_holds_until_it_is_taken_back() {
        check(
            None,
            &[
                Some(Event::Start),
                Some(Event::Resume),
                Some(Event::Pause),
                None,
                Some(Event::Pause),
                Some(Event::Start),
                Some(Event::Resume),
                Some(OFF),
                None,
            ],
            &format!("{START} {QUIESCE} ResumeDevices ReleaseVcpus {QUIESCE} {END}"),
            Some(7),
        );
        let early = [Some(Event::Pause), Some(Event::Resume), Some(Event::Start)];
        check(None, &early, START, None);
    }

    #[test]
    fn a_resume_that_comes_before_the_stand_lets_the_machine_run_on() {
        let script = [
            Some(Event::Start),
            Some(Event::Pause),
            Some(Event::Resume),
            None,
        ];
        let expected = format!("{START} {QUIESCE} ResumeDevices ReleaseVcpus");
        check(None, &script, &expected, None);
    }

    #[test]
    fn a_reset_of_a_paused_machine_leaves_it_paused() {
        let script = [
            Some(Event::Start),
            Some(Event::Pause),
            None,
            Some(Event::Reset),
            None,
            Some(Event::Resume),
        ];
        check(
            None,
            &script,
            &format!("{START} {QUIESCE} Settle {AGAIN}"),
            None,
        );
        // The same when the pause comes while the reset is under way, or the other way round.
        for (first, second) in [(Event::Reset, Event::Pause), (Event::Pause, Event::Reset)] {
            check(
                None,
                &[Some(Event::Start), Some(first), Some(second), None],
                &format!("{START} {QUIESCE} ResetDevices ResetMachine"),
                None,
            );
        }
    }

    #[test]
    fn a_paused_machine_can_be_saved_and_ended() {
        let paused = [Some(Event::Start), Some(Event::Pause), None];
        let with = |event| [paused.as_slice(), &[Some(event), None]].concat();
        let ended = format!("{START} {QUIESCE} Settle {END}");
        check(None, &with(OFF), &ended, Some(7));
        let saved = format!("{START} {QUIESCE} Settle Save {END}");
        check(None, &with(Event::Save), &saved, Some(7));
        let rebooted = check_policy_code(&with(Event::Reset));
        assert_eq!(rebooted, Some(9));
    }

    /// The exit code where a reboot ends the process with 9.
    fn check_policy_code(script: &[Option<Event>]) -> Option<u8> {
        let mut life = Lifecycle::new(ExitPolicy {
            on_halt: 7,
            on_reboot: Some(9),
        });
        let mut actions = Vec::new();
        for step in script {
            match step {
                Some(event) => life.handle(*event, &mut actions),
                None => life.quiesced(&mut actions),
            }
        }
        life.exit_code()
    }

    #[test]
    fn a_failed_save_is_no_success() {
        let mut life = Lifecycle::new(ExitPolicy::default());
        let mut actions = Vec::new();
        life.handle(Event::Start, &mut actions);
        life.handle(Event::Save, &mut actions);
        life.quiesced(&mut actions);
        life.save_failed();
        assert_eq!(life.exit_code(), Some(FAILURE_CODE));
    }

    #[test]
    fn nothing_happens_after_the_end() {
        check(
            None,
            &[
                Some(OFF),
                Some(Event::Start),
                Some(Event::Reset),
                None,
                Some(OFF),
            ],
            END,
            Some(7),
        );
    }
}
