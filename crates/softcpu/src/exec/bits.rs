//! BT and its family, BSF, BSR, TZCNT, LZCNT, POPCNT, and BMI1/BMI2 without their shifts.

use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::state::{Flags, Width};
use crate::tri;

/// What BT, BTS, BTR and BTC do to the bit.
pub(crate) trait BitChange {
    /// BT only looks.
    const WRITES: bool = true;
    /// `value` with the bit of `mask` changed.
    fn apply(value: u64, mask: u64) -> u64;
}

/// BT.
pub(crate) struct Look;
impl BitChange for Look {
    const WRITES: bool = false;
    fn apply(value: u64, _mask: u64) -> u64 {
        value
    }
}

/// BTS.
pub(crate) struct Set;
impl BitChange for Set {
    fn apply(value: u64, mask: u64) -> u64 {
        value | mask
    }
}

/// BTR.
pub(crate) struct Clear;
impl BitChange for Clear {
    fn apply(value: u64, mask: u64) -> u64 {
        value & !mask
    }
}

/// BTC.
pub(crate) struct Flip;
impl BitChange for Flip {
    fn apply(value: u64, mask: u64) -> u64 {
        value ^ mask
    }
}

#[inline(always)]
fn change_reg<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op, position: u64) -> Flow {
    let mask = 1 << (position & u64::from(W::BITS - 1));
    let value = W::get(&cpu.regs, op.a).zero_extend();
    cpu.flags.set_carry(value & mask != 0);
    if B::WRITES {
        W::truncate(B::apply(value, mask)).set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// Bit of register `a` at the position in register `b`.
pub(crate) fn test_reg_reg<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let position = W::get(&cpu.regs, op.b).zero_extend();
    change_reg::<B, W>(cpu, op, position)
}

/// Bit of register `a` at position `imm`.
pub(crate) fn test_reg_imm<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    change_reg::<B, W>(cpu, op, op.imm)
}

#[inline(always)]
fn change_mem<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op, mask: u64, locked: bool) -> Flow {
    let old = if B::WRITES {
        tri!(cpu.modify_operand(op, locked, |value: W| {
            W::truncate(B::apply(value.zero_extend(), mask))
        }))
    } else {
        tri!(cpu.load_operand::<W>(op))
    };
    cpu.flags.set_carry(old.zero_extend() & mask != 0);
    Flow::Next
}

/// Bit of memory at position `imm`.
pub(crate) fn test_mem_imm<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    change_mem::<B, W>(cpu, op, 1 << (op.imm & u64::from(W::BITS - 1)), op.b != 0)
}

/// Bit of the string of bits at the operand, at the signed position in register `b`: the address moves
/// by whole operands. `a` is not zero for LOCK.
pub(crate) fn test_mem_reg<B: BitChange, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let position = W::get(&cpu.regs, op.b).sign_extend() as i64;
    let words = position >> W::BITS.trailing_zeros();
    let op = Op {
        disp: op.disp.wrapping_add(words.wrapping_mul(W::BYTES as i64)),
        ..*op
    };
    let mask = 1u64 << (position as u64 & u64::from(W::BITS - 1));
    change_mem::<B, W>(cpu, &op, mask, op.a != 0)
}

/// A function of one operand that gives a count, with its own flags.
pub(crate) trait Scan {
    /// The result, or `None` to leave the target as it is.
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W>;
}

/// ZF for a zero source; the other flags are undefined and left as the result would set them.
fn scan_flags(flags: &mut Flags, zero: bool) {
    flags.set_zero(zero);
}

/// BSF. A zero source leaves the target alone, as all processors do.
pub(crate) struct Bsf;
impl Scan for Bsf {
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W> {
        let bits = value.zero_extend();
        scan_flags(flags, bits == 0);
        (bits != 0).then(|| W::truncate(u64::from(bits.trailing_zeros())))
    }
}

/// BSR.
pub(crate) struct Bsr;
impl Scan for Bsr {
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W> {
        let bits = value.zero_extend();
        scan_flags(flags, bits == 0);
        (bits != 0).then(|| W::truncate(u64::from(63 - bits.leading_zeros())))
    }
}

/// TZCNT: CF for a zero source, ZF for a zero result.
pub(crate) struct Tzcnt;
impl Scan for Tzcnt {
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W> {
        let bits = value.zero_extend();
        let count = bits.trailing_zeros().min(W::BITS);
        count_flags(flags, count, W::BITS);
        Some(W::truncate(u64::from(count)))
    }
}

/// LZCNT: CF for a zero source, ZF for a zero result.
pub(crate) struct Lzcnt;
impl Scan for Lzcnt {
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W> {
        let count = value.zero_extend().leading_zeros() - (64 - W::BITS);
        count_flags(flags, count, W::BITS);
        Some(W::truncate(u64::from(count)))
    }
}

fn count_flags(flags: &mut Flags, count: u32, bits: u32) {
    flags.set_carry(count == bits);
    flags.set_zero(count == 0);
}

/// POPCNT: ZF for a zero source, the others clear.
pub(crate) struct Popcnt;
impl Scan for Popcnt {
    fn apply<W: Width>(flags: &mut Flags, value: W) -> Option<W> {
        let bits = value.zero_extend();
        flags.set_status(if bits == 0 {
            crate::state::flags::ZF
        } else {
            0
        });
        Some(W::truncate(u64::from(bits.count_ones())))
    }
}

