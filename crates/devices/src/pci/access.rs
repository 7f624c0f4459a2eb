//! The two ways to configuration space: ports 0xCF8/0xCFC, and a memory window with a page a function.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::address::PciAddress;
use super::topology::Topology;
use crate::bus::BusDevice;

/// First port of configuration mechanism 1.
pub const CONFIG_ADDRESS_PORT: u64 = 0xcf8;
/// Ports that [`ConfigPorts`] takes: address at 0 to 3, data at 4 to 7.
pub const CONFIG_PORTS: u64 = 8;
/// Offset of the reset control register 0xCF9 in that window.
const RESET_OFFSET: u64 = 1;

const ENABLE: u32 = 1 << 31;

/// Configuration mechanism 1, a window of 8 ports at 0xCF8.
///
/// Source: PCI Local Bus 3.0, 3.2.2.3.2. Only a 32-bit access to 0xCF8 is the address register; a
/// one-byte access to 0xCF9 is the chipset's reset register, which sits in the same place.
pub struct ConfigPorts {
    topology: Arc<Topology>,
    address: AtomicU32,
    reset_register: Option<Arc<dyn BusDevice>>,
}

impl ConfigPorts {
    /// The ports. Byte accesses to 0xCF9 go to offset 0 of `reset_register`, if there is one.
    pub fn new(topology: Arc<Topology>, reset_register: Option<Arc<dyn BusDevice>>) -> Self {
        Self {
            topology,
            address: AtomicU32::new(0),
            reset_register,
        }
    }

    /// The address register, for snapshots.
    pub fn address(&self) -> u32 {
        self.address.load(Ordering::SeqCst)
    }

    /// Takes back a saved address register, or zero at reset.
    pub fn set_address(&self, address: u32) {
        // Bits 30:24 and 1:0 are reserved and read as zero.
        self.address.store(address & 0x80ff_fffc, Ordering::SeqCst);
    }

    /// Function and register that an access to the data port at `offset` goes to.
    fn target(&self, offset: u64) -> Option<(PciAddress, u16)> {
        let address = self.address();
        (address & ENABLE != 0).then(|| {
            let at = PciAddress::from_routing_id((address >> 8) as u16);
            (at, (address & 0xfc) as u16 + (offset & 3) as u16)
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address().to_le_bytes()),
            (RESET_OFFSET, 1) if self.reset_register.is_some() => {
                if let Some(register) = &self.reset_register {
                    register.read(0, data);
                }
            }
            (4..8, _) => match self.target(offset) {
                Some((at, register)) => self.topology.config_read(at, register, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.set_address(u32::from_le_bytes([a, b, c, d])),
            (RESET_OFFSET, [_]) => {
                if let Some(register) = &self.reset_register {
                    register.write(0, data);
                }
            }
            (4..8, _) => {
                if let Some((at, register)) = self.target(offset) {
                    self.topology.config_write(at, register, data);
                }
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for ConfigPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigPorts")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The enhanced configuration access window: 4 KiB a function, 1 MiB a bus.
///
/// Source: PCI Express Base 3.0, 7.2.2.
#[derive(Debug)]
pub struct EcamWindow {
    topology: Arc<Topology>,
}

impl EcamWindow {
    /// Bytes of the window for `buses` buses.
    pub const fn size(buses: u16) -> u64 {
        (buses as u64) << 20
    }

    /// The window onto `topology`, from bus 0.
    pub fn new(topology: Arc<Topology>) -> Self {
        Self { topology }
    }

    fn target(offset: u64, length: usize) -> Option<(PciAddress, u16)> {
        let register = (offset & 0xfff) as u16;
        let id = u16::try_from(offset >> 12).ok()?;
        // An access does not run on into the next function.
        (usize::from(register) + length <= 4096)
            .then(|| (PciAddress::from_routing_id(id), register))
    }
}

impl BusDevice for EcamWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Self::target(offset, data.len()) {
            Some((at, register)) => self.topology.config_read(at, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((at, register)) = Self::target(offset, data.len()) {
            self.topology.config_write(at, register, data);
        }
    }
}
