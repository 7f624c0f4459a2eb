//! The reset control register at port 0xcf9 (82371SB data sheet, 2.5.5).
//!
//! The port lies inside configuration mechanism 1; [`crate::pci::ConfigPorts`] hands byte accesses over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::BusDevice;
use crate::lifecycle::Lifecycle;
use crate::misc::Signal;

/// What an operating system writes to reset the machine, as the FADT says.
pub const RESET_VALUE: u8 = 0x06;

/// Bit 2 resets when it rises; bits 1 and 3 say how hard, which is all the same here.
const RESET: u8 = 0x04;
const WRITABLE: u8 = 0x0e;

/// The register.
#[derive(Debug)]
pub struct ResetRegister {
    value: AtomicU8,
    reset: Signal,
}

impl ResetRegister {
    /// A register that fires `reset`.
    pub fn new(reset: Signal) -> Arc<Self> {
        Arc::new(Self {
            value: AtomicU8::new(0),
            reset,
        })
    }
}

impl BusDevice for ResetRegister {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.value.load(Ordering::SeqCst));
    }

    fn write(&self, _: u64, data: &[u8]) {
        let Some(value) = data.first().map(|value| value & WRITABLE) else {
            return;
        };
        let old = self.value.swap(value, Ordering::SeqCst);
        if value & !old & RESET != 0 {
            self.reset.fire();
        }
    }
}

impl Lifecycle for ResetRegister {
    fn name(&self) -> &str {
        "reset-register"
    }

    fn reset(&self) {
        self.value.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::misc::signal::tests::counting;

    #[test]
    fn both_customary_sequences_reset() {
        let (signal, count) = counting();
        let register = ResetRegister::new(signal);
        register.write(0, &[RESET_VALUE]);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        register.reset();
        for value in [0x02, 0x0e] {
            register.write(0, &[value]);
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
        let mut data = [0];
        register.read(0, &mut data);
        assert_eq!(data, [0x0e]);
    }
}
