//! MOVS, CMPS, SCAS, LODS, STOS, with REP. (INS and OUTS are port I/O.)
//!
//! A repeated instruction works in rounds of at most [`ROUND_MAX`] elements and then comes back to
//! itself ([`Flow::Again`]), so that interrupts and the budget are looked at in between. Moves and
//! stores of whole runs inside two pages go through the host's memory copy.

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mmu::Intent;
use crate::op::{Flow, Op, mode};
use crate::state::registers::{RAX, RCX, RDI, RSI};
use crate::state::{Seg, Width, flags};
use crate::tri;

/// Elements that a repeated instruction handles before it looks up.
const ROUND_MAX: u64 = 4096;

/// How an instruction repeats; stands in `Op::a`.
pub(crate) mod repeat {
    /// Once.
    pub(crate) const NONE: u8 = 0;
    /// While the count lasts (for CMPS and SCAS: and ZF is set).
    pub(crate) const WHILE_EQUAL: u8 = 1;
    /// While the count lasts and ZF is clear.
    pub(crate) const WHILE_DIFFERENT: u8 = 2;
}

/// Mask of SI, DI and CX: the address size.
#[inline(always)]
fn address_mask(op: &Op) -> u64 {
    if op.mode & mode::ADDRESS_32 != 0 {
        0xffff_ffff
    } else if op.mode & mode::ADDRESS_16 != 0 {
        0xffff
    } else {
        u64::MAX
    }
}

/// Adds `by` to an address register, cut to the address size.
#[inline(always)]
fn advance(cpu: &mut Cpu, register: u8, by: u64, mask: u64) {
    let old = cpu.regs.read(register);
    let new = old.wrapping_add(by);
    let value = match mask {
        u64::MAX => new,
        0xffff => (old & !0xffff) | (new & 0xffff),
        // A write of 32 bits clears the upper half.
        _ => new & mask,
    };
    cpu.regs.write(register, value);
}

#[inline(always)]
fn step<W: Width>(cpu: &Cpu) -> u64 {
    if cpu.flags.has(flags::DF) {
        W::BYTES.wrapping_neg()
    } else {
        W::BYTES
    }
}

#[inline(always)]
fn source_linear<W: Width>(cpu: &mut Cpu, op: &Op, mask: u64) -> Result<u64, Trap> {
    let offset = cpu.regs.read(RSI) & mask;
    if op.mode & mode::COMPLEX == 0 {
        return Ok(offset);
    }
    cpu.segmented(op.segment(), offset, W::BYTES, Intent::Load)
}

#[inline(always)]
fn target_linear<W: Width>(cpu: &mut Cpu, mask: u64, intent: Intent) -> Result<u64, Trap> {
    let offset = cpu.regs.read(RDI) & mask;
    if cpu.is_64_bit() {
        return Ok(offset);
    }
    cpu.segmented(Seg::Es, offset, W::BYTES, intent)
}

/// What one round of a repeated instruction came to.
enum Round {
    /// One element done; go on.
    More,
    /// Done, whatever the count says (CMPS and SCAS).
    Stop,
}

/// Runs `element` once, or as often as the prefix wants, `bulk` elements at a time where it can.
#[inline(always)]
fn repeated(
    cpu: &mut Cpu,
    op: &Op,
    mut element: impl FnMut(&mut Cpu) -> Result<Round, Trap>,
    mut bulk: impl FnMut(&mut Cpu, u64) -> u64,
) -> Flow {
    let mask = address_mask(op);
    if op.a == repeat::NONE {
        tri!(element(cpu));
        return Flow::Next;
    }
    // With single step the trap comes after each round.
    let most = if cpu.alone { 1 } else { ROUND_MAX };
    let mut done = 0;
    loop {
        let count = cpu.regs.read(RCX) & mask;
        if count == 0 {
            return Flow::Next;
        }
        if done >= most {
            cpu.account(done as usize);
            return Flow::Again;
        }
        let moved = bulk(cpu, count.min(most - done));
        if moved > 0 {
            advance(cpu, RCX, moved.wrapping_neg(), mask);
            done += moved;
            continue;
        }
        let round = tri!(element(cpu));
        advance(cpu, RCX, u64::MAX, mask);
        done += 1;
        if let Round::Stop = round {
            return Flow::Next;
        }
    }
}

