//! FRNDINT, FSCALE, FXTRACT and FXAM.

use super::{Environment, Number, exact, inexact, number};
use crate::softfloat::env::{Rounding, ZE};
use crate::softfloat::f80::{Class, F80};
use crate::softfloat::real::{self, EXTENDED, Real};

/// FRNDINT: `a` rounded to an integer by the control word.
pub fn round_to_integer(env: &mut Environment, a: F80) -> F80 {
    if let Some(nan) = env.propagate_one(a) {
        return nan;
    }
    let (value, denormal) = number(a);
    if !env.denormal(denormal) {
        return a;
    }
    match value {
        Number::Finite(real) if real.exponent < 63 => {
            let (magnitude, was_inexact, up) = real::to_integer(real, env.rounding());
            if was_inexact {
                inexact(env, up);
            }
            exact(a.negative(), magnitude.unwrap_or(0), 0)
        }
        _ => a,
    }
}

/// Scale factors beyond this exceed the exponent range from any start.
const SCALE_MAX: i32 = 0x1_0000;

/// FSCALE: `a * 2^trunc(b)`.
pub fn scale(env: &mut Environment, a: F80, b: F80) -> F80 {
    if let Some(nan) = env.propagate(a, b) {
        return nan;
    }
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    let impossible = if b.negative() {
        Number::Infinity
    } else {
        Number::Zero
    };
    if right == Number::Infinity && left == impossible {
        return env.invalid();
    }
    if !env.denormal(left_denormal | right_denormal) {
        return a;
    }
    match (left, right) {
        (Number::Finite(_), Number::Infinity) if b.negative() => F80::zero(a.negative()),
        (Number::Finite(_), Number::Infinity) => F80::infinity(a.negative()),
        (Number::Finite(x), _) => {
            let mut wide = x.widen();
            wide.exponent += factor(right);
            env.deliver(wide, EXTENDED)
        }
        (Number::Zero | Number::Infinity, _) => a,
    }
}

fn factor(number: Number) -> i32 {
    match number {
        Number::Zero | Number::Infinity => 0,
        Number::Finite(real) => {
            let magnitude = if real.exponent > 16 {
                SCALE_MAX
            } else {
                let (magnitude, _, _) = real::to_integer(real, Rounding::Zero);
                magnitude.map_or(SCALE_MAX, |m| (m as i32).min(SCALE_MAX))
            };
            if real.negative { -magnitude } else { magnitude }
        }
    }
}

/// FXTRACT: the significand (with the sign, exponent 0) and the exponent of `a`.
pub fn extract(env: &mut Environment, a: F80) -> (F80, F80) {
    if let Some(nan) = env.propagate_one(a) {
        return (nan, nan);
    }
    let (value, denormal) = number(a);
    if !env.denormal(denormal) {
        return (a, a);
    }
    match value {
        Number::Zero => {
            env.raise(ZE);
            (a, F80::infinity(true))
        }
        Number::Infinity => (a, F80::INFINITY),
        Number::Finite(real) => {
            let significand = F80::from_real(Real {
                exponent: 0,
                ..real
            });
            (significand, F80::from_i64(i64::from(real.exponent)))
        }
    }
}

/// The classes of FXAM for a register that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examined {
    /// An encoding that is no longer supported.
    Unsupported,
    /// A NaN of either kind.
    Nan,
    /// A normal finite number.
    Normal,
    /// An infinity.
    Infinity,
    /// A zero.
    Zero,
    /// A denormal or pseudo-denormal number.
    Denormal,
}

/// FXAM without the sign.
pub fn examine(a: F80) -> Examined {
    match a.classify() {
        Class::Zero => Examined::Zero,
        Class::Finite { denormal: true, .. } => Examined::Denormal,
        Class::Finite {
            denormal: false, ..
        } => Examined::Normal,
        Class::Infinity => Examined::Infinity,
        Class::Quiet | Class::Signaling => Examined::Nan,
        Class::Unsupported => Examined::Unsupported,
    }
}