/// Register from register.
pub(crate) fn scan_reg<S: Scan, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.b);
    let result = S::apply(&mut cpu.flags, value);
    finish_scan(cpu, op, result)
}

/// Register from memory.
pub(crate) fn scan_mem<S: Scan, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(cpu.load_operand::<W>(op));
    let result = S::apply(&mut cpu.flags, value);
    finish_scan(cpu, op, result)
}

fn finish_scan<W: Width>(cpu: &mut Cpu, op: &Op, result: Option<W>) -> Flow {
    if let Some(result) = result {
        result.set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// A BMI function of two operands: register `b` (or the first register) and a register or memory.
pub(crate) trait Bmi {
    /// The result; flags as after it.
    fn apply<W: Width>(flags: &mut Flags, first: W, second: W) -> W;
}

/// CF as given, OF clear, ZF and SF of the result.
fn bmi_flags<W: Width>(flags: &mut Flags, result: W, carry: bool) {
    flags.after_shift(result, carry, false);
}

/// ANDN: not first, and second.
pub(crate) struct Andn;
impl Bmi for Andn {
    fn apply<W: Width>(flags: &mut Flags, first: W, second: W) -> W {
        let result = W::truncate(!first.zero_extend() & second.zero_extend());
        bmi_flags(flags, result, false);
        result
    }
}

/// BEXTR: bits of the second operand; start and length in the first.
pub(crate) struct Bextr;
impl Bmi for Bextr {
    fn apply<W: Width>(flags: &mut Flags, first: W, second: W) -> W {
        let (start, length) = (first.zero_extend() & 0xff, first.zero_extend() >> 8 & 0xff);
        let shifted = if start >= 64 {
            0
        } else {
            second.zero_extend() >> start
        };
        let mask = if length >= 64 {
            u64::MAX
        } else {
            (1 << length) - 1
        };
        let result = W::truncate(shifted & mask);
        flags.set_status(if result.zero_extend() == 0 {
            crate::state::flags::ZF
        } else {
            0
        });
        result
    }
}

/// BZHI: the second operand with the bits from the first's low byte on cleared.
pub(crate) struct Bzhi;
impl Bmi for Bzhi {
    fn apply<W: Width>(flags: &mut Flags, first: W, second: W) -> W {
        let from = first.zero_extend() & 0xff;
        let over = from >= u64::from(W::BITS);
        let mask = if over { u64::MAX } else { (1 << from) - 1 };
        let result = W::truncate(second.zero_extend() & mask);
        bmi_flags(flags, result, over);
        result
    }
}

/// PDEP: low bits of the first operand to the places of the second.
pub(crate) struct Pdep;
impl Bmi for Pdep {
    fn apply<W: Width>(_flags: &mut Flags, first: W, second: W) -> W {
        let (mut source, mut mask) = (first.zero_extend(), second.zero_extend());
        let mut result = 0;
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            if source & 1 != 0 {
                result |= lowest;
            }
            source >>= 1;
            mask ^= lowest;
        }
        W::truncate(result)
    }
}

/// PEXT: bits of the first operand at the places of the second, to the low end.
pub(crate) struct Pext;
impl Bmi for Pext {
    fn apply<W: Width>(_flags: &mut Flags, first: W, second: W) -> W {
        let (source, mut mask) = (first.zero_extend(), second.zero_extend());
        let (mut result, mut place) = (0, 1u64);
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            if source & lowest != 0 {
                result |= place;
            }
            place = place.wrapping_shl(1);
            mask ^= lowest;
        }
        W::truncate(result)
    }
}

/// BLSI: lowest set bit. CF when the source is not zero.
pub(crate) struct Blsi;
impl Bmi for Blsi {
    fn apply<W: Width>(flags: &mut Flags, _first: W, second: W) -> W {
        let bits = second.zero_extend();
        let result = W::truncate(bits & bits.wrapping_neg());
        bmi_flags(flags, result, bits != 0);
        result
    }
}

/// BLSMSK: all bits up to the lowest set one. CF when the source is zero.
pub(crate) struct Blsmsk;
impl Bmi for Blsmsk {
    fn apply<W: Width>(flags: &mut Flags, _first: W, second: W) -> W {
        let bits = second.zero_extend();
        let result = W::truncate(bits ^ bits.wrapping_sub(1));
        bmi_flags(flags, result, bits == 0);
        result
    }
}

/// BLSR: the lowest set bit cleared. CF when the source is zero.
pub(crate) struct Blsr;
impl Bmi for Blsr {
    fn apply<W: Width>(flags: &mut Flags, _first: W, second: W) -> W {
        let bits = second.zero_extend();
        let result = W::truncate(bits & bits.wrapping_sub(1));
        bmi_flags(flags, result, bits == 0);
        result
    }
}

/// `a` from registers `b` and `imm`.
pub(crate) fn bmi_reg<B: Bmi, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (first, second) = (W::get(&cpu.regs, op.b), W::get(&cpu.regs, op.imm as u8));
    B::apply(&mut cpu.flags, first, second).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// `a` from register `b` and memory.
pub(crate) fn bmi_mem<B: Bmi, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let second = tri!(cpu.load_operand::<W>(op));
    let first = W::get(&cpu.regs, op.b);
    B::apply(&mut cpu.flags, first, second).set(&mut cpu.regs, op.a);
    Flow::Next
}
