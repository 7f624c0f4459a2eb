//! MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, BSWAP, MOVBE, CBW and its family, LAHF, SAHF, XLAT and
//! the single flags.

use crate::cpu::Cpu;
use crate::exec::jump::holds;
use crate::fault::Trap;
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::registers::{AH, RAX, RBX, RDX};
use crate::state::{Segment, Width, flags};
use crate::tri;

/// Register from register.
pub(crate) fn reg_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    W::get(&cpu.regs, op.b).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Register from immediate.
pub(crate) fn reg_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    W::truncate(op.imm).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Register from memory.
pub(crate) fn reg_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.load_operand::<W>(op)).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Memory from register.
pub(crate) fn mem_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.b);
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

/// Memory from immediate.
pub(crate) fn mem_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.store_operand(op, W::truncate(op.imm)));
    Flow::Next
}

/// Zero-extends a register of width `F` to `T`.
pub(crate) fn zero_extend_reg<F: Width, T: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    T::truncate(F::get(&cpu.regs, op.b).zero_extend()).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Zero-extends memory of width `F` to a register of width `T`.
pub(crate) fn zero_extend_mem<F: Width, T: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    T::truncate(tri!(cpu.load_operand::<F>(op)).zero_extend()).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Sign-extends a register of width `F` to `T`.
pub(crate) fn sign_extend_reg<F: Width, T: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    T::truncate(F::get(&cpu.regs, op.b).sign_extend()).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Sign-extends memory of width `F` to a register of width `T`.
pub(crate) fn sign_extend_mem<F: Width, T: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    T::truncate(tri!(cpu.load_operand::<F>(op)).sign_extend()).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// LEA.
pub(crate) fn lea<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    W::truncate(cpu.offset(op)).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// XCHG of registers.
pub(crate) fn exchange_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    b.set(&mut cpu.regs, op.a);
    a.set(&mut cpu.regs, op.b);
    Flow::Next
}

/// XCHG with memory: always locked.
pub(crate) fn exchange_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.b);
    let old = tri!(cpu.modify_operand(op, true, |_| value));
    old.set(&mut cpu.regs, op.b);
    Flow::Next
}

/// CMOVcc between registers; `imm` is the condition. 32-bit moves clear the upper half either way.
pub(crate) fn move_if_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let source = if holds(&cpu.flags, op.imm as u8) {
        op.b
    } else {
        op.a
    };
    W::get(&cpu.regs, source).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// CMOVcc from memory, which is read either way.
pub(crate) fn move_if_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(cpu.load_operand::<W>(op));
    let value = if holds(&cpu.flags, op.imm as u8) {
        value
    } else {
        W::get(&cpu.regs, op.a)
    };
    value.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// SETcc to a register.
pub(crate) fn set_if_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    u8::from(holds(&cpu.flags, op.imm as u8)).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// SETcc to memory.
pub(crate) fn set_if_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = u8::from(holds(&cpu.flags, op.imm as u8));
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

/// The bytes of a value in opposite order.
fn swapped<W: Width>(value: W) -> W {
    W::truncate(value.zero_extend().swap_bytes() >> (64 - W::BITS))
}

/// BSWAP. Of 16 bits it is undefined; processors clear them.
pub(crate) fn swap_bytes<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.a);
    let value = if W::BITS == 16 {
        W::default()
    } else {
        swapped(value)
    };
    value.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// MOVBE from memory.
pub(crate) fn load_swapped<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    swapped(tri!(cpu.load_operand::<W>(op))).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// MOVBE to memory.
pub(crate) fn store_swapped<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = swapped(W::get(&cpu.regs, op.b));
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

/// CBW, CWDE, CDQE: the accumulator of half of `W` sign-extended.
pub(crate) fn extend_accumulator<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let shift = 64 - W::BITS / 2;
    let value = ((cpu.regs.read(RAX) << shift) as i64 >> shift) as u64;
    W::truncate(value).set(&mut cpu.regs, RAX);
    Flow::Next
}

/// CWD, CDQ, CQO: the accumulator's sign in all bits of DX, EDX or RDX.
pub(crate) fn spread_sign<W: Width>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let sign = W::get(&cpu.regs, RAX).sign();
    W::truncate(if sign { u64::MAX } else { 0 }).set(&mut cpu.regs, RDX);
    Flow::Next
}

/// LAHF.
pub(crate) fn load_flags(cpu: &mut Cpu, _op: &Op) -> Flow {
    (cpu.flags.bits() as u8).set(&mut cpu.regs, AH);
    Flow::Next
}

/// SAHF.
pub(crate) fn store_flags(cpu: &mut Cpu, _op: &Op) -> Flow {
    let low = u64::from(u8::get(&cpu.regs, AH));
    let status = (cpu.flags.status() & flags::OF) | (low & !flags::OF);
    cpu.flags.set_status(status);
    Flow::Next
}

/// CLC, STC, CMC: `imm` is 0, 1, or 2 for the opposite.
pub(crate) fn carry_flag(cpu: &mut Cpu, op: &Op) -> Flow {
    let carry = match op.imm {
        0 => false,
        1 => true,
        _ => !cpu.flags.carry(),
    };
    cpu.flags.set_carry(carry);
    Flow::Next
}

/// CLD, STD: `imm` is the flag.
pub(crate) fn direction_flag(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.flags.system = (cpu.flags.system & !flags::DF) | (op.imm & flags::DF);
    Flow::Next
}

/// XLAT: AL from the table at (E/R)BX. The operand has BX as base and no index.
pub(crate) fn translate(cpu: &mut Cpu, op: &Op) -> Flow {
    let op = Op {
        disp: op.disp.wrapping_add((cpu.regs.read(RAX) & 0xff) as i64),
        ..*op
    };
    debug_assert_eq!(op.base, RBX);
    tri!(cpu.load_operand::<u8>(&op)).set(&mut cpu.regs, RAX);
    Flow::Next
}

/// MOV to a register or memory from a segment register; `b` is its number.
pub(crate) fn reg_from_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segments[usize::from(op.b) % 6].selector;
    W::truncate(u64::from(selector)).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// As [`reg_from_segment`], always 16 bits.
pub(crate) fn mem_from_segment(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segments[usize::from(op.b) % 6].selector;
    tri!(cpu.store_operand(op, selector));
    Flow::Next
}

/// CLFLUSH and its family: a load's checks, nothing more; but code that may only be executed will do
/// (SDM vol. 2A, CLFLUSH).
pub(crate) fn touch(cpu: &mut Cpu, op: &Op) -> Flow {
    let is_code = cpu.segments[op.segment() as usize].has(Segment::CODE);
    let intent = if is_code { Intent::Fetch } else { Intent::Load };
    let linear = tri!(cpu.linear(op, 1, intent));
    match cpu.probe(linear, 1, Intent::Load, op.segment()) {
        Ok(()) => Flow::Next,
        Err(Trap) => Flow::Fault,
    }
}
