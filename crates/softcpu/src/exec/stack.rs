//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE. (PUSHF, POPF and segment registers are system matters.)

use crate::cpu::Cpu;
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::registers::{RAX, RBP, RDI, RSP};
use crate::state::{Seg, Width};
use crate::tri;

/// PUSH of a register. The value of RSP is that before the push.
pub(crate) fn push_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.a);
    tri!(cpu.push(value));
    Flow::Next
}

/// PUSH of an immediate.
pub(crate) fn push_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.push(W::truncate(op.imm)));
    Flow::Next
}

/// PUSH of memory.
pub(crate) fn push_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(cpu.load_operand::<W>(op));
    tri!(cpu.push(value));
    Flow::Next
}

/// POP to a register. POP RSP ends with the value popped.
pub(crate) fn pop_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value: W = tri!(cpu.pop());
    value.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// POP to memory. An address made from RSP uses the value after the pop.
pub(crate) fn pop_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let before = cpu.regs.read(RSP);
    let value: W = tri!(cpu.pop());
    if cpu.store_operand(op, value).is_err() {
        cpu.regs.write(RSP, before);
        return Flow::Fault;
    }
    Flow::Next
}

/// PUSHA, PUSHAD.
pub(crate) fn push_all<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let sp = cpu.regs.read(RSP);
    let bottom = sp.wrapping_sub(8 * W::BYTES) & mask;
    for index in 0..8u8 {
        let value = W::get(&cpu.regs, RAX + index);
        let offset = sp.wrapping_sub(W::BYTES * (u64::from(index) + 1)) & mask;
        tri!(cpu.store_stack(offset, value));
    }
    cpu.set_sp(bottom, mask);
    Flow::Next
}

/// POPA, POPAD: SP is popped and thrown away.
pub(crate) fn pop_all<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let sp = cpu.regs.read(RSP);
    let mut values = [W::default(); 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = tri!(cpu.load_stack(sp.wrapping_add(W::BYTES * index as u64) & mask));
    }
    for (index, value) in values.into_iter().enumerate() {
        let register = RDI - index as u8;
        if register != RSP {
            value.set(&mut cpu.regs, register);
        }
    }
    cpu.set_sp(sp.wrapping_add(8 * W::BYTES), mask);
    Flow::Next
}

/// LEAVE.
pub(crate) fn leave<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let frame = cpu.regs.read(RBP);
    let value: W = tri!(cpu.load_stack(frame & mask));
    cpu.set_sp(frame.wrapping_add(W::BYTES), mask);
    value.set(&mut cpu.regs, RBP);
    Flow::Next
}

/// ENTER: `imm` bytes of locals, `a` levels of display.
pub(crate) fn enter<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let level = u64::from(op.a & 31);
    let sp = cpu.regs.read(RSP);
    let frame = sp.wrapping_sub(W::BYTES);
    let old_frame = cpu.regs.read(RBP);
    let bottom = sp.wrapping_sub(W::BYTES * (level + 1)).wrapping_sub(op.imm);
    // The pushes stay in memory when a later access faults, as on processors.
    tri!(cpu.store_stack(frame & mask, W::truncate(old_frame)));
    for step in 1..level {
        let source = old_frame.wrapping_sub(W::BYTES * step) & mask;
        let pointer: W = tri!(cpu.load_stack(source));
        tri!(cpu.store_stack(frame.wrapping_sub(W::BYTES * step) & mask, pointer));
    }
    if level > 0 {
        let offset = frame.wrapping_sub(W::BYTES * level) & mask;
        tri!(cpu.store_stack(offset, W::truncate(frame)));
    }
    // The manual has the new top of stack checked for a write.
    tri!(probe_stack(cpu, bottom & mask, W::BYTES));
    W::truncate(frame).set(&mut cpu.regs, RBP);
    cpu.set_sp(bottom, mask);
    Flow::Next
}

/// Raises what a store of `size` bytes at `offset` of the stack would raise.
fn probe_stack(cpu: &mut Cpu, offset: u64, size: u64) -> Result<(), crate::fault::Trap> {
    let linear = cpu.segmented(Seg::Ss, offset, size, Intent::Store)?;
    cpu.check_access(linear, size, Intent::Store)?;
    cpu.probe_store(linear, size, Seg::Ss)
}
