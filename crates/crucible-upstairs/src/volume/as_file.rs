//! A volume as a file: reads and writes of any bytes, where volumes know only blocks. What begins or ends within a
//! block is read, changed and written back, under a lock.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;

use super::Volume;
use crate::core::VolumeError;
use crate::store::Shape;

/// Most bytes that one call moves; longer ones are told so and come again.
const CALL_BYTES: usize = 4 << 20;

/// An active volume as a file of fixed size. Clones share the lock, and each has its own position. For threads
/// without a runtime. Others that write blocks of the same volume do not know of the lock.
#[derive(Clone, Debug)]
pub struct VolumeFile {
    volume: Volume,
    shape: Shape,
    changing: Arc<Mutex<()>>,
    position: u64,
}

/// Whole blocks around a range of bytes.
struct Around {
    start: BlockIndex,
    count: u64,
    /// Bytes of the first block before the range.
    skip: usize,
}

impl VolumeFile {
    /// A file over `volume`, which has been activated. `None`: it has not, and nothing says how large it is.
    pub fn new(volume: Volume) -> Option<Self> {
        let shape = volume.shape()?;
        Some(Self {
            volume,
            shape,
            changing: Arc::default(),
            position: 0,
        })
    }

    /// In bytes.
    pub const fn len(&self) -> u64 {
        self.shape.bytes()
    }

    /// Whether there is no byte at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of `length` bytes from `offset` on there are, as far as one call goes.
    fn within(&self, offset: u64, length: usize) -> usize {
        let left = self.len().saturating_sub(offset);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        length.min(left).min(CALL_BYTES)
    }

    /// For a range that lies within the file and is not empty.
    fn around(&self, offset: u64, length: usize) -> Around {
        let size = u64::from(self.shape.block_size);
        let first = offset / size;
        let end = (offset + length as u64).div_ceil(size);
        Around {
            start: BlockIndex(first),
            count: end - first,
            skip: (offset % size) as usize,
        }
    }

    /// Reads from `offset` on; returns how many bytes, 0 at the end.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let length = self.within(offset, into.len());
        if length == 0 {
            return Ok(0);
        }
        let Around { start, count, skip } = self.around(offset, length);
        let plain = self.volume.read_blocking(start, count).map_err(system)?;
        let bytes = plain.data.get(skip..skip + length);
        let (Some(bytes), Some(into)) = (bytes, into.get_mut(..length)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        into.copy_from_slice(bytes);
        Ok(length)
    }

    /// Writes at `offset`; returns how many bytes, 0 at the end.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        let length = self.within(offset, from.len());
        if length == 0 {
            return Ok(0);
        }
        let Around { start, count, skip } = self.around(offset, length);
        let size = self.shape.block_size as usize;
        let mut data = BytesMut::zeroed(count as usize * size);
        let end = skip + length;
        // Also whole blocks: a neighbour may be about to write back what it has read of them.
        let lock = self.changing.lock();
        let _changing = lock.unwrap_or_else(PoisonError::into_inner);
        let edge = |block: u64, data: &mut BytesMut| -> io::Result<()> {
            let at = BlockIndex(start.0 + block);
            let plain = self.volume.read_blocking(at, 1).map_err(system)?;
            let place = block as usize * size;
            match data.get_mut(place..place + size) {
                Some(into) if into.len() == plain.data.len() => into.copy_from_slice(&plain.data),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            Ok(())
        };
        if skip > 0 {
            edge(0, &mut data)?;
        }
        if !end.is_multiple_of(size) && (skip == 0 || count > 1) {
            edge(count - 1, &mut data)?;
        }
        if let (Some(into), Some(from)) = (data.get_mut(skip..end), from.get(..length)) {
            into.copy_from_slice(from);
        }
        self.volume.write_blocking(start, data).map_err(system)?;
        Ok(length)
    }
}

impl Read for VolumeFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(self.position, into)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for VolumeFile {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = self.write_at(self.position, from)?;
        self.position += count as u64;
        Ok(count)
    }

    /// Makes durable what was written.
    fn flush(&mut self) -> io::Result<()> {
        self.volume.flush_blocking(None).map_err(system)
    }
}

impl Seek for VolumeFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

fn system(error: VolumeError) -> io::Error {
    match error {
        VolumeError::ReadOnly => io::Error::new(io::ErrorKind::ReadOnlyFilesystem, error),
        VolumeError::Inactive | VolumeError::ShutDown => {
            io::Error::new(io::ErrorKind::NotConnected, error)
        }
        other => io::Error::other(other),
    }
}
