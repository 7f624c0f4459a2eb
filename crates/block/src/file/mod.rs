//! A disk in a file or on a block device of the host.
//!
//! `host` is the open file with vectored reads and writes straight into guest memory; `pool` carries
//! requests out on worker threads, anywhere; `uring` keeps them in the kernel, where Linux lets us.

mod host;

pub use host::try_lock_file;

mod bounce;

mod pool;

#[cfg(target_os = "linux")]
mod uring;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vm_types::Execution;

use crate::disk::{Disk, OpenError, check_size};
use crate::engine::{Backend, DirectEngine, Engine, EngineSetup, Medium};
use crate::info::DiskInfo;

use host::HostFile;
pub(crate) use host::{advance, vector_of};
use pool::{Pool, PoolEngine};

/// How requests reach the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileEngine {
    /// io_uring where the system has it and lets us, else threads.
    #[default]
    Auto,
    /// Worker threads that block in the kernel.
    Threads,
}

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Logical block size in bytes. A partial block at the file's end is not part of the disk.
    pub block_size: u32,
    /// Open for reading only. A disk that is writable needs a file that is.
    pub read_only: bool,
    /// Worker threads, 1 to 32. With io_uring they only serve what the ring cannot.
    pub workers: u32,
    /// Go past the host's page cache (`O_DIRECT`). Linux only; refused elsewhere.
    pub direct: bool,
    /// See [`FileEngine`].
    pub engine: FileEngine,
}

impl FileOptions {
    /// A writable disk of 512-byte blocks with 8 workers, through the page cache.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            block_size: 512,
            read_only: false,
            workers: 8,
            direct: false,
            engine: FileEngine::Auto,
        }
    }
}

/// The backend. Open it with [`Disk::file`].
#[derive(Debug)]
pub struct FileDisk {
    host: Arc<HostFile>,
    pool: Arc<Pool>,
    #[cfg(target_os = "linux")]
    ring: bool,
}

impl FileDisk {
    /// Opens and locks the file. The lock is advisory (`flock`): shared for readers, exclusive for a
    /// writer, held until the last user of the disk is gone.
    pub fn open(options: &FileOptions) -> Result<Self, OpenError> {
        if !(1..=32).contains(&options.workers) {
            return Err(OpenError::Workers {
                found: options.workers,
            });
        }
        if !DiskInfo::block_size_is_valid(options.block_size) {
            return Err(OpenError::BlockSize {
                found: options.block_size,
            });
        }
        let host = Arc::new(HostFile::open(options)?);
        let name = options.path.display().to_string();
        check_size(&name, options.block_size, host.info().size_bytes)?;
        #[cfg(target_os = "linux")]
        let ring = options.engine == FileEngine::Auto
            && uring::probe().map_or_else(
                |error| {
                    tracing::info!(path = name, %error, "io_uring is not to be had, using threads");
                    false
                },
                |()| true,
            );
        Ok(Self {
            pool: Arc::new(Pool::new(options.workers)),
            host,
            #[cfg(target_os = "linux")]
            ring,
        })
    }

    /// Whether requests go through io_uring.
    pub const fn uses_ring(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            self.ring
        }
        #[cfg(not(target_os = "linux"))]
        {
            false
        }
    }
}

impl Backend for FileDisk {
    fn info(&self) -> DiskInfo {
        self.host.info()
    }

    fn engine(&self, setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        if setup.execution == Execution::Inline {
            return Ok(Box::new(DirectEngine::new(self.host.clone())));
        }
        let threads = PoolEngine::new(&self.pool, self.host.clone(), setup.doorbell.clone())?;
        #[cfg(target_os = "linux")]
        if self.ring {
            return Ok(Box::new(uring::UringEngine::new(
                self.host.clone(),
                threads,
                &setup,
            )));
        }
        Ok(Box::new(threads))
    }
}

impl Disk {
    /// A disk in a file or on a block device. Errors name the path.
    pub fn file(options: &FileOptions) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(FileDisk::open(options)?)))
    }
}
