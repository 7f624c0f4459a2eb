//! Exceptions, interrupts and signals: how control leaves the instruction stream, and how it moves
//! through descriptors.
//!
//! * [`descriptor`], [`segment`]: tables, and what goes into segment registers.
//! * [`stack`]: stacks before they are in SS.
//! * [`deliver`]: one event through the IVT or IDT. Here: which event, and what follows when its
//!   delivery faults.
//! * [`far`], [`returns`], [`task`]: far JMP and CALL, RETF and IRET, task switches.
//! * [`debug`]: single step and breakpoints. [`saved`]: what a snapshot keeps of all this.

use crate::apic::{Pending, Signals};
use crate::cpu::{Cpu, Exit, Shadow};
use crate::fault::{Exception, Trap, vector};
use crate::op::Flow;
use crate::state::{Seg, Segment, flags};

pub(crate) mod debug;
pub(crate) mod deliver;
pub(crate) mod descriptor;
pub(crate) mod far;
pub(crate) mod returns;
pub mod saved;
pub(crate) mod segment;
pub(crate) mod stack;
pub(crate) mod task;

pub(crate) use deliver::{Event, Source};
pub use saved::{SavedShadow, SystemState};

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
    /// The last task switch got past the point where the old task could have been kept.
    pub(crate) task_committed: bool,
    /// A task switch loaded a TSS with its T bit set: #DB before the next instruction.
    pub(crate) task_trap: bool,
    /// The instruction has cleared TF by itself: no single-step trap after it.
    pub(crate) no_step_trap: bool,
    /// RF was set when the instruction that is stepped began.
    pub(crate) resumed: bool,
}

/// How an exception combines with one that its delivery raises (SDM vol. 3A, table 6-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        vector::DIVIDE
        | vector::INVALID_TSS
        | vector::NOT_PRESENT
        | vector::STACK
        | vector::PROTECTION => Class::Contributory,
        vector::PAGE => Class::PageFault,
        vector::DOUBLE_FAULT => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Delivers an exception that the instruction at `cpu.rip` raised.
pub(crate) fn exception(cpu: &mut Cpu, exception: Exception) {
    // All faults but a code breakpoint leave RF set, so that returning makes progress past one.
    let resume = exception.vector != vector::DEBUG;
    let event = Event {
        vector: exception.vector,
        source: Source::Exception,
        error: exception.error,
        rip: cpu.rip,
        resume,
    };
    dispatch(cpu, event, exception.detail);
}

/// Delivers `event`; if that faults, the second exception, a double fault in their stead, or a shutdown.
/// `detail` is what the exception leaves in CR2 or DR6.
pub(crate) fn dispatch(cpu: &mut Cpu, event: Event, detail: u64) {
    // No block runs any more: what the delivery writes needs no second attempt.
    cpu.running_page = u64::MAX;
    let mut event = event;
    let mut detail = detail;
    // Benign, then contributory, then double fault, then shutdown is the longest chain there is.
    for _ in 0..5 {
        let is_exception = event.source == Source::Exception;
        if is_exception {
            note_detail(cpu, event.vector, detail);
        }
        if deliver::deliver(cpu, &event).is_ok() {
            cpu.halted = false;
            return;
        }
        let second = cpu.fault;
        let first = if is_exception {
            class(event.vector)
        } else {
            Class::Benign
        };
        let next = match (first, class(second.vector)) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => {
                break;
            }
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                if second.vector == vector::PAGE {
                    cpu.control.cr2 = second.detail;
                }
                Exception::coded(vector::DOUBLE_FAULT, 0)
            }
            _ => second,
        };
        detail = next.detail;
        event = Event {
            vector: next.vector,
            source: Source::Exception,
            error: next.error,
            rip: if cpu.events.task_committed {
                cpu.rip
            } else {
                event.rip
            },
            resume: true,
        };
        cpu.events.task_committed = false;
    }
    cpu.events.shut_down = true;
    cpu.request_attention();
}

/// CR2 and the debug registers, which change before the handler is entered.
fn note_detail(cpu: &mut Cpu, vector: u8, detail: u64) {
    match vector {
        vector::PAGE => cpu.control.cr2 = detail,
        vector::DEBUG => {
            cpu.control.dr6 |= detail;
            cpu.control.dr7 &= !debug::GENERAL_DETECT;
        }
        _ => {}
    }
}

