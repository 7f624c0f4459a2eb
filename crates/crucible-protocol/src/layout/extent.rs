//! What lies where in an extent file, and which of its slots are active (spec: disk 5.3).

use std::ops::Range;

use super::metadata::METADATA_LEN;
use super::slot::{SLOT_LEN, Slot};
use crate::geometry::Geometry;

/// The places in an extent file, in bytes from its beginning. They follow from the geometry, in which no product
/// overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentLayout {
    block_size: u64,
    blocks: u32,
}

impl ExtentLayout {
    /// The layout of each extent of a region.
    pub const fn new(geometry: &Geometry) -> Self {
        Self {
            block_size: geometry.block_size() as u64,
            blocks: geometry.blocks_per_extent(),
        }
    }

    /// How many blocks.
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The data of `count` blocks from `first` on; `None` when the extent does not have them.
    pub fn data(&self, first: u32, count: u32) -> Option<Range<u64>> {
        self.stretch(0, self.block_size, first, count)
    }

    /// The slots of `count` blocks from `first` on; `None` when the extent does not have them.
    pub fn slots(&self, slot: Slot, first: u32, count: u32) -> Option<Range<u64>> {
        let start = match slot {
            Slot::A => self.data_len(),
            Slot::B => self.data_len() + self.slots_len(),
        };
        self.stretch(start, SLOT_LEN as u64, first, count)
    }

    /// The bitmap of active slots.
    pub const fn bitmap(&self) -> Range<u64> {
        let start = self.data_len() + 2 * self.slots_len();
        start..start + self.blocks.div_ceil(8) as u64
    }

    /// The metadata, right after the bitmap.
    pub const fn metadata(&self) -> Range<u64> {
        let start = self.bitmap().end;
        start..start + METADATA_LEN as u64
    }

    /// Bytes of the data; the whole file of an extent of the old format.
    pub const fn data_len(&self) -> u64 {
        self.block_size * self.blocks as u64
    }

    /// Bytes of the file.
    pub const fn file_len(&self) -> u64 {
        self.metadata().end
    }

    const fn slots_len(&self) -> u64 {
        SLOT_LEN as u64 * self.blocks as u64
    }

    fn stretch(&self, start: u64, each: u64, first: u32, count: u32) -> Option<Range<u64>> {
        let end = first.checked_add(count).filter(|end| *end <= self.blocks)?;
        Some(start + each * u64::from(first)..start + each * u64::from(end))
    }
}

/// For each block of an extent, the slot that speaks for it: a bit each, 0 for A, in the layout of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveSlots {
    bits: Box<[u8]>,
    blocks: u32,
}

impl ActiveSlots {
    /// Slot A for all.
    pub fn new(blocks: u32) -> Self {
        Self {
            bits: vec![0; blocks.div_ceil(8) as usize].into(),
            blocks,
        }
    }

    /// From the bitmap of a file; `None` if it is not as long as that of so many blocks.
    pub fn from_bytes(bytes: &[u8], blocks: u32) -> Option<Self> {
        (bytes.len() == blocks.div_ceil(8) as usize).then(|| Self {
            bits: bytes.into(),
            blocks,
        })
    }

    /// The bitmap as it lies in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// The slot that speaks for a block; `None` if there is no such block.
    pub fn get(&self, block: u32) -> Option<Slot> {
        let byte = self.bits.get(self.place(block)?)?;
        Some(if byte >> (block % 8) & 1 == 0 {
            Slot::A
        } else {
            Slot::B
        })
    }

    /// Makes a slot speak for a block; nothing happens if there is no such block.
    pub fn set(&mut self, block: u32, slot: Slot) {
        let bit = 1 << (block % 8);
        let Some(byte) = self.place(block).and_then(|place| self.bits.get_mut(place)) else {
            return;
        };
        match slot {
            Slot::A => *byte &= !bit,
            Slot::B => *byte |= bit,
        }
    }

    fn place(&self, block: u32) -> Option<usize> {
        (block < self.blocks).then_some(block as usize / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(block_size: u64, blocks: u64) -> ExtentLayout {
        ExtentLayout::new(&Geometry::new(block_size, blocks, 1).unwrap())
    }

    #[test]
    fn everything_lies_where_the_reference_puts_it() {
        for (block_size, blocks, size, a, b, bitmap, metadata) in [
            (512, 10, 6114, 5120, 5600, 6080, 6082),
            (512, 100, 60845, 51200, 56000, 60800, 60813),
            (4096, 64, 268_328, 262_144, 265_216, 268_288, 268_296),
            (4096, 100, 419_245, 409_600, 414_400, 419_200, 419_213),
            (
                4096, 16384, 68_683_808, 67_108_864, 67_895_296, 68_681_728, 68_683_776,
            ),
        ] {
            let layout = layout(block_size, blocks);
            let all = layout.blocks();
            assert_eq!(layout.file_len(), size);
            assert_eq!(layout.data(0, all), Some(0..a));
            assert_eq!(layout.slots(Slot::A, 0, all), Some(a..b));
            assert_eq!(layout.slots(Slot::B, 0, all), Some(b..bitmap));
            assert_eq!(layout.bitmap(), bitmap..metadata);
            assert_eq!(layout.metadata(), metadata..size);
        }
    }

    #[test]
    fn the_largest_extent_overflows_nowhere() {
        let layout = layout(512, 1 << 20);
        assert_eq!(layout.data_len(), 1 << 29);
        assert_eq!(layout.data(1 << 20, 0), Some(1 << 29..1 << 29));
        assert_eq!(
            layout.file_len(),
            (1 << 29) + 96 * (1 << 20) + (1 << 17) + 32
        );
    }

    #[test]
    fn blocks_that_do_not_exist_lie_nowhere() {
        let layout = layout(512, 10);
        for (first, count) in [(0, 11), (10, 1), (11, 0), (u32::MAX, 1), (1, u32::MAX)] {
            assert_eq!(layout.data(first, count), None);
            assert_eq!(layout.slots(Slot::B, first, count), None);
        }
        assert_eq!(layout.data(9, 1), Some(4608..5120));
        assert_eq!(layout.slots(Slot::B, 9, 1), Some(6032..6080));
    }

    #[test]
    fn the_lowest_bit_of_the_first_byte_is_the_first_block() {
        let mut active = ActiveSlots::new(10);
        assert_eq!(active.as_bytes(), [0, 0]);
        active.set(0, Slot::B);
        active.set(9, Slot::B);
        active.set(10, Slot::B);
        active.set(3, Slot::B);
        active.set(3, Slot::A);
        assert_eq!(active.as_bytes(), [1, 2]);
        assert_eq!(ActiveSlots::from_bytes(&[1, 2], 10), Some(active.clone()));
        assert_eq!(
            (active.get(9), active.get(8), active.get(10)),
            (Some(Slot::B), Some(Slot::A), None)
        );
    }

    #[test]
    fn a_bitmap_of_another_length_is_none() {
        assert_eq!(ActiveSlots::from_bytes(&[0], 9), None);
        assert_eq!(ActiveSlots::from_bytes(&[0, 0, 0], 16), None);
    }
}