/// MOVS.
pub(crate) fn move_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = address_mask(op);
    repeated(
        cpu,
        op,
        |cpu| {
            let source = source_linear::<W>(cpu, op, mask)?;
            let target = target_linear::<W>(cpu, mask, Intent::Store)?;
            let value: W = cpu.load(source, op.segment())?;
            cpu.store(target, value, Seg::Es)?;
            let by = step::<W>(cpu);
            advance(cpu, RSI, by, mask);
            advance(cpu, RDI, by, mask);
            Ok(Round::More)
        },
        |cpu, count| {
            // Flat and forwards: a plain copy.
            if mask != u64::MAX || op.mode & mode::COMPLEX != 0 || cpu.flags.has(flags::DF) {
                return 0;
            }
            let (source, target) = (cpu.regs.read(RSI), cpu.regs.read(RDI));
            let bytes = count * W::BYTES;
            let Some(from) = cpu.direct_run(source, bytes, Intent::Load) else {
                return 0;
            };
            let Some(to) = cpu.direct_run(target, bytes, Intent::Store) else {
                return 0;
            };
            let whole = from.length.min(to.length) / W::BYTES;
            if cpu.copy_run(from.cut(whole * W::BYTES), to.cut(whole * W::BYTES)) == 0 {
                return 0;
            }
            advance(cpu, RSI, whole * W::BYTES, mask);
            advance(cpu, RDI, whole * W::BYTES, mask);
            whole
        },
    )
}

/// STOS.
pub(crate) fn store_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = address_mask(op);
    repeated(
        cpu,
        op,
        |cpu| {
            let target = target_linear::<W>(cpu, mask, Intent::Store)?;
            let value = W::get(&cpu.regs, RAX);
            cpu.store(target, value, Seg::Es)?;
            let by = step::<W>(cpu);
            advance(cpu, RDI, by, mask);
            Ok(Round::More)
        },
        |cpu, count| {
            if mask != u64::MAX || !cpu.is_64_bit() || cpu.flags.has(flags::DF) {
                return 0;
            }
            let target = cpu.regs.read(RDI);
            let Some(to) = cpu.direct_run(target, count * W::BYTES, Intent::Store) else {
                return 0;
            };
            let whole = to.length / W::BYTES;
            if whole == 0 {
                return 0;
            }
            let pattern = W::get(&cpu.regs, RAX).zero_extend();
            cpu.fill_run(to.cut(whole * W::BYTES), pattern, W::BYTES);
            advance(cpu, RDI, whole * W::BYTES, mask);
            whole
        },
    )
}

/// LODS.
pub(crate) fn load_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = address_mask(op);
    repeated(
        cpu,
        op,
        |cpu| {
            let source = source_linear::<W>(cpu, op, mask)?;
            let value: W = cpu.load(source, op.segment())?;
            value.set(&mut cpu.regs, RAX);
            let by = step::<W>(cpu);
            advance(cpu, RSI, by, mask);
            Ok(Round::More)
        },
        |_, _| 0,
    )
}

/// SCAS.
pub(crate) fn scan_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = address_mask(op);
    repeated(
        cpu,
        op,
        |cpu| {
            let target = target_linear::<W>(cpu, mask, Intent::Load)?;
            let right: W = cpu.load(target, Seg::Es)?;
            let left = W::get(&cpu.regs, RAX);
            cpu.flags.after_sub(left, right, left.sub(right));
            let by = step::<W>(cpu);
            advance(cpu, RDI, by, mask);
            Ok(compared(cpu, op))
        },
        |_, _| 0,
    )
}

/// CMPS.
pub(crate) fn compare_string<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = address_mask(op);
    repeated(
        cpu,
        op,
        |cpu| {
            let source = source_linear::<W>(cpu, op, mask)?;
            let left: W = cpu.load(source, op.segment())?;
            let target = target_linear::<W>(cpu, mask, Intent::Load)?;
            let right: W = cpu.load(target, Seg::Es)?;
            cpu.flags.after_sub(left, right, left.sub(right));
            let by = step::<W>(cpu);
            advance(cpu, RSI, by, mask);
            advance(cpu, RDI, by, mask);
            Ok(compared(cpu, op))
        },
        |_, _| 0,
    )
}

/// Whether REPE or REPNE ends here.
fn compared(cpu: &Cpu, op: &Op) -> Round {
    let equal = cpu.flags.zero();
    match op.a {
        repeat::WHILE_EQUAL if !equal => Round::Stop,
        repeat::WHILE_DIFFERENT if equal => Round::Stop,
        _ => Round::More,
    }
}
