//! Integer arithmetic, moves, shifts, bits, stack: everything without memory management or branches.

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

use super::{
    Context, Form, by_width, condition, form, number, operand_bits, segment_index, set_memory,
    with_form, with_memory,
};
use crate::exec::{alu, atomics, bcd, bits, control, moves, muldiv, shift, stack};
use crate::op::{Exec, Op};
use crate::state::flags;

/// Lowers the instructions of this family.
pub(super) fn lower(i: &Instruction, context: &Context) -> Option<Op> {
    Some(match i.mnemonic() {
        M::Add => binary::<alu::Add>(i, context)?,
        M::Or => binary::<alu::Or>(i, context)?,
        M::Adc => binary::<alu::Adc>(i, context)?,
        M::Sbb => binary::<alu::Sbb>(i, context)?,
        M::And => binary::<alu::And>(i, context)?,
        M::Sub => binary::<alu::Sub>(i, context)?,
        M::Xor => binary::<alu::Xor>(i, context)?,
        M::Cmp => binary::<alu::Cmp>(i, context)?,
        M::Test => binary::<alu::Test>(i, context)?,
        M::Inc => unary::<alu::Inc>(i, context),
        M::Dec => unary::<alu::Dec>(i, context),
        M::Neg => unary::<alu::Neg>(i, context),
        M::Not => unary::<alu::Not>(i, context),
        M::Mov => mov(i, context)?,
        M::Movzx => extend(i, context, Extend::Zero),
        M::Movsx | M::Movsxd => extend(i, context, Extend::Sign),
        M::Lea => {
            let mut op = with_memory(by_width!(operand_bits(i, 0), moves::lea), i, context);
            op.a = number(i.op0_register());
            op
        }
        M::Xchg => exchange(i, context)?,
        M::Xadd => locked_form(
            i,
            context,
            by_width!(operand_bits(i, 0), atomics::exchange_add_reg),
            by_width!(operand_bits(i, 0), atomics::exchange_add_mem),
        )?,
        M::Cmpxchg => locked_form(
            i,
            context,
            by_width!(operand_bits(i, 0), atomics::compare_exchange_reg),
            by_width!(operand_bits(i, 0), atomics::compare_exchange_mem),
        )?,
        M::Cmpxchg8b => {
            let mut op = with_memory(atomics::compare_exchange_8, i, context);
            op.imm = u64::from(i.has_lock_prefix());
            op
        }
        M::Cmpxchg16b => with_memory(atomics::compare_exchange_16, i, context),
        M::Push => push(i, context)?,
        M::Pop => pop(i, context)?,
        M::Pusha => Op::new(stack::push_all::<u16>),
        M::Pushad => Op::new(stack::push_all::<u32>),
        M::Popa => Op::new(stack::pop_all::<u16>),
        M::Popad => Op::new(stack::pop_all::<u32>),
        M::Leave => Op::new(match i.code() {
            Code::Leavew => stack::leave::<u16>,
            Code::Leaved => stack::leave::<u32>,
            _ => stack::leave::<u64>,
        }),
        M::Enter => enter(i),
        M::Mul => single(
            i,
            context,
            by_width!(operand_bits(i, 0), muldiv::mul_reg),
            by_width!(operand_bits(i, 0), muldiv::mul_mem),
        ),
        M::Div => single(
            i,
            context,
            by_width!(operand_bits(i, 0), muldiv::div_reg),
            by_width!(operand_bits(i, 0), muldiv::div_mem),
        ),
        M::Idiv => single(
            i,
            context,
            by_width!(operand_bits(i, 0), muldiv::idiv_reg),
            by_width!(operand_bits(i, 0), muldiv::idiv_mem),
        ),
        M::Imul => imul(i, context)?,
        M::Shl | M::Sal => shifted::<shift::Shl>(i, context)?,
        M::Shr => shifted::<shift::Shr>(i, context)?,
        M::Sar => shifted::<shift::Sar>(i, context)?,
        M::Rol => shifted::<shift::Rol>(i, context)?,
        M::Ror => shifted::<shift::Ror>(i, context)?,
        M::Rcl => shifted::<shift::Rcl>(i, context)?,
        M::Rcr => shifted::<shift::Rcr>(i, context)?,
        M::Shld => double::<shift::Shld>(i, context)?,
        M::Shrd => double::<shift::Shrd>(i, context)?,
        M::Bt => bit::<bits::Look>(i, context)?,
        M::Bts => bit::<bits::Set>(i, context)?,
        M::Btr => bit::<bits::Clear>(i, context)?,
        M::Btc => bit::<bits::Flip>(i, context)?,
        M::Bsf => scan::<bits::Bsf>(i, context)?,
        M::Bsr => scan::<bits::Bsr>(i, context)?,
        M::Tzcnt => scan::<bits::Tzcnt>(i, context)?,
        M::Lzcnt => scan::<bits::Lzcnt>(i, context)?,
        M::Popcnt => scan::<bits::Popcnt>(i, context)?,
        M::Andn => bmi::<bits::Andn>(i, context, BmiOrder::Vector),
        M::Pdep => bmi::<bits::Pdep>(i, context, BmiOrder::Vector),
        M::Pext => bmi::<bits::Pext>(i, context, BmiOrder::Vector),
        M::Bextr => bmi::<bits::Bextr>(i, context, BmiOrder::ControlLast),
        M::Bzhi => bmi::<bits::Bzhi>(i, context, BmiOrder::ControlLast),
        M::Blsi => bmi::<bits::Blsi>(i, context, BmiOrder::Single),
        M::Blsmsk => bmi::<bits::Blsmsk>(i, context, BmiOrder::Single),
        M::Blsr => bmi::<bits::Blsr>(i, context, BmiOrder::Single),
        M::Sarx => plain_shift::<shift::Sarx>(i, context),
        M::Shlx => plain_shift::<shift::Shlx>(i, context),
        M::Shrx => plain_shift::<shift::Shrx>(i, context),
        M::Rorx => rorx(i, context),
        M::Mulx => mulx(i, context),
        M::Bswap => {
            let mut op = Op::new(by_width!(operand_bits(i, 0), moves::swap_bytes));
            op.a = number(i.op0_register());
            op
        }
        M::Movbe => match form(i)? {
            form @ Form::RegMem => with_form(
                by_width!(operand_bits(i, 0), moves::load_swapped),
                form,
                i,
                context,
            ),
            form => with_form(
                by_width!(operand_bits(i, 1), moves::store_swapped),
                form,
                i,
                context,
            ),
        },
        M::Cbw => Op::new(moves::extend_accumulator::<u16>),
        M::Cwde => Op::new(moves::extend_accumulator::<u32>),
        M::Cdqe => Op::new(moves::extend_accumulator::<u64>),
        M::Cwd => Op::new(moves::spread_sign::<u16>),
        M::Cdq => Op::new(moves::spread_sign::<u32>),
        M::Cqo => Op::new(moves::spread_sign::<u64>),
        M::Lahf => Op::new(moves::load_flags),
        M::Sahf => Op::new(moves::store_flags),
        M::Clc => with_imm(moves::carry_flag, 0),
        M::Stc => with_imm(moves::carry_flag, 1),
        M::Cmc => with_imm(moves::carry_flag, 2),
        M::Cld => with_imm(moves::direction_flag, 0),
        M::Std => with_imm(moves::direction_flag, flags::DF),
        M::Xlatb => {
            let mut op = with_memory(moves::translate, i, context);
            // The decoder gives AL as index; the table is addressed by hand.
            op.index = crate::state::registers::ZERO;
            op
        }
        M::Aaa => with_imm(bcd::adjust_unpacked, 0),
        M::Aas => with_imm(bcd::adjust_unpacked, 1),
        M::Daa => with_imm(bcd::adjust_packed, 0),
        M::Das => with_imm(bcd::adjust_packed, 1),
        M::Aam => with_imm(bcd::split, i.immediate(0)),
        M::Aad => with_imm(bcd::join, i.immediate(0)),
        M::Salc => Op::new(bcd::spread_carry),
        M::Nop | M::Endbr32 | M::Endbr64 | M::Reservednop | M::Rdsspd | M::Rdsspq => {
            Op::new(control::nop)
        }
        M::Prefetch
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1 => Op::new(control::nop),
        M::Pause => Op::new(control::pause),
        M::Lfence | M::Sfence => Op::new(control::fence),
        M::Mfence => Op::new(control::full_fence),
        M::Clflush | M::Clflushopt | M::Clwb => with_memory(moves::touch, i, context),
        _ if conditional(i) && i.op_count() == 2 => conditional_move(i, context)?,
        _ if conditional(i) && i.op_count() == 1 => {
            let mut op = single(i, context, moves::set_if_reg, moves::set_if_mem);
            op.imm = u64::from(condition(i));
            op
        }
        _ => return None,
    })
}

