//! Loading segment registers (SDM vol. 3A, 5.4 to 5.8; MOV, POP and LLDT, LTR in vol. 2).

use super::descriptor::{Descriptor, is_null, kind};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::state::{Seg, Segment};

/// Attributes of a segment of virtual-8086 mode: present, level 3, writable data, accessed.
const VIRTUAL_8086: u16 = 0xf3;
/// The same at level 0.
const REAL: u16 = 0x93;

impl Cpu {
    /// Loads a segment register other than CS, as MOV and POP do.
    ///
    /// Nothing has changed when it fails. The interrupt shadow of SS is the caller's.
    pub(crate) fn load_segment(&mut self, seg: Seg, selector: u16) -> Result<(), Trap> {
        if !self.is_protected() {
            self.load_unprotected(seg, selector);
            return Ok(());
        }
        let segment = if seg == Seg::Ss {
            self.checked_stack_segment(selector)?
        } else {
            self.checked_data_segment(selector)?
        };
        self.segments[seg as usize] = segment;
        Ok(())
    }

    /// What a real-mode or virtual-8086 load leaves in the register. Real mode keeps limit and size, so
    /// that "unreal" mode works as firmware expects.
    pub(crate) fn load_unprotected(&mut self, seg: Seg, selector: u16) {
        let segment = &mut self.segments[seg as usize];
        let real = self.control.cr0 & crate::state::cr0::PE == 0;
        *segment = Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: if real { segment.limit } else { 0xffff },
            attributes: if real {
                segment.attributes & 0xf000 | REAL
            } else {
                VIRTUAL_8086
            },
        };
    }

    /// The segment for SS at the current level.
    fn checked_stack_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        let cpl = self.cpl;
        if is_null(selector) {
            if self.is_64_bit() && cpl < 3 && (selector & 3) as u8 == cpl {
                return Ok(null_stack(cpl));
            }
            return Err(self.raise(Exception::protection(0)));
        }
        self.stack_segment_for(selector, cpl, vector::PROTECTION)
    }

    /// The segment for SS at level `cpl`: writable data of that very level. Errors are `fault` with the
    /// selector, and #SS when it is not present.
    pub(crate) fn stack_segment_for(
        &mut self,
        selector: u16,
        cpl: u8,
        fault: u8,
    ) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Err(self.raise(Exception::coded(fault, 0)));
        }
        let descriptor = self.descriptor(selector, fault)?;
        let level = (selector & 3) as u8 == cpl && descriptor.dpl() == cpl;
        if !level || !descriptor.is_writable_data() {
            return Err(self.selector_fault(fault, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::STACK, selector));
        }
        Ok(self.mark_accessed(descriptor)?.segment(selector))
    }

    /// The segment for DS, ES, FS or GS at the current level.
    pub(crate) fn checked_data_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        self.data_segment_for(selector, vector::PROTECTION)
    }

    /// The same with `fault` as the vector: a task switch raises #TS.
    pub(crate) fn data_segment_for(&mut self, selector: u16, fault: u8) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let descriptor = self.descriptor(selector, fault)?;
        if !descriptor.is_readable() || !self.may_use_data(selector, descriptor) {
            return Err(self.selector_fault(fault, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::NOT_PRESENT, selector));
        }
        Ok(self.mark_accessed(descriptor)?.segment(selector))
    }

    /// Privilege of a data access through `selector`; conforming code is for everybody.
    pub(crate) fn may_use_data(&self, selector: u16, descriptor: Descriptor) -> bool {
        let everybody = descriptor.is_code() && descriptor.is_conforming();
        everybody || self.cpl.max((selector & 3) as u8) <= descriptor.dpl()
    }

    /// After a return to an outer level: data segments that the new level may not use become null.
    pub(crate) fn drop_inner_segments(&mut self) {
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = self.segments[seg as usize];
            let conforming = segment.has(Segment::CODE) && segment.has(Segment::CONFORMING_OR_DOWN);
            if segment.has(Segment::PRESENT) && !conforming && segment.dpl() < self.cpl {
                // FS and GS keep their 64-bit bases out of reach the same way.
                self.segments[seg as usize] = null_segment(0);
            }
        }
    }

    /// LLDT, at level 0 in protected mode.
    pub(crate) fn load_ldt(&mut self, selector: u16) -> Result<(), Trap> {
        if is_null(selector) {
            self.ldtr = null_segment(selector);
            return Ok(());
        }
        let descriptor = self.system_descriptor(selector, vector::PROTECTION)?;
        if descriptor.kind() != kind::LDT {
            return Err(self.selector_fault(vector::PROTECTION, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::NOT_PRESENT, selector));
        }
        self.ldtr = descriptor.segment(selector);
        Ok(())
    }

    /// LTR, at level 0 in protected mode.
    pub(crate) fn load_task_register(&mut self, selector: u16) -> Result<(), Trap> {
        if is_null(selector) {
            return Err(self.raise(Exception::protection(0)));
        }
        let descriptor = self.system_descriptor(selector, vector::PROTECTION)?;
        let available = match descriptor.kind() {
            kind::TSS => true,
            kind::TSS_16 => !self.is_long(),
            _ => false,
        };
        if !available {
            return Err(self.selector_fault(vector::PROTECTION, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::NOT_PRESENT, selector));
        }
        self.tr = self.mark_busy(descriptor, true)?.segment(selector);
        Ok(())
    }

    /// A system descriptor of the GDT, with a canonical base in long mode.
    pub(crate) fn system_descriptor(
        &mut self,
        selector: u16,
        fault: u8,
    ) -> Result<Descriptor, Trap> {
        if selector & 4 != 0 {
            return Err(self.selector_fault(fault, selector));
        }
        let descriptor = self.descriptor(selector, fault)?;
        let base_ok = !self.is_long() || crate::mmu::is_canonical(descriptor.base());
        if !descriptor.is_system() || !base_ok {
            return Err(self.selector_fault(fault, selector));
        }
        Ok(descriptor)
    }
}

/// SS with a null selector in 64-bit mode: unusable but for its level.
pub(crate) const fn null_stack(level: u8) -> Segment {
    Segment {
        attributes: (level as u16) << 5,
        ..null_segment(level as u16)
    }
}

/// A register that holds a null selector: any use of it faults, and its base is zero, which leaf
/// 0x8000_0021 announces.
pub(crate) const fn null_segment(selector: u16) -> Segment {
    Segment {
        selector,
        attributes: 0,
        limit: 0,
        base: 0,
    }
}
