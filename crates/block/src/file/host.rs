//! The open file: its size, its lock, and the system calls.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result as IoResult};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use vm_types::GuestSlice;

use super::FileOptions;
use super::bounce::Bounce;
use crate::disk::OpenError;
use crate::engine::Medium;
use crate::info::DiskInfo;
use crate::request::Outcome;

/// Most slices in one system call: what every system takes (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Most bytes that bounce at a time.
const BOUNCE_BYTES: usize = 256 << 10;

/// How often a call that the system calls premature is made again.
const RETRIES: u32 = 1000;

/// A file or block device that holds a disk.
#[derive(Debug)]
pub(super) struct HostFile {
    file: File,
    path: String,
    info: DiskInfo,
    /// Memory and lengths must be multiples of this; 1 through the page cache.
    alignment: usize,
    errors: AtomicU64,
}

impl HostFile {
    pub(super) fn open(options: &FileOptions) -> Result<Self, OpenError> {
        let path = options.path.display().to_string();
        let failed = |action| {
            let path = path.clone();
            move |source| OpenError::File {
                path,
                action,
                source,
            }
        };
        let file = open_file(options, &path)?;
        let metadata = file.metadata().map_err(failed("cannot be examined"))?;
        let kind = metadata.file_type();
        // On illumos a disk's raw device is a character device, and preferred.
        let device =
            kind.is_block_device() || (cfg!(target_os = "illumos") && kind.is_char_device());
        if !kind.is_file() && !device {
            return Err(OpenError::Kind {
                path,
                found: if kind.is_dir() {
                    "a directory"
                } else {
                    "no disk"
                },
            });
        }
        if kind.is_file() && !options.read_only && metadata.mode() & 0o222 == 0 {
            // The superuser could write all the same; the mode says that somebody does not want it.
            return Err(OpenError::NotWritable {
                path,
                source: Error::from_raw_os_error(libc::EACCES),
            });
        }
        lock(&file, options.read_only, &path)?;
        let size = if device {
            device_size(&file).map_err(failed("its size cannot be found out"))?
        } else {
            metadata.len()
        };
        let block_size = options.block_size;
        let mut host = Self {
            info: DiskInfo {
                read_only: options.read_only,
                volatile_cache: !options.read_only,
                preferred_transfer: (metadata.blksize() as u32).clamp(block_size, 1 << 20),
                ..DiskInfo::new(block_size, size)
            },
            alignment: 1,
            file,
            path: path.clone(),
            errors: AtomicU64::new(0),
        };
        if size != host.info.size_bytes {
            tracing::warn!(
                path,
                dropped = size - host.info.size_bytes,
                "the last bytes are less than a block and not part of the disk"
            );
        }
        if options.direct {
            host.alignment = 512;
            host.try_direct().map_err(failed(
                "direct I/O does not work with this block size (try 4096)",
            ))?;
        }
        if !options.read_only {
            let able = host.can_free(size, device);
            host.info.discard = able;
            host.info.write_zeroes = able;
        }
        Ok(host)
    }

    /// For the kernel's rings.
    #[cfg(target_os = "linux")]
    pub(super) fn raw(&self) -> libc::c_int {
        self.file.as_raw_fd()
    }

    /// Whether the system can move these bytes without a bounce buffer.
    pub(super) fn suits(&self, address: usize, length: usize) -> bool {
        // The alignment is a power of two.
        (address | length) & (self.alignment - 1) == 0
    }

    /// Logs an error of the medium, the first ones and then every thousandth: a guest can bring about
    /// any number of them.
    pub(super) fn note_error(&self, action: &str, offset: u64, error: &Error) {
        let count = self.errors.fetch_add(1, Ordering::Relaxed);
        if count < 10 || count.is_multiple_of(1000) {
            tracing::warn!(path = self.path, offset, count, %error, "{action} failed");
        }
    }

    fn failed(&self, action: &str, offset: u64, error: &Error) -> Outcome {
        self.note_error(action, offset, error);
        if action == "read" {
            Outcome::ReadFailed
        } else {
            Outcome::WriteFailed
        }
    }

    /// A direct read of one block, to find out at start what would else fail in the guest.
    fn try_direct(&self) -> IoResult<()> {
        let mut bounce = Bounce::new(self.info.block_size as usize);
        if self.info.size_bytes > 0 {
            self.transfer(Direction::Read, 0, &[bounce.slice()])?;
        }
        Ok(())
    }

