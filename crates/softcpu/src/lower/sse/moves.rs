//! Data movement: between registers and memory, masks, extracts and inserts, blends by XMM0.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Context, arrange, is_mmx, pair};
use crate::exec::mmx;
use crate::exec::sse::{self, moves};
use crate::lower::{number, operand_bits, segment_index, set_memory};
use crate::op::{Exec, Op, mode};
use crate::state::Seg;
use crate::state::registers::RDI;

/// The register, load and store forms of a move.
struct Move {
    reg: Exec,
    load: Exec,
    store: Exec,
}

/// Lowers what this file knows.
pub(super) fn lower(instruction: &Instruction, context: &Context) -> Option<Op> {
    if let Some(forms) = plain(instruction) {
        return Some(movement(instruction, context, &forms));
    }
    match instruction.mnemonic() {
        Mnemonic::Maskmovq => Some(masked(instruction, context, mmx::store_masked)),
        Mnemonic::Maskmovdqu => Some(masked(instruction, context, moves::store_masked)),
        Mnemonic::Pextrb
        | Mnemonic::Pextrw
        | Mnemonic::Pextrd
        | Mnemonic::Pextrq
        | Mnemonic::Extractps => Some(extract(instruction, context)),
        _ => pairs(instruction).map(|forms| pair(instruction, context, forms)),
    }
}

/// Fills in the operands of a move in either direction.
fn movement(instruction: &Instruction, context: &Context, forms: &Move) -> Op {
    if instruction.op_kind(0) == OpKind::Memory {
        let mut op = Op::new(forms.store);
        op.b = number(instruction.op1_register());
        set_memory(&mut op, instruction, context);
        op
    } else {
        pair(instruction, context, (forms.reg, forms.load))
    }
}

fn plain(instruction: &Instruction) -> Option<Move> {
    let aligned = Move {
        reg: moves::copy,
        load: moves::load_aligned,
        store: moves::store_aligned,
    };
    let unaligned = Move {
        reg: moves::copy,
        load: moves::load,
        store: moves::store,
    };
    let is_xmm = |index| {
        instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_xmm()
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Movaps
        | Mnemonic::Movapd
        | Mnemonic::Movdqa
        | Mnemonic::Movntdqa
        | Mnemonic::Movntps
        | Mnemonic::Movntpd
        | Mnemonic::Movntdq => aligned,
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => unaligned,
        Mnemonic::Movss => Move {
            reg: sse::reg::<arrange::Movss>,
            load: moves::load_low::<u32>,
            store: moves::store_low::<u32>,
        },
        // The string instruction has the same name.
        Mnemonic::Movsd if is_xmm(0) || is_xmm(1) => Move {
            reg: sse::reg::<arrange::Movsd>,
            load: moves::load_low::<u64>,
            store: moves::store_low::<u64>,
        },
        Mnemonic::Movlps | Mnemonic::Movlpd | Mnemonic::Movhlps => Move {
            reg: sse::reg::<arrange::Movhlps>,
            load: moves::load_low_half,
            store: moves::store_low::<u64>,
        },
        Mnemonic::Movhps | Mnemonic::Movhpd | Mnemonic::Movlhps => Move {
            reg: sse::reg::<arrange::Movlhps>,
            load: moves::load_high_half,
            store: moves::store_high_half,
        },
        Mnemonic::Movd | Mnemonic::Movq => word(instruction),
        Mnemonic::Movntq => Move {
            reg: mmx::copy,
            load: mmx::load::<u64>,
            store: mmx::store::<u64>,
        },
        Mnemonic::Movnti if operand_bits(instruction, 0) == 64 => {
            let store = moves::store_general::<u64>;
            Move {
                reg: store,
                load: store,
                store,
            }
        }
        Mnemonic::Movnti => {
            let store = moves::store_general::<u32>;
            Move {
                reg: store,
                load: store,
                store,
            }
        }
        _ => return None,
    })
}

/// MOVD and MOVQ in all their forms.
fn word(instruction: &Instruction) -> Move {
    let register = |index, test: fn(iced_x86::Register) -> bool| {
        instruction.op_kind(index) == OpKind::Register && test(instruction.op_register(index))
    };
    let vector = |index| register(index, |r| r.is_mm() || r.is_xmm());
    let mmx = register(0, |r| r.is_mm()) || register(1, |r| r.is_mm());
    let wide = operand_bits(instruction, if vector(0) { 1 } else { 0 }) != 32;
    match (mmx, wide) {
        (true, false) => Move {
            reg: if vector(0) {
                mmx::from_general::<u32>
            } else {
                mmx::to_general::<u32>
            },
            load: mmx::load::<u32>,
            store: mmx::store::<u32>,
        },
        (true, true) => Move {
            reg: match (vector(0), vector(1)) {
                (true, true) => mmx::copy,
                (true, false) => mmx::from_general::<u64>,
                _ => mmx::to_general::<u64>,
            },
            load: mmx::load::<u64>,
            store: mmx::store::<u64>,
        },
        (false, false) => Move {
            reg: if vector(0) {
                moves::from_general::<u32>
            } else {
                moves::to_general::<u32>
            },
            load: moves::load_low::<u32>,
            store: moves::store_low::<u32>,
        },
        (false, true) => Move {
            reg: match (vector(0), vector(1)) {
                (true, true) => moves::copy_low,
                (true, false) => moves::from_general::<u64>,
                _ => moves::to_general::<u64>,
            },
            load: moves::load_low::<u64>,
            store: moves::store_low::<u64>,
        },
    }
}

