//! Partial remainders, FXTRACT and the trigonometric functions: they set C2 or push a second result.

use super::arithmetic::deliver;
use super::{C0, C1, C2, C3, CODES};
use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::softfloat::f80::{Class, F80};
use crate::softfloat::x87::{self, Environment, Outcome, Quotient};
use crate::tri;

/// FPREM and, with `NEAREST`, FPREM1.
pub(crate) fn remainder<const NEAREST: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(1) {
        cpu.fpu.status &= !C2;
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Flow::Next;
    }
    cpu.fpu.status &= !C2;
    let rounding = if NEAREST {
        Quotient::Nearest
    } else {
        Quotient::Truncated
    };
    let mut env = cpu.environment();
    let outcome = x87::remainder(&mut env, cpu.fpu.st(0), cpu.fpu.st(1), rounding);
    if deliver(cpu, &env, 0, outcome.value) {
        let codes = match outcome.outcome {
            Outcome::Refused => return Flow::Next,
            Outcome::Partial => C2,
            Outcome::Done(quotient) => {
                let code = |bit: u8, code: u16| if quotient & bit != 0 { code } else { 0 };
                code(4, C0) | code(2, C3) | code(1, C1)
            }
        };
        cpu.fpu.status = cpu.fpu.status & !CODES | codes;
    }
    Flow::Next
}

/// A function that replaces ST(0) and pushes a second result, or finds its argument out of range.
pub(crate) trait Pushing {
    /// Whether the instruction has a use for C2.
    const RANGED: bool = true;
    /// The new ST(1) and ST(0).
    fn apply(env: &mut Environment, a: F80) -> Option<(F80, F80)>;
}

/// FXTRACT.
pub(crate) struct Extract;
/// FPTAN.
pub(crate) struct Tangent;
/// FSINCOS.
pub(crate) struct SineCosine;

impl Pushing for Extract {
    const RANGED: bool = false;

    fn apply(env: &mut Environment, a: F80) -> Option<(F80, F80)> {
        let (significand, exponent) = x87::extract(env, a);
        Some((exponent, significand))
    }
}

impl Pushing for Tangent {
    fn apply(env: &mut Environment, a: F80) -> Option<(F80, F80)> {
        let tangent = x87::tangent(env, a)?;
        let nan = tangent.classify() == Class::Quiet;
        Some((tangent, if nan { tangent } else { F80::ONE }))
    }
}

impl Pushing for SineCosine {
    fn apply(env: &mut Environment, a: F80) -> Option<(F80, F80)> {
        x87::sine_cosine(env, a)
    }
}

/// Runs a function that pushes.
pub(crate) fn pushing<O: Pushing>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if O::RANGED {
        cpu.fpu.status &= !C2;
    }
    if cpu.fpu.is_empty(0) {
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Flow::Next;
    }
    if !cpu.fpu.is_empty(7) {
        if cpu.stack_overflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Flow::Next;
    }
    let mut env = cpu.environment();
    let outcome = O::apply(&mut env, cpu.fpu.st(0));
    match outcome {
        None => {
            cpu.commit_x87(&env);
            cpu.fpu.status |= C2;
        }
        Some((first, second)) => {
            if deliver(cpu, &env, 0, first) {
                cpu.fpu.push(second);
            }
        }
    }
    Flow::Next
}

/// A function of ST(0) that may find its argument out of range.
pub(crate) trait Ranged {
    fn apply(env: &mut Environment, a: F80) -> Option<F80>;
}

/// FSIN.
pub(crate) struct Sine;
/// FCOS.
pub(crate) struct Cosine;

impl Ranged for Sine {
    fn apply(env: &mut Environment, a: F80) -> Option<F80> {
        x87::sine(env, a)
    }
}

impl Ranged for Cosine {
    fn apply(env: &mut Environment, a: F80) -> Option<F80> {
        x87::cosine(env, a)
    }
}

/// FSIN, FCOS.
pub(crate) fn ranged<O: Ranged>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    cpu.fpu.status &= !C2;
    if cpu.fpu.is_empty(0) {
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Flow::Next;
    }
    let mut env = cpu.environment();
    match O::apply(&mut env, cpu.fpu.st(0)) {
        None => {
            cpu.commit_x87(&env);
            cpu.fpu.status |= C2;
        }
        Some(value) => {
            deliver(cpu, &env, 0, value);
        }
    }
    Flow::Next
}
