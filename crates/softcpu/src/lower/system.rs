//! System instructions: segments, far transfers, control registers, ports, flags that privilege guards.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpKind, Register};

use super::string::{repetition, string_mode};
use super::{Context, by_width, number, operand_bits, segment_index, set_memory, with_memory};
use crate::exec::{control, inform, io, privilege, segments, system, tables, transfer};
use crate::op::{Exec, Op};
use crate::state::Seg;

/// Lowers the instructions of this family.
pub(super) fn lower(i: &Instruction, context: &Context) -> Option<Op> {
    Some(match i.mnemonic() {
        M::Mov => special_move(i, context)?,
        M::Push => {
            let bits = i.stack_pointer_increment().unsigned_abs() * 8;
            with_a(
                by_width!(bits, segments::push),
                segment_index(i.op0_register()),
            )
        }
        M::Pop => {
            let bits = i.stack_pointer_increment().unsigned_abs() * 8;
            let seg = segment_index(i.op0_register());
            if seg == Seg::Cs as u8 {
                return None;
            }
            with_a(by_width!(bits, segments::pop), seg)
        }
        M::Lds => load_pointer(i, context, Seg::Ds),
        M::Les => load_pointer(i, context, Seg::Es),
        M::Lss => load_pointer(i, context, Seg::Ss),
        M::Lfs => load_pointer(i, context, Seg::Fs),
        M::Lgs => load_pointer(i, context, Seg::Gs),
        M::Rdfsbase => base(
            by_width!(operand_bits(i, 0), segments::read_base),
            i,
            Seg::Fs,
        ),
        M::Rdgsbase => base(
            by_width!(operand_bits(i, 0), segments::read_base),
            i,
            Seg::Gs,
        ),
        M::Wrfsbase => base(
            by_width!(operand_bits(i, 0), segments::write_base),
            i,
            Seg::Fs,
        ),
        M::Wrgsbase => base(
            by_width!(operand_bits(i, 0), segments::write_base),
            i,
            Seg::Gs,
        ),
        M::Swapgs => Op::new(segments::swap_gs),

        M::Jmp if i.is_jmp_far() => {
            far_immediate(i, by_width!(far_bits(i), transfer::jump_immediate))
        }
        M::Call if i.is_call_far() => {
            far_immediate(i, by_width!(far_bits(i), transfer::call_immediate))
        }
        M::Jmp => with_memory(by_width!(far_bits(i), transfer::jump_memory), i, context),
        M::Call => with_memory(by_width!(far_bits(i), transfer::call_memory), i, context),
        M::Retf => {
            let bits = match i.code() {
                Code::Retfw | Code::Retfw_imm16 => 16,
                Code::Retfd | Code::Retfd_imm16 => 32,
                _ => 64,
            };
            let release = if i.op_count() == 1 {
                u64::from(i.immediate16())
            } else {
                0
            };
            with_imm(by_width!(bits, transfer::far_return), release)
        }
        M::Iret => Op::new(transfer::interrupt_return::<u16>),
        M::Iretd => Op::new(transfer::interrupt_return::<u32>),
        M::Iretq => Op::new(transfer::interrupt_return::<u64>),
        M::Int => with_imm(transfer::interrupt, u64::from(i.immediate8())),
        M::Int3 => Op::new(transfer::breakpoint),
        M::Into => Op::new(transfer::overflow),
        M::Int1 => Op::new(transfer::debug_trap),
        M::Bound => {
            let mut op = with_memory(by_width!(operand_bits(i, 0), transfer::bound), i, context);
            op.a = number(i.op0_register());
            op
        }

        M::Syscall => Op::new(privilege::system_call),
        M::Sysret => with_imm(privilege::system_return, 0),
        M::Sysretq => with_imm(privilege::system_return, 1),
        M::Sysenter => Op::new(privilege::system_enter),
        M::Sysexit | M::Sysexitq => Op::new(privilege::system_exit),
        M::Cli => Op::new(privilege::clear_interrupts),
        M::Sti => Op::new(privilege::set_interrupts),
        M::Pushf => Op::new(privilege::push_flags::<u16>),
        M::Pushfd => Op::new(privilege::push_flags::<u32>),
        M::Pushfq => Op::new(privilege::push_flags::<u64>),
        M::Popf => Op::new(privilege::pop_flags::<u16>),
        M::Popfd => Op::new(privilege::pop_flags::<u32>),
        M::Popfq => Op::new(privilege::pop_flags::<u64>),
        M::Clac => with_imm(privilege::access_flag, 0),
        M::Stac => with_imm(privilege::access_flag, 1),

        M::Lgdt => table(tables::load_table, i, context, tables::GDT),
        M::Lidt => table(tables::load_table, i, context, tables::IDT),
        M::Sgdt => table(tables::store_table, i, context, tables::GDT),
        M::Sidt => table(tables::store_table, i, context, tables::IDT),
        M::Lldt => load_system_segment(i, context, 0),
        M::Ltr => load_system_segment(i, context, 1),
        M::Sldt => store_status(i, context, 0),
        M::Str => store_status(i, context, 1),
        M::Smsw => store_status(i, context, 2),
        M::Lar => selector_query(
            by_width!(operand_bits(i, 0), tables::load_access_rights),
            i,
            context,
            1,
            0,
        ),
        M::Lsl => selector_query(
            by_width!(operand_bits(i, 0), tables::load_segment_limit),
            i,
            context,
            1,
            0,
        ),
        M::Verr => selector_query(tables::verify, i, context, 0, 0),
        M::Verw => selector_query(tables::verify, i, context, 0, 1),
        M::Arpl => {
            let mut op = reg_or_mem(
                tables::adjust_level_reg,
                tables::adjust_level_mem,
                i,
                context,
            );
            op.b = number(i.op1_register());
            op
        }

        M::Lmsw => reg_or_mem(
            system::load_status_word_reg,
            system::load_status_word_mem,
            i,
            context,
        ),
        M::Clts => Op::new(system::clear_task_switched),
        M::Invlpg => with_memory(system::invalidate_page, i, context),
        M::Invpcid => {
            let mut op = with_memory(system::invalidate_context, i, context);
            op.a = number(i.op0_register());
            op
        }
        M::Invd | M::Wbinvd => Op::new(system::invalidate_caches),
        M::Hlt => Op::new(system::halt),
        M::Xgetbv => Op::new(system::read_extended),
        M::Xsetbv => Op::new(system::write_extended),

        M::Cpuid => Op::new(inform::identify),
        M::Rdtsc => with_imm(inform::read_time_stamp, 0),
        M::Rdtscp => with_imm(inform::read_time_stamp, 1),
        M::Rdpmc => Op::new(inform::read_counter),
        M::Rdrand | M::Rdseed => with_a(
            by_width!(operand_bits(i, 0), inform::random),
            number(i.op0_register()),
        ),
        M::Rdmsr => Op::new(inform::read_msr),
        M::Wrmsr => Op::new(inform::write_msr),

        M::In => port(by_width!(operand_bits(i, 0), io::input), i, 1),
        M::Out => port(by_width!(operand_bits(i, 1), io::output), i, 0),
        M::Insb => string(io::input_string::<u8>, i, context),
        M::Insw => string(io::input_string::<u16>, i, context),
        M::Insd => string(io::input_string::<u32>, i, context),
        M::Outsb => string(io::output_string::<u8>, i, context),
        M::Outsw => string(io::output_string::<u16>, i, context),
        M::Outsd => string(io::output_string::<u32>, i, context),

        // Bounds checking is not there; its encodings are then multi-byte NOPs.
        M::Bndcl | M::Bndcn | M::Bndcu | M::Bndldx | M::Bndmk | M::Bndmov | M::Bndstx => {
            Op::new(control::nop)
        }
        _ => return None,
    })
}

