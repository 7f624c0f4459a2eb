//! A leaf in memory, for tests and for what nobody keeps. It knows which blocks were written.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;

use super::leaf::Leaf;
use crate::core::{Plain, VolumeError, Written};
use crate::store::Shape;

/// Blocks in memory.
pub struct MemoryLeaf {
    shape: Shape,
    content: Mutex<Content>,
}

struct Content {
    bytes: Vec<u8>,
    written: Vec<bool>,
}

impl MemoryLeaf {
    /// Blocks that were never written. `None`: more bytes than this host can address.
    pub fn new(block_size: u32, blocks: u64) -> Option<Self> {
        let count = usize::try_from(blocks).ok()?;
        let bytes = count.checked_mul(block_size as usize)?;
        Some(Self {
            shape: Shape {
                block_size,
                blocks,
                read_only: false,
                encrypted: false,
            },
            content: Mutex::new(Content {
                bytes: vec![0; bytes],
                written: vec![false; count],
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, start: BlockIndex, count: u64) -> VolumeError {
        VolumeError::OutOfRange {
            start: start.0,
            count,
            blocks: self.shape.blocks,
        }
    }
}

impl Leaf for MemoryLeaf {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn read(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError> {
        let content = self.lock();
        let (size, first) = (self.shape.block_size as usize, start.0 as usize);
        let end = first + count as usize;
        let bytes = content.bytes.get(first * size..end * size);
        let marks = content.written.get(first..end);
        let (Some(bytes), Some(marks)) = (bytes, marks) else {
            return Err(self.gone(start, count));
        };
        Ok(Plain {
            data: bytes::Bytes::copy_from_slice(bytes),
            written: if marks.iter().all(|mark| *mark) {
                Written::All
            } else if marks.iter().any(|mark| *mark) {
                Written::Some(marks.into())
            } else {
                Written::Nothing
            },
        })
    }

    fn write(&self, start: BlockIndex, data: BytesMut, unwritten: bool) -> Result<(), VolumeError> {
        let mut content = self.lock();
        let content = &mut *content;
        let size = self.shape.block_size as usize;
        for (block, at) in data.chunks(size).zip(start.0 as usize..) {
            let place = content.bytes.get_mut(at * size..(at + 1) * size);
            let (Some(place), Some(mark)) = (place, content.written.get_mut(at)) else {
                return Err(self.gone(start, (data.len() / size) as u64));
            };
            if !(unwritten && *mark) {
                place.copy_from_slice(block);
                *mark = true;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}

impl fmt::Debug for MemoryLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLeaf")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}
