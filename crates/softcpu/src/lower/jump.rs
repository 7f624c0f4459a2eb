//! Near branches.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind};

use super::{Context, by_width, condition, number, with_memory};
use crate::exec::jump;
use crate::op::{Exec, Op};

/// Lowers the instructions of this family. Targets become offsets from the block's RIP.
pub(super) fn lower(i: &Instruction, context: &Context) -> Option<Op> {
    let relative = matches!(
        i.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    let width = branch_bits(i, context);
    Some(match i.mnemonic() {
        M::Jmp if relative => target(by_width!(width, jump::jump), i, width),
        M::Jmp => indirect(
            i,
            context,
            by_width!(width, jump::jump_reg),
            by_width!(width, jump::jump_mem),
        )?,
        M::Call if relative => target(by_width!(width, jump::call), i, width),
        M::Call => indirect(
            i,
            context,
            by_width!(width, jump::call_reg),
            by_width!(width, jump::call_mem),
        )?,
        M::Ret => {
            let bits = i.code().op_code_ret_bits(context);
            let imm = if i.op_count() == 1 {
                u64::from(i.immediate16())
            } else {
                0
            };
            Op {
                imm,
                ..Op::new(by_width!(bits, jump::ret))
            }
        }
        M::Loop | M::Loope | M::Loopne => {
            let mut op = target(counted(i, width, Counted::Loop), i, width);
            op.a = match i.mnemonic() {
                M::Loop => 0,
                M::Loope => 1,
                _ => 2,
            };
            op
        }
        M::Jcxz | M::Jecxz | M::Jrcxz => target(counted(i, width, Counted::Zero), i, width),
        _ if i.is_jcc_short_or_near() => target(conditional(condition(i), width), i, width),
        _ => return None,
    })
}

/// Operand size of a near branch.
fn branch_bits(i: &Instruction, context: &Context) -> u32 {
    match i.op0_kind() {
        OpKind::NearBranch16 => 16,
        OpKind::NearBranch32 => 32,
        OpKind::NearBranch64 => 64,
        OpKind::Register => i.op0_register().size() as u32 * 8,
        OpKind::Memory => i.memory_size().size() as u32 * 8,
        _ => context.bits,
    }
}

fn target(exec: Exec, i: &Instruction, width: u32) -> Op {
    // The decoder adds the displacement to our offset from the block's start and cuts the sum to the
    // operand size; undo the cut, so that the addition to the block's RIP comes out right.
    let target = i.near_branch_target();
    let imm = match width {
        16 => target as u16 as i16 as u64,
        32 => target as u32 as i32 as u64,
        _ => target,
    };
    Op {
        imm,
        ..Op::new(exec)
    }
}

fn indirect(i: &Instruction, context: &Context, register: Exec, memory: Exec) -> Option<Op> {
    match i.op0_kind() {
        OpKind::Register => Some(Op {
            a: number(i.op0_register()),
            ..Op::new(register)
        }),
        // Far pointers in memory are system matters.
        OpKind::Memory if !i.is_jmp_far_indirect() && !i.is_call_far_indirect() => {
            Some(with_memory(memory, i, context))
        }
        _ => None,
    }
}

fn conditional(number: u8, width: u32) -> Exec {
    macro_rules! table {
        ($($number:literal)*) => {
            match (number, width) {
                $(
                    ($number, 16) => jump::jump_if::<$number, u16> as Exec,
                    ($number, 32) => jump::jump_if::<$number, u32> as Exec,
                    ($number, _) => jump::jump_if::<$number, u64> as Exec,
                )*
                _ => crate::exec::control::undefined as Exec,
            }
        };
    }
    table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Loop,
    Zero,
}

/// LOOP and JCXZ by counter size (the address size) and operand size.
fn counted(i: &Instruction, width: u32, kind: Counted) -> Exec {
    macro_rules! pick {
        ($counter:ty) => {
            match (kind, width) {
                (Counted::Loop, 16) => jump::loop_while::<$counter, u16> as Exec,
                (Counted::Loop, 32) => jump::loop_while::<$counter, u32> as Exec,
                (Counted::Loop, _) => jump::loop_while::<$counter, u64> as Exec,
                (Counted::Zero, 16) => jump::jump_if_count_zero::<$counter, u16> as Exec,
                (Counted::Zero, 32) => jump::jump_if_count_zero::<$counter, u32> as Exec,
                (Counted::Zero, _) => jump::jump_if_count_zero::<$counter, u64> as Exec,
            }
        };
    }
    match counter_bits(i.code()) {
        16 => pick!(u16),
        32 => pick!(u32),
        _ => pick!(u64),
    }
}

/// Which of CX, ECX and RCX counts.
fn counter_bits(code: Code) -> u32 {
    match code {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX
        | Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32 => 16,
        Code::Loop_rel8_16_ECX
        | Code::Loop_rel8_32_ECX
        | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Loopne_rel8_64_ECX
        | Code::Jecxz_rel8_16
        | Code::Jecxz_rel8_32
        | Code::Jecxz_rel8_64 => 32,
        _ => 64,
    }
}

/// Operand size of a near return.
trait ReturnBits {
    fn op_code_ret_bits(self, context: &Context) -> u32;
}

impl ReturnBits for Code {
    fn op_code_ret_bits(self, context: &Context) -> u32 {
        match self {
            Code::Retnw | Code::Retnw_imm16 => 16,
            Code::Retnd | Code::Retnd_imm16 => 32,
            Code::Retnq | Code::Retnq_imm16 => 64,
            _ => context.bits,
        }
    }
}
