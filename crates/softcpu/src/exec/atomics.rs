//! XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.
//!
//! In the memory forms `imm` is not zero when the instruction carries a LOCK prefix.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap};
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::Width;
use crate::state::registers::{RAX, RBX, RCX, RDX};
use crate::tri;

/// XADD of registers.
pub(crate) fn exchange_add_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (target, source) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    let sum = target.add(source);
    cpu.flags.after_add(target, source, sum);
    // With one register for both, the sum stays.
    target.set(&mut cpu.regs, op.b);
    sum.set(&mut cpu.regs, op.a);
    Flow::Next
}

/// XADD to memory.
pub(crate) fn exchange_add_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let source = W::get(&cpu.regs, op.b);
    let target: W = tri!(cpu.modify_operand(op, op.imm != 0, |target: W| target.add(source)));
    cpu.flags.after_add(target, source, target.add(source));
    target.set(&mut cpu.regs, op.b);
    Flow::Next
}

/// CMPXCHG of registers.
pub(crate) fn compare_exchange_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (expected, target) = (W::get(&cpu.regs, RAX), W::get(&cpu.regs, op.a));
    cpu.flags.after_sub(expected, target, expected.sub(target));
    if expected == target {
        W::get(&cpu.regs, op.b).set(&mut cpu.regs, op.a);
    } else {
        target.set(&mut cpu.regs, RAX);
    }
    Flow::Next
}

/// CMPXCHG with memory, which is written either way.
pub(crate) fn compare_exchange_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (expected, new) = (W::get(&cpu.regs, RAX), W::get(&cpu.regs, op.b));
    let seen: W = tri!(cpu.modify_operand(op, op.imm != 0, |seen: W| {
        if seen == expected { new } else { seen }
    }));
    cpu.flags.after_sub(expected, seen, expected.sub(seen));
    if seen != expected {
        seen.set(&mut cpu.regs, RAX);
    }
    Flow::Next
}

/// CMPXCHG8B.
pub(crate) fn compare_exchange_8(cpu: &mut Cpu, op: &Op) -> Flow {
    let join = |cpu: &Cpu, high, low| {
        u64::from(u32::get(&cpu.regs, high)) << 32 | u64::from(u32::get(&cpu.regs, low))
    };
    let (expected, new) = (join(cpu, RDX, RAX), join(cpu, RCX, RBX));
    let seen: u64 = tri!(cpu.modify_operand(op, op.imm != 0, |seen| {
        if seen == expected { new } else { seen }
    }));
    cpu.flags.set_zero(seen == expected);
    if seen != expected {
        (seen as u32).set(&mut cpu.regs, RAX);
        ((seen >> 32) as u32).set(&mut cpu.regs, RDX);
    }
    Flow::Next
}

/// CMPXCHG16B: #GP when the operand is not aligned to 16.
pub(crate) fn compare_exchange_16(cpu: &mut Cpu, op: &Op) -> Flow {
    let join = |cpu: &Cpu, high, low| {
        u128::from(cpu.regs.read(high)) << 64 | u128::from(cpu.regs.read(low))
    };
    let (expected, new) = (join(cpu, RDX, RAX), join(cpu, RCX, RBX));
    let linear = tri!(cpu.linear(op, 16, Intent::Store));
    if linear & 15 != 0 {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    let seen = tri!(cpu.compare_exchange_16(linear, expected, new, op.segment()));
    cpu.flags.set_zero(seen == expected);
    if seen != expected {
        cpu.regs.write(RAX, seen as u64);
        cpu.regs.write(RDX, (seen >> 64) as u64);
    }
    Flow::Next
}
