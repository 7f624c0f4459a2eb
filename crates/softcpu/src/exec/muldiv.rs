//! MUL, IMUL, DIV, IDIV, MULX.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::{Flow, Op};
use crate::state::registers::{AH, RAX, RDX};
use crate::state::{Flags, Width};
use crate::tri;

/// Puts a double-width value into rDX:rAX (AX for bytes).
#[inline(always)]
fn set_pair<W: Width>(cpu: &mut Cpu, value: u128) {
    if W::BITS == 8 {
        (value as u16).set(&mut cpu.regs, RAX);
    } else {
        W::truncate(value as u64).set(&mut cpu.regs, RAX);
        W::truncate((value >> W::BITS) as u64).set(&mut cpu.regs, RDX);
    }
}

/// The double-width value in rDX:rAX (AX for bytes).
#[inline(always)]
fn pair<W: Width>(cpu: &Cpu) -> u128 {
    if W::BITS == 8 {
        return u128::from(u16::get(&cpu.regs, RAX));
    }
    let low = W::get(&cpu.regs, RAX).zero_extend();
    let high = W::get(&cpu.regs, RDX).zero_extend();
    u128::from(high) << W::BITS | u128::from(low)
}

/// `value`, whose low `bits` bits count, as a signed number.
#[inline(always)]
fn signed(value: u128, bits: u32) -> i128 {
    (value << (128 - bits)) as i128 >> (128 - bits)
}

#[inline(always)]
fn widened<W: Width>(value: W) -> i128 {
    i128::from(value.sign_extend() as i64)
}

/// MUL: the accumulator times `operand`.
#[inline(always)]
fn mul<W: Width>(cpu: &mut Cpu, operand: W) -> Flow {
    let left = W::get(&cpu.regs, RAX).zero_extend();
    let product = u128::from(left) * u128::from(operand.zero_extend());
    set_pair::<W>(cpu, product);
    let over = product >> W::BITS != 0;
    cpu.flags
        .after_shift(W::truncate(product as u64), over, over);
    Flow::Next
}

/// MUL of a register.
pub(crate) fn mul_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = W::get(&cpu.regs, op.a);
    mul(cpu, operand)
}

/// MUL of memory.
pub(crate) fn mul_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = tri!(cpu.load_operand::<W>(op));
    mul(cpu, operand)
}

/// IMUL with one operand.
#[inline(always)]
fn imul<W: Width>(cpu: &mut Cpu, operand: W) -> Flow {
    let product = widened(W::get(&cpu.regs, RAX)) * widened(operand);
    set_pair::<W>(cpu, product as u128);
    set_imul_flags::<W>(&mut cpu.flags, product);
    Flow::Next
}

/// IMUL of a register.
pub(crate) fn imul_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = W::get(&cpu.regs, op.a);
    imul(cpu, operand)
}

/// IMUL of memory.
pub(crate) fn imul_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = tri!(cpu.load_operand::<W>(op));
    imul(cpu, operand)
}

#[inline(always)]
fn set_imul_flags<W: Width>(flags: &mut Flags, product: i128) {
    let result = W::truncate(product as u64);
    let over = widened(result) != product;
    flags.after_shift(result, over, over);
}

#[inline(always)]
fn imul_to<W: Width>(cpu: &mut Cpu, target: u8, left: W, right: W) -> Flow {
    let product = widened(left) * widened(right);
    set_imul_flags::<W>(&mut cpu.flags, product);
    W::truncate(product as u64).set(&mut cpu.regs, target);
    Flow::Next
}

/// IMUL register, register.
pub(crate) fn imul_reg_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (left, right) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    imul_to(cpu, op.a, left, right)
}

/// IMUL register, memory.
pub(crate) fn imul_reg_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let right = tri!(cpu.load_operand::<W>(op));
    let left = W::get(&cpu.regs, op.a);
    imul_to(cpu, op.a, left, right)
}

/// IMUL register, register, immediate.
pub(crate) fn imul_reg_reg_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let left = W::get(&cpu.regs, op.b);
    imul_to(cpu, op.a, left, W::truncate(op.imm))
}

