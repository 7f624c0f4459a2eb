//! Where guest memory lies: RAM below 3 GiB and above 4 GiB, the boot ROM at the top of 4 GiB, and the
//! windows that are not memory.
//!
//! ```text
//!  0 ............ lowmem (at most 3 GiB)
//!  0xC000_0000 .. dev32: PCI windows (512 MiB)
//!  0xE000_0000 .. ECAM (256 MiB)
//!  0xFEC0_0000 .. IOAPIC, HPET, local APICs
//!  4 GiB - rom .. boot ROM, the image ends at 4 GiB
//!  4 GiB ........ highmem
//!  after that ... dev64: 64-bit PCI windows, up to 16 TiB
//! ```
//!
//! Source: `spec/vmm.md` A.3; the ROM window is as large as its image, where theirs is always 2 MiB.

mod host;

use std::ops::Range;

use thiserror::Error;
use vm_types::memory::{MemoryRange, PAGE_SIZE, RegionKind};
use vm_types::{GuestAddress, GuestMemory, MemoryError};

use crate::machine::config::BOOTROM_BYTES_MAX;
pub(crate) use host::release_freed;

/// Most RAM below 4 GiB.
pub const LOWMEM_MAX: u64 = 3 << 30;
/// Where RAM goes on.
pub const HIGHMEM_START: u64 = 4 << 30;
/// 32-bit PCI windows.
pub const DEV32: Range<u64> = 0xc000_0000..0xe000_0000;
/// Configuration space as memory, 256 buses.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// End of everything physical.
pub const PHYSICAL_END: u64 = 0x1000_0000_0000;
/// The smallest ROM window; real chipsets decode at least this much.
const ROM_WINDOW_MIN: u64 = 2 << 20;

/// What boards show of the ROM below 1 MiB.
const ROM_LOW_BYTES: usize = 128 << 10;
const ROM_LOW_END: u64 = 1 << 20;

/// A machine's physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    lowmem: u64,
    highmem: u64,
    /// Length of the ROM window, 0 without one.
    rom: u64,
}

/// Sizes that do not fit the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// No RAM at all, part of a page, or so much that no room for 64-bit windows is left.
    #[error("guest memory of {bytes:#x} bytes does not fit the address space")]
    Ram {
        /// What was asked.
        bytes: u64,
    },
    /// A ROM image that is empty, no multiple of 4 KiB, or too large.
    #[error("a boot ROM of {bytes} bytes is no multiple of 4 KiB or larger than 16 MiB")]
    Rom {
        /// What was asked.
        bytes: u64,
    },
}

impl Layout {
    /// The layout for so much RAM and a ROM image of `rom_bytes` (0: none).
    pub fn new(ram_bytes: u64, rom_bytes: u64) -> Result<Self, LayoutError> {
        let fits =
            ram_bytes > 0 && ram_bytes.is_multiple_of(PAGE_SIZE) && ram_bytes <= PHYSICAL_END / 2;
        if !fits {
            return Err(LayoutError::Ram { bytes: ram_bytes });
        }
        if !rom_bytes.is_multiple_of(PAGE_SIZE) || rom_bytes > BOOTROM_BYTES_MAX {
            return Err(LayoutError::Rom { bytes: rom_bytes });
        }
        let lowmem = ram_bytes.min(LOWMEM_MAX);
        Ok(Self {
            lowmem,
            highmem: ram_bytes - lowmem,
            rom: if rom_bytes == 0 {
                0
            } else {
                rom_bytes.max(ROM_WINDOW_MIN)
            },
        })
    }

    /// Bytes of RAM from address 0.
    pub fn lowmem(&self) -> u64 {
        self.lowmem
    }

    /// Bytes of RAM from 4 GiB.
    pub fn highmem(&self) -> u64 {
        self.highmem
    }

    /// The ROM window, if there is one.
    pub fn rom(&self) -> Option<Range<u64>> {
        (self.rom > 0).then(|| HIGHMEM_START - self.rom..HIGHMEM_START)
    }

    /// 64-bit PCI windows.
    pub fn dev64(&self) -> Range<u64> {
        // A gibibyte's alignment lets a guest map windows with large pages.
        (HIGHMEM_START + self.highmem).next_multiple_of(1 << 30)..PHYSICAL_END
    }

    /// What a hypervisor is to map.
    pub fn ranges(&self) -> Vec<MemoryRange> {
        let range = |start: u64, length: u64, kind| MemoryRange {
            start: GuestAddress(start),
            length,
            kind,
        };
        let mut ranges = vec![range(0, self.lowmem, RegionKind::Ram)];
        if let Some(rom) = self.rom() {
            ranges.push(range(rom.start, self.rom, RegionKind::Rom));
        }
        if self.highmem > 0 {
            ranges.push(range(HIGHMEM_START, self.highmem, RegionKind::Ram));
        }
        ranges
    }

    /// Puts a ROM image where it belongs: its end at 4 GiB, zeroes before it.
    ///
    /// Its last 128 KiB are copied below 1 MiB too, where boards decode them as well and where a PC BIOS
    /// goes on from the reset vector. There they are RAM, as after the BIOS has shadowed itself.
    pub fn load_rom(&self, memory: &GuestMemory, image: &[u8]) -> Result<(), MemoryError> {
        let Some(window) = self.rom() else {
            return Ok(());
        };
        memory.load(GuestAddress(window.end - image.len() as u64), image)?;
        let low = &image[image.len().saturating_sub(ROM_LOW_BYTES)..];
        let at = ROM_LOW_END - low.len() as u64;
        if self.lowmem < ROM_LOW_END {
            return Ok(());
        }
        memory.load(GuestAddress(at), low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_around_the_hole() {
        for (ram, low, high, dev64) in [
            (256 << 20, 256 << 20, 0, 4 * GIB),
            (3 * GIB, 3 * GIB, 0, 4 * GIB),
            (3 * GIB + 4096, 3 * GIB, 4096, 5 * GIB),
            (8 * GIB, 3 * GIB, 5 * GIB, 9 * GIB),
        ] {
            let layout = Layout::new(ram, 0).unwrap();
            assert_eq!((layout.lowmem(), layout.highmem()), (low, high));
            assert_eq!(layout.dev64().start, dev64);
            assert_eq!(layout.rom(), None);
        }
    }

    #[test]
    fn a_rom_ends_at_four_gibibytes() {
        let layout = Layout::new(1 << 20, 8192).unwrap();
        assert_eq!(layout.rom(), Some(4 * GIB - (2 << 20)..4 * GIB));
        let memory = GuestMemory::anonymous(&layout.ranges()).unwrap();
        layout.load_rom(&memory, &[7; 8192]).unwrap();
        let byte = |at| memory.read_value::<u8>(GuestAddress(at)).unwrap();
        assert_eq!(byte(4 * GIB - 1), 7);
        assert_eq!(byte(4 * GIB - 8192), 7);
        assert_eq!(byte(4 * GIB - 8193), 0);
        assert_eq!((byte(0xf_ffff), byte(0xf_e000), byte(0xf_dfff)), (7, 7, 0));
        let large = Layout::new(1 << 20, 16 << 20).unwrap();
        assert_eq!(large.rom(), Some(4 * GIB - (16 << 20)..4 * GIB));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for ram in [0, 100, PHYSICAL_END] {
            assert_eq!(Layout::new(ram, 0), Err(LayoutError::Ram { bytes: ram }));
        }
        for rom in [1, 4097, (16 << 20) + 4096] {
            assert_eq!(Layout::new(4096, rom), Err(LayoutError::Rom { bytes: rom }));
        }
    }
}
