//! FCOM, FUCOM, FICOM, FTST into the condition codes; FCOMI and FUCOMI into RFLAGS; FXAM.

use super::arithmetic::Source;
use super::{C0, C1, C2, C3, CODES};
use crate::cpu::Cpu;
use crate::exec::sse::float::status_of;
use crate::op::{Flow, Op};
use crate::softfloat::env::Relation;
use crate::softfloat::f80::F80;
use crate::softfloat::x87::{self, Examined, Signal};
use crate::tri;

/// What kind of comparison.
pub(crate) trait Kind {
    const SIGNAL: Signal;
}

/// All NaNs are invalid.
pub(crate) struct Ordered;
/// Only signalling NaNs are.
pub(crate) struct Unordered;

impl Kind for Ordered {
    const SIGNAL: Signal = Signal::Always;
}

impl Kind for Unordered {
    const SIGNAL: Signal = Signal::Signaling;
}

fn codes(relation: Relation) -> u16 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => C0,
        Relation::Equal => C3,
        Relation::Unordered => C0 | C2 | C3,
    }
}

/// Sets the condition codes, and pops unless an exception is not masked.
fn finish(cpu: &mut Cpu, stores: bool, relation: Relation, pops: u64) -> Flow {
    cpu.fpu.status = cpu.fpu.status & !CODES | codes(relation);
    if stores {
        for _ in 0..pops {
            cpu.fpu.pop();
        }
    }
    Flow::Next
}

/// Compares ST(0) with `b`; `denormal`: whether that was denormal in memory.
fn relate(cpu: &mut Cpu, (b, denormal): (F80, bool), signal: Signal, pops: u64) -> Flow {
    let mut env = cpu.environment();
    let relation = x87::compare(&mut env, cpu.fpu.st(0), b, signal);
    if denormal && relation != Relation::Unordered {
        env.denormal_operand(b);
    }
    cpu.commit_x87(&env);
    finish(cpu, env.stores(), relation, pops)
}

/// ST(0) with ST(`b`); `imm` registers are popped.
pub(crate) fn reg<K: Kind>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(op.b) {
        let masked = cpu.stack_underflow();
        return finish(cpu, masked, Relation::Unordered, op.imm);
    }
    let b = cpu.fpu.st(op.b);
    relate(cpu, (b, false), K::SIGNAL, op.imm)
}

/// ST(0) with memory; `imm` registers are popped.
pub(crate) fn mem<S: Source>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let bits = tri!(S::read(cpu, op));
    cpu.note_operand(op);
    if cpu.fpu.is_empty(0) {
        let masked = cpu.stack_underflow();
        return finish(cpu, masked, Relation::Unordered, op.imm);
    }
    relate(cpu, S::operand(bits), Signal::Always, op.imm)
}

/// FTST: ST(0) with zero.
pub(crate) fn zero(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    if cpu.fpu.is_empty(0) {
        let masked = cpu.stack_underflow();
        return finish(cpu, masked, Relation::Unordered, 0);
    }
    relate(cpu, (F80::ZERO, false), Signal::Always, 0)
}

/// FCOMI and FUCOMI: ST(0) with ST(`b`) into RFLAGS; `imm` registers are popped.
pub(crate) fn flags<K: Kind>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let (stores, relation) = if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(op.b) {
        (cpu.stack_underflow(), Relation::Unordered)
    } else {
        let mut env = cpu.environment();
        let relation = x87::compare(&mut env, cpu.fpu.st(0), cpu.fpu.st(op.b), K::SIGNAL);
        let rounded = cpu.fpu.status & C1;
        cpu.commit_x87(&env);
        cpu.fpu.status |= rounded;
        (env.stores(), relation)
    };
    cpu.flags.set_status(status_of(relation));
    if stores {
        for _ in 0..op.imm {
            cpu.fpu.pop();
        }
    }
    Flow::Next
}

/// FXAM.
pub(crate) fn examine(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let value = cpu.fpu.st(0);
    let class = if cpu.fpu.is_empty(0) {
        C3 | C0
    } else {
        match x87::examine(value) {
            Examined::Unsupported => 0,
            Examined::Nan => C0,
            Examined::Normal => C2,
            Examined::Infinity => C2 | C0,
            Examined::Zero => C3,
            Examined::Denormal => C3 | C2,
        }
    };
    let sign = if value.negative() { C1 } else { 0 };
    cpu.fpu.status = cpu.fpu.status & !CODES | class | sign;
    Flow::Next
}
