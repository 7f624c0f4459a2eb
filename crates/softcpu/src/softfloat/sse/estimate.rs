//! RCPPS and RSQRTPS: estimates with a relative error of at most 1.5 * 2^-12.
//!
//! Processors differ in the bits (AMD and Intel use different tables). Here the operand is cut to its twelve leading
//! fraction bits, the function is taken in the middle of that interval, and the result is rounded to twelve fraction
//! bits. No exception is raised and MXCSR is neither read nor written; denormal operands count as zero, and tiny
//! results become zero.

use crate::softfloat::format::{self, F32, Format};

/// Exponent bias of single precision.
const BIAS: i32 = 127;
/// Fraction bits of an estimate.
const BITS: u32 = 12;

/// `1 / a`, roughly.
pub fn reciprocal(a: u64) -> u64 {
    let negative = format::negative::<F32>(a);
    if format::is_nan::<F32>(a) {
        return a | F32::QUIET;
    }
    let field = format::exponent_field::<F32>(a) as i32;
    if field == 0 {
        return format::infinity::<F32>(negative);
    }
    if field == 0xff {
        return format::zero::<F32>(negative);
    }
    // The middle of the interval, from 1 to 2 in units of 2^-13.
    let middle = (1 << 13) | (format::fraction::<F32>(a) >> (23 - BITS)) << 1 | 1;
    // From 1/2 to 1 in units of 2^-13, which leaves twelve bits after the leading one.
    let estimate = ((1u64 << 27) / middle).div_ceil(2);
    pack(negative, -(field - BIAS) - 1, estimate)
}

/// `1 / sqrt(a)`, roughly.
pub fn reciprocal_square_root(a: u64) -> u64 {
    let negative = format::negative::<F32>(a);
    if format::is_nan::<F32>(a) {
        return a | F32::QUIET;
    }
    let field = format::exponent_field::<F32>(a) as i32;
    if field == 0 {
        return format::infinity::<F32>(negative);
    }
    if negative {
        return format::indefinite::<F32>();
    }
    if field == 0xff {
        return 0;
    }
    let exponent = field - BIAS;
    let odd = exponent & 1;
    // From 1 to 4 in units of 2^-13.
    let middle = ((1 << 13) | (format::fraction::<F32>(a) >> (23 - BITS)) << 1 | 1) << odd;
    // 2^14 / sqrt(middle / 2^13) = sqrt(2^41 / middle), from 1/2 to 1 in units of 2^-14.
    let estimate = ((1u64 << 41) / middle).isqrt().div_ceil(2);
    pack(false, -(exponent >> 1) - 1, estimate)
}

/// `estimate * 2^(exponent - 12)`, for estimates from 2^12 to 2^13; too small results give zero.
fn pack(negative: bool, exponent: i32, estimate: u64) -> u64 {
    let carried = estimate >> (BITS + 1) != 0;
    let exponent = exponent + i32::from(carried);
    let fraction = if carried {
        0
    } else {
        (estimate & ((1 << BITS) - 1)) << (23 - BITS)
    };
    if exponent < F32::TARGET.exponent_min {
        return format::zero::<F32>(negative);
    }
    format::zero::<F32>(negative) | ((exponent + BIAS) as u64) << 23 | fraction
}
