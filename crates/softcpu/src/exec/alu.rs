//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT, ANDN.

use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::state::{Flags, Width};
use crate::tri;

/// An operation of two operands that sets all status flags.
pub(crate) trait Binary {
    /// CMP and TEST only set flags.
    const WRITES: bool = true;
    /// The result; flags as after it.
    fn apply<W: Width>(flags: &mut Flags, left: W, right: W) -> W;
}

macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $writes:expr, $apply:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<W: Width>(flags: &mut Flags, left: W, right: W) -> W {
                let apply: fn(&mut Flags, W, W) -> W = $apply;
                apply(flags, left, right)
            }
        }
    };
}

#[inline(always)]
fn add<W: Width>(flags: &mut Flags, left: W, right: W) -> W {
    let sum = left.add(right);
    flags.after_add(left, right, sum);
    sum
}

#[inline(always)]
fn sub<W: Width>(flags: &mut Flags, left: W, right: W) -> W {
    let difference = left.sub(right);
    flags.after_sub(left, right, difference);
    difference
}

#[inline(always)]
fn logic<W: Width>(flags: &mut Flags, result: u64) -> W {
    let result = W::truncate(result);
    flags.after_logic(result);
    result
}

binary!(/// ADD.
    Add, true, add);
binary!(/// SUB.
    Sub, true, sub);
binary!(/// CMP.
    Cmp, false, sub);
binary!(/// ADC.
Adc, true, |flags, left, right| {
    let sum = left.add(right).add(W::truncate(u64::from(flags.carry())));
    flags.after_add(left, right, sum);
    sum
});
binary!(/// SBB.
Sbb, true, |flags, left, right| {
    let difference = left.sub(right).sub(W::truncate(u64::from(flags.carry())));
    flags.after_sub(left, right, difference);
    difference
});
binary!(/// AND.
    And, true, |flags, left, right| logic(flags, left.zero_extend() & right.zero_extend()));
binary!(/// TEST.
    Test, false, |flags, left, right| logic(flags, left.zero_extend() & right.zero_extend()));
binary!(/// OR.
    Or, true, |flags, left, right| logic(flags, left.zero_extend() | right.zero_extend()));
binary!(/// XOR.
    Xor, true, |flags, left, right| logic(flags, left.zero_extend() ^ right.zero_extend()));

/// Register, register.
pub(crate) fn reg_reg<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (left, right) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    let result = O::apply(&mut cpu.flags, left, right);
    if O::WRITES {
        result.set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// Register, immediate.
pub(crate) fn reg_imm<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let left = W::get(&cpu.regs, op.a);
    let result = O::apply(&mut cpu.flags, left, W::truncate(op.imm));
    if O::WRITES {
        result.set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// Register, memory.
pub(crate) fn reg_mem<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let right = tri!(cpu.load_operand::<W>(op));
    let left = W::get(&cpu.regs, op.a);
    let result = O::apply(&mut cpu.flags, left, right);
    if O::WRITES {
        result.set(&mut cpu.regs, op.a);
    }
    Flow::Next
}

/// Memory, register.
pub(crate) fn mem_reg<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let right = W::get(&cpu.regs, op.b);
    memory::<O, W>(cpu, op, right, false)
}

/// Memory, immediate.
pub(crate) fn mem_imm<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    memory::<O, W>(cpu, op, W::truncate(op.imm), false)
}

/// LOCK memory, register.
pub(crate) fn locked_mem_reg<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let right = W::get(&cpu.regs, op.b);
    memory::<O, W>(cpu, op, right, true)
}

/// LOCK memory, immediate.
pub(crate) fn locked_mem_imm<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    memory::<O, W>(cpu, op, W::truncate(op.imm), true)
}

#[inline(always)]
fn memory<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op, right: W, locked: bool) -> Flow {
    if !O::WRITES {
        let left = tri!(cpu.load_operand::<W>(op));
        O::apply(&mut cpu.flags, left, right);
        return Flow::Next;
    }
    let before = cpu.flags;
    let mut after = before;
    tri!(cpu.modify_operand(op, locked, |left| {
        after = before;
        O::apply(&mut after, left, right)
    }));
    cpu.flags = after;
    Flow::Next
}

/// An operation of one operand.
pub(crate) trait Unary {
    /// The result; flags as after it.
    fn apply<W: Width>(flags: &mut Flags, operand: W) -> W;
}

/// INC.
pub(crate) struct Inc;
impl Unary for Inc {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, operand: W) -> W {
        let carry = flags.carry();
        let result = add(flags, operand, W::truncate(1));
        flags.keep_carry(carry);
        result
    }
}

/// DEC.
pub(crate) struct Dec;
impl Unary for Dec {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, operand: W) -> W {
        let carry = flags.carry();
        let result = sub(flags, operand, W::truncate(1));
        flags.keep_carry(carry);
        result
    }
}

/// NEG.
pub(crate) struct Neg;
impl Unary for Neg {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, operand: W) -> W {
        sub(flags, W::default(), operand)
    }
}

/// NOT: no flags.
pub(crate) struct Not;
impl Unary for Not {
    #[inline(always)]
    fn apply<W: Width>(_flags: &mut Flags, operand: W) -> W {
        W::truncate(!operand.zero_extend())
    }
}

/// Register.
pub(crate) fn unary_reg<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let operand = W::get(&cpu.regs, op.a);
    O::apply(&mut cpu.flags, operand).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// Memory.
pub(crate) fn unary_mem<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    unary_memory::<O, W>(cpu, op, false)
}

/// LOCK memory.
pub(crate) fn locked_unary_mem<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    unary_memory::<O, W>(cpu, op, true)
}

#[inline(always)]
fn unary_memory<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op, locked: bool) -> Flow {
    let before = cpu.flags;
    let mut after = before;
    tri!(cpu.modify_operand(op, locked, |operand: W| {
        after = before;
        O::apply(&mut after, operand)
    }));
    cpu.flags = after;
    Flow::Next
}