/// IMUL register, memory, immediate.
pub(crate) fn imul_reg_mem_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let left = tri!(cpu.load_operand::<W>(op));
    imul_to(cpu, op.a, left, W::truncate(op.imm))
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Flow {
    let Trap = cpu.raise(Exception::plain(vector::DIVIDE));
    Flow::Fault
}

#[inline(always)]
fn set_quotient<W: Width>(cpu: &mut Cpu, quotient: u64, remainder: u64) {
    W::truncate(quotient).set(&mut cpu.regs, RAX);
    let target = if W::BITS == 8 { AH } else { RDX };
    W::truncate(remainder).set(&mut cpu.regs, target);
}

/// DIV: the flags are undefined and left alone.
#[inline(always)]
fn div<W: Width>(cpu: &mut Cpu, divisor: W) -> Flow {
    let dividend = pair::<W>(cpu);
    let divisor = divisor.zero_extend();
    if divisor == 0 {
        return divide_error(cpu);
    }
    // Most dividends fit 64 bits, and a 128-bit division costs ten times as much.
    let (quotient, remainder) = match u64::try_from(dividend) {
        Ok(dividend) => (u128::from(dividend / divisor), dividend % divisor),
        Err(_) => {
            let divisor = u128::from(divisor);
            (dividend / divisor, (dividend % divisor) as u64)
        }
    };
    if quotient > u128::from(W::MASK) {
        return divide_error(cpu);
    }
    set_quotient::<W>(cpu, quotient as u64, remainder);
    Flow::Next
}

/// DIV by a register.
pub(crate) fn div_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let divisor = W::get(&cpu.regs, op.a);
    div(cpu, divisor)
}

/// DIV by memory.
pub(crate) fn div_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let divisor = tri!(cpu.load_operand::<W>(op));
    div(cpu, divisor)
}

/// IDIV.
#[inline(always)]
fn idiv<W: Width>(cpu: &mut Cpu, divisor: W) -> Flow {
    let dividend = signed(pair::<W>(cpu), 2 * W::BITS);
    let divisor = widened(divisor);
    if divisor == 0 {
        return divide_error(cpu);
    }
    let (quotient, remainder) = match i64::try_from(dividend) {
        // The one quotient that does not fit 64 bits.
        Ok(i64::MIN) if divisor == -1 => return divide_error(cpu),
        Ok(dividend) => {
            let divisor = divisor as i64;
            (i128::from(dividend / divisor), dividend % divisor)
        }
        Err(_) => {
            // The smallest dividend by -1 overflows even 128 bits.
            let Some(quotient) = dividend.checked_div(divisor) else {
                return divide_error(cpu);
            };
            (quotient, (dividend % divisor) as i64)
        }
    };
    if widened(W::truncate(quotient as u64)) != quotient {
        return divide_error(cpu);
    }
    set_quotient::<W>(cpu, quotient as u64, remainder as u64);
    Flow::Next
}

/// IDIV by a register.
pub(crate) fn idiv_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let divisor = W::get(&cpu.regs, op.a);
    idiv(cpu, divisor)
}

/// IDIV by memory.
pub(crate) fn idiv_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let divisor = tri!(cpu.load_operand::<W>(op));
    idiv(cpu, divisor)
}

/// MULX: `a` gets the high half, register `b` the low one; the high half wins when they are the same.
#[inline(always)]
fn mulx<W: Width>(cpu: &mut Cpu, op: &Op, operand: W) -> Flow {
    let left = W::get(&cpu.regs, RDX).zero_extend();
    let product = u128::from(left) * u128::from(operand.zero_extend());
    W::truncate(product as u64).set(&mut cpu.regs, op.b);
    W::truncate((product >> W::BITS) as u64).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// MULX with a register; `imm` is its number.
pub(crate) fn mulx_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = W::get(&cpu.regs, op.imm as u8);
    mulx(cpu, op, operand)
}

/// MULX with memory.
pub(crate) fn mulx_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = tri!(cpu.load_operand::<W>(op));
    mulx(cpu, op, operand)
}
