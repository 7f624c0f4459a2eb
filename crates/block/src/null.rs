//! A disk that keeps nothing and answers at once: what remains is the cost of the device above it.

use vm_types::GuestSlice;

use crate::engine::Medium;
use crate::info::DiskInfo;
use crate::request::Outcome;

/// What a read of a [`NullDisk`] leaves in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NullReads {
    /// Zeroes.
    #[default]
    Zero,
    /// Whatever was there before: measures the path without the memory traffic.
    Untouched,
}

/// Accepts everything, remembers nothing.
#[derive(Debug)]
pub struct NullDisk {
    info: DiskInfo,
    reads: NullReads,
}

impl NullDisk {
    /// A disk that claims `size_bytes`.
    pub const fn new(block_size: u32, size_bytes: u64, reads: NullReads) -> Self {
        let mut info = DiskInfo::new(block_size, size_bytes);
        info.discard = true;
        info.write_zeroes = true;
        Self { info, reads }
    }
}

impl Medium for NullDisk {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn read(&self, _offset: u64, into: &[GuestSlice<'_>]) -> Result<(), Outcome> {
        if self.reads == NullReads::Zero {
            const ZEROES: [u8; 4096] = [0; 4096];
            for slice in into {
                let mut done = 0;
                while done < slice.len() {
                    let count = ZEROES.len().min(slice.len() - done);
                    let part = slice.subslice(done, count);
                    part.map_err(|_| Outcome::GuestMemory)?
                        .copy_from(&ZEROES[..count]);
                    done += count;
                }
            }
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _from: &[GuestSlice<'_>], _durable: bool) -> Result<(), Outcome> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Outcome> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> Result<(), Outcome> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _may_unmap: bool) -> Result<(), Outcome> {
        Ok(())
    }
}
