//! CMPccPS and its relatives, COMIS, UCOMIS, MIN and MAX.

use super::Environment;
use crate::softfloat::env::{IE, Relation};
use crate::softfloat::format::{self, Format};

/// Which NaNs make a comparison invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// All (COMIS, CMPLT, CMPLE and their negations).
    Always,
    /// Signalling ones (UCOMIS, CMPEQ, CMPUNORD and their negations).
    Signaling,
}

/// The predicates of CMPccPS, numbered as in its immediate byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// Equal.
    Equal = 0,
    /// Less.
    Less = 1,
    /// Less or equal.
    LessOrEqual = 2,
    /// A NaN takes part.
    Unordered = 3,
    /// Not equal, or unordered.
    NotEqual = 4,
    /// Not less, or unordered.
    NotLess = 5,
    /// Not less or equal, or unordered.
    NotLessOrEqual = 6,
    /// No NaN takes part.
    Ordered = 7,
}

impl Predicate {
    /// The predicate that the three low bits of `immediate` name.
    #[inline]
    pub const fn from_immediate(immediate: u8) -> Self {
        match immediate & 7 {
            0 => Self::Equal,
            1 => Self::Less,
            2 => Self::LessOrEqual,
            3 => Self::Unordered,
            4 => Self::NotEqual,
            5 => Self::NotLess,
            6 => Self::NotLessOrEqual,
            _ => Self::Ordered,
        }
    }

    const fn signal(self) -> Signal {
        match self {
            Self::Less | Self::LessOrEqual | Self::NotLess | Self::NotLessOrEqual => Signal::Always,
            Self::Equal | Self::Unordered | Self::NotEqual | Self::Ordered => Signal::Signaling,
        }
    }
}

/// How `a` relates to `b`.
#[inline]
pub fn relation<F: Format>(env: &mut Environment, a: u64, b: u64, signal: Signal) -> Relation {
    if format::is_nan::<F>(a) || format::is_nan::<F>(b) {
        let signaling = format::is_signaling::<F>(a) || format::is_signaling::<F>(b);
        if signaling || signal == Signal::Always {
            env.raise(IE);
        }
        return Relation::Unordered;
    }
    let (a, b) = operands::<F>(env, a, b);
    if (a | b) & !F::SIGN == 0 {
        return Relation::Equal;
    }
    match key::<F>(a).cmp(&key::<F>(b)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

/// The operands after DAZ; raises DE for what stays denormal.
#[inline]
fn operands<F: Format>(env: &mut Environment, a: u64, b: u64) -> (u64, u64) {
    let (a, b) = (env.flush::<F>(a), env.flush::<F>(b));
    env.denormal(is_denormal::<F>(a) || is_denormal::<F>(b));
    (a, b)
}

#[inline]
fn is_denormal<F: Format>(bits: u64) -> bool {
    format::exponent_field::<F>(bits) == 0 && format::fraction::<F>(bits) != 0
}

/// Sorts as the numbers do.
#[inline]
fn key<F: Format>(bits: u64) -> u64 {
    if format::negative::<F>(bits) {
        !bits & F::ALL
    } else {
        bits | F::SIGN
    }
}

/// Whether `predicate` holds.
#[inline]
pub fn compare<F: Format>(env: &mut Environment, a: u64, b: u64, predicate: Predicate) -> bool {
    let relation = relation::<F>(env, a, b, predicate.signal());
    match predicate {
        Predicate::Equal => relation == Relation::Equal,
        Predicate::Less => relation == Relation::Less,
        Predicate::LessOrEqual => matches!(relation, Relation::Less | Relation::Equal),
        Predicate::Unordered => relation == Relation::Unordered,
        Predicate::NotEqual => relation != Relation::Equal,
        Predicate::NotLess => relation != Relation::Less,
        Predicate::NotLessOrEqual => !matches!(relation, Relation::Less | Relation::Equal),
        Predicate::Ordered => relation != Relation::Unordered,
    }
}

/// MIN: `a` if it is less, else `b`; so `b` for NaNs and for two zeros.
#[inline]
pub fn minimum<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    let less = relation::<F>(env, a, b, Signal::Always) == Relation::Less;
    env.flush::<F>(if less { a } else { b })
}

/// MAX: `a` if it is greater, else `b`; so `b` for NaNs and for two zeros.
#[inline]
pub fn maximum<F: Format>(env: &mut Environment, a: u64, b: u64) -> u64 {
    let greater = relation::<F>(env, a, b, Signal::Always) == Relation::Greater;
    env.flush::<F>(if greater { a } else { b })
}
