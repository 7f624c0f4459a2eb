//! Loads and stores of the other number formats: `m32fp`, `m64fp` and the integers.

use super::{Environment, Number, inexact, number};
use crate::softfloat::env::{IE, PE};
use crate::softfloat::f80::{Class, F80};
use crate::softfloat::format::{self, F32, F64, Format, Kind};
use crate::softfloat::real;

/// FLD m32fp: raises DE for a denormal and IE for a signalling NaN.
pub fn from_f32(env: &mut Environment, bits: u32) -> F80 {
    load::<F32>(env, u64::from(bits))
}

/// FLD m64fp: raises DE for a denormal and IE for a signalling NaN.
pub fn from_f64(env: &mut Environment, bits: u64) -> F80 {
    load::<F64>(env, bits)
}

/// An `m32fp` operand of arithmetic: its value, a signalling NaN still one, and whether it is denormal. That is told
/// to the environment by [`Environment::denormal_operand`] after the operation.
pub fn operand_f32(bits: u32) -> (F80, bool) {
    operand::<F32>(u64::from(bits))
}

/// The same for `m64fp`.
pub fn operand_f64(bits: u64) -> (F80, bool) {
    operand::<F64>(bits)
}

#[inline]
fn load<F: Format>(env: &mut Environment, bits: u64) -> F80 {
    let (value, denormal) = operand::<F>(bits);
    env.denormal(denormal);
    env.propagate_one(value).unwrap_or(value)
}

#[inline]
fn operand<F: Format>(bits: u64) -> (F80, bool) {
    let negative = format::negative::<F>(bits);
    match format::classify::<F>(bits) {
        Kind::Zero => (F80::zero(negative), false),
        Kind::Finite { real, denormal } => (F80::from_real(real), denormal),
        Kind::Infinity => (F80::infinity(negative), false),
        Kind::Quiet | Kind::Signaling => {
            let fraction = format::fraction::<F>(bits) << (64 - F::TARGET.precision);
            (
                F80::new(0x7fff, 1 << 63 | fraction).with_sign(negative),
                false,
            )
        }
    }
}

/// FST m32fp.
pub fn to_f32(env: &mut Environment, value: F80) -> u32 {
    store::<F32>(env, value) as u32
}

/// FST m64fp.
pub fn to_f64(env: &mut Environment, value: F80) -> u64 {
    store::<F64>(env, value)
}

#[inline]
fn store<F: Format>(env: &mut Environment, value: F80) -> u64 {
    let negative = value.negative();
    match value.classify() {
        Class::Zero => format::zero::<F>(negative),
        Class::Infinity => format::infinity::<F>(negative),
        Class::Finite { real, .. } => {
            let before = env.raised;
            let finished = env.finish(real.widen(), F::TARGET, 0);
            if !env.stores_to_memory() {
                // Nothing is stored, so nothing is inexact or rounded.
                env.raised &= before | !PE;
                env.rounded_up = false;
            }
            format::pack::<F>(negative, finished.exponent, finished.significand)
        }
        class @ (Class::Quiet | Class::Signaling) => {
            if class == Class::Signaling {
                env.raise(IE);
            }
            let fraction = value.quieted().significand << 1 >> (65 - F::TARGET.precision);
            format::infinity::<F>(negative) | fraction
        }
        Class::Unsupported => {
            env.raise(IE);
            format::indefinite::<F>()
        }
    }
}

/// FIST m16int with the given rounding in the environment; an impossible result is 8000h and IE.
pub fn to_i16(env: &mut Environment, value: F80) -> i16 {
    integer(env, value, 16) as i16
}

/// FIST m32int; an impossible result is 8000_0000h and IE.
pub fn to_i32(env: &mut Environment, value: F80) -> i32 {
    integer(env, value, 32) as i32
}

/// FISTP m64int; an impossible result is 8000_0000_0000_0000h and IE.
pub fn to_i64(env: &mut Environment, value: F80) -> i64 {
    integer(env, value, 64)
}

impl Environment {
    /// The same environment, rounding towards zero, as FISTTP does.
    #[must_use]
    pub const fn truncating(mut self) -> Self {
        self.control |= 3 << 10;
        self
    }
}

fn integer(env: &mut Environment, value: F80, bits: u32) -> i64 {
    let indefinite = i64::MIN >> (64 - bits);
    if env.propagate_one(value).is_some() {
        env.raise(IE);
        return indefinite;
    }
    let real = match number(value).0 {
        Number::Zero => return 0,
        Number::Infinity => {
            env.raise(IE);
            return indefinite;
        }
        Number::Finite(real) => real,
    };
    let (magnitude, was_inexact, up) = real::to_integer(real, env.rounding());
    let limit = (1u64 << (bits - 1)) - u64::from(!real.negative);
    match magnitude {
        Some(magnitude) if magnitude <= limit => {
            if was_inexact {
                inexact(env, up);
            }
            if real.negative {
                (magnitude as i64).wrapping_neg()
            } else {
                magnitude as i64
            }
        }
        _ => {
            env.raise(IE);
            indefinite
        }
    }
}
