//! What a disk says about itself, and the checks that follow from it.

use crate::request::{Operation, Outcome, Request, Segment};

/// The properties of a disk. Fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Logical block size in bytes: a power of two from 512 to 32,768. Offsets and lengths of requests
    /// are multiples of it.
    pub block_size: u32,
    /// Size in bytes, a multiple of the block size.
    pub size_bytes: u64,
    /// Writes, discards and zeroing are refused.
    pub read_only: bool,
    /// [`Operation::Discard`] does something.
    pub discard: bool,
    /// [`Operation::WriteZeroes`] is quicker than writing zeroes. It works in any case.
    pub write_zeroes: bool,
    /// Completed writes may sit in a cache that a flush empties. When false, flushes cost nothing.
    pub volatile_cache: bool,
    /// The largest transfer that a device should let a guest ask for, in bytes.
    pub max_transfer: u32,
    /// Preferred unit of transfers in bytes, at least the block size (page of the host's cache, sector
    /// of the medium below).
    pub preferred_transfer: u32,
}

impl DiskInfo {
    /// A writable disk of `size_bytes` (rounded down to whole blocks) with no optional operation.
    pub const fn new(block_size: u32, size_bytes: u64) -> Self {
        let unit = if block_size == 0 { 512 } else { block_size };
        Self {
            block_size: unit,
            size_bytes: size_bytes - size_bytes % unit as u64,
            read_only: false,
            discard: false,
            write_zeroes: false,
            volatile_cache: false,
            max_transfer: 1 << 20,
            preferred_transfer: if unit > 4096 { unit } else { 4096 },
        }
    }

    /// Size in logical blocks.
    pub const fn blocks(&self) -> u64 {
        self.size_bytes / self.block_size as u64
    }

    /// Whether `block_size` is one that this layer handles.
    pub const fn block_size_is_valid(block_size: u32) -> bool {
        block_size.is_power_of_two() && block_size >= 512 && block_size <= 32_768
    }

    /// Whether a backend may carry out `request` with `segments`. Devices check ranges too; this is the
    /// second look, so that no backend ever grows a file or leaves its mapping.
    pub(crate) fn check(&self, request: &Request, segments: &[Segment]) -> Result<(), Outcome> {
        let writes = match request.operation {
            Operation::Flush => return Ok(()),
            Operation::Read | Operation::Compare | Operation::Verify => false,
            Operation::Write | Operation::Discard | Operation::WriteZeroes { .. } => true,
        };
        if writes && self.read_only {
            return Err(Outcome::ReadOnly);
        }
        if request.operation == Operation::Discard && !self.discard {
            return Err(Outcome::Unsupported);
        }
        // The block size is a power of two, so one mask serves both.
        let aligned = (request.offset | request.length) & u64::from(self.block_size - 1) == 0;
        let inside = request
            .offset
            .checked_add(request.length)
            .is_some_and(|end| end <= self.size_bytes);
        if !aligned || !inside {
            return Err(Outcome::OutOfRange);
        }
        let transfers = matches!(
            request.operation,
            Operation::Read | Operation::Write | Operation::Compare
        );
        if transfers {
            let sum: u64 = segments.iter().map(|s| u64::from(s.length)).sum();
            if sum != request.length {
                return Err(Outcome::GuestMemory);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Token;
    use vm_types::GuestAddress;

    fn check(info: &DiskInfo, operation: Operation, offset: u64, length: u64) -> Option<Outcome> {
        let request = Request {
            operation,
            offset,
            length,
            durable: false,
            token: Token {
                slot: 0,
                generation: 0,
            },
            segments: 0..1,
        };
        let segments = [Segment {
            address: GuestAddress(0),
            length: length as u32,
        }];
        info.check(&request, &segments).err()
    }

    #[test]
    fn ranges_are_held_to_size_and_block_size() {
        let info = DiskInfo::new(512, 4096 + 100);
        assert_eq!(info.size_bytes, 4096);
        assert_eq!(check(&info, Operation::Read, 3584, 512), None);
        for (offset, length) in [
            (4096, 512),
            (3584, 1024),
            (u64::MAX - 511, 512),
            (1, 512),
            (0, 100),
        ] {
            assert_eq!(
                check(&info, Operation::Read, offset, length),
                Some(Outcome::OutOfRange),
                "{offset} {length}"
            );
        }
    }

    #[test]
    fn what_a_disk_does_not_do_is_refused() {
        let mut info = DiskInfo::new(512, 4096);
        assert_eq!(
            check(&info, Operation::Discard, 0, 512),
            Some(Outcome::Unsupported)
        );
        info.read_only = true;
        for operation in [
            Operation::Write,
            Operation::Discard,
            Operation::WriteZeroes { may_unmap: true },
        ] {
            assert_eq!(check(&info, operation, 0, 512), Some(Outcome::ReadOnly));
        }
        assert_eq!(check(&info, Operation::Flush, 7, 7), None);
    }
}
