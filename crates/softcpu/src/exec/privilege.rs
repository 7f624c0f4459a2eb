//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, and the flags that privilege guards: CLI, STI, PUSHF, POPF,
//! CLAC, STAC.
//!
//! SYSCALL and SYSENTER follow AMD, whose name CPUID gives: SYSCALL works in all protected modes,
//! SYSENTER in legacy modes only (APM vol. 3, the pages of the four instructions; vol. 2, 6.1).

use super::system::need_level_0;
use super::transfer::next_rip;
use crate::cpu::{Cpu, Shadow};
use crate::event::returns::set_flags;
use crate::fault::{Exception, Trap};
use crate::op::{Flow, Op};
use crate::state::registers::{R11, RCX, RDX, RSP};
use crate::state::{Seg, Segment, Width, efer, flags};
use crate::tri;

/// Flat, present, accessed code of the given level; `LONG` or `BIG` is added.
fn flat_code(selector: u16, level: u16, size: u16) -> Segment {
    Segment {
        selector,
        attributes: Segment::PRESENT
            | Segment::CODE_OR_DATA
            | 0xb
            | level << 5
            | size
            | Segment::GRANULAR,
        limit: u32::MAX,
        base: 0,
    }
}

/// Flat, writable, accessed data of the given level.
fn flat_stack(selector: u16, level: u16) -> Segment {
    Segment {
        selector,
        attributes: Segment::PRESENT
            | Segment::CODE_OR_DATA
            | 0x3
            | level << 5
            | Segment::BIG
            | Segment::GRANULAR,
        limit: u32::MAX,
        base: 0,
    }
}

fn undefined(cpu: &mut Cpu) -> Flow {
    let Trap = cpu.raise(Exception::invalid_opcode());
    Flow::Fault
}

fn protection(cpu: &mut Cpu) -> Flow {
    let Trap = cpu.raise(Exception::protection(0));
    Flow::Fault
}

/// SYSCALL.
pub(crate) fn system_call(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.control.efer & efer::SCE == 0 || !cpu.is_protected() {
        return undefined(cpu);
    }
    let next = next_rip(cpu, op);
    let star = cpu.control.star;
    let selector = (star >> 32) as u16 & !3;
    cpu.segments[Seg::Ss as usize] = flat_stack(selector.wrapping_add(8), 0);
    cpu.regs.write(RCX, next);
    cpu.events.no_step_trap = true;
    if cpu.is_long() {
        let image = cpu.flags.bits() & !flags::RF;
        cpu.regs.write(R11, image);
        let target = if cpu.is_64_bit() {
            cpu.control.lstar
        } else {
            cpu.control.cstar
        };
        cpu.flags.set_bits(image & !cpu.control.fmask);
        cpu.set_code(flat_code(selector, 0, Segment::LONG), 0, target);
    } else {
        cpu.flags.system &= !(flags::IF | flags::VM | flags::RF);
        cpu.set_code(flat_code(selector, 0, Segment::BIG), 0, star & 0xffff_ffff);
    }
    Flow::Jump
}

/// SYSRET; `imm` 1 returns to 64-bit code.
pub(crate) fn system_return(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.control.efer & efer::SCE == 0 || !cpu.is_protected() {
        return undefined(cpu);
    }
    tri!(need_level_0(cpu));
    let base = (cpu.control.star >> 48) as u16;
    let to_64_bit = op.imm == 1 && cpu.is_64_bit();
    if cpu.is_long() {
        let image = cpu.regs.read(R11);
        let kept = flags::VM | flags::RF;
        set_flags(cpu, image & !kept, u64::MAX);
    } else {
        cpu.flags.system |= flags::IF;
    }
    cpu.segments[Seg::Ss as usize] = flat_stack(base.wrapping_add(8) | 3, 3);
    let rcx = cpu.regs.read(RCX);
    if to_64_bit {
        // An address that is not canonical faults when it is fetched, at level 3.
        let code = flat_code(base.wrapping_add(16) | 3, 3, Segment::LONG);
        cpu.set_code(code, 3, rcx);
    } else {
        cpu.set_code(flat_code(base | 3, 3, Segment::BIG), 3, rcx & 0xffff_ffff);
    }
    Flow::Jump
}

