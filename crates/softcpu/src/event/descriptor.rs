//! Descriptors as they lie in the GDT, the LDT and the IDT (SDM vol. 3A, 3.4.5, 3.5, 6.11, 6.14).

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap};
use crate::state::{Seg, Segment};

/// System descriptor types (SDM vol. 3A, table 3-2).
pub(crate) mod kind {
    /// 16-bit TSS, available.
    pub(crate) const TSS_16: u8 = 1;
    /// Local descriptor table.
    pub(crate) const LDT: u8 = 2;
    /// 16-bit TSS, busy.
    pub(crate) const TSS_16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub(crate) const CALL_GATE_16: u8 = 4;
    /// Task gate.
    pub(crate) const TASK_GATE: u8 = 5;
    /// 16-bit interrupt gate.
    pub(crate) const INTERRUPT_GATE_16: u8 = 6;
    /// 16-bit trap gate.
    pub(crate) const TRAP_GATE_16: u8 = 7;
    /// 32-bit or 64-bit TSS, available.
    pub(crate) const TSS: u8 = 9;
    /// 32-bit or 64-bit TSS, busy.
    pub(crate) const TSS_BUSY: u8 = 11;
    /// 32-bit or 64-bit call gate.
    pub(crate) const CALL_GATE: u8 = 12;
    /// 32-bit or 64-bit interrupt gate.
    pub(crate) const INTERRUPT_GATE: u8 = 14;
    /// 32-bit or 64-bit trap gate.
    pub(crate) const TRAP_GATE: u8 = 15;
}

/// One descriptor, with the place it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The first eight bytes.
    raw: u64,
    /// The next eight, for system descriptors and gates in long mode; zero otherwise.
    upper: u64,
    /// Linear address of the first byte.
    address: u64,
}

impl Descriptor {
    pub(crate) const fn new(raw: u64, upper: u64, address: u64) -> Self {
        Self {
            raw,
            upper,
            address,
        }
    }

    /// The four type bits.
    pub(crate) const fn kind(self) -> u8 {
        (self.raw >> 40) as u8 & 0xf
    }

    pub(crate) const fn is_present(self) -> bool {
        self.raw >> 47 & 1 == 1
    }

    pub(crate) const fn dpl(self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }

    /// Neither code nor data.
    pub(crate) const fn is_system(self) -> bool {
        self.raw >> 44 & 1 == 0
    }

    pub(crate) const fn is_code(self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    pub(crate) const fn is_conforming(self) -> bool {
        self.kind() & 4 != 0
    }

    pub(crate) const fn is_writable_data(self) -> bool {
        !self.is_system() && self.kind() & 0b1010 == 0b0010
    }

    /// Data, or code that may be read.
    pub(crate) const fn is_readable(self) -> bool {
        !self.is_system() && (self.kind() & 8 == 0 || self.kind() & 2 != 0)
    }

    /// 64-bit code.
    pub(crate) const fn is_long(self) -> bool {
        self.raw >> 53 & 1 == 1
    }

    /// 32-bit default size.
    pub(crate) const fn is_big(self) -> bool {
        self.raw >> 54 & 1 == 1
    }

    const fn is_accessed(self) -> bool {
        self.kind() & 1 != 0
    }

    /// The upper 32 bits that LAR looks at.
    pub(crate) const fn rights(self) -> u32 {
        (self.raw >> 32) as u32 & 0x00ff_ff00
    }

    /// Last valid offset in bytes.
    pub(crate) const fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.raw >> 55 & 1 == 1 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// First linear address; the upper half is there for system descriptors of long mode only.
    pub(crate) const fn base(self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 56 << 24 | self.upper << 32
    }

    /// The register's content after loading `selector`, which named this descriptor.
    pub(crate) const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            attributes: (self.raw >> 40) as u16 & 0xf0ff,
            limit: self.limit(),
            base: self.base(),
        }
    }

    /// A gate's selector.
    pub(crate) const fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// A gate's offset, all of it that there is.
    pub(crate) const fn gate_offset(self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000 | self.upper << 32
    }

    /// A call gate's parameter count.
    pub(crate) const fn gate_parameters(self) -> u8 {
        (self.raw >> 32) as u8 & 0x1f
    }

    /// The index into the interrupt stack table of a gate in long mode.
    pub(crate) const fn gate_stack(self) -> u8 {
        (self.raw >> 32) as u8 & 7
    }

    /// The type field of the second half, which must be zero in long mode.
    pub(crate) const fn upper_kind(self) -> u64 {
        self.upper >> 40 & 0x1f
    }
}

/// Whether `selector` names no descriptor.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

impl Cpu {
    /// Raises `vector` with a selector as its error code.
    #[cold]
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Trap {
        self.raise(Exception::coded(vector, u32::from(selector & 0xfffc)))
    }

