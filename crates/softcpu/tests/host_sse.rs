//! The SSE arithmetic of `softfloat` against the host's SSE: random and special operands, all rounding
//! directions, FTZ and DAZ; results and flags.
//!
//! `TRIVET_SLOW=1` runs hundreds of times as many cases.
#![expect(
    clippy::print_stdout,
    reason = "a difference is shown with its operands"
)]
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use softcpu::softfloat::env::{ALL, Relation};
use softcpu::softfloat::format::{F32, F64};
use softcpu::softfloat::sse::{self, Environment, Lane, Predicate, Signal};

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

    /// A lane with `fraction` fraction bits and `exponent` exponent bits.
    fn lane(&mut self, fraction: u32, exponent: u32) -> u64 {
        let special = (1 << exponent) - 1;
        let bias = special / 2;
        let field = match self.below(12) {
            0 => 0,
            1 => special,
            2 => 1 + self.below(4),
            3 => special - 1 - self.below(4),
            4 => self.below(special),
            5 => bias,
            6 => bias / 2 + self.below(30),
            7 => bias + bias / 2 - self.below(30),
            _ => bias - 35 + self.below(70),
        };
        let all = (1 << fraction) - 1;
        let bits = self.next() & all;
        let part = match self.below(8) {
            0 => 0,
            1 => 1 << self.below(fraction.into()),
            2 => all,
            3 => bits << self.below(fraction.into()) & all,
            4 => all << self.below(fraction.into()) & all,
            _ => bits,
        };
        let sign = self.next() & 1;
        sign << (fraction + exponent) | field << fraction | part
    }

    fn single(&mut self) -> u64 {
        self.lane(23, 8)
    }

    fn double(&mut self) -> u64 {
        self.lane(52, 11)
    }

    /// All exceptions masked; flags clear or, seldom, some set already.
    fn control(&mut self) -> u32 {
        let flags = if self.below(3) == 0 {
            self.next() as u32 & 0x3f
        } else {
            0
        };
        let rounding = if self.below(2) == 0 {
            0
        } else {
            self.below(4) as u32
        };
        let quirks = if self.below(3) == 0 {
            self.next() as u32 & 0x8040
        } else {
            0
        };
        0x1f80 | flags | rounding << 13 | quirks
    }
}

fn cases(quick: u64) -> u64 {
    if std::env::var_os("TRIVET_SLOW").is_some() {
        quick * 300
    } else {
        quick
    }
}

/// Runs one instruction with xmm0 = `$a`, xmm1 = `$b`, rax = `$b`. Gives xmm0, rax and MXCSR.
macro_rules! host {
    ($control:expr, $a:expr, $b:expr, $instruction:literal) => {{
        let (control, a, b): (u32, u64, u64) = ($control, $a, $b);
        let (mut after, saved) = (0u32, 0x1f80u32);
        let (result, integer): (u64, u64);
        // SAFETY: reads and writes the named locals only; MXCSR has its usual value at the end.
        unsafe {
            asm!(
                "movq xmm0, {a}",
                "movq xmm1, rax",
                "ldmxcsr dword ptr [{control}]",
                $instruction,
                "stmxcsr dword ptr [{after}]",
                "ldmxcsr dword ptr [{saved}]",
                "movq {result}, xmm0",
                a = in(reg) a,
                inout("rax") b => integer,
                control = in(reg) &raw const control,
                after = in(reg) &raw mut after,
                saved = in(reg) &raw const saved,
                result = lateout(reg) result,
                out("xmm0") _, out("xmm1") _,
            );
        }
        (result, integer, after)
    }};
}

type Operation = fn(&mut Environment, u64, u64) -> u64;

