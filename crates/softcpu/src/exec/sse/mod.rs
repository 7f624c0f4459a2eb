//! SSE to SSE4.2, AES and PCLMULQDQ on XMM registers; [`super::mmx`] shares what both register files can do.
//!
//! * `lanes`: vectors as lanes. `integer`, `arrange`, `shift`: integer operations as types, which the functions here
//!   turn into register and memory forms. `moves`: data movement.
//! * `float`, `convert`: floating point through [`crate::softfloat::sse`].
//! * `text`: PCMPxSTRx. `crypto`: AES, PCLMULQDQ, CRC32.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::state::{cr0, cr4};
use crate::tri;

pub(crate) mod arrange;
pub(crate) mod convert;
pub(crate) mod crypto;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod lanes;
pub(crate) mod moves;
pub(crate) mod shift;
pub(crate) mod text;

/// A function of two XMM operands, the first of which it replaces.
pub(crate) trait Xmm {
    /// The new value of the first operand.
    fn xmm(a: u128, b: u128) -> u128;
}

/// A function of two XMM operands and an immediate byte.
pub(crate) trait XmmImmediate {
    /// The new value of the first operand.
    fn xmm(a: u128, b: u128, immediate: u8) -> u128;
}

impl Cpu {
    /// Raises what an instruction on XMM registers raises when the system has not enabled them.
    #[inline(always)]
    pub(crate) fn require_sse(&mut self) -> Result<(), Trap> {
        let missing = self.control.cr0 & (cr0::EM | cr0::TS) | !self.control.cr4 & cr4::OSFXSR;
        if missing == 0 {
            Ok(())
        } else {
            Err(self.refuse_sse())
        }
    }

    /// SDM vol. 3A, table 13-1.
    #[cold]
    fn refuse_sse(&mut self) -> Trap {
        let disabled = self.control.cr0 & cr0::EM != 0 || self.control.cr4 & cr4::OSFXSR == 0;
        self.raise(if disabled {
            Exception::invalid_opcode()
        } else {
            Exception::plain(vector::NO_DEVICE)
        })
    }

    #[inline(always)]
    pub(crate) fn xmm(&self, index: u8) -> u128 {
        self.fpu.xmm[usize::from(index & 15)]
    }

    #[inline(always)]
    pub(crate) fn set_xmm(&mut self, index: u8, value: u128) {
        self.fpu.xmm[usize::from(index & 15)] = value;
    }

    /// Linear address of a 16-byte operand that has to be aligned.
    #[inline(always)]
    fn aligned(&mut self, op: &Op, intent: Intent) -> Result<u64, Trap> {
        self.linear_aligned(op, 16, 16, intent)
    }

    /// Linear address of an operand of `size` bytes that has to be a multiple of `align`.
    #[inline(always)]
    pub(crate) fn linear_aligned(
        &mut self,
        op: &Op,
        size: u64,
        align: u64,
        intent: Intent,
    ) -> Result<u64, Trap> {
        match self.linear(op, size, intent) {
            Ok(linear) if linear & (align - 1) == 0 => Ok(linear),
            Ok(_) => Err(self.misaligned()),
            Err(trap) => Err(self.misaligned_beyond_limit(op, align, trap)),
        }
    }

    /// An operand that the segment does not allow. When it is misaligned as well, that counts: #GP, not #SS.
    #[cold]
    fn misaligned_beyond_limit(&mut self, op: &Op, align: u64, trap: Trap) -> Trap {
        let base = self.segments[op.segment() as usize].base;
        if base.wrapping_add(self.offset(op)) & (align - 1) == 0 {
            trap
        } else {
            self.misaligned()
        }
    }

    #[cold]
    fn misaligned(&mut self) -> Trap {
        self.raise(Exception::protection(0))
    }

    /// Loads a 16-byte operand that has to be aligned.
    #[inline(always)]
    pub(crate) fn load_aligned(&mut self, op: &Op) -> Result<u128, Trap> {
        let linear = self.aligned(op, Intent::Load)?;
        self.load_16(linear, op.segment())
    }

    /// Loads a 16-byte operand.
    #[inline(always)]
    pub(crate) fn load_unaligned(&mut self, op: &Op) -> Result<u128, Trap> {
        let linear = self.linear(op, 16, Intent::Load)?;
        self.load_16(linear, op.segment())
    }

    /// Stores a 16-byte operand that has to be aligned.
    #[inline(always)]
    pub(crate) fn store_aligned(&mut self, op: &Op, value: u128) -> Result<(), Trap> {
        let linear = self.aligned(op, Intent::Store)?;
        self.store_16(linear, value, op.segment())
    }

