//! Floating-point lanes of SSE: [`Environment`] holds MXCSR and collects what the lanes of one instruction raise.
//!
//! Reading order: this file (environment, NaN rules, delivery), `arithmetic`, `compare`, `convert`, `estimate`
//! (RCP, RSQRT), `host` (the same results through the host's own arithmetic). Lanes travel as `u64`.
//!
//! An operation returns what a masked response would store; [`Environment::stores`] says whether the instruction
//! may commit. Source: SDM vol. 1, 4.8.3.5 (NaN rules), 10.2.3 (MXCSR), 11.5 (exceptions).

use super::env::{ALL, BEFORE, DE, IE, OE, PE, Rounding, UE};
use super::format::{self, Format, Kind};
use super::real::{self, Handling, Real, Wide};

mod arithmetic;
mod compare;
mod convert;
mod estimate;
mod host;

pub use arithmetic::{add, divide, multiply, square_root, subtract};
pub use compare::{Predicate, Signal, compare, maximum, minimum, relation};
pub use convert::{
    from_i32, from_i64, narrow, round_to_integer, to_i32, to_i32_truncating, to_i64,
    to_i64_truncating, widen,
};
pub use estimate::{reciprocal, reciprocal_square_root};
pub use host::Lane;

/// MXCSR after reset: all exceptions masked, to nearest.
pub const MXCSR_RESET: u32 = 0x1f80;
/// Bits of MXCSR that may be set.
pub const MXCSR_MASK: u32 = 0xffff;

/// Denormals are zeros.
const DAZ: u32 = 1 << 6;
/// First of the six mask bits.
const MASK_SHIFT: u32 = 7;
/// Rounding control.
const RC_SHIFT: u32 = 13;
/// Flush to zero.
const FTZ: u32 = 1 << 15;

/// MXCSR on the way in, exception flags on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    control: u32,
    /// Exceptions raised since the environment was made: [`super::env`] flags.
    pub raised: u32,
}

impl Environment {
    /// An environment that works by `mxcsr`.
    #[inline]
    pub const fn new(mxcsr: u32) -> Self {
        Self {
            control: mxcsr,
            raised: 0,
        }
    }

    /// Rounding direction (RC).
    #[inline]
    pub const fn rounding(&self) -> Rounding {
        Rounding::from_field(self.control >> RC_SHIFT)
    }

    /// Whether all of `flags` are masked.
    #[inline]
    pub const fn masked(&self, flags: u32) -> bool {
        self.control >> MASK_SHIFT & flags == flags
    }

    /// Exceptions raised that are not masked.
    #[inline]
    pub const fn unmasked(&self) -> u32 {
        self.raised & !(self.control >> MASK_SHIFT) & ALL
    }

    /// Whether the instruction may store its result.
    #[inline]
    pub const fn stores(&self) -> bool {
        self.unmasked() == 0
    }

    /// The value of MXCSR after the instruction. When a lane had an unmasked exception before its result existed, no
    /// lane was computed, and what the results would have raised is not reported.
    #[inline]
    pub const fn mxcsr(&self) -> u32 {
        if self.unmasked() & BEFORE != 0 {
            self.control | self.raised & BEFORE
        } else {
            self.control | self.raised
        }
    }

    /// Between two stages of one instruction (DPPS): gives whether the next may begin. What is raised later does not
    /// take back what this stage has raised.
    #[must_use]
    pub const fn settle(&mut self) -> bool {
        self.control = self.mxcsr();
        self.stores()
    }

    #[inline]
    fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }

    /// An invalid operation: its flag and its masked result.
    #[cold]
    fn invalid<F: Format>(&mut self) -> u64 {
        self.raise(IE);
        format::indefinite::<F>()
    }

    /// `bits` with a denormal replaced by zero if DAZ says so.
    #[inline]
    fn flush<F: Format>(&self, bits: u64) -> u64 {
        if self.control & DAZ != 0 && format::exponent_field::<F>(bits) == 0 {
            bits & F::SIGN
        } else {
            bits
        }
    }

    #[inline]
    fn denormal(&mut self, denormal: bool) {
        if denormal {
            self.raise(DE);
        }
    }

    /// The NaN that an operation on `a` and `b` gives, or `None` if neither is one: the first operand that is a NaN,
    /// made quiet.
    #[inline]
    fn propagate<F: Format>(&mut self, a: u64, b: u64) -> Option<u64> {
        let (left, right) = (format::is_nan::<F>(a), format::is_nan::<F>(b));
        if !left && !right {
            return None;
        }
        if format::is_signaling::<F>(a) || format::is_signaling::<F>(b) {
            self.raise(IE);
        }
        Some(if left { a | F::QUIET } else { b | F::QUIET })
    }

    /// Rounds a result.
    #[inline]
    fn deliver<F: Format>(&mut self, value: Wide) -> u64 {
        let underflow_masked = self.masked(UE);
        let handling = Handling {
            rounding: self.rounding(),
            overflow_masked: self.masked(OE),
            underflow_masked,
            wrap: 0,
        };
        let finished = real::finish(value, F::TARGET, handling);
        if finished.tiny && underflow_masked && self.control & FTZ != 0 {
            self.raise(UE | PE);
            return format::zero::<F>(value.negative);
        }
        self.raise(finished.raised);
        format::pack::<F>(value.negative, finished.exponent, finished.significand)
    }
}

/// An operand that is no NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Zero,
    Finite(Real),
    Infinity,
}

/// Splits an operand that is no NaN into a number and whether it is denormal.
#[inline]
fn number<F: Format>(bits: u64) -> (Number, bool) {
    match format::classify::<F>(bits) {
        Kind::Zero => (Number::Zero, false),
        Kind::Finite { real, denormal } => (Number::Finite(real), denormal),
        Kind::Infinity | Kind::Quiet | Kind::Signaling => (Number::Infinity, false),
    }
}
