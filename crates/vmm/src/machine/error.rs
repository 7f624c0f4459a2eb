//! Why a machine cannot be built or started. Nothing runs when one of these is returned.

use devices::bus::SpaceError;
use devices::firmware::BootError;
use devices::pci::{FunctionError, TopologyError};
use thiserror::Error;
use vm_types::MemoryError;

use crate::hypervisor::{HypervisorError, VcpuStateError};
use crate::memory::LayoutError;

/// Why a machine cannot be built or started.
#[derive(Debug, Error)]
pub enum BuildError {
    /// No backend, or not with this configuration.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// Sizes of memory or ROM.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Guest memory could not be had or filled.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file cannot be read.
    #[error("{what} {path:?}: {source}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel cannot be started.
    #[error("kernel {path:?}: {source}")]
    Boot {
        /// Its path.
        path: std::path::PathBuf,
        /// Why.
        source: BootError,
    },
    /// A disk cannot be opened.
    #[error("[block_dev.{name}]: {source}")]
    Disk {
        /// Its name.
        name: String,
        /// Why.
        source: block::OpenError,
    },
    /// A disk whose backend was to be brought along.
    #[error("[block_dev.{name}]: nobody has opened it")]
    NoBackend {
        /// Its name.
        name: String,
    },
    /// Two devices want the same ports or addresses.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// Two devices want the same place on the PCI bus.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A device's own declaration is wrong.
    #[error("device {name}: {source}")]
    Function {
        /// The device.
        name: String,
        /// Why.
        source: FunctionError,
    },
    /// A device refers to a disk that there is not.
    #[error("[dev.{device}]: there is no disk {disk:?}")]
    NoSuchDisk {
        /// The device.
        device: String,
        /// The disk.
        disk: String,
    },
    /// A vCPU does not take its first state.
    #[error(transparent)]
    State(#[from] VcpuStateError),
    /// No thread, or another thing that the system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BuildError {
    /// For `map_err` on a device's constructor.
    pub(super) fn function(name: &str) -> impl FnOnce(FunctionError) -> Self {
        let name = name.to_owned();
        move |source| Self::Function { name, source }
    }
}