/// Whether instructions with this mnemonic may change what the next one's lowering depends on, or end
/// the block anyway.
pub(super) fn changes_context(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Hlt
            | M::Sti
            | M::Lmsw
            | M::Invlpg
            | M::Invpcid
            | M::Wrmsr
            | M::Xsetbv
            | M::Lss
            | M::Int
            | M::Int1
            | M::Int3
            | M::Syscall
            | M::Sysret
            | M::Sysretq
            | M::Sysenter
            | M::Sysexit
            | M::Sysexitq
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
    )
}

fn with_imm(exec: Exec, imm: u64) -> Op {
    Op {
        imm,
        ..Op::new(exec)
    }
}

fn with_a(exec: Exec, a: u8) -> Op {
    Op { a, ..Op::new(exec) }
}

/// MOV to segment registers, to and from control and debug registers.
fn special_move(i: &Instruction, context: &Context) -> Option<Op> {
    let (target, source) = (i.op0_register(), i.op1_register());
    if i.op0_kind() == OpKind::Register && target.is_segment_register() {
        if target == Register::CS {
            return None;
        }
        let mut op = if i.op1_kind() == OpKind::Register {
            Op {
                b: number(source),
                ..Op::new(segments::move_reg)
            }
        } else {
            with_memory(segments::move_mem, i, context)
        };
        op.a = segment_index(target);
        return Some(op);
    }
    let exec: Exec = if target.is_cr() {
        system::write_control
    } else if source.is_cr() {
        system::read_control
    } else if target.is_dr() {
        system::write_debug
    } else if source.is_dr() {
        system::read_debug
    } else {
        return None;
    };
    Some(Op {
        a: number(target),
        b: number(source),
        ..Op::new(exec)
    })
}