    /// Stores a 16-byte operand.
    #[inline(always)]
    pub(crate) fn store_unaligned(&mut self, op: &Op, value: u128) -> Result<(), Trap> {
        let linear = self.linear(op, 16, Intent::Store)?;
        self.store_16(linear, value, op.segment())
    }
}

/// XMM with XMM.
pub(crate) fn reg<O: Xmm>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = O::xmm(cpu.xmm(op.a), cpu.xmm(op.b));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// XMM with memory.
pub(crate) fn mem<O: Xmm>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_aligned(op));
    let value = O::xmm(cpu.xmm(op.a), b);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// XMM with XMM and an immediate.
pub(crate) fn reg_imm<O: XmmImmediate>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = O::xmm(cpu.xmm(op.a), cpu.xmm(op.b), op.imm as u8);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// XMM with memory and an immediate.
pub(crate) fn mem_imm<O: XmmImmediate>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_aligned(op));
    let value = O::xmm(cpu.xmm(op.a), b, op.imm as u8);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Package, PackageConfig, TimeBase, seeded_random};
    use std::sync::Arc;
    use vm_types::{Clock, GuestMemory};

    const UNDEFINED: u8 = vector::INVALID_OPCODE;

    fn cpu(cr0: u64, cr4: u64) -> Cpu {
        let config = PackageConfig {
            cpus: 1,
            memory: GuestMemory::flat(0x1000).unwrap(),
            bus: Arc::new(crate::bus::NoBus),
            clock: Clock::manual().0,
            time_base: TimeBase::Instructions,
            tsc_hz: 1_000_000_000,
            apic_hz: 1_000_000_000,
            random: seeded_random,
            random_seed: 1,
        };
        let (_, cpus) = Package::new(&config);
        let mut cpu = cpus.into_iter().next().unwrap();
        cpu.control.cr0 = cr0 | cr0::PE | cr0::NE;
        cpu.control.cr4 = cr4;
        cpu
    }

    /// Vector that each of an SSE, an MMX and an x87 instruction, FWAIT, FXSAVE and XSAVE raises.
    fn raised(cr0: u64, cr4: u64) -> [Option<u8>; 6] {
        use crate::exec::{mmx, x87, xsave};
        let instructions: [crate::op::Exec; 6] = [
            reg::<integer::Pxor>,
            mmx::reg::<integer::Pxor>,
            x87::control::nothing,
            x87::control::wait,
            xsave::fxsave,
            xsave::xsave,
        ];
        instructions.map(|exec| {
            let mut cpu = cpu(cr0, cr4);
            let mut op = Op::new(exec);
            // Base register ZERO plus a displacement: aligned, and inside memory.
            op.disp = 0x400;
            match exec(&mut cpu, &op) {
                Flow::Fault => Some(cpu.fault.vector),
                _ => None,
            }
        })
    }

    #[test]
    fn control_registers_decide_which_unit_is_there() {
        const NM: Option<u8> = Some(vector::NO_DEVICE);
        const UD: Option<u8> = Some(UNDEFINED);
        let all = cr4::OSFXSR | cr4::OSXSAVE;
        // SDM vol. 3A, tables 2-2, 12-1 and 13-1; vol. 2A, FXSAVE; vol. 2D, XSAVE.
        assert_eq!(raised(0, all), [None; 6]);
        assert_eq!(raised(0, 0), [UD, None, None, None, None, UD]);
        assert_eq!(raised(cr0::TS, all), [NM, NM, NM, None, NM, NM]);
        assert_eq!(raised(cr0::TS | cr0::MP, all), [NM, NM, NM, NM, NM, NM]);
        assert_eq!(raised(cr0::MP, all), [None; 6]);
        assert_eq!(raised(cr0::EM, all), [UD, UD, NM, None, NM, None]);
        assert_eq!(raised(cr0::EM | cr0::TS, all), [UD, UD, NM, None, NM, NM]);
    }

    #[test]
    fn a_pending_x87_exception_stops_mmx_but_not_sse() {
        let mut cpu = cpu(0, cr4::OSFXSR);
        cpu.fpu.control = 0x37e;
        cpu.fpu.status = 1;
        cpu.fpu.summarise();
        let op = Op::new(crate::exec::mmx::reg::<integer::Pxor>);
        assert_eq!((op.exec)(&mut cpu, &op), Flow::Fault);
        assert_eq!(cpu.fault.vector, vector::X87);
        let op = Op::new(reg::<integer::Pxor>);
        assert_eq!((op.exec)(&mut cpu, &op), Flow::Next);
    }
}
