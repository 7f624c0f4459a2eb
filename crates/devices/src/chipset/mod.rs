//! The chipset of an i440FX machine: who sits at which address of bus 0, power, and reset.
//!
//! * [`host_bridge`]: 0:0.0, registers that firmware stores things in.
//! * [`lpc`]: 0:1.0, the PIIX3, whose route registers wire PCI interrupts to ISA ones.
//! * [`power`]: 0:1.3, the PIIX4's power management: PM1 and GPE0 registers, SCI, power button, S5.
//! * [`reset_register`]: port 0xcf9.

use crate::pci::PciAddress;

pub mod host_bridge;
pub mod lpc;
pub mod power;
pub mod reset_register;

pub use host_bridge::HostBridge;
pub use lpc::Lpc;
pub use power::{PowerManagement, PowerPorts};
pub use reset_register::ResetRegister;

/// Where the host bridge is.
pub const HOST_BRIDGE_AT: PciAddress = at(0, 0);
/// Where the PIIX3 is.
pub const LPC_AT: PciAddress = at(1, 0);
/// Where the PIIX4's power management is.
pub const POWER_AT: PciAddress = at(1, 3);

/// Vendor of the subsystem ids.
const SUBSYSTEM_VENDOR: u16 = 0x01de;
const INTEL: u16 = 0x8086;

const fn at(device: u8, function: u8) -> PciAddress {
    PciAddress::from_routing_id((device as u16) << 3 | function as u16)
}
