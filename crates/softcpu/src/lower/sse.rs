//! MMX, SSE to SSE4.2, AES, PCLMULQDQ and CRC32.
//!
//! This file: integer operations, which exist on one or both register files. `moves`: data movement. `float`:
//! arithmetic and conversions.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Context, is_immediate, number, operand_bits, set_memory};
use crate::exec::sse::{arrange, crypto, integer, shift, text};
use crate::exec::{mmx, sse};
use crate::op::{Exec, Op};
use crate::softfloat::format::{F32, F64};

mod float;
mod moves;

/// Lowers the instructions of this family.
pub(super) fn lower(instruction: &Instruction, context: &Context) -> Option<Op> {
    match instruction.mnemonic() {
        Mnemonic::Emms => Some(Op::new(mmx::empty)),
        Mnemonic::Crc32 => {
            let exec = if instruction.op_kind(1) == OpKind::Memory {
                super::by_width!(operand_bits(instruction, 1), crypto::crc_mem)
            } else {
                super::by_width!(operand_bits(instruction, 1), crypto::crc_reg)
            };
            Some(operation(instruction, context, exec))
        }
        _ => moves::lower(instruction, context)
            .or_else(|| float::lower(instruction, context))
            .or_else(|| string_compare(instruction, context))
            .or_else(|| integer(instruction, context)),
    }
}

/// An operation whose first operand is a register and whose second is a register, memory or immediate; a third one is
/// an immediate.
fn operation(instruction: &Instruction, context: &Context, exec: Exec) -> Op {
    let mut op = Op::new(exec);
    op.a = number(instruction.op0_register());
    match instruction.op_kind(1) {
        OpKind::Memory => set_memory(&mut op, instruction, context),
        OpKind::Register => op.b = number(instruction.op1_register()),
        kind if is_immediate(kind) => op.imm = instruction.immediate(1),
        _ => {}
    }
    if instruction.op_count() > 2 && is_immediate(instruction.op_kind(2)) {
        op.imm = instruction.immediate(2);
    }
    op
}

/// The register or the memory form.
fn pair(instruction: &Instruction, context: &Context, (reg, mem): (Exec, Exec)) -> Op {
    let exec = if instruction.op_kind(1) == OpKind::Memory {
        mem
    } else {
        reg
    };
    operation(instruction, context, exec)
}

/// Whether the destination is an MMX register.
fn is_mmx(instruction: &Instruction) -> bool {
    instruction.op0_register().is_mm()
}

