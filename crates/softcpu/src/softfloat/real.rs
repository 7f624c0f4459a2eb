//! Finite numbers taken apart, the four basic operations and the square root on them, and rounding.
//!
//! Every format of the x86 fits in a 64-bit significand, so a result before rounding fits in 128 bits whose lowest bit
//! is "sticky": it stands for everything below. One rounding routine then serves all formats, precision control,
//! denormal results and the exponent wrap of unmasked x87 exceptions.
//!
//! `rustc_apfloat` rounds the same way but does not tell the direction (C1), has no square root, no precision control
//! with the wide exponent range and no tininess after rounding for all formats; it is the yardstick in the tests.

use super::env::{OE, PE, Rounding, UE};

/// A finite number other than zero: `significand * 2^(exponent - 63)`, bit 63 of the significand is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// Whether the number is below zero.
    pub negative: bool,
    /// Exponent of the leading bit.
    pub exponent: i32,
    /// Significand, normalised.
    pub significand: u64,
}

/// A result before rounding: `significand * 2^(exponent - 127)`, bit 127 is set, bit 0 is sticky.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Whether the number is below zero.
    pub negative: bool,
    /// Exponent of the leading bit.
    pub exponent: i32,
    /// Significand, normalised.
    pub significand: u128,
}

/// Where a result has to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Bits of the significand with its leading one: 24, 53 or 64.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub exponent_min: i32,
    /// Exponent of the largest finite number.
    pub exponent_max: i32,
}

/// IEEE single precision.
pub const SINGLE: Target = Target {
    precision: 24,
    exponent_min: -126,
    exponent_max: 127,
};
/// IEEE double precision.
pub const DOUBLE: Target = Target {
    precision: 53,
    exponent_min: -1022,
    exponent_max: 1023,
};
/// x87 double extended precision.
pub const EXTENDED: Target = Target {
    precision: 64,
    exponent_min: -16382,
    exponent_max: 16383,
};

/// A rounded result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Exponent of bit 63 of the significand; `exponent_max + 1` means infinity.
    pub exponent: i32,
    /// Significand; bit 63 is clear in a denormal number (the exponent is then `exponent_min`) and in zero.
    pub significand: u64,
    /// OE, UE and PE.
    pub raised: u32,
    /// Whether the magnitude grew by rounding (C1 of the x87).
    pub up: bool,
    /// Whether the result, rounded with an unbounded exponent, is below the smallest normal number.
    pub tiny: bool,
}

/// What to do when the exponent does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handling {
    /// Rounding direction.
    pub rounding: Rounding,
    /// Whether overflow is masked: infinity or the largest number; else the exponent wraps by `wrap`.
    pub overflow_masked: bool,
    /// Whether underflow is masked: a denormal number; else the exponent wraps by `wrap`.
    pub underflow_masked: bool,
    /// Bias of a result whose exception is not masked (24,576 on the x87); 0 where such a result is not stored.
    pub wrap: i32,
}

/// Shifts right; what falls off the end stays visible in bit 0.
#[inline]
pub(crate) const fn shift_sticky(value: u128, count: u32) -> u128 {
    if count == 0 {
        value
    } else if count < 128 {
        let lost = value & ((1 << count) - 1);
        (value >> count) | (lost != 0) as u128
    } else {
        (value != 0) as u128
    }
}

impl Real {
    /// The number `magnitude * 2^scale`, or `None` for zero.
    #[inline]
    pub fn from_integer(negative: bool, magnitude: u64, scale: i32) -> Option<Self> {
        if magnitude == 0 {
            return None;
        }
        let shift = magnitude.leading_zeros();
        Some(Self {
            negative,
            exponent: scale + 63 - shift as i32,
            significand: magnitude << shift,
        })
    }

    /// The same number, ready for rounding.
    #[inline]
    pub fn widen(self) -> Wide {
        Wide {
            negative: self.negative,
            exponent: self.exponent,
            significand: u128::from(self.significand) << 64,
        }
    }

    /// The same magnitude with another sign.
    #[inline]
    pub fn with_sign(self, negative: bool) -> Self {
        Self { negative, ..self }
    }

    /// Compares magnitudes.
    #[inline]
    pub fn magnitude_cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.exponent, self.significand).cmp(&(other.exponent, other.significand))
    }
}

impl Wide {
    /// `significand * 2^(exponent - 126)` for any significand, or `None` for zero: the shape in which sums and
    /// products come.
    #[inline]
    pub(crate) fn normalise(negative: bool, exponent: i32, significand: u128) -> Option<Self> {
        if significand == 0 {
            return None;
        }
        let shift = significand.leading_zeros();
        Some(Self {
            negative,
            exponent: exponent + 1 - shift as i32,
            significand: significand << shift,
        })
    }
}

/// `a + b`, or `None` if they cancel exactly.
#[inline]
pub fn add(a: Real, b: Real) -> Option<Wide> {
    let (large, small) = if a.magnitude_cmp(&b).is_ge() {
        (a, b)
    } else {
        (b, a)
    };
    let gap = (large.exponent - small.exponent) as u32;
    // One bit of headroom for the carry; 63 bits below for what the shift pushes out.
    let left = u128::from(large.significand) << 63;
    let right = shift_sticky(u128::from(small.significand) << 63, gap);
    let sum = if large.negative == small.negative {
        left + right
    } else {
        left - right
    };
    Wide::normalise(large.negative, large.exponent, sum)
}

