//! The devices of a PC, each behind narrow handles, none aware of a hypervisor.
//!
//! Reading order:
//!
//! * [`bus`]: how an access finds a device and its registers.
//! * [`lifecycle`]: what every device does at start, pause, reset and save.
//! * [`irq`]: interrupt controllers, and the wiring from lines to their pins.
//! * [`timer`]: PIT, RTC, HPET, PM timer.
//! * [`serial`], [`ps2`], [`misc`]: UARTs, keyboard and mouse, and devices of a port or two.
//! * [`pci`]: functions, windows, MSI-X, configuration space.
//! * [`chipset`]: host bridge, ISA bridge, power management, reset register.
//! * [`firmware`]: what a guest finds in memory before it runs: tables, maps, the kernel itself.
//! * [`nvme`]: an NVM Express controller over a [`block::Disk`].
//! * [`virtio`]: block and entropy devices, modern and legacy.
//! * [`testkit`]: drivers that play the guest, for tests, benchmarks and fuzz targets.
//!
//! Never here: a hypervisor, an emulated CPU, a runtime, files, the host's time. A device gets narrow
//! handles (`XPorts`) and a plain configuration (`XConfig`) and says in `attach` where it answers.
//! Promises: nothing that a guest does panics or blocks, each device can be saved, and its registers can
//! be read in any pieces.

pub mod bus;

pub mod lifecycle;

pub mod irq;

pub mod timer;

pub mod serial;

pub mod ps2;

pub mod misc;

pub mod pci;

pub mod chipset;

pub mod firmware;

pub mod nvme;

pub mod virtio;

pub mod testkit;

mod sync;
