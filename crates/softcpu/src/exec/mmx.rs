//! MMX registers: which are the significands of the x87 registers, and whose use declares those all valid.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::{Flow, Op};
use crate::state::cr0;
use crate::tri;

/// A function of two MMX operands, the first of which it replaces.
pub(crate) trait Mmx {
    /// The new value of the first operand.
    fn mmx(a: u64, b: u64) -> u64;
}

/// A function of two MMX operands and an immediate byte.
pub(crate) trait MmxImmediate {
    /// The new value of the first operand.
    fn mmx(a: u64, b: u64, immediate: u8) -> u64;
}

/// TOP in the x87 status word.
const TOP: u16 = 7 << 11;

impl Cpu {
    /// Raises what an MMX instruction raises when the unit is not there or has an exception to report.
    #[inline(always)]
    pub(crate) fn require_mmx(&mut self) -> Result<(), Trap> {
        let missing = self.control.cr0 & (cr0::EM | cr0::TS);
        if missing == 0 && self.fpu.status & 0x80 == 0 {
            Ok(())
        } else {
            self.refuse_mmx()
        }
    }

    /// SDM vol. 3A, table 12-1.
    #[cold]
    fn refuse_mmx(&mut self) -> Result<(), Trap> {
        if self.control.cr0 & cr0::EM != 0 {
            return Err(self.raise(Exception::invalid_opcode()));
        }
        if self.control.cr0 & cr0::TS != 0 {
            return Err(self.raise(Exception::plain(vector::NO_DEVICE)));
        }
        self.report_x87()
    }

    /// The x87 registers become MMX registers: TOP is zero and all are valid (SDM vol. 1, 9.5.1).
    #[inline(always)]
    pub(crate) fn enter_mmx(&mut self) {
        self.fpu.status &= !TOP;
        self.fpu.occupied = 0xff;
    }

    #[inline(always)]
    pub(crate) fn mmx(&self, index: u8) -> u64 {
        self.fpu.registers[usize::from(index & 7)].significand
    }

    #[inline(always)]
    pub(crate) fn set_mmx(&mut self, index: u8, value: u64) {
        let register = &mut self.fpu.registers[usize::from(index & 7)];
        register.significand = value;
        register.sign_exponent = 0xffff;
    }
}

/// MMX with MMX.
pub(crate) fn reg<O: Mmx>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), cpu.mmx(op.b));
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MMX with memory.
pub(crate) fn mem<O: Mmx>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let b = tri!(cpu.load_operand::<u64>(op));
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), b);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MMX with memory of which only 32 bits are read (PUNPCKL).
pub(crate) fn mem_low<O: Mmx>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let b = tri!(cpu.load_operand::<u32>(op));
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), b.into());
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MMX with MMX and an immediate.
pub(crate) fn reg_imm<O: MmxImmediate>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), cpu.mmx(op.b), op.imm as u8);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MMX with memory and an immediate.
pub(crate) fn mem_imm<O: MmxImmediate>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let b = tri!(cpu.load_operand::<u64>(op));
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), b, op.imm as u8);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// Shifts of an MMX register by an immediate.
pub(crate) fn shift_imm<O: Mmx>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = O::mmx(cpu.mmx(op.a), op.imm & 0xff);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MOVD and MOVQ from a general register (`W` wide) to MMX.
pub(crate) fn from_general<W: crate::state::Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = W::get(&cpu.regs, op.b).zero_extend();
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MOVD and MOVQ from memory to MMX.
pub(crate) fn load<W: crate::state::Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let value = tri!(cpu.load_operand::<W>(op)).zero_extend();
    cpu.enter_mmx();
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MOVD and MOVQ from MMX to a general register.
pub(crate) fn to_general<W: crate::state::Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    W::truncate(cpu.mmx(op.b)).set(&mut cpu.regs, op.a);
    Flow::Next
}

/// MOVD, MOVQ and MOVNTQ from MMX to memory.
pub(crate) fn store<W: crate::state::Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let value = W::truncate(cpu.mmx(op.b));
    tri!(cpu.store_operand(op, value));
    cpu.enter_mmx();
    Flow::Next
}

/// MOVQ between MMX registers.
pub(crate) fn copy(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = cpu.mmx(op.b);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MOVQ2DQ.
pub(crate) fn to_xmm(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = cpu.mmx(op.b).into();
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// MOVDQ2Q.
pub(crate) fn from_xmm(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = cpu.xmm(op.b) as u64;
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// PMOVMSKB of an MMX register.
pub(crate) fn sign_mask(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let signs = cpu.mmx(op.b) & 0x8080_8080_8080_8080;
    // Gathers bit 7 of each byte in the top byte.
    let mask = (signs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    cpu.regs.write(op.a, mask);
    Flow::Next
}

/// PEXTRW from an MMX register.
pub(crate) fn extract_word(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let word = cpu.mmx(op.b) >> (16 * (op.imm & 3)) & 0xffff;
    cpu.regs.write(op.a, word);
    Flow::Next
}

fn with_word(value: u64, word: u16, immediate: u64) -> u64 {
    let shift = 16 * (immediate & 3);
    value & !(0xffff << shift) | u64::from(word) << shift
}

/// PINSRW into an MMX register from a general register.
pub(crate) fn insert_word_reg(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.enter_mmx();
    let value = with_word(cpu.mmx(op.a), cpu.regs.read(op.b) as u16, op.imm);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// PINSRW into an MMX register from memory.
pub(crate) fn insert_word_mem(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let word = tri!(cpu.load_operand::<u16>(op));
    cpu.enter_mmx();
    let value = with_word(cpu.mmx(op.a), word, op.imm);
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// MASKMOVQ: bytes of `a` whose mask byte in `b` has its sign set go to DS:rDI. The lowering has put rDI into the
/// memory operand.
pub(crate) fn store_masked(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    let (value, mask) = (cpu.mmx(op.a), cpu.mmx(op.b));
    tri!(super::sse::moves::store_bytes_masked(
        cpu,
        op,
        value.into(),
        mask.into(),
        8
    ));
    cpu.enter_mmx();
    Flow::Next
}

/// EMMS: all registers empty, and TOP zero as after any MMX instruction.
pub(crate) fn empty(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_mmx());
    cpu.fpu.status &= !TOP;
    cpu.fpu.occupied = 0;
    Flow::Next
}
