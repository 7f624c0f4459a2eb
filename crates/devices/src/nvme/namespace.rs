//! The one namespace: its size, its block format, its names, and whether it takes writes.

use std::sync::atomic::{AtomicBool, Ordering};

use block::DiskInfo;
use uuid::Uuid;

use super::io::MDTS;
use super::registers::PAGE;
use super::status::Status;

/// The namespace's identifier.
pub const NAMESPACE: u32 = 1;

/// A range of blocks in bytes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Namespace 1.
#[derive(Debug)]
pub(super) struct Namespace {
    info: DiskInfo,
    uuid: Uuid,
    write_protected: AtomicBool,
}

impl Namespace {
    pub(super) fn new(info: DiskInfo, uuid: Uuid) -> Self {
        Self {
            write_protected: AtomicBool::new(info.read_only),
            info,
            uuid,
        }
    }

    pub(super) fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// Size in logical blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.info.blocks()
    }

    /// LBADS: the block size as a power of two.
    pub(super) fn block_shift(&self) -> u32 {
        self.info.block_size.trailing_zeros()
    }

    /// MDTS: what the disk takes at a time, as a power of two of pages. Zero would mean "no limit".
    pub(super) fn mdts(&self) -> u8 {
        let pages = (u64::from(self.info.max_transfer) / PAGE).max(2);
        (pages.ilog2() as u8).min(MDTS)
    }

    /// MDTS in bytes.
    pub(super) fn transfer_bytes_max(&self) -> u64 {
        PAGE << self.mdts()
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// NGUID: 16 bytes that name the namespace for ever.
    pub(super) fn nguid(&self) -> [u8; 16] {
        *self.uuid.as_bytes()
    }

    /// EUI64, from the UUID, with the bit that says "locally administered".
    pub(super) fn eui64(&self) -> [u8; 8] {
        let bytes = self.uuid.as_bytes();
        let mut eui = [0; 8];
        for (index, byte) in eui.iter_mut().enumerate() {
            *byte = bytes[index] ^ bytes[index + 8];
        }
        eui[0] = eui[0] & !1 | 2;
        eui
    }

    pub(super) fn is_write_protected(&self) -> bool {
        self.write_protected.load(Ordering::Relaxed)
    }

    /// Returns whether that was a change. A disk that is read-only stays so.
    pub(super) fn set_write_protected(&self, protect: bool) -> bool {
        let protect = protect || self.info.read_only;
        self.write_protected.swap(protect, Ordering::SeqCst) != protect
    }

    /// Accepts this namespace only.
    pub(super) const fn check_id(id: u32) -> Result<(), Status> {
        if id == NAMESPACE {
            Ok(())
        } else {
            Err(Status::INVALID_NAMESPACE)
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), Status> {
        if self.is_write_protected() {
            Err(Status::WRITE_PROTECTED)
        } else {
            Ok(())
        }
    }

    /// `count` blocks from `first`, as bytes, if they are all there.
    pub(super) fn range(&self, first: u64, count: u64) -> Result<ByteRange, Status> {
        let inside = first
            .checked_add(count)
            .is_some_and(|end| end <= self.blocks());
        if !inside {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let shift = self.block_shift();
        Ok(ByteRange {
            offset: first << shift,
            length: count << shift,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_with_the_namespace() {
        let namespace = Namespace::new(DiskInfo::new(4096, 1 << 20), Uuid::nil());
        assert_eq!(namespace.blocks(), 256);
        let last = namespace.range(255, 1).unwrap();
        assert_eq!((last.offset, last.length), (255 << 12, 4096));
        for (first, count) in [(255, 2), (256, 1), (u64::MAX, 1), (0, 257)] {
            let refused = namespace.range(first, count);
            assert_eq!(refused, Err(Status::LBA_OUT_OF_RANGE), "{first} {count}");
        }
    }

    #[test]
    fn transfers_are_as_long_as_the_disk_takes_up_to_a_mebibyte() {
        let with = |max_transfer| {
            let mut info = DiskInfo::new(512, 512);
            info.max_transfer = max_transfer;
            Namespace::new(info, Uuid::nil()).mdts()
        };
        assert_eq!(with(1 << 20), 8);
        assert_eq!(with(u32::MAX), 8);
        assert_eq!(with(65_536 + 512), 4);
        assert_eq!(with(0), 1);
    }

    #[test]
    fn a_read_only_disk_cannot_be_made_writable() {
        let mut info = DiskInfo::new(512, 1 << 20);
        info.read_only = true;
        let namespace = Namespace::new(info, Uuid::nil());
        assert!(!namespace.set_write_protected(false));
        assert!(namespace.check_writable().is_err());
    }

    #[test]
    fn names_differ_with_the_uuid_and_are_local() {
        let of = |n| Namespace::new(DiskInfo::new(512, 512), Uuid::from_u128(n)).eui64();
        assert_ne!(of(1), of(2));
        assert_eq!(of(1)[0] & 3, 2);
    }
}
