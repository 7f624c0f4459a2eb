//! x87 and the instructions that save and restore its state and that of SSE.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{Context, number, operand_bits, set_memory};
use crate::exec::x87::{arithmetic, compare, control, function, transfer};
use crate::exec::xsave;
use crate::op::{Exec, Op};

/// Lowers the instructions of this family.
pub(super) fn lower(instruction: &Instruction, context: &Context) -> Option<Op> {
    calculation(instruction, context)
        .or_else(|| comparison(instruction, context))
        .or_else(|| load_or_store(instruction, context))
        .or_else(|| in_place(instruction))
        .or_else(|| management(instruction, context))
        .or_else(|| saving(instruction, context))
}

/// An operation with the memory operand filled in, if there is one.
fn operation(instruction: &Instruction, context: &Context, exec: Exec, imm: u64) -> Op {
    let mut op = Op::new(exec);
    op.imm = imm;
    let memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    if memory {
        set_memory(&mut op, instruction, context);
    }
    op
}

/// ST number of operand `index`; 0 if there is no such operand.
fn st(instruction: &Instruction, index: u32) -> u8 {
    if index < instruction.op_count() && instruction.op_kind(index) == OpKind::Register {
        let register = instruction.op_register(index);
        if register.is_st() {
            number(register)
        } else {
            0
        }
    } else {
        0
    }
}

/// An operation on the registers that the instruction names.
fn registers(instruction: &Instruction, exec: Exec, imm: u64) -> Op {
    let mut op = Op::new(exec);
    op.a = st(instruction, 0);
    op.b = st(instruction, 1);
    op.imm = imm;
    op
}

/// FADD to FDIVR, with memory, registers, and pop.
fn calculation(instruction: &Instruction, context: &Context) -> Option<Op> {
    macro_rules! binary {
        ($name:ident) => {
            if instruction.op_kind(0) == OpKind::Memory {
                let exec = if operand_bits(instruction, 0) == 32 {
                    arithmetic::mem::<arithmetic::$name, arithmetic::Single> as Exec
                } else {
                    arithmetic::mem::<arithmetic::$name, arithmetic::Double> as Exec
                };
                operation(instruction, context, exec, 0)
            } else {
                registers(instruction, arithmetic::reg::<arithmetic::$name, false>, 0)
            }
        };
    }
    macro_rules! popping {
        ($name:ident) => {
            registers(instruction, arithmetic::reg::<arithmetic::$name, true>, 0)
        };
    }
    macro_rules! integer {
        ($name:ident) => {{
            let exec = if operand_bits(instruction, 0) == 16 {
                arithmetic::mem::<arithmetic::$name, arithmetic::Integer16> as Exec
            } else {
                arithmetic::mem::<arithmetic::$name, arithmetic::Integer32> as Exec
            };
            operation(instruction, context, exec, 0)
        }};
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Fadd => binary!(Add),
        Mnemonic::Fmul => binary!(Multiply),
        Mnemonic::Fsub => binary!(Subtract),
        Mnemonic::Fsubr => binary!(SubtractReversed),
        Mnemonic::Fdiv => binary!(Divide),
        Mnemonic::Fdivr => binary!(DivideReversed),
        Mnemonic::Faddp => popping!(Add),
        Mnemonic::Fmulp => popping!(Multiply),
        Mnemonic::Fsubp => popping!(Subtract),
        Mnemonic::Fsubrp => popping!(SubtractReversed),
        Mnemonic::Fdivp => popping!(Divide),
        Mnemonic::Fdivrp => popping!(DivideReversed),
        Mnemonic::Fiadd => integer!(Add),
        Mnemonic::Fimul => integer!(Multiply),
        Mnemonic::Fisub => integer!(Subtract),
        Mnemonic::Fisubr => integer!(SubtractReversed),
        Mnemonic::Fidiv => integer!(Divide),
        Mnemonic::Fidivr => integer!(DivideReversed),
        _ => return None,
    })
}

fn comparison(instruction: &Instruction, context: &Context) -> Option<Op> {
    let float = |pops| {
        if instruction.op_kind(0) == OpKind::Memory {
            let exec = if operand_bits(instruction, 0) == 32 {
                compare::mem::<arithmetic::Single> as Exec
            } else {
                compare::mem::<arithmetic::Double> as Exec
            };
            operation(instruction, context, exec, pops)
        } else {
            registers(instruction, compare::reg::<compare::Ordered>, pops)
        }
    };
    let integer = |pops| {
        let exec = if operand_bits(instruction, 0) == 16 {
            compare::mem::<arithmetic::Integer16> as Exec
        } else {
            compare::mem::<arithmetic::Integer32> as Exec
        };
        operation(instruction, context, exec, pops)
    };
    let unordered = |pops| registers(instruction, compare::reg::<compare::Unordered>, pops);
    let with_one = |exec: Exec| {
        let mut op = Op::new(exec);
        op.b = 1;
        op.imm = 2;
        op
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Fcom => float(0),
        Mnemonic::Fcomp => float(1),
        Mnemonic::Fcompp => with_one(compare::reg::<compare::Ordered>),
        Mnemonic::Fucom => unordered(0),
        Mnemonic::Fucomp => unordered(1),
        Mnemonic::Fucompp => with_one(compare::reg::<compare::Unordered>),
        Mnemonic::Ficom => integer(0),
        Mnemonic::Ficomp => integer(1),
        Mnemonic::Fcomi => registers(instruction, compare::flags::<compare::Ordered>, 0),
        Mnemonic::Fcomip => registers(instruction, compare::flags::<compare::Ordered>, 1),
        Mnemonic::Fucomi => registers(instruction, compare::flags::<compare::Unordered>, 0),
        Mnemonic::Fucomip => registers(instruction, compare::flags::<compare::Unordered>, 1),
        Mnemonic::Ftst => Op::new(compare::zero),
        Mnemonic::Fxam => Op::new(compare::examine),
        _ => return None,
    })
}

