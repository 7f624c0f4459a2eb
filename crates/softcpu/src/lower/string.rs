//! String instructions that stay inside memory.

use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, Register};

use super::{Context, by_width, segment_index};
use crate::exec::string::{self, repeat};
use crate::op::{Exec, Op, mode};
use crate::state::Seg;

/// Lowers the instructions of this family.
pub(super) fn lower(i: &Instruction, context: &Context) -> Option<Op> {
    let exec: Exec = match i.mnemonic() {
        M::Movsb => string::move_string::<u8>,
        M::Movsw => string::move_string::<u16>,
        // The decoder has one name for the SSE2 move and the string move.
        M::Movsd if i.is_string_instruction() => string::move_string::<u32>,
        M::Movsq => string::move_string::<u64>,
        M::Cmpsb => string::compare_string::<u8>,
        M::Cmpsw => string::compare_string::<u16>,
        M::Cmpsd if i.is_string_instruction() => string::compare_string::<u32>,
        M::Cmpsq => string::compare_string::<u64>,
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => by_width!(bits(i), string::store_string),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => by_width!(bits(i), string::load_string),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => by_width!(bits(i), string::scan_string),
        _ => return None,
    };
    let mut op = Op::new(exec);
    op.a = repetition(i);
    op.mode = string_mode(i, context);
    Some(op)
}

/// The repeat prefix.
pub(super) fn repetition(i: &Instruction) -> u8 {
    if i.has_repne_prefix() {
        repeat::WHILE_DIFFERENT
    } else if i.has_rep_prefix() {
        repeat::WHILE_EQUAL
    } else {
        repeat::NONE
    }
}

/// Address size and source segment of a string instruction.
pub(super) fn string_mode(i: &Instruction, context: &Context) -> u8 {
    let kinds = [i.op0_kind(), i.op1_kind()];
    let any = |wanted: &[OpKind]| kinds.iter().any(|kind| wanted.contains(kind));
    let size = if any(&[OpKind::MemorySegSI, OpKind::MemorySegDI, OpKind::MemoryESDI]) {
        16
    } else if any(&[
        OpKind::MemorySegESI,
        OpKind::MemorySegEDI,
        OpKind::MemoryESEDI,
    ]) {
        32
    } else {
        64
    };
    let segment = match i.memory_segment() {
        // 64-bit code ignores the other overrides.
        segment if context.bits == 64 && !matches!(segment, Register::FS | Register::GS) => {
            Seg::Ds as u8
        }
        segment => segment_index(segment),
    };
    let mut bits = segment << mode::SEGMENT_SHIFT;
    match size {
        16 => bits |= mode::ADDRESS_16,
        32 => bits |= mode::ADDRESS_32,
        _ => {}
    }
    let based = segment == Seg::Fs as u8 || segment == Seg::Gs as u8;
    if context.bits != 64 || size != 64 || based {
        bits |= mode::COMPLEX;
    }
    bits
}

fn bits(i: &Instruction) -> u32 {
    match i.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => 8,
        MemorySize::UInt16 | MemorySize::Int16 => 16,
        MemorySize::UInt32 | MemorySize::Int32 => 32,
        _ => 64,
    }
}
