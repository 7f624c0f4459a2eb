//! Far JMP and CALL (SDM vol. 2A, JMP and CALL; vol. 3A, 5.8).

use super::deliver::inner_stack;
use super::descriptor::{Descriptor, is_null, kind};
use super::stack::Stack;
use super::task::{self, Cause};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::state::registers::RSP;
use crate::state::{Seg, flags};

/// Where a far transfer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) selector: u16,
    /// Cut to the operand size.
    pub(crate) offset: u64,
    /// Operand size in bytes: 2, 4 or 8.
    pub(crate) size: u64,
}

/// JMP far. `next` is the instruction behind it, which a task switch saves.
pub(crate) fn jump(cpu: &mut Cpu, target: Target, next: u64) -> Result<(), Trap> {
    if !cpu.is_protected() {
        check_offset(
            cpu,
            u64::from(cpu.segments[Seg::Cs as usize].limit),
            target.offset,
        )?;
        enter_unprotected(cpu, target);
        return Ok(());
    }
    let descriptor = named(cpu, target.selector)?;
    if !descriptor.is_system() {
        return to_code(cpu, target, descriptor);
    }
    match descriptor.kind() {
        kind::CALL_GATE | kind::CALL_GATE_16 if gate_exists(cpu, descriptor) => {
            check_gate(cpu, target.selector, descriptor)?;
            let inner = Target {
                selector: descriptor.gate_selector(),
                offset: gate_offset(descriptor),
                size: target.size,
            };
            let code = gate_code(cpu, inner.selector)?;
            let same = if code.is_conforming() {
                code.dpl() <= cpu.cpl
            } else {
                code.dpl() == cpu.cpl
            };
            if !same {
                return Err(cpu.selector_fault(vector::PROTECTION, inner.selector));
            }
            finish(cpu, inner.selector, code, cpu.cpl, inner.offset)
        }
        _ => to_task(cpu, target.selector, descriptor, Cause::Jump, next),
    }
}

/// CALL far. `next` is the return address.
pub(crate) fn call(cpu: &mut Cpu, target: Target, next: u64) -> Result<(), Trap> {
    let old_cs = cpu.segments[Seg::Cs as usize].selector;
    if !cpu.is_protected() {
        check_offset(
            cpu,
            u64::from(cpu.segments[Seg::Cs as usize].limit),
            target.offset,
        )?;
        let mut stack = Stack::current(cpu);
        stack.push(cpu, target.size, old_cs.into())?;
        stack.push(cpu, target.size, next)?;
        stack.commit(cpu);
        enter_unprotected(cpu, target);
        return Ok(());
    }
    let descriptor = named(cpu, target.selector)?;
    if !descriptor.is_system() {
        let code = checked_code(cpu, target.selector, descriptor)?;
        check_entry(cpu, code, target.offset)?;
        let mut stack = Stack::current(cpu);
        stack.push(cpu, target.size, old_cs.into())?;
        stack.push(cpu, target.size, next)?;
        finish(cpu, target.selector, code, cpu.cpl, target.offset)?;
        stack.commit(cpu);
        return Ok(());
    }
    match descriptor.kind() {
        kind::CALL_GATE | kind::CALL_GATE_16 if gate_exists(cpu, descriptor) => {
            check_gate(cpu, target.selector, descriptor)?;
            call_gate(cpu, descriptor, next)
        }
        _ => to_task(cpu, target.selector, descriptor, Cause::Call, next),
    }
}

fn enter_unprotected(cpu: &mut Cpu, target: Target) {
    cpu.load_unprotected(Seg::Cs, target.selector);
    cpu.rip = target.offset;
    cpu.update_mode();
}

/// The descriptor of a far pointer.
fn named(cpu: &mut Cpu, selector: u16) -> Result<Descriptor, Trap> {
    if is_null(selector) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    cpu.descriptor(selector, vector::PROTECTION)
}

fn to_code(cpu: &mut Cpu, target: Target, descriptor: Descriptor) -> Result<(), Trap> {
    let code = checked_code(cpu, target.selector, descriptor)?;
    finish(cpu, target.selector, code, cpu.cpl, target.offset)
}

