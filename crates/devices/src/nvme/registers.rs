//! The controller's registers as a table, and the fields of CAP, CC, CSTS and AQA.
//!
//! Source: NVM Express Base 1.4, 3.1. There is no boot partition, controller memory buffer or
//! persistent memory region: their registers are not listed and read as zero. Interrupts are MSI-X only,
//! so INTMS and INTMC have nothing to mask.

use crate::bus::{Access, RegisterMap, Width, row};

/// The registers that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Controller Capabilities.
    Capabilities,
    /// Version.
    Version,
    /// Interrupt Mask Set; reads as zero.
    InterruptMaskSet,
    /// Interrupt Mask Clear; reads as zero.
    InterruptMaskClear,
    /// Controller Configuration.
    Configuration,
    /// Controller Status.
    Status,
    /// Admin Queue Attributes.
    AdminQueueAttributes,
    /// Admin Submission Queue Base Address.
    AdminSubmissionQueue,
    /// Admin Completion Queue Base Address.
    AdminCompletionQueue,
}

/// The register part of BAR 0.
pub static REGISTERS: RegisterMap<Reg> = RegisterMap::new(&[
    row(Reg::Capabilities, 0x00, Width::U64, Access::ReadOnly),
    row(Reg::Version, 0x08, Width::U32, Access::ReadOnly),
    row(Reg::InterruptMaskSet, 0x0c, Width::U32, Access::ReadOnly),
    row(Reg::InterruptMaskClear, 0x10, Width::U32, Access::ReadOnly),
    row(
        Reg::Configuration,
        0x14,
        Width::U32,
        Access::ReadWrite { mask: 0x00ff_fff1 },
    ),
    row(Reg::Status, 0x1c, Width::U32, Access::ReadOnly),
    row(
        Reg::AdminQueueAttributes,
        0x24,
        Width::U32,
        Access::ReadWrite { mask: 0x0fff_0fff },
    ),
    row(
        Reg::AdminSubmissionQueue,
        0x28,
        Width::U64,
        Access::ReadWrite { mask: !0xfff },
    ),
    row(
        Reg::AdminCompletionQueue,
        0x30,
        Width::U64,
        Access::ReadWrite { mask: !0xfff },
    ),
]);

/// Where the doorbells begin. Queue `y` has its tail at `8y` and its head at `8y + 4` from here, since
/// CAP.DSTRD is zero.
pub const DOORBELLS: u64 = 0x1000;

/// NVM Express 1.4.0.
pub const VERSION: u32 = 0x0001_0400;

/// The most entries of a queue.
pub const QUEUE_ENTRIES_MAX: u32 = 0x1_0000;

/// Bytes of a memory page; the only page size offered.
pub const PAGE: u64 = 4096;

/// How long a guest may have to wait for CSTS.RDY, in units of 500 ms. A reset ends when the backend
/// has let go of guest memory, which can take as long as its slowest request.
const TIMEOUT_UNITS: u64 = 60;

/// CAP: 65,536 entries, contiguous queues, round robin only, doorbells without gaps, the NVM command
/// set, 4 KiB pages.
pub const CAPABILITIES: u64 =
    (QUEUE_ENTRIES_MAX as u64 - 1) | 1 << 16 | TIMEOUT_UNITS << 24 | 1 << 37;

/// The Controller Configuration register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configuration(pub u32);

impl Configuration {
    /// EN.
    pub const fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// SHN: 1 and 2 ask for a shutdown.
    pub const fn shutdown_asked(self) -> bool {
        matches!(self.0 >> 14 & 3, 1 | 2)
    }

    /// Whether command set, page size and arbitration are ones that CAP offers.
    pub const fn is_supported(self) -> bool {
        let command_set = self.0 >> 4 & 7;
        let page_size = self.0 >> 7 & 0xf;
        let arbitration = self.0 >> 11 & 7;
        command_set == 0 && page_size == 0 && arbitration == 0
    }

    /// IOSQES says 64 bytes.
    pub const fn submission_entries_fit(self) -> bool {
        self.0 >> 16 & 0xf == 6
    }

    /// IOCQES says 16 bytes.
    pub const fn completion_entries_fit(self) -> bool {
        self.0 >> 20 & 0xf == 4
    }
}

/// Bits of the Controller Status register.
pub mod csts {
    /// Ready.
    pub const READY: u32 = 1 << 0;
    /// Controller Fatal Status.
    pub const FATAL: u32 = 1 << 1;
    /// Shutdown processing occurring.
    pub const SHUTDOWN_OCCURRING: u32 = 1 << 2;
    /// Shutdown processing complete.
    pub const SHUTDOWN_COMPLETE: u32 = 2 << 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_say_what_the_device_does() {
        assert_eq!(CAPABILITIES & 0xffff, 0xffff);
        assert_eq!(CAPABILITIES >> 16 & 7, 1, "contiguous, round robin");
        assert_eq!(CAPABILITIES >> 32 & 0xf, 0, "doorbell stride");
        assert_eq!(CAPABILITIES >> 37 & 0xff, 1, "command sets");
        assert_eq!(CAPABILITIES >> 48, 0, "page sizes, memory regions");
    }

    #[test]
    fn the_listing_names_every_register() {
        assert_eq!(
            REGISTERS.to_string().lines().count(),
            REGISTERS.rows().len()
        );
    }
}