fn load_or_store(instruction: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(instruction, 0);
    let memory = |exec: Exec| operation(instruction, context, exec, 0);
    let constant = |index| {
        let mut op = Op::new(transfer::load_constant);
        op.imm = index;
        op
    };
    let register = instruction.op_count() > 0 && instruction.op_kind(0) == OpKind::Register;
    Some(match instruction.mnemonic() {
        // The register form names ST(0) first.
        Mnemonic::Fld if register => {
            let mut op = Op::new(transfer::load_reg);
            op.b = st(instruction, instruction.op_count() - 1);
            op
        }
        Mnemonic::Fld => memory(match bits {
            32 => transfer::load::<arithmetic::Single>,
            64 => transfer::load::<arithmetic::Double>,
            _ => transfer::load_extended,
        }),
        Mnemonic::Fild => memory(match bits {
            16 => transfer::load::<arithmetic::Integer16>,
            32 => transfer::load::<arithmetic::Integer32>,
            _ => transfer::load::<arithmetic::Integer64>,
        }),
        Mnemonic::Fbld => memory(transfer::load_decimal),
        Mnemonic::Fst if register => registers(instruction, transfer::store_reg::<false>, 0),
        Mnemonic::Fstp if register => registers(instruction, transfer::store_reg::<true>, 0),
        Mnemonic::Fstpnce => registers(instruction, transfer::store_reg_unchecked, 0),
        Mnemonic::Fst => memory(match bits {
            32 => transfer::store::<transfer::Single, false>,
            _ => transfer::store::<transfer::Double, false>,
        }),
        Mnemonic::Fstp => memory(match bits {
            32 => transfer::store::<transfer::Single, true>,
            64 => transfer::store::<transfer::Double, true>,
            _ => transfer::store::<transfer::Extended, true>,
        }),
        Mnemonic::Fist => memory(match bits {
            16 => transfer::store::<transfer::Integer16, false>,
            _ => transfer::store::<transfer::Integer32, false>,
        }),
        Mnemonic::Fistp => memory(match bits {
            16 => transfer::store::<transfer::Integer16, true>,
            32 => transfer::store::<transfer::Integer32, true>,
            _ => transfer::store::<transfer::Integer64, true>,
        }),
        Mnemonic::Fisttp => memory(match bits {
            16 => transfer::store::<transfer::Truncated16, true>,
            32 => transfer::store::<transfer::Truncated32, true>,
            _ => transfer::store::<transfer::Truncated64, true>,
        }),
        Mnemonic::Fbstp => memory(transfer::store::<transfer::Decimal, true>),
        Mnemonic::Fld1 => constant(transfer::constant::ONE),
        Mnemonic::Fldl2t => constant(transfer::constant::LOG2_10),
        Mnemonic::Fldl2e => constant(transfer::constant::LOG2_E),
        Mnemonic::Fldpi => constant(transfer::constant::PI),
        Mnemonic::Fldlg2 => constant(transfer::constant::LOG10_2),
        Mnemonic::Fldln2 => constant(transfer::constant::LN_2),
        Mnemonic::Fldz => constant(transfer::constant::ZERO),
        _ => return None,
    })
}

