//! The lowered form of an instruction: what the interpreter runs and a translator will read.
//!
//! Everything that can be known from the bytes and the mode is resolved here, once: which function,
//! which registers, which displacement. An [`Op`] is 32 bytes, so two share a cache line.

use crate::cpu::Cpu;
use crate::state::Seg;
use crate::state::registers::ZERO;

/// Executes one operation.
pub type Exec = fn(&mut Cpu, &Op) -> Flow;

/// What the interpreter does after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Go on with the next operation of the block.
    Next,
    /// The operation has set `rip`; the block ends.
    Jump,
    /// Done, and something changed that the block relied on (mode, mapping, interrupt flag, code): go
    /// on behind this instruction with a fresh look.
    End,
    /// `cpu.fault` holds an exception; the instruction has changed nothing that the manual does not
    /// say it changes.
    Fault,
    /// A repeated string instruction was interrupted between two rounds: come back to it.
    Again,
    /// Done; the CPU halts until an interrupt.
    Halt,
}

/// How the address of a memory operand is made; see [`Op::address`].
pub mod mode {
    /// Bits 0 and 1: log2 of the scale of the index.
    pub const SCALE: u8 = 3;
    /// Bit 2: not a plain 64-bit flat access; look at the bits below.
    pub const COMPLEX: u8 = 1 << 2;
    /// Bits 3 to 5: the segment register.
    pub const SEGMENT_SHIFT: u32 = 3;
    /// Bit 6: 32-bit address size.
    pub const ADDRESS_32: u8 = 1 << 6;
    /// Bit 7: 16-bit address size.
    pub const ADDRESS_16: u8 = 1 << 7;
}

/// One lowered instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Op {
    /// The function that does it.
    pub exec: Exec,
    /// Immediate operand, branch target (relative to the block's RIP), or the family's own use.
    pub imm: u64,
    /// Displacement of the memory operand. For RIP-relative ones, from the block's RIP.
    pub disp: i64,
    /// First register operand, as [`crate::state::registers`] numbers them (or XMM, MMX, ST number).
    pub a: u8,
    /// Second register operand.
    pub b: u8,
    /// Base register of the memory operand.
    pub base: u8,
    /// Index register of the memory operand.
    pub index: u8,
    /// See [`mode`].
    pub mode: u8,
    /// Length of the instruction in bytes, 1 to 15.
    pub length: u8,
    /// Offset of the *next* instruction from the block's RIP.
    pub next: u16,
}

const _: () = assert!(size_of::<Op>() == 32);

impl Op {
    /// An operation without operands.
    pub const fn new(exec: Exec) -> Self {
        Self {
            exec,
            imm: 0,
            disp: 0,
            a: 0,
            b: 0,
            base: ZERO,
            index: ZERO,
            mode: 0,
            length: 0,
            next: 0,
        }
    }

    /// The segment register of the memory operand. Meaningful when [`mode::COMPLEX`] is set; a plain
    /// access has it too, for the choice between #SS and #GP.
    #[inline(always)]
    pub fn segment(&self) -> Seg {
        Seg::from_index((self.mode >> mode::SEGMENT_SHIFT) & 7).unwrap_or(Seg::Ds)
    }

    /// Offset of this instruction from the block's RIP.
    #[inline(always)]
    pub fn start(&self) -> u64 {
        u64::from(self.next) - u64::from(self.length)
    }
}
