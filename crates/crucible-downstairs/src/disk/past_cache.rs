//! Long writes that go past the page cache of the system, straight from memory to the medium.
//!
//! What is streamed onto a volume is seldom read back soon, and never all of it. In the page cache it takes memory that
//! has to be found, a copy, and later a walk over all its pages to write them out: measured on a virtual machine, whose
//! fresh memory is dear, 0.4 to 2 ms of processor time a mebibyte against 0.1. While memory lies idle, though, the cache
//! costs little, and what was written can be read back from it: see [`is_memory_idle`].

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};

/// Writes shorter than this go the ordinary way: the medium is asked for each, and the wait is not worth it.
const LEAST_BYTES: usize = 256 << 10;
/// From so much free memory on, nothing has to make room for what is written.
const IDLE_BYTES: u64 = 1 << 30;
/// Memory, length and place are multiples of this, which satisfies every medium.
const ALIGN: usize = 4096;
/// One system call, and what a thread keeps for blocks that lie askew in memory.
const PIECE_BYTES: usize = 1 << 20;

thread_local! {
    static STRAIGHT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The second way into a file that is open.
#[derive(Debug, Default)]
pub(super) struct PastCache(Mutex<Way>);

#[derive(Debug, Default)]
enum Way {
    #[default]
    Unknown,
    Open(Arc<File>),
    /// This file system has none.
    Closed,
}

impl PastCache {
    /// Writes as much of the buffers as can be written this way, from their beginning; answers how many bytes that was.
    /// The rest is to go the ordinary way, which may be all of it.
    pub(super) fn write(
        &self,
        file: &File,
        buffers: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if length < LEAST_BYTES || !offset.is_multiple_of(ALIGN as u64) {
            return Ok(0);
        }
        let Some(way) = self.open(file) else {
            return Ok(0);
        };
        let end = length / ALIGN * ALIGN;
        let (done, refused) = write_pieces(buffers, end, |piece, begin| {
            write_once(&way, piece, offset.saturating_add(begin as u64))
        })?;
        if refused {
            *self.lock() = Way::Closed;
        }
        Ok(done)
    }

    /// Lets go of the second descriptor until it is needed again, so that only those extents have one that are written
    /// to just now. A flush of a stream pays some microseconds for that.
    pub(super) fn rest(&self) {
        let mut way = self.lock();
        if matches!(*way, Way::Open(_)) {
            *way = Way::Unknown;
        }
    }

    fn open(&self, file: &File) -> Option<Arc<File>> {
        let mut way = self.lock();
        if matches!(*way, Way::Unknown) {
            // The same file whatever its name is by now.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
                .open(path);
            *way = opened.map_or(Way::Closed, |file| Way::Open(Arc::new(file)));
        }
        match &*way {
            Way::Open(file) => Some(Arc::clone(file)),
            Way::Unknown | Way::Closed => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the system has memory that nobody uses, not even as a cache.
pub(super) fn is_memory_idle() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: the call writes to memory of the right size and layout.
    if unsafe { libc::sysinfo(info.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call above succeeded, and so has filled it in.
    let info = unsafe { info.assume_init() };
    info.freeram.saturating_mul(u64::from(info.mem_unit)) >= IDLE_BYTES
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTBLK)
    )
}

/// Writes the first `end` bytes by pieces, each with its place from the first byte on. Answers how many bytes came there
/// before the system took less than it was given, and whether it refuses to be written to in this way.
fn write_pieces(
    buffers: &[IoSlice<'_>],
    end: usize,
    mut write: impl FnMut(&[u8], usize) -> io::Result<usize>,
) -> io::Result<(usize, bool)> {
    let mut rest = Rest { buffers, begin: 0 };
    let mut done = 0;
    while done < end {
        let wanted = PIECE_BYTES.min(end - done);
        match rest.with_straight(wanted, |piece| write(piece, done)) {
            Ok(moved) => {
                done += moved.min(wanted);
                if moved < wanted {
                    break;
                }
            }
            Err(error) if is_refusal(&error) => return Ok((done, true)),
            Err(error) => return Err(error),
        }
    }
    Ok((done, false))
}

fn write_once(file: &File, piece: &[u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.write_at(piece, offset) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What of the buffers is still to be written.
struct Rest<'a> {
    buffers: &'a [IoSlice<'a>],
    /// Bytes of the first of them that are done.
    begin: usize,
}

impl<'a> Rest<'a> {
    /// Gives the next `wanted` bytes to `write`, in memory that lies straight: as they are, or copied.
    fn with_straight(
        &mut self,
        wanted: usize,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if let Some(piece) = self.next_of_one(wanted)
            && piece.as_ptr().align_offset(ALIGN) == 0
        {
            self.advance(wanted);
            return write(piece);
        }
        STRAIGHT.with_borrow_mut(|memory| {
            memory.resize(PIECE_BYTES + ALIGN, 0);
            let begin = memory.as_ptr().align_offset(ALIGN);
            let Some(straight) = memory.get_mut(begin..begin.saturating_add(wanted)) else {
                return Err(ErrorKind::InvalidInput.into());
            };
            let mut room = &mut *straight;
            while !room.is_empty()
                && let Some(first) = self.buffers.first()
            {
                let left = first.get(self.begin..).unwrap_or_default();
                let (target, later) = room.split_at_mut(left.len().min(room.len()));
                target.copy_from_slice(left.get(..target.len()).unwrap_or_default());
                let taken = target.len();
                room = later;
                self.advance(taken);
            }
            if !room.is_empty() {
                return Err(ErrorKind::InvalidInput.into());
            }
            write(straight)
        })
    }

    /// So many bytes of the first buffer are done.
    fn advance(&mut self, bytes: usize) {
        self.begin += bytes;
        if let Some((first, others)) = self.buffers.split_first()
            && self.begin >= first.len()
        {
            self.buffers = others;
            self.begin = 0;
        }
    }

    /// So many bytes, if they lie in one buffer.
    fn next_of_one(&self, wanted: usize) -> Option<&'a [u8]> {
        let buffers: &'a [IoSlice<'a>] = self.buffers;
        buffers
            .first()?
            .get(self.begin..self.begin.checked_add(wanted)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that goes away with the test.
    struct Scratch(std::path::PathBuf, File);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("trivet-past-{}", uuid::Uuid::new_v4()));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .unwrap();
            file.set_len(8 << 20).unwrap();
            Self(path, file)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7u32;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    }

    #[test]
    fn what_is_written_past_the_cache_is_read_through_it_wherever_it_lies_in_memory() {
        let scratch = Scratch::new();
        let past = PastCache::default();
        let bytes = noise((3 << 20) + 5000);
        for (skip, offset, each) in [
            (0, 0, usize::MAX),
            (1, 4096, usize::MAX),
            (17, 1 << 20, 5000),
            (4096, 8192, 4096),
            (0, 0, 1 << 20),
            (3, 0, (1 << 20) + 1),
        ] {
            // What the cache has must not hide what is newer.
            scratch
                .1
                .write_all_at(&vec![9; bytes.len()], offset)
                .unwrap();
            let piece = &bytes[skip..];
            let slices: Vec<IoSlice<'_>> = piece.chunks(each).map(IoSlice::new).collect();
            let done = past.write(&scratch.1, &slices, offset).unwrap();
            assert!(done <= piece.len());
            scratch
                .1
                .write_all_at(&piece[done..], offset + done as u64)
                .unwrap();
            let mut found = vec![0; piece.len()];
            scratch.1.read_exact_at(&mut found, offset).unwrap();
            assert!(found == piece, "{skip} bytes askew at {offset}");
            past.rest();
        }
    }

    #[test]
    fn what_is_short_or_lies_askew_in_the_file_goes_the_ordinary_way() {
        let scratch = Scratch::new();
        let past = PastCache::default();
        let bytes = noise(1 << 20);
        assert_eq!(
            past.write(&scratch.1, &[IoSlice::new(&bytes[..65536])], 0)
                .unwrap(),
            0
        );
        assert_eq!(
            past.write(&scratch.1, &[IoSlice::new(&bytes)], 512)
                .unwrap(),
            0
        );
        assert_eq!(past.write(&scratch.1, &[], 0).unwrap(), 0);
    }

    #[test]
    fn what_the_system_takes_by_half_or_not_at_all_is_told_and_nothing_is_written_after_it() {
        let bytes = noise((3 << 20) + 4096);
        for each in [1 << 20, 4096, 5000, usize::MAX] {
            let slices: Vec<IoSlice<'_>> = bytes.chunks(each).map(IoSlice::new).collect();
            for (short, taken) in [(0, 0), (1, 0), (1, 512), (2, 4096), (3, 0), (9, 0)] {
                let mut written = Vec::new();
                let mut turn = 0;
                let (done, refused) = write_pieces(&slices, bytes.len(), |piece, begin| {
                    assert_eq!(begin, written.len());
                    let moved = if turn == short { taken } else { piece.len() };
                    turn += 1;
                    written.extend_from_slice(&piece[..moved]);
                    Ok(moved)
                })
                .unwrap();
                assert!(!refused);
                assert!(written == bytes[..done]);
                assert_eq!(done, bytes.len().min((short << 20) + taken));
                assert_eq!(turn, 4.min(short + 1));
            }
            let refuse = |_: &[u8], begin| match begin {
                0 => Ok(PIECE_BYTES),
                _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            };
            let refused = write_pieces(&slices, bytes.len(), refuse).unwrap();
            assert_eq!(refused, (PIECE_BYTES, true));
        }
    }
}
