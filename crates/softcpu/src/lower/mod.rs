//! One decoded instruction to one operation.
//!
//! Each family has a file that matches on the mnemonic and picks the function of `exec` by width and
//! operand form. What no family knows raises #UD when executed.

use iced_x86::{Instruction, OpKind, Register};

use crate::exec;
use crate::op::{Exec, Op, mode};
use crate::state::Seg;
use crate::state::registers::{BLOCK_RIP, ZERO};

mod fuse;
mod integer;
mod jump;
mod sse;
mod string;
mod system;
mod x87;

/// What the bytes alone do not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Width of the code segment: 16, 32 or 64.
    pub(crate) bits: u32,
}

/// Lowers `instruction`. Its IP is its offset from the start of the block.
pub(crate) fn lower(instruction: &Instruction, context: &Context) -> Op {
    // LOCK is only for read-modify-write of memory, and the decoder refuses it elsewhere.
    integer::lower(instruction, context)
        .or_else(|| jump::lower(instruction, context))
        .or_else(|| string::lower(instruction, context))
        .or_else(|| sse::lower(instruction, context))
        .or_else(|| x87::lower(instruction, context))
        .or_else(|| system::lower(instruction, context))
        .unwrap_or_else(|| Op::new(exec::control::undefined))
}

pub(crate) use fuse::fuse;

/// Whether the operation may change what the lowering of the next instruction depends on.
pub(crate) fn changes_context(instruction: &Instruction) -> bool {
    system::changes_context(instruction.mnemonic())
}

/// An operation with the memory operand of `instruction` filled in, if it has one.
pub(crate) fn with_memory(exec: Exec, instruction: &Instruction, context: &Context) -> Op {
    let mut op = Op::new(exec);
    set_memory(&mut op, instruction, context);
    op
}

/// Fills in base, index, scale, displacement, segment and address size.
pub(crate) fn set_memory(op: &mut Op, instruction: &Instruction, context: &Context) {
    let base = instruction.memory_base();
    op.disp = instruction.memory_displacement64() as i64;
    op.base = match base {
        Register::None => ZERO,
        // The decoder has added the address of the next instruction, and our IPs are offsets from the
        // start of the block: what is left to add is where the block stands.
        Register::RIP | Register::EIP => BLOCK_RIP,
        _ => number(base),
    };
    op.index = match instruction.memory_index() {
        Register::None => ZERO,
        index => number(index),
    };
    op.mode = instruction.memory_index_scale().trailing_zeros() as u8 & mode::SCALE;
    let segment = if context.bits == 64 {
        segment_64(instruction)
    } else {
        segment_index(instruction.memory_segment())
    };
    op.mode |= segment << mode::SEGMENT_SHIFT;
    let size = address_bits(instruction, context);
    if size == 32 {
        // Displacements are sign-extended by the decoder to the address size only.
        op.mode |= mode::ADDRESS_32;
    } else if size == 16 {
        op.mode |= mode::ADDRESS_16;
    }
    let based = segment == Seg::Fs as u8 || segment == Seg::Gs as u8;
    if context.bits != 64 || size != 64 || based {
        op.mode |= mode::COMPLEX;
    }
}

/// The segment of a memory operand in 64-bit code, where overrides other than FS and GS are ignored, also
/// for the choice between #SS and #GP.
fn segment_64(instruction: &Instruction) -> u8 {
    match (instruction.memory_segment(), instruction.memory_base()) {
        (segment @ (Register::FS | Register::GS), _) => segment_index(segment),
        (_, Register::RSP | Register::RBP | Register::ESP | Register::EBP) => Seg::Ss as u8,
        _ => Seg::Ds as u8,
    }
}

/// Address size of the memory operand.
pub(crate) fn address_bits(instruction: &Instruction, context: &Context) -> u32 {
    let register = match instruction.memory_base() {
        Register::None => instruction.memory_index(),
        base => base,
    };
    match register {
        Register::None => match instruction.memory_displ_size() {
            2 => 16,
            4 if context.bits != 64 => 32,
            // In 64-bit mode a 32-bit displacement without registers is sign-extended, unless the
            // address-size prefix cuts the result; the decoder tells the two apart by the size.
            4 => 32,
            8 => 64,
            _ => context.bits,
        },
        register => register.size() as u32 * 8,
    }
}

/// The number by which [`crate::state::registers`] knows a general register. 8-bit high registers get
/// bit 4. Other register kinds: their number in their file.
pub(crate) fn number(register: Register) -> u8 {
    match register {
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        // SPL, BPL, SIL and DIL come behind AH to BH in the decoder's order, but their number() counts
        // AL.. first; see the test.
        _ if register.is_gpr8() => {
            let index = register.number() as u8;
            if index >= 8 { index - 4 } else { index }
        }
        _ => register.number() as u8,
    }
}

