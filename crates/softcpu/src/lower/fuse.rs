//! A comparison and the conditional jump behind it as one operation: the commonest pair there is.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::{Form, condition, form, operand_bits};
use crate::exec::alu::{Cmp, Test};
use crate::exec::jump::{compare_imm_jump, compare_reg_jump};
use crate::op::{Exec, Op};

/// The two as one, if `first` compares registers (or a register and an immediate) and `second` is a
/// 64-bit Jcc. `compare` and `jump` are the two as lowered one by one.
///
/// The result stands where the jump stands: the comparison cannot fault, so a fault is the jump's.
pub(crate) fn fuse(
    (first, compare): (&Instruction, &Op),
    (second, jump): (&Instruction, &Op),
) -> Option<Op> {
    if second.op0_kind() != OpKind::NearBranch64 || !second.is_jcc_short_or_near() {
        return None;
    }
    let form = form(first)?;
    let bits = operand_bits(first, 0);
    let number = condition(second);
    let exec = match (first.mnemonic(), form) {
        (M::Cmp, Form::RegReg) => pick(number, bits, Kind::CompareRegisters),
        (M::Cmp, Form::RegImm) => pick(number, bits, Kind::CompareImmediate),
        (M::Test, Form::RegReg) => pick(number, bits, Kind::TestRegisters),
        (M::Test, Form::RegImm) => pick(number, bits, Kind::TestImmediate),
        _ => return None,
    }?;
    let mut op = *jump;
    op.exec = exec;
    op.disp = jump.imm as i64;
    op.a = compare.a;
    op.b = compare.b;
    op.imm = compare.imm;
    Some(op)
}

#[derive(Clone, Copy)]
enum Kind {
    CompareRegisters,
    CompareImmediate,
    TestRegisters,
    TestImmediate,
}

fn pick(number: u8, bits: u32, kind: Kind) -> Option<Exec> {
    macro_rules! by_bits {
        ($function:ident, $compare:ty, $number:literal) => {
            match bits {
                8 => $function::<$compare, $number, u8> as Exec,
                32 => $function::<$compare, $number, u32> as Exec,
                64 => $function::<$compare, $number, u64> as Exec,
                _ => return None,
            }
        };
    }
    macro_rules! table {
        ($($number:literal)*) => {
            match (number, kind) {
                $(
                    ($number, Kind::CompareRegisters) => by_bits!(compare_reg_jump, Cmp, $number),
                    ($number, Kind::CompareImmediate) => by_bits!(compare_imm_jump, Cmp, $number),
                    ($number, Kind::TestRegisters) => by_bits!(compare_reg_jump, Test, $number),
                    ($number, Kind::TestImmediate) => by_bits!(compare_imm_jump, Test, $number),
                )*
                _ => return None,
            }
        };
    }
    Some(table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
}
