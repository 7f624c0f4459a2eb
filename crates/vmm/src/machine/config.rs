//! What a machine is to be: the typed configuration that a program hands to the builder.
//!
//! Nothing here is parsed and nothing is optional that the machine needs: whoever makes a
//! [`MachineConfig`] (the TOML reader of `standalone`, a test) has already checked names and references.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Most vCPUs that a machine may have. Source: the limit of the bhyve interface.
pub const CPUS_MAX: u32 = 32;

/// Largest firmware image, in bytes: what fits between the local APIC page and the end of 4 GiB with
/// room to spare.
pub const BOOTROM_BYTES_MAX: u64 = 16 << 20;

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineConfig {
    /// Its name, for logs and for the hypervisor's own name space.
    pub name: String,
    /// vCPUs, 1..=[`CPUS_MAX`].
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// Which CPU backend runs it.
    pub hypervisor: HypervisorChoice,
    /// Where its time comes from.
    pub clock: ClockMode,
    /// Where it starts.
    pub boot: BootConfig,
    /// SMBIOS type 0 version string.
    pub bootrom_version: String,
    /// Names of devices in the order in which firmware should try them.
    pub boot_order: Option<Vec<String>>,
    /// Explicit CPUID leaves instead of the backend's own.
    pub cpuid: Option<CpuidProfile>,
    /// Disks by name.
    pub disks: BTreeMap<String, DiskConfig>,
    /// Devices by name; they are built in this order.
    pub devices: BTreeMap<String, DeviceConfig>,
    /// What a halt and a reboot of the guest mean for the process.
    pub exits: ExitPolicy,
}

/// A choice of CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervisorChoice {
    /// The best one that really works here.
    Auto,
    /// The CPU in software.
    Soft,
    /// Linux KVM.
    Kvm,
    /// illumos bhyve.
    Bhyve,
}

/// Where the machine's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// The host's monotonic clock; a thread for each vCPU.
    Host,
    /// Executed instructions; one thread, so that two runs are the same to the bit.
    Virtual,
}

/// Where the machine starts. At least one of the two is given; a kernel wins over a ROM, which is then
/// mapped all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// Firmware image that ends at 4 GiB.
    pub bootrom: Option<PathBuf>,
    /// Kernel to be started without firmware.
    pub kernel: Option<KernelConfig>,
}

/// A kernel that is started directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelConfig {
    /// bzImage, ELF with a PVH note, or ELF with a multiboot header.
    pub image: PathBuf,
    /// Initial ramdisk (or multiboot module).
    pub initrd: Option<PathBuf>,
    /// Command line.
    pub cmdline: String,
}

/// What ends the process, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitPolicy {
    /// Exit code after the guest powered off.
    pub on_halt: u8,
    /// If set, a reboot ends the process with this code instead of starting again.
    pub on_reboot: Option<u8>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskConfig {
    /// Logical block in bytes. A given backend has its own.
    pub block_size: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Answer flushes without doing them.
    pub skip_flush: bool,
    /// Where the bytes are.
    pub kind: DiskKind,
}

/// Where a disk's bytes are.
#[derive(Clone, PartialEq)]
pub enum DiskKind {
    /// A file or block device.
    File {
        /// Its path.
        path: PathBuf,
        /// Threads that carry out requests.
        workers: u32,
    },
    /// Host memory, lost at exit.
    Memory {
        /// Size in bytes.
        bytes: u64,
        /// Threads that carry out requests.
        workers: u32,
    },
    /// Reads zeroes, forgets writes.
    Null {
        /// Size in bytes.
        bytes: u64,
    },
    /// A ready image, read-only.
    Image(Arc<[u8]>),
    /// A backend that whoever builds the machine brings along, by the disk's name
    /// ([`BuildPorts::backends`](super::BuildPorts::backends)).
    Given,
}

impl std::fmt::Debug for DiskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, workers } => f
                .debug_struct("File")
                .field("path", path)
                .field("workers", workers)
                .finish(),
            Self::Memory { bytes, workers } => f
                .debug_struct("Memory")
                .field("bytes", bytes)
                .field("workers", workers)
                .finish(),
            Self::Null { bytes } => f.debug_struct("Null").field("bytes", bytes).finish(),
            Self::Image(image) => write!(f, "Image({} bytes)", image.len()),
            Self::Given => f.write_str("Given"),
        }
    }
}

/// Bus, slot and function of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciPath {
    /// Bus number.
    pub bus: u8,
    /// Slot, 0..=31.
    pub slot: u8,
    /// Function, 0..=7.
    pub function: u8,
}

impl std::fmt::Display for PciPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.bus, self.slot, self.function)
    }
}

/// The functions that the chipset itself occupies.
pub const CHIPSET_FUNCTIONS: [(PciPath, &str); 3] = [
    (
        PciPath {
            bus: 0,
            slot: 0,
            function: 0,
        },
        "the host bridge",
    ),
    (
        PciPath {
            bus: 0,
            slot: 1,
            function: 0,
        },
        "the ISA bridge",
    ),
    (
        PciPath {
            bus: 0,
            slot: 1,
            function: 3,
        },
        "power management",
    ),
];

/// One device beside the chipset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceConfig {
    /// NVMe controller with one namespace.
    Nvme {
        /// Name of its disk.
        disk: String,
        /// Where it sits.
        path: PciPath,
    },
    /// virtio block device.
    VirtioBlock {
        /// Name of its disk.
        disk: String,
        /// Where it sits.
        path: PciPath,
    },
    /// virtio entropy device.
    VirtioRng {
        /// Where it sits.
        path: PciPath,
    },
    /// The panic port of QEMU.
    Pvpanic,
    /// A port whose write ends the process.
    DebugExit {
        /// The port.
        port: u16,
    },
}

impl DeviceConfig {
    /// Where the device sits, if it is on the PCI bus.
    pub fn pci_path(&self) -> Option<PciPath> {
        match self {
            Self::Nvme { path, .. } | Self::VirtioBlock { path, .. } | Self::VirtioRng { path } => {
                Some(*path)
            }
            Self::Pvpanic | Self::DebugExit { .. } => None,
        }
    }
}

/// CPUID leaves as the guest is to see them, before they are fitted to each vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidProfile {
    /// What a leaf out of range gives.
    pub vendor: CpuidVendor,
    /// The leaves, by leaf and index; an entry with an index outranks one without.
    pub leaves: BTreeMap<(u32, Option<u32>), [u32; 4]>,
}

/// Whose rules hold for leaves out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidVendor {
    /// Zeroes.
    Amd,
    /// The highest basic leaf.
    Intel,
}
