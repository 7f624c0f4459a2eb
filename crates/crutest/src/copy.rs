//! An image into a volume, and a volume into an image: what `crudd` does.
//!
//! Blocks go by [`CHUNK`]; a volume cuts that into pieces that are under way side by side.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::VolumeError;
use crucible_upstairs::volume::Volume;

use crate::core::Field;

/// Bytes that are read or written at once; a multiple of every block size.
const CHUNK: u64 = 16 << 20;
/// Bytes between two flushes, so that region servers need not keep more for a replay.
const FLUSH_EVERY: u64 = 256 << 20;

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The bytes that were asked for are not whole blocks of the volume.
    #[error("bytes {from} to {to}: the volume has blocks of {block_size} bytes", from = .range.start, to = .range.end)]
    NotWholeBlocks {
        /// In bytes.
        range: Range<u64>,
        /// In bytes.
        block_size: u32,
    },
    /// The volume ends earlier.
    #[error("bytes {from} to {to}: the volume has {size} bytes", from = .range.start, to = .range.end)]
    OutOfRange {
        /// In bytes.
        range: Range<u64>,
        /// Of the volume, in bytes.
        size: u64,
    },
    /// The image cannot be read or written.
    #[error("the image, at byte {at}: {error}")]
    Image {
        /// Where.
        at: u64,
        /// What the system says.
        error: io::Error,
    },
    /// The volume refuses.
    #[error("the volume, at byte {at}: {error}")]
    Volume {
        /// Where.
        at: u64,
        /// What it says.
        error: VolumeError,
    },
    /// The user wants an end.
    #[error("stopped at byte {at}")]
    Stopped {
        /// How far it came, in bytes of the volume.
        at: u64,
    },
}

/// A part of an active volume that is copied.
#[derive(Debug)]
pub struct Copy<'a> {
    volume: &'a Volume,
    block_size: u64,
    range: Range<u64>,
    stop: &'a AtomicBool,
}

impl<'a> Copy<'a> {
    /// `length` bytes of the volume from byte `offset` on; without a length, all that follow.
    ///
    /// Errors: not whole blocks, or not within the volume.
    pub fn new(
        volume: &'a Volume,
        field: &Field,
        offset: u64,
        length: Option<u64>,
        stop: &'a AtomicBool,
    ) -> Result<Self, CopyError> {
        let block_size = u64::from(field.block_size);
        let size = field.blocks.saturating_mul(block_size);
        let length = length.unwrap_or_else(|| size.saturating_sub(offset));
        let range = offset..offset.saturating_add(length);
        if range.end > size || offset > size {
            return Err(CopyError::OutOfRange { range, size });
        }
        if !offset.is_multiple_of(block_size) || !length.is_multiple_of(block_size) {
            return Err(CopyError::NotWholeBlocks {
                range,
                block_size: field.block_size,
            });
        }
        Ok(Self {
            volume,
            block_size,
            range,
            stop,
        })
    }

    /// In bytes.
    pub const fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn chunks(&self) -> impl Iterator<Item = Result<Range<u64>, CopyError>> + '_ {
        let starts = (self.range.start..self.range.end).step_by(CHUNK as usize);
        starts.map(|at| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped { at });
            }
            Ok(at..self.range.end.min(at + CHUNK))
        })
    }

    /// Writes the volume's bytes to `image`, from the image's beginning. Blocks of zeroes become holes. `progress`
    /// is told how many bytes were done.
    pub fn to_image(&self, image: &File, progress: &mut dyn FnMut(u64)) -> Result<(), CopyError> {
        let failed = |at| move |error| CopyError::Image { at, error };
        // Old content would show through the holes.
        image.set_len(0).map_err(failed(0))?;
        image.set_len(self.length()).map_err(failed(0))?;
        for chunk in self.chunks() {
            let chunk = chunk?;
            let (first, count) = self.blocks(&chunk);
            let plain =
                self.volume
                    .read_blocking(first, count)
                    .map_err(|error| CopyError::Volume {
                        at: chunk.start,
                        error,
                    })?;
            for run in runs_with_content(&plain.data, self.block_size as usize) {
                let at = chunk.start - self.range.start + run.start as u64;
                image
                    .write_all_at(&plain.data[run], at)
                    .map_err(failed(at))?;
            }
            progress(chunk.end - self.range.start);
        }
        image.sync_all().map_err(failed(self.length()))
    }

    /// Writes `image` into the volume; what is missing at the image's end to a whole block is zero. With
    /// `skip_zeroes`, blocks of zeroes are left as they are: right only where the volume was never written.
    pub fn from_image(
        &self,
        image: &File,
        skip_zeroes: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), CopyError> {
        let mut unflushed = 0;
        for chunk in self.chunks() {
            let chunk = chunk?;
            let at = chunk.start - self.range.start;
            let mut data = BytesMut::zeroed((chunk.end - chunk.start) as usize);
            read_up_to(image, &mut data, at).map_err(|error| CopyError::Image { at, error })?;
            let runs = if skip_zeroes {
                runs_with_content(&data, self.block_size as usize)
            } else {
                std::iter::once(0..data.len()).collect()
            };
            let failed = |at: u64| move |error| CopyError::Volume { at, error };
            let mut gone = 0;
            for run in runs {
                let from = chunk.start + run.start as u64;
                let _zeroes = data.split_to(run.start - gone);
                let piece = data.split_to(run.len());
                gone = run.end;
                unflushed += run.len() as u64;
                self.volume
                    .write_blocking(BlockIndex(from / self.block_size), piece)
                    .map_err(failed(from))?;
            }
            if unflushed >= FLUSH_EVERY {
                unflushed = 0;
                self.volume
                    .flush_blocking(None)
                    .map_err(failed(chunk.end))?;
            }
            progress(chunk.end - self.range.start);
        }
        let at = self.range.end;
        self.volume
            .flush_blocking(None)
            .map_err(|error| CopyError::Volume { at, error })
    }

    fn blocks(&self, chunk: &Range<u64>) -> (BlockIndex, u64) {
        let first = BlockIndex(chunk.start / self.block_size);
        (first, (chunk.end - chunk.start) / self.block_size)
    }
}

