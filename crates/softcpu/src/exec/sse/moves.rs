//! Moves between XMM registers, general registers and memory; masks, extracts, inserts, blends and PTEST.

use super::arrange::{Blend, byte_signs, insert_single};
use super::lanes::all_dwords;
use super::{Xmm, lanes};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::{Width, flags};
use crate::tri;

/// MOVAPS, MOVUPS, MOVDQA, MOVDQU between registers.
pub(crate) fn copy(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.xmm(op.b);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// MOVUPS, MOVDQU, LDDQU from memory.
pub(crate) fn load(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_unaligned(op));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// MOVAPS, MOVDQA, MOVNTDQA from memory.
pub(crate) fn load_aligned(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_aligned(op));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// MOVUPS, MOVDQU to memory.
pub(crate) fn store(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.xmm(op.b);
    tri!(cpu.store_unaligned(op, value));
    Flow::Next
}

/// MOVAPS, MOVDQA, MOVNTPS, MOVNTDQ to memory.
pub(crate) fn store_aligned(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.xmm(op.b);
    tri!(cpu.store_aligned(op, value));
    Flow::Next
}

/// MOVD, MOVQ, MOVSS, MOVSD from memory: the rest of the register is cleared.
pub(crate) fn load_low<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<W>(op)).zero_extend();
    cpu.set_xmm(op.a, value.into());
    Flow::Next
}

/// MOVD, MOVQ, MOVSS, MOVSD, MOVLPS to memory.
pub(crate) fn store_low<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = W::truncate(cpu.xmm(op.b) as u64);
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

/// MOVD, MOVQ from a general register.
pub(crate) fn from_general<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = W::get(&cpu.regs, op.b).zero_extend();
    cpu.set_xmm(op.a, value.into());
    Flow::Next
}

/// MOVD, MOVQ to a general register.
pub(crate) fn to_general<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    W::truncate(cpu.xmm(op.b) as u64).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// MOVQ between registers: the upper half is cleared.
pub(crate) fn copy_low(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.xmm(op.b) as u64;
    cpu.set_xmm(op.a, value.into());
    Flow::Next
}

/// MOVLPS, MOVLPD from memory: the upper half stays.
pub(crate) fn load_low_half(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<u64>(op));
    let (_, high) = lanes::halves(cpu.xmm(op.a));
    cpu.set_xmm(op.a, lanes::join(value, high));
    Flow::Next
}

/// MOVHPS, MOVHPD from memory: the lower half stays.
pub(crate) fn load_high_half(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<u64>(op));
    let (low, _) = lanes::halves(cpu.xmm(op.a));
    cpu.set_xmm(op.a, lanes::join(low, value));
    Flow::Next
}

/// MOVHPS, MOVHPD to memory.
pub(crate) fn store_high_half(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let (_, high) = lanes::halves(cpu.xmm(op.b));
    tri!(cpu.store_operand(op, high));
    Flow::Next
}

/// MOVDDUP from a register.
pub(crate) fn duplicate_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.xmm(op.b) as u64;
    cpu.set_xmm(op.a, lanes::join(value, value));
    Flow::Next
}

/// MOVDDUP from memory.
pub(crate) fn duplicate_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<u64>(op));
    cpu.set_xmm(op.a, lanes::join(value, value));
    Flow::Next
}

/// Operations whose memory operand is only `W` wide (PMOVSX, PMOVZX).
pub(crate) fn narrow_mem<O: Xmm, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_operand::<W>(op)).zero_extend();
    let value = O::xmm(cpu.xmm(op.a), b.into());
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// PMOVMSKB.
pub(crate) fn byte_sign_mask(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let mask = byte_signs(cpu.xmm(op.b));
    cpu.regs.write(op.a, mask);
    Flow::Next
}

/// MOVMSKPS.
pub(crate) fn single_sign_mask(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let [a, b, c, d] = all_dwords(cpu.xmm(op.b)).map(|lane| u64::from(lane >> 31));
    cpu.regs.write(op.a, a | b << 1 | c << 2 | d << 3);
    Flow::Next
}

