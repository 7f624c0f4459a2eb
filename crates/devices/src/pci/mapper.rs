//! Windows in the machine's own port and memory spaces.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::bar::{BarMapper, MappingId, Space};
use crate::bus::{AddressSpace, BusDevice, Window};
use crate::sync::lock;

/// A [`BarMapper`] over two [`AddressSpace`]s.
#[derive(Debug)]
pub struct SpaceMapper {
    ports: AddressSpace,
    memory: AddressSpace,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    next: u64,
    mapped: HashMap<u64, Window>,
}

impl SpaceMapper {
    /// Puts windows into these spaces.
    pub fn new(ports: AddressSpace, memory: AddressSpace) -> Self {
        Self {
            ports,
            memory,
            windows: Mutex::default(),
        }
    }
}

impl BarMapper for SpaceMapper {
    fn map(&self, space: Space, base: u64, size: u64, device: Arc<dyn BusDevice>) -> MappingId {
        let space = match space {
            Space::Port => &self.ports,
            Space::Memory => &self.memory,
        };
        let window = space.window("pci window", device);
        if let Err(error) = window.map(base, size) {
            // `Bar::placed_at` keeps windows inside their space; if not, this one answers nowhere.
            tracing::warn!(%error, "window not mapped");
        }
        let mut windows = lock(&self.windows);
        let id = windows.next;
        windows.next += 1;
        windows.mapped.insert(id, window);
        MappingId(id)
    }

    fn unmap(&self, id: MappingId) {
        let gone = {
            let mut windows = lock(&self.windows);
            windows.mapped.remove(&id.0)
        };
        drop(gone);
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.mapped.values()).finish()
    }
}
