//! Loads, stores, constants, exchanges and conditional moves.

use super::C1;
use super::arithmetic::Source;
use crate::cpu::Cpu;
use crate::exec::jump::holds;
use crate::fault::Trap;
use crate::mmu::{Intent, is_canonical};
use crate::op::{Flow, Op};
use crate::softfloat::env::{IE, Rounding};
use crate::softfloat::f80::F80;
use crate::softfloat::x87::{self, Environment};
use crate::state::Width;
use crate::tri;

/// Pushes `value`, or deals with a full stack.
fn push(cpu: &mut Cpu, env: &Environment, value: F80) -> Flow {
    if !cpu.fpu.is_empty(7) {
        if cpu.stack_overflow() {
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Flow::Next;
    }
    cpu.commit_x87(env);
    if env.stores() {
        cpu.fpu.push(value);
    }
    Flow::Next
}

/// FLD ST(`b`).
pub(crate) fn load_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let env = cpu.environment();
    if cpu.fpu.is_empty(op.b) {
        if cpu.stack_underflow() {
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Flow::Next;
    }
    let value = cpu.fpu.st(op.b);
    push(cpu, &env, value)
}

/// FLD m32fp, m64fp; FILD.
pub(crate) fn load<S: Source>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let bits = tri!(S::read(cpu, op));
    cpu.note_operand(op);
    let mut env = cpu.environment();
    let value = S::load(&mut env, bits);
    push(cpu, &env, value)
}

/// Linear address of 80 bits. Processors access the significand first, then sign and exponent: that decides which
/// exception an operand raises that reaches past the canonical range.
fn linear_80(cpu: &mut Cpu, op: &Op, intent: Intent) -> Result<u64, Trap> {
    let linear = cpu.linear(op, 10, intent)?;
    reach(cpu, op, linear, 7, intent)?;
    Ok(linear)
}

/// Raises what an address raises that leaves the canonical range at byte `last`.
fn reach(cpu: &mut Cpu, op: &Op, linear: u64, last: u64, intent: Intent) -> Result<(), Trap> {
    let last = linear.wrapping_add(last);
    if cpu.is_64_bit() && !is_canonical(last) {
        cpu.probe(last, 1, intent, op.segment())?;
    }
    Ok(())
}

/// Loads 80 bits.
fn load_80(cpu: &mut Cpu, op: &Op) -> Result<u128, Trap> {
    let linear = linear_80(cpu, op, Intent::Load)?;
    let mut bytes = [0; 16];
    cpu.load_bytes(linear, &mut bytes[..10], op.segment())?;
    Ok(u128::from_le_bytes(bytes))
}

/// Stores 80 bits.
fn store_80(cpu: &mut Cpu, op: &Op, value: u128) -> Result<(), Trap> {
    let linear = linear_80(cpu, op, Intent::Store)?;
    cpu.store_bytes(linear, &value.to_le_bytes()[..10], op.segment())
}

fn probe_80(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let linear = linear_80(cpu, op, Intent::Store)?;
    cpu.probe_store(linear, 10, op.segment())
}

/// FLD m80fp: any pattern, as it is.
pub(crate) fn load_extended(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let bits = tri!(load_80(cpu, op));
    cpu.note_operand(op);
    let env = cpu.environment();
    push(cpu, &env, F80::from_bits(bits))
}

/// FBLD.
pub(crate) fn load_decimal(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let bits = tri!(load_80(cpu, op));
    cpu.note_operand(op);
    let env = cpu.environment();
    push(cpu, &env, x87::from_decimal(bits))
}

/// Numbers of the constants, for `imm`.
pub(crate) mod constant {
    pub(crate) const ONE: u64 = 0;
    pub(crate) const LOG2_10: u64 = 1;
    pub(crate) const LOG2_E: u64 = 2;
    pub(crate) const PI: u64 = 3;
    pub(crate) const LOG10_2: u64 = 4;
    pub(crate) const LN_2: u64 = 5;
    pub(crate) const ZERO: u64 = 6;
}

