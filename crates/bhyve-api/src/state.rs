//! Arguments that carry the state of vCPUs, memory and kernel devices.

/// A class of state (`VM_DATA_READ`, `VM_DATA_WRITE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum DataClass {
    /// All classes with their versions and lengths.
    Version = 1,
    /// Registers.
    Register = 2,
    /// Model-specific registers.
    Msr = 3,
    /// FPU; the requests of its own are better.
    Fpu = 4,
    /// Local APIC.
    Lapic = 5,
    /// Pending events, pause, time base.
    VmmArch = 6,
    /// IOAPIC.
    IoApic = 7,
    /// PIT.
    Pit = 8,
    /// PIC pair.
    Pic = 9,
    /// HPET.
    Hpet = 10,
    /// ACPI PM timer, read only.
    PmTimer = 11,
    /// RTC and CMOS memory, second version.
    Rtc = 12,
    /// Guest time.
    VmmTime = 13,
    /// AMD's performance counters.
    PmuAmd = 14,
}

/// Most bytes of one transfer. A class that needs more says so, and how much.
pub const DATA_BYTES_MAX: usize = 8192;

/// Vcpu number that stands for the machine.
pub const WHOLE_MACHINE: i32 = -1;

/// The argument of `VM_DATA_READ` and `VM_DATA_WRITE`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DataTransfer {
    /// The vCPU, or [`WHOLE_MACHINE`].
    pub vcpu: i32,
    /// A [`DataClass`] as its number.
    pub class: u16,
    /// Its version.
    pub version: u16,
    /// None are defined.
    pub flags: u32,
    /// Length of the data in bytes.
    pub length: u32,
    /// How much was there, or is needed.
    pub result_length: u32,
    /// Reserved.
    pub pad: u32,
    /// Address of the data.
    pub data: u64,
}

const _: () = assert!(size_of::<DataTransfer>() == 32);

/// The run state of a vCPU (`VM_GET_RUN_STATE`).
pub mod run_state {
    /// It waits for its start-up message.
    pub const INIT: u32 = 1;
    /// It runs.
    pub const RUN: u32 = 2;
    /// An INIT is pending.
    pub const INIT_PENDING: u32 = 1 << 14;
    /// A start-up message is pending.
    pub const STARTUP_PENDING: u32 = 1 << 15;
}

/// A capability of a vCPU (`VM_SET_CAPABILITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Capability {
    /// HLT lets the vCPU sleep instead of spinning.
    HaltExit = 0,
    /// Exit after each instruction.
    Step = 1,
    /// Exit on PAUSE.
    PauseExit = 2,
    /// INVPCID is allowed.
    Invpcid = 3,
    /// Exit on breakpoints.
    Breakpoint = 4,
}

/// One row of a CPUID table (`VM_SET_CPUID`), sorted by leaf and index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuidEntry {
    /// Leaf.
    pub leaf: u32,
    /// Index, if [`CPUID_MATCH_INDEX`] is set.
    pub index: u32,
    /// [`CPUID_MATCH_INDEX`] or nothing.
    pub flags: u32,
    /// Answer.
    pub eax: u32,
    /// Answer.
    pub ebx: u32,
    /// Answer.
    pub ecx: u32,
    /// Answer.
    pub edx: u32,
    /// Reserved.
    pub pad: u32,
}

const _: () = assert!(size_of::<CpuidEntry>() == 32);

/// [`CpuidEntry::flags`]: the index counts.
pub const CPUID_MATCH_INDEX: u32 = 1;
/// `VM_SET_CPUID` flag: no table, the kernel's own answers.
pub const CPUID_LEGACY: u32 = 1;
/// `VM_SET_CPUID` flag: leaves out of range answer as Intel's do.
pub const CPUID_INTEL_FALLBACK: u32 = 2;
