//! The panic notice at port 0x505: a guest kernel says that it has crashed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::Lifecycle;

/// Its port.
pub const PVPANIC_PORT: u64 = 0x505;

/// What a guest can say: bit 0 and bit 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It has crashed and the host is to deal with it.
    Panicked,
    /// It has crashed and deals with it itself, by a crash kernel.
    CrashLoaded,
}

const EVENTS: [(u8, PanicEvent); 2] = [(1, PanicEvent::Panicked), (2, PanicEvent::CrashLoaded)];

/// The device: counts, and tells the machine.
pub struct Pvpanic {
    heard: Arc<dyn Fn(PanicEvent) + Send + Sync>,
    counts: [AtomicU64; 2],
}

impl Pvpanic {
    /// A device that calls `heard` for each event, which must not block.
    pub fn new(heard: impl Fn(PanicEvent) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            heard: Arc::new(heard),
            counts: Default::default(),
        })
    }

    /// Claims its port.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), PVPANIC_PORT, 1, self.clone())
    }

    /// Events so far: left to the host, handled by the guest.
    pub fn counts(&self) -> (u64, u64) {
        let count = |index: usize| self.counts[index].load(Ordering::Relaxed);
        (count(0), count(1))
    }
}

impl BusDevice for Pvpanic {
    /// Which events are understood.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = 0b11;
        }
    }

    fn write(&self, _: u64, data: &[u8]) {
        let bits = data.first().copied().unwrap_or(0);
        for (count, (bit, event)) in self.counts.iter().zip(EVENTS) {
            if bits & bit != 0 {
                count.fetch_add(1, Ordering::Relaxed);
                (self.heard)(event);
            }
        }
    }
}

impl Lifecycle for Pvpanic {
    fn name(&self) -> &str {
        "pvpanic"
    }
}

impl fmt::Debug for Pvpanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pvpanic")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_and_told() {
        let panics = Arc::new(AtomicU64::new(0));
        let seen = panics.clone();
        let device = Pvpanic::new(move |event| {
            if event == PanicEvent::Panicked {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut data = [0];
        device.read(0, &mut data);
        assert_eq!(data, [3]);
        device.write(0, &[1]);
        device.write(0, &[2]);
        device.write(0, &[0xfc]);
        assert_eq!(device.counts(), (1, 1));
        assert_eq!(panics.load(Ordering::Relaxed), 1);
    }
}