/// MOVMSKPD.
pub(crate) fn double_sign_mask(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let (low, high) = lanes::halves(cpu.xmm(op.b));
    cpu.regs.write(op.a, low >> 63 | (high >> 63) << 1);
    Flow::Next
}

/// MOVNTI. Needs no XMM registers to be enabled.
pub(crate) fn store_general<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.b);
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

/// MASKMOVDQU: bytes of `a` whose mask byte in `b` has its sign set go to DS:rDI. The lowering has put rDI into the
/// memory operand.
pub(crate) fn store_masked(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let (value, mask) = (cpu.xmm(op.a), cpu.xmm(op.b));
    tri!(store_bytes_masked(cpu, op, value, mask, 16));
    Flow::Next
}

/// Stores the bytes of `value` whose byte in `mask` is negative, all or none.
pub(crate) fn store_bytes_masked(
    cpu: &mut Cpu,
    op: &Op,
    value: u128,
    mask: u128,
    size: u64,
) -> Result<(), Trap> {
    let linear = cpu.linear(op, size, Intent::Store)?;
    let signs = byte_signs(mask);
    let wanted = |index: &u64| signs >> index & 1 != 0;
    let address = |index: u64| linear.wrapping_add(index);
    for index in (0..size).filter(wanted) {
        cpu.probe_store(address(index), 1, op.segment())?;
    }
    for index in (0..size).filter(wanted) {
        cpu.store(address(index), (value >> (8 * index)) as u8, op.segment())?;
    }
    Ok(())
}

/// Lane `immediate` of `value`, for lanes of `W`.
#[inline(always)]
fn lane<W: Width>(value: u128, immediate: u64) -> W {
    let count = 128 / W::BITS;
    let shift = (immediate as u32 & (count - 1)) * W::BITS;
    W::truncate((value >> shift) as u64)
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS to a general register, zero-extended.
pub(crate) fn extract_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = lane::<W>(cpu.xmm(op.b), op.imm).zero_extend();
    cpu.regs.write(op.a, value);
    Flow::Next
}

/// The same to memory.
pub(crate) fn extract_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = lane::<W>(cpu.xmm(op.b), op.imm);
    tri!(cpu.store_operand(op, value));
    Flow::Next
}

fn with_lane<W: Width>(value: u128, part: W, immediate: u64) -> u128 {
    let count = 128 / W::BITS;
    let shift = (immediate as u32 & (count - 1)) * W::BITS;
    value & !(u128::from(W::MASK) << shift) | u128::from(part.zero_extend()) << shift
}

/// PINSRB, PINSRW, PINSRD, PINSRQ from a general register.
pub(crate) fn insert_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let part = W::truncate(cpu.regs.read(op.b));
    let value = with_lane(cpu.xmm(op.a), part, op.imm);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// The same from memory.
pub(crate) fn insert_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let part = tri!(cpu.load_operand::<W>(op));
    let value = with_lane(cpu.xmm(op.a), part, op.imm);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// INSERTPS from memory: the source lane in the immediate does not count.
pub(crate) fn insert_single_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let single = tri!(cpu.load_operand::<u32>(op));
    let value = insert_single(cpu.xmm(op.a), single, op.imm as u8);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// Blends by XMM0 from a register.
pub(crate) fn blend_reg<O: Blend>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = O::blend(cpu.xmm(op.a), cpu.xmm(op.b), cpu.xmm(0));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// Blends by XMM0 from memory.
pub(crate) fn blend_mem<O: Blend>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_aligned(op));
    let value = O::blend(cpu.xmm(op.a), b, cpu.xmm(0));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

fn test(cpu: &mut Cpu, a: u128, b: u128) {
    let zero = if a & b == 0 { flags::ZF } else { 0 };
    let carry = if !a & b == 0 { flags::CF } else { 0 };
    cpu.flags.set_status(zero | carry);
}

/// PTEST with a register.
pub(crate) fn test_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let (a, b) = (cpu.xmm(op.a), cpu.xmm(op.b));
    test(cpu, a, b);
    Flow::Next
}

/// PTEST with memory.
pub(crate) fn test_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_aligned(op));
    let a = cpu.xmm(op.a);
    test(cpu, a, b);
    Flow::Next
}
