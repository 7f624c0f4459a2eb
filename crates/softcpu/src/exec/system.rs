//! Control and debug registers, cache and TLB instructions, HLT.
//!
//! Source: SDM vol. 2, the pages of each instruction; vol. 3A, 2.5 and 4.10.4 for checks and flushes.

use crate::cpu::Cpu;
use crate::event::debug::{GENERAL_DETECT, REGISTER_ACCESS};
use crate::fault::{Exception, Trap, vector};
use crate::mmu::{Intent, PHYSICAL_BITS, is_canonical};
use crate::op::{Flow, Op};
use crate::state::{Seg, Segment, cr0, cr4, efer};
use crate::tri;

/// CR4 bits that exist here; setting another raises #GP.
const CR4_KNOWN: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;
const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// CR0 bits whose change makes cached translations wrong.
const CR0_TRANSLATION: u64 = cr0::PG | cr0::WP | cr0::PE;
/// The same of CR4.
const CR4_TRANSLATION: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;

/// DR6 bits that always read as one, and those that can be written.
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
/// The same of DR7.
const DR7_FIXED: u64 = 0x400;
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// #GP(0) above level 0.
pub(crate) fn need_level_0(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cpl == 0 {
        Ok(())
    } else {
        Err(cpu.raise(Exception::protection(0)))
    }
}

/// MOV from control register `b` to register `a`; the whole register in 64-bit mode.
pub(crate) fn read_control(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let value = match op.b {
        0 => cpu.control.cr0,
        2 => cpu.control.cr2,
        3 => cpu.control.cr3,
        4 => cpu.control.cr4,
        8 => cpu.apic.cr8(),
        _ => {
            let Trap = cpu.raise(Exception::invalid_opcode());
            return Flow::Fault;
        }
    };
    let value = if cpu.is_64_bit() {
        value
    } else {
        value & 0xffff_ffff
    };
    cpu.regs.write(op.a, value);
    Flow::Next
}

/// MOV from register `b` to control register `a`.
pub(crate) fn write_control(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let value = register_value(cpu, op.b);
    match op.a {
        0 => tri!(write_cr0(cpu, value)),
        2 => cpu.control.cr2 = value,
        3 => tri!(write_cr3(cpu, value)),
        4 => tri!(write_cr4(cpu, value)),
        8 => {
            if value > 15 {
                let Trap = cpu.raise(Exception::protection(0));
                return Flow::Fault;
            }
            cpu.apic.set_cr8(value);
            cpu.publish();
            cpu.request_attention();
        }
        _ => {
            let Trap = cpu.raise(Exception::invalid_opcode());
            return Flow::Fault;
        }
    }
    Flow::End
}

fn register_value(cpu: &Cpu, register: u8) -> u64 {
    let value = cpu.regs.read(register);
    if cpu.is_64_bit() {
        value
    } else {
        value & 0xffff_ffff
    }
}

/// Writes CR0, with the mode switches that hang on PE and PG (SDM vol. 3A, 9.8.5 and 9.9).
pub(crate) fn write_cr0(cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
    let old = cpu.control.cr0;
    let new = value & CR0_KNOWN | cr0::ET;
    let paging = new & cr0::PG != 0;
    let was_paging = old & cr0::PG != 0;
    let bad = value >> 32 != 0
        || (paging && new & cr0::PE == 0)
        || (new & cr0::NW != 0 && new & cr0::CD == 0);
    if bad {
        return Err(cpu.raise(Exception::protection(0)));
    }
    if paging && !was_paging {
        if cpu.control.efer & efer::LME != 0 {
            let code_is_long = cpu.segments[Seg::Cs as usize].has(Segment::LONG);
            let task_is_16_bit = cpu.tr.has(Segment::PRESENT) && cpu.tr.kind() & 8 == 0;
            if cpu.control.cr4 & cr4::PAE == 0 || code_is_long || task_is_16_bit {
                return Err(cpu.raise(Exception::protection(0)));
            }
            cpu.control.efer |= efer::LMA;
        } else if cpu.control.cr4 & cr4::PAE != 0 {
            check_pointers(cpu, cpu.control.cr3)?;
        }
    }
    if was_paging && !paging {
        if cpu.is_64_bit() || cpu.control.cr4 & cr4::PCIDE != 0 {
            return Err(cpu.raise(Exception::protection(0)));
        }
        cpu.control.efer &= !efer::LMA;
    }
    cpu.control.cr0 = new;
    if (old ^ new) & CR0_TRANSLATION != 0 {
        cpu.flush_translations();
    }
    cpu.update_mode();
    Ok(())
}

