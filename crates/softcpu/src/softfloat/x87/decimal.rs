//! FBLD and FBSTP: 18 packed decimal digits and a sign in 80 bits (SDM vol. 1, 4.7).

use super::{Environment, Number, exact, inexact, number};
use crate::softfloat::env::IE;
use crate::softfloat::f80::F80;
use crate::softfloat::real;

/// Digits of the format.
const DIGITS: u32 = 18;
/// Largest magnitude.
const MAGNITUDE_MAX: u64 = 10u64.pow(DIGITS) - 1;
/// The masked result of an impossible store.
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
/// Sign bit.
const SIGN: u128 = 1 << 79;

/// The number that the low 80 bits of `bits` stand for; digits above nine count with their value.
pub fn from_decimal(bits: u128) -> F80 {
    let magnitude = (0..DIGITS).rev().fold(0u64, |sum, place| {
        sum.wrapping_mul(10)
            .wrapping_add((bits >> (4 * place)) as u64 & 0xf)
    });
    exact(bits & SIGN != 0, magnitude, 0)
}

/// `value` rounded to an integer, as packed decimal in the low 80 bits.
pub fn to_decimal(env: &mut Environment, value: F80) -> u128 {
    let sign = if value.negative() { SIGN } else { 0 };
    if env.propagate_one(value).is_some() {
        env.raise(IE);
        return INDEFINITE;
    }
    let real = match number(value).0 {
        Number::Zero => return sign,
        Number::Infinity => {
            env.raise(IE);
            return INDEFINITE;
        }
        Number::Finite(real) => real,
    };
    let (magnitude, was_inexact, up) = real::to_integer(real, env.rounding());
    match magnitude {
        Some(magnitude) if magnitude <= MAGNITUDE_MAX => {
            if was_inexact {
                inexact(env, up);
            }
            sign | digits(magnitude)
        }
        _ => {
            env.raise(IE);
            INDEFINITE
        }
    }
}

fn digits(magnitude: u64) -> u128 {
    let mut rest = magnitude;
    (0..DIGITS).fold(0, |packed, place| {
        let digit = rest % 10;
        rest /= 10;
        packed | u128::from(digit) << (4 * place)
    })
}
