//! The devices of a PC, each behind narrow handles, none aware of a hypervisor.
//!
//! Reading order: [`bus`] (how an access finds a device and its registers) → [`lifecycle`] (what every
//! device does at start, pause, reset and save) → [`irq`] (interrupt controllers and routing) → [`pci`] (functions, windows, MSI-X, configuration space).

pub mod bus;

pub mod lifecycle;

pub mod irq;

pub mod pci;
