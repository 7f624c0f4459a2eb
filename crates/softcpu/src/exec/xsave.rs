//! FXSAVE, FXRSTOR, the XSAVE family for x87 and SSE, LDMXCSR, STMXCSR.
//!
//! Layout: SDM vol. 1, 10.5.1 (legacy area) and 13.4 (header). Only components 0 (x87) and 1 (SSE) exist, and both lie
//! in the legacy area, so the standard and the compacted form differ in the header only.

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::softfloat::sse::{MXCSR_MASK, MXCSR_RESET};
use crate::state::fpu::St;
use crate::state::registers::{RAX, RDX};
use crate::state::{cr0, cr4};
use crate::tri;

/// State component bits.
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
/// Bytes of the legacy area.
const LEGACY: usize = 512;
/// Bytes of the legacy area and the header: the whole of the area here.
const AREA: usize = LEGACY + 64;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;
/// Where the registers start in the legacy area.
const ST: usize = 32;
const XMM: usize = 160;

/// Bit of `imm` that the lowering sets for the forms with REX.W: instruction and data pointers are 64 bits wide.
pub(crate) const WIDE_POINTERS: u64 = 1;

/// A 16-byte part of the area.
fn part(area: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&area[at..at + 16]);
    u128::from_le_bytes(bytes)
}

fn set_part(area: &mut [u8], at: usize, value: u128) {
    area[at..at + 16].copy_from_slice(&value.to_le_bytes());
}

/// An address cut to 57 bits, as the pointer registers keep it.
fn sign_extended(address: u64) -> u64 {
    ((address << 7) as i64 >> 7) as u64
}

impl Cpu {
    /// XMM registers that the current mode can reach.
    fn xmm_count(&self) -> usize {
        if self.is_64_bit() { 16 } else { 8 }
    }

    /// The first 32 bytes: what belongs to the x87 in the first 24, MXCSR in the rest.
    fn legacy_head(&self, wide: bool) -> [u128; 2] {
        let fpu = &self.fpu;
        let pointer = |offset: u64, selector: u16| {
            if wide {
                offset
            } else {
                offset & 0xffff_ffff | u64::from(selector) << 32
            }
        };
        let words = u64::from(fpu.control)
            | u64::from(fpu.status) << 16
            | u64::from(fpu.occupied) << 32
            | u64::from(fpu.last_opcode) << 48;
        let instruction = pointer(fpu.last_instruction, fpu.last_instruction_selector);
        let data = pointer(fpu.last_data, fpu.last_data_selector);
        let mxcsr = u64::from(fpu.mxcsr) | u64::from(MXCSR_MASK) << 32;
        [
            u128::from(words) | u128::from(instruction) << 64,
            u128::from(data) | u128::from(mxcsr) << 64,
        ]
    }

    /// Loads what [`Cpu::legacy_head`] made, but MXCSR.
    fn set_legacy_head(&mut self, head: [u128; 2], wide: bool) {
        let (words, instruction, data) = (head[0] as u64, (head[0] >> 64) as u64, head[1] as u64);
        let fpu = &mut self.fpu;
        let pointer = |value: u64| {
            if wide {
                (sign_extended(value), 0)
            } else {
                (value & 0xffff_ffff, (value >> 32) as u16)
            }
        };
        fpu.status = (words >> 16) as u16;
        fpu.occupied = (words >> 32) as u8;
        fpu.last_opcode = (words >> 48) as u16 & 0x7ff;
        (fpu.last_instruction, fpu.last_instruction_selector) = pointer(instruction);
        (fpu.last_data, fpu.last_data_selector) = pointer(data);
        fpu.set_control(words as u16);
    }

    fn physical(&self, index: usize) -> usize {
        (usize::from(self.fpu.top()) + index) & 7
    }

    fn store_x87(&mut self, op: &Op, linear: u64, wide: bool, mxcsr: bool) -> Result<(), Trap> {
        let [first, second] = self.legacy_head(wide);
        self.store_16(linear, first, op.segment())?;
        self.store(linear.wrapping_add(16), second as u64, op.segment())?;
        if mxcsr {
            self.store_mxcsr(op, linear)?;
        }
        for index in 0..8 {
            let St {
                significand,
                sign_exponent,
            } = self.fpu.registers[self.physical(index)];
            let value = u128::from(significand) | u128::from(sign_exponent) << 64;
            let at = linear.wrapping_add((ST + 16 * index) as u64);
            self.store_16(at, value, op.segment())?;
        }
        Ok(())
    }

    fn store_mxcsr(&mut self, op: &Op, linear: u64) -> Result<(), Trap> {
        let value = u64::from(self.fpu.mxcsr) | u64::from(MXCSR_MASK) << 32;
        self.store(linear.wrapping_add(24), value, op.segment())
    }

