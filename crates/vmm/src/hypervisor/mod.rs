//! CPU backends behind one set of traits.
//!
//! [`Hypervisor`] makes a [`Vm`] with its [`Vcpu`]s; the three together are shaped so that bhyve, KVM and
//! our own CPU fit without a caller knowing which one it has:
//!
//! * What a backend has in its kernel it declares ([`Capabilities`]); what it lacks, the machine adds as
//!   ordinary devices (`spec`: which of the two has the APIC, PIC, PIT, RTC, HPET, PM timer).
//! * Port, MMIO and MSR accesses are callbacks ([`GuestIo`]) on the vCPU's thread. A backend that exits for
//!   an access and has to be re-entered with the answer does so inside [`Vcpu::run`]; nobody else knows.
//! * What is left of a vCPU's exits is small ([`Exit`]).
//! * Memory is asked of the backend ([`Hypervisor::create`] returns the handle), because bhyve insists on
//!   allocating it.
//!
//! [`probe`] chooses a backend. [`soft`] runs on `softcpu`; [`fake`] runs a script, for tests.
//!
//! Never here: devices, the memory map, threads.

pub mod fake;

pub mod probe;

pub mod soft;

pub mod state;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use vm_types::memory::MemoryRange;
use vm_types::{Clock, GuestAddress, GuestMemory, IrqSink, MemoryError, Moment, MsiSink};

use crate::machine::config::{ClockMode, CpuidProfile};
pub use state::{VcpuState, VcpuStateError};

/// What a backend brings along, so that the machine does not add it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIC pair and IOAPIC. The local APICs always belong to the backend.
    pub irqchip: bool,
    /// PIT and port 0x61.
    pub pit: bool,
    /// RTC and CMOS memory.
    pub rtc: bool,
    /// HPET.
    pub hpet: bool,
    /// ACPI PM timer, once told its port.
    pub pm_timer: bool,
    /// vCPUs can be run for a number of instructions ([`Vcpu::run_for`] counts).
    pub counts_instructions: bool,
}

/// What a virtual machine is made from.
#[derive(Clone)]
pub struct VmConfig {
    /// Its name in the hypervisor's name space, where there is one.
    pub name: String,
    /// vCPUs, from 1.
    pub cpus: u32,
    /// RAM and ROM.
    pub memory: Vec<MemoryRange>,
    /// Everything else that a guest can touch.
    pub io: Arc<dyn GuestIo>,
    /// The machine's clock.
    pub clock: Clock,
    /// How that clock moves.
    pub clock_mode: ClockMode,
    /// CPUID leaves, if not the backend's own.
    pub cpuid: Option<CpuidProfile>,
}

impl fmt::Debug for VmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmConfig")
            .field("name", &self.name)
            .field("cpus", &self.cpus)
            .field("memory", &self.memory)
            .field("clock_mode", &self.clock_mode)
            .finish_non_exhaustive()
    }
}

/// The machine as a vCPU sees it. Called on the vCPU's thread, in the middle of an instruction; several
/// vCPUs call at once. Nothing here may block or panic, whatever the guest does.
pub trait GuestIo: Send + Sync {
    /// IN: 1, 2 or 4 bytes.
    fn port_in(&self, port: u16, data: &mut [u8]);
    /// OUT: 1, 2 or 4 bytes.
    fn port_out(&self, port: u16, data: &[u8]);
    /// A load from an address that is not memory: 1 to 8 bytes.
    fn mmio_read(&self, address: GuestAddress, data: &mut [u8]);
    /// A store to an address that is not memory, or is ROM: 1 to 8 bytes.
    fn mmio_write(&self, address: GuestAddress, data: &[u8]);
    /// RDMSR of a register that the backend does not know. `None` raises #GP.
    fn rdmsr(&self, vcpu: u32, msr: u32) -> Option<u64>;
    /// WRMSR of a register that the backend does not know. `false` raises #GP.
    fn wrmsr(&self, vcpu: u32, msr: u32, value: u64) -> bool;
    /// The acknowledge cycle of an external interrupt: the vector of a PIC pair that is ours. Only for
    /// backends without [`Capabilities::irqchip`].
    fn acknowledge_interrupt(&self) -> Option<u8>;
    /// The end of a level-triggered interrupt, for an IOAPIC that is ours.
    fn end_of_interrupt(&self, vector: u8);
}

