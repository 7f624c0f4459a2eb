//! Arithmetic of the x87: [`Environment`] holds the control word and collects what an operation raises.
//!
//! Reading order: this file (environment, NaN rules, delivery of results), `arithmetic`, `compare`, `convert`,
//! `decimal` (packed BCD), `remainder`, `shape` (round to integer, scale, extract, examine), and the transcendental
//! functions: `wide` (numbers with 128-bit significands), `exponential`, `trigonometry`.
//!
//! An operation returns what a masked response would store. The caller looks at [`Environment::stores`] to see
//! whether it may commit.

use super::env::{ALL, BEFORE, DE, IE, OE, PE, Rounding, UE, ZE};
use super::f80::{Class, F80};
use super::real::{self, EXTENDED, Finished, Handling, Real, Target, Wide};

mod arithmetic;
mod compare;
mod convert;
mod decimal;
mod exponential;
mod remainder;
mod shape;
mod trigonometry;
mod wide;

pub use arithmetic::{add, divide, multiply, square_root, subtract};
pub use compare::{Signal, compare};
pub use convert::{
    from_f32, from_f64, operand_f32, operand_f64, to_f32, to_f64, to_i16, to_i32, to_i64,
};
pub use decimal::{from_decimal, to_decimal};
pub use exponential::{exp2_minus_1, y_log2_x, y_log2_x_plus_1};
pub use remainder::{Outcome, Quotient, Remainder, remainder};
pub use shape::{Examined, examine, extract, round_to_integer, scale};
pub use trigonometry::{arctangent, cosine, sine, sine_cosine, tangent};

/// Exponent distance by which a result is moved into range when OE or UE is not masked (SDM vol. 1, 8.5.4).
const WRAP: i32 = 24576;

/// Control word on the way in, exception flags and C1 on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    control: u32,
    /// Exceptions raised since the environment was made: [`super::env`] flags.
    pub raised: u32,
    /// C1 of the status word: the last result was rounded away from zero.
    pub rounded_up: bool,
}

impl Environment {
    /// An environment that works by control word `control`.
    #[inline]
    pub const fn new(control: u16) -> Self {
        Self {
            control: control as u32,
            raised: 0,
            rounded_up: false,
        }
    }

    /// Rounding direction (RC).
    #[inline]
    pub const fn rounding(&self) -> Rounding {
        Rounding::from_field(self.control >> 10)
    }

    /// Whether all of `flags` are masked.
    #[inline]
    pub const fn masked(&self, flags: u32) -> bool {
        self.control & flags == flags
    }

    /// Exceptions raised that are not masked.
    #[inline]
    pub const fn unmasked(&self) -> u32 {
        self.raised & !self.control & ALL
    }

    /// Whether a result for a register may be stored: not after an unmasked invalid operation, denormal operand or
    /// division by zero.
    #[inline]
    pub const fn stores(&self) -> bool {
        self.unmasked() & BEFORE == 0
    }

    /// Whether a result for memory may be stored: not after an unmasked overflow or underflow either.
    #[inline]
    pub const fn stores_to_memory(&self) -> bool {
        self.unmasked() & (BEFORE | OE | UE) == 0
    }

