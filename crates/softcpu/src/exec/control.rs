//! Instructions that do nothing, and those that are none.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap};
use crate::op::{Flow, Op};

/// #UD: not an instruction, or not one that CPUID announces.
pub(crate) fn undefined(cpu: &mut Cpu, _op: &Op) -> Flow {
    let Trap = cpu.raise(Exception::invalid_opcode());
    Flow::Fault
}

/// NOP, PREFETCH, ENDBR and other hints.
pub(crate) fn nop(_cpu: &mut Cpu, _op: &Op) -> Flow {
    Flow::Next
}

/// LFENCE, SFENCE: the interpreter does everything in order.
pub(crate) fn fence(_cpu: &mut Cpu, _op: &Op) -> Flow {
    Flow::Next
}

/// MFENCE: the host's store buffer must drain, too.
pub(crate) fn full_fence(_cpu: &mut Cpu, _op: &Op) -> Flow {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Flow::Next
}

/// PAUSE: somebody spins; end the block, so that the budget is looked at.
pub(crate) fn pause(_cpu: &mut Cpu, _op: &Op) -> Flow {
    std::hint::spin_loop();
    Flow::Next
}
