//! Port 0x92, system control port A: the fast A20 gate, which is always open, and the fast reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Signal;
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::Lifecycle;

/// Its port.
pub const SYSTEM_CONTROL_PORT: u64 = 0x92;

const RESET: u8 = 0x01;
const A20: u8 = 0x02;

/// The port.
#[derive(Debug)]
pub struct SystemControl {
    reset: Signal,
    /// The reset bit as written; its rise resets.
    bit: AtomicBool,
}

impl SystemControl {
    /// A port whose reset bit fires `reset`.
    pub fn new(reset: Signal) -> Arc<Self> {
        Arc::new(Self {
            reset,
            bit: AtomicBool::new(false),
        })
    }

    /// Claims its port.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), SYSTEM_CONTROL_PORT, 1, self.clone())
    }
}

impl BusDevice for SystemControl {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(A20 | u8::from(self.bit.load(Ordering::SeqCst)));
    }

    fn write(&self, _: u64, data: &[u8]) {
        let bit = data.first().is_some_and(|value| value & RESET != 0);
        if bit && !self.bit.swap(bit, Ordering::SeqCst) {
            self.reset.fire();
        } else {
            self.bit.store(bit, Ordering::SeqCst);
        }
    }
}

impl Lifecycle for SystemControl {
    fn name(&self) -> &str {
        "system-control"
    }

    fn reset(&self) {
        self.bit.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::tests::counting;
    use super::*;

    #[test]
    fn the_reset_bit_fires_when_it_rises() {
        let (signal, count) = counting();
        let port = SystemControl::new(signal);
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [2]);
        port.write(0, &[0]);
        port.write(0, &[3]);
        port.write(0, &[3]);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        port.reset();
        port.write(0, &[1]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
