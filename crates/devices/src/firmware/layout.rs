//! The machine's physical address space.

use std::ops::Range;

const GIB: u64 = 1 << 30;

/// RAM below 4 GiB ends here at the latest.
pub const LOW_LIMIT: u64 = 3 * GIB;
/// Where RAM goes on above the hole.
pub const HIGH_START: u64 = 4 * GIB;
/// Where 32-bit PCI windows are handed out.
pub const WINDOW_32: Range<u64> = 0xc000_0000..0xe000_0000;
/// Where the configuration window of PCI Express is, in machines that have one: 1 MiB a bus.
pub const ECAM_BASE: u64 = 0xe000_0000;
/// Largest ROM, which ends at 4 GiB.
pub const ROM_LIMIT: u64 = 16 << 20;
/// First address that no device window reaches.
pub const WINDOW_64_END: u64 = 1 << 44;

/// Conventional memory ends here; above are legacy video and ROM areas.
pub const LOW_MEMORY_END: u64 = 0xa_0000;
/// Start of the area for tables that are searched for: ACPI here, SMBIOS 64 KiB further on.
pub const TABLES_START: u64 = 0xe_0000;
/// Where extended memory starts.
pub const EXTENDED_START: u64 = 0x10_0000;

/// How much there is of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Bytes of RAM from address 0, at most [`LOW_LIMIT`].
    pub low_bytes: u64,
    /// Bytes of RAM from 4 GiB.
    pub high_bytes: u64,
    /// Bytes of ROM that end at 4 GiB; 0 if the machine boots directly.
    pub rom_bytes: u64,
    /// Buses behind the window at [`ECAM_BASE`], at most 256; 0 if there is none.
    pub ecam_buses: u16,
    /// Where 32-bit PCI windows may be.
    pub window_32: Range<u64>,
    /// Where 64-bit PCI windows may be.
    pub window_64: Range<u64>,
}

impl MemoryLayout {
    /// The layout of a machine with `bytes` of RAM, no ROM and no configuration window.
    ///
    /// The 64-bit window starts on the first GiB after the RAM, so that huge windows fit tightly.
    pub fn of(bytes: u64) -> Self {
        let low_bytes = bytes.min(LOW_LIMIT);
        let high_bytes = bytes - low_bytes;
        let high_end = HIGH_START.saturating_add(high_bytes);
        let start = high_end.checked_next_multiple_of(GIB).unwrap_or(u64::MAX);
        Self {
            low_bytes,
            high_bytes,
            rom_bytes: 0,
            ecam_buses: 0,
            window_32: WINDOW_32,
            window_64: start.min(WINDOW_64_END)..WINDOW_64_END,
        }
    }

    /// All RAM, in ranges of guest physical addresses.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> {
        let high_end = HIGH_START.saturating_add(self.high_bytes);
        [0..self.low_bytes, HIGH_START..high_end]
            .into_iter()
            .filter(|range| !range.is_empty())
    }

    /// Whether `length` bytes from `at` are RAM.
    pub fn is_ram(&self, at: u64, length: u64) -> bool {
        at.checked_add(length).is_some_and(|end| {
            self.ram()
                .any(|range| range.start <= at && end <= range.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole() {
        let small = MemoryLayout::of(512 << 20);
        assert!(small.ram().eq(std::iter::once(0..512 << 20)));
        assert_eq!(small.window_64, 4 * GIB..WINDOW_64_END);
        let large = MemoryLayout::of(5 * GIB + 4096);
        let high_end = 6 * GIB + 4096;
        assert_eq!(
            large.ram().collect::<Vec<_>>(),
            [0..3 * GIB, 4 * GIB..high_end]
        );
        assert_eq!(large.window_64.start, 7 * GIB);
        assert!(large.is_ram(4 * GIB, 4096));
        assert!(!large.is_ram(3 * GIB - 1, 2));
        assert!(!large.is_ram(u64::MAX, 2));
    }
}