/// CMOVcc or SETcc: conditional, and not a branch.
fn conditional(i: &Instruction) -> bool {
    i.condition_code() != ConditionCode::None && i.flow_control() == FlowControl::Next
}

fn with_imm(exec: Exec, imm: u64) -> Op {
    Op {
        imm,
        ..Op::new(exec)
    }
}

fn binary<O: alu::Binary>(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    let form = form(i)?;
    let locked = i.has_lock_prefix();
    let exec = match form {
        Form::RegReg => by_width!(bits, alu::reg_reg, O),
        Form::RegImm => by_width!(bits, alu::reg_imm, O),
        Form::RegMem => by_width!(bits, alu::reg_mem, O),
        Form::MemReg if locked => by_width!(bits, alu::locked_mem_reg, O),
        Form::MemReg => by_width!(bits, alu::mem_reg, O),
        Form::MemImm if locked => by_width!(bits, alu::locked_mem_imm, O),
        Form::MemImm => by_width!(bits, alu::mem_imm, O),
    };
    Some(with_form(exec, form, i, context))
}

fn unary<O: alu::Unary>(i: &Instruction, context: &Context) -> Op {
    let bits = operand_bits(i, 0);
    let memory = if i.has_lock_prefix() {
        by_width!(bits, alu::locked_unary_mem, O)
    } else {
        by_width!(bits, alu::unary_mem, O)
    };
    single(i, context, by_width!(bits, alu::unary_reg, O), memory)
}

