//! Base address registers: their kinds, the sizing protocol, and how windows reach an address space.
//!
//! Source: PCI Local Bus 3.0, 6.2.5.1. A guest writes all ones and reads back which bits stay zero: the
//! low bits of the address are wired to zero, so that the size is the lowest bit that can be set.

use std::sync::{Arc, Weak};

use super::endpoint::Endpoint;
use crate::bus::BusDevice;

/// Base address registers in a type 0 header.
pub const BARS: usize = 6;

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Memory addresses.
    Memory,
}

/// One base address register as a device declares it. Sizes are powers of two in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Ports or memory.
    pub space: Space,
    /// Bytes decoded: at least 16 for memory, 4 to 256 for ports.
    pub size: u64,
    /// Takes two registers and can lie above 4 GiB.
    pub wide: bool,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

impl Bar {
    /// A 32-bit memory window.
    pub const fn memory32(size: u64) -> Self {
        Self {
            space: Space::Memory,
            size,
            wide: false,
            prefetchable: false,
        }
    }

    /// A 64-bit memory window; takes the next register too.
    pub const fn memory64(size: u64) -> Self {
        Self {
            space: Space::Memory,
            size,
            wide: true,
            prefetchable: false,
        }
    }

    /// A window of I/O ports.
    pub const fn ports(size: u64) -> Self {
        Self {
            space: Space::Port,
            size,
            wide: false,
            prefetchable: false,
        }
    }

    pub(super) const fn is_valid(&self) -> bool {
        let fits = match self.space {
            Space::Port => self.size >= 4 && self.size <= 256 && !self.wide,
            Space::Memory if self.wide => self.size >= 16,
            Space::Memory => self.size >= 16 && self.size <= 1 << 31,
        };
        fits && self.size.is_power_of_two()
    }

    /// The bits below the address: space, width, prefetchable.
    pub(super) const fn flags(&self) -> u32 {
        match self.space {
            Space::Port => 1,
            Space::Memory => (self.wide as u32) << 2 | (self.prefetchable as u32) << 3,
        }
    }

    /// The address bits that a guest can set.
    pub(super) const fn address_mask(&self) -> u64 {
        let below = !(self.size - 1);
        match self.space {
            // Ports above 64 KiB do not exist on this architecture, the register has the bits.
            Space::Port => below & 0xffff_ffff,
            Space::Memory if self.wide => below,
            Space::Memory => below & 0xffff_ffff,
        }
    }

    /// Where the window lies for a register value of `address`, or `None` where it decodes nothing:
    /// address zero (never assigned), all ones (being sized), or past the end of the space.
    pub(super) fn placed_at(&self, address: u64) -> Option<u64> {
        let limit = match self.space {
            Space::Port => 0x1_0000,
            Space::Memory if self.wide => u64::MAX,
            Space::Memory => 0x1_0000_0000,
        };
        let end = address.checked_add(self.size)?;
        // A wide register is sized one half at a time: the low half first, the high one still zero.
        let low_ones = self.address_mask() & 0xffff_ffff;
        let sizing = address == self.address_mask() || address == low_ones;
        (address != 0 && !sizing && end <= limit).then_some(address)
    }
}

/// Names one mapping in a [`BarMapper`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingId(pub u64);

/// The address spaces into which windows are put.
///
/// Called while a guest's configuration write is being carried out, that is from inside
/// [`BusDevice::write`]: the spaces must not hold their own lock while they dispatch. A guest may put
/// windows anywhere, over each other and over memory; who wins is the space's choice, but it must not
/// panic, and unmapping one must uncover the other.
pub trait BarMapper: Send + Sync {
    /// Puts `device` at `base..base + size`. `base` is aligned to `size` and the end does not wrap.
    fn map(&self, space: Space, base: u64, size: u64, device: Arc<dyn BusDevice>) -> MappingId;

    /// Takes a mapping away; an unknown id is ignored.
    fn unmap(&self, id: MappingId);
}

/// A window of one function, as the address space sees it.
pub(super) struct BarWindow {
    pub(super) endpoint: Weak<dyn Endpoint>,
    pub(super) index: usize,
}

impl BusDevice for BarWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.endpoint.upgrade() {
            Some(endpoint) => match endpoint.function().msix_in(self.index) {
                Some(msix) => msix.bar_read(offset, data),
                None => endpoint.bar_read(self.index, offset, data),
            },
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(endpoint) = self.endpoint.upgrade() {
            match endpoint.function().msix_in(self.index) {
                Some(msix) => msix.bar_write(offset, data),
                None => endpoint.bar_write(self.index, offset, data),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_not_placed_while_it_is_being_sized() {
        let narrow = Bar::memory32(0x4000);
        assert_eq!(narrow.placed_at(0xffff_c000), None);
        assert_eq!(narrow.placed_at(0), None);
        assert_eq!(narrow.placed_at(0xc000_0000), Some(0xc000_0000));
        let wide = Bar::memory64(0x4000);
        assert_eq!(wide.placed_at(0xffff_c000), None);
        assert_eq!(wide.placed_at(0xffff_ffff_ffff_c000), None);
        assert_eq!(wide.placed_at(0x80_0000_0000), Some(0x80_0000_0000));
        assert_eq!(wide.placed_at(0x80_ffff_c000), Some(0x80_ffff_c000));
        let ports = Bar::ports(0x100);
        assert_eq!(ports.placed_at(0xc000), Some(0xc000));
        assert_eq!(ports.placed_at(0x1_0000), None);
    }

    #[test]
    fn unreasonable_sizes_are_refused() {
        for bad in [
            Bar::ports(2),
            Bar::ports(512),
            Bar::memory32(0),
            Bar::memory32(0x3000),
            Bar::memory32(1 << 32),
            Bar::memory64(8),
        ] {
            assert!(!bad.is_valid(), "{bad:?}");
        }
    }
}