/// Why [`Vcpu::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest waits for an interrupt, and the backend does not wait by itself. Run again when woken
    /// ([`Vcpu::set_waker`]) or at this moment.
    Halted {
        /// When the vCPU has something to do by itself, such as its APIC timer.
        until: Option<Moment>,
    },
    /// The guest asks for a change of the whole machine's state.
    Suspend(Suspend),
    /// Somebody kicked the vCPU, or the instructions asked for have been run. Run again at will.
    Interrupted,
    /// The backend cannot go on with this vCPU.
    Failed(VcpuFailure),
}

/// A change that a vCPU asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspend {
    /// Reset, by whatever way the backend intercepts.
    Reset,
    /// Power-off.
    PowerOff,
    /// A fault while a double fault was delivered.
    TripleFault,
}

/// Why a vCPU cannot go on: a limit or failure of the backend, not of the guest's making.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("vCPU {vcpu}: {reason}")]
pub struct VcpuFailure {
    /// Its number.
    pub vcpu: u32,
    /// What happened, with the backend's own numbers.
    pub reason: String,
}

/// Why a backend cannot make a machine.
#[derive(Debug, Error)]
pub enum HypervisorError {
    /// It does not work here at all.
    #[error("hypervisor {name}: {reason}")]
    Unavailable {
        /// Which one.
        name: &'static str,
        /// Why, and what would help.
        reason: String,
    },
    /// It works, but not with this configuration.
    #[error("hypervisor {name} cannot do {what}")]
    Unsupported {
        /// Which one.
        name: &'static str,
        /// What was asked.
        what: String,
    },
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A CPU backend.
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// Its name in configuration files.
    fn name(&self) -> &'static str;

    /// What its CPUs are called in the machine's tables.
    fn cpu_name(&self) -> &'static str;

    /// What it brings along.
    fn capabilities(&self) -> Capabilities;

    /// Makes a machine, its vCPUs in the power-on state, number 0 being the bootstrap processor.
    fn create(&self, config: &VmConfig) -> Result<NewVm, HypervisorError>;
}

/// What [`Hypervisor::create`] made.
#[derive(Debug)]
pub struct NewVm {
    /// The machine.
    pub vm: Arc<dyn Vm>,
    /// Its vCPUs in order.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// Its memory.
    pub memory: GuestMemory,
}

/// One virtual machine: what is not a single vCPU's.
pub trait Vm: Send + Sync + fmt::Debug {
    /// The backend's own PIC pair and IOAPIC, counting lines as `devices::irq` does. `None` unless
    /// [`Capabilities::irqchip`].
    fn irqchip(&self) -> Option<Arc<dyn IrqSink>>;

    /// Where message-signalled interrupts go.
    fn msi_sink(&self) -> MsiSink;

    /// The output of a PIC pair that is ours, wired to the bootstrap processor.
    fn interrupt_line(&self) -> Arc<dyn IrqSink>;

    /// The NMI button.
    fn inject_nmi(&self);

    /// Back to power-on, as far as it is not vCPUs or memory. All vCPUs are held.
    fn reset(&self) -> Result<(), HypervisorError>;

    /// Time and kernel devices stand still until `resume`. All vCPUs are held.
    fn pause(&self) {}

    /// Goes on after `pause`.
    fn resume(&self) {}
}

/// Makes a vCPU leave [`Vcpu::run`] soon, from any thread. Clones kick the same one.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Fn() + Send + Sync>);

impl Kicker {
    /// A handle that calls `kick`.
    pub fn new(kick: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(kick))
    }

    /// The next (or running) [`Vcpu::run`] comes back with [`Exit::Interrupted`].
    pub fn kick(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kicker")
    }
}

/// One vCPU. Belongs to one thread at a time, which may change while it does not run.
pub trait Vcpu: Send + fmt::Debug {
    /// Its number, from 0.
    fn id(&self) -> u32;

    /// Runs the guest until there is something for the caller.
    fn run(&mut self) -> Exit;

    /// Runs about this many instructions; comes back early as [`Vcpu::run`] does. Backends that cannot
    /// count ([`Capabilities::counts_instructions`]) just run.
    fn run_for(&mut self, _instructions: u64) -> Exit {
        self.run()
    }

    /// Instructions run so far, by backends that count.
    fn executed(&self) -> u64 {
        0
    }

    /// How to make it come back.
    fn kicker(&self) -> Kicker;

    /// Sets what is called, on any thread, when something arrives for a vCPU that may have said
    /// [`Exit::Halted`]. The first call counts. Backends that wait by themselves ignore it.
    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>);

    /// Its state, while held.
    fn state(&self) -> VcpuState;

    /// Replaces its state, while held.
    fn set_state(&mut self, state: &VcpuState) -> Result<(), VcpuStateError>;

    /// Back to power-on, while held: application processors wait for their start-up message.
    fn reset(&mut self);
}
