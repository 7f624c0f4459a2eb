//! A stack that control transfers push to and pop from: the current one, or the one of an inner level
//! that is not yet in SS.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::state::registers::RSP;
use crate::state::{Seg, Segment};

/// A stack pointer with its segment. Nothing of it is in the registers until [`Stack::commit`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    segment: Segment,
    /// 16, 32 or 64 ones.
    mask: u64,
    /// No segmentation: 64-bit mode.
    flat: bool,
    /// Whole register; only the bits of `mask` move.
    pointer: u64,
    /// Error code of a stack fault.
    code: u32,
}

impl Stack {
    /// The one in SS:RSP.
    pub(crate) fn current(cpu: &Cpu) -> Self {
        Self {
            segment: cpu.segments[Seg::Ss as usize],
            mask: cpu.stack_mask(),
            flat: cpu.is_64_bit(),
            pointer: cpu.regs.read(RSP),
            code: 0,
        }
    }

    /// One of a segment about to be loaded; stack faults carry its selector.
    pub(crate) fn in_segment(segment: Segment, pointer: u64) -> Self {
        Self {
            segment,
            mask: if segment.has(Segment::BIG) {
                0xffff_ffff
            } else {
                0xffff
            },
            flat: false,
            pointer,
            code: u32::from(segment.selector & 0xfffc),
        }
    }

    /// One in 64-bit mode.
    pub(crate) fn flat(pointer: u64) -> Self {
        Self {
            segment: Segment::default(),
            mask: u64::MAX,
            flat: true,
            pointer,
            code: 0,
        }
    }

    /// Pushes the low `size` (2, 4 or 8) bytes of `value`.
    pub(crate) fn push(&mut self, cpu: &mut Cpu, size: u64, value: u64) -> Result<(), Trap> {
        let offset = self.pointer.wrapping_sub(size) & self.mask;
        let linear = self.linear(cpu, offset, size)?;
        match size {
            2 => cpu.store::<u16>(linear, value as u16, Seg::Ss)?,
            4 => cpu.store::<u32>(linear, value as u32, Seg::Ss)?,
            _ => cpu.store::<u64>(linear, value, Seg::Ss)?,
        }
        self.set(offset);
        Ok(())
    }

    /// Pops `size` (2, 4 or 8) bytes.
    pub(crate) fn pop(&mut self, cpu: &mut Cpu, size: u64) -> Result<u64, Trap> {
        let offset = self.pointer & self.mask;
        let linear = self.linear(cpu, offset, size)?;
        let value = match size {
            2 => cpu.load::<u16>(linear, Seg::Ss)?.into(),
            4 => cpu.load::<u32>(linear, Seg::Ss)?.into(),
            _ => cpu.load::<u64>(linear, Seg::Ss)?,
        };
        self.set(offset.wrapping_add(size));
        Ok(value)
    }

    /// The value `distance` bytes above the pointer, without popping.
    pub(crate) fn peek(&self, cpu: &mut Cpu, distance: u64, size: u64) -> Result<u64, Trap> {
        let mut copy = *self;
        copy.drop_bytes(distance);
        copy.pop(cpu, size)
    }

    /// Moves the pointer up by `bytes`.
    pub(crate) fn drop_bytes(&mut self, bytes: u64) {
        self.set(self.pointer.wrapping_add(bytes));
    }

    /// Writes the pointer to RSP.
    pub(crate) fn commit(&self, cpu: &mut Cpu) {
        cpu.regs.write(RSP, self.pointer);
    }

    fn set(&mut self, offset: u64) {
        self.pointer = match self.mask {
            0xffff => self.pointer & !0xffff | offset & 0xffff,
            mask => offset & mask,
        };
    }

    fn linear(&self, cpu: &mut Cpu, offset: u64, size: u64) -> Result<u64, Trap> {
        if self.flat {
            return Ok(offset);
        }
        let limit = u64::from(self.segment.limit);
        let last = offset + (size - 1);
        let down =
            !self.segment.has(Segment::CODE) && self.segment.has(Segment::CONFORMING_OR_DOWN);
        let inside = if down {
            offset > limit && last <= self.mask
        } else {
            last <= limit
        };
        if inside && self.segment.has(Segment::PRESENT) {
            Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            Err(cpu.raise(Exception::coded(vector::STACK, self.code)))
        }
    }
}
