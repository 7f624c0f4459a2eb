//! Numbers with 128-bit significands and fixed-point series, from which the transcendental functions are built. Their
//! error is a few units of 2^-126, far below half a unit of the 64-bit results.

use super::Environment;
use crate::softfloat::f80::F80;
use crate::softfloat::real::{EXTENDED, Real, Wide};

/// `significand * 2^(exponent - 127)` with bit 127 set, or zero when the significand is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Precise {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

pub(super) const LN_2: Precise = positive(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
pub(super) const LOG2_E: Precise = positive(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
pub(super) const PI: Precise = positive(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
pub(super) const PI_HALF: Precise = Precise { exponent: 0, ..PI };
pub(super) const PI_QUARTER: Precise = Precise { exponent: -1, ..PI };
/// The arctangent of one half.
pub(super) const ARCTANGENT_HALF: Precise = positive(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03);

const fn positive(exponent: i32, significand: u128) -> Precise {
    Precise {
        negative: false,
        exponent,
        significand,
    }
}

/// The upper half of the product.
#[inline]
pub(super) const fn multiply_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let middle = a1 * b0 + ((a0 * b0) >> 64);
    let other = a0 * b1 + (middle & LOW);
    a1 * b1 + (middle >> 64) + (other >> 64)
}

impl Precise {
    pub(super) const ZERO: Self = positive(0, 0);

    pub(super) fn from_real(real: Real) -> Self {
        Self {
            negative: real.negative,
            exponent: real.exponent,
            significand: u128::from(real.significand) << 64,
        }
    }

    /// `value * 2^(exponent - 127)`, normalised.
    pub(super) fn normalise(negative: bool, exponent: i32, value: u128) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        let shift = value.leading_zeros();
        Self {
            negative,
            exponent: exponent - shift as i32,
            significand: value << shift,
        }
    }

    pub(super) fn from_i32(value: i32) -> Self {
        Self::normalise(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.significand == 0
    }

    pub(super) fn with_sign(self, negative: bool) -> Self {
        Self { negative, ..self }
    }

    pub(super) fn negate(self) -> Self {
        Self {
            negative: !self.negative,
            ..self
        }
    }

    /// Times `2^count`.
    pub(super) fn shift(self, count: i32) -> Self {
        Self {
            exponent: self.exponent + count,
            ..self
        }
    }

    /// Whether the magnitude is below that of `other`.
    pub(super) fn below(&self, other: &Self) -> bool {
        (self.exponent, self.significand) < (other.exponent, other.significand)
    }

    pub(super) fn multiply(self, other: Self) -> Self {
        let product = multiply_high(self.significand, other.significand);
        let negative = self.negative != other.negative;
        Self::normalise(negative, self.exponent + other.exponent + 1, product)
    }

    pub(super) fn add(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (large, small) = if self.below(&other) {
            (other, self)
        } else {
            (self, other)
        };
        let gap = (large.exponent - small.exponent) as u32;
        let right = small.significand.checked_shr(gap).unwrap_or(0);
        if large.negative != small.negative {
            return Self::normalise(large.negative, large.exponent, large.significand - right);
        }
        let (sum, carried) = large.significand.overflowing_add(right);
        if carried {
            let significand = sum >> 1 | 1 << 127;
            Self {
                exponent: large.exponent + 1,
                significand,
                ..large
            }
        } else {
            Self {
                significand: sum,
                ..large
            }
        }
    }

    /// `self / other`; `other` is not zero.
    pub(super) fn divide(self, other: Self) -> Self {
        if self.is_zero() {
            return Self::ZERO;
        }
        let divisor = other.significand;
        let mut exponent = self.exponent - other.exponent;
        let mut rest = self.significand;
        if rest < divisor {
            exponent -= 1;
        } else {
            rest -= divisor;
        }
        // Schoolbook division: the leading one is known, 127 bits follow.
        let mut quotient = 1u128;
        if self.significand < divisor {
            // 2 * rest >= divisor, because both significands are normalised.
            rest = rest.wrapping_shl(1).wrapping_sub(divisor);
        }
        for _ in 0..127 {
            let top = rest >> 127 != 0;
            let doubled = rest << 1;
            let fits = top || doubled >= divisor;
            rest = if fits {
                doubled.wrapping_sub(divisor)
            } else {
                doubled
            };
            quotient = quotient << 1 | u128::from(fits);
        }
        Self {
            negative: self.negative != other.negative,
            exponent,
            significand: quotient,
        }
    }

    /// The magnitude as a fraction of 2^128; the number is below one.
    pub(super) fn fraction(&self) -> u128 {
        let count = u32::try_from(-1 - i64::from(self.exponent)).unwrap_or(0);
        self.significand.checked_shr(count).unwrap_or(0)
    }

    /// Rounds to a register; the number is known to be inexact, and cut off below.
    pub(super) fn deliver(self, env: &mut Environment) -> F80 {
        let wide = Wide {
            negative: self.negative,
            exponent: self.exponent,
            significand: self.significand | 1,
        };
        env.deliver(wide, EXTENDED)
    }
}

/// Signs of the terms of a series.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    Same,
    Alternating,
}

/// `sum(coefficients[k] * (+-x)^k)`, with coefficients in units of 2^-126 and `x` in units of 2^-128.
pub(super) fn series(coefficients: &[u128], x: u128, signs: Signs) -> Precise {
    let sum = coefficients.iter().rev().fold(0u128, |sum, &coefficient| {
        let term = multiply_high(sum, x);
        match signs {
            Signs::Same => coefficient.wrapping_add(term),
            Signs::Alternating => coefficient.wrapping_sub(term),
        }
    });
    // The sum of an alternating series is below its first term, however small `x` is.
    let below = u128::from(signs == Signs::Alternating);
    Precise::normalise(false, 1, sum.wrapping_sub(below))
}

/// `1 / (2k + 1)` in units of 2^-126.
pub(super) static ODD_INVERSES: [u128; 34] = {
    let mut table = [0; 34];
    let mut k = 0;
    while k < table.len() {
        table[k] = (1 << 126) / (2 * k as u128 + 1);
        k += 1;
    }
    table
};

/// `1 / (first (first + 1) ...)` in units of 2^-126: entry k is `1 / (k * step + first)!`.
pub(super) const fn factorials<const N: usize>(first: u128, step: u128) -> [u128; N] {
    let mut table = [0; N];
    let (mut k, mut factor, mut value) = (0, 1, 1u128 << 126);
    while k < N {
        while factor <= first + k as u128 * step {
            value /= factor;
            factor += 1;
        }
        table[k] = value;
        k += 1;
    }
    table
}
