//! The x87 arithmetic of `softfloat` against the host's x87: random and special operands, all rounding
//! directions and precisions, masked and unmasked exceptions; result, flags and condition codes.
//!
//! `TRIVET_SLOW=1` runs hundreds of times as many cases.
#![expect(
    clippy::print_stdout,
    reason = "a difference is shown with its operands"
)]
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use softcpu::softfloat::env::{ALL, Relation};
use softcpu::softfloat::f80::F80;
use softcpu::softfloat::x87::{self, Environment, Outcome, Quotient, Signal};

/// Condition codes in the status word.
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;

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

    fn significand(&mut self) -> u64 {
        let bits = self.next();
        match self.below(6) {
            0 => bits,
            1 => u64::MAX << self.below(64),
            2 => 1 << self.below(64),
            3 => bits << self.below(64),
            4 => (1 << 63) | bits >> self.below(64),
            _ => bits | 1 << 63,
        }
    }

    fn value(&mut self) -> F80 {
        let sign = (self.next() as u16) << 15;
        let significand = self.significand();
        match self.below(16) {
            0 => F80::new(sign, significand),
            1 => F80::new(sign | 0x7fff, significand),
            2 => F80::new(sign | self.below(0x8000) as u16, significand),
            3 => F80::new(sign, 0),
            4 => F80::new(sign | 0x7fff, 1 << 63),
            5 => F80::new(sign | (1 + self.below(70)) as u16, significand | 1 << 63),
            6 => F80::new(
                sign | (0x7ffe - self.below(70)) as u16,
                significand | 1 << 63,
            ),
            7 => F80::new(sign | 0x3fff, 1 << 63),
            _ => F80::new(
                sign | (0x3fff - 70 + self.below(140)) as u16,
                significand | 1 << 63,
            ),
        }
    }

    fn control(&mut self) -> u16 {
        let masks = if self.below(4) == 0 {
            self.next() as u16 & 0x3f
        } else {
            0x3f
        };
        let precision = [0, 2, 3, 3][self.below(4) as usize];
        masks | 0x40 | precision << 8 | (self.below(4) as u16) << 10
    }
}

fn cases(quick: u64) -> u64 {
    if std::env::var_os("TRIVET_SLOW").is_some() {
        quick * 300
    } else {
        quick
    }
}

