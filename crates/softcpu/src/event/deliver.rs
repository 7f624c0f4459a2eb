//! Delivery of one event through the IVT or the IDT (SDM vol. 3A, 6.12 to 6.14, 20.1.4).

use super::descriptor::{Descriptor, is_null, kind};
use super::stack::Stack;
use super::task::{self, Cause};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::state::{Seg, Segment, flags};

/// Where an event comes from, which decides about gate privilege and the EXT bit of error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An interrupt from outside, or an NMI.
    External,
    /// An exception that the CPU found, or INT1.
    Exception,
    /// INT n, INT3, INTO.
    Software,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) vector: u8,
    pub(crate) source: Source,
    pub(crate) error: Option<u32>,
    /// Where the handler shall return to.
    pub(crate) rip: u64,
    /// RF in the saved flags: the instruction at `rip` has not been completed.
    pub(crate) resume: bool,
}

/// Gives control to the handler of `event`, or says why that failed; then nothing has changed but bytes
/// below the stack pointer.
pub(crate) fn deliver(cpu: &mut Cpu, event: &Event) -> Result<(), Trap> {
    let result = if cpu.control.cr0 & crate::state::cr0::PE == 0 {
        real(cpu, event)
    } else if cpu.is_long() {
        long(cpu, event)
    } else {
        protected(cpu, event)
    };
    if result.is_err() && event.source != Source::Software {
        note_external(&mut cpu.fault);
    }
    result
}

/// Sets EXT in an error code that can have it: the fault happened while delivering something that the
/// program did not ask for.
fn note_external(fault: &mut Exception) {
    let has_ext = matches!(
        fault.vector,
        vector::INVALID_TSS | vector::NOT_PRESENT | vector::STACK | vector::PROTECTION
    );
    if has_ext && let Some(error) = &mut fault.error {
        *error |= 1;
    }
}

fn real(cpu: &mut Cpu, event: &Event) -> Result<(), Trap> {
    let offset = u64::from(event.vector) * 4;
    if offset + 3 > u64::from(cpu.control.idt.limit) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let address = cpu.table_address(cpu.control.idt.base, offset as u32);
    let entry = cpu.load::<u32>(address, Seg::Ds)?;
    let mut stack = Stack::current(cpu);
    let image = flags_image(cpu, event);
    let selector = cpu.segments[Seg::Cs as usize].selector;
    stack.push(cpu, 2, image)?;
    stack.push(cpu, 2, selector.into())?;
    stack.push(cpu, 2, event.rip)?;
    stack.commit(cpu);
    cpu.flags.system &= !(flags::IF | flags::TF | flags::AC | flags::RF);
    cpu.load_unprotected(Seg::Cs, (entry >> 16) as u16);
    cpu.rip = u64::from(entry & 0xffff);
    cpu.update_mode();
    Ok(())
}

/// The gate of `event`, after the checks that all gates share.
fn checked_gate(cpu: &mut Cpu, event: &Event, size: u32) -> Result<Descriptor, Trap> {
    let gate = cpu.gate(event.vector, size)?;
    let known = gate.is_system()
        && match gate.kind() {
            kind::INTERRUPT_GATE | kind::TRAP_GATE => true,
            kind::TASK_GATE | kind::INTERRUPT_GATE_16 | kind::TRAP_GATE_16 => size == 8,
            _ => false,
        };
    if !known || (event.source == Source::Software && gate.dpl() < cpu.cpl) {
        return Err(cpu.gate_fault(vector::PROTECTION, event.vector));
    }
    if !gate.is_present() {
        return Err(cpu.gate_fault(vector::NOT_PRESENT, event.vector));
    }
    Ok(gate)
}

