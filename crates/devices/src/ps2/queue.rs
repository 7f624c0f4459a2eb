//! A short queue of bytes on their way to the host.

use serde::{Deserialize, Serialize};

/// Bytes that a device keeps, as the chips do.
const DEPTH: usize = 32;

/// Bytes to send, oldest first; what does not fit is lost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Queue(Vec<u8>);

impl Queue {
    /// Adds all of `bytes`, or none: half a scan code would confuse the guest.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.0.len() + bytes.len() <= DEPTH;
        if fits {
            self.0.extend_from_slice(bytes);
        }
        fits
    }

    /// Adds an answer. It replaces what is queued: commands cut reports short.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        self.0.clear();
        self.push(bytes);
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What a damaged saved state could hold, put right.
    pub(super) fn sane(mut self) -> Self {
        self.0.truncate(DEPTH);
        self
    }
}
