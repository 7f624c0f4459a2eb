//! The receive FIFO of a 16550A: characters with the errors they came with.

use serde::{Deserialize, Serialize};

/// Characters that the chip holds.
pub(super) const FIFO_DEPTH: usize = 16;

/// Received characters, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ReceiveFifo {
    /// Character and its bits of the line status register.
    slots: [(u8, u8); FIFO_DEPTH],
    first: usize,
    length: usize,
    /// Without FIFO mode there is room for one.
    pub(super) enabled: bool,
}

impl ReceiveFifo {
    pub(super) fn capacity(&self) -> usize {
        if self.enabled { FIFO_DEPTH } else { 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn room(&self) -> usize {
        self.capacity().saturating_sub(self.length)
    }

    /// Adds a character; `false` if there was no room.
    pub(super) fn push(&mut self, byte: u8, errors: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        let slot = (self.first + self.length) % FIFO_DEPTH;
        self.slots[slot] = (byte, errors);
        self.length += 1;
        true
    }

    /// Takes the oldest character.
    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.length == 0 {
            return None;
        }
        let (byte, _) = self.slots[self.first];
        self.first = (self.first + 1) % FIFO_DEPTH;
        self.length -= 1;
        Some(byte)
    }

    /// Errors of the oldest character.
    pub(super) fn errors(&self) -> u8 {
        if self.length == 0 {
            0
        } else {
            self.slots[self.first].1
        }
    }

    /// The errors of the oldest character have been read.
    pub(super) fn clear_errors(&mut self) {
        if self.length > 0 {
            self.slots[self.first].1 = 0;
        }
    }

    /// Whether any character has an error.
    pub(super) fn any_errors(&self) -> bool {
        (0..self.length).any(|index| self.slots[(self.first + index) % FIFO_DEPTH].1 != 0)
    }

    pub(super) fn clear(&mut self) {
        self.first = 0;
        self.length = 0;
    }

    /// What a damaged saved state could hold, put right.
    pub(super) fn sane(mut self) -> Self {
        self.first %= FIFO_DEPTH;
        self.length = self.length.min(self.capacity());
        self
    }
}
