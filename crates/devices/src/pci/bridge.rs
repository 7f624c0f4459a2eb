//! A PCI-to-PCI bridge: type 1 header, bus numbers, windows that are stored but do not filter.
//!
//! Source: PCI-to-PCI Bridge 1.2, chapter 3. The windows need not filter: what a guest maps behind the
//! bridge is decoded wherever it lies, and no bus error depends on it.

use super::config::reg;
use super::endpoint::Endpoint;
use super::function::{Function, FunctionError, FunctionState, Identity};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};

const KIND: &str = "pci-bridge";
const VERSION: u32 = 1;

/// A bridge to a further bus, to be added with [`super::Topology::add_bridge`].
#[derive(Debug)]
pub struct Bridge {
    name: String,
    function: Function,
}

impl Bridge {
    /// A bridge; its bus numbers are zero until firmware or the operating system assigns them. `name` is
    /// unique in the machine.
    pub fn new(name: &str, vendor: u16, device: u16) -> Result<Self, FunctionError> {
        let identity = Identity {
            vendor,
            device,
            class: 0x06_04_00,
            ..Identity::default()
        };
        // I/O base and limit say 32-bit in their low nibble, the prefetchable pair says 64-bit.
        let windows: [u8; 24] = {
            let mut bytes = [0; 24];
            bytes[0] = 0x01;
            bytes[1] = 0x01;
            bytes[8] = 0x01;
            bytes[10] = 0x01;
            bytes
        };
        let mut open = [0xff; 24];
        (open[0], open[1]) = (0xf0, 0xf0);
        // Secondary status: all of its bits are errors, and there are none.
        (open[2], open[3]) = (0, 0);
        for at in [4, 6, 8, 10] {
            open[at] = 0xf0;
        }
        let function = Function::bridge_builder(identity)
            .register(reg::PRIMARY_BUS, &[0; 4], &[0xff; 4])
            .register(reg::BRIDGE_WINDOWS, &windows, &open)
            .register(reg::INTERRUPT_LINE, &[0], &[0xff])
            .register(reg::BRIDGE_CONTROL, &[0; 2], &[0x7f, 0x0f])
            .build()?;
        Ok(Self {
            name: name.to_owned(),
            function,
        })
    }

    /// The bus numbers that the guest has assigned: secondary and highest subordinate.
    pub fn bus_numbers(&self) -> (u8, u8) {
        let secondary = self.function.config_u8(reg::SECONDARY_BUS);
        let subordinate = self.function.config_u8(reg::SUBORDINATE_BUS);
        (secondary, subordinate)
    }
}

impl Endpoint for Bridge {
    fn function(&self) -> &Function {
        &self.function
    }

    fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) {}
}

impl Lifecycle for Bridge {
    fn name(&self) -> &str {
        &self.name
    }

    fn reset(&self) {
        self.function.reset();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot {
            kind: KIND.to_owned(),
            version: VERSION,
            data: serde_json::to_value(self.function.save()).ok()?,
        })
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        if snapshot.kind != KIND || snapshot.version != VERSION {
            return Err(RestoreError::Kind {
                device: self.name.clone(),
                expected: format!("{KIND} {VERSION}"),
                found: format!("{} {}", snapshot.kind, snapshot.version),
            });
        }
        let damaged = |reason: String| RestoreError::Damaged {
            device: self.name.clone(),
            reason,
        };
        let state: FunctionState = serde::Deserialize::deserialize(&snapshot.data)
            .map_err(|error: serde_json::Error| damaged(error.to_string()))?;
        self.function.reset();
        self.function.restore(&state).map_err(damaged)
    }
}
