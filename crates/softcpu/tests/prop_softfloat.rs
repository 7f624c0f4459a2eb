//! `softfloat` against an independent implementation of IEEE 754, on every host: sums, products and quotients of random
//! operands in all formats and rounding directions, with their flags.

use rustc_apfloat::ieee::{Double, Single, X87DoubleExtended};
use rustc_apfloat::{Float, Round, Status, StatusAnd};
use softcpu::softfloat::env::{IE, OE, PE, UE, ZE};
use softcpu::softfloat::f80::F80;
use softcpu::softfloat::format::{F32, F64};
use softcpu::softfloat::{sse, x87};

const ROUNDS: [Round; 4] = [
    Round::NearestTiesToEven,
    Round::TowardNegative,
    Round::TowardPositive,
    Round::TowardZero,
];

/// A small deterministic generator (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Sign, biased exponent (often near the ends or near that of one) and fraction.
    fn parts(&mut self, exponent_bits: u32, fraction_bits: u32) -> (u64, u64, u64) {
        let special = (1 << exponent_bits) - 1;
        let exponent = match self.below(8) {
            0 => 0,
            1 => 1 + self.below(3),
            2 => special - 1 - self.below(3),
            3 => special,
            4 => self.below(special),
            _ => special / 2 - 30 + self.below(60),
        };
        let bits = self.next() >> (64 - fraction_bits);
        let fraction = match self.below(5) {
            0 => 0,
            1 => bits >> self.below(fraction_bits.into()),
            2 => bits << self.below(fraction_bits.into()) & ((1 << fraction_bits) - 1),
            _ => bits,
        };
        // No NaNs: their rules are the processor's own.
        let fraction = if exponent == special { 0 } else { fraction };
        (self.next() & 1, exponent, fraction)
    }

    fn bits(&mut self, exponent_bits: u32, fraction_bits: u32) -> u128 {
        let (sign, exponent, fraction) = self.parts(exponent_bits, fraction_bits);
        let bits = sign << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction;
        bits.into()
    }

    fn extended(&mut self) -> u128 {
        let (sign, exponent, fraction) = self.parts(15, 63);
        let integer = u64::from(exponent != 0) << 63;
        F80::new((sign << 15 | exponent) as u16, integer | fraction).to_bits()
    }
}

fn flags(status: Status) -> u32 {
    let flag = |wanted: Status, flag: u32| if status.intersects(wanted) { flag } else { 0 };
    flag(Status::INVALID_OP, IE)
        | flag(Status::DIV_BY_ZERO, ZE)
        | flag(Status::OVERFLOW, OE)
        | flag(Status::UNDERFLOW, UE)
        | flag(Status::INEXACT, PE)
}

/// Sum, product or quotient.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Add,
    Multiply,
    Divide,
}

const OPERATIONS: [Operation; 3] = [Operation::Add, Operation::Multiply, Operation::Divide];

fn expected<T: Float>(operation: Operation, a: u128, b: u128, round: Round) -> (u128, u32) {
    let (a, b) = (T::from_bits(a), T::from_bits(b));
    let StatusAnd { status, value } = match operation {
        Operation::Add => a.add_r(b, round),
        Operation::Multiply => a.mul_r(b, round),
        Operation::Divide => a.div_r(b, round),
    };
    (value.to_bits(), flags(status))
}

/// The two may disagree on underflow where a tiny result is rounded up to the smallest normal number, on overflow where
/// the result is the largest number, and on the NaN that an invalid operation gives.
fn check(
    what: &str,
    found: (u128, u32),
    wanted: (u128, u32),
    [smallest_normal, largest, sign]: [u128; 3],
    operands: (u128, u128),
) {
    let magnitude = found.0 & !sign;
    let open = if magnitude == smallest_normal {
        UE
    } else if magnitude == largest {
        OE
    } else {
        0
    };
    let arithmetic = IE | ZE | OE | UE | PE;
    let same = found.1 & IE != 0 || found.0 == wanted.0;
    let same_flags = (found.1 ^ wanted.1) & arithmetic & !open == 0;
    assert!(
        same && same_flags,
        "{what} {:x} {:x}: found {:x} {:#x}, expected {:x} {:#x}",
        operands.0,
        operands.1,
        found.0,
        found.1,
        wanted.0,
        wanted.1,
    );
}

fn single_or_double<T: Float, L: sse::Lane>(exponent_bits: u32, fraction_bits: u32) {
    let mut random = Random(u64::from(fraction_bits));
    for case in 0..30_000 {
        let rounding = case % 4;
        let (a, b) = (
            random.bits(exponent_bits, fraction_bits),
            random.bits(exponent_bits, fraction_bits),
        );
        for operation in OPERATIONS {
            let wanted = expected::<T>(operation, a, b, ROUNDS[rounding]);
            let mxcsr = sse::MXCSR_RESET | (rounding as u32) << 13;
            let mut env = sse::Environment::new(mxcsr);
            let (x, y) = (a as u64, b as u64);
            let value = match operation {
                Operation::Add => L::add(&mut env, x, y),
                Operation::Multiply => L::multiply(&mut env, x, y),
                Operation::Divide => L::divide(&mut env, x, y),
            };
            let what = format!("{operation:?} {:?}", ROUNDS[rounding]);
            let found = (value.into(), env.raised);
            let sign = 1 << (exponent_bits + fraction_bits);
            let largest = (((1 << exponent_bits) - 1) << fraction_bits) - 1;
            check(
                &what,
                found,
                wanted,
                [1 << fraction_bits, largest, sign],
                (a, b),
            );
        }
    }
}

#[test]
fn single_precision() {
    single_or_double::<Single, F32>(8, 23);
}

#[test]
fn double_precision() {
    single_or_double::<Double, F64>(11, 52);
}

#[test]
fn extended_precision() {
    let mut random = Random(80);
    for case in 0..30_000 {
        let rounding = case % 4;
        let (a, b) = (random.extended(), random.extended());
        for operation in OPERATIONS {
            let wanted = expected::<X87DoubleExtended>(operation, a, b, ROUNDS[rounding]);
            let mut env = x87::Environment::new(0x37f | (rounding as u16) << 10);
            let (x, y) = (F80::from_bits(a), F80::from_bits(b));
            let value = match operation {
                Operation::Add => x87::add(&mut env, x, y),
                Operation::Multiply => x87::multiply(&mut env, x, y),
                Operation::Divide => x87::divide(&mut env, x, y),
            };
            let what = format!("{operation:?} {:?}", ROUNDS[rounding]);
            let found = (value.to_bits(), env.raised);
            let marks = [3 << 63, 0x7ffe_ffff_ffff_ffff_ffff, 1 << 79];
            check(&what, found, wanted, marks, (a, b));
        }
    }
}
