//! PCI: functions, windows, interrupts, and the ways to their configuration spaces.
//!
//! # For a device
//!
//! A device embeds one [`Function`], declared once:
//!
//! ```
//! use devices::pci::{Bar, Endpoint, Function, FunctionError, Identity};
//! use vm_types::{GuestMemory, MsiSink};
//!
//! struct Lamp { function: Function, memory: GuestMemory }
//!
//! impl Lamp {
//!     fn new(memory: &GuestMemory, msi: MsiSink) -> Result<Self, FunctionError> {
//!         let identity = Identity { vendor: 0x1de, device: 0x99, class: 0xff_00_00, ..Identity::default() };
//!         let builder = Function::builder(identity)
//!             .bar(0, Bar::memory64(0x1000))
//!             .msix(4, 2, msi);              // two vectors, table in BAR 4
//!         let memory = memory.gated(&builder.dma_gate()); // no DMA while bus mastering is off
//!         Ok(Self { function: builder.build()?, memory })
//!     }
//! }
//!
//! impl Endpoint for Lamp {
//!     fn function(&self) -> &Function { &self.function }
//!     fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) { data.fill(0) }
//!     fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) { self.function.fire(0) }
//! }
//! ```
//!
//! The function answers configuration accesses, sizes and moves the windows, keeps the MSI-X table,
//! drives the interrupt pin ([`Function::set_intx`]) and closes the gate of DMA and messages while bus
//! mastering is off. A device with registers of its own in configuration space overrides
//! [`Endpoint::config_read`] and [`Endpoint::config_write`] and delegates the rest; plain bytes it
//! declares with [`FunctionBuilder::register`] or [`FunctionBuilder::capability`]. In
//! [`Lifecycle::reset`](crate::lifecycle::Lifecycle::reset) it calls [`Function::reset`]; its snapshot
//! contains [`Function::save`].
//!
//! # For a machine
//!
//! [`Topology::new`] takes a [`BarMapper`] ([`SpaceMapper`] over the port and memory spaces) and an [`IntxRouter`] (the
//! chipset). [`Topology::add`] plugs a device in, [`Topology::add_bridge`] opens a further bus.
//! [`ConfigPorts`] (8 ports at 0xCF8; byte 0xCF9 goes to the reset register given to it) and
//! [`EcamWindow`] are [`BusDevice`](crate::bus::BusDevice)s for the machine to place. At reset the
//! machine resets its devices, then calls [`Topology::reset`] and [`ConfigPorts::set_address`] with 0.
//!
//! # Promises
//!
//! * Functions that do not exist read as all ones. Nothing that a guest writes panics or blocks.
//! * Locks are taken in this order: topology (shared), function, address space, MSI-X vector. No lock is
//!   held while a device's window handler runs.

pub mod address;

pub mod config;

pub mod bar;

pub mod mapper;

pub mod msix;

pub mod intx;

pub mod function;

pub mod endpoint;

pub mod bridge;

pub mod topology;

pub mod access;

pub use access::{CONFIG_ADDRESS_PORT, CONFIG_PORTS, ConfigPorts, EcamWindow};
pub use address::{ParsePciAddressError, PciAddress};
pub use bar::{Bar, BarMapper, MappingId, Space};
pub use bridge::Bridge;
pub use endpoint::Endpoint;
pub use function::{Function, FunctionBuilder, FunctionError, FunctionState, Identity};
pub use intx::{IntxPin, IntxRouter, NoIntx};
pub use mapper::SpaceMapper;
pub use msix::{Msix, MsixState};
pub use topology::{Topology, TopologyError};
