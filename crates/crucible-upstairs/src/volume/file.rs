//! A leaf that is a local file: an image to start from, or a disk for trying things out. All of it counts as written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;

use super::leaf::{Leaf, failed};
use crate::core::{Plain, VolumeError, Written};
use crate::store::Shape;

/// A file. Bytes past its last whole block do not count.
#[derive(Debug)]
pub struct FileLeaf {
    file: File,
    path: PathBuf,
    shape: Shape,
}

impl FileLeaf {
    /// Opens `path`, for writing too where it may be. Errors: those of the system.
    pub fn open(path: &Path, block_size: u32) -> io::Result<Self> {
        let both = File::options().read(true).write(true).open(path);
        let (file, read_only) = match both {
            Ok(file) => (file, false),
            Err(error) if may_be_read(&error) => (File::open(path)?, true),
            Err(error) => return Err(error),
        };
        let blocks = file.metadata()?.len().checked_div(u64::from(block_size));
        Ok(Self {
            file,
            path: path.to_owned(),
            shape: Shape {
                block_size,
                blocks: blocks.unwrap_or(0),
                read_only,
                encrypted: false,
            },
        })
    }

    fn failed(&self, start: BlockIndex, bytes: usize, error: &io::Error) -> VolumeError {
        let blocks = (bytes / self.shape.block_size as usize) as u64;
        failed(start, blocks, &format!("{}: {error}", self.path.display()))
    }

    fn offset(&self, start: BlockIndex) -> u64 {
        start.0.saturating_mul(u64::from(self.shape.block_size))
    }
}

fn may_be_read(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

impl Leaf for FileLeaf {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn read(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError> {
        let mut data = BytesMut::zeroed(count as usize * self.shape.block_size as usize);
        let read = self.file.read_exact_at(&mut data, self.offset(start));
        read.map_err(|error| self.failed(start, data.len(), &error))?;
        Ok(Plain {
            data: data.freeze(),
            written: Written::All,
        })
    }

    fn write(&self, start: BlockIndex, data: BytesMut, unwritten: bool) -> Result<(), VolumeError> {
        if unwritten {
            return Ok(());
        }
        let written = self.file.write_all_at(&data, self.offset(start));
        written.map_err(|error| self.failed(start, data.len(), &error))
    }

    fn flush(&self) -> Result<(), VolumeError> {
        if self.shape.read_only {
            return Ok(());
        }
        let synced = self.file.sync_data();
        synced.map_err(|error| self.failed(BlockIndex(0), 0, &error))
    }
}
