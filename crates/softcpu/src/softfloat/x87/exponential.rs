//! F2XM1, FYL2X and FYL2XP1.

use super::wide::{LN_2, LOG2_E, ODD_INVERSES, Precise, Signs, factorials, series};
use super::{Environment, Number, exact, number};
use crate::softfloat::env::{PE, UE, ZE};
use crate::softfloat::f80::F80;
use crate::softfloat::real::{self, EXTENDED, Real};

/// `1 / (k + 1)!`.
static EXPONENTIAL: [u128; 32] = factorials(1, 1);

/// F2XM1: `2^a - 1` for `a` from -1 to 1; beyond, where the result is undefined, `a` itself.
pub fn exp2_minus_1(env: &mut Environment, a: F80) -> F80 {
    if let Some(nan) = env.propagate_one(a) {
        return nan;
    }
    let (value, denormal) = number(a);
    if !env.denormal(denormal) {
        return a;
    }
    match value {
        Number::Zero => a,
        Number::Infinity if a.negative() => F80::ONE.with_sign(true),
        Number::Infinity => a,
        Number::Finite(real) if real.exponent >= 0 => {
            env.raise(PE);
            outside_exp2(real, a)
        }
        Number::Finite(real) => {
            let power = Precise::from_real(real).multiply(LN_2);
            let signs = if real.negative {
                Signs::Alternating
            } else {
                Signs::Same
            };
            power
                .multiply(series(&EXPONENTIAL, power.fraction(), signs))
                .deliver(env)
        }
    }
}

fn outside_exp2(real: Real, a: F80) -> F80 {
    if real.exponent == 0 && real.significand == 1 << 63 && real.negative {
        F80::pack(true, -1, 1 << 63)
    } else {
        a
    }
}

/// The natural logarithm of `(1 + z) / (1 - z)`, for small `z`.
fn logarithm_of_ratio(z: Precise) -> Precise {
    let square = z.multiply(z);
    z.shift(1)
        .multiply(series(&ODD_INVERSES, square.fraction(), Signs::Same))
}

/// The binary logarithm of a positive number other than a power of two.
fn log2(x: Real) -> Precise {
    // The significand is taken from sqrt(1/2) to sqrt(2), such that the logarithm of x near 1 loses no digits.
    const ROOT_2: u64 = 0xb504_f333_f9de_6484;
    let exponent = i32::from(x.significand > ROOT_2);
    let whole = Precise::from_i32(x.exponent + exponent);
    let m = Precise::from_real(Real {
        exponent: -exponent,
        ..x
    });
    let one = Precise::from_i32(1);
    let z = m.add(one.negate()).divide(m.add(one));
    whole.add(logarithm_of_ratio(z).multiply(LOG2_E))
}

/// FYL2X: `y * log2(x)`.
pub fn y_log2_x(env: &mut Environment, y: F80, x: F80) -> F80 {
    if let Some(nan) = env.propagate(y, x) {
        return nan;
    }
    let ((factor, factor_denormal), (value, value_denormal)) = (number(y), number(x));
    if value != Number::Zero && x.negative() {
        return env.invalid();
    }
    match (factor, value) {
        (Number::Zero, Number::Zero | Number::Infinity) => return env.invalid(),
        (Number::Infinity, Number::Finite(real)) if is_one(real) => return env.invalid(),
        (Number::Finite(_), Number::Zero) => {
            env.raise(ZE);
            return F80::infinity(!y.negative());
        }
        _ => {}
    }
    if !env.denormal(factor_denormal | value_denormal) {
        return y;
    }
    let real = match value {
        Number::Zero => return F80::infinity(!y.negative()),
        Number::Infinity => return F80::infinity(y.negative()),
        Number::Finite(real) => real,
    };
    let negative = y.negative() != (real.exponent < 0);
    match factor {
        Number::Zero => F80::zero(negative),
        Number::Infinity => F80::infinity(negative),
        Number::Finite(_) if is_one(real) => F80::zero(y.negative()),
        Number::Finite(factor) if real.significand == 1 << 63 => {
            power_of_two(env, factor, real.exponent)
        }
        Number::Finite(factor) => Precise::from_real(factor).multiply(log2(real)).deliver(env),
    }
}

fn is_one(real: Real) -> bool {
    real.exponent == 0 && real.significand == 1 << 63
}

/// `factor * exponent`, where the logarithm is an integer.
fn power_of_two(env: &mut Environment, factor: Real, exponent: i32) -> F80 {
    let logarithm = Real::from_integer(exponent < 0, u64::from(exponent.unsigned_abs()), 0);
    match logarithm.and_then(|logarithm| real::multiply(factor, logarithm)) {
        None => exact(factor.negative, 0, 0),
        Some(wide) => {
            let value = env.deliver(wide, EXTENDED);
            // The hardware calls every result inexact that it computes.
            env.raise(if value.exponent_field() == 0 {
                UE | PE
            } else {
                PE
            });
            value
        }
    }
}

/// FYL2XP1: `y * log2(x + 1)`. The instruction is defined for `x` from sqrt(1/2)-1 to 1-sqrt(1/2); from -1 down
/// the result is `x` here, elsewhere it is the function.
pub fn y_log2_x_plus_1(env: &mut Environment, y: F80, x: F80) -> F80 {
    if let Some(nan) = env.propagate(y, x) {
        return nan;
    }
    let ((factor, factor_denormal), (value, value_denormal)) = (number(y), number(x));
    let impossible = match (factor, value) {
        (Number::Infinity, Number::Zero) | (Number::Zero, Number::Infinity) => true,
        (_, Number::Infinity) => x.negative(),
        _ => false,
    };
    if impossible {
        return env.invalid();
    }
    if !env.denormal(factor_denormal | value_denormal) {
        return y;
    }
    let negative = y.negative() != x.negative();
    match (factor, value) {
        (Number::Infinity, _) | (_, Number::Infinity) => F80::infinity(negative),
        (Number::Zero, _) | (_, Number::Zero) => F80::zero(negative),
        (Number::Finite(factor), Number::Finite(real)) => Precise::from_real(factor)
            .multiply(log2_plus_1(real))
            .deliver(env),
    }
}

fn log2_plus_1(real: Real) -> Precise {
    let x = Precise::from_real(real);
    if real.exponent < -1 {
        let z = x.divide(x.add(Precise::from_i32(2)));
        return logarithm_of_ratio(z).multiply(LOG2_E);
    }
    let sum = x.add(Precise::from_i32(1));
    let exponent = sum.exponent;
    let m = sum.shift(-exponent - 1);
    let one = Precise::from_i32(1);
    let z = m.add(one.negate()).divide(m.add(one));
    Precise::from_i32(exponent + 1).add(logarithm_of_ratio(z).multiply(LOG2_E))
}
