//! Far RET and IRET (SDM vol. 2, RET and IRET; vol. 3A, 6.12.1, 20.2).

use super::descriptor::{Descriptor, is_null};
use super::far::check_entry;
use super::stack::Stack;
use super::task;
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::state::{Seg, Segment, flags};

/// RETF: `size` 2, 4 or 8 bytes an item; `release` more bytes dropped from the stacks.
pub(crate) fn far_return(cpu: &mut Cpu, size: u64, release: u64) -> Result<(), Trap> {
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    if !cpu.is_protected() {
        if offset > u64::from(cpu.segments[Seg::Cs as usize].limit) {
            return Err(cpu.raise(Exception::protection(0)));
        }
        stack.drop_bytes(release);
        stack.commit(cpu);
        cpu.load_unprotected(Seg::Cs, selector);
        cpu.rip = offset;
        cpu.update_mode();
        return Ok(());
    }
    let code = return_code(cpu, selector)?;
    let level = (selector & 3) as u8;
    if level == cpu.cpl {
        check_entry(cpu, code, offset)?;
        let code = cpu.mark_accessed(code)?;
        stack.drop_bytes(release);
        stack.commit(cpu);
        cpu.set_code(code.segment(selector), level, offset);
        return Ok(());
    }
    stack.drop_bytes(release);
    let outer = OuterStack::pop(cpu, &mut stack, size)?;
    let outer_segment = outer.segment(cpu, level, code)?;
    check_entry(cpu, code, offset)?;
    let code = cpu.mark_accessed(code)?;
    cpu.set_code(code.segment(selector), level, offset);
    outer.commit(cpu, outer_segment, release);
    cpu.drop_inner_segments();
    Ok(())
}

/// IRET: `size` 2, 4 or 8 bytes an item. `next` is the instruction behind it, which a task return saves.
pub(crate) fn interrupt_return(cpu: &mut Cpu, size: u64, next: u64) -> Result<(), Trap> {
    // NMIs are let in again even if the return faults.
    if cpu.events.nmi_blocked {
        cpu.events.nmi_blocked = false;
        cpu.request_attention();
    }
    if cpu.flags.has(flags::VM) && cpu.flags.iopl() < 3 {
        return Err(cpu.raise(Exception::protection(0)));
    }
    if !cpu.is_protected() {
        return unprotected_return(cpu, size);
    }
    if cpu.flags.has(flags::NT) {
        if cpu.is_long() {
            return Err(cpu.raise(Exception::protection(0)));
        }
        let before = cpu.rip;
        cpu.rip = next;
        let result = task::task_return(cpu);
        if result.is_err() && !cpu.events.task_committed {
            cpu.rip = before;
        }
        return result;
    }
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let image = stack.pop(cpu, size)?;
    if image & flags::VM != 0 && cpu.cpl == 0 && size == 4 && !cpu.is_long() {
        return to_virtual_8086(cpu, stack, offset, selector, image);
    }
    let code = return_code(cpu, selector)?;
    let level = (selector & 3) as u8;
    let changed = changeable(cpu, size);
    // 64-bit mode pops SS:RSP always.
    if level == cpu.cpl && !cpu.is_64_bit() {
        check_entry(cpu, code, offset)?;
        let code = cpu.mark_accessed(code)?;
        stack.commit(cpu);
        set_flags(cpu, image, changed);
        cpu.set_code(code.segment(selector), level, offset);
        return Ok(());
    }
    let outer = OuterStack::pop(cpu, &mut stack, size)?;
    let outer_segment = outer.segment(cpu, level, code)?;
    check_entry(cpu, code, offset)?;
    let code = cpu.mark_accessed(code)?;
    let outward = level != cpu.cpl;
    set_flags(cpu, image, changed);
    cpu.set_code(code.segment(selector), level, offset);
    outer.commit(cpu, outer_segment, 0);
    if outward {
        cpu.drop_inner_segments();
    }
    Ok(())
}