/// One operand, register or memory.
fn single(i: &Instruction, context: &Context, register: Exec, memory: Exec) -> Op {
    if i.op0_kind() == OpKind::Register {
        Op {
            a: number(i.op0_register()),
            ..Op::new(register)
        }
    } else {
        with_memory(memory, i, context)
    }
}

/// Register or memory, then a register; `imm` says whether there is a LOCK prefix.
fn locked_form(i: &Instruction, context: &Context, register: Exec, memory: Exec) -> Option<Op> {
    let form = form(i)?;
    let exec = if form == Form::RegReg {
        register
    } else {
        memory
    };
    let mut op = with_form(exec, form, i, context);
    op.imm = u64::from(i.has_lock_prefix());
    Some(op)
}

fn mov(i: &Instruction, context: &Context) -> Option<Op> {
    // Control, debug and segment registers are system matters, but for reading a selector.
    let source = i.op1_register();
    if i.op1_kind() == OpKind::Register && source.is_segment_register() {
        return Some(if i.op0_kind() == OpKind::Register {
            let bits = operand_bits(i, 0);
            let mut op = Op::new(by_width!(bits, moves::reg_from_segment));
            op.a = number(i.op0_register());
            op.b = segment_index(source);
            op
        } else {
            let mut op = with_memory(moves::mem_from_segment, i, context);
            op.b = segment_index(source);
            op
        });
    }
    let special = |register: Register| register != Register::None && !register.is_gpr();
    if special(i.op0_register()) && i.op0_kind() == OpKind::Register
        || special(source) && i.op1_kind() == OpKind::Register
    {
        return None;
    }
    let form = form(i)?;
    let exec = match form {
        Form::RegReg => by_width!(operand_bits(i, 0), moves::reg_reg),
        Form::RegImm => by_width!(operand_bits(i, 0), moves::reg_imm),
        Form::RegMem => by_width!(operand_bits(i, 0), moves::reg_mem),
        Form::MemReg => by_width!(operand_bits(i, 1), moves::mem_reg),
        Form::MemImm => by_width!(operand_bits(i, 0), moves::mem_imm),
    };
    Some(with_form(exec, form, i, context))
}

#[derive(Clone, Copy)]
enum Extend {
    Zero,
    Sign,
}

