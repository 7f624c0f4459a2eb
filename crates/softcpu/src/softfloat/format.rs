//! The interchange formats of 32 and 64 bits: taking apart and putting together. Numbers travel as `u64`.

use super::real::{DOUBLE, Real, SINGLE, Target};

/// A format, as a type.
pub trait Format: Copy {
    /// Precision and exponent range.
    const TARGET: Target;
    /// Bits of the fraction field.
    const FRACTION_BITS: u32 = Self::TARGET.precision - 1;
    /// Largest biased exponent: infinities and NaNs.
    const EXPONENT_SPECIAL: u64;
    /// The sign bit.
    const SIGN: u64;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION_BITS - 1);
    /// All bits of the format.
    const ALL: u64 = Self::SIGN | (Self::SIGN - 1);
}

/// IEEE single precision.
#[derive(Clone, Copy, Debug)]
pub struct F32;

/// IEEE double precision.
#[derive(Clone, Copy, Debug)]
pub struct F64;

impl Format for F32 {
    const TARGET: Target = SINGLE;
    const EXPONENT_SPECIAL: u64 = 0xff;
    const SIGN: u64 = 1 << 31;
}

impl Format for F64 {
    const TARGET: Target = DOUBLE;
    const EXPONENT_SPECIAL: u64 = 0x7ff;
    const SIGN: u64 = 1 << 63;
}

/// What an encoding stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plus or minus zero.
    Zero,
    /// A finite number.
    Finite {
        /// The number.
        real: Real,
        /// Whether it is denormal.
        denormal: bool,
    },
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signaling,
}

/// Whether the sign bit is set.
#[inline]
pub const fn negative<F: Format>(bits: u64) -> bool {
    bits & F::SIGN != 0
}

/// The fraction field.
#[inline]
pub const fn fraction<F: Format>(bits: u64) -> u64 {
    bits & ((1 << F::FRACTION_BITS) - 1)
}

/// The biased exponent.
#[inline]
pub const fn exponent_field<F: Format>(bits: u64) -> u64 {
    bits >> F::FRACTION_BITS & F::EXPONENT_SPECIAL
}

/// Whether `bits` is a NaN.
#[inline]
pub const fn is_nan<F: Format>(bits: u64) -> bool {
    bits & (F::ALL ^ F::SIGN) > F::EXPONENT_SPECIAL << F::FRACTION_BITS
}

/// Whether `bits` is a signalling NaN.
#[inline]
pub const fn is_signaling<F: Format>(bits: u64) -> bool {
    is_nan::<F>(bits) && bits & F::QUIET == 0
}

/// What `bits` stands for.
#[inline]
pub fn classify<F: Format>(bits: u64) -> Kind {
    let (field, fraction) = (exponent_field::<F>(bits), fraction::<F>(bits));
    let top = 64 - F::TARGET.precision;
    if field == F::EXPONENT_SPECIAL {
        return if fraction == 0 {
            Kind::Infinity
        } else if fraction & F::QUIET != 0 {
            Kind::Quiet
        } else {
            Kind::Signaling
        };
    }
    if field == 0 {
        let scale = F::TARGET.exponent_min - F::FRACTION_BITS as i32;
        return match Real::from_integer(negative::<F>(bits), fraction, scale) {
            None => Kind::Zero,
            Some(real) => Kind::Finite {
                real,
                denormal: true,
            },
        };
    }
    let real = Real {
        negative: negative::<F>(bits),
        exponent: field as i32 - F::TARGET.exponent_max,
        significand: 1 << 63 | fraction << top,
    };
    Kind::Finite {
        real,
        denormal: false,
    }
}

/// Zero of the given sign.
#[inline]
pub const fn zero<F: Format>(negative: bool) -> u64 {
    if negative { F::SIGN } else { 0 }
}

/// Infinity of the given sign.
#[inline]
pub const fn infinity<F: Format>(negative: bool) -> u64 {
    zero::<F>(negative) | F::EXPONENT_SPECIAL << F::FRACTION_BITS
}

/// The NaN that invalid operations deliver.
#[inline]
pub const fn indefinite<F: Format>() -> u64 {
    infinity::<F>(true) | F::QUIET
}

/// The encoding of a rounded result: `exponent` is that of bit 63, which is clear in denormals and zero. An exponent
/// above the format's gives infinity.
#[inline]
pub fn pack<F: Format>(negative: bool, exponent: i32, significand: u64) -> u64 {
    if exponent > F::TARGET.exponent_max {
        return infinity::<F>(negative);
    }
    let field = if significand >> 63 == 0 {
        0
    } else {
        (exponent + F::TARGET.exponent_max) as u64
    };
    let fraction = significand << 1 >> (65 - F::TARGET.precision);
    zero::<F>(negative) | (field & F::EXPONENT_SPECIAL) << F::FRACTION_BITS | fraction
}