    /// The descriptor that `selector` names; `vector` with the selector if it lies outside its table.
    /// System descriptors in long mode come with their second half.
    pub(crate) fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Trap> {
        match self.descriptor_within(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.selector_fault(vector, selector)),
        }
    }

    /// As [`Cpu::descriptor`], `None` outside the table: LAR and its like do not fault.
    pub(crate) fn descriptor_within(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        let (base, limit) = if selector & 4 == 0 {
            (self.control.gdt.base, u32::from(self.control.gdt.limit))
        } else if self.ldtr.has(Segment::PRESENT) {
            (self.ldtr.base, self.ldtr.limit)
        } else {
            return Ok(None);
        };
        let offset = u32::from(selector & 0xfff8);
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = self.table_address(base, offset);
        let long = self.is_long();
        let descriptor = self.as_system(|cpu| {
            let raw = cpu.load::<u64>(address, Seg::Ds)?;
            let descriptor = Descriptor::new(raw, 0, address);
            if !long || !descriptor.is_system() || offset + 15 > limit {
                return Ok(descriptor);
            }
            let upper = cpu.load::<u64>(address.wrapping_add(8), Seg::Ds)?;
            Ok(Descriptor::new(raw, upper, address))
        })?;
        // A system descriptor of which the limit cuts the second half off is outside.
        Ok((!long || !descriptor.is_system() || offset + 15 <= limit).then_some(descriptor))
    }

    /// Entry `vector` of the IDT; `size` is 8, or 16 in long mode.
    pub(crate) fn gate(&mut self, vector: u8, size: u32) -> Result<Descriptor, Trap> {
        let offset = u32::from(vector) * size;
        if offset + size - 1 > u32::from(self.control.idt.limit) {
            return Err(self.gate_fault(crate::fault::vector::PROTECTION, vector));
        }
        let address = self.table_address(self.control.idt.base, offset);
        self.as_system(|cpu| {
            let raw = cpu.load::<u64>(address, Seg::Ds)?;
            let upper = if size == 16 {
                cpu.load::<u64>(address.wrapping_add(8), Seg::Ds)?
            } else {
                0
            };
            Ok(Descriptor::new(raw, upper, address))
        })
    }

    /// Raises `fault` with an error code that points into the IDT.
    pub(crate) fn gate_fault(&mut self, fault: u8, vector: u8) -> Trap {
        self.raise(Exception::coded(fault, u32::from(vector) << 3 | 2))
    }

    /// Linear address of byte `offset` of a table or TSS.
    pub(crate) fn table_address(&self, base: u64, offset: u32) -> u64 {
        let address = base.wrapping_add(u64::from(offset));
        if self.is_long() {
            address
        } else {
            address & 0xffff_ffff
        }
    }

    /// Sets the accessed bit of a code or data descriptor in its table, if it is clear.
    pub(crate) fn mark_accessed(&mut self, descriptor: Descriptor) -> Result<Descriptor, Trap> {
        if descriptor.is_system() || descriptor.is_accessed() {
            return Ok(descriptor);
        }
        self.change_kind(descriptor, |kind| kind | 1)
    }

    /// Sets or clears the busy bit of a TSS descriptor in its table.
    pub(crate) fn mark_busy(
        &mut self,
        descriptor: Descriptor,
        busy: bool,
    ) -> Result<Descriptor, Trap> {
        self.change_kind(
            descriptor,
            move |kind| if busy { kind | 2 } else { kind & !2 },
        )
    }

    /// Changes byte 5 of a descriptor, locked, as other CPUs may load it at the same time.
    fn change_kind(
        &mut self,
        descriptor: Descriptor,
        change: impl Fn(u8) -> u8,
    ) -> Result<Descriptor, Trap> {
        let address = descriptor.address.wrapping_add(5);
        self.as_system(|cpu| cpu.modify::<u8>(address, Seg::Ds, true, &change))?;
        let byte = change((descriptor.raw >> 40) as u8);
        Ok(Descriptor {
            raw: descriptor.raw & !(0xff << 40) | u64::from(byte) << 40,
            ..descriptor
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_segment() {
        let descriptor = Descriptor::new(0x00cf_9b00_0000_ffff, 0, 0);
        assert!(descriptor.is_code() && descriptor.is_present() && descriptor.is_big());
        assert_eq!(descriptor.limit(), 0xffff_ffff);
        assert_eq!(descriptor.base(), 0);
        let segment = descriptor.segment(8);
        assert_eq!(segment.attributes, 0xc09b);
    }

    #[test]
    fn the_parts_of_base_limit_and_gate_are_put_together() {
        let descriptor = Descriptor::new(0x1245_9234_5678_abcd, 0, 0);
        assert_eq!(descriptor.base(), 0x1234_5678);
        assert_eq!(descriptor.limit(), 0x5_abcd);
        let gate = Descriptor::new(0x1122_ee03_0010_3344, 0x5566_7788, 0);
        assert_eq!(gate.gate_offset(), 0x5566_7788_1122_3344);
        assert_eq!(gate.gate_selector(), 0x10);
        assert_eq!(gate.gate_stack(), 3);
        assert_eq!(gate.kind(), kind::INTERRUPT_GATE);
        assert_eq!(gate.dpl(), 3);
    }
}