/// The code segment of a return address.
fn return_code(cpu: &mut Cpu, selector: u16) -> Result<Descriptor, Trap> {
    if is_null(selector) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let code = cpu.descriptor(selector, vector::PROTECTION)?;
    let rpl = (selector & 3) as u8;
    let level_ok = if code.is_conforming() {
        code.dpl() <= rpl
    } else {
        code.dpl() == rpl
    };
    let size_ok = !(cpu.is_long() && code.is_long() && code.is_big());
    if !code.is_code() || rpl < cpu.cpl || !level_ok || !size_ok {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !code.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    Ok(code)
}

/// The stack of the level that a return goes to.
struct OuterStack {
    pointer: u64,
    selector: u16,
}

impl OuterStack {
    fn pop(cpu: &mut Cpu, stack: &mut Stack, size: u64) -> Result<Self, Trap> {
        let pointer = stack.pop(cpu, size)?;
        let selector = stack.pop(cpu, size)? as u16;
        Ok(Self { pointer, selector })
    }

    /// A null SS is for 64-bit code below level 3 only.
    fn segment(&self, cpu: &mut Cpu, level: u8, code: Descriptor) -> Result<Segment, Trap> {
        if is_null(self.selector) {
            let allowed =
                cpu.is_long() && code.is_long() && level < 3 && (self.selector & 3) as u8 == level;
            if allowed {
                return Ok(super::segment::null_stack(level));
            }
            return Err(cpu.raise(Exception::protection(0)));
        }
        cpu.stack_segment_for(self.selector, level, vector::PROTECTION)
    }

    /// Loads SS:RSP, after CS: the width of the pointer is that of the new mode.
    fn commit(&self, cpu: &mut Cpu, segment: Segment, release: u64) {
        cpu.segments[Seg::Ss as usize] = segment;
        let mask = cpu.stack_mask();
        let pointer = self.pointer.wrapping_add(release);
        let before = cpu.regs.read(crate::state::registers::RSP);
        let pointer = if mask == 0xffff {
            before & !0xffff & 0xffff_ffff | pointer & 0xffff
        } else {
            pointer & mask
        };
        cpu.regs.write(crate::state::registers::RSP, pointer);
    }
}

/// Flags that IRET may change at the current level.
fn changeable(cpu: &Cpu, size: u64) -> u64 {
    let mut changed =
        flags::STATUS | flags::TF | flags::DF | flags::NT | flags::RF | flags::AC | flags::ID;
    if cpu.cpl <= cpu.flags.iopl() {
        changed |= flags::IF;
    }
    if cpu.cpl == 0 {
        changed |= flags::IOPL | flags::VIF | flags::VIP;
    }
    if size == 2 { changed & 0xffff } else { changed }
}

/// Writes the flags in `changed` from `image`. RF is kept only while a breakpoint can look at it.
pub(crate) fn set_flags(cpu: &mut Cpu, image: u64, changed: u64) {
    let mut bits = cpu.flags.bits() & !changed | image & changed;
    if cpu.control.dr7 & 0xff == 0 {
        bits &= !flags::RF;
    }
    cpu.flags.set_bits(bits);
}

/// Real mode, and virtual-8086 mode at I/O privilege level 3.
fn unprotected_return(cpu: &mut Cpu, size: u64) -> Result<(), Trap> {
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let image = stack.pop(cpu, size)?;
    if offset > u64::from(cpu.segments[Seg::Cs as usize].limit) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let mut changed = flags::STATUS
        | flags::TF
        | flags::IF
        | flags::DF
        | flags::NT
        | flags::RF
        | flags::AC
        | flags::ID;
    if !cpu.flags.has(flags::VM) {
        changed |= flags::IOPL;
    }
    if size == 2 {
        changed &= 0xffff;
    }
    stack.commit(cpu);
    set_flags(cpu, image, changed);
    cpu.load_unprotected(Seg::Cs, selector);
    cpu.rip = offset;
    cpu.update_mode();
    Ok(())
}

fn to_virtual_8086(
    cpu: &mut Cpu,
    mut stack: Stack,
    offset: u64,
    selector: u16,
    image: u64,
) -> Result<(), Trap> {
    let outer = OuterStack::pop(cpu, &mut stack, 4)?;
    let mut selectors = [0u16; 4];
    for selector in &mut selectors {
        *selector = stack.pop(cpu, 4)? as u16;
    }
    if offset > 0xffff {
        return Err(cpu.raise(Exception::protection(0)));
    }
    set_flags(cpu, image, u64::MAX);
    cpu.load_unprotected(Seg::Cs, selector);
    cpu.load_unprotected(Seg::Ss, outer.selector);
    for (seg, selector) in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs]
        .into_iter()
        .zip(selectors)
    {
        cpu.load_unprotected(seg, selector);
    }
    cpu.regs
        .write(crate::state::registers::RSP, outer.pointer & 0xffff_ffff);
    cpu.cpl = 3;
    cpu.rip = offset;
    cpu.update_mode();
    Ok(())
}