/// Sign and exponent, significand cut off, and whether the next bit is one, by number.
const CONSTANTS: [(u16, u64, bool); 7] = [
    (0x3fff, 0x8000_0000_0000_0000, false),
    (0x4000, 0xd49a_784b_cd1b_8afe, false),
    (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
    (0x4000, 0xc90f_daa2_2168_c234, true),
    (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
    (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    (0x0000, 0x0000_0000_0000_0000, false),
];

/// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ: rounded by the control word, without PE.
pub(crate) fn load_constant(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let env = cpu.environment();
    let index = op.imm.min(constant::ZERO);
    let (sign_exponent, cut, half) = CONSTANTS[index as usize];
    let exact = index == constant::ONE || index == constant::ZERO;
    let up = match env.rounding() {
        Rounding::Nearest => half,
        Rounding::Up => !exact,
        Rounding::Down | Rounding::Zero => false,
    };
    push(cpu, &env, F80::new(sign_exponent, cut + u64::from(up)))
}

/// A format that ST(0) can be stored in.
pub(crate) trait Target {
    /// The value as bits in the low part, and what storing it raises.
    fn convert(env: &mut Environment, value: F80) -> u128;
    /// Stores it.
    fn write(cpu: &mut Cpu, op: &Op, bits: u128) -> Result<(), Trap>;
    /// Raises what storing would raise.
    fn probe(cpu: &mut Cpu, op: &Op) -> Result<(), Trap>;
    /// What is stored for an empty register.
    const INDEFINITE: u128;
}

macro_rules! targets {
    ($($name:ident: $width:ty, $indefinite:expr, |$env:ident, $value:ident| $bits:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl Target for $name {
            const INDEFINITE: u128 = $indefinite;

            fn convert($env: &mut Environment, $value: F80) -> u128 {
                u128::from($bits)
            }

            fn write(cpu: &mut Cpu, op: &Op, bits: u128) -> Result<(), Trap> {
                cpu.store_operand(op, <$width>::truncate(bits as u64))
            }

            fn probe(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
                let linear = cpu.linear(op, <$width>::BYTES, Intent::Store)?;
                reach(cpu, op, linear, <$width>::BYTES - 1, Intent::Store)?;
                cpu.probe_store(linear, <$width>::BYTES, op.segment())
            }
        }
    )*};
}

/// Runs a store that truncates, and keeps what it raised.
fn truncated<T>(env: &mut Environment, store: impl FnOnce(&mut Environment) -> T) -> T {
    let mut truncating = env.truncating();
    let value = store(&mut truncating);
    env.raised = truncating.raised;
    env.rounded_up = truncating.rounded_up;
    value
}

targets! {
    Single: u32, 0xffc0_0000, |env, value| x87::to_f32(env, value);
    Double: u64, 0xfff8_0000_0000_0000, |env, value| x87::to_f64(env, value);
    Integer16: u16, 0x8000, |env, value| x87::to_i16(env, value) as u16;
    Integer32: u32, 0x8000_0000, |env, value| x87::to_i32(env, value) as u32;
    Integer64: u64, 0x8000_0000_0000_0000, |env, value| x87::to_i64(env, value) as u64;
    Truncated16: u16, 0x8000, |env, value| truncated(env, |e| x87::to_i16(e, value)) as u16;
    Truncated32: u32, 0x8000_0000, |env, value| truncated(env, |e| x87::to_i32(e, value)) as u32;
    Truncated64: u64, 0x8000_0000_0000_0000, |env, value| {
        truncated(env, |e| x87::to_i64(e, value)) as u64
    };
}

/// m80fp: as it is.
pub(crate) struct Extended;
/// m80bcd.
pub(crate) struct Decimal;

impl Target for Extended {
    const INDEFINITE: u128 = F80::INDEFINITE.to_bits();

    fn convert(_env: &mut Environment, value: F80) -> u128 {
        value.to_bits()
    }

    fn write(cpu: &mut Cpu, op: &Op, bits: u128) -> Result<(), Trap> {
        store_80(cpu, op, bits)
    }

    fn probe(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        probe_80(cpu, op)
    }
}

impl Target for Decimal {
    const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

    fn convert(env: &mut Environment, value: F80) -> u128 {
        x87::to_decimal(env, value)
    }

    fn write(cpu: &mut Cpu, op: &Op, bits: u128) -> Result<(), Trap> {
        store_80(cpu, op, bits)
    }

    fn probe(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        probe_80(cpu, op)
    }
}

/// FST, FIST, FISTTP, FBSTP: ST(0) to memory; with `POP` it goes.
pub(crate) fn store<T: Target, const POP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    if cpu.fpu.is_empty(0) {
        // Memory first: a page fault leaves the status word alone.
        tri!(if cpu.environment().masked(IE) {
            T::write(cpu, op, T::INDEFINITE)
        } else {
            T::probe(cpu, op)
        });
        cpu.note_operand(op);
        if cpu.stack_underflow() && POP {
            cpu.fpu.pop();
        }
        return Flow::Next;
    }
    let mut env = cpu.environment();
    let bits = T::convert(&mut env, cpu.fpu.st(0));
    let stores = env.stores_to_memory();
    tri!(if stores {
        T::write(cpu, op, bits)
    } else {
        T::probe(cpu, op)
    });
    cpu.note_operand(op);
    cpu.commit_x87(&env);
    if POP && stores {
        cpu.fpu.pop();
    }
    Flow::Next
}

/// FST ST(`a`); with `POP`, ST(0) goes.
pub(crate) fn store_reg<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let value = if cpu.fpu.is_empty(0) {
        if !cpu.stack_underflow() {
            return Flow::Next;
        }
        F80::INDEFINITE
    } else {
        cpu.fpu.status &= !C1;
        cpu.fpu.st(0)
    };
    cpu.fpu.set_st(op.a, value);
    if POP {
        cpu.fpu.pop();
    }
    Flow::Next
}

/// The undocumented D9 D8+i: FSTP ST(`a`) that does not mind an empty ST(0).
pub(crate) fn store_reg_unchecked(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.fpu.is_empty(0) {
        tri!(cpu.require_x87());
        let occupied = cpu.fpu.occupied;
        let value = cpu.fpu.st(0);
        cpu.fpu.set_st(op.a, value);
        cpu.fpu.occupied = occupied;
        cpu.fpu.pop();
        return Flow::Next;
    }
    store_reg::<true>(cpu, op)
}

/// FXCH ST(`b`).
pub(crate) fn exchange(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let value = |cpu: &Cpu, index| {
        if cpu.fpu.is_empty(index) {
            F80::INDEFINITE
        } else {
            cpu.fpu.st(index)
        }
    };
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(op.b) {
        if !cpu.stack_underflow() {
            return Flow::Next;
        }
    } else {
        cpu.fpu.status &= !C1;
    }
    let (first, second) = (value(cpu, 0), value(cpu, op.b));
    cpu.fpu.set_st(0, second);
    cpu.fpu.set_st(op.b, first);
    Flow::Next
}

/// FCMOVcc ST(`b`); `imm` is the condition.
pub(crate) fn move_if(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(op.b) {
        if cpu.stack_underflow() {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Flow::Next;
    }
    if holds(&cpu.flags, op.imm as u8) {
        let value = cpu.fpu.st(op.b);
        cpu.fpu.set_st(0, value);
    }
    Flow::Next
}