/// The code segment of a gate, and the level that the handler runs at.
fn checked_handler(cpu: &mut Cpu, selector: u16) -> Result<(Descriptor, u8), Trap> {
    if is_null(selector) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let descriptor = cpu.descriptor(selector, vector::PROTECTION)?;
    if !descriptor.is_code() || descriptor.dpl() > cpu.cpl {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if cpu.is_long() && (!descriptor.is_long() || descriptor.is_big()) {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    let level = if descriptor.is_conforming() {
        cpu.cpl
    } else {
        descriptor.dpl()
    };
    Ok((descriptor, level))
}

fn protected(cpu: &mut Cpu, event: &Event) -> Result<(), Trap> {
    let gate = checked_gate(cpu, event, 8)?;
    if gate.kind() == kind::TASK_GATE {
        return through_task_gate(cpu, event, gate.gate_selector());
    }
    let size = if gate.kind() & 8 != 0 { 4 } else { 2 };
    let (descriptor, level) = checked_handler(cpu, gate.gate_selector())?;
    let virtual_8086 = cpu.flags.has(flags::VM);
    if virtual_8086 && level != 0 {
        return Err(cpu.selector_fault(vector::PROTECTION, gate.gate_selector()));
    }
    let offset = if size == 4 {
        gate.gate_offset()
    } else {
        gate.gate_offset() & 0xffff
    };
    let image = flags_image(cpu, event);
    let old_cs = cpu.segments[Seg::Cs as usize].selector;
    if level == cpu.cpl {
        let mut stack = Stack::current(cpu);
        push_return(cpu, &mut stack, size, image, old_cs, event)?;
        check_entry(cpu, descriptor, offset)?;
        let code = cpu.mark_accessed(descriptor)?;
        stack.commit(cpu);
        enter(cpu, code, gate, level, offset);
        return Ok(());
    }
    let (ss, sp) = inner_stack(cpu, level)?;
    let segment = cpu.stack_segment_for(ss, level, vector::INVALID_TSS)?;
    check_entry(cpu, descriptor, offset)?;
    let code = cpu.mark_accessed(descriptor)?;
    let old_ss = cpu.segments[Seg::Ss as usize].selector;
    let old_sp = cpu.regs.read(crate::state::registers::RSP);
    let stack = cpu.at_level(level, |cpu| {
        let mut stack = Stack::in_segment(segment, sp);
        if virtual_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                let selector = cpu.segments[seg as usize].selector;
                stack.push(cpu, size, selector.into())?;
            }
        }
        stack.push(cpu, size, old_ss.into())?;
        stack.push(cpu, size, old_sp)?;
        push_return(cpu, &mut stack, size, image, old_cs, event)?;
        Ok(stack)
    })?;
    if virtual_8086 {
        for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
            cpu.segments[seg as usize] = super::segment::null_segment(0);
        }
    }
    cpu.segments[Seg::Ss as usize] = segment;
    stack.commit(cpu);
    enter(cpu, code, gate, level, offset);
    Ok(())
}

fn long(cpu: &mut Cpu, event: &Event) -> Result<(), Trap> {
    let gate = checked_gate(cpu, event, 16)?;
    let (descriptor, level) = checked_handler(cpu, gate.gate_selector())?;
    let pointer = if gate.gate_stack() != 0 {
        // IST1 stands at offset 36 of the TSS.
        cpu.long_tss_stack(28 + 8 * u32::from(gate.gate_stack()))?
    } else if level != cpu.cpl {
        cpu.long_tss_stack(4 + 8 * u32::from(level))?
    } else {
        cpu.regs.read(crate::state::registers::RSP)
    };
    let offset = gate.gate_offset();
    if !crate::mmu::is_canonical(offset) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let code = cpu.mark_accessed(descriptor)?;
    let image = flags_image(cpu, event);
    let changes_level = level != cpu.cpl;
    let old_cs = cpu.segments[Seg::Cs as usize].selector;
    let old_ss = cpu.segments[Seg::Ss as usize].selector;
    let old_sp = cpu.regs.read(crate::state::registers::RSP);
    let stack = cpu.at_level(level, |cpu| {
        let mut stack = Stack::flat(pointer & !0xf);
        stack.push(cpu, 8, old_ss.into())?;
        stack.push(cpu, 8, old_sp)?;
        push_return(cpu, &mut stack, 8, image, old_cs, event)?;
        Ok(stack)
    })?;
    if changes_level {
        cpu.segments[Seg::Ss as usize] = super::segment::null_stack(level);
    }
    stack.commit(cpu);
    enter(cpu, code, gate, level, offset);
    Ok(())
}

/// Flags, CS, IP and the error code.
fn push_return(
    cpu: &mut Cpu,
    stack: &mut Stack,
    size: u64,
    image: u64,
    selector: u16,
    event: &Event,
) -> Result<(), Trap> {
    stack.push(cpu, size, image)?;
    stack.push(cpu, size, selector.into())?;
    stack.push(cpu, size, event.rip)?;
    if let Some(error) = event.error {
        stack.push(cpu, size, error.into())?;
    }
    Ok(())
}

