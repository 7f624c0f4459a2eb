//! Descriptor-table registers and questions about descriptors: LGDT and its family, LAR, LSL, VERR,
//! VERW, ARPL (SDM vol. 2; vol. 3A, 5.10).

use super::system::need_level_0;
use crate::cpu::Cpu;
use crate::event::descriptor::{Descriptor, is_null, kind};
use crate::fault::{Exception, Trap};
use crate::mmu::{Intent, is_canonical};
use crate::op::{Flow, Op};
use crate::state::control::Table;
use crate::state::{Width, cr4};
use crate::tri;

/// Which table register an operation means; stands in `Op::a`.
pub(crate) const GDT: u8 = 0;
/// The interrupt descriptor table.
pub(crate) const IDT: u8 = 1;

/// #UD outside protected mode.
fn need_protected(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.is_protected() {
        Ok(())
    } else {
        Err(cpu.raise(Exception::invalid_opcode()))
    }
}

/// User-mode instruction prevention: #GP(0) for SGDT, SIDT, SLDT, STR and SMSW above level 0.
fn need_no_umip(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cpl != 0 && cpu.control.cr4 & cr4::UMIP != 0 {
        Err(cpu.raise(Exception::protection(0)))
    } else {
        Ok(())
    }
}

/// LGDT, LIDT: `imm` is the operand size in bits.
pub(crate) fn load_table(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let long = cpu.is_64_bit();
    let size = if long { 10 } else { 6 };
    let linear = tri!(cpu.linear(op, size, Intent::Load));
    let limit = tri!(cpu.load::<u16>(linear, op.segment()));
    let at = linear.wrapping_add(2);
    let base = if long {
        tri!(cpu.load::<u64>(at, op.segment()))
    } else {
        let base = u64::from(tri!(cpu.load::<u32>(at, op.segment())));
        if op.imm == 16 { base & 0xff_ffff } else { base }
    };
    if long && !is_canonical(base) {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    let table = Table { base, limit };
    if op.a == GDT {
        cpu.control.gdt = table;
    } else {
        cpu.control.idt = table;
    }
    Flow::Next
}

/// SGDT, SIDT.
pub(crate) fn store_table(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_no_umip(cpu));
    let table = if op.a == GDT {
        cpu.control.gdt
    } else {
        cpu.control.idt
    };
    let long = cpu.is_64_bit();
    let size = if long { 10 } else { 6 };
    let linear = tri!(cpu.linear(op, size, Intent::Store));
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    tri!(cpu.store_bytes(linear, &bytes[..size as usize], op.segment()));
    Flow::Next
}

/// LLDT (`imm` 0) and LTR (1) from a register.
pub(crate) fn load_system_segment_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    tri!(need_level_0(cpu));
    let selector = cpu.regs.read(op.a) as u16;
    load_system_segment(cpu, op.imm, selector)
}

/// LLDT (`imm` 0) and LTR (1) from memory.
pub(crate) fn load_system_segment_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    tri!(need_level_0(cpu));
    let selector = tri!(cpu.load_operand::<u16>(op));
    load_system_segment(cpu, op.imm, selector)
}

fn load_system_segment(cpu: &mut Cpu, which: u64, selector: u16) -> Flow {
    if which == 0 {
        tri!(cpu.load_ldt(selector));
    } else {
        tri!(cpu.load_task_register(selector));
    }
    Flow::Next
}

/// What SLDT (`imm` 0), STR (1) and SMSW (2) store.
fn status(cpu: &mut Cpu, which: u64) -> Result<u64, Trap> {
    if which < 2 {
        need_protected(cpu)?;
    }
    need_no_umip(cpu)?;
    Ok(match which {
        0 => cpu.ldtr.selector.into(),
        1 => cpu.tr.selector.into(),
        _ => cpu.control.cr0,
    })
}