/// SYSENTER.
pub(crate) fn system_enter(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.is_long() {
        return undefined(cpu);
    }
    let selector = cpu.control.sysenter_cs as u16 & !3;
    if cpu.control.cr0 & crate::state::cr0::PE == 0 || selector == 0 {
        return protection(cpu);
    }
    cpu.flags.system &= !(flags::IF | flags::VM | flags::RF);
    cpu.segments[Seg::Ss as usize] = flat_stack(selector.wrapping_add(8), 0);
    let (esp, eip) = (cpu.control.sysenter_esp, cpu.control.sysenter_eip);
    cpu.regs.write(RSP, esp & 0xffff_ffff);
    cpu.set_code(flat_code(selector, 0, Segment::BIG), 0, eip & 0xffff_ffff);
    Flow::Jump
}

/// SYSEXIT.
pub(crate) fn system_exit(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.is_long() {
        return undefined(cpu);
    }
    let selector = cpu.control.sysenter_cs as u16 & !3;
    if !cpu.is_protected() || cpu.cpl != 0 || selector == 0 {
        return protection(cpu);
    }
    let esp = cpu.regs.read(RCX) & 0xffff_ffff;
    let eip = cpu.regs.read(RDX) & 0xffff_ffff;
    cpu.segments[Seg::Ss as usize] = flat_stack(selector.wrapping_add(24) | 3, 3);
    cpu.regs.write(RSP, esp);
    cpu.set_code(
        flat_code(selector.wrapping_add(16) | 3, 3, Segment::BIG),
        3,
        eip,
    );
    Flow::Jump
}

/// Whether the current level may change IF.
fn may_change_interrupts(cpu: &Cpu) -> bool {
    cpu.control.cr0 & crate::state::cr0::PE == 0 || cpu.cpl <= cpu.flags.iopl()
}

/// CLI.
pub(crate) fn clear_interrupts(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !may_change_interrupts(cpu) {
        return protection(cpu);
    }
    cpu.flags.system &= !flags::IF;
    Flow::Next
}

/// STI: interrupts are let in behind the next instruction.
pub(crate) fn set_interrupts(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !may_change_interrupts(cpu) {
        return protection(cpu);
    }
    if !cpu.flags.has(flags::IF) {
        cpu.flags.system |= flags::IF;
        cpu.shadow = Some(Shadow::Sti);
        crate::event::debug::update(cpu);
    }
    cpu.request_attention();
    Flow::End
}

/// PUSHF of width `W`.
pub(crate) fn push_flags<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.flags.has(flags::VM) && cpu.flags.iopl() < 3 {
        return protection(cpu);
    }
    let image = cpu.flags.bits() & !(flags::RF | flags::VM);
    tri!(cpu.push(W::truncate(image)));
    Flow::Next
}

/// POPF of width `W`. What the level may not change stays without a fault.
pub(crate) fn pop_flags<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.flags.has(flags::VM) && cpu.flags.iopl() < 3 {
        return protection(cpu);
    }
    let image = tri!(cpu.pop::<W>()).zero_extend();
    let mut changed = flags::STATUS | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if may_change_interrupts(cpu) {
        changed |= flags::IF;
    }
    if cpu.cpl == 0 {
        changed |= flags::IOPL;
    }
    changed &= W::MASK;
    let before = cpu.flags.system;
    let bits = cpu.flags.bits() & !(changed | flags::RF) | image & changed;
    cpu.flags.set_bits(bits);
    let differs = before ^ cpu.flags.system;
    if differs & (flags::TF | flags::AC | flags::IF) == 0 {
        return Flow::Next;
    }
    cpu.update_mode();
    Flow::End
}

/// CLAC (`imm` 0), STAC (1).
pub(crate) fn access_flag(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.cpl != 0 || !cpu.is_protected() {
        return undefined(cpu);
    }
    if op.imm == 1 {
        cpu.flags.system |= flags::AC;
    } else {
        cpu.flags.system &= !flags::AC;
    }
    cpu.update_view();
    Flow::Next
}
