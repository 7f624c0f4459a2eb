//! The memory map that a PC's firmware answers with to function E820h.

use super::layout::{
    ECAM_BASE, EXTENDED_START, HIGH_START, LOW_MEMORY_END, MemoryLayout, TABLES_START,
};

/// What may be done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Kind {
    /// Free RAM.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// ACPI tables; free once they have been read.
    AcpiTables = 3,
    /// Memory of the firmware, to be kept over sleep.
    AcpiStorage = 4,
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820Entry {
    /// The 20 bytes of the entry as the zero page and `etc/e820` have them.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }
}

/// Last KiB of conventional memory: the extended BIOS data area of machines that have one.
const EBDA: u64 = LOW_MEMORY_END - 0x400;

/// The map of a machine that boots directly: no firmware will make one.
pub fn map(layout: &MemoryLayout) -> Vec<E820Entry> {
    let mut entries = Vec::with_capacity(8);
    let mut push = |start: u64, end: u64, kind| {
        if start < end {
            entries.push(E820Entry {
                start,
                length: end - start,
                kind,
            });
        }
    };
    push(0, EBDA.min(layout.low_bytes), E820Kind::Ram);
    push(EBDA, LOW_MEMORY_END, E820Kind::Reserved);
    push(TABLES_START, EXTENDED_START, E820Kind::Reserved);
    push(EXTENDED_START, layout.low_bytes, E820Kind::Ram);
    let ecam_end = ECAM_BASE + (u64::from(layout.ecam_buses) << 20);
    push(ECAM_BASE, ecam_end, E820Kind::Reserved);
    push(
        HIGH_START.saturating_sub(layout.rom_bytes),
        HIGH_START,
        E820Kind::Reserved,
    );
    push(
        HIGH_START,
        HIGH_START.saturating_add(layout.high_bytes),
        E820Kind::Ram,
    );
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ordered_disjoint_and_cover_the_ram_above_one_mib() {
        for bytes in [16 << 20, 3 << 30, 9 << 30] {
            let layout = MemoryLayout {
                rom_bytes: 2 << 20,
                ecam_buses: 256,
                ..MemoryLayout::of(bytes)
            };
            let entries = map(&layout);
            for pair in entries.windows(2) {
                assert!(pair[0].start + pair[0].length <= pair[1].start);
            }
            let free: u64 = entries
                .iter()
                .filter(|entry| entry.kind == E820Kind::Ram)
                .map(|entry| entry.length)
                .sum();
            assert_eq!(free, bytes - EXTENDED_START + EBDA);
        }
    }

    #[test]
    fn an_entry_has_twenty_bytes() {
        let entry = E820Entry {
            start: 0x10_0000,
            length: 0x1234,
            kind: E820Kind::Reserved,
        };
        assert_eq!(
            entry.to_bytes(),
            [
                0, 0, 0x10, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0
            ]
        );
    }
}
