//! The i440FX host bridge. Memory is laid out by the machine, so its registers only keep what firmware
//! writes into them (82441FX data sheet, 3.2).

use std::sync::Arc;

use super::{INTEL, SUBSYSTEM_VENDOR};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::pci::{Endpoint, Function, FunctionError, FunctionState, Identity};

const KIND: &str = "i440fx";

/// Attribute registers of the areas from 768 KiB to 1 MiB, which firmware turns into RAM.
const PAM: u16 = 0x59;
/// System management RAM control.
const SMRAM: u16 = 0x72;

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    function: Function,
}

impl HostBridge {
    /// The bridge; errors are mistakes in its own declaration.
    pub fn new() -> Result<Arc<Self>, FunctionError> {
        let identity = Identity {
            vendor: INTEL,
            device: 0x1237,
            class: 0x06_00_00,
            revision: 2,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: 0xfffe,
        };
        let function = Function::builder(identity)
            .register(PAM, &[0; 7], &[0x33; 7])
            .register(SMRAM, &[0x02], &[0x78])
            .build()?;
        Ok(Arc::new(Self { function }))
    }
}

impl Endpoint for HostBridge {
    fn function(&self) -> &Function {
        &self.function
    }

    fn bar_read(&self, _: usize, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}
}

impl Lifecycle for HostBridge {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        self.function.reset();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &self.function.save()))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let saved = snapshot.open::<FunctionState>(KIND, KIND, 1)?;
        self.function
            .restore(&saved)
            .map_err(|reason| RestoreError::Damaged {
                device: KIND.to_owned(),
                reason,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_finds_the_bridge_and_its_shadow_registers() {
        let bridge = HostBridge::new().unwrap();
        let mut id = [0; 4];
        bridge.config_read(0, &mut id);
        assert_eq!(u32::from_le_bytes(id), 0x1237_8086);
        bridge.config_write(0x59, &[0xff]);
        assert_eq!(bridge.function.config_u8(0x59), 0x33);
        let saved = bridge.save().unwrap();
        bridge.reset();
        assert_eq!(bridge.function.config_u8(0x59), 0);
        bridge.restore(&saved).unwrap();
        assert_eq!(bridge.function.config_u8(0x59), 0x33);
    }
}