    fn store_xmm(&mut self, op: &Op, linear: u64) -> Result<(), Trap> {
        for index in 0..self.xmm_count() {
            let at = linear.wrapping_add((XMM + 16 * index) as u64);
            let value = self.fpu.xmm[index];
            self.store_16(at, value, op.segment())?;
        }
        Ok(())
    }

    fn set_x87(&mut self, area: &[u8], wide: bool) {
        self.set_legacy_head([part(area, 0), part(area, 16)], wide);
        for index in 0..8 {
            let value = part(area, ST + 16 * index);
            let slot = self.physical(index);
            self.fpu.registers[slot] = St {
                significand: value as u64,
                sign_exponent: (value >> 64) as u16,
            };
        }
    }

    fn set_all_xmm(&mut self, area: &[u8]) {
        for index in 0..self.xmm_count() {
            self.fpu.xmm[index] = part(area, XMM + 16 * index);
        }
    }

    /// Linear address of the area, aligned as it has to be.
    fn area(&mut self, op: &Op, size: u64, align: u64, intent: Intent) -> Result<u64, Trap> {
        let linear = self.linear_aligned(op, size, align, intent)?;
        self.probe_last(op, linear, size as usize, intent)?;
        Ok(linear)
    }

    /// Raises what an access to the last byte of an area would raise. Processors look there first, which decides the
    /// address that a page fault reports.
    pub(crate) fn probe_last(
        &mut self,
        op: &Op,
        linear: u64,
        size: usize,
        intent: Intent,
    ) -> Result<(), Trap> {
        let last = linear.wrapping_add(size as u64 - 1);
        if last >> 12 == linear >> 12 {
            return Ok(());
        }
        self.probe(last, 1, intent, op.segment())
    }

    fn load_parts(&mut self, op: &Op, linear: u64, area: &mut [u8]) -> Result<(), Trap> {
        for at in (0..area.len()).step_by(16) {
            let value = self.load_16(linear.wrapping_add(at as u64), op.segment())?;
            set_part(area, at, value);
        }
        Ok(())
    }

    /// #NM for FXSAVE and FXRSTOR.
    fn require_fxsave(&mut self) -> Result<(), Trap> {
        if self.control.cr0 & (cr0::EM | cr0::TS) == 0 {
            Ok(())
        } else {
            Err(self.raise(Exception::plain(vector::NO_DEVICE)))
        }
    }

    /// #UD and #NM for the XSAVE family.
    fn require_xsave(&mut self) -> Result<(), Trap> {
        if self.control.cr4 & cr4::OSXSAVE == 0 {
            return Err(self.raise(Exception::invalid_opcode()));
        }
        if self.control.cr0 & cr0::TS != 0 {
            return Err(self.raise(Exception::plain(vector::NO_DEVICE)));
        }
        Ok(())
    }

    fn protection(&mut self) -> Trap {
        self.raise(Exception::protection(0))
    }

    /// The components that EDX:EAX asks for and XCR0 enables.
    fn requested(&self) -> u64 {
        let mask = self.regs.read(RAX) & 0xffff_ffff | self.regs.read(RDX) << 32;
        mask & self.control.xcr0
    }

    /// Components that are not in their initial state. MXCSR counts for neither.
    pub(crate) fn in_use(&self) -> u64 {
        let fpu = &self.fpu;
        let x87 = fpu.control != 0x37f
            || fpu.status != 0
            || fpu.occupied != 0
            || fpu.last_instruction != 0
            || fpu.last_data != 0
            || fpu
                .registers
                .iter()
                .any(|&register| register != St::default());
        let sse = fpu.xmm[..self.xmm_count()]
            .iter()
            .any(|&register| register != 0);
        (if x87 { X87 } else { 0 }) | if sse { SSE } else { 0 }
    }
}

/// FXSAVE.
pub(crate) fn fxsave(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_fxsave());
    let linear = tri!(cpu.area(op, LEGACY as u64, 16, Intent::Store));
    tri!(cpu.store_x87(op, linear, op.imm & WIDE_POINTERS != 0, true));
    tri!(cpu.store_xmm(op, linear));
    Flow::Next
}

/// FXRSTOR.
pub(crate) fn fxrstor(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_fxsave());
    let linear = tri!(cpu.area(op, LEGACY as u64, 16, Intent::Load));
    let mut area = [0; LEGACY];
    tri!(cpu.load_parts(op, linear, &mut area));
    let mxcsr = tri!(checked_mxcsr(cpu, &area));
    cpu.set_x87(&area, op.imm & WIDE_POINTERS != 0);
    cpu.fpu.mxcsr = mxcsr;
    cpu.set_all_xmm(&area);
    Flow::Next
}

/// MXCSR of an area, or #GP if it has reserved bits.
fn checked_mxcsr(cpu: &mut Cpu, area: &[u8]) -> Result<u32, Trap> {
    let mxcsr = (part(area, 16) >> 64) as u32;
    if mxcsr & !MXCSR_MASK == 0 {
        Ok(mxcsr)
    } else {
        Err(cpu.protection())
    }
}