fn extend(i: &Instruction, context: &Context, kind: Extend) -> Op {
    macro_rules! pick {
        ($from:ty, $to:ty, $reg:ident, $mem:ident) => {
            (
                moves::$reg::<$from, $to> as Exec,
                moves::$mem::<$from, $to> as Exec,
            )
        };
    }
    let (from, to) = (operand_bits(i, 1), operand_bits(i, 0));
    let (register, memory) = match (kind, from, to) {
        (Extend::Zero, 8, 16) => pick!(u8, u16, zero_extend_reg, zero_extend_mem),
        (Extend::Zero, 8, 32) => pick!(u8, u32, zero_extend_reg, zero_extend_mem),
        (Extend::Zero, 8, _) => pick!(u8, u64, zero_extend_reg, zero_extend_mem),
        (Extend::Zero, 16, 16) => pick!(u16, u16, zero_extend_reg, zero_extend_mem),
        (Extend::Zero, 16, 32) => pick!(u16, u32, zero_extend_reg, zero_extend_mem),
        (Extend::Zero, ..) => pick!(u16, u64, zero_extend_reg, zero_extend_mem),
        (Extend::Sign, 8, 16) => pick!(u8, u16, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, 8, 32) => pick!(u8, u32, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, 8, _) => pick!(u8, u64, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, 16, 16) => pick!(u16, u16, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, 16, 32) => pick!(u16, u32, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, 16, _) => pick!(u16, u64, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, _, 16) => pick!(u32, u16, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, _, 32) => pick!(u32, u32, sign_extend_reg, sign_extend_mem),
        (Extend::Sign, ..) => pick!(u32, u64, sign_extend_reg, sign_extend_mem),
    };
    if i.op1_kind() == OpKind::Register {
        with_form(register, Form::RegReg, i, context)
    } else {
        with_form(memory, Form::RegMem, i, context)
    }
}

fn exchange(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    Some(match form(i)? {
        Form::RegReg => with_form(
            by_width!(bits, moves::exchange_reg),
            Form::RegReg,
            i,
            context,
        ),
        Form::RegMem => {
            // The decoder may give the operands in either order; the exchange is the same.
            let mut op = with_memory(by_width!(bits, moves::exchange_mem), i, context);
            op.b = number(i.op0_register());
            op
        }
        _ => {
            let bits = operand_bits(i, 1);
            with_form(
                by_width!(bits, moves::exchange_mem),
                Form::MemReg,
                i,
                context,
            )
        }
    })
}

fn push(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = i.stack_pointer_increment().unsigned_abs() * 8;
    Some(match i.op0_kind() {
        OpKind::Register if i.op0_register().is_segment_register() => return None,
        OpKind::Register => Op {
            a: number(i.op0_register()),
            ..Op::new(by_width!(bits, stack::push_reg))
        },
        OpKind::Memory => with_memory(by_width!(bits, stack::push_mem), i, context),
        _ => with_imm(by_width!(bits, stack::push_imm), i.immediate(0)),
    })
}

fn pop(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = i.stack_pointer_increment().unsigned_abs() * 8;
    Some(match i.op0_kind() {
        OpKind::Register if i.op0_register().is_segment_register() => return None,
        OpKind::Register => Op {
            a: number(i.op0_register()),
            ..Op::new(by_width!(bits, stack::pop_reg))
        },
        _ => with_memory(by_width!(bits, stack::pop_mem), i, context),
    })
}

fn enter(i: &Instruction) -> Op {
    let exec = match i.code() {
        Code::Enterw_imm16_imm8 => stack::enter::<u16> as Exec,
        Code::Enterd_imm16_imm8 => stack::enter::<u32> as Exec,
        _ => stack::enter::<u64> as Exec,
    };
    let mut op = with_imm(exec, u64::from(i.immediate16()));
    op.a = i.immediate8_2nd() & 31;
    op
}

fn imul(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    if i.op_count() == 1 {
        return Some(single(
            i,
            context,
            by_width!(bits, muldiv::imul_reg),
            by_width!(bits, muldiv::imul_mem),
        ));
    }
    let form = form(i)?;
    let three = i.op_count() == 3;
    let exec = match (form, three) {
        (Form::RegReg, false) => by_width!(bits, muldiv::imul_reg_reg),
        (Form::RegReg, true) => by_width!(bits, muldiv::imul_reg_reg_imm),
        (_, false) => by_width!(bits, muldiv::imul_reg_mem),
        (_, true) => by_width!(bits, muldiv::imul_reg_mem_imm),
    };
    let mut op = with_form(exec, form, i, context);
    if three {
        op.imm = i.immediate(2);
    }
    Some(op)
}

fn shifted<S: shift::Shift>(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    let by_register = i.op1_kind() == OpKind::Register;
    if i.op0_kind() == OpKind::Register {
        let mut op = Op::new(by_width!(bits, shift::reg_cl, S));
        op.a = number(i.op0_register());
        if !by_register {
            let count = i.immediate(1) & if bits == 64 { 63 } else { 31 };
            if count == 0 {
                // Nothing but the clearing of the upper half of a 32-bit target.
                op.exec = by_width!(bits, moves::reg_reg);
                op.b = op.a;
            } else {
                op.exec = by_width!(bits, shift::reg_imm, S);
                op.imm = count;
            }
        }
        return Some(op);
    }
    let mut op = with_memory(by_width!(bits, shift::mem_cl, S), i, context);
    if !by_register {
        op.exec = by_width!(bits, shift::mem_imm, S);
        op.imm = i.immediate(1);
    }
    Some(op)
}