/// The handler's first instruction must lie inside its segment.
fn check_entry(cpu: &mut Cpu, descriptor: Descriptor, offset: u64) -> Result<(), Trap> {
    if offset > u64::from(descriptor.limit()) {
        return Err(cpu.raise(Exception::protection(0)));
    }
    Ok(())
}

/// Code segment, level, instruction pointer and flags of the handler.
fn enter(cpu: &mut Cpu, code: Descriptor, gate: Descriptor, level: u8, offset: u64) {
    let mut cleared = flags::TF | flags::NT | flags::RF | flags::VM;
    if gate.kind() & 1 == 0 {
        cleared |= flags::IF;
    }
    cpu.flags.system &= !cleared;
    let selector = gate.gate_selector() & 0xfffc | u16::from(level);
    cpu.set_code(code.segment(selector), level, offset);
}

fn through_task_gate(cpu: &mut Cpu, event: &Event, selector: u16) -> Result<(), Trap> {
    let tss = task::gate_target(cpu, selector)?;
    let before = cpu.rip;
    cpu.rip = event.rip;
    if let Err(trap) = task::switch(cpu, selector, tss, Cause::Event) {
        if !cpu.events.task_committed {
            cpu.rip = before;
        }
        return Err(trap);
    }
    if let Some(error) = event.error {
        let size = if cpu.tr.kind() & 8 != 0 { 4 } else { 2 };
        let mut stack = Stack::current(cpu);
        stack.push(cpu, size, error.into())?;
        stack.commit(cpu);
    }
    Ok(())
}

/// The flags that the handler will find saved.
fn flags_image(cpu: &Cpu, event: &Event) -> u64 {
    let image = cpu.flags.bits() & !flags::RF;
    if event.resume {
        image | flags::RF
    } else {
        image
    }
}

/// SS and ESP of an inner level, from a 16-bit or 32-bit TSS.
pub(crate) fn inner_stack(cpu: &mut Cpu, level: u8) -> Result<(u16, u64), Trap> {
    let (at, size) = if cpu.tr.kind() & 8 != 0 {
        (4 + 8 * u32::from(level), 4)
    } else {
        (2 + 4 * u32::from(level), 2)
    };
    if at + size + 1 > cpu.tr.limit {
        let selector = cpu.tr.selector;
        return Err(cpu.selector_fault(vector::INVALID_TSS, selector));
    }
    let address = cpu.table_address(cpu.tr.base, at);
    cpu.as_system(|cpu| {
        if size == 4 {
            let sp = cpu.load::<u32>(address, Seg::Ds)?;
            let ss = cpu.load::<u16>(address.wrapping_add(4), Seg::Ds)?;
            Ok((ss, sp.into()))
        } else {
            let sp = cpu.load::<u16>(address, Seg::Ds)?;
            let ss = cpu.load::<u16>(address.wrapping_add(2), Seg::Ds)?;
            Ok((ss, sp.into()))
        }
    })
}

impl Cpu {
    /// A stack pointer at offset `at` of the 64-bit TSS.
    pub(crate) fn long_tss_stack(&mut self, at: u32) -> Result<u64, Trap> {
        if at + 7 > self.tr.limit {
            let selector = self.tr.selector;
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        }
        let address = self.table_address(self.tr.base, at);
        let pointer = self.as_system(|cpu| cpu.load::<u64>(address, Seg::Ds))?;
        if crate::mmu::is_canonical(pointer) {
            Ok(pointer)
        } else {
            Err(self.raise(Exception::coded(vector::STACK, 0)))
        }
    }

    /// Runs `body` with the rights of level `cpl`, and stays there if it succeeds.
    pub(crate) fn at_level<T>(
        &mut self,
        cpl: u8,
        body: impl FnOnce(&mut Self) -> Result<T, Trap>,
    ) -> Result<T, Trap> {
        let before = self.cpl;
        if cpl == before {
            return body(self);
        }
        self.cpl = cpl;
        self.update_view();
        let result = body(self);
        if result.is_err() {
            self.cpl = before;
            self.update_view();
        }
        result
    }

    /// Goes on at `rip` in code segment `segment` at level `cpl`.
    pub(crate) fn set_code(&mut self, segment: Segment, cpl: u8, rip: u64) {
        self.segments[Seg::Cs as usize] = segment;
        self.cpl = cpl;
        self.rip = rip;
        self.update_mode();
    }
}
