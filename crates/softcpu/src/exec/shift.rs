//! Shifts and rotates.

use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::state::registers::RCX;
use crate::state::{Flags, Width};
use crate::tri;

/// A shift or rotate of one operand by a count.
pub(crate) trait Shift {
    /// The result; flags as after it. `count` is not zero and less than 32 (64 for 64-bit operands).
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W;
}

/// SHL, SAL.
pub(crate) struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let wide = u128::from(value.zero_extend()) << count;
        let result = W::truncate(wide as u64);
        let carry = wide >> W::BITS & 1 != 0;
        flags.after_shift(result, carry, result.sign() != carry);
        result
    }
}

/// SHR.
pub(crate) struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let bits = value.zero_extend();
        let result = W::truncate(bits >> count);
        let carry = bits >> (count - 1) & 1 != 0;
        // Defined for a count of one: the old sign. For others the sign of the last step.
        let overflow = count == 1 && value.sign();
        flags.after_shift(result, carry, overflow);
        result
    }
}

/// SAR.
pub(crate) struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let bits = value.sign_extend() as i64;
        let result = W::truncate((bits >> count) as u64);
        let carry = bits >> (count - 1) & 1 != 0;
        flags.after_shift(result, carry, false);
        result
    }
}

/// ROL.
pub(crate) struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let result = rotated_left(value, count % W::BITS);
        let carry = result.zero_extend() & 1 != 0;
        flags.set_carry_overflow(carry, result.sign() != carry);
        result
    }
}

/// ROR.
pub(crate) struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let result = rotated_left(value, (W::BITS - count % W::BITS) % W::BITS);
        let next = result.zero_extend() >> (W::BITS - 2) & 1 != 0;
        flags.set_carry_overflow(result.sign(), result.sign() != next);
        result
    }
}

/// RCL.
pub(crate) struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let count = count % (W::BITS + 1);
        if count == 0 {
            return value;
        }
        // The carry stands above the operand; rotate all W + 1 bits.
        let size = W::BITS + 1;
        let all = u128::from(value.zero_extend()) | u128::from(flags.carry()) << W::BITS;
        let rotated = all << count | all >> (size - count);
        let result = W::truncate(rotated as u64);
        let carry = rotated >> W::BITS & 1 != 0;
        flags.set_carry_overflow(carry, result.sign() != carry);
        result
    }
}

/// RCR.
pub(crate) struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let count = count % (W::BITS + 1);
        if count == 0 {
            return value;
        }
        let size = W::BITS + 1;
        let all = u128::from(value.zero_extend()) | u128::from(flags.carry()) << W::BITS;
        let rotated = all >> count | all << (size - count);
        let result = W::truncate(rotated as u64);
        let carry = rotated >> W::BITS & 1 != 0;
        let next = result.zero_extend() >> (W::BITS - 2) & 1 != 0;
        flags.set_carry_overflow(carry, result.sign() != next);
        result
    }
}

/// `value` rotated left by `count`, which is less than its width.
#[inline(always)]
pub(crate) fn rotated_left<W: Width>(value: W, count: u32) -> W {
    let bits = value.zero_extend();
    if count == 0 {
        return value;
    }
    W::truncate(bits << count | bits >> (W::BITS - count))
}

/// The count as processors take it.
#[inline(always)]
fn masked<W: Width>(count: u64) -> u32 {
    count as u32 & if W::BITS == 64 { 63 } else { 31 }
}

/// Register by immediate (masked and not zero: the lowering sees to it).
pub(crate) fn reg_imm<S: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.a);
    S::apply(&mut cpu.flags, value, op.imm as u32).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Register by CL.
pub(crate) fn reg_cl<S: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = masked::<W>(cpu.regs.read(RCX));
    let value = W::get(&cpu.regs, op.a);
    let result = if count == 0 {
        value
    } else {
        S::apply(&mut cpu.flags, value, count)
    };
    result.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Memory by immediate, which may be zero.
pub(crate) fn mem_imm<S: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    memory::<S, W>(cpu, op, masked::<W>(op.imm))
}

/// Memory by CL.
pub(crate) fn mem_cl<S: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = masked::<W>(cpu.regs.read(RCX));
    memory::<S, W>(cpu, op, count)
}

#[inline(always)]
fn memory<S: Shift, W: Width>(cpu: &mut Cpu, op: &Op, count: u32) -> Flow {
    let before = cpu.flags;
    let mut after = before;
    tri!(cpu.modify_operand(op, false, |value: W| {
        after = before;
        if count == 0 {
            value
        } else {
            S::apply(&mut after, value, count)
        }
    }));
    cpu.flags = after;
    Flow::Next
}

