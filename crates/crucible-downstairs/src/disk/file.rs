//! A directory of the host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(target_os = "linux")]
use super::past_cache::{PastCache, is_memory_idle};
use super::{Access, Disk, DiskFile, Entry, NodeKind};

/// Files are written in pieces of this size. Linux keeps what came in one piece as one unit of its cache, and walks
/// over all of a unit for each small write into it: after a megabyte at once, 4 KiB cost twenty times as much.
const PIECE_BYTES: usize = 64 << 10;
/// Most slices in one system call: what every system takes (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// A directory of the host as a disk. It needs not exist before the first [`Disk::create_directory`] of its root.
#[derive(Debug)]
pub struct FileDisk {
    root: PathBuf,
}

impl FileDisk {
    /// The disk whose root is this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

impl Disk for FileDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => &mut options,
            Access::Write => options.write(true),
            Access::Create => options.write(true).create_new(true),
            Access::CreateOrOpen => options.write(true).create(true),
        };
        let file = options.open(self.path(path))?;
        Ok(Arc::new(HostFile {
            file,
            #[cfg(target_os = "linux")]
            past_cache: Default::default(),
        }))
    }

    fn kind(&self, path: &str) -> io::Result<Option<NodeKind>> {
        match fs::symlink_metadata(self.path(path)) {
            Ok(metadata) => Ok(Some(kind_of(metadata.file_type()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(path))? {
            let entry = entry?;
            // A name that is no UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                let kind = kind_of(entry.file_type()?);
                entries.push(Entry { name, kind });
            }
        }
        Ok(entries)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            // The directories above the root are not ours, but without them there is no root.
            if self.root.is_dir() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::create_dir_all(&self.root)?;
            return match self.root.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync_path(parent),
                _ => Ok(()),
            };
        }
        fs::create_dir(self.path(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.path(path))
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        sync_path(&self.path(path))
    }

    #[cfg(any(target_os = "linux", target_os = "illumos"))]
    fn sync_all(&self) -> io::Result<bool> {
        let root = File::open(&self.root)?;
        // SAFETY: the descriptor is that of `root`, which is open until the end of this function.
        let result = unsafe { libc::syncfs(root.as_raw_fd()) };
        match result {
            0 => Ok(true),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "illumos")))]
    fn sync_all(&self) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(target_os = "linux")]
    fn reflink(&self, from: &str, to: &str) -> io::Result<bool> {
        let source = File::open(self.path(from))?;
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.path(to))?;
        // SAFETY: both descriptors are open until the end of this function; the call touches no memory of ours.
        let result = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        fs::remove_file(self.path(to))?;
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::EXDEV | libc::ENOSYS) => {
                Ok(false)
            }
            _ => Err(error),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reflink(&self, _from: &str, _to: &str) -> io::Result<bool> {
        Ok(false)
    }

    fn host_path(&self) -> Option<PathBuf> {
        Some(self.root.clone())
    }
}

