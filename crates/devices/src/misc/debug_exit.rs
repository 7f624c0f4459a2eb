//! The debug-exit port: a test program ends the machine with a value.

use std::fmt;
use std::sync::Arc;

use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::Lifecycle;

/// Where it is unless the configuration says otherwise.
pub const DEBUG_EXIT_PORT: u64 = 0xf4;

/// The port. Any write calls back with the value; reads give zero.
pub struct DebugExit {
    exit: Arc<dyn Fn(u32) + Send + Sync>,
}

impl DebugExit {
    /// A port that calls `exit` with what is written, which must not block. By custom the process
    /// then ends with [`DebugExit::code`] of it.
    pub fn new(exit: impl Fn(u32) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            exit: Arc::new(exit),
        })
    }

    /// The process exit code for a value: never zero, so that no test passes by accident.
    pub const fn code(value: u32) -> u32 {
        (value << 1) | 1
    }

    /// Claims four ports from `base`.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace, base: u64) -> Result<(), SpaceError> {
        ports.claim(self.name(), base, 4, self.clone())
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (into, from) in bytes.iter_mut().zip(data) {
            *into = *from;
        }
        (self.exit)(u32::from_le_bytes(bytes));
    }
}

impl Lifecycle for DebugExit {
    fn name(&self) -> &str {
        "isa-debug-exit"
    }
}

impl fmt::Debug for DebugExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugExit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn the_value_comes_out_whatever_its_width() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let values = seen.clone();
        let port = DebugExit::new(move |value| values.lock().unwrap().push(value));
        port.write(0, &[3]);
        port.write(0, &[1, 2]);
        port.write(0, &[0x10, 0, 0, 0x80]);
        assert_eq!(*seen.lock().unwrap(), [3, 0x201, 0x8000_0010]);
        assert_eq!(DebugExit::code(3), 7);
        assert_eq!(DebugExit::code(0), 1);
    }
}