/// Writes CR3. There is one TLB for all process contexts, so every write drops what is not global.
fn write_cr3(cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
    let tagged = cpu.control.cr4 & cr4::PCIDE != 0;
    let mut value = value;
    if cpu.is_long() {
        if tagged {
            // "Do not flush" is a permission, not stored.
            value &= !(1 << 63);
        }
        if value >> PHYSICAL_BITS != 0 {
            return Err(cpu.raise(Exception::protection(0)));
        }
    } else if cpu.control.cr0 & cr0::PG != 0 && cpu.control.cr4 & cr4::PAE != 0 {
        check_pointers(cpu, value)?;
    }
    cpu.control.cr3 = value;
    cpu.flush_local_translations();
    Ok(())
}

/// Writes CR4.
pub(crate) fn write_cr4(cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
    let old = cpu.control.cr4;
    let set = value & !old;
    let bad = value & !CR4_KNOWN != 0
        || (cpu.is_long() && value & cr4::PAE == 0)
        || (set & cr4::PCIDE != 0 && (!cpu.is_long() || cpu.control.cr3 & 0xfff != 0));
    if bad {
        return Err(cpu.raise(Exception::protection(0)));
    }
    let legacy_paging = cpu.control.cr0 & cr0::PG != 0 && !cpu.is_long();
    if legacy_paging && value & cr4::PAE != 0 && (old ^ value) & CR4_TRANSLATION != 0 {
        check_pointers(cpu, cpu.control.cr3)?;
    }
    cpu.control.cr4 = value;
    if (old ^ value) & CR4_TRANSLATION != 0 {
        cpu.flush_translations();
    }
    cpu.update_mode();
    Ok(())
}

/// The four page-directory pointers of PAE paging must have no reserved bits when they are present
/// (SDM vol. 3A, 4.4.1).
fn check_pointers(cpu: &mut Cpu, cr3: u64) -> Result<(), Trap> {
    let reserved = !((1u64 << PHYSICAL_BITS) - 1) | 0x1e6;
    for index in 0..4 {
        let entry = cpu.load_physical((cr3 & 0xffff_ffe0) + 8 * index, 8);
        if entry & 1 != 0 && entry & reserved != 0 {
            return Err(cpu.raise(Exception::protection(0)));
        }
    }
    Ok(())
}

/// The checks that all accesses to debug registers share; gives the register with DR4 and DR5 resolved.
fn debug_register(cpu: &mut Cpu, number: u8) -> Result<u8, Trap> {
    let number = match number {
        4 | 5 if cpu.control.cr4 & cr4::DE == 0 => number + 2,
        0..=3 | 6 | 7 => number,
        _ => return Err(cpu.raise(Exception::invalid_opcode())),
    };
    need_level_0(cpu)?;
    if cpu.control.dr7 & GENERAL_DETECT != 0 {
        return Err(cpu.raise(Exception {
            detail: REGISTER_ACCESS,
            ..Exception::plain(vector::DEBUG)
        }));
    }
    Ok(number)
}

/// MOV from debug register `b` to register `a`.
pub(crate) fn read_debug(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = tri!(debug_register(cpu, op.b));
    let value = match number {
        6 => cpu.control.dr6,
        7 => cpu.control.dr7,
        _ => cpu.control.breakpoints[usize::from(number & 3)],
    };
    let value = if cpu.is_64_bit() {
        value
    } else {
        value & 0xffff_ffff
    };
    cpu.regs.write(op.a, value);
    Flow::Next
}

