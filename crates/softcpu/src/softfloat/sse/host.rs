//! The quick way: the host's own arithmetic, where it gives the same bits and the flags are cheap to know.
//!
//! Taken when rounding is to nearest, PE is masked, and operands and result are normal numbers (or exact zeros): then
//! no flag but PE can come up, FTZ and DAZ have nothing to do, and IEEE 754 leaves the host no choice. PE is sticky, so
//! most programs set it once and it need not be computed again; until then it is computed from the result:
//! the error of a sum by the two-sum method, that of a product by counting trailing zeros of the significands, that of a
//! quotient or root by multiplying back.

use super::{Environment, arithmetic};
use crate::softfloat::env::PE;
use crate::softfloat::format::{F32, F64, Format};

/// RC and PM of MXCSR, and what they have to be.
const CONTROL_MASK: u32 = 3 << 13 | 1 << 12;
const CONTROL_QUICK: u32 = 1 << 12;

impl Environment {
    #[inline(always)]
    fn is_quick(&self) -> bool {
        self.control & CONTROL_MASK == CONTROL_QUICK
    }

    /// Whether PE has still to be found out.
    #[inline(always)]
    fn wants_inexact(&self) -> bool {
        (self.control | self.raised) & PE == 0
    }
}

/// A format with arithmetic, as the instructions use it.
pub trait Lane: Format {
    /// `a + b`.
    fn add(env: &mut Environment, a: u64, b: u64) -> u64;
    /// `a - b`.
    fn subtract(env: &mut Environment, a: u64, b: u64) -> u64;
    /// `a * b`.
    fn multiply(env: &mut Environment, a: u64, b: u64) -> u64;
    /// `a / b`.
    fn divide(env: &mut Environment, a: u64, b: u64) -> u64;
    /// The square root of `a`.
    fn square_root(env: &mut Environment, a: u64) -> u64;
    /// The number `value`, if the format has it.
    fn exactly(value: i64) -> Option<u64>;
    /// `bits` cut to an integer, if it is a normal number or zero and fits in 64 bits; and whether it was one.
    fn cut(bits: u64) -> Option<(i64, bool)>;
}

/// Answers of the exactness tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exactness {
    Exact,
    Inexact,
    /// The general routine has to find out.
    Unknown,
}

macro_rules! lane {
    ($format:ident, $float:ident, $bits:ident, $precision:expr) => {
        impl Lane for $format {
            #[inline]
            fn add(env: &mut Environment, a: u64, b: u64) -> u64 {
                let (x, y) = ($float::from_bits(a as $bits), $float::from_bits(b as $bits));
                let r = x + y;
                if env.is_quick() && sound(x) && sound(y) && (robust(r) || r == 0.0) {
                    if env.wants_inexact() && !sum_is_exact(x, y, r) {
                        env.raised |= PE;
                    }
                    return u64::from(r.to_bits());
                }
                arithmetic::add::<$format>(env, a, b)
            }

            #[inline]
            fn subtract(env: &mut Environment, a: u64, b: u64) -> u64 {
                let (x, y) = ($float::from_bits(a as $bits), $float::from_bits(b as $bits));
                let r = x - y;
                if env.is_quick() && sound(x) && sound(y) && (robust(r) || r == 0.0) {
                    if env.wants_inexact() && !sum_is_exact(x, -y, r) {
                        env.raised |= PE;
                    }
                    return u64::from(r.to_bits());
                }
                arithmetic::subtract::<$format>(env, a, b)
            }

            #[inline]
            fn multiply(env: &mut Environment, a: u64, b: u64) -> u64 {
                let (x, y) = ($float::from_bits(a as $bits), $float::from_bits(b as $bits));
                let r = x * y;
                if env.is_quick() && sound(x) && sound(y) && (robust(r) || x == 0.0 || y == 0.0) {
                    if env.wants_inexact() {
                        match product(x, y) {
                            Exactness::Exact => {}
                            Exactness::Inexact => env.raised |= PE,
                            Exactness::Unknown => {
                                return arithmetic::multiply::<$format>(env, a, b);
                            }
                        }
                    }
                    return u64::from(r.to_bits());
                }
                arithmetic::multiply::<$format>(env, a, b)
            }

            #[inline]
            fn divide(env: &mut Environment, a: u64, b: u64) -> u64 {
                let (x, y) = ($float::from_bits(a as $bits), $float::from_bits(b as $bits));
                let r = x / y;
                if env.is_quick() && sound(x) && robust(y) && (robust(r) || x == 0.0) {
                    if env.wants_inexact() {
                        match factors(r, y, x) {
                            Exactness::Exact => {}
                            Exactness::Inexact => env.raised |= PE,
                            Exactness::Unknown => return arithmetic::divide::<$format>(env, a, b),
                        }
                    }
                    return u64::from(r.to_bits());
                }
                arithmetic::divide::<$format>(env, a, b)
            }

            #[inline]
            fn square_root(env: &mut Environment, a: u64) -> u64 {
                let x = $float::from_bits(a as $bits);
                if env.is_quick() && robust(x) && x > 0.0 {
                    let r = x.sqrt();
                    if env.wants_inexact() {
                        match factors(r, r, x) {
                            Exactness::Exact => {}
                            Exactness::Inexact => env.raised |= PE,
                            Exactness::Unknown => {
                                return arithmetic::square_root::<$format>(env, a);
                            }
                        }
                    }
                    return u64::from(r.to_bits());
                }
                arithmetic::square_root::<$format>(env, a)
            }

            #[inline]
            fn exactly(value: i64) -> Option<u64> {
                let fits = value.unsigned_abs() <= 1 << $precision;
                fits.then(|| u64::from((value as $float).to_bits()))
            }

            #[inline]
            fn cut(bits: u64) -> Option<(i64, bool)> {
                const LIMIT: $float = (1u64 << 63) as $float;
                let x = $float::from_bits(bits as $bits);
                if sound(x) && x.abs() < LIMIT {
                    let whole = x as i64;
                    Some((whole, whole as $float == x))
                } else {
                    None
                }
            }
        }

        impl Host for $float {
            #[inline(always)]
            fn is_robust(self) -> bool {
                let magnitude = self.abs();
                magnitude > $float::MIN_POSITIVE && magnitude <= $float::MAX
            }

            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0.0
            }

            #[inline]
            fn sum_is_exact(self, other: Self, sum: Self) -> bool {
                let part = sum - self;
                let rest = (self - (sum - part)) + (other - part);
                rest == 0.0
            }

            #[inline]
            fn trailing_zeros(self) -> u32 {
                ($precision - 1).min(self.to_bits().trailing_zeros())
            }

            #[inline]
            fn times(self, other: Self) -> Self {
                self * other
            }

            const PRECISION: u32 = $precision;
        }
    };
}

