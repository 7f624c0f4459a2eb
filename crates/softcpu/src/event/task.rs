//! Hardware task switches (SDM vol. 3A, 7.3).
//!
//! A switch saves the outgoing task, then loads the incoming one. What goes wrong before the commit
//! point is the old task's fault; afterwards faults happen in the new task, with its registers loaded.

use super::descriptor::{Descriptor, is_null, kind};
use crate::cpu::Cpu;
use crate::fault::{Trap, vector};
use crate::state::registers::RAX;
use crate::state::{Seg, Segment, cr0, flags};

/// What makes the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// JMP: the old task is not busy any more.
    Jump,
    /// CALL: the new task returns to the old one.
    Call,
    /// An interrupt or exception through a task gate: as CALL.
    Event,
    /// IRET with NT set.
    Return,
}

/// Layout of a TSS: width of its fields and where they are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// 4 or 2.
    size: u32,
    /// Of EIP; EFLAGS, eight registers and six segment selectors follow.
    state: u32,
    ldt: u32,
    /// Of the first byte behind the saved state.
    saved_end: u32,
    /// Smallest legal limit.
    limit: u32,
}

const LAYOUT_32: Layout = Layout {
    size: 4,
    state: 0x20,
    ldt: 0x60,
    saved_end: 0x60,
    limit: 0x67,
};
const LAYOUT_16: Layout = Layout {
    size: 2,
    state: 0x0e,
    ldt: 0x2a,
    saved_end: 0x2a,
    limit: 0x2b,
};

impl Layout {
    const fn of(kind: u8) -> Self {
        if kind & 8 != 0 { LAYOUT_32 } else { LAYOUT_16 }
    }
}

/// Everything that a task keeps in its TSS.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    cr3: u64,
    eip: u64,
    eflags: u64,
    registers: [u64; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// The TSS descriptor that a task gate's selector names, checked as the target of a CALL, JMP or event.
pub(crate) fn gate_target(cpu: &mut Cpu, selector: u16) -> Result<Descriptor, Trap> {
    if is_null(selector) {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    let descriptor = cpu.system_descriptor(selector, vector::PROTECTION)?;
    if !matches!(descriptor.kind(), kind::TSS | kind::TSS_16) {
        return Err(cpu.selector_fault(vector::PROTECTION, selector));
    }
    if !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    Ok(descriptor)
}

/// Returns from a nested task: IRET with NT set.
pub(crate) fn task_return(cpu: &mut Cpu) -> Result<(), Trap> {
    let address = cpu.tr.base;
    let selector = cpu.as_system(|cpu| cpu.load::<u16>(address, Seg::Ds))?;
    if is_null(selector) || selector & 4 != 0 {
        return Err(cpu.selector_fault(vector::INVALID_TSS, selector));
    }
    let descriptor = cpu.system_descriptor(selector, vector::INVALID_TSS)?;
    if !matches!(descriptor.kind(), kind::TSS_BUSY | kind::TSS_16_BUSY) {
        return Err(cpu.selector_fault(vector::INVALID_TSS, selector));
    }
    if !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, selector));
    }
    switch(cpu, selector, descriptor, Cause::Return)
}

/// Switches to the task of `target`, which `selector` names. `cpu.rip` is what the old task goes on
/// with.
pub(crate) fn switch(
    cpu: &mut Cpu,
    selector: u16,
    target: Descriptor,
    cause: Cause,
) -> Result<(), Trap> {
    cpu.events.task_committed = false;
    let new = Layout::of(target.kind());
    if target.limit() < new.limit {
        return Err(cpu.selector_fault(vector::INVALID_TSS, selector));
    }
    let old = Layout::of(cpu.tr.kind() as u8);
    let old_base = cpu.tr.base;
    let old_selector = cpu.tr.selector;
    // All of both structures must be reachable before anything changes.
    cpu.as_system(|cpu| {
        let span = u64::from(old.saved_end - old.state);
        cpu.probe_store(old_base.wrapping_add(u64::from(old.state)), span, Seg::Ds)
    })?;
    let state = cpu.as_system(|cpu| read_state(cpu, target.base(), new))?;

    let mut saved_flags = cpu.flags.bits();
    if matches!(cause, Cause::Jump | Cause::Return) {
        let old_descriptor = cpu.descriptor(old_selector, vector::INVALID_TSS)?;
        cpu.mark_busy(old_descriptor, false)?;
    }
    if cause == Cause::Return {
        saved_flags &= !flags::NT;
    }
    cpu.as_system(|cpu| save_state(cpu, old_base, old, saved_flags))?;
    let linked = matches!(cause, Cause::Call | Cause::Event);
    if linked {
        let base = target.base();
        cpu.as_system(|cpu| cpu.store::<u16>(base, old_selector, Seg::Ds))?;
    }
    let target = if cause == Cause::Return {
        target
    } else {
        cpu.mark_busy(target, true)?
    };

    // From here on the new task runs, and what fails is its fault.
    cpu.events.task_committed = true;
    cpu.tr = target.segment(selector);
    cpu.control.cr0 |= cr0::TS;
    let loads_page_table = new.size == 4 && cpu.control.cr0 & cr0::PG != 0;
    if loads_page_table {
        cpu.control.cr3 = state.cr3;
        cpu.flush_local_translations();
    }
    load_state(cpu, &state, linked)?;
    cpu.events.task_committed = false;
    Ok(())
}

