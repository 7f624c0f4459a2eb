//! Add, subtract, multiply, divide and square root in full generality. The instructions go through [`super::Lane`],
//! which comes here when the host's arithmetic will not do.

use super::{Environment, Number, number};
use crate::softfloat::env::{Rounding, ZE};
use crate::softfloat::format::{self, Format};
use crate::softfloat::real::{self, Wide};

/// `a + b`.
pub fn add<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    match env.propagate::<F>(a, b) {
        Some(nan) => nan,
        None => sum::<F>(env, a, b),
    }
}

/// `a - b`.
pub fn subtract<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    match env.propagate::<F>(a, b) {
        Some(nan) => nan,
        None => sum::<F>(env, a, b ^ F::SIGN),
    }
}

fn sum<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    let (a, b) = (env.flush::<F>(a), env.flush::<F>(b));
    let ((left, left_denormal), (right, right_denormal)) = (number::<F>(a), number::<F>(b));
    if left == Number::Infinity && right == Number::Infinity && a != b {
        return env.invalid::<F>();
    }
    env.denormal(left_denormal | right_denormal);
    match (left, right) {
        (Number::Infinity, _) => a,
        (_, Number::Infinity) => b,
        (Number::Zero, Number::Zero) if a == b => a,
        (Number::Zero, Number::Zero) => cancelled::<F>(env),
        (Number::Finite(x), Number::Finite(y)) => match real::add(x, y) {
            None => cancelled::<F>(env),
            Some(wide) => env.deliver::<F>(wide),
        },
        (Number::Finite(x), Number::Zero) => env.deliver::<F>(x.widen()),
        (Number::Zero, Number::Finite(y)) => env.deliver::<F>(y.widen()),
    }
}

/// The zero that a sum of opposite numbers gives.
fn cancelled<F: Format>(env: &Environment) -> u64 {
    format::zero::<F>(env.rounding() == Rounding::Down)
}

/// `a * b`.
pub fn multiply<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    if let Some(nan) = env.propagate::<F>(a, b) {
        return nan;
    }
    let negative = format::negative::<F>(a ^ b);
    let (a, b) = (env.flush::<F>(a), env.flush::<F>(b));
    let ((left, left_denormal), (right, right_denormal)) = (number::<F>(a), number::<F>(b));
    if matches!(
        (left, right),
        (Number::Zero, Number::Infinity) | (Number::Infinity, Number::Zero)
    ) {
        return env.invalid::<F>();
    }
    env.denormal(left_denormal | right_denormal);
    match (left, right) {
        (Number::Infinity, _) | (_, Number::Infinity) => format::infinity::<F>(negative),
        (Number::Finite(x), Number::Finite(y)) => deliver::<F>(env, real::multiply(x, y), negative),
        (Number::Zero, _) | (_, Number::Zero) => format::zero::<F>(negative),
    }
}

fn deliver<F: Format>(env: &mut Environment, wide: Option<Wide>, negative: bool) -> u64 {
    match wide {
        None => format::zero::<F>(negative),
        Some(wide) => env.deliver::<F>(wide),
    }
}

/// `a / b`.
pub fn divide<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    if let Some(nan) = env.propagate::<F>(a, b) {
        return nan;
    }
    let negative = format::negative::<F>(a ^ b);
    let (a, b) = (env.flush::<F>(a), env.flush::<F>(b));
    let ((left, left_denormal), (right, right_denormal)) = (number::<F>(a), number::<F>(b));
    if matches!(
        (left, right),
        (Number::Zero, Number::Zero) | (Number::Infinity, Number::Infinity)
    ) {
        return env.invalid::<F>();
    }
    if right == Number::Zero && left != Number::Infinity {
        env.raise(ZE);
        return format::infinity::<F>(negative);
    }
    env.denormal(left_denormal | right_denormal);
    match (left, right) {
        (Number::Infinity, _) => format::infinity::<F>(negative),
        (Number::Finite(x), Number::Finite(y)) => env.deliver::<F>(real::divide(x, y)),
        (Number::Zero, _) | (_, Number::Infinity | Number::Zero) => format::zero::<F>(negative),
    }
}

/// The square root of `a`.
pub fn square_root<F: Format>(env: &mut Environment, a: u64) -> u64 {
    if let Some(nan) = env.propagate::<F>(a, a) {
        return nan;
    }
    let a = env.flush::<F>(a);
    let (value, denormal) = number::<F>(a);
    if value == Number::Zero {
        return a;
    }
    if format::negative::<F>(a) {
        return env.invalid::<F>();
    }
    env.denormal(denormal);
    match value {
        Number::Finite(real) => env.deliver::<F>(real::square_root(real)),
        Number::Infinity | Number::Zero => a,
    }
}
