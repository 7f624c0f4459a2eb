//! One vCPU on a thread of its own.

use std::time::Duration;

use vm_types::Clock;

use super::gate::Gate;
use super::{Seat, event_of, lock};
use crate::hypervisor::Exit;
use crate::lifecycle::EventSender;

/// Runs the vCPU in `seat` until the crew is stopped.
pub(super) fn work(seat: &Seat, gate: &Gate, worker: usize, clock: &Clock, events: &EventSender) {
    gate.enter(worker);
    while gate.pass(worker) {
        let exit = lock(seat).run();
        match exit {
            Exit::Interrupted | Exit::Halted { .. } if events.stop_wanted() => {
                gate.stand_by(worker);
            }
            Exit::Interrupted => {}
            Exit::Halted { until } => {
                let limit = until.map(|until| until.since(clock.now()).as_nanos());
                gate.sleep(limit.map(Duration::from_nanos));
            }
            exit => {
                let event = event_of(&exit, lock(seat).as_ref());
                if let Some(event) = event {
                    events.send(event);
                }
                gate.stand_by(worker);
            }
        }
    }
    gate.leave();
}
