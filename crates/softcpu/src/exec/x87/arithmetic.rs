//! Operations on ST(0) or ST(i) with a register or memory, whose one result replaces an operand.

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Flow, Op};
use crate::softfloat::f80::F80;
use crate::softfloat::x87::{self, Environment};
use crate::tri;

/// A function of two operands, the first of which it replaces.
pub(crate) trait Binary {
    fn apply(env: &mut Environment, a: F80, b: F80) -> F80;
}

macro_rules! binary {
    ($($name:ident($env:ident, $a:ident, $b:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply($env: &mut Environment, $a: F80, $b: F80) -> F80 {
                $value
            }
        }
    )*};
}

binary! {
    Add(env, a, b) = x87::add(env, a, b);
    Multiply(env, a, b) = x87::multiply(env, a, b);
    Subtract(env, a, b) = x87::subtract(env, a, b);
    SubtractReversed(env, a, b) = x87::subtract(env, b, a);
    Divide(env, a, b) = x87::divide(env, a, b);
    DivideReversed(env, a, b) = x87::divide(env, b, a);
    Scale(env, a, b) = x87::scale(env, a, b);
    YLog2X(env, y, x) = x87::y_log2_x(env, y, x);
    YLog2XPlus1(env, y, x) = x87::y_log2_x_plus_1(env, y, x);
    Arctangent(env, y, x) = x87::arctangent(env, y, x);
}

/// A function of ST(0).
pub(crate) trait Unary {
    fn apply(env: &mut Environment, a: F80) -> F80;
}

macro_rules! unary {
    ($($name:ident($env:ident, $a:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl Unary for $name {
            #[inline(always)]
            fn apply($env: &mut Environment, $a: F80) -> F80 {
                $value
            }
        }
    )*};
}

unary! {
    SquareRoot(env, a) = x87::square_root(env, a);
    RoundToInteger(env, a) = x87::round_to_integer(env, a);
    Exp2Minus1(env, a) = x87::exp2_minus_1(env, a);
    ChangeSign(_env, a) = a.with_sign(!a.negative());
    Magnitude(_env, a) = a.with_sign(false);
}

/// A memory operand of arithmetic, comparison or load.
pub(crate) trait Source {
    /// Reads the operand.
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap>;
    /// Its value as an operand of arithmetic, and whether it is denormal.
    fn operand(bits: u64) -> (F80, bool);
    /// Its value when loaded.
    fn load(_env: &mut Environment, bits: u64) -> F80 {
        Self::operand(bits).0
    }
}

/// m32fp.
pub(crate) struct Single;
/// m64fp.
pub(crate) struct Double;
/// m16int.
pub(crate) struct Integer16;
/// m32int.
pub(crate) struct Integer32;
/// m64int.
pub(crate) struct Integer64;

impl Source for Single {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_operand::<u32>(op).map(u64::from)
    }

    fn operand(bits: u64) -> (F80, bool) {
        x87::operand_f32(bits as u32)
    }

    fn load(env: &mut Environment, bits: u64) -> F80 {
        x87::from_f32(env, bits as u32)
    }
}

impl Source for Double {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_operand::<u64>(op)
    }

    fn operand(bits: u64) -> (F80, bool) {
        x87::operand_f64(bits)
    }

    fn load(env: &mut Environment, bits: u64) -> F80 {
        x87::from_f64(env, bits)
    }
}

impl Source for Integer16 {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_operand::<u16>(op).map(u64::from)
    }

    fn operand(bits: u64) -> (F80, bool) {
        (F80::from_i64(i64::from(bits as i16)), false)
    }
}

impl Source for Integer32 {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_operand::<u32>(op).map(u64::from)
    }

    fn operand(bits: u64) -> (F80, bool) {
        (F80::from_i64(i64::from(bits as i32)), false)
    }
}

impl Source for Integer64 {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_operand::<u64>(op)
    }

    fn operand(bits: u64) -> (F80, bool) {
        (F80::from_i64(bits as i64), false)
    }
}

/// Commits the outcome of an operation for ST(`index`); gives whether it was stored.
#[inline(always)]
pub(super) fn deliver(cpu: &mut Cpu, env: &Environment, index: u8, value: F80) -> bool {
    cpu.commit_x87(env);
    let stores = env.stores();
    if stores {
        cpu.fpu.set_st(index, value);
    }
    stores
}

/// ST(`a`) = function of ST(`a`) and ST(`b`); with `POP`, ST(0) goes.
pub(crate) fn reg<O: Binary, const POP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let stored = if cpu.fpu.is_empty(op.a) || cpu.fpu.is_empty(op.b) {
        let masked = cpu.stack_underflow();
        if masked {
            cpu.fpu.set_st(op.a, F80::INDEFINITE);
        }
        masked
    } else {
        let mut env = cpu.environment();
        let value = O::apply(&mut env, cpu.fpu.st(op.a), cpu.fpu.st(op.b));
        deliver(cpu, &env, op.a, value)
    };
    if POP && stored {
        cpu.fpu.pop();
    }
    Flow::Next
}

/// ST(0) = function of ST(0) and memory.
pub(crate) fn mem<O: Binary, S: Source>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let bits = tri!(S::read(cpu, op));
    cpu.note_operand(op);
    if cpu.fpu.is_empty(0) {
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Flow::Next;
    }
    let mut env = cpu.environment();
    let (b, denormal) = S::operand(bits);
    let value = O::apply(&mut env, cpu.fpu.st(0), b);
    if denormal {
        env.denormal_operand(value);
    }
    deliver(cpu, &env, 0, value);
    Flow::Next
}

/// ST(0) = function of ST(0).
pub(crate) fn unary<O: Unary>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if cpu.fpu.is_empty(0) {
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Flow::Next;
    }
    let mut env = cpu.environment();
    let value = O::apply(&mut env, cpu.fpu.st(0));
    deliver(cpu, &env, 0, value);
    Flow::Next
}
