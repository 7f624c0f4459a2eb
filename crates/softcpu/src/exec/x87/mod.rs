//! x87 instructions, on the arithmetic of [`crate::softfloat::x87`].
//!
//! This file: the register stack, exceptions, and what each instruction does first. `arithmetic`: operations with one
//! result in place. `transfer`: loads, stores, constants, exchanges. `compare`. `function`: transcendental functions
//! and others with a shape of their own. `control`: control word, status word, environment, state.
//!
//! Where processors differ, this one does as AMD's do: comparisons set their codes even when an exception is not
//! masked, FCMOVcc and FCOMI leave C1 alone. The last opcode (FOP) is kept for instructions that leave an exception
//! pending. Not modelled: FERR# (CR0.NE clear); no exception is reported then.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::Op;
use crate::softfloat::env::{ALL, IE};
use crate::softfloat::f80::F80;
use crate::softfloat::x87::Environment;
use crate::state::fpu::{Fpu, St};
use crate::state::{Seg, cr0};

pub(crate) mod arithmetic;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod function;
pub(crate) mod transfer;

/// Stack fault, with IE.
const SF: u16 = 1 << 6;
/// Exception summary: one is not masked.
pub(crate) const ES: u16 = 1 << 7;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const TOP: u16 = 7 << 11;
const TOP_SHIFT: u32 = 11;
const C3: u16 = 1 << 14;
/// Busy: a copy of ES.
const BUSY: u16 = 1 << 15;
const CODES: u16 = C0 | C1 | C2 | C3;
const FLAGS: u16 = ALL as u16;

impl Fpu {
    /// Physical register that is ST(`index`).
    #[inline(always)]
    fn slot(&self, index: u8) -> usize {
        usize::from(self.top().wrapping_add(index) & 7)
    }

    #[inline(always)]
    fn is_empty(&self, index: u8) -> bool {
        self.occupied >> self.slot(index) & 1 == 0
    }

    #[inline(always)]
    fn st(&self, index: u8) -> F80 {
        let St {
            significand,
            sign_exponent,
        } = self.registers[self.slot(index)];
        F80::new(sign_exponent, significand)
    }

    /// Sets ST(`index`), which is then not empty.
    #[inline(always)]
    fn set_st(&mut self, index: u8, value: F80) {
        let slot = self.slot(index);
        let F80 {
            significand,
            sign_exponent,
        } = value;
        self.registers[slot] = St {
            significand,
            sign_exponent,
        };
        self.occupied |= 1 << slot;
    }

    #[inline(always)]
    fn set_top(&mut self, top: u8) {
        self.status = self.status & !TOP | u16::from(top & 7) << TOP_SHIFT;
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.occupied &= !(1 << self.slot(0));
        self.set_top(self.top().wrapping_add(1));
    }

    /// Pushes onto a stack whose next register is known to be empty, or may be overwritten.
    #[inline(always)]
    fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.set_st(0, value);
    }

    /// Works out ES and B from flags and masks.
    pub(crate) fn summarise(&mut self) {
        if self.status & !self.control & FLAGS != 0 {
            self.status |= ES | BUSY;
        } else {
            self.status &= !(ES | BUSY);
        }
    }
}

impl Cpu {
    /// What every waiting x87 instruction does first: is the unit there, and is an exception pending?
    #[inline(always)]
    pub(crate) fn require_x87(&mut self) -> Result<(), Trap> {
        let missing = self.control.cr0 & (cr0::EM | cr0::TS);
        if missing == 0 && self.fpu.status & ES == 0 {
            Ok(())
        } else {
            self.refuse_x87()
        }
    }

    /// The same for instructions that do not wait.
    #[inline(always)]
    pub(crate) fn require_x87_without_wait(&mut self) -> Result<(), Trap> {
        if self.control.cr0 & (cr0::EM | cr0::TS) == 0 {
            Ok(())
        } else {
            Err(self.raise(Exception::plain(vector::NO_DEVICE)))
        }
    }

    #[cold]
    fn refuse_x87(&mut self) -> Result<(), Trap> {
        self.require_x87_without_wait()?;
        self.report_x87()
    }

    /// #MF, if an exception is pending and CR0.NE says that it is reported this way.
    pub(crate) fn report_x87(&mut self) -> Result<(), Trap> {
        if self.fpu.status & ES != 0 && self.control.cr0 & cr0::NE != 0 {
            return Err(self.raise(Exception::plain(vector::X87)));
        }
        Ok(())
    }

    /// Records the address of an instruction that is no control instruction.
    #[inline(always)]
    fn note_instruction(&mut self, op: &Op) {
        self.fpu.last_instruction = self.rip.wrapping_add(op.start());
        self.fpu.last_instruction_selector = self.segments[Seg::Cs as usize].selector;
    }

    /// Records the address of the memory operand as well.
    #[inline(always)]
    fn note_operand(&mut self, op: &Op) {
        self.note_instruction(op);
        self.fpu.last_data = self.offset(op);
        self.fpu.last_data_selector = self.segments[op.segment() as usize].selector;
    }

    /// Notes what an operation raised, and C1.
    #[inline(always)]
    fn commit_x87(&mut self, env: &Environment) {
        let up = env.rounded_up && env.stores();
        self.fpu.status = self.fpu.status & !C1 | env.raised as u16 | if up { C1 } else { 0 };
        if env.unmasked() != 0 {
            self.note_unmasked();
        }
    }

    /// An exception is pending from now on.
    #[cold]
    fn note_unmasked(&mut self) {
        self.fpu.status |= ES | BUSY;
        self.fpu.last_opcode = self.opcode().unwrap_or(0);
    }

    /// The opcode of the instruction just noted, as FOP has it: the low three bits of the first byte and the second
    /// byte. Read again from memory, since only a pending exception keeps it.
    fn opcode(&mut self) -> Option<u16> {
        let cs = &self.segments[Seg::Cs as usize];
        let base = if self.is_64_bit() { 0 } else { cs.base };
        let start = base.wrapping_add(self.fpu.last_instruction);
        let mut byte = |at: u64| self.load::<u8>(start.wrapping_add(at), Seg::Cs).ok();
        // Prefixes come first, at most 13.
        for at in 0..14 {
            let first = byte(at)?;
            if first & 0xf8 == 0xd8 {
                return Some(u16::from(first & 7) << 8 | u16::from(byte(at + 1)?));
            }
        }
        None
    }

    /// A stack fault: `code` is C1 for an overflow, 0 for an underflow. Gives whether it is masked, in which case the
    /// instruction goes on with the indefinite value.
    #[cold]
    fn stack_fault(&mut self, code: u16) -> bool {
        self.fpu.status = self.fpu.status & !C1 | code | SF | IE as u16;
        let masked = self.fpu.control & IE as u16 != 0;
        if !masked {
            self.note_unmasked();
        }
        masked
    }

    #[cold]
    fn stack_underflow(&mut self) -> bool {
        self.stack_fault(0)
    }

    #[cold]
    fn stack_overflow(&mut self) -> bool {
        self.stack_fault(C1)
    }

    /// A fresh environment for one operation.
    #[inline(always)]
    fn environment(&self) -> Environment {
        Environment::new(self.fpu.control)
    }
}
