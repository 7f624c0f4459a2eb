//! One machine: what it is to be, and how it is put together.
//!
//! [`config`] says what; [`build`] joins a hypervisor's handles with devices, and is the only place that
//! holds both ends of each. Reading order: `io` (how a guest's accesses find a device), `clockwork` (clock
//! and timers), `platform` (the chipset and everything that sits on its board), `disks` and `extras` (what
//! the configuration adds), `firmware` (tables), `boot` (what is in memory and in the registers when the guest starts), `pc`
//! (the whole, as the life cycle moves it).

pub mod config;

mod io;

mod clockwork;

mod platform;

mod disks;

mod extras;

mod firmware;

mod boot;

mod build;

mod error;

mod pc;

pub use boot::check_kernel;
pub use build::{BuildPorts, build};
pub use disks::Backends;
pub use error::BuildError;
pub use io::Unclaimed;
pub use pc::{Pc, PowerButton};