/// INT n, INT3, INTO (`Source::Software`) and INT1 (`Source::Exception`): as an instruction's last act.
pub(crate) fn software_interrupt(cpu: &mut Cpu, vector: u8, source: Source, next: u64) -> Flow {
    let event = Event {
        vector,
        source,
        error: None,
        rip: next,
        resume: false,
    };
    match deliver::deliver(cpu, &event) {
        Ok(()) => {
            cpu.events.no_step_trap = true;
            Flow::Jump
        }
        Err(Trap) => fault_of_transfer(cpu),
    }
}

/// The result of a control transfer that has failed: a fault of the instruction, or, behind a task
/// switch's point of no return, one of the new task.
pub(crate) fn fault_of_transfer(cpu: &mut Cpu) -> Flow {
    if std::mem::take(&mut cpu.events.task_committed) {
        let fault = cpu.fault;
        exception(cpu, fault);
        return Flow::Jump;
    }
    Flow::Fault
}

/// Whether an event waits that the flags may now let in: a change of mode then asks for a look.
pub(crate) fn is_pending(cpu: &Cpu) -> bool {
    cpu.events.nmi_pending
        || cpu.events.shut_down
        || (cpu.flags.has(flags::IF) && cpu.apic.pending().is_some())
}

/// Acts on signals from outside, and delivers the most important event that can be delivered.
pub(crate) fn attend(cpu: &mut Cpu, signals: Signals) -> Option<Exit> {
    absorb(cpu, signals);
    if signals.kick {
        return Some(Exit::Interrupted);
    }
    if cpu.waits_for_startup {
        return Some(Exit::Halted);
    }
    if !cpu.events.shut_down {
        deliver_pending(cpu);
    }
    if cpu.events.shut_down {
        return Some(Exit::TripleFault);
    }
    cpu.halted.then_some(Exit::Halted)
}

/// Obeys INIT and start-up messages, and remembers an NMI.
fn absorb(cpu: &mut Cpu, signals: Signals) {
    if signals.init {
        cpu.init();
        cpu.apic.init();
        cpu.waits_for_startup = cpu.id != 0;
        cpu.publish();
    }
    if let Some(page) = signals.startup
        && cpu.waits_for_startup
    {
        start(cpu, page);
    }
    cpu.events.nmi_pending |= signals.nmi;
}

/// Obeys a start-up message: real mode at page `page`.
fn start(cpu: &mut Cpu, page: u8) {
    cpu.waits_for_startup = false;
    cpu.halted = false;
    let selector = u16::from(page) << 8;
    cpu.segments[Seg::Cs as usize] = Segment::real(selector);
    cpu.rip = 0;
    cpu.update_mode();
}

/// NMI first, then what the 8259 or the APIC has, if the flags let it in.
fn deliver_pending(cpu: &mut Cpu) {
    let external = |vector, rip| Event {
        vector,
        source: Source::External,
        error: None,
        rip,
        resume: false,
    };
    let nmi_held = cpu.events.nmi_blocked || cpu.shadow == Some(Shadow::StackSegment);
    if cpu.events.nmi_pending && !nmi_held {
        cpu.events.nmi_pending = false;
        cpu.events.nmi_blocked = true;
        let event = external(vector::NMI, cpu.rip);
        dispatch(cpu, event, 0);
        return;
    }
    if !cpu.flags.has(flags::IF) || cpu.shadow.is_some() {
        return;
    }
    let vector = match cpu.apic.pending() {
        Some(Pending::Vector(_)) => Some(cpu.apic.acknowledge()),
        Some(Pending::External) => {
            cpu.apic.acknowledge_external();
            // The 8259 may have thought better of it; then nothing happens.
            cpu.bus.acknowledge_interrupt()
        }
        None => None,
    };
    if let Some(vector) = vector {
        let event = external(vector, cpu.rip);
        dispatch(cpu, event, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_exceptions() {
        for vector in 0..=255 {
            let expected = match vector {
                0 | 10..=13 => Class::Contributory,
                14 => Class::PageFault,
                8 => Class::DoubleFault,
                _ => Class::Benign,
            };
            assert_eq!(class(vector), expected, "{vector}");
        }
    }
}
