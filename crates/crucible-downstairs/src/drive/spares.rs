//! Buffers of a connection that are used again when the frames in them are gone.
//!
//! Frames are not copied: a write holds a part of the buffer that it came in until it is done. Without this, each
//! buffer would be memory that the system has to find anew, and the allocator would keep the holes.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Buffers that are remembered.
const COUNT_MAX: usize = 32;
/// Bytes of them all, at most.
const BYTES_MAX: usize = 20 << 20;
/// Buffers are this large or a multiple of it, so that they fit again.
const UNIT: usize = 128 << 10;

/// Buffers that were full.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// Oldest first: an empty handle of each, and its size in bytes.
    spares: VecDeque<(BytesMut, usize)>,
    bytes: usize,
    /// Size of the buffer in use.
    current: usize,
}

impl Spares {
    /// Makes room for `additional` more bytes in `buffer`, keeping what is in it.
    pub(super) fn make_room(&mut self, buffer: &mut BytesMut, additional: usize) {
        if buffer.try_reclaim(additional) {
            return;
        }
        let wanted = buffer.len().saturating_add(additional);
        let (mut fresh, size) = self.take(wanted).unwrap_or_else(|| {
            let size = wanted.next_multiple_of(UNIT);
            (BytesMut::with_capacity(size), size)
        });
        fresh.extend_from_slice(buffer);
        let mut old = std::mem::replace(buffer, fresh);
        old.clear();
        let current = std::mem::replace(&mut self.current, size);
        self.keep(old, current);
    }

    /// One that nobody uses any more and that is large enough.
    fn take(&mut self, wanted: usize) -> Option<(BytesMut, usize)> {
        let found = self
            .spares
            .iter_mut()
            .position(|(spare, size)| *size >= wanted && spare.try_reclaim(wanted))?;
        let (spare, size) = self.spares.remove(found)?;
        self.bytes -= size;
        Some((spare, size))
    }

    fn keep(&mut self, spare: BytesMut, size: usize) {
        if size == 0 || size > BYTES_MAX / 4 {
            return;
        }
        self.spares.push_back((spare, size));
        self.bytes += size;
        while (self.spares.len() > COUNT_MAX || self.bytes > BYTES_MAX)
            && let Some((_, size)) = self.spares.pop_front()
        {
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the buffer's room and takes it away, as a frame would.
    fn frame(buffer: &mut BytesMut, spares: &mut Spares, length: usize) -> bytes::Bytes {
        if buffer.capacity() - buffer.len() < length {
            spares.make_room(buffer, length);
        }
        buffer.resize(length, 7);
        buffer.split().freeze()
    }

    #[test]
    fn a_buffer_whose_frames_are_gone_is_used_again_and_no_other() {
        let (mut buffer, mut spares) = (BytesMut::new(), Spares::default());
        let first = frame(&mut buffer, &mut spares, UNIT);
        let place = first.as_ptr();
        let second = frame(&mut buffer, &mut spares, UNIT);
        assert_ne!(second.as_ptr(), place);
        drop(first);
        let third = frame(&mut buffer, &mut spares, UNIT);
        assert_eq!(third.as_ptr(), place);
        assert!(second.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_has_not_been_used_moves_along() {
        let (mut buffer, mut spares) = (BytesMut::new(), Spares::default());
        let _frame = frame(&mut buffer, &mut spares, UNIT - 3);
        buffer.extend_from_slice(b"abc");
        spares.make_room(&mut buffer, UNIT);
        assert_eq!(&buffer[..], b"abc");
        assert!(buffer.capacity() >= UNIT + 3);
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let (mut buffer, mut spares) = (BytesMut::new(), Spares::default());
        let frames: Vec<_> = (0..100)
            .map(|index| frame(&mut buffer, &mut spares, UNIT * (1 + index % 12)))
            .collect();
        assert!(spares.spares.len() <= COUNT_MAX && spares.bytes <= BYTES_MAX);
        drop(frames);
        let sizes: usize = spares.spares.iter().map(|(_, size)| size).sum();
        assert_eq!(sizes, spares.bytes);
    }
}
