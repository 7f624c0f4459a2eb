//! FADD, FSUB, FMUL, FDIV and FSQRT: the operations that obey precision control.

use super::{Environment, Number, number};
use crate::softfloat::env::{Rounding, ZE};
use crate::softfloat::f80::F80;
use crate::softfloat::real::{self, Real, Wide};

/// `a + b`.
#[inline]
pub fn add(env: &mut Environment, a: F80, b: F80) -> F80 {
    if let Some(nan) = env.propagate(a, b) {
        return nan;
    }
    sum(env, a, b, b.negative())
}

/// `a - b`.
#[inline]
pub fn subtract(env: &mut Environment, a: F80, b: F80) -> F80 {
    if let Some(nan) = env.propagate(a, b) {
        return nan;
    }
    sum(env, a, b, !b.negative())
}

/// `a + b` with the sign of `b` replaced.
fn sum(env: &mut Environment, a: F80, b: F80, b_negative: bool) -> F80 {
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    if left == Number::Infinity && right == Number::Infinity && a.negative() != b_negative {
        return env.invalid();
    }
    if !env.denormal(left_denormal | right_denormal) {
        return a;
    }
    match (left, right) {
        (Number::Infinity, _) => a,
        (_, Number::Infinity) => b.with_sign(b_negative),
        (Number::Zero, Number::Zero) if a.negative() == b_negative => a,
        (Number::Zero, Number::Zero) => cancelled(env),
        (Number::Finite(x), Number::Finite(y)) => match real::add(x, y.with_sign(b_negative)) {
            None => cancelled(env),
            Some(wide) => env.deliver(wide, env.controlled()),
        },
        (Number::Finite(x), Number::Zero) => env.deliver(x.widen(), env.controlled()),
        (Number::Zero, Number::Finite(y)) => {
            env.deliver(y.with_sign(b_negative).widen(), env.controlled())
        }
    }
}

/// The zero that a sum of opposite numbers gives.
fn cancelled(env: &Environment) -> F80 {
    F80::zero(env.rounding() == Rounding::Down)
}

/// `a * b`.
#[inline]
pub fn multiply(env: &mut Environment, a: F80, b: F80) -> F80 {
    if let Some(nan) = env.propagate(a, b) {
        return nan;
    }
    let negative = a.negative() != b.negative();
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    if matches!(
        (left, right),
        (Number::Zero, Number::Infinity) | (Number::Infinity, Number::Zero)
    ) {
        return env.invalid();
    }
    if !env.denormal(left_denormal | right_denormal) {
        return a;
    }
    match (left, right) {
        (Number::Infinity, _) | (_, Number::Infinity) => F80::infinity(negative),
        (Number::Finite(x), Number::Finite(y)) => deliver(env, real::multiply(x, y), negative),
        (Number::Zero, _) | (_, Number::Zero) => F80::zero(negative),
    }
}

fn deliver(env: &mut Environment, wide: Option<Wide>, negative: bool) -> F80 {
    match wide {
        None => F80::zero(negative),
        Some(wide) => env.deliver(wide, env.controlled()),
    }
}

/// `a / b`.
#[inline]
pub fn divide(env: &mut Environment, a: F80, b: F80) -> F80 {
    if let Some(nan) = env.propagate(a, b) {
        return nan;
    }
    let negative = a.negative() != b.negative();
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    if matches!(
        (left, right),
        (Number::Zero, Number::Zero) | (Number::Infinity, Number::Infinity)
    ) {
        return env.invalid();
    }
    if right == Number::Zero && left != Number::Infinity {
        env.raise(ZE);
        return F80::infinity(negative);
    }
    if !env.denormal(left_denormal | right_denormal) {
        return a;
    }
    match (left, right) {
        (Number::Infinity, _) => F80::infinity(negative),
        (Number::Finite(x), Number::Finite(y)) => env.deliver(real::divide(x, y), env.controlled()),
        (Number::Zero, _) | (_, Number::Infinity | Number::Zero) => F80::zero(negative),
    }
}

/// The square root of `a`.
pub fn square_root(env: &mut Environment, a: F80) -> F80 {
    if let Some(nan) = env.propagate_one(a) {
        return nan;
    }
    let (value, denormal) = number(a);
    if value == Number::Zero {
        return a;
    }
    if a.negative() {
        return env.invalid();
    }
    if !env.denormal(denormal) {
        return a;
    }
    match value {
        Number::Finite(real) => root(env, real),
        Number::Infinity | Number::Zero => a,
    }
}

fn root(env: &mut Environment, real: Real) -> F80 {
    env.deliver(real::square_root(real), env.controlled())
}