/// CVTSS2SD of a normal number or zero: always exact.
#[inline]
pub(super) fn widen(bits: u64) -> Option<u64> {
    let x = f32::from_bits(bits as u32);
    sound(x).then(|| f64::from(x).to_bits())
}

/// CVTSD2SS, if nothing but PE can come of it.
#[inline]
pub(super) fn narrow(env: &mut Environment, bits: u64) -> Option<u64> {
    let x = f64::from_bits(bits);
    let r = x as f32;
    if env.is_quick() && sound(x) && (robust(r) || x == 0.0) {
        if f64::from(r) != x {
            env.raised |= PE;
        }
        Some(u64::from(r.to_bits()))
    } else {
        None
    }
}

/// What the exactness tests need of `f32` and `f64`.
trait Host: Copy + PartialEq {
    const PRECISION: u32;
    fn is_robust(self) -> bool;
    fn is_zero(self) -> bool;
    fn sum_is_exact(self, other: Self, sum: Self) -> bool;
    /// Of the significand.
    fn trailing_zeros(self) -> u32;
    fn times(self, other: Self) -> Self;
}

lane!(F32, f32, u32, 24u32);
lane!(F64, f64, u64, 53u32);

/// Normal, finite and not the smallest of its kind, which a tiny result may have been rounded to.
#[inline(always)]
fn robust<H: Host>(value: H) -> bool {
    value.is_robust()
}

/// [`robust`], or zero.
#[inline(always)]
fn sound<H: Host>(value: H) -> bool {
    value.is_robust() || value.is_zero()
}

#[inline]
fn sum_is_exact<H: Host>(x: H, y: H, sum: H) -> bool {
    x.sum_is_exact(y, sum)
}

/// Whether `x * y` fits in the format. The product of p-bit significands has 2p or 2p - 1 bits, and as many trailing
/// zeros as both factors together.
#[inline]
fn product<H: Host>(x: H, y: H) -> Exactness {
    if x.is_zero() || y.is_zero() {
        return Exactness::Exact;
    }
    let zeros = x.trailing_zeros() + y.trailing_zeros();
    if zeros >= H::PRECISION {
        Exactness::Exact
    } else if zeros < H::PRECISION - 1 {
        Exactness::Inexact
    } else {
        Exactness::Unknown
    }
}

/// Whether `x * y` is exactly `expected`.
#[inline]
fn factors<H: Host>(x: H, y: H, expected: H) -> Exactness {
    match product(x, y) {
        Exactness::Exact if x.times(y) != expected => Exactness::Inexact,
        answer => answer,
    }
}