/// Reads until `data` is full or the file ends.
fn read_up_to(file: &File, mut data: &mut [u8], mut at: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.read_at(data, at) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                data = &mut data[count..];
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where there are blocks that are not all zero, as ranges of bytes.
fn runs_with_content(data: &[u8], block_size: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, block) in data.chunks(block_size).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index * block_size;
        let end = start + block.len();
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn field() -> Field {
        Field {
            block_size: 512,
            blocks: 100_000,
            blocks_per_extent: 100_000,
        }
    }

    fn volume() -> Volume {
        let leaf = crucible_upstairs::volume::MemoryLeaf::new(512, 100_000).unwrap();
        let volume = Volume::in_memory(leaf);
        volume.activate_blocking(Some(1)).unwrap();
        volume
    }

    fn scratch(name: &str) -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("crudd-{}-{name}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        (path, file)
    }

    #[test]
    fn runs_end_where_zeroes_begin() {
        let mut data = vec![0; 2048 + 100];
        data[600] = 1;
        data[1024] = 1;
        data[2147] = 1;
        assert_eq!(runs_with_content(&data, 512), [512..1536, 2048..2148]);
        assert!(runs_with_content(&[0; 512], 512).is_empty());
    }

    #[test]
    fn what_went_into_the_volume_comes_out_of_it() {
        let (volume, stop) = (volume(), AtomicBool::new(false));
        let ((from, mut image), (to, out)) = (scratch("from"), scratch("to"));
        // Content at both ends and across a chunk; the last block is not whole.
        let mut bytes = vec![0; 20 << 20];
        bytes[..1000].fill(1);
        bytes[(16 << 20) - 700..(16 << 20) + 700].fill(2);
        bytes.truncate((20 << 20) - 100);
        bytes.extend([3; 10]);
        image.write_all(&bytes).unwrap();
        out.set_len(30 << 20).unwrap();
        out.write_all_at(&[9; 4096], 8 << 20).unwrap();
        for skip_zeroes in [true, false] {
            let copy = Copy::new(&volume, &field(), 1024, Some(20 << 20), &stop).unwrap();
            let mut done = 0;
            copy.from_image(&image, skip_zeroes, &mut |bytes| done = bytes)
                .unwrap();
            assert_eq!(done, 20 << 20);
            copy.to_image(&out, &mut |_| ()).unwrap();
            let mut found = std::fs::read(&to).unwrap();
            assert_eq!(found.len(), 20 << 20);
            assert!(found.split_off(bytes.len()).iter().all(|byte| *byte == 0));
            assert!(found == bytes, "the image came back changed");
        }
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
    }

    #[test]
    fn a_range_is_whole_blocks_of_the_volume() {
        let (volume, stop) = (volume(), AtomicBool::new(false));
        let copy = |offset, length| {
            Copy::new(&volume, &field(), offset, length, &stop)
                .map(|copy| copy.length())
                .map_err(|error| error.to_string())
        };
        assert_eq!(copy(512, None), Ok(512 * 99_999));
        assert_eq!(copy(512 * 100_000, None), Ok(0));
        assert_eq!(
            copy(0, Some(513)),
            Err("bytes 0 to 513: the volume has blocks of 512 bytes".to_owned())
        );
        for (offset, length) in [(512, Some(u64::MAX)), (512 * 100_001, None)] {
            let error = copy(offset, length).unwrap_err();
            assert!(error.ends_with("the volume has 51200000 bytes"), "{error}");
        }
    }

    #[test]
    fn a_copy_that_is_stopped_says_where() {
        let (volume, stop) = (volume(), AtomicBool::new(true));
        let (path, out) = scratch("stopped");
        let copy = Copy::new(&volume, &field(), 512, None, &stop).unwrap();
        let error = copy.to_image(&out, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "stopped at byte 512");
        std::fs::remove_file(path).unwrap();
    }
}