/// SHLD and SHRD.
pub(crate) trait Double {
    /// The result; flags as after it. `count` is not zero.
    fn apply<W: Width>(flags: &mut Flags, target: W, source: W, count: u32) -> W;
}

/// SHLD.
pub(crate) struct Shld;
impl Double for Shld {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, target: W, source: W, count: u32) -> W {
        let (t, s) = (
            u128::from(target.zero_extend()),
            u128::from(source.zero_extend()),
        );
        // A count above 16 of 16-bit operands is undefined; processors go on with the target again.
        let wide = if W::BITS == 16 {
            (t << 32 | s << 16 | t) << count >> 16
        } else {
            (t << W::BITS | s) << count
        };
        let result = W::truncate((wide >> W::BITS) as u64);
        let carry = if W::BITS == 16 {
            (t << 32 | s << 16 | t) >> (48 - count) & 1 != 0
        } else {
            (t << W::BITS | s) >> (2 * W::BITS - count) & 1 != 0
        };
        flags.after_shift(result, carry, result.sign() != target.sign());
        result
    }
}

/// SHRD.
pub(crate) struct Shrd;
impl Double for Shrd {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, target: W, source: W, count: u32) -> W {
        let (t, s) = (
            u128::from(target.zero_extend()),
            u128::from(source.zero_extend()),
        );
        let all = if W::BITS == 16 {
            t << 32 | s << 16 | t
        } else {
            s << W::BITS | t
        };
        let result = W::truncate((all >> count) as u64);
        let carry = all >> (count - 1) & 1 != 0;
        flags.after_shift(result, carry, result.sign() != target.sign());
        result
    }
}

/// The count of SHLD and SHRD: an immediate in `imm`, or CL when `imm` is `u64::MAX`.
#[inline(always)]
fn double_count<W: Width>(cpu: &Cpu, op: &Op) -> u32 {
    masked::<W>(if op.imm == u64::MAX {
        cpu.regs.read(RCX)
    } else {
        op.imm
    })
}

/// Register target.
pub(crate) fn double_reg<D: Double, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = double_count::<W>(cpu, op);
    let (target, source) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    let result = if count == 0 {
        target
    } else {
        D::apply(&mut cpu.flags, target, source, count)
    };
    result.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Memory target.
pub(crate) fn double_mem<D: Double, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = double_count::<W>(cpu, op);
    let source = W::get(&cpu.regs, op.b);
    let before = cpu.flags;
    let mut after = before;
    tri!(cpu.modify_operand(op, false, |target: W| {
        after = before;
        if count == 0 {
            target
        } else {
            D::apply(&mut after, target, source, count)
        }
    }));
    cpu.flags = after;
    Flow::Next
}

/// A shift without flags (BMI2): `a` = value shifted by a count.
pub(crate) trait Plain {
    /// The result.
    fn apply<W: Width>(value: W, count: u32) -> W;
}

/// SARX.
pub(crate) struct Sarx;
impl Plain for Sarx {
    fn apply<W: Width>(value: W, count: u32) -> W {
        W::truncate((value.sign_extend() as i64 >> count) as u64)
    }
}

/// SHLX.
pub(crate) struct Shlx;
impl Plain for Shlx {
    fn apply<W: Width>(value: W, count: u32) -> W {
        W::truncate(value.zero_extend() << count)
    }
}

/// SHRX.
pub(crate) struct Shrx;
impl Plain for Shrx {
    fn apply<W: Width>(value: W, count: u32) -> W {
        W::truncate(value.zero_extend() >> count)
    }
}

/// Value in register `b`, count in register `imm`.
pub(crate) fn plain_reg<P: Plain, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = masked::<W>(cpu.regs.read(op.imm as u8));
    P::apply(W::get(&cpu.regs, op.b), count).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Value in memory, count in register `imm`.
pub(crate) fn plain_mem<P: Plain, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(cpu.load_operand::<W>(op));
    let count = masked::<W>(cpu.regs.read(op.imm as u8));
    P::apply(value, count).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// RORX of register `b` by `imm`.
pub(crate) fn rorx_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = W::get(&cpu.regs, op.b);
    rotated_left(value, (W::BITS - op.imm as u32 % W::BITS) % W::BITS).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// RORX of memory by `imm`.
pub(crate) fn rorx_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = tri!(cpu.load_operand::<W>(op));
    rotated_left(value, (W::BITS - op.imm as u32 % W::BITS) % W::BITS).set(&mut cpu.regs, op.a);
    Flow::Next
}
