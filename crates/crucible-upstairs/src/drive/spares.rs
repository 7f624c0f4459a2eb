//! Memory for what is received, used again as soon as nobody reads it any more: the kernel clears each page of fresh
//! memory, which costs about as much as receiving into it.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Most bytes that are kept for one link, read elsewhere or not.
const KEPT_MAX: usize = 6 << 20;

/// Buffers that are full, parts of which may still be read elsewhere. Oldest first.
#[derive(Debug, Default)]
pub(super) struct Spares {
    old: VecDeque<(BytesMut, usize)>,
    bytes: usize,
    /// What the buffer in use can hold.
    current: usize,
}

impl Spares {
    /// Makes room for `more` bytes behind what is in `buffer`, which may move. Always for the same buffer.
    pub(super) fn make_room(&mut self, buffer: &mut BytesMut, more: usize) {
        if buffer.try_reclaim(more) {
            return;
        }
        let needed = buffer.len() + more;
        let back = self
            .old
            .iter_mut()
            .position(|(old, size)| *size >= needed && old.try_reclaim(needed));
        let (mut fresh, size) = match back.and_then(|place| self.old.remove(place)) {
            Some((old, size)) => {
                self.bytes -= size;
                (old, size)
            }
            None => (BytesMut::with_capacity(needed), needed),
        };
        fresh.extend_from_slice(buffer);
        let mut full = std::mem::replace(buffer, fresh);
        full.clear();
        let size = std::mem::replace(&mut self.current, size);
        if size > 0 {
            self.bytes += size;
            self.old.push_back((full, size));
        }
        while self.bytes > KEPT_MAX {
            let Some((_, size)) = self.old.pop_front() else {
                break;
            };
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 1 << 20;

    /// Receives a frame of this content, and takes it off.
    fn receive(spares: &mut Spares, buffer: &mut BytesMut, fill: u8) -> bytes::Bytes {
        spares.make_room(buffer, FRAME);
        assert!(buffer.capacity() - buffer.len() >= FRAME);
        buffer.extend_from_slice(&vec![fill; FRAME]);
        buffer.split_to(FRAME).freeze()
    }

    #[test]
    fn memory_comes_again_when_its_frames_are_gone_and_never_before() {
        let (mut spares, mut buffer) = (Spares::default(), BytesMut::new());
        let mut addresses = std::collections::BTreeSet::new();
        let mut held = VecDeque::new();
        for round in 0..40_u8 {
            let frame = receive(&mut spares, &mut buffer, round);
            addresses.insert(frame.as_ptr());
            held.push_back((round, frame));
            if held.len() > 2 {
                held.pop_front();
            }
            for (round, frame) in &held {
                assert!(
                    frame.iter().all(|byte| byte == round),
                    "{round} was overwritten"
                );
            }
        }
        assert!(addresses.len() <= 5, "{} places", addresses.len());
    }

    #[test]
    fn what_was_half_received_moves_along() {
        let (mut spares, mut buffer) = (Spares::default(), BytesMut::new());
        let frame = receive(&mut spares, &mut buffer, 1);
        buffer.extend_from_slice(b"begin");
        let next = {
            spares.make_room(&mut buffer, 4 * FRAME);
            assert_eq!(&buffer[..], b"begin");
            buffer.split().freeze()
        };
        assert_eq!((next.len(), frame.len()), (5, FRAME));
    }

    #[test]
    fn not_more_is_kept_than_allowed() {
        let (mut spares, mut buffer) = (Spares::default(), BytesMut::new());
        let held: Vec<_> = (0..20)
            .map(|round| receive(&mut spares, &mut buffer, round))
            .collect();
        assert!(spares.bytes <= KEPT_MAX, "{}", spares.bytes);
        assert!(held.iter().zip(0..).all(|(frame, round)| frame[0] == round));
    }
}
