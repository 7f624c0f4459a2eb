//! Nonces: from the operating system, never from a seed, many by one system call.

use std::fmt;

use crucible_protocol::context::NONCE_LEN;

use super::cipher::SealError;

/// Nonces fetched at a time: 3 KiB. One call to the kernel costs about what sealing a block does.
const BATCH: usize = 256;

/// A store of fresh nonces. Each is handed out once.
pub struct Nonces {
    bytes: Vec<u8>,
    used: usize,
}

impl Nonces {
    /// An empty store; the first use fills it.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
        }
    }

    /// A nonce that was never used before. Errors: the system has no random numbers to give.
    pub fn draw(&mut self) -> Result<[u8; NONCE_LEN], SealError> {
        if self.used + NONCE_LEN > self.bytes.len() {
            self.bytes.resize(BATCH * NONCE_LEN, 0);
            // Should this fail, nothing of the old batch is left to be taken for fresh.
            self.used = self.bytes.len();
            getrandom::fill(&mut self.bytes).map_err(|_| SealError::Random)?;
            self.used = 0;
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.bytes[self.used..self.used + NONCE_LEN]);
        self.used += NONCE_LEN;
        Ok(nonce)
    }
}

impl Default for Nonces {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = (self.bytes.len() - self.used) / NONCE_LEN;
        f.debug_struct("Nonces").field("left", &left).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_nonce_comes_twice_over_several_batches() {
        let mut nonces = Nonces::new();
        let count = 3 * BATCH + 1;
        let drawn: HashSet<_> = (0..count).map(|_| nonces.draw().unwrap()).collect();
        assert_eq!(drawn.len(), count);
    }
}