fn field(cpu: &mut Cpu, base: u64, at: u32, size: u32) -> Result<u64, Trap> {
    let address = cpu.table_address(base, at);
    if size == 4 {
        cpu.load::<u32>(address, Seg::Ds).map(u64::from)
    } else {
        cpu.load::<u16>(address, Seg::Ds).map(u64::from)
    }
}

fn read_state(cpu: &mut Cpu, base: u64, layout: Layout) -> Result<State, Trap> {
    let size = layout.size;
    let mut state = State {
        eip: field(cpu, base, layout.state, size)?,
        eflags: field(cpu, base, layout.state + size, size)?,
        ldt: field(cpu, base, layout.ldt, 2)? as u16,
        ..State::default()
    };
    for index in 0..8u32 {
        let at = layout.state + (2 + index) * size;
        state.registers[index as usize] = field(cpu, base, at, size)?;
    }
    let count = if size == 4 { 6 } else { 4 };
    for index in 0..count {
        let at = layout.state + (10 + index) * size;
        state.selectors[index as usize] = field(cpu, base, at, 2)? as u16;
    }
    if size == 4 {
        state.cr3 = field(cpu, base, 0x1c, 4)?;
        state.trap = field(cpu, base, 0x64, 2)? & 1 != 0;
    }
    Ok(state)
}

fn save_state(cpu: &mut Cpu, base: u64, layout: Layout, eflags: u64) -> Result<(), Trap> {
    let mut values = [0u64; 16];
    values[0] = cpu.rip;
    values[1] = eflags;
    for index in 0..8u8 {
        values[2 + usize::from(index)] = cpu.regs.read(RAX + index);
    }
    for (value, segment) in values[10..].iter_mut().zip(&cpu.segments) {
        *value = segment.selector.into();
    }
    let count = if layout.size == 4 { 16 } else { 14 };
    for (index, value) in values[..count].iter().enumerate() {
        let address = cpu.table_address(base, layout.state + index as u32 * layout.size);
        if layout.size == 2 {
            cpu.store::<u16>(address, *value as u16, Seg::Ds)?;
        } else if index >= 10 {
            // The upper halves of selector fields are reserved and stay.
            cpu.store::<u16>(address, *value as u16, Seg::Ds)?;
        } else {
            cpu.store::<u32>(address, *value as u32, Seg::Ds)?;
        }
    }
    Ok(())
}

fn load_state(cpu: &mut Cpu, state: &State, linked: bool) -> Result<(), Trap> {
    for (index, value) in state.registers.iter().enumerate() {
        cpu.regs.write(RAX + index as u8, *value);
    }
    let mut eflags = state.eflags;
    if linked {
        eflags |= flags::NT;
    }
    cpu.flags.set_bits(eflags);
    cpu.rip = state.eip;
    // First the selectors alone, so that a fault below shows the new task's; nothing may be used yet.
    for (segment, selector) in cpu.segments.iter_mut().zip(state.selectors) {
        *segment = super::segment::null_segment(selector);
    }
    cpu.ldtr = super::segment::null_segment(state.ldt);
    // Local breakpoints belong to the old task.
    cpu.control.dr7 &= !0x155;

    let virtual_8086 = eflags & flags::VM != 0;
    if !is_null(state.ldt) {
        load_new_ldt(cpu, state.ldt)?;
    }
    if virtual_8086 {
        cpu.cpl = 3;
        for (index, selector) in state.selectors.iter().enumerate() {
            if let Some(seg) = Seg::from_index(index as u8) {
                cpu.load_unprotected(seg, *selector);
            }
        }
        cpu.update_mode();
    } else {
        load_new_segments(cpu, state)?;
    }
    if state.trap {
        cpu.events.task_trap = true;
        super::debug::update(cpu);
    }
    let limit = u64::from(cpu.segments[Seg::Cs as usize].limit);
    if cpu.rip > limit {
        return Err(cpu.raise(crate::fault::Exception::protection(0)));
    }
    Ok(())
}

fn load_new_ldt(cpu: &mut Cpu, selector: u16) -> Result<(), Trap> {
    let descriptor = cpu.system_descriptor(selector, vector::INVALID_TSS)?;
    if descriptor.kind() != kind::LDT || !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::INVALID_TSS, selector));
    }
    cpu.ldtr = descriptor.segment(selector);
    Ok(())
}

fn load_new_segments(cpu: &mut Cpu, state: &State) -> Result<(), Trap> {
    let cs = state.selectors[Seg::Cs as usize];
    cpu.cpl = (cs & 3) as u8;
    cpu.update_mode();
    if is_null(cs) {
        return Err(cpu.selector_fault(vector::INVALID_TSS, cs));
    }
    let code = cpu.descriptor(cs, vector::INVALID_TSS)?;
    let level_ok = if code.is_conforming() {
        code.dpl() <= cpu.cpl
    } else {
        code.dpl() == cpu.cpl
    };
    if !code.is_code() || !level_ok {
        return Err(cpu.selector_fault(vector::INVALID_TSS, cs));
    }
    if !code.is_present() {
        return Err(cpu.selector_fault(vector::NOT_PRESENT, cs));
    }
    let code: Segment = cpu.mark_accessed(code)?.segment(cs);
    let ss = state.selectors[Seg::Ss as usize];
    let stack = cpu.stack_segment_for(ss, cpu.cpl, vector::INVALID_TSS)?;
    cpu.segments[Seg::Ss as usize] = stack;
    for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
        let selector = state.selectors[seg as usize];
        cpu.segments[seg as usize] = cpu.data_segment_for(selector, vector::INVALID_TSS)?;
    }
    cpu.segments[Seg::Cs as usize] = code;
    cpu.update_mode();
    Ok(())
}
