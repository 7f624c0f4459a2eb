//! The other side: drivers that play the guest, in process, with memory, address spaces and a record of
//! interrupts. For tests, benchmarks and fuzz targets; nothing in a machine uses it.
//!
//! * [`memory`]: pages of guest memory for queues and buffers.
//! * [`disk`]: a disk that writes down what it is asked to do.
//! * [`pci`]: a slot with one device in it, set up as firmware does.
//! * [`nvme`]: [`nvme::NvmeRig`], a controller and a driver; `nvme_flows`, the steps of two drivers in the
//!   field; `nvme_fuzz`, bytes as steps; `nvme_bench`, a load to be timed.
//! * [`virtio`]: [`virtio::VirtioRig`] and [`virtio::BlockRig`], a device and a driver of either interface;
//!   `virtio_fuzz`, bytes as steps; `virtio_bench`, a load to be timed.
//! * [`platform`]: [`platform::PlatformRig`], a board with every platform device; `platform_fuzz`, bytes as
//!   a guest's doings on it and as kernel images.
//!
//! A test driver stops at the first surprise: everything here panics where a test would.

pub mod memory;

pub mod pci;

pub mod disk;

pub mod nvme;

pub mod nvme_flows;

pub mod nvme_fuzz;

pub mod nvme_bench;

pub mod virtio;

pub mod virtio_fuzz;

pub mod virtio_bench;

pub mod platform;

pub mod platform_fuzz;
