//! Interrupt controllers for machines whose hypervisor has none, and the wiring between a device's
//! line and their pins.
//!
//! ```text
//!  PCI INTx ──> PirqRouter ──(PIIX3 registers: ISA IRQ)──┐
//!                   └──────(always: IOAPIC pin 16..19)──┐ │
//!  ISA devices ─────────────────────────────────────────┴─┴> IrqFabric ──> Pic ──> INTR line
//!                                                               └────────> IoApic ──> MsiSink
//! ```
//!
//! The numbers in which a machine's lines are counted (the `pin` of [`vm_types::IrqSink`]) are the same
//! for each backend: 0 to 15 are ISA interrupts, which reach the PIC and the IOAPIC; 16 to 31 are
//! IOAPIC pins. A backend with chips in its kernel stands in for [`IrqFabric`].

pub mod fabric;
pub mod ioapic;
pub mod pic;
pub mod pirq;

pub use fabric::IrqFabric;
pub use ioapic::{IoApic, IoApicConfig, IoApicPorts};
pub use pic::{Pic, PicPorts};
pub use pirq::{PirqRouter, pirq_of};