/// `a * b`.
#[inline]
pub fn multiply(a: Real, b: Real) -> Option<Wide> {
    let product = u128::from(a.significand) * u128::from(b.significand);
    Wide::normalise(a.negative != b.negative, a.exponent + b.exponent, product)
}

/// `a / b`.
#[inline]
pub fn divide(a: Real, b: Real) -> Wide {
    let divisor = u128::from(b.significand);
    let (exponent, shift) = if a.significand >= b.significand {
        (a.exponent - b.exponent, 63)
    } else {
        (a.exponent - b.exponent - 1, 64)
    };
    let dividend = u128::from(a.significand) << shift;
    let (high, rest) = (dividend / divisor, dividend % divisor);
    let dividend = rest << 64;
    let (low, rest) = (dividend / divisor, dividend % divisor);
    Wide {
        negative: a.negative != b.negative,
        exponent,
        significand: high << 64 | low | u128::from(rest != 0),
    }
}

/// The square root of the magnitude of `a`.
#[inline]
pub fn square_root(a: Real) -> Wide {
    // The radicand is scaled to 127 or 128 bits such that its exponent is even; the root then has 64 bits.
    let odd = a.exponent & 1 != 0;
    let radicand = u128::from(a.significand) << if odd { 64 } else { 63 };
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // The next bit is one if (2 root + 1)^2 <= 4 radicand; then something is always left over.
    let half = rest > root;
    Wide {
        negative: false,
        exponent: a.exponent >> 1,
        significand: root << 64 | u128::from(half) << 63 | u128::from(rest != 0),
    }
}

/// Rounds `kept` (the upper `precision` bits of `value`).
#[inline]
fn round(value: u128, precision: u32, rounding: Rounding, negative: bool) -> (u128, bool, bool) {
    let drop = 128 - precision;
    let kept = value >> drop;
    let rest = value & ((1 << drop) - 1);
    let half = 1u128 << (drop - 1);
    let up = rounding.grows(
        negative,
        kept & 1 != 0,
        rest > half,
        rest == half,
        rest != 0,
    );
    (kept + u128::from(up), rest != 0, up)
}

/// Rounds `value` to `target`, with the exceptions of overflow and underflow handled as `handling` says.
#[inline]
pub fn finish(value: Wide, target: Target, handling: Handling) -> Finished {
    let Handling { rounding, .. } = handling;
    let precision = target.precision;
    let (kept, inexact, up) = round(value.significand, precision, rounding, value.negative);
    let carried = kept >> precision != 0;
    let significand = if carried {
        1 << 63
    } else {
        (kept as u64) << (64 - precision)
    };
    let exponent = value.exponent + i32::from(carried);
    let raised = if inexact { PE } else { 0 };
    if exponent > target.exponent_max {
        return overflow(
            value.negative,
            exponent,
            significand,
            raised,
            up,
            target,
            handling,
        );
    }
    if exponent >= target.exponent_min {
        return Finished {
            exponent,
            significand,
            raised,
            up,
            tiny: false,
        };
    }
    if !handling.underflow_masked {
        let exponent = exponent + handling.wrap;
        return Finished {
            exponent,
            significand,
            raised: raised | UE,
            up,
            tiny: true,
        };
    }
    let depth = (target.exponent_min - value.exponent) as u32;
    let shifted = shift_sticky(value.significand, depth);
    let (kept, inexact, up) = round(shifted, precision, rounding, value.negative);
    Finished {
        exponent: target.exponent_min,
        significand: (kept as u64) << (64 - precision),
        raised: if inexact { UE | PE } else { 0 },
        up,
        tiny: true,
    }
}

#[cold]
fn overflow(
    negative: bool,
    exponent: i32,
    significand: u64,
    raised: u32,
    up: bool,
    target: Target,
    handling: Handling,
) -> Finished {
    if !handling.overflow_masked {
        let exponent = exponent - handling.wrap;
        return Finished {
            exponent,
            significand,
            raised: raised | OE,
            up,
            tiny: false,
        };
    }
    let infinity = handling.rounding.overflows_to_infinity(negative);
    Finished {
        exponent: target.exponent_max + i32::from(infinity),
        significand: if infinity {
            1 << 63
        } else {
            u64::MAX << (64 - target.precision)
        },
        raised: OE | PE,
        up: infinity,
        tiny: false,
    }
}

/// Rounds `value` to an integer. Returns the magnitude (or `None` if it does not fit in 64 bits), whether the value
/// was no integer, and whether the magnitude grew.
#[inline]
pub fn to_integer(value: Real, rounding: Rounding) -> (Option<u64>, bool, bool) {
    if value.exponent >= 64 {
        return (None, false, false);
    }
    if value.exponent < -1 {
        let up = rounding.grows(value.negative, false, false, false, true);
        return (Some(u64::from(up)), true, up);
    }
    // Bit 64 has the weight of one.
    let fixed = if value.exponent >= 0 {
        u128::from(value.significand) << (value.exponent + 1)
    } else {
        u128::from(value.significand)
    };
    let (kept, rest) = ((fixed >> 64) as u64, fixed as u64);
    let half = 1 << 63;
    let up = rounding.grows(
        value.negative,
        kept & 1 != 0,
        rest > half,
        rest == half,
        rest != 0,
    );
    (kept.checked_add(u64::from(up)), rest != 0, up)
}
