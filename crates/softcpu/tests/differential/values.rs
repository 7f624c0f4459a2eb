//! Operand values worth trying: the edges of integers and every kind of floating-point number.

use crate::prng::Prng;

/// An integer of any width: edges, powers of two, small numbers, few bits, or anything.
pub(crate) fn integer(rng: &mut Prng) -> u64 {
    match rng.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => rng.below(70),
        3 => rng.below(70).wrapping_neg(),
        4 => 1 << rng.below(64),
        5 => (1 << rng.below(64)) - 1,
        6 => rng.pick(&[
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            i64::MAX as u64,
            i64::MIN as u64,
        ]),
        7 => rng.next() & rng.next() & rng.next(),
        8 => u64::from(rng.next() as u32),
        9 => i64::from(rng.next() as i32) as u64,
        _ => rng.next(),
    }
}

/// A single-precision number of every kind.
pub(crate) fn single(rng: &mut Prng) -> u32 {
    let sign = (rng.next() as u32) & 0x8000_0000;
    let fraction = (rng.next() as u32) & 0x007f_ffff;
    let magnitude = match rng.below(16) {
        0 => 0,
        1 => 0x7f80_0000,
        2 => 0x7fc0_0000 | fraction,
        3 => 0x7f80_0001 | (fraction & 0x003f_ffff),
        4 => fraction,
        5 => rng.pick(&[1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff]),
        6 => (rng.below(300) as f32).to_bits(),
        7 => (rng.below(1000) as f32 / 8.0).to_bits(),
        8 => rng.pick(&[
            0x4eff_ffff,
            0x4f00_0000,
            0x5eff_ffff,
            0x5f00_0000,
            0x4f80_0000,
            0x3f00_0000,
            0x3f80_0000,
        ]),
        9 | 10 => ((100 + rng.below(60) as u32) << 23) | fraction,
        11 => ((120 + rng.below(12) as u32) << 23) | (fraction & 0x7f_0000),
        _ => (rng.next() as u32) & 0x7fff_ffff,
    };
    sign | magnitude
}

/// A double-precision number of every kind.
pub(crate) fn double(rng: &mut Prng) -> u64 {
    let sign = rng.next() & (1 << 63);
    let fraction = rng.next() & ((1 << 52) - 1);
    let magnitude = match rng.below(16) {
        0 => 0,
        1 => 0x7ff << 52,
        2 => 0x7ff8 << 48 | fraction,
        3 => 0x7ff << 52 | 1 | (fraction >> 1),
        4 => fraction,
        5 => rng.pick(&[1, (1 << 52) - 1, 1 << 52, 0x7fef_ffff_ffff_ffff]),
        6 => (rng.below(300) as f64).to_bits(),
        7 => (rng.below(1000) as f64 / 8.0).to_bits(),
        8 => rng.pick(&[
            2_147_483_647.0_f64.to_bits(),
            2_147_483_647.5_f64.to_bits(),
            2_147_483_648.0_f64.to_bits(),
            9_223_372_036_854_775_807.0_f64.to_bits(),
            0.5_f64.to_bits(),
            1.5_f64.to_bits(),
            1.0_f64.to_bits(),
        ]),
        9 => ((1023 - 140 + rng.below(280)) << 52) | fraction,
        10 => ((1023 - 20 + rng.below(40)) << 52) | fraction,
        11 => ((1020 + rng.below(12)) << 52) | (fraction & (0xff << 44)),
        _ => rng.next() >> 1,
    };
    sign | magnitude
}

/// A number of the x87's own format: significand, then sign and exponent. Unsupported encodings are among them.
pub(crate) fn extended(rng: &mut Prng) -> (u64, u16) {
    let sign = (rng.next() as u16) & 0x8000;
    let integer_bit = 1u64 << 63;
    let fraction = rng.next() >> 1;
    let (significand, exponent) = match rng.below(20) {
        0 => (0, 0),
        1 => (integer_bit, 0x7fff),
        2 => (integer_bit | 1 << 62 | fraction >> 1, 0x7fff),
        3 => (integer_bit | 1 | fraction >> 2, 0x7fff),
        4 => (fraction, 0),
        5 => (integer_bit | fraction, 0),
        6 => (fraction, (rng.below(0x8000)) as u16),
        7 => of_integer(rng.below(300)),
        8 => of_integer(rng.next()),
        9 => of_integer(1 << rng.below(64)),
        10 => {
            let (significand, exponent) = of_integer(1 + rng.below(1000));
            (significand, exponent - 3)
        }
        11 => (integer_bit | fraction, 1 + rng.below(80) as u16),
        12 => (integer_bit | fraction, 0x7ffe - rng.below(80) as u16),
        13 => (
            integer_bit | fraction << 11 & (integer_bit - 1),
            16383 - 1074 + rng.below(2150) as u16,
        ),
        14 => (integer_bit | fraction, 16383 - 3 + rng.below(6) as u16),
        15 => (u64::MAX, 16383 + rng.below(70) as u16),
        16 => (
            integer_bit | fraction & 0xffff << 47,
            16383 - 20 + rng.below(40) as u16,
        ),
        _ => (integer_bit | fraction, 16383 - 70 + rng.below(140) as u16),
    };
    (significand, sign | exponent)
}

fn of_integer(value: u64) -> (u64, u16) {
    if value == 0 {
        return (0, 0);
    }
    let shift = value.leading_zeros();
    (value << shift, 16383 + 63 - shift as u16)
}

/// What a block of bytes is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Integers,
    Singles,
    Doubles,
    Extended,
    /// Packed decimal digits, as FBLD reads them.
    Decimal,
    Noise,
}

/// Fills `into` with values of one style.
pub(crate) fn fill(rng: &mut Prng, style: Style, into: &mut [u8]) {
    let mut at = 0;
    while at < into.len() {
        let mut value = [0u8; 16];
        let len = match style {
            Style::Integers => {
                value[..8].copy_from_slice(&integer(rng).to_le_bytes());
                rng.pick(&[1, 2, 4, 8, 8])
            }
            Style::Singles => {
                value[..4].copy_from_slice(&single(rng).to_le_bytes());
                4
            }
            Style::Doubles => {
                value[..8].copy_from_slice(&double(rng).to_le_bytes());
                8
            }
            Style::Extended => {
                let (significand, sign_exponent) = extended(rng);
                value[..8].copy_from_slice(&significand.to_le_bytes());
                value[8..10].copy_from_slice(&sign_exponent.to_le_bytes());
                10
            }
            Style::Decimal => {
                for digit in &mut value[..9] {
                    *digit = (rng.below(10) << 4 | rng.below(10)) as u8;
                }
                value[9] = rng.pick(&[0, 0x80]);
                10
            }
            Style::Noise => {
                value[..8].copy_from_slice(&rng.next().to_le_bytes());
                8
            }
        };
        let len = len.min(into.len() - at);
        into[at..at + len].copy_from_slice(&value[..len]);
        at += len;
    }
}