/// Checks a code segment as the direct target of a JMP or CALL.
fn checked_code(cpu: &mut Cpu, selector: u16, code: Descriptor) -> Result<Descriptor, Trap> {
    let rpl = (selector & 3) as u8;
    let level_ok = if code.is_conforming() {
        code.dpl() <= cpu.cpl
    } else {
        rpl <= cpu.cpl && code.dpl() == cpu.cpl
    };
    let size_ok = !(cpu.is_long() && code.is_long() && code.is_big());
    if !code.is_code() || !level_ok || !size_ok {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !code.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    Ok(code)
}

/// The entry point must lie inside the segment, or be canonical in 64-bit code.
pub(super) fn check_entry(cpu: &mut Cpu, code: Descriptor, offset: u64) -> Result<(), Trap> {
    if cpu.is_long() && code.is_long() {
        if crate::mmu::is_canonical(offset) {
            return Ok(());
        }
        return Err(cpu.raise(Exception::protection(0)));
    }
    check_offset(cpu, code.limit().into(), offset)
}

fn check_offset(cpu: &mut Cpu, limit: u64, offset: u64) -> Result<(), Trap> {
    if offset <= limit {
        Ok(())
    } else {
        Err(cpu.raise(Exception::protection(0)))
    }
}

/// Enters checked code at `level`.
fn finish(
    cpu: &mut Cpu,
    selector: u16,
    code: Descriptor,
    level: u8,
    offset: u64,
) -> Result<(), Trap> {
    check_entry(cpu, code, offset)?;
    let code = cpu.mark_accessed(code)?;
    cpu.set_code(
        code.segment(selector & 0xfffc | u16::from(level)),
        level,
        offset,
    );
    Ok(())
}

/// In long mode only 64-bit call gates exist.
fn gate_exists(cpu: &Cpu, gate: Descriptor) -> bool {
    !cpu.is_long() || (gate.kind() == kind::CALL_GATE && gate.upper_kind() == 0)
}

fn check_gate(cpu: &mut Cpu, selector: u16, gate: Descriptor) -> Result<(), Trap> {
    if cpu.cpl.max((selector & 3) as u8) > gate.dpl() {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !gate.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    Ok(())
}

fn gate_offset(gate: Descriptor) -> u64 {
    if gate.kind() == kind::CALL_GATE {
        gate.gate_offset()
    } else {
        gate.gate_offset() & 0xffff
    }
}

/// The code segment behind a call gate.
fn gate_code(cpu: &mut Cpu, selector: u16) -> Result<Descriptor, Trap> {
    let code = named(cpu, selector)?;
    let size_ok = !cpu.is_long() || (code.is_long() && !code.is_big());
    if !code.is_code() || code.dpl() > cpu.cpl || !size_ok {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !code.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    Ok(code)
}

fn call_gate(cpu: &mut Cpu, gate: Descriptor, next: u64) -> Result<(), Trap> {
    let selector = gate.gate_selector();
    let code = gate_code(cpu, selector)?;
    let offset = gate_offset(gate);
    check_entry(cpu, code, offset)?;
    let long = cpu.is_long();
    let size = match gate.kind() {
        kind::CALL_GATE_16 => 2,
        _ if long => 8,
        _ => 4,
    };
    let old_cs = cpu.segments[Seg::Cs as usize].selector;
    let level = code.dpl();
    if code.is_conforming() || level == cpu.cpl {
        let mut stack = Stack::current(cpu);
        stack.push(cpu, size, old_cs.into())?;
        stack.push(cpu, size, next)?;
        finish(cpu, selector, code, cpu.cpl, offset)?;
        stack.commit(cpu);
        return Ok(());
    }
    let old_ss = cpu.segments[Seg::Ss as usize].selector;
    let old_sp = cpu.regs.read(RSP);
    let (segment, mut stack) = if long {
        let pointer = cpu.long_tss_stack(4 + 8 * u32::from(level))?;
        let segment = super::segment::null_stack(level);
        (segment, Stack::flat(pointer))
    } else {
        let (ss, sp) = inner_stack(cpu, level)?;
        let segment = cpu.stack_segment_for(ss, level, vector::INVALID_TSS)?;
        (segment, Stack::in_segment(segment, sp))
    };
    let mut parameters = [0u64; 31];
    let count = if long {
        0
    } else {
        usize::from(gate.gate_parameters())
    };
    let outer = Stack::current(cpu);
    for (index, parameter) in parameters[..count].iter_mut().enumerate() {
        *parameter = outer.peek(cpu, index as u64 * size, size)?;
    }
    let code = cpu.mark_accessed(code)?;
    let stack = cpu.at_level(level, |cpu| {
        stack.push(cpu, size, old_ss.into())?;
        stack.push(cpu, size, old_sp)?;
        for parameter in parameters[..count].iter().rev() {
            stack.push(cpu, size, *parameter)?;
        }
        stack.push(cpu, size, old_cs.into())?;
        stack.push(cpu, size, next)?;
        Ok(stack)
    })?;
    cpu.segments[Seg::Ss as usize] = segment;
    stack.commit(cpu);
    cpu.set_code(
        code.segment(selector & 0xfffc | u16::from(level)),
        level,
        offset,
    );
    Ok(())
}

/// Through a task gate or a TSS descriptor; anything else is no target.
fn to_task(
    cpu: &mut Cpu,
    selector: u16,
    descriptor: Descriptor,
    cause: Cause,
    next: u64,
) -> Result<(), Trap> {
    let is_task = matches!(
        descriptor.kind(),
        kind::TASK_GATE | kind::TSS | kind::TSS_16
    );
    if cpu.is_long() || !is_task {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    check_gate(cpu, selector, descriptor)?;
    let (selector, target) = if descriptor.kind() == kind::TASK_GATE {
        let selector = descriptor.gate_selector();
        (selector, task::gate_target(cpu, selector)?)
    } else {
        if selector & 4 != 0 {
            return Err(cpu.selector_fault(vector::PROTECTION, selector));
        }
        (selector, descriptor)
    };
    let before = cpu.rip;
    cpu.rip = next;
    let result = task::switch(cpu, selector, target, cause);
    if result.is_err() && !cpu.events.task_committed {
        cpu.rip = before;
    }
    debug_assert!(!cpu.flags.has(flags::VM) || cpu.cpl == 3);
    result
}