/// SLDT, STR, SMSW to a register of width `W`.
pub(crate) fn store_status_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(status(cpu, op.imm));
    W::truncate(value).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// SLDT, STR, SMSW to memory: 16 bits always.
pub(crate) fn store_status_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(status(cpu, op.imm));
    tri!(cpu.store_operand(op, value as u16));
    Flow::Next
}

/// The selector operand: register `b`, or memory when `imm` has bit 8 set.
fn selector_operand(cpu: &mut Cpu, op: &Op) -> Result<u16, Trap> {
    if op.imm & FROM_MEMORY != 0 {
        cpu.load_operand::<u16>(op)
    } else {
        Ok(cpu.regs.read(op.b) as u16)
    }
}

/// In `Op::imm`: the selector comes from memory.
pub(crate) const FROM_MEMORY: u64 = 1 << 8;

/// LAR.
pub(crate) fn load_access_rights<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    let selector = tri!(selector_operand(cpu, op));
    let long = cpu.is_long();
    let found = tri!(visible(cpu, selector, |kind| match kind {
        kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
        kind::TSS_16 | kind::TSS_16_BUSY | kind::CALL_GATE_16 | kind::TASK_GATE => !long,
        _ => false,
    }));
    answer::<W>(cpu, op, found.map(Descriptor::rights))
}

/// LSL.
pub(crate) fn load_segment_limit<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    let selector = tri!(selector_operand(cpu, op));
    let long = cpu.is_long();
    let found = tri!(visible(cpu, selector, |kind| match kind {
        kind::LDT | kind::TSS | kind::TSS_BUSY => true,
        kind::TSS_16 | kind::TSS_16_BUSY => !long,
        _ => false,
    }));
    answer::<W>(cpu, op, found.map(Descriptor::limit))
}

fn answer<W: Width>(cpu: &mut Cpu, op: &Op, value: Option<u32>) -> Flow {
    cpu.flags.set_zero(value.is_some());
    if let Some(value) = value {
        W::truncate(value.into()).set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// The descriptor of `selector`, if the current level may see it and its system type is wanted.
fn visible(
    cpu: &mut Cpu,
    selector: u16,
    wanted: impl Fn(u8) -> bool,
) -> Result<Option<Descriptor>, Trap> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(descriptor) = cpu.descriptor_within(selector)? else {
        return Ok(None);
    };
    let known = !descriptor.is_system() || wanted(descriptor.kind());
    Ok((known && cpu.may_use_data(selector, descriptor)).then_some(descriptor))
}

/// VERR (`imm` 0) and VERW (1).
pub(crate) fn verify(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    let selector = tri!(selector_operand(cpu, op));
    let write = op.imm & 1 != 0;
    let found = tri!(visible(cpu, selector, |_| false));
    let allowed = found.is_some_and(|descriptor| {
        if write {
            descriptor.is_writable_data()
        } else {
            descriptor.is_readable()
        }
    });
    cpu.flags.set_zero(allowed);
    Flow::Next
}

/// ARPL of register `a` by register `b`.
pub(crate) fn adjust_level_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    let target = cpu.regs.read(op.a) as u16;
    let source = cpu.regs.read(op.b) as u16;
    let adjusted = adjusted(target, source);
    cpu.flags.set_zero(adjusted.is_some());
    if let Some(value) = adjusted {
        value.set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// ARPL of memory by register `b`.
pub(crate) fn adjust_level_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_protected(cpu));
    let source = cpu.regs.read(op.b) as u16;
    // A target that needs no change is not written: a read-only page will do.
    let adjusted = adjusted(tri!(cpu.load_operand::<u16>(op)), source);
    if let Some(value) = adjusted {
        tri!(cpu.store_operand(op, value));
    }
    cpu.flags.set_zero(adjusted.is_some());
    Flow::Next
}

fn adjusted(target: u16, source: u16) -> Option<u16> {
    (target & 3 < source & 3).then_some(target & !3 | source & 3)
}
