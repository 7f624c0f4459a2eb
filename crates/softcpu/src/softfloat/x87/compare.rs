//! FCOM, FUCOM, FTST and their relatives.

use super::{Environment, Number, number};
use crate::softfloat::env::{IE, Relation};
use crate::softfloat::f80::{Class, F80};

/// Which NaNs make a comparison invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// All (FCOM, FCOMI, FTST).
    Always,
    /// Signalling ones and unsupported encodings (FUCOM, FUCOMI).
    Signaling,
}

/// Compares `a` with `b`.
pub fn compare(env: &mut Environment, a: F80, b: F80, signal: Signal) -> Relation {
    let mut unordered = false;
    for class in [a.classify(), b.classify()] {
        match class {
            Class::Unsupported | Class::Signaling => {
                env.raise(IE);
                unordered = true;
            }
            Class::Quiet => {
                if signal == Signal::Always {
                    env.raise(IE);
                }
                unordered = true;
            }
            Class::Zero | Class::Infinity | Class::Finite { .. } => {}
        }
    }
    if unordered {
        return Relation::Unordered;
    }
    let ((left, left_denormal), (right, right_denormal)) = (number(a), number(b));
    env.denormal(left_denormal | right_denormal);
    if left == Number::Zero && right == Number::Zero {
        return Relation::Equal;
    }
    if a.negative() != b.negative() {
        return if a.negative() {
            Relation::Less
        } else {
            Relation::Greater
        };
    }
    let magnitudes = match (left, right) {
        (Number::Finite(x), Number::Finite(y)) => x.magnitude_cmp(&y),
        _ => rank(left).cmp(&rank(right)),
    };
    let ordering = if a.negative() {
        magnitudes.reverse()
    } else {
        magnitudes
    };
    match ordering {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

fn rank(number: Number) -> u8 {
    match number {
        Number::Zero => 0,
        Number::Finite(_) => 1,
        Number::Infinity => 2,
    }
}
