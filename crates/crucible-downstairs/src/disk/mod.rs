//! What a store needs of a file system: a tree of files below one directory, positioned reads and writes, syncs,
//! and a way to make names durable.
//!
//! [`file`] is the real one; `past_cache` is how long writes leave it. [`crash`] is an image in memory that remembers which writes have not been synced and
//! can turn into anything that a power cut may leave. [`faulty`] fails the n-th operation of another disk.
//!
//! Paths are relative to the root of the disk, separated by `/`, without `.` and `..`; the empty path is the root.
//! Nothing here retries; a caller that gets an error knows that the operation may have happened in part.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

pub mod crash;
pub mod faulty;
pub mod file;
#[cfg(target_os = "linux")]
mod past_cache;

pub use crash::{Choice, CrashDisk};
pub use faulty::{Fault, FaultyDisk};
pub use file::FileDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// A file that must not exist yet, to be read and written.
    Create,
    /// A file that is made when it does not exist, to be read and written.
    CreateOrOpen,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Last component of the path.
    pub name: String,
    /// What it names.
    pub kind: NodeKind,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeKind {
    /// A file with content.
    File,
    /// A directory.
    Directory,
    /// Anything else; a symbolic link too, whatever it points at.
    Other,
}

/// A directory with all that is below it.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file. `NotFound` and `AlreadyExists` as the access says.
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// What a path names; `None` when nothing does.
    fn kind(&self, path: &str) -> io::Result<Option<NodeKind>>;
    /// The names in a directory, in any order.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;
    /// Makes one directory. `AlreadyExists` when it is there.
    fn create_directory(&self, path: &str) -> io::Result<()>;
    /// Moves a file or a directory, over a file that is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_directory(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &str) -> io::Result<()>;
    /// Makes all of the file system durable in one call, or answers false where that does not exist.
    fn sync_all(&self) -> io::Result<bool>;
    /// Makes `to` share the blocks of `from`, or answers false where the file system cannot.
    fn reflink(&self, from: &str, to: &str) -> io::Result<bool>;
    /// Where this disk lies in the file system of the host, for tools that want a path; `None` when it lies nowhere.
    fn host_path(&self) -> Option<PathBuf>;
}

/// One open file. Calls may come from several threads at once.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills the buffer from `offset` on. `UnexpectedEof` when the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer if all of it is in the memory of the system; false if it is not, or who knows.
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Whether these bytes are known to be zero without reading them; false if they are not, or who knows.
    fn is_hole(&self, offset: u64, length: u64) -> io::Result<bool>;
    /// Writes all buffers from `offset` on, and lets the file grow.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// The same as [`DiskFile::write_at`], for much at once that is not read again soon: where the system lets it, it
    /// goes to the medium at once, so that the sync that follows finds little left to do.
    fn write_long(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes the content durable, and as much metadata as it takes to read it again.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file, or lets it grow with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes a range read as zeros and gives its space back where the file system can; answers false where it cannot.
    fn punch(&self, offset: u64, length: u64) -> io::Result<bool>;
    /// Takes the file for this process alone until it is closed. `WouldBlock` when another has it.
    fn lock(&self) -> io::Result<()>;
}
