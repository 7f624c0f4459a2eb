//! Exceptions, interrupts and signals: how control leaves the instruction stream.

use crate::apic::Signals;
use crate::cpu::{Cpu, Exit};
use crate::fault::Exception;

pub(crate) mod debug;

/// What the delivery of events remembers between instructions.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// NMIs are blocked until IRET.
    pub(crate) nmi_blocked: bool,
    /// An NMI waits.
    pub(crate) nmi_pending: bool,
    /// A triple fault has happened: the CPU is shut down.
    pub(crate) shut_down: bool,
    /// The next instruction runs by itself, then the mode is looked at again.
    pub(crate) alone_once: bool,
}

/// Delivers an exception that the instruction at `cpu.rip` raised.
pub(crate) fn exception(cpu: &mut Cpu, _exception: Exception) {
    cpu.events.shut_down = true;
    cpu.request_attention();
}

/// Acts on signals from outside, and delivers the most important event that can be delivered.
pub(crate) fn attend(cpu: &mut Cpu, signals: Signals) -> Option<Exit> {
    if cpu.events.shut_down {
        return Some(Exit::TripleFault);
    }
    if cpu.halted || cpu.waits_for_startup {
        return Some(Exit::Halted);
    }
    signals.kick.then_some(Exit::Interrupted)
}