fn double<D: shift::Double>(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 1);
    let form = form(i)?;
    let exec = match form {
        Form::RegReg => by_width!(bits, shift::double_reg, D),
        _ => by_width!(bits, shift::double_mem, D),
    };
    let mut op = with_form(exec, form, i, context);
    op.imm = if i.op2_kind() == OpKind::Register {
        u64::MAX
    } else {
        i.immediate(2)
    };
    Some(op)
}

fn bit<B: bits::BitChange>(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    let form = form(i)?;
    let exec = match form {
        Form::RegReg => by_width!(bits, bits::test_reg_reg, B),
        Form::RegImm => by_width!(bits, bits::test_reg_imm, B),
        Form::MemReg => by_width!(operand_bits(i, 1), bits::test_mem_reg, B),
        _ => by_width!(bits, bits::test_mem_imm, B),
    };
    let mut op = with_form(exec, form, i, context);
    let locked = u8::from(i.has_lock_prefix());
    match form {
        Form::MemReg => op.a = locked,
        Form::MemImm => op.b = locked,
        _ => {}
    }
    Some(op)
}

fn scan<S: bits::Scan>(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    let form = form(i)?;
    let exec = match form {
        Form::RegReg => by_width!(bits, bits::scan_reg, S),
        _ => by_width!(bits, bits::scan_mem, S),
    };
    Some(with_form(exec, form, i, context))
}

/// Where a BMI instruction has its operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BmiOrder {
    /// Target, first (register), second (register or memory).
    Vector,
    /// Target, second (register or memory), control (register).
    ControlLast,
    /// Target, source (register or memory).
    Single,
}

fn bmi<B: bits::Bmi>(i: &Instruction, context: &Context, order: BmiOrder) -> Op {
    let bits = operand_bits(i, 0);
    let (first, second) = match order {
        BmiOrder::Vector => (i.op1_register(), 2),
        BmiOrder::ControlLast => (i.op2_register(), 1),
        BmiOrder::Single => (i.op0_register(), 1),
    };
    let mut op = Op::new(by_width!(bits, bits::bmi_reg, B));
    if i.op_kind(second) == OpKind::Register {
        op.imm = u64::from(number(i.op_register(second)));
    } else {
        op.exec = by_width!(bits, bits::bmi_mem, B);
        set_memory(&mut op, i, context);
    }
    op.a = number(i.op0_register());
    op.b = number(first);
    op
}

fn plain_shift<P: shift::Plain>(i: &Instruction, context: &Context) -> Op {
    let bits = operand_bits(i, 0);
    let mut op = Op::new(by_width!(bits, shift::plain_reg, P));
    if i.op1_kind() == OpKind::Register {
        op.b = number(i.op1_register());
    } else {
        op.exec = by_width!(bits, shift::plain_mem, P);
        set_memory(&mut op, i, context);
    }
    op.a = number(i.op0_register());
    op.imm = u64::from(number(i.op2_register()));
    op
}

fn rorx(i: &Instruction, context: &Context) -> Op {
    let bits = operand_bits(i, 0);
    let mut op = Op::new(by_width!(bits, shift::rorx_reg));
    if i.op1_kind() == OpKind::Register {
        op.b = number(i.op1_register());
    } else {
        op.exec = by_width!(bits, shift::rorx_mem);
        set_memory(&mut op, i, context);
    }
    op.a = number(i.op0_register());
    op.imm = i.immediate(2);
    op
}

fn mulx(i: &Instruction, context: &Context) -> Op {
    let bits = operand_bits(i, 0);
    let mut op = Op::new(by_width!(bits, muldiv::mulx_reg));
    if i.op2_kind() == OpKind::Register {
        op.imm = u64::from(number(i.op2_register()));
    } else {
        op.exec = by_width!(bits, muldiv::mulx_mem);
        set_memory(&mut op, i, context);
    }
    op.a = number(i.op0_register());
    op.b = number(i.op1_register());
    op
}

fn conditional_move(i: &Instruction, context: &Context) -> Option<Op> {
    let bits = operand_bits(i, 0);
    let form = form(i)?;
    let exec = match form {
        Form::RegReg => by_width!(bits, moves::move_if_reg),
        _ => by_width!(bits, moves::move_if_mem),
    };
    let mut op = with_form(exec, form, i, context);
    op.imm = u64::from(condition(i));
    Some(op)
}
