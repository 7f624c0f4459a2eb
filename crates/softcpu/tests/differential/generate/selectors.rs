//! Instructions that take selectors: loads of segment registers, far transfers, and questions about descriptors. The
//! guest's table holds what Linux has in its own.

use super::Generated;
use super::address::number;
use crate::layout::{CODE, CODE_LEN, CS32, CS64, DS};
use crate::prng::Prng;
use crate::segments::{CODE_16, CODE_32, LOCAL, base_of};
use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, OpKind};

/// Null, kernel and user segments with every privilege, a TSS, nothing, the local table, beyond the end.
const SELECTORS: [u16; 22] = [
    0, 1, 3, DS, DS, DS, CS32, CS64, 0x08, 0x10, 0x18, 0x1b, 0x13, 0x28, 0x29, 0x20, 0x30, 0x38,
    0x40, 0x43, 0x07, 0x8b,
];

/// Whether an instruction loads a segment register other than CS.
pub(crate) fn loads_segment(code: Code) -> bool {
    match code.mnemonic() {
        Mnemonic::Mov => code.op_code().op0_kind() == OpCodeOperandKind::seg_reg,
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => true,
        Mnemonic::Pop => matches!(
            code,
            Code::Popw_DS
                | Code::Popd_DS
                | Code::Popw_ES
                | Code::Popd_ES
                | Code::Popw_SS
                | Code::Popd_SS
                | Code::Popw_FS
                | Code::Popd_FS
                | Code::Popq_FS
                | Code::Popw_GS
                | Code::Popd_GS
                | Code::Popq_GS
        ),
        _ => false,
    }
}

fn asks_about(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw | Mnemonic::Arpl
    )
}

/// Bytes of an operand of the instruction's own size.
fn operand_bytes(instruction: &Instruction) -> usize {
    (instruction.code().op_code().operand_size() as usize / 8).max(2)
}

/// Puts selectors, targets and frames where the instruction finds them.
pub(super) fn fit(rng: &mut Prng, generated: &mut Generated) {
    let instruction = generated.instruction;
    let code = instruction.code();
    let selector = if rng.one_in(2) {
        rng.pick(&SELECTORS)
    } else {
        rng.below(LOCAL.len() as u64 + 1) as u16 * 8 + rng.pick(&[4, 7, 7, 7])
    };
    let size = operand_bytes(&instruction);
    let code_selector = if rng.one_in(3) {
        selector
    } else {
        rng.pick(&[CS64, CS32, CODE_16[0], CODE_32[0]])
    };
    let target = (CODE + rng.below(CODE_LEN))
        .wrapping_sub(base_of(code_selector))
        .to_le_bytes();
    let patch = &mut generated.case.patch;
    match code.mnemonic() {
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            patch[size..size + 2].copy_from_slice(&selector.to_le_bytes());
        }
        Mnemonic::Retf => {
            patch[..size].copy_from_slice(&target[..size]);
            patch[size..size + 2].copy_from_slice(&code_selector.to_le_bytes());
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            let size = match code.mnemonic() {
                Mnemonic::Iret => 2,
                Mnemonic::Iretd => 4,
                _ => 8,
            };
            let flags = (0x202 | rng.next() & 0xcd5).to_le_bytes();
            let stack = generated.case.state.gpr[4].to_le_bytes();
            // Not a 16-bit stack: IRETQ loses half of ESP on the way there.
            let global = rng.pick(&SELECTORS);
            let stack_selector = if rng.one_in(4) { global } else { DS };
            let mut at = 0;
            for value in [
                target,
                u64::from(code_selector).to_le_bytes(),
                flags,
                stack,
                u64::from(stack_selector).to_le_bytes(),
            ] {
                patch[at..at + size].copy_from_slice(&value[..size]);
                at += size;
            }
        }
        _ if code.is_jmp_far_indirect() || code.is_call_far_indirect() => {
            patch[..size].copy_from_slice(&target[..size]);
            patch[size..size + 2].copy_from_slice(&code_selector.to_le_bytes());
        }
        _ if code.is_jmp_far() || code.is_call_far() => {
            let end = generated.case.code_len as usize;
            generated.case.code[end - 2..end].copy_from_slice(&code_selector.to_le_bytes());
            let offset = end - 2 - size.min(4);
            generated.case.code[offset..end - 2].copy_from_slice(&target[..size.min(4)]);
        }
        mnemonic if loads_segment(code) || asks_about(mnemonic) => {
            patch[..2].copy_from_slice(&selector.to_le_bytes());
            for op in 0..instruction.op_count() {
                if instruction.op_kind(op) == OpKind::Register
                    && let Some(register) = number(instruction.op_register(op))
                    && register != 4
                {
                    let old = generated.case.state.gpr[register];
                    generated
                        .case
                        .state
                        .set_gpr(register, old & !0xffff | u64::from(selector));
                }
            }
        }
        _ => {}
    }
}
