//! A disk as devices and the machine builder see it: a cheap handle over some backend.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use thiserror::Error;

use crate::attach::{AttachOptions, Attachment};
use crate::engine::{Backend, Direct, Medium};
use crate::info::DiskInfo;
use crate::limit::{Limit, Limiter};
use crate::memory::MemoryDisk;
use crate::null::{NullDisk, NullReads};
use crate::request::Source;
use crate::stats::{QueueStats, StatsSnapshot};

/// Why a disk could not be opened. All of these are for the operator to mend.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The block size is not one of 512, 1024, ... 32768.
    #[error("block size {found} is not a power of two from 512 to 32768")]
    BlockSize {
        /// What was asked for.
        found: u32,
    },
    /// Not even one block.
    #[error("{what}: {size} bytes are less than one block of {block_size}")]
    TooSmall {
        /// The disk or file.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The block size in bytes.
        block_size: u32,
    },
    /// Memory for the content could not be mapped.
    #[error("cannot keep a disk of {size} bytes in memory: {reason}")]
    Memory {
        /// Size asked for, in bytes.
        size: u64,
        /// What the system said.
        reason: String,
    },
    /// A number of workers that makes no sense.
    #[error("workers: expected 1 to 32, found {found}")]
    Workers {
        /// What was asked for.
        found: u32,
    },
    /// The file cannot be opened or asked for its size.
    #[error("{path}: {action}: {source}")]
    File {
        /// Its path.
        path: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A writable disk on something that cannot be written.
    #[error("{path}: is not writable ({source}); set read_only = true or make it writable")]
    NotWritable {
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else has the file open as a disk, or the device is mounted.
    #[error(
        "{path}: is in use (as a disk elsewhere, or mounted); two writers would destroy its content"
    )]
    InUse {
        /// Its path.
        path: String,
    },
    /// Neither a regular file nor a block device.
    #[error("{path}: is {found}, expected a regular file or a block device")]
    Kind {
        /// Its path.
        path: String,
        /// What it is.
        found: &'static str,
    },
}

/// A disk: a backend and the rules of its use. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<DiskCore>);

pub(crate) struct DiskCore {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) info: DiskInfo,
    pub(crate) skip_flush: bool,
    pub(crate) limiter: Option<Arc<Limiter>>,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    attached: Vec<Arc<QueueStats>>,
    /// The sum of those that are gone, so that a guest that makes and deletes queues fills no list.
    retired: StatsSnapshot,
}

impl Disk {
    /// A disk over any backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(DiskCore {
            info: backend.info(),
            backend,
            skip_flush: false,
            limiter: None,
            queues: Mutex::default(),
        }))
    }

    /// A disk over a medium that answers at once.
    pub fn direct(medium: impl Medium + 'static) -> Self {
        Self::new(Arc::new(Direct::new(medium)))
    }

    /// A zeroed disk in host memory. A size that is no multiple of the block size is rounded down.
    pub fn memory(block_size: u32, size_bytes: u64) -> Result<Self, OpenError> {
        check_size("memory disk", block_size, size_bytes)?;
        let medium =
            MemoryDisk::new(block_size, size_bytes).map_err(|error| OpenError::Memory {
                size: size_bytes,
                reason: error.to_string(),
            })?;
        Ok(Self::direct(medium))
    }

    /// A disk in host memory that begins as a copy of `image`, padded to whole blocks.
    pub fn image(block_size: u32, image: &[u8]) -> Result<Self, OpenError> {
        // A short image is padded to a block; an empty one is no disk.
        let padded = (image.len() as u64).next_multiple_of(u64::from(block_size.max(1)));
        check_size("disk image", block_size, padded)?;
        let medium =
            MemoryDisk::with_content(block_size, image).map_err(|error| OpenError::Memory {
                size: image.len() as u64,
                reason: error.to_string(),
            })?;
        Ok(Self::direct(medium))
    }

    /// A disk that keeps nothing.
    pub fn null(block_size: u32, size_bytes: u64, reads: NullReads) -> Result<Self, OpenError> {
        check_size("null disk", block_size, size_bytes)?;
        Ok(Self::direct(NullDisk::new(block_size, size_bytes, reads)))
    }

    /// The same disk, refusing writes.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.with(|core| core.info.read_only = true)
    }

    /// The same disk, answering flushes at once and dropping the wish for durable writes. Content is
    /// lost when the host fails.
    #[must_use]
    pub fn skip_flush(self) -> Self {
        self.with(|core| {
            core.skip_flush = true;
            core.info.volatile_cache = false;
        })
    }

    /// The same disk, held to `limit` over all its queues together.
    #[must_use]
    pub fn limited(self, limit: Limit) -> Self {
        self.with(|core| {
            core.limiter = limit.is_some().then(|| Arc::new(Limiter::new(limit)));
        })
    }

    /// What a device tells its guest.
    pub fn info(&self) -> DiskInfo {
        self.0.info
    }

    /// Joins a device's queue to this disk. The source is not kept alive; its memory handle must be the
    /// same at each call. Errors: the system refuses a thread or what the engine needs.
    pub fn attach(
        &self,
        source: Weak<dyn Source>,
        options: AttachOptions,
    ) -> std::io::Result<Attachment> {
        Attachment::new(&self.0, source, options)
    }

    /// The counts of all queues, past ones included.
    pub fn stats(&self) -> StatsSnapshot {
        let queues = self.0.lock();
        let mut sum = queues.retired.clone();
        for queue in &queues.attached {
            sum.merge(&queue.snapshot());
        }
        sum
    }

    pub(crate) fn with(self, change: impl FnOnce(&mut DiskCore)) -> Self {
        let mut core = DiskCore {
            backend: self.0.backend.clone(),
            info: self.0.info,
            skip_flush: self.0.skip_flush,
            limiter: self.0.limiter.clone(),
            queues: Mutex::default(),
        };
        change(&mut core);
        Self(Arc::new(core))
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("backend", &self.0.backend)
            .field("info", &self.0.info)
            .finish_non_exhaustive()
    }
}

impl DiskCore {
    pub(crate) fn enter(&self, stats: &Arc<QueueStats>) {
        self.lock().attached.push(stats.clone());
    }

    pub(crate) fn leave(&self, stats: &Arc<QueueStats>) {
        let mut queues = self.lock();
        queues.attached.retain(|other| !Arc::ptr_eq(other, stats));
        let mut last = stats.snapshot();
        last.in_flight = 0;
        queues.retired.merge(&last);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses block sizes that nobody handles and disks without a block.
pub(crate) fn check_size(what: &str, block_size: u32, size: u64) -> Result<(), OpenError> {
    if !DiskInfo::block_size_is_valid(block_size) {
        Err(OpenError::BlockSize { found: block_size })
    } else if size < u64::from(block_size) {
        Err(OpenError::TooSmall {
            what: what.to_owned(),
            size,
            block_size,
        })
    } else {
        Ok(())
    }
}
