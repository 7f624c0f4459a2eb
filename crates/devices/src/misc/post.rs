//! Port 0x80: the power-on self test's progress code, and everybody's little delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};

/// Its port.
pub const POST_PORT: u64 = 0x80;

const KIND: &str = "post-code";

/// The latch; reads give what was written last.
#[derive(Debug, Default)]
pub struct PostCode(AtomicU8);

impl PostCode {
    /// A latch at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Claims its port.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), POST_PORT, 1, self.clone())
    }

    /// How far the firmware says it got.
    pub fn code(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl BusDevice for PostCode {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.code());
    }

    fn write(&self, _: u64, data: &[u8]) {
        if let [code] = data {
            self.0.store(*code, Ordering::Relaxed);
        }
    }
}

impl Lifecycle for PostCode {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &self.code()))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let code = snapshot.open(self.name(), KIND, 1)?;
        self.0.store(code, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latch_keeps_the_last_code() {
        let post = PostCode::new();
        post.write(0, &[0xa5]);
        let mut data = [0];
        post.read(0, &mut data);
        assert_eq!(data, [0xa5]);
        let saved = post.save().unwrap();
        post.reset();
        assert_eq!(post.code(), 0);
        post.restore(&saved).unwrap();
        assert_eq!(post.code(), 0xa5);
    }
}