    /// Raises `flags`.
    #[inline]
    fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }

    /// Raises DE. Returns false if that ends the operation.
    #[inline]
    fn denormal(&mut self, denormal: bool) -> bool {
        if denormal {
            self.raise(DE);
            self.masked(DE)
        } else {
            true
        }
    }

    /// Tells that an operand was denormal before it was converted, after the operation that gave `result` from it.
    /// NaNs, invalid operations and divisions by zero come first; an unmasked DE leaves nothing else.
    #[cold]
    pub fn denormal_operand(&mut self, result: F80) {
        if self.raised & (IE | ZE) != 0 || is_nan(result) {
            return;
        }
        self.raise(DE);
        if !self.masked(DE) {
            self.raised = DE;
            self.rounded_up = false;
        }
    }

    /// An invalid operation: its flag and its masked result.
    #[cold]
    fn invalid(&mut self) -> F80 {
        self.raise(IE);
        F80::INDEFINITE
    }

    /// Target of operations that obey precision control (PC).
    #[inline]
    fn controlled(&self) -> Target {
        let precision = match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Target {
            precision,
            ..EXTENDED
        }
    }

    #[inline]
    fn handling(&self, wrap: i32) -> Handling {
        Handling {
            rounding: self.rounding(),
            overflow_masked: self.masked(OE),
            underflow_masked: self.masked(UE),
            wrap,
        }
    }

    /// Rounds to `target` and records what that raised.
    #[inline]
    fn finish(&mut self, value: Wide, target: Target, wrap: i32) -> Finished {
        let finished = real::finish(value, target, self.handling(wrap));
        self.raise(finished.raised);
        self.rounded_up = finished.up;
        finished
    }

    /// Rounds a result for a register.
    #[inline]
    fn deliver(&mut self, value: Wide, target: Target) -> F80 {
        let finished = self.finish(value, target, WRAP);
        let beyond = finished.exponent > EXTENDED.exponent_max;
        if beyond || finished.exponent < EXTENDED.exponent_min {
            // Even the wrapped exponent does not fit.
            inexact(self, beyond);
        }
        F80::pack(value.negative, finished.exponent, finished.significand)
    }

    /// The result of an operation on `a` and `b` of which at least one is a NaN or unsupported, or `None` if none is.
    #[inline]
    fn propagate(&mut self, a: F80, b: F80) -> Option<F80> {
        let (left, right) = (a.classify(), b.classify());
        let special = |class| matches!(class, Class::Quiet | Class::Signaling | Class::Unsupported);
        if special(left) || special(right) {
            Some(self.propagate_special(a, left, b, right))
        } else {
            None
        }
    }

    /// SDM vol. 1, table 4-7, the x87 column.
    #[cold]
    fn propagate_special(&mut self, a: F80, left: Class, b: F80, right: Class) -> F80 {
        if left == Class::Unsupported || right == Class::Unsupported {
            return self.invalid();
        }
        if left == Class::Signaling || right == Class::Signaling {
            self.raise(IE);
        }
        let chosen = match (left, right) {
            (Class::Signaling, Class::Quiet) => b,
            (Class::Quiet, Class::Signaling) => a,
            (Class::Signaling | Class::Quiet, Class::Signaling | Class::Quiet) => larger(a, b),
            (Class::Signaling | Class::Quiet, _) => a,
            _ => b,
        };
        chosen.quieted()
    }

    /// The result of an operation on one NaN or unsupported operand, or `None` if it is neither.
    #[inline]
    fn propagate_one(&mut self, a: F80) -> Option<F80> {
        match a.classify() {
            Class::Unsupported => Some(self.invalid()),
            Class::Quiet => Some(a),
            Class::Signaling => {
                self.raise(IE);
                Some(a.quieted())
            }
            Class::Zero | Class::Infinity | Class::Finite { .. } => None,
        }
    }
}

fn is_nan(value: F80) -> bool {
    matches!(value.classify(), Class::Quiet | Class::Signaling)
}

/// The NaN with the larger significand; of equal ones, the positive.
fn larger(a: F80, b: F80) -> F80 {
    match a.significand.cmp(&b.significand) {
        core::cmp::Ordering::Greater => a,
        core::cmp::Ordering::Less => b,
        core::cmp::Ordering::Equal => {
            if a.negative() {
                b
            } else {
                a
            }
        }
    }
}

/// An operand that is neither NaN nor unsupported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Zero,
    Finite(Real),
    Infinity,
}

/// Splits a class into a number and whether it is denormal; NaNs have been dealt with before and count as infinite.
#[inline]
fn number(value: F80) -> (Number, bool) {
    match value.classify() {
        Class::Zero => (Number::Zero, false),
        Class::Finite { real, denormal } => (Number::Finite(real), denormal),
        Class::Infinity | Class::Quiet | Class::Signaling | Class::Unsupported => {
            (Number::Infinity, false)
        }
    }
}

/// The exact integer `value * 2^scale` as a register value where it is known to fit.
#[inline]
fn exact(negative: bool, magnitude: u64, scale: i32) -> F80 {
    match Real::from_integer(negative, magnitude, scale) {
        None => F80::zero(negative),
        Some(real) => F80::from_real(real),
    }
}

/// Raises PE for a result that is known to be inexact.
#[inline]
fn inexact(env: &mut Environment, up: bool) {
    env.raise(PE);
    env.rounded_up = up;
}