/// MOV from register `b` to debug register `a`.
pub(crate) fn write_debug(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = tri!(debug_register(cpu, op.a));
    let value = register_value(cpu, op.b);
    if number >= 6 && value >> 32 != 0 {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    match number {
        6 => cpu.control.dr6 = value & DR6_WRITABLE | DR6_FIXED,
        7 => cpu.control.dr7 = value & DR7_WRITABLE | DR7_FIXED,
        _ => cpu.control.breakpoints[usize::from(number & 3)] = value,
    }
    cpu.update_mode();
    Flow::End
}

/// LMSW with the value in `a` (register form): PE can be set but not cleared.
pub(crate) fn load_status_word_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let value = cpu.regs.read(op.a);
    load_status_word(cpu, value)
}

/// LMSW from memory.
pub(crate) fn load_status_word_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let value = tri!(cpu.load_operand::<u16>(op));
    load_status_word(cpu, value.into())
}

fn load_status_word(cpu: &mut Cpu, value: u64) -> Flow {
    let low = cr0::MP | cr0::EM | cr0::TS;
    let old = cpu.control.cr0;
    let new = old & !low | value & (low | cr0::PE);
    tri!(write_cr0(cpu, new));
    Flow::End
}

/// CLTS.
pub(crate) fn clear_task_switched(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    cpu.control.cr0 &= !cr0::TS;
    Flow::Next
}

/// INVLPG: any address is fine, there is no access.
pub(crate) fn invalidate_page(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let offset = cpu.offset(op);
    let linear = if cpu.is_64_bit() {
        match op.segment() {
            Seg::Fs | Seg::Gs => cpu.segments[op.segment() as usize]
                .base
                .wrapping_add(offset),
            _ => offset,
        }
    } else {
        cpu.segments[op.segment() as usize]
            .base
            .wrapping_add(offset)
            & 0xffff_ffff
    };
    if !cpu.is_64_bit() || is_canonical(linear) {
        cpu.flush_page(linear);
    }
    Flow::End
}

/// INVPCID with the type in register `a`.
pub(crate) fn invalidate_context(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let kind = register_value(cpu, op.a);
    let linear = tri!(cpu.linear(op, 16, Intent::Load));
    let descriptor = tri!(cpu.load_16(linear, op.segment()));
    let (context, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let tagged = cpu.control.cr4 & cr4::PCIDE != 0;
    let bad = kind > 3
        || context > 0xfff
        || (kind < 2 && !tagged && context != 0)
        || (kind == 0 && !is_canonical(address));
    if bad {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    match kind {
        0 => cpu.flush_page(address),
        2 => cpu.flush_translations(),
        _ => cpu.flush_local_translations(),
    }
    Flow::End
}

/// INVD and WBINVD: there are no caches to write back.
pub(crate) fn invalidate_caches(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    Flow::Next
}

/// HLT.
pub(crate) fn halt(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    Flow::Halt
}

/// XGETBV: XCR0, and the components of it that are in use (ECX 1; SDM vol. 1, 13.6).
pub(crate) fn read_extended(cpu: &mut Cpu, _op: &Op) -> Flow {
    use crate::state::registers::{RAX, RCX, RDX};
    if cpu.control.cr4 & cr4::OSXSAVE == 0 {
        let Trap = cpu.raise(Exception::invalid_opcode());
        return Flow::Fault;
    }
    let value = match cpu.regs.read(RCX) as u32 {
        0 => cpu.control.xcr0,
        1 => cpu.control.xcr0 & cpu.in_use(),
        _ => {
            let Trap = cpu.raise(Exception::protection(0));
            return Flow::Fault;
        }
    };
    cpu.regs.write(RAX, value & 0xffff_ffff);
    cpu.regs.write(RDX, value >> 32);
    Flow::Next
}

/// XSETBV: x87 must stay on, and there is nothing above SSE.
pub(crate) fn write_extended(cpu: &mut Cpu, _op: &Op) -> Flow {
    use crate::state::registers::{RAX, RCX, RDX};
    if cpu.control.cr4 & cr4::OSXSAVE == 0 {
        let Trap = cpu.raise(Exception::invalid_opcode());
        return Flow::Fault;
    }
    tri!(need_level_0(cpu));
    let value = cpu.regs.read(RDX) << 32 | cpu.regs.read(RAX) & 0xffff_ffff;
    if cpu.regs.read(RCX) as u32 != 0 || value & 1 == 0 || value & !3 != 0 {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    cpu.control.xcr0 = value;
    Flow::End
}
