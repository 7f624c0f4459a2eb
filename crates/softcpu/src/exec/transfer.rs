//! Far JMP, CALL and RET, IRET, INT and its family, BOUND.

use crate::cpu::Cpu;
use crate::event::far::{self, Target};
use crate::event::{self, Source, returns};
use crate::fault::{Exception, Trap, vector};
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::registers::BLOCK_RIP;
use crate::state::{Width, flags};
use crate::tri;

/// Address of the instruction behind `op`.
pub(crate) fn next_rip(cpu: &Cpu, op: &Op) -> u64 {
    cpu.cut_rip(cpu.regs.read(BLOCK_RIP).wrapping_add(u64::from(op.next)))
}

/// The block ends here whatever happens, so that a write to its page (a stack beside the code, a table)
/// needs no second attempt.
fn leave_block(cpu: &mut Cpu) {
    cpu.running_page = u64::MAX;
}

/// What a transfer through descriptors came to.
fn finish(cpu: &mut Cpu, result: Result<(), Trap>) -> Flow {
    match result {
        Ok(()) => Flow::Jump,
        Err(Trap) => event::fault_of_transfer(cpu),
    }
}

/// JMP to a pointer in the instruction: offset in `imm`, selector in `disp`, size of the offset `W`.
pub(crate) fn jump_immediate<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let next = next_rip(cpu, op);
    let result = far::jump(cpu, immediate::<W>(op), next);
    finish(cpu, result)
}

/// CALL to a pointer in the instruction.
pub(crate) fn call_immediate<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let next = next_rip(cpu, op);
    let result = far::call(cpu, immediate::<W>(op), next);
    finish(cpu, result)
}

fn immediate<W: Width>(op: &Op) -> Target {
    Target {
        selector: op.disp as u16,
        offset: op.imm & W::MASK,
        size: W::BYTES,
    }
}

/// JMP through a pointer in memory.
pub(crate) fn jump_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let target = tri!(pointer::<W>(cpu, op));
    let next = next_rip(cpu, op);
    let result = far::jump(cpu, target, next);
    finish(cpu, result)
}

/// CALL through a pointer in memory.
pub(crate) fn call_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let target = tri!(pointer::<W>(cpu, op));
    let next = next_rip(cpu, op);
    let result = far::call(cpu, target, next);
    finish(cpu, result)
}

fn pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Target, Trap> {
    let linear = cpu.linear(op, W::BYTES + 2, Intent::Load)?;
    let offset = cpu.load::<W>(linear, op.segment())?.zero_extend();
    let selector = cpu.load::<u16>(linear.wrapping_add(W::BYTES), op.segment())?;
    Ok(Target {
        selector,
        offset,
        size: W::BYTES,
    })
}

/// RETF, dropping `imm` more bytes.
pub(crate) fn far_return<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let result = returns::far_return(cpu, W::BYTES, op.imm);
    finish(cpu, result)
}

/// IRET.
pub(crate) fn interrupt_return<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let next = next_rip(cpu, op);
    let result = returns::interrupt_return(cpu, W::BYTES, next);
    finish(cpu, result)
}

/// INT n, the vector in `imm`: in virtual-8086 mode for I/O privilege level 3 only.
pub(crate) fn interrupt(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    if cpu.flags.has(flags::VM) && cpu.flags.iopl() < 3 {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    let next = next_rip(cpu, op);
    event::software_interrupt(cpu, op.imm as u8, Source::Software, next)
}

/// INT3.
pub(crate) fn breakpoint(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let next = next_rip(cpu, op);
    event::software_interrupt(cpu, vector::BREAKPOINT, Source::Software, next)
}

/// INTO.
pub(crate) fn overflow(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.flags.overflow() {
        return Flow::Next;
    }
    leave_block(cpu);
    let next = next_rip(cpu, op);
    event::software_interrupt(cpu, vector::OVERFLOW, Source::Software, next)
}

/// INT1: #DB without the gate's privilege check, and DR6 stays.
pub(crate) fn debug_trap(cpu: &mut Cpu, op: &Op) -> Flow {
    leave_block(cpu);
    let next = next_rip(cpu, op);
    event::software_interrupt(cpu, vector::DEBUG, Source::Exception, next)
}

/// BOUND: register `a` against the signed pair in memory.
pub(crate) fn bound<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let linear = tri!(cpu.linear(op, 2 * W::BYTES, Intent::Load));
    let low: W = tri!(cpu.load(linear, op.segment()));
    let high: W = tri!(cpu.load(linear.wrapping_add(W::BYTES), op.segment()));
    let index = W::get(&cpu.regs, op.a).sign_extend() as i64;
    if index < low.sign_extend() as i64 || index > high.sign_extend() as i64 {
        let Trap = cpu.raise(Exception::plain(vector::BOUND));
        return Flow::Fault;
    }
    Flow::Next
}
