//! Device nodes, names and versions.

/// Makes and destroys machines; opened for writing, exclusively.
pub const CONTROL_NODE: &str = "/dev/vmmctl";
/// Directory of the machines' own nodes, each named as its machine.
pub const MACHINE_DIRECTORY: &str = "/dev/vmm";
/// Opened once for each network device.
pub const VIONA_NODE: &str = "/dev/viona";

/// Version of the interface that these numbers are of.
pub const INTERFACE_VERSION: u32 = 18;
/// The oldest that can be worked with: CPUID tables, HLT, PAUSE and dirty pages are there.
pub const INTERFACE_VERSION_MIN: u32 = 8;

/// From which version on a feature is there.
pub mod since {
    /// `VM_DATA_WRITE` for all classes.
    pub const DATA_WRITE: u32 = 13;
    /// [`crate::run::EXIT_CONSISTENT`].
    pub const EXIT_CONSISTENT: u32 = 15;
    /// `VM_VCPU_BARRIER`, and who caused a suspension.
    pub const VCPU_BARRIER: u32 = 16;
    /// `VM_NPT_OPERATION`.
    pub const NPT_OPERATION: u32 = 17;
}

/// Bytes of a machine's name with its zero.
pub const NAME_BYTES: usize = 128;

/// Most vCPUs of a machine.
pub const VCPUS_MAX: u32 = 32;

/// `VMM_CREATE_VM` flag: memory comes from the reservoir.
pub const CREATE_FROM_RESERVOIR: u64 = 1;
/// `VMM_CREATE_VM` flag: note which pages are written.
pub const CREATE_TRACK_DIRTY: u64 = 2;
