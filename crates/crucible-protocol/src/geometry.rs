//! How blocks make extents, and extents a region.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{BlockIndex, ExtentId};

/// The smallest block: a sector.
pub const BLOCK_SIZE_MIN: u64 = 512;
/// The largest block.
pub const BLOCK_SIZE_MAX: u64 = 32768;
/// The largest extent, in bytes of data.
pub const EXTENT_BYTES_MAX: u64 = 1 << 29;
/// The only database version there is, for reading as for writing.
pub const DATABASE_VERSION: u64 = 1;

/// Size of an extent, as the wire and region.json give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentSize {
    /// In blocks.
    pub value: u64,
    /// Log2 of the block size.
    pub shift: u32,
}

/// What a region is: the content of region.json and of `RegionInfo`. Whatever a peer or a file says may stand
/// here; [`RegionDefinition::geometry`] tells whether it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionDefinition {
    /// In bytes.
    pub block_size: u64,
    /// Blocks of one extent.
    pub extent_size: ExtentSize,
    /// How many extents.
    pub extent_count: u32,
    /// Of this region; the three of a volume differ.
    pub uuid: Uuid,
    /// Whether blocks come sealed.
    pub encrypted: bool,
    /// [`DATABASE_VERSION`].
    pub database_read_version: u64,
    /// [`DATABASE_VERSION`].
    pub database_write_version: u64,
}

/// A geometry that has been checked: no product of it overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block_size: u32,
    blocks_per_extent: u32,
    extent_count: u32,
}

/// A geometry that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not a power of two from 512 to 32768.
    #[error("block size {0}: must be a power of two from {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX}")]
    BlockSize(u64),
    /// The shift is not that of the block size.
    #[error("extent size shift {shift} does not belong to block size {block_size}")]
    Shift {
        /// As given.
        shift: u32,
        /// As given.
        block_size: u64,
    },
    /// No blocks, or more bytes than an extent may have.
    #[error(
        "{blocks} blocks of {block_size} bytes an extent: must be at least one block and at most {EXTENT_BYTES_MAX} bytes"
    )]
    ExtentSize {
        /// As given.
        blocks: u64,
        /// As given.
        block_size: u64,
    },
    /// A database version that nobody has.
    #[error(
        "database versions {read} (read) and {write} (write): only {DATABASE_VERSION} is known"
    )]
    DatabaseVersion {
        /// As given.
        read: u64,
        /// As given.
        write: u64,
    },
}

/// One part of a range of blocks: what lies in one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRun {
    /// The extent.
    pub extent: ExtentId,
    /// First block, counted within the extent.
    pub first: u32,
    /// How many blocks.
    pub count: u32,
}

impl RegionDefinition {
    /// Checks everything that can be checked without the files.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        let (read, write) = (self.database_read_version, self.database_write_version);
        if (read, write) != (DATABASE_VERSION, DATABASE_VERSION) {
            return Err(GeometryError::DatabaseVersion { read, write });
        }
        let geometry = Geometry::new(self.block_size, self.extent_size.value, self.extent_count)?;
        if self.extent_size.shift != self.block_size.trailing_zeros() {
            return Err(GeometryError::Shift {
                shift: self.extent_size.shift,
                block_size: self.block_size,
            });
        }
        Ok(geometry)
    }

    /// The definition of a region of this geometry.
    pub const fn new(geometry: Geometry, uuid: Uuid, encrypted: bool) -> Self {
        Self {
            block_size: geometry.block_size as u64,
            extent_size: ExtentSize {
                value: geometry.blocks_per_extent as u64,
                shift: geometry.block_size.trailing_zeros(),
            },
            extent_count: geometry.extent_count,
            uuid,
            encrypted,
            database_read_version: DATABASE_VERSION,
            database_write_version: DATABASE_VERSION,
        }
    }
}

impl Geometry {
    /// Sizes in bytes, blocks and extents. No extents at all is a region that is still being made.
    pub fn new(
        block_size: u64,
        blocks_per_extent: u64,
        extent_count: u32,
    ) -> Result<Self, GeometryError> {
        if !block_size.is_power_of_two() || !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size)
        {
            return Err(GeometryError::BlockSize(block_size));
        }
        if blocks_per_extent == 0 || blocks_per_extent > EXTENT_BYTES_MAX / block_size {
            return Err(GeometryError::ExtentSize {
                blocks: blocks_per_extent,
                block_size,
            });
        }
        Ok(Self {
            block_size: block_size as u32,
            blocks_per_extent: blocks_per_extent as u32,
            extent_count,
        })
    }

    /// In bytes.
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// In blocks.
    pub const fn blocks_per_extent(&self) -> u32 {
        self.blocks_per_extent
    }

    /// How many extents.
    pub const fn extent_count(&self) -> u32 {
        self.extent_count
    }

    /// All blocks of the region.
    pub const fn block_count(&self) -> u64 {
        self.blocks_per_extent as u64 * self.extent_count as u64
    }

    /// Bytes of data of the region.
    pub const fn bytes(&self) -> u64 {
        self.block_count() * self.block_size as u64
    }

    /// Whether there are `count` blocks from `start` on.
    pub fn contains(&self, start: BlockIndex, count: u64) -> bool {
        start
            .0
            .checked_add(count)
            .is_some_and(|end| end <= self.block_count())
    }

    /// The extent that a block lies in, and its place there; `None` past the end.
    pub fn locate(&self, block: BlockIndex) -> Option<(ExtentId, u32)> {
        let per_extent = u64::from(self.blocks_per_extent);
        (block.0 < self.block_count()).then(|| {
            (
                ExtentId((block.0 / per_extent) as u32),
                (block.0 % per_extent) as u32,
            )
        })
    }

    /// `count` blocks from `start` on, cut at the borders of extents. Empty when any of them does not exist.
    pub fn runs(&self, start: BlockIndex, count: u64) -> impl Iterator<Item = ExtentRun> + use<> {
        let geometry = *self;
        let mut next = start.0;
        let end = if self.contains(start, count) {
            start.0 + count
        } else {
            next
        };
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let (extent, first) = geometry.locate(BlockIndex(next))?;
            let count = u64::from(geometry.blocks_per_extent - first).min(end - next) as u32;
            next += u64::from(count);
            Some(ExtentRun {
                extent,
                first,
                count,
            })
        })
    }
}
