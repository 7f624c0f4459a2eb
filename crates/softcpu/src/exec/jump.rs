//! Near jumps, calls and returns, conditions, loops.
//!
//! Targets are relative to the block's RIP, so that a block can be run wherever its page is mapped.

use crate::cpu::Cpu;
use crate::exec::alu::Binary;
use crate::fault::Trap;
use crate::op::{Flow, Op};
use crate::state::registers::{BLOCK_RIP, RCX, RSP};
use crate::state::{Flags, Seg, Width};
use crate::tri;

/// Whether condition `number` (the low four bits of a conditional opcode) holds.
#[inline(always)]
pub(crate) fn holds(flags: &Flags, number: u8) -> bool {
    let met = match number >> 1 & 7 {
        0 => flags.overflow(),
        1 => flags.carry(),
        2 => flags.zero(),
        3 => flags.carry() || flags.zero(),
        4 => flags.sign(),
        5 => flags.parity(),
        6 => flags.sign() != flags.overflow(),
        _ => flags.zero() || flags.sign() != flags.overflow(),
    };
    met != (number & 1 != 0)
}

/// As [`holds`], with the number known when compiled.
#[inline(always)]
fn holds_const<const NUMBER: u8>(flags: &Flags) -> bool {
    holds(flags, NUMBER)
}

/// Where a relative branch goes: `imm` from the block's RIP, cut to the operand size `W`.
#[inline(always)]
fn relative<W: Width>(cpu: &Cpu, op: &Op) -> u64 {
    cpu.regs.read(BLOCK_RIP).wrapping_add(op.imm) & W::MASK
}

/// Goes to `rip` after the checks that a near branch makes.
#[inline(always)]
fn go<W: Width>(cpu: &mut Cpu, rip: u64) -> Result<(), Trap> {
    if W::BITS == 64 {
        if !crate::mmu::is_canonical(rip) {
            return cpu.check_fetch(rip);
        }
    } else {
        cpu.check_fetch(rip)?;
    }
    cpu.rip = rip;
    Ok(())
}

/// JMP to a relative target.
pub(crate) fn jump<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = relative::<W>(cpu, op);
    tri!(go::<W>(cpu, target));
    Flow::Jump
}

/// Jcc.
pub(crate) fn jump_if<const NUMBER: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    if holds_const::<NUMBER>(&cpu.flags) {
        let target = relative::<W>(cpu, op);
        tri!(go::<W>(cpu, target));
        Flow::Jump
    } else {
        Flow::Next
    }
}

/// CMP or TEST of registers `a` and `b`, then Jcc to `disp` from the block's RIP, as one operation.
pub(crate) fn compare_reg_jump<O: Binary, const NUMBER: u8, W: Width>(
    cpu: &mut Cpu,
    op: &Op,
) -> Flow {
    let (left, right) = (W::get(&cpu.regs, op.a), W::get(&cpu.regs, op.b));
    O::apply(&mut cpu.flags, left, right);
    jump_fused::<NUMBER>(cpu, op)
}

/// CMP or TEST of register `a` and `imm`, then Jcc to `disp` from the block's RIP, as one operation.
pub(crate) fn compare_imm_jump<O: Binary, const NUMBER: u8, W: Width>(
    cpu: &mut Cpu,
    op: &Op,
) -> Flow {
    let left = W::get(&cpu.regs, op.a);
    O::apply(&mut cpu.flags, left, W::truncate(op.imm));
    jump_fused::<NUMBER>(cpu, op)
}

#[inline(always)]
fn jump_fused<const NUMBER: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    if holds_const::<NUMBER>(&cpu.flags) {
        let target = cpu.regs.read(BLOCK_RIP).wrapping_add(op.disp as u64);
        tri!(go::<u64>(cpu, target));
        Flow::Jump
    } else {
        Flow::Next
    }
}

/// JMP to what a register holds.
pub(crate) fn jump_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = W::get(&cpu.regs, op.a).zero_extend();
    tri!(go::<W>(cpu, target));
    Flow::Jump
}

/// JMP to what memory holds.
pub(crate) fn jump_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = tri!(cpu.load_operand::<W>(op)).zero_extend();
    tri!(go::<W>(cpu, target));
    Flow::Jump
}