fn check(
    name: &str,
    operand: fn(&mut Random) -> u64,
    mask: u64,
    soft: Operation,
    host: impl Fn(u32, u64, u64) -> (u64, u32),
) {
    let mut random = Random(0x5eed ^ name.len() as u64);
    let mut failures = 0;
    for _ in 0..cases(40_000) {
        let (control, a, mut b) = (random.control(), operand(&mut random), operand(&mut random));
        if random.below(6) == 0 {
            b = a;
        }
        let (wanted, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let value = soft(&mut env, a, b);
        if (value & mask, env.mxcsr()) != (wanted & mask, status) {
            failures += 1;
            if failures < 12 {
                println!(
                    "{name} {control:#06x} {a:016x} {b:016x}: found {value:016x} {:#x}, \
                     host {:016x} {:#x}",
                    env.raised & ALL,
                    wanted & mask,
                    status & !control,
                );
            }
        }
    }
    assert_eq!(failures, 0, "{name}");
}

const SINGLE: u64 = u32::MAX as u64;
const DOUBLE: u64 = u64::MAX;

/// A test for both formats: instruction of each, and the function.
macro_rules! both {
    ($name:ident, $single:literal, $double:literal, $soft_single:expr, $soft_double:expr) => {
        #[test]
        fn $name() {
            check(
                stringify!($name),
                Random::single,
                SINGLE,
                $soft_single,
                |c, a, b| {
                    let (result, _, after) = host!(c, a, b, $single);
                    (result, after)
                },
            );
            check(
                stringify!($name),
                Random::double,
                DOUBLE,
                $soft_double,
                |c, a, b| {
                    let (result, _, after) = host!(c, a, b, $double);
                    (result, after)
                },
            );
        }
    };
}

both!(
    add,
    "addss xmm0, xmm1",
    "addsd xmm0, xmm1",
    F32::add,
    F64::add
);
both!(
    subtract,
    "subss xmm0, xmm1",
    "subsd xmm0, xmm1",
    F32::subtract,
    F64::subtract
);
both!(
    multiply,
    "mulss xmm0, xmm1",
    "mulsd xmm0, xmm1",
    F32::multiply,
    F64::multiply
);
both!(
    divide,
    "divss xmm0, xmm1",
    "divsd xmm0, xmm1",
    F32::divide,
    F64::divide
);
both!(
    square_root,
    "sqrtss xmm0, xmm1",
    "sqrtsd xmm0, xmm1",
    |e, _, b| F32::square_root(e, b),
    |e, _, b| F64::square_root(e, b)
);
both!(
    add_in_general,
    "addss xmm0, xmm1",
    "addsd xmm0, xmm1",
    sse::add::<F32>,
    sse::add::<F64>
);
both!(
    subtract_in_general,
    "subss xmm0, xmm1",
    "subsd xmm0, xmm1",
    sse::subtract::<F32>,
    sse::subtract::<F64>
);
both!(
    multiply_in_general,
    "mulss xmm0, xmm1",
    "mulsd xmm0, xmm1",
    sse::multiply::<F32>,
    sse::multiply::<F64>
);
both!(
    divide_in_general,
    "divss xmm0, xmm1",
    "divsd xmm0, xmm1",
    sse::divide::<F32>,
    sse::divide::<F64>
);
both!(
    square_root_in_general,
    "sqrtss xmm0, xmm1",
    "sqrtsd xmm0, xmm1",
    |e, _, b| sse::square_root::<F32>(e, b),
    |e, _, b| sse::square_root::<F64>(e, b)
);
both!(
    minimum,
    "minss xmm0, xmm1",
    "minsd xmm0, xmm1",
    sse::minimum::<F32>,
    sse::minimum::<F64>
);
both!(
    maximum,
    "maxss xmm0, xmm1",
    "maxsd xmm0, xmm1",
    sse::maximum::<F32>,
    sse::maximum::<F64>
);
both!(
    round_nearest,
    "roundss xmm0, xmm1, 0",
    "roundsd xmm0, xmm1, 0",
    |e, _, b| sse::round_to_integer::<F32>(e, b, 0),
    |e, _, b| sse::round_to_integer::<F64>(e, b, 0)
);
both!(
    round_by_mxcsr,
    "roundss xmm0, xmm1, 4",
    "roundsd xmm0, xmm1, 4",
    |e, _, b| sse::round_to_integer::<F32>(e, b, 4),
    |e, _, b| sse::round_to_integer::<F64>(e, b, 4)
);
both!(
    round_up_quietly,
    "roundss xmm0, xmm1, 10",
    "roundsd xmm0, xmm1, 10",
    |e, _, b| sse::round_to_integer::<F32>(e, b, 10),
    |e, _, b| sse::round_to_integer::<F64>(e, b, 10)
);

fn lane(holds: bool) -> u64 {
    if holds { u64::MAX } else { 0 }
}

macro_rules! predicate {
    ($name:ident, $predicate:ident, $single:literal, $double:literal) => {
        both!(
            $name,
            $single,
            $double,
            |e, a, b| lane(sse::compare::<F32>(e, a, b, Predicate::$predicate)),
            |e, a, b| lane(sse::compare::<F64>(e, a, b, Predicate::$predicate))
        );
    };
}

predicate!(equal, Equal, "cmpss xmm0, xmm1, 0", "cmpsd xmm0, xmm1, 0");
predicate!(less, Less, "cmpss xmm0, xmm1, 1", "cmpsd xmm0, xmm1, 1");
predicate!(
    less_or_equal,
    LessOrEqual,
    "cmpss xmm0, xmm1, 2",
    "cmpsd xmm0, xmm1, 2"
);
predicate!(
    unordered,
    Unordered,
    "cmpss xmm0, xmm1, 3",
    "cmpsd xmm0, xmm1, 3"
);
predicate!(
    not_equal,
    NotEqual,
    "cmpss xmm0, xmm1, 4",
    "cmpsd xmm0, xmm1, 4"
);
predicate!(
    not_less,
    NotLess,
    "cmpss xmm0, xmm1, 5",
    "cmpsd xmm0, xmm1, 5"
);
predicate!(
    not_less_or_equal,
    NotLessOrEqual,
    "cmpss xmm0, xmm1, 6",
    "cmpsd xmm0, xmm1, 6"
);
predicate!(
    ordered,
    Ordered,
    "cmpss xmm0, xmm1, 7",
    "cmpsd xmm0, xmm1, 7"
);

#[test]
fn conversions_between_formats() {
    check(
        "cvtss2sd",
        Random::single,
        DOUBLE,
        |e, _, b| sse::widen(e, b),
        |c, a, b| {
            let (result, _, after) = host!(c, a, b, "cvtss2sd xmm0, xmm1");
            (result, after)
        },
    );
    check(
        "cvtsd2ss",
        Random::double,
        SINGLE,
        |e, _, b| sse::narrow(e, b),
        |c, a, b| {
            let (result, _, after) = host!(c, a, b, "cvtsd2ss xmm0, xmm1");
            (result, after)
        },
    );
}

/// A test of a conversion to an integer of 32 or 64 bits.
macro_rules! to_integer {
    ($name:ident, $operand:path, $mask:expr, $instruction:literal, $soft:expr) => {
        #[test]
        fn $name() {
            check(stringify!($name), $operand, $mask, $soft, |c, a, b| {
                let (_, integer, after) = host!(c, a, b, $instruction);
                (integer, after)
            });
        }
    };
}

to_integer!(
    cvtss2si_32,
    Random::single,
    SINGLE,
    "cvtss2si eax, xmm1",
    |e, _, b| sse::to_i32::<F32>(e, b) as u64
);
to_integer!(
    cvtss2si_64,
    Random::single,
    DOUBLE,
    "cvtss2si rax, xmm1",
    |e, _, b| sse::to_i64::<F32>(e, b) as u64
);
to_integer!(
    cvttss2si_32,
    Random::single,
    SINGLE,
    "cvttss2si eax, xmm1",
    |e, _, b| sse::to_i32_truncating::<F32>(e, b) as u64
);
to_integer!(
    cvttss2si_64,
    Random::single,
    DOUBLE,
    "cvttss2si rax, xmm1",
    |e, _, b| sse::to_i64_truncating::<F32>(e, b) as u64
);
to_integer!(
    cvtsd2si_32,
    Random::double,
    SINGLE,
    "cvtsd2si eax, xmm1",
    |e, _, b| sse::to_i32::<F64>(e, b) as u64
);
to_integer!(
    cvtsd2si_64,
    Random::double,
    DOUBLE,
    "cvtsd2si rax, xmm1",
    |e, _, b| sse::to_i64::<F64>(e, b) as u64
);
to_integer!(
    cvttsd2si_32,
    Random::double,
    SINGLE,
    "cvttsd2si eax, xmm1",
    |e, _, b| sse::to_i32_truncating::<F64>(e, b) as u64
);
to_integer!(
    cvttsd2si_64,
    Random::double,
    DOUBLE,
    "cvttsd2si rax, xmm1",
    |e, _, b| sse::to_i64_truncating::<F64>(e, b) as u64
);

fn integer(random: &mut Random) -> u64 {
    let bits = random.next();
    (bits as i64 >> random.below(64)) as u64
}

#[test]
fn conversions_from_integers() {
    check(
        "cvtsi2ss",
        integer,
        SINGLE,
        |e, _, b| sse::from_i64::<F32>(e, b as i64),
        |c, a, b| {
            let (result, _, after) = host!(c, a, b, "cvtsi2ss xmm0, rax");
            (result, after)
        },
    );
    check(
        "cvtsi2ss",
        integer,
        SINGLE,
        |e, _, b| sse::from_i32::<F32>(e, b as i32),
        |c, a, b| {
            let (result, _, after) = host!(c, a, b, "cvtsi2ss xmm0, eax");
            (result, after)
        },
    );
    check(
        "cvtsi2sd",
        integer,
        DOUBLE,
        |e, _, b| sse::from_i64::<F64>(e, b as i64),
        |c, a, b| {
            let (result, _, after) = host!(c, a, b, "cvtsi2sd xmm0, rax");
            (result, after)
        },
    );
}

fn check_flags<F: Lane>(
    signal: Signal,
    operand: fn(&mut Random) -> u64,
    host: impl Fn(u32, u64, u64) -> (u64, u32),
) {
    let mut random = Random(3);
    for _ in 0..cases(40_000) {
        let (control, a, mut b) = (random.control(), operand(&mut random), operand(&mut random));
        if random.below(4) == 0 {
            b = a;
        }
        let (wanted, status) = host(control, a, b);
        let mut env = Environment::new(control);
        let codes = match sse::relation::<F>(&mut env, a, b, signal) {
            Relation::Greater => 0x00,
            Relation::Less => 0x01,
            Relation::Equal => 0x40,
            Relation::Unordered => 0x45,
        };
        assert_eq!(
            (codes, env.mxcsr()),
            (wanted, status),
            "{control:x} {a:016x} {b:016x}"
        );
    }
}

#[test]
fn comparisons_into_flags() {
    check_flags::<F32>(Signal::Always, Random::single, |c, a, b| {
        let (_, flags, after) = host!(
            c,
            a,
            b,
            "comiss xmm0, xmm1\nlahf\nshr eax, 8\nand eax, 0x45"
        );
        (flags, after)
    });
    check_flags::<F32>(Signal::Signaling, Random::single, |c, a, b| {
        let (_, flags, after) = host!(
            c,
            a,
            b,
            "ucomiss xmm0, xmm1\nlahf\nshr eax, 8\nand eax, 0x45"
        );
        (flags, after)
    });
    check_flags::<F64>(Signal::Always, Random::double, |c, a, b| {
        let (_, flags, after) = host!(
            c,
            a,
            b,
            "comisd xmm0, xmm1\nlahf\nshr eax, 8\nand eax, 0x45"
        );
        (flags, after)
    });
    check_flags::<F64>(Signal::Signaling, Random::double, |c, a, b| {
        let (_, flags, after) = host!(
            c,
            a,
            b,
            "ucomisd xmm0, xmm1\nlahf\nshr eax, 8\nand eax, 0x45"
        );
        (flags, after)
    });
}

#[test]
fn estimates_are_as_good_as_promised() {
    let mut random = Random(5);
    for _ in 0..cases(40_000) {
        let bits = random.next() as u32 & 0x3fff_ffff | 0x2000_0000;
        let x = f64::from(f32::from_bits(bits));
        let reciprocal = f64::from(f32::from_bits(sse::reciprocal(bits.into()) as u32));
        assert!(
            (reciprocal * x - 1.0).abs() <= 1.5 / 4096.0,
            "1 / {x} is not {reciprocal}"
        );
        let root = f64::from(f32::from_bits(
            sse::reciprocal_square_root(bits.into()) as u32
        ));
        assert!(
            (root * x.sqrt() - 1.0).abs() <= 1.5 / 4096.0,
            "1 / sqrt({x}) is not {root}"
        );
    }
}

#[test]
fn estimates_of_special_values() {
    let cases = [
        0,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0001,
        0x7f80_0001,
        0xffa0_0000,
        1,
        0x8000_0001,
        0x7f7f_ffff,
        0xff7f_ffff,
    ];
    for bits in cases {
        let (wanted, _, after) = host!(0x1f80, 0, bits, "rcpss xmm0, xmm1");
        assert_eq!(
            (sse::reciprocal(bits), after),
            (wanted, 0x1f80),
            "rcp {bits:x}"
        );
        let (wanted, _, after) = host!(0x1f80, 0, bits, "rsqrtss xmm0, xmm1");
        if bits == 0x7f7f_ffff {
            continue;
        }
        assert_eq!(
            (sse::reciprocal_square_root(bits), after),
            (wanted, 0x1f80),
            "rsqrt {bits:x}"
        );
    }
}
