//! Large buffers that are used again: a fresh one is cleared by the kernel, page by page, and once more by us, which
//! costs as much as a fifth of deciphering into it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Smaller buffers are cheap.
const LEAST: usize = 64 << 10;
/// Most bytes that are kept here, in use elsewhere or not.
const KEPT_MAX: usize = 16 << 20;
/// So many of the oldest are looked at; whoever has them gives them back about in the order in which he got them.
const LOOKED_AT: usize = 8;

/// Buffers that were given out, and may have come back.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    out: VecDeque<Bytes>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of this length, with anything in it.
    pub(super) fn take(&mut self, length: usize) -> BytesMut {
        let mut back = self.out.iter().take(LOOKED_AT);
        let found = back.position(|bytes| bytes.len() == length && bytes.is_unique());
        if let Some(bytes) = found.and_then(|place| self.out.remove(place)) {
            self.bytes -= bytes.len();
            if let Ok(buffer) = bytes.try_into_mut() {
                return buffer;
            }
        }
        BytesMut::zeroed(length)
    }

    /// Remembers a buffer that is given out now.
    pub(super) fn give(&mut self, bytes: &Bytes) {
        if bytes.len() < LEAST {
            return;
        }
        self.bytes += bytes.len();
        self.out.push_back(bytes.clone());
        while self.bytes > KEPT_MAX {
            let Some(oldest) = self.out.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_again_when_nobody_has_it_any_more() {
        let mut buffers = Buffers::default();
        let mut first = buffers.take(LEAST);
        first[0] = 7;
        let address = first.as_ptr();
        let first = first.freeze();
        buffers.give(&first);
        let second = buffers.take(LEAST);
        assert_ne!(second.as_ptr(), address, "it is still read");
        assert_eq!(first[0], 7);
        drop(first);
        assert_ne!(buffers.take(2 * LEAST).as_ptr(), address, "another length");
        let third = buffers.take(LEAST);
        assert_eq!((third.as_ptr(), third.len()), (address, LEAST));
    }

    #[test]
    fn not_more_is_kept_than_allowed_and_nothing_small() {
        let mut buffers = Buffers::default();
        buffers.give(&Bytes::from(vec![0; 4096]));
        assert_eq!(buffers.out.len(), 0);
        for _ in 0..40 {
            buffers.give(&Bytes::from(vec![0; 1 << 20]));
        }
        assert_eq!((buffers.out.len(), buffers.bytes), (16, KEPT_MAX));
    }
}