fn load_pointer(i: &Instruction, context: &Context, seg: Seg) -> Op {
    let mut op = with_memory(
        by_width!(operand_bits(i, 0), segments::load_pointer),
        i,
        context,
    );
    op.a = seg as u8;
    op.b = number(i.op0_register());
    op
}

fn base(exec: Exec, i: &Instruction, seg: Seg) -> Op {
    Op {
        a: seg as u8,
        b: number(i.op0_register()),
        ..Op::new(exec)
    }
}

/// Width of the offset of a far pointer.
fn far_bits(i: &Instruction) -> u32 {
    match i.op0_kind() {
        OpKind::FarBranch16 => 16,
        OpKind::FarBranch32 => 32,
        _ => match i.memory_size() {
            MemorySize::SegPtr16 => 16,
            MemorySize::SegPtr32 => 32,
            _ => 64,
        },
    }
}

fn far_immediate(i: &Instruction, exec: Exec) -> Op {
    let offset = match i.op0_kind() {
        OpKind::FarBranch16 => u64::from(i.far_branch16()),
        _ => u64::from(i.far_branch32()),
    };
    Op {
        imm: offset,
        disp: i64::from(i.far_branch_selector()),
        ..Op::new(exec)
    }
}

/// The first operand is a register (number in `a`) or memory.
fn reg_or_mem(register: Exec, memory: Exec, i: &Instruction, context: &Context) -> Op {
    if i.op0_kind() == OpKind::Register {
        with_a(register, number(i.op0_register()))
    } else {
        with_memory(memory, i, context)
    }
}

fn table(exec: Exec, i: &Instruction, context: &Context, which: u8) -> Op {
    let mut op = with_memory(exec, i, context);
    op.a = which;
    op.imm = match i.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 16,
        _ => 32,
    };
    op
}

fn load_system_segment(i: &Instruction, context: &Context, which: u64) -> Op {
    let mut op = reg_or_mem(
        tables::load_system_segment_reg,
        tables::load_system_segment_mem,
        i,
        context,
    );
    op.imm = which;
    op
}

fn store_status(i: &Instruction, context: &Context, which: u64) -> Op {
    let mut op = if i.op0_kind() == OpKind::Register {
        with_a(
            by_width!(operand_bits(i, 0), tables::store_status_reg),
            number(i.op0_register()),
        )
    } else {
        with_memory(tables::store_status_mem, i, context)
    };
    op.imm = which;
    op
}

/// LAR, LSL (selector is operand 1), VERR, VERW (operand 0).
fn selector_query(exec: Exec, i: &Instruction, context: &Context, operand: u32, imm: u64) -> Op {
    let mut op = with_imm(exec, imm);
    if i.op_kind(operand) == OpKind::Register {
        op.b = number(i.op_register(operand));
    } else {
        set_memory(&mut op, i, context);
        op.imm |= tables::FROM_MEMORY;
    }
    if operand == 1 {
        op.a = number(i.op0_register());
    }
    op
}

/// IN and OUT; operand `port` is the port.
fn port(exec: Exec, i: &Instruction, port: u32) -> Op {
    let imm = if i.op_kind(port) == OpKind::Register {
        io::PORT_IN_DX
    } else {
        u64::from(i.immediate8())
    };
    with_imm(exec, imm)
}

fn string(exec: Exec, i: &Instruction, context: &Context) -> Op {
    let mut op = with_a(exec, repetition(i));
    op.mode = string_mode(i, context);
    op
}