/// Number of a segment register; DS for none.
pub(crate) fn segment_index(register: Register) -> u8 {
    match register {
        Register::ES => Seg::Es as u8,
        Register::CS => Seg::Cs as u8,
        Register::SS => Seg::Ss as u8,
        Register::FS => Seg::Fs as u8,
        Register::GS => Seg::Gs as u8,
        _ => Seg::Ds as u8,
    }
}

/// What the operands of a two-operand instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Register, register.
    RegReg,
    /// Register, memory.
    RegMem,
    /// Memory, register.
    MemReg,
    /// Register, immediate.
    RegImm,
    /// Memory, immediate.
    MemImm,
}

/// The form of the first two operands, if it is one of these.
pub(crate) fn form(instruction: &Instruction) -> Option<Form> {
    let memory = |index| instruction.op_kind(index) == OpKind::Memory;
    let register = |index| instruction.op_kind(index) == OpKind::Register;
    let immediate = |index| is_immediate(instruction.op_kind(index));
    if instruction.op_count() < 2 {
        None
    } else if register(0) && register(1) {
        Some(Form::RegReg)
    } else if register(0) && memory(1) {
        Some(Form::RegMem)
    } else if memory(0) && register(1) {
        Some(Form::MemReg)
    } else if register(0) && immediate(1) {
        Some(Form::RegImm)
    } else if memory(0) && immediate(1) {
        Some(Form::MemImm)
    } else {
        None
    }
}

/// An operation with the operands of a two-operand form filled in.
pub(crate) fn with_form(
    exec: Exec,
    form: Form,
    instruction: &Instruction,
    context: &Context,
) -> Op {
    let mut op = Op::new(exec);
    match form {
        Form::RegReg => {
            op.a = number(instruction.op0_register());
            op.b = number(instruction.op1_register());
        }
        Form::RegMem => {
            op.a = number(instruction.op0_register());
            set_memory(&mut op, instruction, context);
        }
        Form::MemReg => {
            op.b = number(instruction.op1_register());
            set_memory(&mut op, instruction, context);
        }
        Form::RegImm => {
            op.a = number(instruction.op0_register());
            op.imm = instruction.immediate(1);
        }
        Form::MemImm => {
            op.imm = instruction.immediate(1);
            set_memory(&mut op, instruction, context);
        }
    }
    op
}

/// Whether an operand is an immediate.
pub(crate) fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Width in bits of operand `index`: of its register, or of the memory it names.
pub(crate) fn operand_bits(instruction: &Instruction, index: u32) -> u32 {
    match instruction.op_kind(index) {
        OpKind::Register => instruction.op_register(index).size() as u32 * 8,
        OpKind::Memory => instruction.memory_size().size() as u32 * 8,
        OpKind::Immediate8 | OpKind::Immediate8_2nd => 8,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 16,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 32,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 64,
        _ => 0,
    }
}

/// Picks the function for a width of 8, 16, 32 or 64 bits.
macro_rules! by_width {
    ($bits:expr, $($path:ident)::+ $(, $generic:ty)*) => {
        match $bits {
            8 => $($path)::+::<$($generic,)* u8> as $crate::op::Exec,
            16 => $($path)::+::<$($generic,)* u16> as $crate::op::Exec,
            32 => $($path)::+::<$($generic,)* u32> as $crate::op::Exec,
            _ => $($path)::+::<$($generic,)* u64> as $crate::op::Exec,
        }
    };
}
pub(crate) use by_width;

/// Whether a mnemonic is that of a conditional form, and its condition number (the low four bits of
/// the opcode).
pub(crate) fn condition(instruction: &Instruction) -> u8 {
    // The decoder numbers conditions from 1 in the order O, NO, B, AE, E, NE, BE, A, S, NS, P, NP, L,
    // GE, LE, G.
    (instruction.condition_code() as u8).wrapping_sub(1) & 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_registers_have_the_numbers_of_their_full_registers() {
        let expected = [
            (Register::AL, 0),
            (Register::BL, 3),
            (Register::AH, 16),
            (Register::BH, 19),
            (Register::SPL, 4),
            (Register::DIL, 7),
            (Register::R8L, 8),
            (Register::R15L, 15),
        ];
        for (register, wanted) in expected {
            assert_eq!(number(register), wanted, "{register:?}");
        }
    }
}
