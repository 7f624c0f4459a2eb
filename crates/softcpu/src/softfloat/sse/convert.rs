//! Conversions between the formats and integers, and ROUNDS.

use super::{Environment, Lane, Number, host, number};
use crate::softfloat::env::{IE, PE, Rounding};
use crate::softfloat::format::{self, F32, F64, Format, Kind};
use crate::softfloat::real::{self, Real};

/// CVTSS2SD.
#[inline]
pub fn widen(env: &mut Environment, bits: u64) -> u64 {
    if let Some(wide) = host::widen(bits) {
        return wide;
    }
    if let Some(nan) = env.propagate::<F32>(bits, bits) {
        return format::infinity::<F64>(format::negative::<F32>(nan))
            | format::fraction::<F32>(nan) << 29;
    }
    convert::<F32, F64>(env, bits)
}

/// CVTSD2SS.
#[inline]
pub fn narrow(env: &mut Environment, bits: u64) -> u64 {
    if let Some(narrow) = host::narrow(env, bits) {
        return narrow;
    }
    if let Some(nan) = env.propagate::<F64>(bits, bits) {
        return format::infinity::<F32>(format::negative::<F64>(nan))
            | format::fraction::<F64>(nan) >> 29;
    }
    convert::<F64, F32>(env, bits)
}

#[inline]
fn convert<From: Format, To: Format>(env: &mut Environment, bits: u64) -> u64 {
    let bits = env.flush::<From>(bits);
    let (value, denormal) = number::<From>(bits);
    env.denormal(denormal);
    let negative = format::negative::<From>(bits);
    match value {
        Number::Zero => format::zero::<To>(negative),
        Number::Infinity => format::infinity::<To>(negative),
        Number::Finite(real) => env.deliver::<To>(real.widen()),
    }
}

/// CVTSx2SI to 32 bits: an impossible result is 8000_0000h and IE.
#[inline]
pub fn to_i32<F: Format>(env: &mut Environment, bits: u64) -> i32 {
    integer::<F>(env, bits, 32, env.rounding()) as i32
}

/// CVTTSx2SI to 32 bits.
#[inline]
pub fn to_i32_truncating<F: Lane>(env: &mut Environment, bits: u64) -> i32 {
    if let Some((value, exact)) = F::cut(bits)
        && let Ok(value) = i32::try_from(value)
    {
        if !exact {
            env.raise(PE);
        }
        return value;
    }
    integer::<F>(env, bits, 32, Rounding::Zero) as i32
}

/// CVTSx2SI to 64 bits: an impossible result is 8000_0000_0000_0000h and IE.
#[inline]
pub fn to_i64<F: Format>(env: &mut Environment, bits: u64) -> i64 {
    integer::<F>(env, bits, 64, env.rounding())
}

/// CVTTSx2SI to 64 bits.
#[inline]
pub fn to_i64_truncating<F: Lane>(env: &mut Environment, bits: u64) -> i64 {
    if let Some((value, exact)) = F::cut(bits) {
        if !exact {
            env.raise(PE);
        }
        return value;
    }
    integer::<F>(env, bits, 64, Rounding::Zero)
}

#[inline]
fn integer<F: Format>(env: &mut Environment, bits: u64, width: u32, rounding: Rounding) -> i64 {
    let real = match format::classify::<F>(env.flush::<F>(bits)) {
        Kind::Zero => return 0,
        Kind::Finite { real, .. } => real,
        Kind::Infinity | Kind::Quiet | Kind::Signaling => return impossible(env, width),
    };
    let (magnitude, inexact, _) = real::to_integer(real, rounding);
    let limit = (1u64 << (width - 1)) - u64::from(!real.negative);
    match magnitude {
        Some(magnitude) if magnitude <= limit => {
            if inexact {
                env.raise(PE);
            }
            if real.negative {
                (magnitude as i64).wrapping_neg()
            } else {
                magnitude as i64
            }
        }
        _ => impossible(env, width),
    }
}

#[cold]
fn impossible(env: &mut Environment, width: u32) -> i64 {
    env.raise(IE);
    i64::MIN >> (64 - width)
}

/// CVTSI2Sx from 32 bits.
#[inline]
pub fn from_i32<F: Lane>(env: &mut Environment, value: i32) -> u64 {
    from_i64::<F>(env, i64::from(value))
}

/// CVTSI2Sx from 64 bits.
#[inline]
pub fn from_i64<F: Lane>(env: &mut Environment, value: i64) -> u64 {
    if let Some(exact) = F::exactly(value) {
        return exact;
    }
    match Real::from_integer(value < 0, value.unsigned_abs(), 0) {
        None => 0,
        Some(real) => env.deliver::<F>(real.widen()),
    }
}

/// ROUNDSx: `immediate` bits 0-1 give the rounding, bit 2 takes it from MXCSR instead, bit 3 keeps PE quiet.
#[inline]
pub fn round_to_integer<F: Format>(env: &mut Environment, bits: u64, immediate: u8) -> u64 {
    if let Some(nan) = env.propagate::<F>(bits, bits) {
        return nan;
    }
    let bits = env.flush::<F>(bits);
    let rounding = if immediate & 4 != 0 {
        env.rounding()
    } else {
        Rounding::from_field(u32::from(immediate))
    };
    match number::<F>(bits).0 {
        Number::Finite(real) if real.exponent < F::FRACTION_BITS as i32 => {
            let (magnitude, inexact, _) = real::to_integer(real, rounding);
            if inexact && immediate & 8 == 0 {
                env.raise(PE);
            }
            match Real::from_integer(real.negative, magnitude.unwrap_or(0), 0) {
                None => format::zero::<F>(real.negative),
                Some(real) => format::pack::<F>(real.negative, real.exponent, real.significand),
            }
        }
        _ => bits,
    }
}
