//! Segment registers: MOV, PUSH, POP, LDS and its family, FS and GS bases, SWAPGS.

use super::system::need_level_0;
use crate::cpu::{Cpu, Shadow};
use crate::event::debug;
use crate::fault::{Exception, Trap};
use crate::mmu::{Intent, is_canonical};
use crate::op::{Flow, Op};
use crate::state::registers::RSP;
use crate::state::{Seg, Width, cr4};
use crate::tri;

fn target(op: &Op) -> Seg {
    Seg::from_index(op.a).unwrap_or(Seg::Ds)
}

/// After a load of SS: everything is held off for one instruction.
fn after_load(cpu: &mut Cpu, seg: Seg) -> Flow {
    if seg != Seg::Ss {
        return Flow::Next;
    }
    cpu.shadow = Some(Shadow::StackSegment);
    debug::update(cpu);
    Flow::End
}

/// MOV from register `b` to segment register `a`.
pub(crate) fn move_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.regs.read(op.b) as u16;
    let seg = target(op);
    tri!(cpu.load_segment(seg, selector));
    after_load(cpu, seg)
}

/// MOV from memory to segment register `a`.
pub(crate) fn move_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = tri!(cpu.load_operand::<u16>(op));
    let seg = target(op);
    tri!(cpu.load_segment(seg, selector));
    after_load(cpu, seg)
}

/// PUSH of segment register `a`, zero-extended.
pub(crate) fn push<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segments[target(op) as usize].selector;
    tri!(cpu.push(W::truncate(selector.into())));
    Flow::Next
}

/// POP to segment register `a`.
pub(crate) fn pop<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let before = cpu.regs.read(RSP);
    let seg = target(op);
    let selector = tri!(cpu.pop::<W>()).zero_extend() as u16;
    // The new stack segment decides about the next access, not about this pop's pointer.
    if cpu.load_segment(seg, selector).is_err() {
        cpu.regs.write(RSP, before);
        return Flow::Fault;
    }
    after_load(cpu, seg)
}

/// LDS, LES, LSS, LFS, LGS: segment register `a`, register `b` of width `W`.
pub(crate) fn load_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let linear = tri!(cpu.linear(op, W::BYTES + 2, Intent::Load));
    let offset: W = tri!(cpu.load(linear, op.segment()));
    let selector = tri!(cpu.load::<u16>(linear.wrapping_add(W::BYTES), op.segment()));
    let seg = target(op);
    tri!(cpu.load_segment(seg, selector));
    offset.set(&mut cpu.regs, op.b);
    // LSS holds nothing off: it loads pointer and segment in one (SDM vol. 2A, LDS).
    if seg == Seg::Ss {
        Flow::End
    } else {
        Flow::Next
    }
}

fn need_base_instructions(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.is_64_bit() && cpu.control.cr4 & cr4::FSGSBASE != 0 {
        Ok(())
    } else {
        Err(cpu.raise(Exception::invalid_opcode()))
    }
}

/// RDFSBASE, RDGSBASE: segment register `a` to register `b`.
pub(crate) fn read_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_base_instructions(cpu));
    W::truncate(cpu.segments[target(op) as usize].base).set(&mut cpu.regs, op.b);
    Flow::Next
}

/// WRFSBASE, WRGSBASE: register `b` to segment register `a`.
pub(crate) fn write_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_base_instructions(cpu));
    let base = W::get(&cpu.regs, op.b).zero_extend();
    if !is_canonical(base) {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    cpu.segments[target(op) as usize].base = base;
    Flow::Next
}

/// SWAPGS.
pub(crate) fn swap_gs(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !cpu.is_64_bit() {
        let Trap = cpu.raise(Exception::invalid_opcode());
        return Flow::Fault;
    }
    tri!(need_level_0(cpu));
    std::mem::swap(
        &mut cpu.segments[Seg::Gs as usize].base,
        &mut cpu.control.kernel_gs_base,
    );
    Flow::Next
}
