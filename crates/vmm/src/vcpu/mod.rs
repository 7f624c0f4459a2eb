//! vCPUs at work: a thread each, or all of them in turn on one thread.
//!
//! [`Crew`] is the handle that the life cycle uses: start, hold, release, stop, and access to the vCPUs
//! while they are held. `threads` is the way for machines on the host's clock; `rounds` runs all vCPUs on
//! one thread and moves a virtual clock by what they executed.

mod gate;

mod rounds;

mod threads;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vm_types::{Clock, ManualClock, Timers};

use crate::hypervisor::{Exit, Kicker, Suspend, Vcpu};
use crate::lifecycle::{Ending, Event, EventSender};
use gate::Gate;

/// A vCPU that its thread borrows while it runs and others while it is held.
type Seat = Mutex<Box<dyn Vcpu>>;

/// All vCPUs of a machine and the threads that run them.
#[derive(Debug)]
pub struct Crew {
    seats: Arc<[Seat]>,
    kickers: Vec<Kicker>,
    gate: Arc<Gate>,
    events: EventSender,
    threads: Vec<JoinHandle<()>>,
}

/// How vCPUs are run.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// A thread each, on a clock that moves by itself.
    Threads {
        /// The machine's clock.
        clock: Clock,
    },
    /// In turn on one thread, which moves this clock and fires these timers.
    Rounds {
        /// The machine's clock.
        clock: ManualClock,
        /// The devices' timers.
        timers: Timers,
    },
}

impl Crew {
    /// Threads for `vcpus`, held until [`Crew::release`]. Their exits become events.
    ///
    /// Errors: a thread could not be made.
    pub fn start(
        mut vcpus: Vec<Box<dyn Vcpu>>,
        schedule: Schedule,
        events: &EventSender,
    ) -> std::io::Result<Self> {
        let kickers: Vec<Kicker> = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
        events.set_kickers(kickers.clone());
        let workers = match schedule {
            Schedule::Threads { .. } => vcpus.len(),
            Schedule::Rounds { .. } => 1,
        };
        let gate = Arc::new(Gate::new(workers));
        for (index, vcpu) in vcpus.iter_mut().enumerate() {
            let gate = gate.clone();
            // All vCPUs of one worker wake that worker.
            let worker = index.min(workers - 1);
            vcpu.set_waker(Arc::new(move || gate.wake(worker)));
        }
        let seats: Arc<[Seat]> = vcpus.into_iter().map(Mutex::new).collect();
        let mut crew = Self {
            seats: seats.clone(),
            kickers,
            gate: gate.clone(),
            events: events.clone(),
            threads: Vec::new(),
        };
        match schedule {
            Schedule::Threads { clock } => {
                for index in 0..workers {
                    let (seats, gate, events) = (seats.clone(), gate.clone(), events.clone());
                    let clock = clock.clone();
                    let builder = std::thread::Builder::new().name(format!("vcpu{index}"));
                    let body = move || threads::work(&seats[index], &gate, index, &clock, &events);
                    crew.threads.push(builder.spawn(body)?);
                }
            }
            Schedule::Rounds { clock, timers } => {
                let events = events.clone();
                let rounds = rounds::Rounds::new(seats, gate, clock, timers, events);
                let builder = std::thread::Builder::new().name("vcpus".to_owned());
                crew.threads.push(builder.spawn(move || rounds.work())?);
            }
        }
        Ok(crew)
    }

    /// Lets the vCPUs run.
    pub fn release(&self) {
        self.events.clear_stop();
        self.gate.release();
    }

    /// Returns when no vCPU runs, each at a point where its state is consistent.
    pub fn hold(&self) {
        self.gate.hold(|| self.kick());
    }

    /// Calls `work` with each vCPU in turn; to be used while held, else it waits for the next exit of
    /// each.
    pub fn with_each(&self, mut work: impl FnMut(&mut dyn Vcpu)) {
        for seat in self.seats.iter() {
            work(lock(seat).as_mut());
        }
    }

    /// Every vCPU has been outside the guest at some time after the call.
    pub fn barrier(&self) {
        self.gate.barrier(|| self.kick());
    }

    /// Ends the threads; the vCPUs do not run again.
    pub fn stop(&mut self) {
        self.gate.stop(|| self.kick());
        for thread in self.threads.drain(..) {
            // A vCPU thread that panicked has said so; there is nothing left to do for it.
            drop(thread.join());
        }
    }

    /// Instructions executed so far, for backends that count. While held; else it waits.
    pub fn executed(&self) -> u64 {
        self.seats.iter().map(|seat| lock(seat).executed()).sum()
    }

    fn kick(&self) {
        for kicker in &self.kickers {
            kicker.kick();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(seat: &Seat) -> MutexGuard<'_, Box<dyn Vcpu>> {
    seat.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The event that an exit means for the whole machine, if it does.
fn event_of(exit: &Exit, vcpu: &dyn Vcpu) -> Option<Event> {
    match exit {
        Exit::Halted { .. } | Exit::Interrupted => None,
        Exit::Suspend(Suspend::PowerOff) => Some(Event::Halt(Ending::PowerOff)),
        Exit::Suspend(Suspend::Reset) => Some(Event::Reset),
        Exit::Suspend(Suspend::TripleFault) => {
            let state = vcpu.state();
            tracing::warn!(
                vcpu = vcpu.id(),
                rip = format_args!("{:#x}", state.rip),
                cr0 = format_args!("{:#x}", state.cr0),
                cr2 = format_args!("{:#x}", state.cr2),
                cr3 = format_args!("{:#x}", state.cr3),
                "triple fault: the machine resets"
            );
            Some(Event::Reset)
        }
        Exit::Failed(failure) => {
            tracing::error!(%failure, "a vCPU cannot go on");
            Some(Event::Halt(Ending::Failure))
        }
    }
}

#[cfg(test)]
mod tests;
