//! FSIN, FCOS, FSINCOS, FPTAN and FPATAN.
//!
//! The argument is reduced by the 66-bit value of pi that the hardware uses (SDM vol. 1, 8.3.8): programs that know
//! it correct for it, and others expect the same bits everywhere.

use super::wide::{
    ARCTANGENT_HALF, ODD_INVERSES, PI, PI_HALF, PI_QUARTER, Precise, Signs, factorials, series,
};
use super::{Environment, Number, number};
use crate::softfloat::f80::F80;
use crate::softfloat::real::Real;

/// `1 / (2k + 1)!`.
static SINE: [u128; 18] = factorials(1, 2);
/// `1 / (2k)!`.
static COSINE: [u128; 18] = factorials(0, 2);

/// Half of the hardware's pi, in units of 2^-65.
const PI_HALF_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// Arguments from 2^63 up are out of range: C2 is set and nothing changes.
const EXPONENT_MAX: i32 = 62;

/// What an argument turns out to be.
enum Argument {
    /// The function's value for it.
    Known(F80),
    /// Too large.
    OutOfRange,
    /// To be computed.
    Real(Real),
}

/// Deals with everything but finite numbers in range. `at_zero`: the value for plus zero; `odd`: whether the value
/// for minus zero has the other sign.
fn argument(env: &mut Environment, a: F80, at_zero: F80, odd: bool) -> Argument {
    if let Some(nan) = env.propagate_one(a) {
        return Argument::Known(nan);
    }
    let (value, denormal) = number(a);
    if value == Number::Infinity {
        return Argument::Known(env.invalid());
    }
    if !env.denormal(denormal) {
        return Argument::Known(a);
    }
    match value {
        Number::Finite(real) if real.exponent > EXPONENT_MAX => Argument::OutOfRange,
        Number::Finite(real) => Argument::Real(real),
        Number::Zero | Number::Infinity => Argument::Known(if odd {
            at_zero.with_sign(a.negative())
        } else {
            at_zero
        }),
    }
}

/// An angle as `quadrant * pi/2 + rest`, with `rest` from -pi/4 to pi/4.
fn reduce(real: Real) -> (u32, Precise) {
    if real.exponent < -1 {
        return (0, Precise::from_real(real));
    }
    // Exact: from 1/2 up no bit is below 2^-64. Whole turns are taken away 32 binary digits at a time.
    const TURN: u128 = 4 * PI_HALF_66;
    let mut rest = u128::from(real.significand) << 1;
    let mut digits = (real.exponent + 1) as u32;
    while digits > 0 {
        let step = digits.min(32);
        rest = (rest << step) % TURN;
        digits -= step;
    }
    let mut quadrant = (rest / PI_HALF_66) as u32;
    let mut offset = rest % PI_HALF_66;
    let past = offset > PI_HALF_66 / 2;
    if past {
        quadrant += 1;
        offset = PI_HALF_66 - offset;
    }
    if real.negative {
        quadrant = quadrant.wrapping_neg();
    }
    (
        quadrant & 3,
        Precise::normalise(past != real.negative, 62, offset),
    )
}

/// Sine of an angle up to pi/4.
fn sine_of(angle: Precise) -> Precise {
    angle.multiply(series(
        &SINE,
        angle.multiply(angle).fraction(),
        Signs::Alternating,
    ))
}

/// Cosine of an angle up to pi/4.
fn cosine_of(angle: Precise) -> Precise {
    series(
        &COSINE,
        angle.multiply(angle).fraction(),
        Signs::Alternating,
    )
}

/// The sine of `quadrant * pi/2 + rest`.
fn sine_at(quadrant: u32, rest: Precise) -> Precise {
    let value = if quadrant & 1 == 0 {
        sine_of(rest)
    } else {
        cosine_of(rest)
    };
    if quadrant & 2 == 0 {
        value
    } else {
        value.negate()
    }
}

/// FSIN, or `None` if the argument is out of range.
pub fn sine(env: &mut Environment, a: F80) -> Option<F80> {
    match argument(env, a, F80::ZERO, true) {
        Argument::Known(value) => Some(value),
        Argument::OutOfRange => None,
        Argument::Real(real) => {
            let (quadrant, rest) = reduce(real);
            Some(sine_at(quadrant, rest).deliver(env))
        }
    }
}

