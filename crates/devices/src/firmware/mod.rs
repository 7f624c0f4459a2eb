//! What a PC's software finds in memory before it runs: tables, maps, and the kernel itself.
//!
//! All of it is a pure function of the machine's description, so that a test can look at every byte.
//!
//! * [`layout`]: where RAM, ROM and device windows are; [`e820`]: the map of it that guests get.
//! * [`boot`]: direct boot: a kernel image becomes a list of loads and the first CPU's state.
//! * [`aml`], `dsdt`, [`acpi`]: the ACPI tables; [`smbios`]: the management tables.
//! * [`fw_cfg`]: the device by which firmware in ROM is given all this, with [`loader`], the script that
//!   puts the tables into memory.

pub mod layout;

pub mod e820;

pub mod boot;

pub mod aml;

mod dsdt;

pub mod acpi;

pub mod smbios;

pub mod loader;

pub mod fw_cfg;

pub use acpi::{AcpiConfig, AcpiTables};
pub use boot::{BootError, BootImage, BootInput, BootState, Load, Segment};
pub use e820::{E820Entry, E820Kind};
pub use fw_cfg::{FwCfg, FwCfgItems, FwCfgPorts};
pub use layout::MemoryLayout;
pub use smbios::{Smbios, SmbiosConfig};
