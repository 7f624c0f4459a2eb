//! The configuration of a block device, as the driver reads it, and its feature bits.
//!
//! Source: Virtio 1.2, 5.2.3 and 5.2.4.

use std::sync::atomic::{AtomicBool, Ordering};

use block::DiskInfo;

use super::command::{RANGES_MAX, SECTOR};
use crate::bus::{Access, RegisterFile, RegisterMap, Width, row};

/// Feature bits of a block device.
pub mod feature {
    /// `size_max` holds.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` holds.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk cannot be written.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` holds.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// There is a flush request.
    pub const FLUSH: u64 = 1 << 9;
    /// `topology` holds.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver can switch the write cache.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// There is a discard request.
    pub const DISCARD: u64 = 1 << 13;
    /// There is a request that writes zeroes.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// The largest single buffer of a request, in bytes.
const BUFFER_MAX: u32 = 1 << 20;
/// The largest discard, in sectors: 2 GiB.
const DISCARD_MAX: u32 = 1 << 22;
/// The largest write of zeroes, in sectors, where the disk has to write them: 32 MiB.
const ZEROES_MAX: u32 = 1 << 16;

/// Fields of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Size in sectors of 512 bytes.
    Capacity,
    /// Largest buffer.
    SizeMax,
    /// Most buffers of data in a request.
    SegMax,
    /// Logical block size.
    BlockSize,
    /// Blocks in a physical block, as a power of two.
    PhysicalBlockExponent,
    /// Offset of the first aligned block.
    AlignmentOffset,
    /// Smallest transfer without penalty, in blocks.
    MinimumIo,
    /// Best transfer, in blocks.
    OptimalIo,
    /// Write cache on.
    Writeback,
    /// Number of queues.
    Queues,
    /// Largest discard, in sectors.
    DiscardMax,
    /// Most ranges of a discard.
    DiscardRanges,
    /// Alignment of discards, in sectors.
    DiscardAlignment,
    /// Largest write of zeroes, in sectors.
    ZeroesMax,
    /// Most ranges of a write of zeroes.
    ZeroesRanges,
    /// Writing zeroes may free the space.
    ZeroesUnmap,
}

/// `struct virtio_blk_config`; the geometry at 16 is not offered and reads as zero.
pub static CONFIG: RegisterMap<Field> = RegisterMap::new(&[
    row(Field::Capacity, 0, Width::U64, Access::ReadOnly),
    row(Field::SizeMax, 8, Width::U32, Access::ReadOnly),
    row(Field::SegMax, 12, Width::U32, Access::ReadOnly),
    row(Field::BlockSize, 20, Width::U32, Access::ReadOnly),
    row(
        Field::PhysicalBlockExponent,
        24,
        Width::U8,
        Access::ReadOnly,
    ),
    row(Field::AlignmentOffset, 25, Width::U8, Access::ReadOnly),
    row(Field::MinimumIo, 26, Width::U16, Access::ReadOnly),
    row(Field::OptimalIo, 28, Width::U32, Access::ReadOnly),
    row(
        Field::Writeback,
        32,
        Width::U8,
        Access::ReadWrite { mask: 1 },
    ),
    row(Field::Queues, 34, Width::U16, Access::ReadOnly),
    row(Field::DiscardMax, 36, Width::U32, Access::ReadOnly),
    row(Field::DiscardRanges, 40, Width::U32, Access::ReadOnly),
    row(Field::DiscardAlignment, 44, Width::U32, Access::ReadOnly),
    row(Field::ZeroesMax, 48, Width::U32, Access::ReadOnly),
    row(Field::ZeroesRanges, 52, Width::U32, Access::ReadOnly),
    row(Field::ZeroesUnmap, 56, Width::U8, Access::ReadOnly),
]);

/// The configuration of one device.
#[derive(Debug)]
pub(super) struct BlockConfiguration {
    info: DiskInfo,
    queues: u16,
    segments_max: u32,
    writeback: AtomicBool,
}

impl BlockConfiguration {
    /// Chains of a queue of `queue_size` entries hold two buffers besides the data.
    pub(super) fn new(info: DiskInfo, queues: u16, queue_size: u16) -> Self {
        Self {
            info,
            queues,
            segments_max: u32::from(queue_size.saturating_sub(2).max(1)),
            writeback: AtomicBool::new(info.volatile_cache),
        }
    }

    pub(super) const fn info(&self) -> &DiskInfo {
        &self.info
    }

    pub(super) const fn features(&self) -> u64 {
        let mut features = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::CONFIG_WCE;
        if self.queues > 1 {
            features |= feature::MQ;
        }
        if self.info.read_only {
            features |= feature::RO;
        } else {
            features |= feature::WRITE_ZEROES;
            if self.info.discard {
                features |= feature::DISCARD;
            }
        }
        features
    }

    /// The driver lets completed writes wait for a flush.
    pub(super) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Relaxed)
    }

    pub(super) fn set_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::SeqCst);
    }

    pub(super) fn reset(&self) {
        self.set_writeback(self.info.volatile_cache);
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut file = self;
        CONFIG.read(&mut file, offset, data);
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        let mut file = self;
        CONFIG.write(&mut file, offset, data);
    }

    fn preferred_blocks(&self) -> u64 {
        u64::from((self.info.preferred_transfer / self.info.block_size).max(1))
    }
}

impl RegisterFile<Field> for &BlockConfiguration {
    fn read(&mut self, field: Field) -> u64 {
        let block = u64::from(self.info.block_size);
        match field {
            Field::Capacity => self.info.size_bytes / SECTOR,
            Field::SizeMax => u64::from(BUFFER_MAX),
            Field::SegMax => u64::from(self.segments_max),
            Field::BlockSize => block,
            Field::PhysicalBlockExponent => u64::from(self.preferred_blocks().ilog2()),
            Field::AlignmentOffset => 0,
            Field::MinimumIo => self.preferred_blocks().min(0xffff),
            Field::OptimalIo => u64::from(self.info.max_transfer) / block,
            Field::Writeback => u64::from(self.writeback()),
            Field::Queues => u64::from(self.queues),
            Field::DiscardMax => u64::from(DISCARD_MAX),
            Field::DiscardRanges | Field::ZeroesRanges => u64::from(RANGES_MAX),
            Field::DiscardAlignment => self.preferred_blocks() * block / SECTOR,
            Field::ZeroesMax if self.info.write_zeroes => u64::from(DISCARD_MAX),
            Field::ZeroesMax => u64::from(ZEROES_MAX),
            Field::ZeroesUnmap => u64::from(self.info.discard),
        }
    }

    fn write(&mut self, field: Field, value: u64) {
        if field == Field::Writeback {
            self.set_writeback(value & 1 != 0);
        }
    }
}