/// FCOS, or `None` if the argument is out of range.
pub fn cosine(env: &mut Environment, a: F80) -> Option<F80> {
    match argument(env, a, F80::ONE, false) {
        Argument::Known(value) => Some(value),
        Argument::OutOfRange => None,
        Argument::Real(real) => {
            let (quadrant, rest) = reduce(real);
            Some(sine_at(quadrant + 1, rest).deliver(env))
        }
    }
}

/// FSINCOS: sine and cosine, or `None` if the argument is out of range.
pub fn sine_cosine(env: &mut Environment, a: F80) -> Option<(F80, F80)> {
    match argument(env, a, F80::ZERO, true) {
        Argument::Known(value) if value.classify() == F80::ZERO.classify() => {
            Some((value, F80::ONE))
        }
        Argument::Known(value) => Some((value, value)),
        Argument::OutOfRange => None,
        Argument::Real(real) => {
            let (quadrant, rest) = reduce(real);
            let sine = sine_at(quadrant, rest).deliver(env);
            let up = env.rounded_up;
            let cosine = sine_at(quadrant + 1, rest).deliver(env);
            env.rounded_up = up;
            Some((sine, cosine))
        }
    }
}

/// FPTAN without the 1.0 that it pushes, or `None` if the argument is out of range.
pub fn tangent(env: &mut Environment, a: F80) -> Option<F80> {
    match argument(env, a, F80::ZERO, true) {
        Argument::Known(value) => Some(value),
        Argument::OutOfRange => None,
        // The series would round the wrong way here: tan(x) is just above x.
        Argument::Real(real) if real.exponent < -64 => Some(Precise::from_real(real).deliver(env)),
        Argument::Real(real) => {
            let (quadrant, rest) = reduce(real);
            let (sine, cosine) = (sine_at(quadrant, rest), sine_at(quadrant + 1, rest));
            Some(sine.divide(cosine).deliver(env))
        }
    }
}

/// FPATAN: the angle of the point (`x`, `y`).
pub fn arctangent(env: &mut Environment, y: F80, x: F80) -> F80 {
    if let Some(nan) = env.propagate(y, x) {
        return nan;
    }
    let ((rise, rise_denormal), (run, run_denormal)) = (number(y), number(x));
    if !env.denormal(rise_denormal | run_denormal) {
        return y;
    }
    let upright = |angle: Precise| {
        if x.negative() {
            PI.add(angle.negate())
        } else {
            angle
        }
    };
    let angle = match (rise, run) {
        (Number::Zero, _) | (Number::Finite(_), Number::Infinity) if !x.negative() => {
            return F80::zero(y.negative());
        }
        (Number::Zero, _) | (Number::Finite(_), Number::Infinity) => PI,
        (Number::Infinity, Number::Infinity) => upright(PI_QUARTER),
        (Number::Infinity, _) | (_, Number::Zero) => PI_HALF,
        (Number::Finite(rise), Number::Finite(run)) => {
            let (rise, run) = (rise.with_sign(false), run.with_sign(false));
            upright(arctangent_of(
                Precise::from_real(rise),
                Precise::from_real(run),
            ))
        }
    };
    angle.with_sign(y.negative()).deliver(env)
}

/// The arctangent of `rise / run`, both positive.
fn arctangent_of(rise: Precise, run: Precise) -> Precise {
    let steep = run.below(&rise);
    let (small, large) = if steep { (run, rise) } else { (rise, run) };
    // atan(s/l) = atan(c) + atan((s - c l) / (l + c s)) for c of 0, 1/2 or 1 leaves at most 1/4 for the series.
    let (base, fraction) = if small.shift(2).below(&large) {
        (Precise::ZERO, small.divide(large))
    } else if small.shift(2).below(&large.shift(1).add(large)) {
        let (half_large, half_small) = (large.shift(-1), small.shift(-1));
        (
            ARCTANGENT_HALF,
            small.add(half_large.negate()).divide(large.add(half_small)),
        )
    } else {
        (
            PI_QUARTER,
            small.add(large.negate()).divide(large.add(small)),
        )
    };
    let square = fraction.multiply(fraction);
    let rest = fraction.multiply(series(&ODD_INVERSES, square.fraction(), Signs::Alternating));
    let angle = base.add(rest);
    if steep {
        PI_HALF.add(angle.negate())
    } else {
        angle
    }
}
