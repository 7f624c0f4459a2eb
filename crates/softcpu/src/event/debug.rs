//! Single step and hardware breakpoints (SDM vol. 3B, chapter 18).

use crate::cpu::Cpu;
use crate::op::Flow;

/// What [`before_step`] found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// A fault was delivered instead of the instruction.
    pub(crate) faulted: bool,
}

/// Works out `stepping` and `data_breakpoints` from TF, DR7 and the interrupt shadow.
pub(crate) fn update(cpu: &mut Cpu) {
    cpu.stepping = cpu.shadow.is_some() || cpu.events.alone_once;
}

/// Before one instruction runs by itself.
pub(crate) fn before_step(cpu: &mut Cpu) -> Step {
    cpu.events.alone_once = false;
    Step { faulted: false }
}

/// After it.
pub(crate) fn after_step(cpu: &mut Cpu, _step: Step, _flow: Flow) {
    cpu.shadow = None;
    update(cpu);
}
