//! The firmware's debug console at port 0x402: characters out, and a byte by which it is recognised.

use std::sync::Arc;

use vm_types::{Clock, Timers};

use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::Lifecycle;
use crate::serial::{Batch, SerialPeer};

/// Its port.
pub const DEBUG_CONSOLE_PORT: u64 = 0x402;

/// What reads give, so that firmware knows that somebody listens.
const PRESENT: u8 = 0xe9;

/// The debug console.
#[derive(Debug)]
pub struct DebugConsole {
    output: Arc<Batch>,
}

impl DebugConsole {
    /// A console whose characters go to `peer`.
    pub fn new(peer: Arc<dyn SerialPeer>, clock: Clock, timers: &Timers) -> Arc<Self> {
        Arc::new(Self {
            output: Batch::new(peer, clock, timers),
        })
    }

    /// Claims its port.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), DEBUG_CONSOLE_PORT, 1, self.clone())
    }
}

impl BusDevice for DebugConsole {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&self, _: u64, data: &[u8]) {
        for byte in data {
            self.output.push(*byte);
        }
    }
}

impl Lifecycle for DebugConsole {
    fn name(&self) -> &str {
        "debug-console"
    }

    fn pause(&self) {
        self.output.flush();
    }

    fn reset(&self) {
        self.output.flush();
    }

    fn halt(&self) {
        self.output.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::batch::tests::Heard;
    use crate::sync::lock;

    #[test]
    fn firmware_recognises_it_and_is_heard() {
        let heard = Arc::new(Heard::default());
        let console = DebugConsole::new(heard.clone(), Clock::manual().0, &Timers::new());
        let mut data = [0];
        console.read(0, &mut data);
        assert_eq!(data, [0xe9]);
        console.write(0, b"S");
        console.write(0, b"EC");
        console.pause();
        assert_eq!(*lock(&heard.calls), [b"SEC"]);
    }
}