fn integer(instruction: &Instruction, context: &Context) -> Option<Op> {
    let mmx = is_mmx(instruction);
    // On both register files; on XMM alone; the same with an immediate.
    macro_rules! both {
        ($($path:ident)::+) => {
            if mmx {
                (mmx::reg::<$($path)::+> as Exec, mmx::mem::<$($path)::+> as Exec)
            } else {
                (sse::reg::<$($path)::+> as Exec, sse::mem::<$($path)::+> as Exec)
            }
        };
    }
    macro_rules! low {
        ($($path:ident)::+) => {
            if mmx {
                (mmx::reg::<$($path)::+> as Exec, mmx::mem_low::<$($path)::+> as Exec)
            } else {
                (sse::reg::<$($path)::+> as Exec, sse::mem::<$($path)::+> as Exec)
            }
        };
    }
    macro_rules! xmm {
        ($($path:ident)::+) => {
            (sse::reg::<$($path)::+> as Exec, sse::mem::<$($path)::+> as Exec)
        };
    }
    macro_rules! imm {
        ($($path:ident)::+) => {
            (sse::reg_imm::<$($path)::+> as Exec, sse::mem_imm::<$($path)::+> as Exec)
        };
    }
    macro_rules! shift {
        ($name:ident) => {
            match (is_immediate(instruction.op_kind(1)), mmx) {
                (false, _) => both!(shift::$name),
                (true, true) => (
                    mmx::shift_imm::<shift::$name> as Exec,
                    mmx::shift_imm::<shift::$name> as Exec,
                ),
                (true, false) => (
                    shift::immediate::<shift::$name> as Exec,
                    shift::immediate::<shift::$name> as Exec,
                ),
            }
        };
    }
    let forms = match instruction.mnemonic() {
        Mnemonic::Pand | Mnemonic::Andps | Mnemonic::Andpd => both!(integer::Pand),
        Mnemonic::Pandn | Mnemonic::Andnps | Mnemonic::Andnpd => both!(integer::Pandn),
        Mnemonic::Por | Mnemonic::Orps | Mnemonic::Orpd => both!(integer::Por),
        Mnemonic::Pxor | Mnemonic::Xorps | Mnemonic::Xorpd => both!(integer::Pxor),
        Mnemonic::Paddb => both!(integer::Paddb),
        Mnemonic::Paddw => both!(integer::Paddw),
        Mnemonic::Paddd => both!(integer::Paddd),
        Mnemonic::Paddq => both!(integer::Paddq),
        Mnemonic::Psubb => both!(integer::Psubb),
        Mnemonic::Psubw => both!(integer::Psubw),
        Mnemonic::Psubd => both!(integer::Psubd),
        Mnemonic::Psubq => both!(integer::Psubq),
        Mnemonic::Paddsb => both!(integer::Paddsb),
        Mnemonic::Paddsw => both!(integer::Paddsw),
        Mnemonic::Paddusb => both!(integer::Paddusb),
        Mnemonic::Paddusw => both!(integer::Paddusw),
        Mnemonic::Psubsb => both!(integer::Psubsb),
        Mnemonic::Psubsw => both!(integer::Psubsw),
        Mnemonic::Psubusb => both!(integer::Psubusb),
        Mnemonic::Psubusw => both!(integer::Psubusw),
        Mnemonic::Pcmpeqb => both!(integer::Pcmpeqb),
        Mnemonic::Pcmpeqw => both!(integer::Pcmpeqw),
        Mnemonic::Pcmpeqd => both!(integer::Pcmpeqd),
        Mnemonic::Pcmpeqq => xmm!(integer::Pcmpeqq),
        Mnemonic::Pcmpgtb => both!(integer::Pcmpgtb),
        Mnemonic::Pcmpgtw => both!(integer::Pcmpgtw),
        Mnemonic::Pcmpgtd => both!(integer::Pcmpgtd),
        Mnemonic::Pcmpgtq => xmm!(integer::Pcmpgtq),
        Mnemonic::Pmaxub => both!(integer::Pmaxub),
        Mnemonic::Pmaxsw => both!(integer::Pmaxsw),
        Mnemonic::Pminub => both!(integer::Pminub),
        Mnemonic::Pminsw => both!(integer::Pminsw),
        Mnemonic::Pmaxsb => xmm!(integer::Pmaxsb),
        Mnemonic::Pmaxuw => xmm!(integer::Pmaxuw),
        Mnemonic::Pmaxud => xmm!(integer::Pmaxud),
        Mnemonic::Pmaxsd => xmm!(integer::Pmaxsd),
        Mnemonic::Pminsb => xmm!(integer::Pminsb),
        Mnemonic::Pminuw => xmm!(integer::Pminuw),
        Mnemonic::Pminud => xmm!(integer::Pminud),
        Mnemonic::Pminsd => xmm!(integer::Pminsd),
        Mnemonic::Pavgb => both!(integer::Pavgb),
        Mnemonic::Pavgw => both!(integer::Pavgw),
        Mnemonic::Pabsb => both!(integer::Pabsb),
        Mnemonic::Pabsw => both!(integer::Pabsw),
        Mnemonic::Pabsd => both!(integer::Pabsd),
        Mnemonic::Psignb => both!(integer::Psignb),
        Mnemonic::Psignw => both!(integer::Psignw),
        Mnemonic::Psignd => both!(integer::Psignd),
        Mnemonic::Pmullw => both!(integer::Pmullw),
        Mnemonic::Pmulld => xmm!(integer::Pmulld),
        Mnemonic::Pmulhw => both!(integer::Pmulhw),
        Mnemonic::Pmulhuw => both!(integer::Pmulhuw),
        Mnemonic::Pmulhrsw => both!(integer::Pmulhrsw),
        Mnemonic::Pmuludq => both!(integer::Pmuludq),
        Mnemonic::Pmuldq => xmm!(integer::Pmuldq),
        Mnemonic::Pmaddwd => both!(integer::Pmaddwd),
        Mnemonic::Pmaddubsw => both!(integer::Pmaddubsw),
        Mnemonic::Psadbw => both!(integer::Psadbw),
        Mnemonic::Phaddw => both!(integer::Phaddw),
        Mnemonic::Phaddd => both!(integer::Phaddd),
        Mnemonic::Phaddsw => both!(integer::Phaddsw),
        Mnemonic::Phsubw => both!(integer::Phsubw),
        Mnemonic::Phsubd => both!(integer::Phsubd),
        Mnemonic::Phsubsw => both!(integer::Phsubsw),

        Mnemonic::Packsswb => both!(arrange::Packsswb),
        Mnemonic::Packuswb => both!(arrange::Packuswb),
        Mnemonic::Packssdw => both!(arrange::Packssdw),
        Mnemonic::Packusdw => xmm!(arrange::Packusdw),
        Mnemonic::Punpcklbw => low!(arrange::Punpcklbw),
        Mnemonic::Punpcklwd => low!(arrange::Punpcklwd),
        Mnemonic::Punpckldq => low!(arrange::Punpckldq),
        Mnemonic::Unpcklps => xmm!(arrange::Punpckldq),
        Mnemonic::Punpckhbw => both!(arrange::Punpckhbw),
        Mnemonic::Punpckhwd => both!(arrange::Punpckhwd),
        Mnemonic::Punpckhdq | Mnemonic::Unpckhps => both!(arrange::Punpckhdq),
        Mnemonic::Punpcklqdq | Mnemonic::Unpcklpd => xmm!(arrange::Punpcklqdq),
        Mnemonic::Punpckhqdq | Mnemonic::Unpckhpd => xmm!(arrange::Punpckhqdq),
        Mnemonic::Phminposuw => xmm!(arrange::Phminposuw),
        Mnemonic::Pshufb => both!(arrange::Pshufb),
        Mnemonic::Movsldup => xmm!(arrange::Movsldup),
        Mnemonic::Movshdup => xmm!(arrange::Movshdup),
        Mnemonic::Pshufd => imm!(arrange::Pshufd),
        Mnemonic::Pshuflw => imm!(arrange::Pshuflw),
        Mnemonic::Pshufhw => imm!(arrange::Pshufhw),
        Mnemonic::Shufps => imm!(arrange::Shufps),
        Mnemonic::Shufpd => imm!(arrange::Shufpd),
        Mnemonic::Blendps => imm!(arrange::Blendps),
        Mnemonic::Blendpd => imm!(arrange::Blendpd),
        Mnemonic::Pblendw => imm!(arrange::Pblendw),
        Mnemonic::Mpsadbw => imm!(arrange::Mpsadbw),
        Mnemonic::Pshufw => (
            mmx::reg_imm::<arrange::Pshufw> as Exec,
            mmx::mem_imm::<arrange::Pshufw> as Exec,
        ),
        Mnemonic::Palignr if mmx => (
            mmx::reg_imm::<arrange::Palignr> as Exec,
            mmx::mem_imm::<arrange::Palignr> as Exec,
        ),
        Mnemonic::Palignr => imm!(arrange::Palignr),

        Mnemonic::Psllw => shift!(Psllw),
        Mnemonic::Pslld => shift!(Pslld),
        Mnemonic::Psllq => shift!(Psllq),
        Mnemonic::Psrlw => shift!(Psrlw),
        Mnemonic::Psrld => shift!(Psrld),
        Mnemonic::Psrlq => shift!(Psrlq),
        Mnemonic::Psraw => shift!(Psraw),
        Mnemonic::Psrad => shift!(Psrad),
        Mnemonic::Pslldq => imm!(shift::Pslldq),
        Mnemonic::Psrldq => imm!(shift::Psrldq),

        Mnemonic::Aesenc => xmm!(crypto::Aesenc),
        Mnemonic::Aesenclast => xmm!(crypto::Aesenclast),
        Mnemonic::Aesdec => xmm!(crypto::Aesdec),
        Mnemonic::Aesdeclast => xmm!(crypto::Aesdeclast),
        Mnemonic::Aesimc => xmm!(crypto::Aesimc),
        Mnemonic::Aeskeygenassist => imm!(crypto::Aeskeygenassist),
        Mnemonic::Pclmulqdq => imm!(crypto::Pclmulqdq),
        _ => return None,
    };
    Some(pair(instruction, context, forms))
}

fn string_compare(instruction: &Instruction, context: &Context) -> Option<Op> {
    macro_rules! kind {
        ($name:ident) => {
            (
                text::reg::<text::$name> as Exec,
                text::mem::<text::$name> as Exec,
            )
        };
    }
    let (forms, wide) = match instruction.mnemonic() {
        Mnemonic::Pcmpestri => (kind!(ExplicitIndex), false),
        Mnemonic::Pcmpestrm => (kind!(ExplicitMask), false),
        Mnemonic::Pcmpestri64 => (kind!(ExplicitIndex), true),
        Mnemonic::Pcmpestrm64 => (kind!(ExplicitMask), true),
        Mnemonic::Pcmpistri => (kind!(ImplicitIndex), false),
        Mnemonic::Pcmpistrm => (kind!(ImplicitMask), false),
        _ => return None,
    };
    let mut op = pair(instruction, context, forms);
    if wide {
        op.imm |= text::WIDE_LENGTHS;
    }
    Some(op)
}