    /// Moves all of `slices`, in as many calls as the system likes.
    fn transfer(
        &self,
        direction: Direction,
        offset: u64,
        slices: &[GuestSlice<'_>],
    ) -> IoResult<()> {
        let mut at = offset;
        let mut retries = 0;
        for group in slices.chunks(SLICES_MAX) {
            let mut vectors: Vec<libc::iovec> = group.iter().map(vector_of).collect();
            let mut rest = vectors.as_mut_slice();
            while !rest.is_empty() {
                match self.call(direction, at, rest) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(moved) => {
                        at += moved as u64;
                        rest = advance(rest, moved);
                    }
                    Err(error) if is_premature(&error) && retries < RETRIES => retries += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// One system call. The vectors describe memory that stays mapped: the slices they were made from
    /// are borrowed by the caller.
    fn call(&self, direction: Direction, offset: u64, vectors: &[libc::iovec]) -> IoResult<usize> {
        let fd = self.file.as_raw_fd();
        let count = vectors.len() as libc::c_int;
        let offset =
            libc::off_t::try_from(offset).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        let first = vectors.as_ptr();
        let moved = match direction {
            // SAFETY: `first` and `count` describe the live slice `vectors`; each vector is memory
            // that the caller keeps mapped and that is only ever accessed by volatile copies.
            Direction::Read => unsafe { libc::preadv(fd, first, count, offset) },
            // SAFETY: as above; the memory is only read.
            Direction::Write => unsafe { libc::pwritev(fd, first, count, offset) },
            #[cfg(target_os = "linux")]
            // SAFETY: as above.
            Direction::DurableWrite => unsafe {
                libc::pwritev2(fd, first, count, offset, libc::RWF_DSYNC)
            },
        };
        usize::try_from(moved).map_err(|_| Error::last_os_error())
    }

    /// Through aligned memory, part by part.
    fn bounced(
        &self,
        direction: Direction,
        offset: u64,
        slices: &[GuestSlice<'_>],
    ) -> IoResult<()> {
        let total: usize = slices.iter().map(GuestSlice::len).sum();
        let mut bounce = Bounce::new(total.min(BOUNCE_BYTES));
        let mut done = 0;
        let mut part = Vec::new();
        while done < total {
            let count = (total - done).min(BOUNCE_BYTES);
            cut(slices, done, count, &mut part);
            let at = offset + done as u64;
            if direction == Direction::Read {
                self.transfer(direction, at, &[bounce.prefix(count)])?;
                bounce.scatter(&part);
            } else {
                bounce.gather(&part);
                self.transfer(direction, at, &[bounce.prefix(count)])?;
            }
            done += count;
        }
        Ok(())
    }

    fn move_bytes(
        &self,
        direction: Direction,
        offset: u64,
        slices: &[GuestSlice<'_>],
    ) -> IoResult<()> {
        if self.alignment > 1 {
            let suits = |slice: &GuestSlice<'_>| {
                self.suits(slice.ptr_guard().as_ptr() as usize, slice.len())
            };
            if !slices.iter().all(suits) {
                return self.bounced(direction, offset, slices);
            }
            // Some devices want more than we assume; pages suit all.
            match self.transfer(direction, offset, slices) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.bounced(direction, offset, slices)
                }
                result => result,
            }
        } else {
            self.transfer(direction, offset, slices)
        }
    }

    fn sync(&self) -> IoResult<()> {
        let mut retries = 0;
        loop {
            match self.file.sync_data() {
                Err(error) if is_premature(&error) && retries < RETRIES => retries += 1,
                result => return result,
            }
        }
    }
}

impl Drop for HostFile {
    /// Gives the lock back by name: the kernel may hold the file a little longer, for a ring that it
    /// takes down in its own time, and the disk would look as if it were still in use.
    fn drop(&mut self) {
        // SAFETY: only numbers are passed, and the descriptor is open.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
    #[cfg(target_os = "linux")]
    DurableWrite,
}

impl Medium for HostFile {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn read(&self, offset: u64, into: &[GuestSlice<'_>]) -> Result<(), Outcome> {
        self.move_bytes(Direction::Read, offset, into)
            .map_err(|error| self.failed("read", offset, &error))
    }

    fn write(&self, offset: u64, from: &[GuestSlice<'_>], durable: bool) -> Result<(), Outcome> {
        #[cfg(target_os = "linux")]
        let (direction, sync) = if durable {
            (Direction::DurableWrite, false)
        } else {
            (Direction::Write, false)
        };
        #[cfg(not(target_os = "linux"))]
        let (direction, sync) = (Direction::Write, durable);
        self.move_bytes(direction, offset, from)
            .and_then(|()| if sync { self.sync() } else { Ok(()) })
            .map_err(|error| self.failed("write", offset, &error))
    }

    fn flush(&self) -> Result<(), Outcome> {
        if self.info.read_only {
            return Ok(());
        }
        self.sync().map_err(|error| self.failed("flush", 0, &error))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Outcome> {
        match self.free(offset, length) {
            // Only a hint: a guest is not told that this one had no effect.
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result.map_err(|error| self.failed("discard", offset, &error)),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), Outcome> {
        match self.zero(offset, length, may_unmap) {
            Err(error) if is_unsupported(&error) => Err(Outcome::Unsupported),
            result => result.map_err(|error| self.failed("zeroing", offset, &error)),
        }
    }
}

#[cfg(target_os = "linux")]
impl HostFile {
    /// Whether ranges can be freed. Asked beyond the end of a file, where it changes nothing.
    fn can_free(&self, size: u64, device: bool) -> bool {
        const UNIT: u64 = 4096;
        device || self.free(size.next_multiple_of(UNIT), UNIT).is_ok()
    }

    fn free(&self, offset: u64, length: u64) -> IoResult<()> {
        self.fallocate(
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            offset,
            length,
        )
    }

    fn zero(&self, offset: u64, length: u64, may_unmap: bool) -> IoResult<()> {
        if may_unmap {
            match self.free(offset, length) {
                Err(error) if is_unsupported(&error) => {}
                result => return result,
            }
        }
        self.fallocate(
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            offset,
            length,
        )
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, length: u64) -> IoResult<()> {
        if length == 0 {
            return Ok(());
        }
        let fd = self.file.as_raw_fd();
        let invalid = |_| Error::from(ErrorKind::InvalidInput);
        let offset = libc::off64_t::try_from(offset).map_err(invalid)?;
        let length = libc::off64_t::try_from(length).map_err(invalid)?;
        let mut retries = 0;
        loop {
            // SAFETY: only numbers are passed, and the descriptor is open.
            let result = unsafe { libc::fallocate64(fd, mode, offset, length) };
            if result == 0 {
                return Ok(());
            }
            let error = Error::last_os_error();
            if !is_premature(&error) || retries == RETRIES {
                return Err(error);
            }
            retries += 1;
        }
    }
}

#[cfg(target_os = "illumos")]
impl HostFile {
    fn can_free(&self, _size: u64, device: bool) -> bool {
        !device
    }

    /// Frees a range by `fcntl(F_FREESP)`, which makes it read as zeroes.
    fn free(&self, offset: u64, length: u64) -> IoResult<()> {
        // A length of zero would mean: to the end of the file, and cut it off.
        if length == 0 {
            return Ok(());
        }
        let invalid = |_| Error::from(ErrorKind::InvalidInput);
        // SAFETY: all-zero bytes are a valid value of this plain structure.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_whence = libc::SEEK_SET as libc::c_short;
        range.l_start = libc::off_t::try_from(offset).map_err(invalid)?;
        range.l_len = libc::off_t::try_from(length).map_err(invalid)?;
        // SAFETY: the descriptor is open and `range` lives across the call.
        let result = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_FREESP, &raw mut range) };
        if result == -1 {
            Err(Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn zero(&self, offset: u64, length: u64, may_unmap: bool) -> IoResult<()> {
        if may_unmap {
            self.free(offset, length)
        } else {
            Err(ErrorKind::Unsupported.into())
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "illumos")))]
impl HostFile {
    fn can_free(&self, _size: u64, _device: bool) -> bool {
        false
    }

    fn free(&self, _offset: u64, _length: u64) -> IoResult<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn zero(&self, _offset: u64, _length: u64, _may_unmap: bool) -> IoResult<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

fn open_file(options: &FileOptions, path: &str) -> Result<File, OpenError> {
    let failed = |action, source| OpenError::File {
        path: path.to_owned(),
        action,
        source,
    };
    let mut open = OpenOptions::new();
    open.read(true).write(!options.read_only);
    set_flags(&mut open, options)
        .map_err(|source| failed("cannot be opened for direct I/O", source))?;
    open.open(&options.path).map_err(|source| {
        let refused = matches!(
            source.kind(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
        );
        // Told apart from a file that cannot be read either, as far as one more attempt can tell.
        if refused && !options.read_only && File::open(&options.path).is_ok() {
            let path = path.to_owned();
            OpenError::NotWritable { path, source }
        } else if source.kind() == ErrorKind::ResourceBusy {
            let path = path.to_owned();
            OpenError::InUse { path }
        } else {
            failed("cannot be opened", source)
        }
    })
}

#[cfg(target_os = "linux")]
fn set_flags(open: &mut OpenOptions, options: &FileOptions) -> IoResult<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut flags = if options.direct { libc::O_DIRECT } else { 0 };
    let kind = std::fs::metadata(&options.path).map(|metadata| metadata.file_type());
    if !options.read_only && kind.is_ok_and(|kind| kind.is_block_device()) {
        // Refused for devices that are mounted or part of something that is.
        flags |= libc::O_EXCL;
    }
    open.custom_flags(flags);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_flags(_open: &mut OpenOptions, options: &FileOptions) -> IoResult<()> {
    if options.direct {
        return Err(ErrorKind::Unsupported.into());
    }
    Ok(())
}

/// Locks a whole file against other programs that ask the same way; whether that worked. The lock ends with the last
/// handle of the file. Errors: a file system that knows no locks.
pub fn try_lock_file(file: &File) -> std::io::Result<bool> {
    // SAFETY: only numbers are passed, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    let error = Error::last_os_error();
    if error.kind() == ErrorKind::WouldBlock {
        Ok(false)
    } else {
        Err(error)
    }
}

fn lock(file: &File, shared: bool, path: &str) -> Result<(), OpenError> {
    let kind = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: only numbers are passed, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) };
    if result == 0 {
        return Ok(());
    }
    let error = Error::last_os_error();
    if error.kind() == ErrorKind::WouldBlock {
        return Err(OpenError::InUse {
            path: path.to_owned(),
        });
    }
    // Some network file systems know no locks; that is no reason not to run.
    tracing::warn!(path, %error, "cannot be locked against a second writer");
    Ok(())
}

fn device_size(mut file: &File) -> IoResult<u64> {
    use std::io::{Seek, SeekFrom};
    // The end of a block device is its size; positions do not matter to us otherwise.
    file.seek(SeekFrom::End(0))
}

/// The memory of a slice, for the system's vectored calls.
pub(crate) fn vector_of(slice: &GuestSlice<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    }
}

/// What is left of `vectors` when the first `moved` bytes are done.
pub(crate) fn advance(vectors: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    for vector in vectors.iter() {
        if moved < vector.iov_len {
            break;
        }
        moved -= vector.iov_len;
        whole += 1;
    }
    let rest = &mut vectors[whole..];
    if let Some(first) = rest.first_mut() {
        first.iov_base = first.iov_base.cast::<u8>().wrapping_add(moved).cast();
        first.iov_len -= moved;
    }
    rest
}

/// The slices of `count` bytes from `start` of the concatenation of `slices`.
fn cut<'a>(slices: &[GuestSlice<'a>], start: usize, count: usize, part: &mut Vec<GuestSlice<'a>>) {
    part.clear();
    let (mut skip, mut left) = (start, count);
    for slice in slices {
        if left == 0 {
            break;
        }
        let length = slice.len();
        if skip >= length {
            skip -= length;
            continue;
        }
        let taken = (length - skip).min(left);
        if let Ok(piece) = slice.subslice(skip, taken) {
            part.push(piece);
        }
        left -= taken;
        skip = 0;
    }
}

fn is_premature(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

fn is_unsupported(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_skips_whole_vectors_and_shortens_one() {
        let mut bytes = [0_u8; 10];
        let base = bytes.as_mut_ptr();
        let vector = |at: usize, length| libc::iovec {
            iov_base: base.wrapping_add(at).cast(),
            iov_len: length,
        };
        let mut vectors = [vector(0, 4), vector(4, 0), vector(4, 6)];
        let rest = advance(&mut vectors, 5);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].iov_base, base.wrapping_add(5).cast());
        assert_eq!(rest[0].iov_len, 5);
        assert!(advance(rest, 5).is_empty());
    }

    #[test]
    fn cutting_finds_the_pieces() {
        let (mut a, mut b) = ([0_u8; 4], [0_u8; 6]);
        let slices = [GuestSlice::from(&mut a[..]), GuestSlice::from(&mut b[..])];
        let mut part = Vec::new();
        for (start, count, expected) in [
            (0, 10, vec![4, 6]),
            (3, 2, vec![1, 1]),
            (4, 6, vec![6]),
            (9, 1, vec![1]),
            (2, 0, vec![]),
        ] {
            cut(&slices, start, count, &mut part);
            let lengths: Vec<usize> = part.iter().map(GuestSlice::len).collect();
            assert_eq!(lengths, expected, "{start} {count}");
        }
    }
}