/// How a save treats what is in its initial state, and the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Save {
    /// XSAVE: everything asked for.
    All,
    /// XSAVEOPT: what is in use.
    InUse,
    /// XSAVEC: what is in use, in the compacted form.
    Compacted,
}

fn save_area(cpu: &mut Cpu, op: &Op, kind: Save) -> Result<(), Trap> {
    cpu.require_xsave()?;
    let linear = cpu.area(op, AREA as u64, 64, Intent::Store)?;
    let header = linear.wrapping_add(LEGACY as u64);
    let requested = cpu.requested();
    let mut in_use = cpu.in_use() & requested;
    if kind == Save::Compacted && requested & SSE != 0 && cpu.fpu.mxcsr != MXCSR_RESET {
        in_use |= SSE;
    }
    let saved = if kind == Save::All { requested } else { in_use };
    let wide = op.imm & WIDE_POINTERS != 0;
    if saved & X87 != 0 {
        cpu.store_x87(op, linear, wide, false)?;
    }
    // MXCSR goes with SSE; XSAVE and XSAVEOPT store it even if the registers are in their initial state.
    let mxcsr = if kind == Save::Compacted {
        saved & SSE
    } else {
        requested & SSE
    };
    if mxcsr != 0 {
        cpu.store_mxcsr(op, linear)?;
    }
    if saved & SSE != 0 {
        cpu.store_xmm(op, linear)?;
    }
    if kind == Save::Compacted {
        cpu.store(header, in_use, op.segment())?;
        cpu.store(header.wrapping_add(8), requested | COMPACTED, op.segment())
    } else {
        let old: u64 = cpu.load(header, op.segment())?;
        cpu.store(header, old & !requested | in_use, op.segment())
    }
}

/// XSAVE.
pub(crate) fn xsave(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(save_area(cpu, op, Save::All));
    Flow::Next
}

/// XSAVEOPT.
pub(crate) fn xsaveopt(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(save_area(cpu, op, Save::InUse));
    Flow::Next
}

/// XSAVEC.
pub(crate) fn xsavec(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(save_area(cpu, op, Save::Compacted));
    Flow::Next
}

/// What a header says, if it is valid.
struct Header {
    present: u64,
    compacted: bool,
}

/// SDM vol. 1, 13.8: the checks of XRSTOR.
fn header(cpu: &mut Cpu, area: &[u8]) -> Result<Header, Trap> {
    let parts: [u128; 4] = std::array::from_fn(|index| part(area, LEGACY + 16 * index));
    let (present, layout) = (parts[0] as u64, (parts[0] >> 64) as u64);
    let compacted = layout & COMPACTED != 0;
    let enabled = cpu.control.xcr0;
    let valid = if compacted {
        let formatted = layout & !COMPACTED;
        formatted & !enabled == 0
            && present & !formatted == 0
            && parts[1..].iter().all(|&rest| rest == 0)
    } else {
        present & !enabled == 0 && layout == 0 && parts[1] as u64 == 0
    };
    if valid {
        Ok(Header { present, compacted })
    } else {
        Err(cpu.protection())
    }
}

/// XRSTOR.
pub(crate) fn xrstor(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_xsave());
    let linear = tri!(cpu.area(op, AREA as u64, 64, Intent::Load));
    let mut area = [0; AREA];
    tri!(cpu.load_parts(op, linear, &mut area));
    let header = tri!(header(cpu, &area));
    let requested = cpu.requested();
    let loaded = requested & header.present;
    // In the compacted form MXCSR is part of the component; in the standard form it is always loaded.
    let mxcsr = if requested & SSE == 0 {
        cpu.fpu.mxcsr
    } else if header.compacted && loaded & SSE == 0 {
        MXCSR_RESET
    } else {
        tri!(checked_mxcsr(cpu, &area))
    };
    if loaded & X87 != 0 {
        cpu.set_x87(&area, op.imm & WIDE_POINTERS != 0);
    } else if requested & X87 != 0 {
        cpu.fpu.initialise_x87();
        cpu.fpu.registers = [St::default(); 8];
    }
    cpu.fpu.mxcsr = mxcsr;
    if loaded & SSE != 0 {
        cpu.set_all_xmm(&area);
    } else if requested & SSE != 0 {
        let count = cpu.xmm_count();
        cpu.fpu.xmm[..count].fill(0);
    }
    Flow::Next
}

/// LDMXCSR.
pub(crate) fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<u32>(op));
    if value & !MXCSR_MASK != 0 {
        let _trap = cpu.protection();
        return Flow::Fault;
    }
    cpu.fpu.mxcsr = value;
    Flow::Next
}

/// STMXCSR.
pub(crate) fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = cpu.fpu.mxcsr;
    tri!(cpu.store_operand(op, value));
    Flow::Next
}
