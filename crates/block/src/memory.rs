//! A disk in anonymous host memory. Its content ends with the process.

use vm_types::{GuestAddress, GuestMemory, GuestSlice, MemoryError};

use crate::engine::Medium;
use crate::info::DiskInfo;
use crate::request::Outcome;

/// Disk content in a mapping of its own: pages take host memory when first written.
///
/// Overlapping requests of several queues race as on a real disk: each byte is one or the other.
#[derive(Debug)]
pub struct MemoryDisk {
    info: DiskInfo,
    /// The same volatile copies that guest memory needs serve here, for the same reason: several
    /// queues write at once.
    content: GuestMemory,
}

impl MemoryDisk {
    /// A zeroed disk. Errors: the host cannot map that much.
    pub fn new(block_size: u32, size_bytes: u64) -> Result<Self, MemoryError> {
        let info = DiskInfo {
            discard: true,
            write_zeroes: true,
            ..DiskInfo::new(block_size, size_bytes)
        };
        Ok(Self {
            info,
            content: GuestMemory::flat(info.size_bytes.max(1))?,
        })
    }

    /// A disk that begins with `image`, padded with zeroes to whole blocks.
    pub fn with_content(block_size: u32, image: &[u8]) -> Result<Self, MemoryError> {
        let unit = u64::from(DiskInfo::new(block_size, 0).block_size);
        let disk = Self::new(block_size, (image.len() as u64).next_multiple_of(unit))?;
        disk.content.load(GuestAddress(0), image)?;
        Ok(disk)
    }

    fn range(&self, offset: u64, length: u64) -> Result<GuestSlice<'_>, Outcome> {
        self.content
            .slice(GuestAddress(offset), length)
            .map_err(|_| Outcome::OutOfRange)
    }
}

impl Medium for MemoryDisk {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn read(&self, offset: u64, into: &[GuestSlice<'_>]) -> Result<(), Outcome> {
        let mut at = offset;
        for slice in into {
            let length = slice.len() as u64;
            self.range(at, length)?.copy_to_volatile_slice(*slice);
            at += length;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[GuestSlice<'_>], _durable: bool) -> Result<(), Outcome> {
        let mut at = offset;
        for slice in from {
            let length = slice.len() as u64;
            slice.copy_to_volatile_slice(self.range(at, length)?);
            at += length;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Outcome> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Outcome> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _may_unmap: bool) -> Result<(), Outcome> {
        self.content
            .fill(GuestAddress(offset), 0, length)
            .map_err(|_| Outcome::OutOfRange)
    }
}
