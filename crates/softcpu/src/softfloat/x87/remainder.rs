//! FPREM (truncating) and FPREM1 (IEEE 754: nearest quotient), one reduction step at a time.

use super::{Environment, Number, number};
use crate::softfloat::f80::F80;
use crate::softfloat::real::{EXTENDED, Real, Wide};

/// How the quotient is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// Towards zero (FPREM).
    Truncated,
    /// To the nearest integer, ties to even (FPREM1).
    Nearest,
}

/// What one step leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The new ST(0).
    pub value: F80,
    /// What became of the quotient.
    pub outcome: Outcome,
}

/// What became of the quotient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The division is done; the three low bits of the quotient, for C0, C3 and C1.
    Done(u8),
    /// Another step is needed (C2).
    Partial,
    /// There was no division: NaNs and invalid operands.
    Refused,
}

/// Reduces `a` modulo `b`, by at most 63 binary digits of the quotient. The final result is exact.
pub fn remainder(env: &mut Environment, a: F80, b: F80, rounding: Quotient) -> Remainder {
    let done = |value| Remainder {
        value,
        outcome: Outcome::Done(0),
    };
    let refused = |value| Remainder {
        value,
        outcome: Outcome::Refused,
    };
    if let Some(nan) = env.propagate(a, b) {
        return refused(nan);
    }
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    if left == Number::Infinity || right == Number::Zero {
        return refused(env.invalid());
    }
    if !env.denormal(left_denormal | right_denormal) {
        return done(a);
    }
    match (left, right) {
        (Number::Finite(x), Number::Finite(y)) => reduce(env, x, y, rounding),
        (Number::Finite(x), _) => done(store(env, x.negative, x.exponent, x.significand.into())),
        _ => done(a),
    }
}

/// `magnitude * 2^(exponent - 63)`, which is exact by construction.
fn store(env: &mut Environment, negative: bool, exponent: i32, magnitude: u128) -> F80 {
    match Wide::normalise(negative, exponent, magnitude << 63) {
        None => F80::zero(negative),
        Some(wide) => env.deliver(wide, EXTENDED),
    }
}

fn reduce(env: &mut Environment, a: Real, b: Real, rounding: Quotient) -> Remainder {
    let distance = a.exponent - b.exponent;
    if distance >= 64 {
        // The step removes between 32 and 63 digits, such that the rest is a multiple of 32.
        let digits = (distance & 31 | 32) as u32;
        let rest = (u128::from(a.significand) << digits) % u128::from(b.significand);
        let exponent = a.exponent - digits as i32;
        return Remainder {
            value: store(env, a.negative, exponent, rest),
            outcome: Outcome::Partial,
        };
    }
    if distance < -1 || (distance < 0 && rounding == Quotient::Truncated) {
        let value = store(env, a.negative, a.exponent, a.significand.into());
        return Remainder {
            value,
            outcome: Outcome::Done(0),
        };
    }
    // Both in units of the smaller exponent.
    let (dividend, divisor, exponent) = if distance < 0 {
        (
            u128::from(a.significand),
            u128::from(b.significand) << 1,
            a.exponent,
        )
    } else {
        (
            u128::from(a.significand) << distance,
            u128::from(b.significand),
            b.exponent,
        )
    };
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    let up = rounding == Quotient::Nearest
        && (rest * 2 > divisor || (rest * 2 == divisor && quotient & 1 != 0));
    let (quotient, rest) = if up {
        (quotient + 1, divisor - rest)
    } else {
        (quotient, rest)
    };
    // A zero keeps the sign of the dividend.
    let negative = a.negative != (up && rest != 0);
    Remainder {
        value: store(env, negative, exponent, rest),
        outcome: Outcome::Done((quotient & 7) as u8),
    }
}