/// Operations on the top of the stack.
fn in_place(instruction: &Instruction) -> Option<Op> {
    let unary = |exec: Exec| Op::new(exec);
    let both = |a, b, exec: Exec| {
        let mut op = Op::new(exec);
        (op.a, op.b) = (a, b);
        op
    };
    let condition = |number| registers(instruction, transfer::move_if, number);
    Some(match instruction.mnemonic() {
        Mnemonic::Fsqrt => unary(arithmetic::unary::<arithmetic::SquareRoot>),
        Mnemonic::Frndint => unary(arithmetic::unary::<arithmetic::RoundToInteger>),
        Mnemonic::F2xm1 => unary(arithmetic::unary::<arithmetic::Exp2Minus1>),
        Mnemonic::Fchs => unary(arithmetic::unary::<arithmetic::ChangeSign>),
        Mnemonic::Fabs => unary(arithmetic::unary::<arithmetic::Magnitude>),
        Mnemonic::Fscale => both(0, 1, arithmetic::reg::<arithmetic::Scale, false>),
        Mnemonic::Fyl2x => both(1, 0, arithmetic::reg::<arithmetic::YLog2X, true>),
        Mnemonic::Fyl2xp1 => both(1, 0, arithmetic::reg::<arithmetic::YLog2XPlus1, true>),
        Mnemonic::Fpatan => both(1, 0, arithmetic::reg::<arithmetic::Arctangent, true>),
        Mnemonic::Fprem => unary(function::remainder::<false>),
        Mnemonic::Fprem1 => unary(function::remainder::<true>),
        Mnemonic::Fxtract => unary(function::pushing::<function::Extract>),
        Mnemonic::Fptan => unary(function::pushing::<function::Tangent>),
        Mnemonic::Fsincos => unary(function::pushing::<function::SineCosine>),
        Mnemonic::Fsin => unary(function::ranged::<function::Sine>),
        Mnemonic::Fcos => unary(function::ranged::<function::Cosine>),
        Mnemonic::Fxch => {
            let other = st(instruction, 0).max(st(instruction, 1));
            both(0, other, transfer::exchange)
        }
        // Numbers of the conditions B, E, BE and U (parity), and of their opposites.
        Mnemonic::Fcmovb => condition(2),
        Mnemonic::Fcmovnb => condition(3),
        Mnemonic::Fcmove => condition(4),
        Mnemonic::Fcmovne => condition(5),
        Mnemonic::Fcmovbe => condition(6),
        Mnemonic::Fcmovnbe => condition(7),
        Mnemonic::Fcmovu => condition(10),
        Mnemonic::Fcmovnu => condition(11),
        _ => return None,
    })
}

/// Control, status, environment.
fn management(instruction: &Instruction, context: &Context) -> Option<Op> {
    let memory = |exec: Exec| operation(instruction, context, exec, 0);
    let area = |exec: Exec| {
        operation(
            instruction,
            context,
            exec,
            instruction.memory_size().size() as u64,
        )
    };
    let rotate = |by: u64| {
        let mut op = Op::new(control::rotate);
        op.imm = by;
        op
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Fldcw => memory(control::load_control),
        Mnemonic::Fnstcw => memory(control::store_control),
        Mnemonic::Fnstsw if instruction.op0_register() == Register::AX => {
            Op::new(control::status_to_ax)
        }
        Mnemonic::Fnstsw => memory(control::store_status),
        Mnemonic::Fninit => Op::new(control::initialise),
        Mnemonic::Fnclex => Op::new(control::clear_exceptions),
        Mnemonic::Fnstenv => area(control::store_environment),
        Mnemonic::Fldenv => area(control::load_environment),
        Mnemonic::Fnsave => area(control::save),
        Mnemonic::Frstor => area(control::restore),
        Mnemonic::Fincstp => rotate(1),
        Mnemonic::Fdecstp => rotate(7),
        Mnemonic::Ffree => registers(instruction, control::free::<false>, 0),
        Mnemonic::Ffreep => registers(instruction, control::free::<true>, 0),
        Mnemonic::Fnop => Op::new(control::nothing),
        Mnemonic::Fneni
        | Mnemonic::Feni
        | Mnemonic::Fndisi
        | Mnemonic::Fdisi
        | Mnemonic::Fnsetpm
        | Mnemonic::Fsetpm
        | Mnemonic::Frstpm => Op::new(control::nothing_without_wait),
        Mnemonic::Wait => Op::new(control::wait),
        _ => return None,
    })
}

/// FXSAVE, XSAVE and their relatives.
fn saving(instruction: &Instruction, context: &Context) -> Option<Op> {
    let memory = |exec: Exec, imm| operation(instruction, context, exec, imm);
    let wide = xsave::WIDE_POINTERS;
    Some(match instruction.mnemonic() {
        Mnemonic::Fxsave => memory(xsave::fxsave, 0),
        Mnemonic::Fxsave64 => memory(xsave::fxsave, wide),
        Mnemonic::Fxrstor => memory(xsave::fxrstor, 0),
        Mnemonic::Fxrstor64 => memory(xsave::fxrstor, wide),
        Mnemonic::Xsave => memory(xsave::xsave, 0),
        Mnemonic::Xsave64 => memory(xsave::xsave, wide),
        Mnemonic::Xsaveopt => memory(xsave::xsaveopt, 0),
        Mnemonic::Xsaveopt64 => memory(xsave::xsaveopt, wide),
        Mnemonic::Xsavec => memory(xsave::xsavec, 0),
        Mnemonic::Xsavec64 => memory(xsave::xsavec, wide),
        Mnemonic::Xrstor => memory(xsave::xrstor, 0),
        Mnemonic::Xrstor64 => memory(xsave::xrstor, wide),
        Mnemonic::Ldmxcsr => memory(xsave::ldmxcsr, 0),
        Mnemonic::Stmxcsr => memory(xsave::stmxcsr, 0),
        _ => return None,
    })
}
