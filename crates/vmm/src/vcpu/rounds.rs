//! All vCPUs in turn on one thread, on a clock that counts executed instructions.
//!
//! One instruction is one nanosecond. In a round every vCPU runs for the same number of instructions, at
//! most until the next device timer is due; then the clock moves on by the most that one of them executed.
//! Nothing here looks at the host's clock to decide what the guest sees, so two runs take the same steps.
//! When all vCPUs wait, the clock jumps to whatever comes next.

use std::sync::Arc;
use std::time::Duration;

use vm_types::time::TimeSource;
use vm_types::{ManualClock, Moment, Span, Timers};

use super::gate::Gate;
use super::{Seat, event_of, lock};
use crate::hypervisor::Exit;
use crate::lifecycle::EventSender;

/// Instructions that a vCPU runs before the next has its turn: what one vCPU sees of another is late by
/// at most this, and a device's clock by the same number of nanoseconds.
const ROUND: u64 = 5_000;

/// After so much virtual time spent waiting, with next to nothing executed, waiting takes as long on the
/// host: an idle guest shall not burn a core. What the guest sees stays the same.
const PATIENCE: Span = Span::from_secs(10);

/// A guest that executes more than this between two waits is not idle.
const IDLE_INSTRUCTIONS: u64 = 200_000;

pub(super) struct Rounds {
    seats: Arc<[Seat]>,
    gate: Arc<Gate>,
    clock: ManualClock,
    timers: Timers,
    events: EventSender,
}

/// What a round led to.
enum Outcome {
    /// Something was executed.
    Ran(u64),
    /// All wait, until this moment at most.
    AllWait(Option<Moment>),
    /// The machine's state is about to change.
    Ended,
}

impl Rounds {
    pub(super) fn new(
        seats: Arc<[Seat]>,
        gate: Arc<Gate>,
        clock: ManualClock,
        timers: Timers,
        events: EventSender,
    ) -> Self {
        Self {
            seats,
            gate,
            clock,
            timers,
            events,
        }
    }

    pub(super) fn work(self) {
        self.gate.enter(0);
        let mut waited = Span::ZERO;
        let mut executed = 0;
        while self.gate.pass(0) {
            self.timers.fire_due(self.clock.now());
            match self.round() {
                Outcome::Ran(count) => {
                    executed += count;
                    self.clock.advance(Span::from_nanos(count));
                }
                Outcome::AllWait(until) => {
                    if std::mem::take(&mut executed) > IDLE_INSTRUCTIONS {
                        waited = Span::ZERO;
                    }
                    waited = self.jump(until, waited);
                }
                Outcome::Ended => self.gate.stand_by(0),
            }
        }
        self.gate.leave();
    }

    fn round(&self) -> Outcome {
        let now = self.clock.now();
        let until_timer = self
            .timers
            .next_deadline()
            .map_or(ROUND, |at| at.since(now).as_nanos());
        let budget = until_timer.clamp(1, ROUND);
        let mut most = 0;
        let mut wait = true;
        let mut until: Option<Moment> = None;
        for seat in self.seats.iter() {
            let mut vcpu = lock(seat);
            let before = vcpu.executed();
            let exit = vcpu.run_for(budget);
            most = most.max(vcpu.executed().wrapping_sub(before));
            match exit {
                Exit::Interrupted | Exit::Halted { .. } if self.events.stop_wanted() => {
                    return Outcome::Ended;
                }
                Exit::Interrupted => wait = false,
                Exit::Halted { until: None } => {}
                Exit::Halted { until: Some(at) } => {
                    until = Some(until.map_or(at, |other| other.min(at)));
                }
                exit => {
                    if let Some(event) = event_of(&exit, vcpu.as_ref()) {
                        self.events.send(event);
                    }
                    return Outcome::Ended;
                }
            }
        }
        // A vCPU that executed something may have woken one that had its turn already.
        if wait && most == 0 {
            Outcome::AllWait(until)
        } else {
            Outcome::Ran(most)
        }
    }

    /// Moves the clock to whatever comes next, or waits for the world outside.
    fn jump(&self, until: Option<Moment>, waited: Span) -> Span {
        let next = match (until, self.timers.next_deadline()) {
            (Some(left), Some(right)) => left.min(right),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => {
                self.gate.sleep(None);
                return Span::ZERO;
            }
        };
        let length = next.since(self.clock.now());
        if waited > PATIENCE {
            self.gate
                .sleep(Some(Duration::from_nanos(length.as_nanos())));
        }
        // At least one nanosecond, so that a deadline that is due but does nothing cannot hold us here.
        self.clock
            .advance(Span::from_nanos(length.as_nanos().max(1)));
        Span::from_nanos(waited.as_nanos().saturating_add(length.as_nanos()))
    }
}
