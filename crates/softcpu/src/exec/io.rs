//! Ports: IN, OUT, INS, OUTS, and the I/O permission bitmap (SDM vol. 1, 19.5; vol. 2).

use crate::cpu::Cpu;
use crate::event::debug;
use crate::fault::{Exception, Trap};
use crate::mmu::Intent;
use crate::op::{Flow, Op, mode};
use crate::state::registers::{RAX, RCX, RDI, RDX, RSI};
use crate::state::{Seg, Width, cr0, flags};
use crate::tri;

/// Elements of a repeated instruction before interrupts and the budget are looked at.
const ROUND_MAX: u32 = 256;

/// `Op::imm` of IN and OUT: the port is in DX.
pub(crate) const PORT_IN_DX: u64 = 1 << 16;

/// IN to the accumulator.
pub(crate) fn input<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = port_operand(cpu, op);
    tri!(check_permission(cpu, port, W::BYTES));
    let value: W = read_port(cpu, port);
    value.set(&mut cpu.regs, RAX);
    Flow::Next
}

/// OUT of the accumulator.
pub(crate) fn output<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = port_operand(cpu, op);
    tri!(check_permission(cpu, port, W::BYTES));
    let value = W::get(&cpu.regs, RAX);
    write_port(cpu, port, value);
    Flow::Next
}

fn port_operand(cpu: &Cpu, op: &Op) -> u16 {
    if op.imm == PORT_IN_DX {
        cpu.regs.read(RDX) as u16
    } else {
        op.imm as u16
    }
}

fn read_port<W: Width>(cpu: &mut Cpu, port: u16) -> W {
    debug::note_port(cpu, port, W::BYTES);
    let mut bytes = [0; 8];
    cpu.bus.read_port(port, &mut bytes[..W::BYTES as usize]);
    W::truncate(u64::from_le_bytes(bytes))
}

fn write_port<W: Width>(cpu: &mut Cpu, port: u16, value: W) {
    debug::note_port(cpu, port, W::BYTES);
    let bytes = value.zero_extend().to_le_bytes();
    cpu.bus.write_port(port, &bytes[..W::BYTES as usize]);
}

/// Whether the program may use `size` ports from `port`: by its level, else by the bitmap in the TSS.
fn check_permission(cpu: &mut Cpu, port: u16, size: u64) -> Result<(), Trap> {
    if cpu.control.cr0 & cr0::PE == 0 {
        return Ok(());
    }
    if !cpu.flags.has(flags::VM) && cpu.cpl <= cpu.flags.iopl() {
        return Ok(());
    }
    // A 16-bit TSS has no bitmap.
    let has_map = cpu.tr.kind() & 8 != 0 && cpu.tr.limit >= 0x67;
    if has_map {
        let at = cpu.table_address(cpu.tr.base, 0x66);
        let map = cpu.as_system(|cpu| cpu.load::<u16>(at, Seg::Ds))?;
        let offset = u32::from(map) + u32::from(port / 8);
        // Two bytes are always read, so that a port's bits may lie in both.
        if offset < cpu.tr.limit {
            let at = cpu.table_address(cpu.tr.base, offset);
            let bits = cpu.as_system(|cpu| cpu.load::<u16>(at, Seg::Ds))?;
            let mask = (1u16 << size) - 1;
            if bits >> (port % 8) & mask == 0 {
                return Ok(());
            }
        }
    }
    Err(cpu.raise(Exception::protection(0)))
}

/// INS to ES:DI; `a` is nonzero with a repeat prefix.
pub(crate) fn input_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = cpu.regs.read(RDX) as u16;
    tri!(check_permission(cpu, port, W::BYTES));
    repeated(cpu, op, |cpu, mask| {
        let offset = cpu.regs.read(RDI) & mask;
        let linear = if cpu.is_64_bit() {
            offset
        } else {
            cpu.segmented(Seg::Es, offset, W::BYTES, Intent::Store)?
        };
        // The device must not lose data to a page fault.
        cpu.probe_store(linear, W::BYTES, Seg::Es)?;
        let value: W = read_port(cpu, port);
        cpu.store(linear, value, Seg::Es)?;
        advance::<W>(cpu, RDI, mask);
        Ok(())
    })
}

/// OUTS from the source segment; `a` is nonzero with a repeat prefix.
pub(crate) fn output_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = cpu.regs.read(RDX) as u16;
    tri!(check_permission(cpu, port, W::BYTES));
    repeated(cpu, op, |cpu, mask| {
        let offset = cpu.regs.read(RSI) & mask;
        let linear = cpu.segmented(op.segment(), offset, W::BYTES, Intent::Load)?;
        let value: W = cpu.load(linear, op.segment())?;
        write_port(cpu, port, value);
        advance::<W>(cpu, RSI, mask);
        Ok(())
    })
}

/// Once, or while the count lasts.
fn repeated(cpu: &mut Cpu, op: &Op, element: impl Fn(&mut Cpu, u64) -> Result<(), Trap>) -> Flow {
    let mask = if op.mode & mode::ADDRESS_32 != 0 {
        0xffff_ffff
    } else if op.mode & mode::ADDRESS_16 != 0 {
        0xffff
    } else {
        u64::MAX
    };
    if op.a == 0 {
        tri!(element(cpu, mask));
        return Flow::Next;
    }
    let rounds = if cpu.stepping { 1 } else { ROUND_MAX };
    for _ in 0..rounds {
        let count = cpu.regs.read(RCX) & mask;
        if count == 0 {
            return Flow::Next;
        }
        tri!(element(cpu, mask));
        write_masked(cpu, RCX, count - 1, mask);
    }
    if cpu.regs.read(RCX) & mask == 0 {
        return Flow::Next;
    }
    cpu.account(rounds as usize - 1);
    Flow::Again
}

fn advance<W: Width>(cpu: &mut Cpu, register: u8, mask: u64) {
    let step = if cpu.flags.has(flags::DF) {
        W::BYTES.wrapping_neg()
    } else {
        W::BYTES
    };
    let value = cpu.regs.read(register).wrapping_add(step);
    write_masked(cpu, register, value, mask);
}

fn write_masked(cpu: &mut Cpu, register: u8, value: u64, mask: u64) {
    let old = cpu.regs.read(register);
    let value = if mask == 0xffff {
        old & !0xffff | value & 0xffff
    } else {
        value & mask
    };
    cpu.regs.write(register, value);
}