#[inline(always)]
fn call_to<W: Width>(cpu: &mut Cpu, op: &Op, target: u64) -> Flow {
    let back = cpu.regs.read(BLOCK_RIP).wrapping_add(u64::from(op.next));
    if W::BITS != 64 || !crate::mmu::is_canonical(target) {
        tri!(cpu.check_fetch(target));
    }
    tri!(cpu.push(W::truncate(back)));
    cpu.rip = target;
    Flow::Jump
}

/// CALL of a relative target.
pub(crate) fn call<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = relative::<W>(cpu, op);
    call_to::<W>(cpu, op, target)
}

/// CALL of what a register holds.
pub(crate) fn call_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = W::get(&cpu.regs, op.a).zero_extend();
    call_to::<W>(cpu, op, target)
}

/// CALL of what memory holds.
pub(crate) fn call_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = tri!(cpu.load_operand::<W>(op)).zero_extend();
    call_to::<W>(cpu, op, target)
}

/// RET; `imm` more bytes are popped.
pub(crate) fn ret<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let sp = cpu.regs.read(RSP);
    let target = tri!(cpu.load_stack::<W>(sp & mask)).zero_extend();
    tri!(go::<W>(cpu, target));
    cpu.set_sp(sp.wrapping_add(W::BYTES).wrapping_add(op.imm), mask);
    Flow::Jump
}

/// LOOP, LOOPE, LOOPNE: `a` is 0 for any, 1 for while ZF, 2 for while not ZF. `A` counts.
pub(crate) fn loop_while<A: Width, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = A::get(&cpu.regs, RCX).sub(A::truncate(1));
    let wanted = match op.a {
        0 => true,
        1 => cpu.flags.zero(),
        _ => !cpu.flags.zero(),
    };
    if count.zero_extend() != 0 && wanted {
        let target = relative::<W>(cpu, op);
        tri!(go::<W>(cpu, target));
        count.set(&mut cpu.regs, RCX);
        Flow::Jump
    } else {
        count.set(&mut cpu.regs, RCX);
        Flow::Next
    }
}

/// JCXZ, JECXZ, JRCXZ.
pub(crate) fn jump_if_count_zero<A: Width, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    if A::get(&cpu.regs, RCX).zero_extend() == 0 {
        let target = relative::<W>(cpu, op);
        tri!(go::<W>(cpu, target));
        Flow::Jump
    } else {
        Flow::Next
    }
}

impl Cpu {
    /// Loads from the stack at offset `offset` of SS.
    #[inline(always)]
    pub(crate) fn load_stack<W: Width>(&mut self, offset: u64) -> Result<W, Trap> {
        let linear = if self.is_64_bit() {
            offset
        } else {
            self.segmented(Seg::Ss, offset, W::BYTES, crate::mmu::Intent::Load)?
        };
        self.load(linear, Seg::Ss)
    }

    /// Stores to the stack at offset `offset` of SS.
    #[inline(always)]
    pub(crate) fn store_stack<W: Width>(&mut self, offset: u64, value: W) -> Result<(), Trap> {
        let linear = if self.is_64_bit() {
            offset
        } else {
            self.segmented(Seg::Ss, offset, W::BYTES, crate::mmu::Intent::Store)?
        };
        self.store(linear, value, Seg::Ss)
    }

    /// Pushes a value of `W::BYTES` bytes.
    #[inline(always)]
    pub(crate) fn push<W: Width>(&mut self, value: W) -> Result<(), Trap> {
        let mask = self.stack_mask();
        let sp = self.regs.read(RSP).wrapping_sub(W::BYTES);
        self.store_stack(sp & mask, value)?;
        self.set_sp(sp, mask);
        Ok(())
    }

    /// Pops a value of `W::BYTES` bytes.
    #[inline(always)]
    pub(crate) fn pop<W: Width>(&mut self) -> Result<W, Trap> {
        let mask = self.stack_mask();
        let sp = self.regs.read(RSP);
        let value = self.load_stack(sp & mask)?;
        self.set_sp(sp.wrapping_add(W::BYTES), mask);
        Ok(value)
    }

    /// Sets the part of RSP that the stack uses.
    #[inline(always)]
    pub(crate) fn set_sp(&mut self, sp: u64, mask: u64) {
        let value = match mask {
            u64::MAX => sp,
            // A 16-bit stack leaves the upper part alone, a 32-bit one clears it.
            0xffff => (self.regs.read(RSP) & !0xffff) | (sp & 0xffff),
            _ => sp & mask,
        };
        self.regs.write(RSP, value);
    }
}
