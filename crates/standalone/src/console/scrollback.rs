//! The newest output of the guest, read by any number of clients at their own pace.

use std::collections::VecDeque;

/// Bytes kept. A boot of a Debian kernel with all its messages is about 40 KiB.
pub const SCROLLBACK_BYTES: usize = 256 << 10;

/// A ring of bytes whose positions count from the first byte ever written.
#[derive(Debug)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    /// Position after the newest byte.
    end: u64,
    limit: usize,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes that were gone before this reader came to them.
    pub lost: u64,
    /// The next bytes.
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub next: u64,
}

impl Scrollback {
    /// An empty ring of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            end: 0,
            limit,
        }
    }

    /// Adds output; the oldest makes room.
    pub fn write(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(kept);
        self.end += bytes.len() as u64;
    }

    /// Position after the newest byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// At most `limit` bytes from `position` on.
    pub fn read(&self, position: u64, limit: usize) -> Piece {
        let from = position.clamp(self.start(), self.end);
        let skip = (from - self.start()) as usize;
        let bytes: Vec<u8> = self.bytes.iter().skip(skip).take(limit).copied().collect();
        Piece {
            lost: from.saturating_sub(position),
            next: from + bytes.len() as u64,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_follow_at_their_own_pace() {
        let mut ring = Scrollback::new(8);
        ring.write(b"abc");
        ring.write(b"def");
        let first = ring.read(0, 4);
        assert_eq!((first.bytes.as_slice(), first.next), (&b"abcd"[..], 4));
        assert_eq!(ring.read(4, 100).bytes, b"ef");
        assert_eq!(ring.read(6, 100).bytes, b"");
    }

    #[test]
    fn a_reader_that_is_too_late_is_told_how_much_it_lost() {
        let mut ring = Scrollback::new(4);
        ring.write(b"abcdef");
        let piece = ring.read(1, 100);
        assert_eq!((piece.lost, piece.bytes.as_slice()), (1, &b"cdef"[..]));
        ring.write(b"0123456789");
        assert_eq!(ring.read(0, 100).bytes, b"6789");
        assert_eq!((ring.start(), ring.end()), (12, 16));
    }
}