/// Runs one instruction on ST(0) = `$a`, ST(1) = `$b`. Gives ST(0) and the status word.
macro_rules! host {
    ($control:expr, $a:expr, $b:expr, $($instruction:literal),+) => {{
        let (control, a, b) = ($control, $a.to_bits(), $b.to_bits());
        let (mut status, mut result) = (0u16, 0u128);
        // SAFETY: reads and writes the named locals only; the unit is left as a new thread has it.
        unsafe {
            asm!(
                "fninit",
                "fld tbyte ptr [{b}]",
                "fld tbyte ptr [{a}]",
                "fldcw word ptr [{control}]",
                $($instruction,)+
                "fnstsw word ptr [{status}]",
                "fnclex",
                "fstp tbyte ptr [{result}]",
                "fninit",
                a = in(reg) &raw const a,
                b = in(reg) &raw const b,
                control = in(reg) &raw const control,
                status = in(reg) &raw mut status,
                result = in(reg) &raw mut result,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (F80::from_bits(result), status)
    }};
}

fn ours(env: &Environment, value: F80, a: F80) -> (F80, u16) {
    if env.stores() {
        (value, flags(env) | if env.rounded_up { C1 } else { 0 })
    } else {
        (a, flags(env))
    }
}

fn flags(env: &Environment) -> u16 {
    (env.raised & ALL) as u16
}

type Binary = fn(&mut Environment, F80, F80) -> F80;

fn check_binary(name: &str, soft: Binary, host: impl Fn(u16, F80, F80) -> (F80, u16)) {
    let mut random = Random(0x5eed ^ name.len() as u64);
    let mut failures = 0;
    for _ in 0..cases(20_000) {
        let (control, a, b) = (random.control(), random.value(), random.value());
        let (wanted, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let value = soft(&mut env, a, b);
        let (value, found) = ours(&env, value, a);
        let status = status & (ALL as u16 | C1);
        if (value, found) != (wanted, status) {
            failures += 1;
            if failures < 12 {
                println!(
                    "{name} control {control:#06x} {:020x} {:020x}: found {:020x} {found:#x}, \
                     host {:020x} {status:#x}",
                    a.to_bits(),
                    b.to_bits(),
                    value.to_bits(),
                    wanted.to_bits(),
                );
            }
        }
    }
    assert_eq!(failures, 0, "{name}");
}

#[test]
fn add() {
    check_binary("add", x87::add, |c, a, b| {
        host!(c, a, b, "fadd st(0), st(1)")
    });
}

#[test]
fn subtract() {
    check_binary("subtract", x87::subtract, |c, a, b| {
        host!(c, a, b, "fsub st(0), st(1)")
    });
}

#[test]
fn multiply() {
    check_binary("multiply", x87::multiply, |c, a, b| {
        host!(c, a, b, "fmul st(0), st(1)")
    });
}

#[test]
fn divide() {
    check_binary("divide", x87::divide, |c, a, b| {
        host!(c, a, b, "fdiv st(0), st(1)")
    });
}

#[test]
fn scale() {
    check_binary("scale", x87::scale, |c, a, b| host!(c, a, b, "fscale"));
}

#[test]
fn square_root() {
    check_binary(
        "root",
        |env, a, _| x87::square_root(env, a),
        |c, a, b| host!(c, a, b, "fsqrt"),
    );
}

#[test]
fn round_to_integer() {
    check_binary(
        "round",
        |env, a, _| x87::round_to_integer(env, a),
        |c, a, b| host!(c, a, b, "frndint"),
    );
}

#[test]
fn extract_significand() {
    check_binary(
        "significand",
        |env, a, _| x87::extract(env, a).0,
        |c, a, b| host!(c, a, b, "fxtract"),
    );
}

#[test]
fn extract_exponent() {
    check_binary(
        "exponent",
        |env, a, _| {
            let (_, exponent) = x87::extract(env, a);
            if env.stores() { exponent } else { a }
        },
        |c, a, b| {
            let (significand, status) = host!(c, a, b, "fxtract");
            if u32::from(status & !c) & 0x7 != 0 {
                (significand, status)
            } else {
                host!(c, a, b, "fxtract", "fxch st(1)")
            }
        },
    );
}

fn check_remainder(name: &str, rounding: Quotient, host: impl Fn(u16, F80, F80) -> (F80, u16)) {
    let mut random = Random(7);
    let mut failures = 0;
    for _ in 0..cases(20_000) {
        let (control, a, b) = (random.control(), random.value(), random.value());
        let (wanted, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let outcome = x87::remainder(&mut env, a, b, rounding);
        let (value, mut found) = ours(&env, outcome.value, a);
        match outcome.outcome {
            _ if !env.stores() => {}
            Outcome::Refused => {}
            Outcome::Partial => found |= C2,
            Outcome::Done(quotient) => {
                for (bit, code) in [(4, C0), (2, C3), (1, C1)] {
                    if quotient & bit != 0 {
                        found |= code;
                    }
                }
            }
        }
        let status = status & (ALL as u16 | C0 | C1 | C2 | C3);
        if (value, found) != (wanted, status) {
            failures += 1;
            if failures < 12 {
                println!(
                    "{name} control {control:#06x} {:020x} {:020x}: found {:020x} {found:#x}, \
                     host {:020x} {status:#x}",
                    a.to_bits(),
                    b.to_bits(),
                    value.to_bits(),
                    wanted.to_bits(),
                );
            }
        }
    }
    assert_eq!(failures, 0, "{name}");
}

#[test]
fn remainder_truncated() {
    check_remainder("fprem", Quotient::Truncated, |c, a, b| {
        host!(c, a, b, "fprem")
    });
}

#[test]
fn remainder_nearest() {
    check_remainder("fprem1", Quotient::Nearest, |c, a, b| {
        host!(c, a, b, "fprem1")
    });
}

fn check_compare(name: &str, signal: Signal, host: impl Fn(u16, F80, F80) -> (F80, u16)) {
    let mut random = Random(11);
    for _ in 0..cases(20_000) {
        let (control, a, mut b) = (random.control(), random.value(), random.value());
        if random.below(4) == 0 {
            b = F80::new(
                a.sign_exponent ^ (random.next() as u16 & 0x8000),
                a.significand,
            );
        }
        let (_, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let codes = match x87::compare(&mut env, a, b, signal) {
            Relation::Greater => 0,
            Relation::Less => C0,
            Relation::Equal => C3,
            Relation::Unordered => C0 | C2 | C3,
        };
        let mut found = codes | flags(&env);
        let mut status = status & (ALL as u16 | C0 | C1 | C2 | C3);
        if !env.stores() {
            // The codes are not written then; what they were is not known here.
            found = flags(&env);
            status &= ALL as u16;
        }
        assert_eq!(
            found,
            status,
            "{name} {control:#x} {:020x} {:020x}",
            a.to_bits(),
            b.to_bits()
        );
    }
}

#[test]
fn compare_ordered() {
    check_compare("fcom", Signal::Always, |c, a, b| {
        host!(c, a, b, "fcom st(1)")
    });
}

#[test]
fn compare_unordered() {
    check_compare("fucom", Signal::Signaling, |c, a, b| {
        host!(c, a, b, "fucom st(1)")
    });
}

/// Stores ST(0) with `$instruction`, or loads with it. Gives the memory and the status word.
macro_rules! host_store {
    ($control:expr, $a:expr, $instruction:literal) => {{
        let (control, a) = ($control, $a.to_bits());
        let (mut status, mut memory) = (0u16, u128::MAX);
        // SAFETY: reads and writes the named locals only; the unit is left as a new thread has it.
        unsafe {
            asm!(
                "fninit",
                "fld tbyte ptr [{a}]",
                "fldcw word ptr [{control}]",
                $instruction,
                "fnstsw word ptr [{status}]",
                "fninit",
                a = in(reg) &raw const a,
                control = in(reg) &raw const control,
                status = in(reg) &raw mut status,
                memory = in(reg) &raw mut memory,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (memory, status)
    }};
}

fn check_store(
    name: &str,
    soft: fn(&mut Environment, F80) -> u128,
    ones: u128,
    host: impl Fn(u16, F80) -> (u128, u16),
) {
    let mut random = Random(13);
    let mut failures = 0;
    for _ in 0..cases(20_000) {
        let (control, a) = (random.control(), random.value());
        let (wanted, status) = host(control, a);
        let mut env = Environment::new(control);
        let value = soft(&mut env, a);
        let stored = if env.stores_to_memory() {
            !ones | value & ones
        } else {
            u128::MAX
        };
        let up = env.rounded_up && env.stores_to_memory();
        let found = flags(&env) | if up { C1 } else { 0 };
        let mut status = status & (ALL as u16 | C1);
        if !env.stores_to_memory() {
            status &= !C1;
        }
        if (stored, found) != (wanted, status) {
            failures += 1;
            if failures < 12 {
                println!(
                    "{name} control {control:#06x} {:020x}: found {stored:x} {found:#x}, \
                     host {wanted:x} {status:#x}",
                    a.to_bits(),
                );
            }
        }
    }
    assert_eq!(failures, 0, "{name}");
}

#[test]
fn store_single() {
    check_store(
        "m32",
        |env, a| x87::to_f32(env, a).into(),
        u32::MAX.into(),
        |c, a| host_store!(c, a, "fst dword ptr [{memory}]"),
    );
}

#[test]
fn store_double() {
    check_store(
        "m64",
        |env, a| x87::to_f64(env, a).into(),
        u64::MAX.into(),
        |c, a| host_store!(c, a, "fst qword ptr [{memory}]"),
    );
}

#[test]
fn store_i16() {
    check_store(
        "i16",
        |env, a| x87::to_i16(env, a) as u16 as u128,
        u16::MAX.into(),
        |c, a| host_store!(c, a, "fist word ptr [{memory}]"),
    );
}

#[test]
fn store_i32() {
    check_store(
        "i32",
        |env, a| x87::to_i32(env, a) as u32 as u128,
        u32::MAX.into(),
        |c, a| host_store!(c, a, "fist dword ptr [{memory}]"),
    );
}

#[test]
fn store_i64() {
    check_store(
        "i64",
        |env, a| x87::to_i64(env, a) as u64 as u128,
        u64::MAX.into(),
        |c, a| host_store!(c, a, "fistp qword ptr [{memory}]"),
    );
}

#[test]
fn store_i64_truncating() {
    let soft = |env: &mut Environment, a| {
        let mut truncating = env.truncating();
        let value = x87::to_i64(&mut truncating, a);
        (env.raised, env.rounded_up) = (truncating.raised, truncating.rounded_up);
        value as u64 as u128
    };
    check_store("truncating", soft, u64::MAX.into(), |c, a| {
        host_store!(c, a, "fisttp qword ptr [{memory}]")
    });
}

#[test]
fn store_decimal() {
    check_store("decimal", x87::to_decimal, (1 << 80) - 1, |c, a| {
        host_store!(c, a, "fbstp tbyte ptr [{memory}]")
    });
}

/// Loads `$memory` with `$instruction`. Gives ST(0) and the status word.
macro_rules! host_load {
    ($control:expr, $memory:expr, $instruction:literal) => {{
        let (control, memory) = ($control, $memory);
        let (mut status, mut result) = (0u16, 0u128);
        // SAFETY: reads and writes the named locals only; the unit is left as a new thread has it.
        unsafe {
            asm!(
                "fninit",
                "fldcw word ptr [{control}]",
                $instruction,
                "fnstsw word ptr [{status}]",
                "fnclex",
                "fstp tbyte ptr [{result}]",
                "fninit",
                control = in(reg) &raw const control,
                status = in(reg) &raw mut status,
                memory = in(reg) &raw const memory,
                result = in(reg) &raw mut result,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (F80::from_bits(result), status & ALL as u16)
    }};
}

#[test]
fn load_single_and_double() {
    let mut random = Random(17);
    for _ in 0..cases(20_000) {
        let bits = random.next();
        let bits = match random.below(4) {
            0 => bits & 0x807f_ffff_800f_ffff | 0x0000_0001,
            1 => bits | 0x7f80_0000_7ff0_0000,
            2 => bits & 0x8000_0000_8000_0000,
            _ => bits,
        };
        let mut env = Environment::new(0x37f);
        let value = x87::from_f32(&mut env, bits as u32);
        let host = host_load!(0x37fu16, bits as u32, "fld dword ptr [{memory}]");
        assert_eq!((value, flags(&env)), host, "{bits:x}");
        let bits = bits.rotate_left(32);
        let mut env = Environment::new(0x37f);
        let value = x87::from_f64(&mut env, bits);
        let host = host_load!(0x37fu16, bits, "fld qword ptr [{memory}]");
        assert_eq!((value, flags(&env)), host, "{bits:x}");
    }
}

#[test]
fn load_integers_and_decimals() {
    let mut random = Random(19);
    for _ in 0..cases(20_000) {
        let bits = random.significand();
        let host = host_load!(0x37fu16, bits, "fild qword ptr [{memory}]");
        assert_eq!((F80::from_i64(bits as i64), 0), host, "{bits:x}");
        let digits = (0..18).fold(0u128, |sum, _| sum << 4 | u128::from(random.below(10)))
            | u128::from(bits & 1) << 79;
        let host = host_load!(0x37fu16, digits, "fbld tbyte ptr [{memory}]");
        assert_eq!((x87::from_decimal(digits), 0), host, "{digits:x}");
    }
}

/// Distance in units in the last place of two numbers of equal sign; large if they cannot be compared.
fn distance(a: F80, b: F80) -> u64 {
    if a == b {
        return 0;
    }
    if a.negative() != b.negative() {
        return u64::MAX;
    }
    let ordinal =
        |x: F80| u128::from(x.exponent_field()) << 63 | u128::from(x.significand & (u64::MAX >> 1));
    u64::try_from(ordinal(a).abs_diff(ordinal(b))).unwrap_or(u64::MAX)
}

/// Compares within one unit in the last place; flags and condition codes must agree but for C1, which
/// tells the rounding of the last bit.
fn check_function(
    name: &str,
    argument: impl Fn(&mut Random) -> (F80, F80),
    soft: impl Fn(&mut Environment, F80, F80) -> Option<F80>,
    host: impl Fn(u16, F80, F80) -> (F80, u16),
) {
    let mut random = Random(23);
    let (mut failures, mut differing, mut flagged) = (0, 0, 0);
    let count = cases(10_000);
    for _ in 0..count {
        let (a, b) = argument(&mut random);
        let control = 0x37f | (random.below(4) as u16) << 10;
        let (wanted, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let value = soft(&mut env, a, b);
        let found = flags(&env) | if value.is_none() { C2 } else { 0 };
        let value = value.unwrap_or(a);
        let status = status & (ALL as u16 | C2);
        let apart = distance(value, wanted);
        differing += u64::from(apart != 0);
        flagged += u64::from(found != status);
        if apart > 1 || found != status {
            failures += 1;
            if failures < 12 {
                println!(
                    "{name} control {control:#06x} {:020x} {:020x}: found {:020x} {found:#x}, \
                     host {:020x} {status:#x}",
                    a.to_bits(),
                    b.to_bits(),
                    value.to_bits(),
                    wanted.to_bits(),
                );
            }
        }
    }
    println!("{name}: {differing} of {count} differ in the last place, {flagged} in flags");
    assert_eq!(failures, 0, "{name}");
}

/// Any value, or mostly those within `2^-70` to `2^top`.
fn within(top: u64) -> impl Fn(&mut Random) -> F80 {
    move |random| {
        if random.below(8) == 0 {
            return random.value();
        }
        let exponent = 0x3fff - 70 + random.below(70 + top) as u16;
        F80::new(
            (random.next() as u16) << 15 | exponent,
            random.significand() | 1 << 63,
        )
    }
}

fn single(top: u64) -> impl Fn(&mut Random) -> (F80, F80) {
    let value = within(top);
    move |random| (value(random), F80::ONE)
}

#[test]
fn sine() {
    check_function(
        "fsin",
        single(64),
        |e, a, _| x87::sine(e, a),
        |c, a, b| host!(c, a, b, "fsin"),
    );
}

#[test]
fn cosine() {
    check_function(
        "fcos",
        single(64),
        |e, a, _| x87::cosine(e, a),
        |c, a, b| host!(c, a, b, "fcos"),
    );
}

#[test]
fn sine_and_cosine() {
    check_function(
        "sin",
        single(64),
        |e, a, _| x87::sine_cosine(e, a).map(|r| r.0),
        |c, a, b| {
            let (first, status) = host!(c, a, b, "fsincos");
            if status & C2 != 0 {
                (first, status)
            } else {
                (host!(c, a, b, "fsincos", "fxch st(1)").0, status)
            }
        },
    );
    check_function(
        "cos",
        single(64),
        |e, a, _| x87::sine_cosine(e, a).map(|r| r.1),
        |c, a, b| host!(c, a, b, "fsincos"),
    );
}

#[test]
fn tangent() {
    check_function(
        "ftan",
        single(64),
        |e, a, _| x87::tangent(e, a),
        |c, a, b| {
            let (first, status) = host!(c, a, b, "fptan");
            if status & C2 != 0 {
                (first, status)
            } else {
                (host!(c, a, b, "fptan", "fxch st(1)").0, status)
            }
        },
    );
}

#[test]
fn arctangent() {
    let both = |random: &mut Random| (random.value(), random.value());
    check_function(
        "fpatan",
        both,
        |e, x, y| Some(x87::arctangent(e, y, x)),
        |c, a, b| host!(c, a, b, "fpatan"),
    );
}

#[test]
fn exp2_minus_1() {
    let inside = |random: &mut Random| (within(0)(random), F80::ONE);
    check_function(
        "f2xm1",
        inside,
        |e, a, _| Some(x87::exp2_minus_1(e, a)),
        |c, a, b| host!(c, a, b, "f2xm1"),
    );
}

#[test]
fn y_log2_x() {
    let both = |random: &mut Random| (random.value(), random.value());
    check_function(
        "fyl2x",
        both,
        |e, x, y| Some(x87::y_log2_x(e, y, x)),
        |c, a, b| host!(c, a, b, "fyl2x"),
    );
}

#[test]
fn y_log2_x_plus_1() {
    // The range of the instruction ends at 1 - sqrt(1/2), about 0.29.
    let both = |random: &mut Random| {
        let x = F80::new(
            (random.next() as u16) << 15 | (0x3ffd - random.below(60)) as u16,
            1 << 63 | random.significand() >> 4,
        );
        (x, random.value())
    };
    check_function(
        "fyl2xp1",
        both,
        |e, x, y| Some(x87::y_log2_x_plus_1(e, y, x)),
        |c, a, b| host!(c, a, b, "fyl2xp1"),
    );
}