/// MASKMOVQ and MASKMOVDQU: the memory operand is DS:rDI.
fn masked(instruction: &Instruction, context: &Context, exec: Exec) -> Op {
    let mut op = Op::new(exec);
    op.a = number(instruction.op1_register());
    op.b = number(instruction.op2_register());
    op.base = RDI;
    let segment = segment_index(instruction.memory_segment());
    op.mode = segment << mode::SEGMENT_SHIFT;
    let bits = match instruction.op_kind(0) {
        OpKind::MemorySegDI => {
            op.mode |= mode::ADDRESS_16;
            16
        }
        OpKind::MemorySegEDI => {
            op.mode |= mode::ADDRESS_32;
            32
        }
        _ => 64,
    };
    let based = segment == Seg::Fs as u8 || segment == Seg::Gs as u8;
    if context.bits != 64 || bits != 64 || based {
        op.mode |= mode::COMPLEX;
    }
    op
}

/// PEXTRx and EXTRACTPS: the destination is a general register or memory.
fn extract(instruction: &Instruction, context: &Context) -> Op {
    let to_memory = instruction.op_kind(0) == OpKind::Memory;
    let exec: Exec = match (instruction.mnemonic(), to_memory) {
        (Mnemonic::Pextrw, false) if instruction.op1_register().is_mm() => mmx::extract_word,
        (Mnemonic::Pextrb, false) => moves::extract_reg::<u8>,
        (Mnemonic::Pextrb, true) => moves::extract_mem::<u8>,
        (Mnemonic::Pextrw, false) => moves::extract_reg::<u16>,
        (Mnemonic::Pextrw, true) => moves::extract_mem::<u16>,
        (Mnemonic::Pextrq, false) => moves::extract_reg::<u64>,
        (Mnemonic::Pextrq, true) => moves::extract_mem::<u64>,
        (_, false) => moves::extract_reg::<u32>,
        (_, true) => moves::extract_mem::<u32>,
    };
    let mut op = Op::new(exec);
    op.b = number(instruction.op1_register());
    op.imm = instruction.immediate(2);
    if to_memory {
        set_memory(&mut op, instruction, context);
    } else {
        op.a = number(instruction.op0_register());
    }
    op
}

fn pairs(instruction: &Instruction) -> Option<(Exec, Exec)> {
    macro_rules! insert {
        ($width:ident) => {
            (
                moves::insert_reg::<$width> as Exec,
                moves::insert_mem::<$width> as Exec,
            )
        };
    }
    macro_rules! extend {
        ($name:ident, $width:ident) => {
            (
                sse::reg::<arrange::$name> as Exec,
                moves::narrow_mem::<arrange::$name, $width> as Exec,
            )
        };
    }
    macro_rules! blend {
        ($name:ident) => {
            (
                moves::blend_reg::<arrange::$name> as Exec,
                moves::blend_mem::<arrange::$name> as Exec,
            )
        };
    }
    let only = |exec: Exec| (exec, exec);
    Some(match instruction.mnemonic() {
        Mnemonic::Movdq2q => only(mmx::from_xmm),
        Mnemonic::Movq2dq => only(mmx::to_xmm),
        Mnemonic::Pmovmskb if instruction.op1_register().is_mm() => only(mmx::sign_mask),
        Mnemonic::Pmovmskb => only(moves::byte_sign_mask),
        Mnemonic::Movmskps => only(moves::single_sign_mask),
        Mnemonic::Movmskpd => only(moves::double_sign_mask),
        Mnemonic::Movddup => (moves::duplicate_reg, moves::duplicate_mem),
        Mnemonic::Pinsrw if is_mmx(instruction) => (mmx::insert_word_reg, mmx::insert_word_mem),
        Mnemonic::Pinsrb => insert!(u8),
        Mnemonic::Pinsrw => insert!(u16),
        Mnemonic::Pinsrd => insert!(u32),
        Mnemonic::Pinsrq => insert!(u64),
        Mnemonic::Insertps => (sse::reg_imm::<arrange::Insertps>, moves::insert_single_mem),
        Mnemonic::Pmovsxbw => extend!(Pmovsxbw, u64),
        Mnemonic::Pmovsxbd => extend!(Pmovsxbd, u32),
        Mnemonic::Pmovsxbq => extend!(Pmovsxbq, u16),
        Mnemonic::Pmovsxwd => extend!(Pmovsxwd, u64),
        Mnemonic::Pmovsxwq => extend!(Pmovsxwq, u32),
        Mnemonic::Pmovsxdq => extend!(Pmovsxdq, u64),
        Mnemonic::Pmovzxbw => extend!(Pmovzxbw, u64),
        Mnemonic::Pmovzxbd => extend!(Pmovzxbd, u32),
        Mnemonic::Pmovzxbq => extend!(Pmovzxbq, u16),
        Mnemonic::Pmovzxwd => extend!(Pmovzxwd, u64),
        Mnemonic::Pmovzxwq => extend!(Pmovzxwq, u32),
        Mnemonic::Pmovzxdq => extend!(Pmovzxdq, u64),
        Mnemonic::Pblendvb => blend!(Pblendvb),
        Mnemonic::Blendvps => blend!(Blendvps),
        Mnemonic::Blendvpd => blend!(Blendvpd),
        Mnemonic::Ptest => (moves::test_reg, moves::test_mem),
        _ => return None,
    })
}
