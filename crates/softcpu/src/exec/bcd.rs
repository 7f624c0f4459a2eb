//! AAA, AAD, AAM, AAS, DAA, DAS: decimal arithmetic, not in 64-bit mode.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::{Flow, Op};
use crate::state::registers::{AH, RAX};
use crate::state::{Width, flags};

/// AAA (`imm` 0) and AAS (`imm` 1).
pub(crate) fn adjust_unpacked(cpu: &mut Cpu, op: &Op) -> Flow {
    let al = u8::get(&cpu.regs, RAX);
    let adjust = al & 15 > 9 || cpu.flags.auxiliary();
    if adjust {
        let ax = u16::get(&cpu.regs, RAX);
        let ax = if op.imm == 0 {
            ax.wrapping_add(0x106)
        } else {
            ax.wrapping_sub(0x106)
        };
        ax.set(&mut cpu.regs, RAX);
    }
    let al = u8::get(&cpu.regs, RAX) & 15;
    al.set(&mut cpu.regs, RAX);
    cpu.flags.after_logic(al);
    set_carries(cpu, adjust, adjust);
    Flow::Next
}

/// DAA (`imm` 0) and DAS (`imm` 1).
pub(crate) fn adjust_packed(cpu: &mut Cpu, op: &Op) -> Flow {
    let old = u8::get(&cpu.regs, RAX);
    let old_carry = cpu.flags.carry();
    let subtract = op.imm != 0;
    let step = |value: u8, by: u8| {
        if subtract {
            value.wrapping_sub(by)
        } else {
            value.wrapping_add(by)
        }
    };
    let mut al = old;
    let mut carry = false;
    let auxiliary = old & 15 > 9 || cpu.flags.auxiliary();
    if auxiliary {
        al = step(al, 6);
        carry = old_carry || if subtract { old < 6 } else { old > 0xf9 };
    }
    if old > 0x99 || old_carry {
        al = step(al, 0x60);
        carry = true;
    }
    al.set(&mut cpu.regs, RAX);
    cpu.flags.after_logic(al);
    set_carries(cpu, carry, auxiliary);
    Flow::Next
}

/// AAM by `imm`.
pub(crate) fn split(cpu: &mut Cpu, op: &Op) -> Flow {
    let base = op.imm as u8;
    let al = u8::get(&cpu.regs, RAX);
    let Some(high) = al.checked_div(base) else {
        let Trap = cpu.raise(Exception::plain(vector::DIVIDE));
        return Flow::Fault;
    };
    high.set(&mut cpu.regs, AH);
    let low = al % base;
    low.set(&mut cpu.regs, RAX);
    cpu.flags.after_logic(low);
    Flow::Next
}

/// AAD by `imm`.
pub(crate) fn join(cpu: &mut Cpu, op: &Op) -> Flow {
    let (al, ah) = (u8::get(&cpu.regs, RAX), u8::get(&cpu.regs, AH));
    let value = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    u16::from(value).set(&mut cpu.regs, RAX);
    cpu.flags.after_logic(value);
    Flow::Next
}

/// SALC: AL is all ones if CF, else zero.
pub(crate) fn spread_carry(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value: u8 = if cpu.flags.carry() { 0xff } else { 0 };
    value.set(&mut cpu.regs, RAX);
    Flow::Next
}

fn set_carries(cpu: &mut Cpu, carry: bool, auxiliary: bool) {
    let mut status = cpu.flags.status() & !(flags::CF | flags::AF);
    if carry {
        status |= flags::CF;
    }
    if auxiliary {
        status |= flags::AF;
    }
    cpu.flags.set_status(status);
}
