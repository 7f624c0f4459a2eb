//! The machine as control sees it: states come from whoever drives its life, orders become events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vmm::lifecycle::{Event, EventSender, Goal, State};

use super::api::{MachineState, MachineStatus};
use super::handle::{Machine, Order, Refusal, Seen};
use crate::stop::{Button, Stop};

/// What does not change while the machine lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub name: String,
    /// What executes the guest.
    pub hypervisor: String,
    /// `host` or `virtual`.
    pub clock: &'static str,
    /// vCPUs.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// The serial console's socket.
    pub serial: String,
}

/// The machine of this process. Clones are the same machine.
#[derive(Clone)]
pub struct MachineHandle(Arc<Inner>);

struct Inner {
    about: About,
    events: EventSender,
    button: Button,
    stop: Stop,
    seen: watch::Sender<Seen>,
    since: Instant,
}

impl MachineHandle {
    /// A machine that is not built yet.
    pub fn new(about: About, events: EventSender, button: Button, stop: Stop) -> Self {
        let seen = watch::Sender::new(Seen {
            state: MachineState::Starting,
            boots: 0,
        });
        Self(Arc::new(Inner {
            about,
            events,
            button,
            stop,
            seen,
            since: Instant::now(),
        }))
    }

    /// The machine has reached `state`; to be called by whoever drives its life.
    pub fn reached(&self, state: State) {
        self.0.seen.send_modify(|seen| {
            seen.boots += u64::from(starts_guest(seen.state, state));
            seen.state = told(state);
        });
        if seen_to_end(state) {
            self.0.stop.ending();
        }
    }
}

impl std::fmt::Debug for MachineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineHandle")
            .field("about", &self.0.about)
            .finish_non_exhaustive()
    }
}

/// Whether the guest begins afresh on the way from one to the other.
fn starts_guest(from: MachineState, to: State) -> bool {
    let first = from == MachineState::Created && to == State::Run;
    let again = from == MachineState::Resetting && matches!(to, State::Run | State::Paused);
    first || again
}

/// The guest will not run again; what is left waits for storage at most.
fn seen_to_end(state: State) -> bool {
    matches!(
        state,
        State::Quiesce(Goal::Save | Goal::Halt) | State::Destroyed
    )
}

fn told(state: State) -> MachineState {
    match state {
        State::Initialize => MachineState::Created,
        State::Run => MachineState::Running,
        State::Paused => MachineState::Paused,
        State::Quiesce(Goal::Pause) => MachineState::Pausing,
        State::Quiesce(Goal::Reset) => MachineState::Resetting,
        State::Quiesce(Goal::Save | Goal::Halt) => MachineState::Stopping,
        State::Destroyed => MachineState::Ended,
    }
}

impl Machine for MachineHandle {
    fn status(&self) -> MachineStatus {
        let Inner { about, .. } = &*self.0;
        let Seen { state, boots } = *self.0.seen.borrow();
        MachineStatus {
            name: about.name.clone(),
            state,
            boots,
            stop: self.0.stop.status(),
            hypervisor: about.hypervisor.clone(),
            clock: about.clock.to_owned(),
            cpus: about.cpus,
            memory_bytes: about.memory_bytes,
            serial: about.serial.clone(),
            pid: std::process::id(),
            uptime_seconds: self.0.since.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn seen(&self) -> watch::Receiver<Seen> {
        self.0.seen.subscribe()
    }

    fn order(&self, order: Order) -> Result<(), Refusal> {
        let state = self.0.seen.borrow().state;
        let conflict = |text: &str| Err(Refusal::Conflict(text.to_owned()));
        match (order, state) {
            (Order::Stop(request), _) => {
                let deadline = request.deadline.map(Duration::from_secs);
                self.0.stop.begin("control", deadline);
                return Ok(());
            }
            (_, MachineState::Stopping | MachineState::Ended) => {
                return conflict("the machine is stopping");
            }
            (_, MachineState::Starting) => {
                return conflict(
                    "the machine waits for its disks; GET /disks (standalone ctl PATH disks) tells for whom",
                );
            }
            (_, MachineState::Created) => {
                return conflict(
                    "the machine has not started: it waits for the first client on its serial console \
                     (standalone console PATH, or start it with --no-wait)",
                );
            }
            _ => {}
        }
        tracing::info!(?order, "control");
        match order {
            Order::Pause => self.0.events.send(Event::Pause),
            Order::Resume => self.0.events.send(Event::Resume),
            Order::Reset => self.0.events.send(Event::Reset),
            Order::Power => {
                if !(self.0.button)() {
                    return conflict(
                        "the guest does not listen to its power button; POST /machine/stop \
                         (standalone ctl PATH stop) stops it all the same",
                    );
                }
            }
            Order::Stop(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::StopRequest;
    use crate::stop::testkit::{self, Doubles};

    fn handle() -> (MachineHandle, Doubles) {
        let doubles = testkit::doubles(false);
        let about = About {
            name: "test".to_owned(),
            hypervisor: "none".to_owned(),
            clock: "host",
            cpus: 1,
            memory_bytes: 1 << 20,
            serial: "ttya".to_owned(),
        };
        let handle = MachineHandle::new(
            about,
            doubles.events.clone(),
            Arc::new(|| false),
            doubles.stop.clone(),
        );
        (handle, doubles)
    }

    #[test]
    fn boots_are_counted_and_orders_fit_states() {
        let (handle, doubles) = handle();
        assert_eq!(handle.status().state, MachineState::Starting);
        assert!(matches!(
            handle.order(Order::Reset),
            Err(Refusal::Conflict(_))
        ));
        handle.reached(State::Initialize);
        assert_eq!(handle.status().state, MachineState::Created);
        assert!(matches!(
            handle.order(Order::Pause),
            Err(Refusal::Conflict(_))
        ));
        handle.reached(State::Run);
        assert_eq!(handle.status().boots, 1);
        handle.order(Order::Pause).unwrap();
        assert_eq!(doubles.queue.try_recv(), Ok(Event::Pause));
        handle.reached(State::Quiesce(Goal::Pause));
        handle.reached(State::Paused);
        assert_eq!(
            (handle.status().state, handle.status().boots),
            (MachineState::Paused, 1)
        );
        handle.reached(State::Quiesce(Goal::Reset));
        handle.reached(State::Paused);
        assert_eq!(handle.status().boots, 2);
        // Nobody is behind this button.
        assert!(matches!(
            handle.order(Order::Power),
            Err(Refusal::Conflict(_))
        ));
        handle.reached(State::Quiesce(Goal::Halt));
        assert!(matches!(
            handle.order(Order::Resume),
            Err(Refusal::Conflict(_))
        ));
        handle.order(Order::Stop(StopRequest::default())).unwrap();
        assert!(handle.status().stop.is_some());
    }
}