fn kind_of(kind: fs::FileType) -> NodeKind {
    if kind.is_file() {
        NodeKind::File
    } else if kind.is_dir() {
        NodeKind::Directory
    } else {
        NodeKind::Other
    }
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An open file of the host.
#[derive(Debug)]
struct HostFile {
    file: File,
    #[cfg(target_os = "linux")]
    past_cache: PastCache,
}

impl DiskFile for HostFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if let [buffer] = buffers
            && buffer.len() <= PIECE_BYTES
        {
            return self.file.write_all_at(buffer, offset);
        }
        let mut at = offset;
        let mut piece = Vec::with_capacity(buffers.len().min(SLICES_MAX));
        let mut length = 0;
        for buffer in buffers {
            let mut rest: &[u8] = buffer;
            while !rest.is_empty() {
                let room = PIECE_BYTES - (at as usize + length) % PIECE_BYTES;
                let (now, later) = rest.split_at(rest.len().min(room));
                piece.push(IoSlice::new(now));
                length += now.len();
                rest = later;
                if now.len() == room || piece.len() == SLICES_MAX {
                    self.write_piece(&piece, length, at)?;
                    at = at.saturating_add(length as u64);
                    piece.clear();
                    length = 0;
                }
            }
        }
        if length > 0 {
            self.write_piece(&piece, length, at)?;
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let offset = libc::off64_t::try_from(offset)
            .map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let mut slice = io::IoSliceMut::new(buffer);
        let first = (&raw mut slice).cast::<libc::iovec>();
        // SAFETY: `IoSliceMut` has the layout of `iovec`; there is one, and its buffer is borrowed for the call.
        let moved =
            unsafe { libc::preadv2(self.file.as_raw_fd(), first, 1, offset, libc::RWF_NOWAIT) };
        // Fewer bytes, or none: not all is there, or this file system cannot tell. The ordinary way finds out.
        Ok(usize::try_from(moved).is_ok_and(|moved| moved == slice.len()))
    }

    #[cfg(not(target_os = "linux"))]
    fn read_now(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(any(target_os = "linux", target_os = "illumos"))]
    fn is_hole(&self, offset: u64, length: u64) -> io::Result<bool> {
        let Ok(begin) = libc::off_t::try_from(offset) else {
            return Ok(false);
        };
        // SAFETY: the descriptor is that of an open file; no memory is passed. All else here names its positions, so
        // that nobody minds that the one of the descriptor moves.
        let data = unsafe { libc::lseek(self.file.as_raw_fd(), begin, libc::SEEK_DATA) };
        if let Ok(data) = u64::try_from(data) {
            return Ok(data >= offset.saturating_add(length));
        }
        // Nothing but a hole until the end, or no such call.
        let is_end = io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
        Ok(is_end && offset.saturating_add(length) <= self.length()?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "illumos")))]
    fn is_hole(&self, _offset: u64, _length: u64) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(target_os = "linux")]
    fn write_long(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut done = if is_memory_idle() {
            0
        } else {
            self.past_cache.write(&self.file, buffers, offset)?
        };
        let begin = offset.saturating_add(done as u64);
        let mut rest = Vec::new();
        for buffer in buffers {
            let skip = done.min(buffer.len());
            done -= skip;
            if let Some(left) = buffer.get(skip..).filter(|left| !left.is_empty()) {
                rest.push(IoSlice::new(left));
            }
        }
        let length = rest.iter().map(|slice| slice.len()).sum();
        if length > 0 {
            self.write_at(&rest, begin)?;
            self.begin_sync(begin, length);
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn write_long(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        self.past_cache.rest();
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (Ok(offset), Ok(length)) =
            (libc::off_t::try_from(offset), libc::off_t::try_from(length))
        else {
            return Err(ErrorKind::InvalidInput.into());
        };
        // SAFETY: the descriptor is that of an open file; no memory is passed.
        let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(false),
            _ => Err(error),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _offset: u64, _length: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn lock(&self) -> io::Result<()> {
        let how = libc::LOCK_EX | libc::LOCK_NB;
        // SAFETY: the descriptor is that of an open file; no memory is passed.
        let result = unsafe { libc::flock(self.file.as_raw_fd(), how) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOTSUP | libc::ENOSYS) => Ok(()),
            _ => Err(error),
        }
    }
}

impl HostFile {
    /// Has the system begin to write a range to the medium.
    #[cfg(target_os = "linux")]
    fn begin_sync(&self, offset: u64, length: usize) {
        let (Ok(offset), Ok(length)) = (
            libc::off64_t::try_from(offset),
            libc::off64_t::try_from(length),
        ) else {
            return;
        };
        let how = libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: the descriptor is that of an open file; no memory is passed.
        let _ = unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset, length, how) };
        // What fails here fails in the sync that follows.
    }

    fn write_piece(&self, piece: &[IoSlice<'_>], length: usize, offset: u64) -> io::Result<()> {
        let moved = self.write_group(piece, offset)?;
        if moved < length {
            // A short write: the rest goes the slow way.
            self.write_rest(piece, moved, offset)?;
        }
        Ok(())
    }

    /// One system call; answers the bytes written.
    fn write_group(&self, group: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let first = group.as_ptr().cast::<libc::iovec>();
        let count = group.len() as libc::c_int;
        loop {
            // SAFETY: `IoSlice` has the layout of `iovec`; `first` and `count` describe the live slice `group`,
            // whose buffers are borrowed for the call and only read.
            let moved = unsafe { libc::pwritev(self.file.as_raw_fd(), first, count, offset) };
            match usize::try_from(moved) {
                Ok(moved) => return Ok(moved),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn write_rest(&self, group: &[IoSlice<'_>], moved: usize, offset: u64) -> io::Result<()> {
        let mut begin = 0;
        for slice in group {
            let skip = moved.saturating_sub(begin).min(slice.len());
            if let Some(rest) = slice.get(skip..).filter(|rest| !rest.is_empty()) {
                self.file
                    .write_all_at(rest, offset + (begin + skip) as u64)?;
            }
            begin += slice.len();
        }
        Ok(())
    }
}
