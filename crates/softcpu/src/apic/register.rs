//! The registers of the local APIC as one table: offset in the page, MSR, who may do what.
//!
//! Source: SDM 3A, APIC, "Local APIC Register Address Map" and "Local APIC Register Address Map Supported
//! by x2APIC". A register at offset `o` of the page is MSR `0x800 + o / 16` in x2APIC mode.

use super::lvt::LvtEntry;

/// A register by name. `Isr`, `Tmr` and `Irr` carry the index of one of their eight words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    Isr(u8),
    Tmr(u8),
    Irr(u8),
    ErrorStatus,
    InterruptCommandLow,
    InterruptCommandHigh,
    Lvt(LvtEntry),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    SelfIpi,
}

/// What may be done with a register in x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// Not there: reads and writes fault.
    Absent,
    /// Writes fault.
    ReadOnly,
    /// Reads fault.
    WriteOnly,
    /// Both, within the register's writable bits.
    ReadWrite,
}

impl Register {
    /// The register at `offset` (bytes) of the page; only multiples of 16 have one.
    pub fn at_offset(offset: u16) -> Option<Self> {
        Some(match offset {
            0x020 => Self::Id,
            0x030 => Self::Version,
            0x080 => Self::TaskPriority,
            0x090 => Self::ArbitrationPriority,
            0x0a0 => Self::ProcessorPriority,
            0x0b0 => Self::EndOfInterrupt,
            0x0c0 => Self::RemoteRead,
            0x0d0 => Self::LogicalDestination,
            0x0e0 => Self::DestinationFormat,
            0x0f0 => Self::SpuriousVector,
            0x100..=0x170 if offset & 0xf == 0 => Self::Isr((offset >> 4 & 7) as u8),
            0x180..=0x1f0 if offset & 0xf == 0 => Self::Tmr((offset >> 4 & 7) as u8),
            0x200..=0x270 if offset & 0xf == 0 => Self::Irr((offset >> 4 & 7) as u8),
            0x280 => Self::ErrorStatus,
            0x300 => Self::InterruptCommandLow,
            0x310 => Self::InterruptCommandHigh,
            0x320 => Self::Lvt(LvtEntry::Timer),
            0x330 => Self::Lvt(LvtEntry::Thermal),
            0x340 => Self::Lvt(LvtEntry::Performance),
            0x350 => Self::Lvt(LvtEntry::Lint0),
            0x360 => Self::Lvt(LvtEntry::Lint1),
            0x370 => Self::Lvt(LvtEntry::Error),
            0x380 => Self::InitialCount,
            0x390 => Self::CurrentCount,
            0x3e0 => Self::DivideConfiguration,
            // Known to x2APIC only; the page has nothing here.
            0x3f0 => Self::SelfIpi,
            _ => return None,
        })
    }

    /// The register behind `msr` (0x800 to 0x8ff).
    pub fn at_msr(msr: u32) -> Option<Self> {
        let index = msr.checked_sub(0x800).filter(|index| *index < 0x40)?;
        Self::at_offset((index << 4) as u16)
    }

    /// What x2APIC mode allows.
    pub fn msr_access(self) -> MsrAccess {
        match self {
            Self::ArbitrationPriority
            | Self::RemoteRead
            | Self::DestinationFormat
            | Self::InterruptCommandHigh => MsrAccess::Absent,
            Self::Id
            | Self::Version
            | Self::ProcessorPriority
            | Self::LogicalDestination
            | Self::Isr(_)
            | Self::Tmr(_)
            | Self::Irr(_)
            | Self::CurrentCount => MsrAccess::ReadOnly,
            Self::EndOfInterrupt | Self::SelfIpi => MsrAccess::WriteOnly,
            Self::TaskPriority
            | Self::SpuriousVector
            | Self::ErrorStatus
            | Self::InterruptCommandLow
            | Self::Lvt(_)
            | Self::InitialCount
            | Self::DivideConfiguration => MsrAccess::ReadWrite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msr_and_offset_name_the_same_register() {
        assert_eq!(Register::at_msr(0x802), Some(Register::Id));
        assert_eq!(Register::at_msr(0x830), Some(Register::InterruptCommandLow));
        assert_eq!(Register::at_msr(0x83f), Some(Register::SelfIpi));
        assert_eq!(Register::at_msr(0x840), None);
        assert_eq!(Register::at_msr(0x7ff), None);
        assert_eq!(Register::at_offset(0x174), None);
        assert_eq!(Register::at_offset(0x170), Some(Register::Isr(7)));
        // The CMCI entry is not announced (six LVT entries), so it is not there.
        assert_eq!(Register::at_offset(0x2f0), None);
    }
}
