//! How a guest's accesses find a device.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use devices::bus::AddressSpace;
use devices::irq::{IoApic, Pic};
use vm_types::GuestAddress;

use crate::hypervisor::GuestIo;

/// Most model-specific registers that are remembered as logged: a guest could name four thousand million.
const LOGGED_MSRS_MAX: usize = 256;

/// The machine around its vCPUs: two address spaces, and the interrupt controllers once they are there.
///
/// It exists before the hypervisor's machine does, which in turn exists before the devices.
pub(super) struct MachineIo {
    pub(super) ports: AddressSpace,
    pub(super) mmio: AddressSpace,
    chips: OnceLock<Chips>,
    logged_msrs: Mutex<BTreeSet<u32>>,
}

/// Interrupt controllers that are ours.
struct Chips {
    pic: Arc<Pic>,
    ioapic: Arc<IoApic>,
}

/// Accesses that found nobody, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unclaimed {
    /// IN.
    pub port_reads: u64,
    /// OUT.
    pub port_writes: u64,
    /// Loads.
    pub mmio_reads: u64,
    /// Stores.
    pub mmio_writes: u64,
}

impl MachineIo {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            ports: AddressSpace::ports(),
            mmio: AddressSpace::mmio(),
            chips: OnceLock::new(),
            logged_msrs: Mutex::default(),
        })
    }

    /// Sets the interrupt controllers that answer acknowledge cycles and hear of ended interrupts.
    pub(super) fn set_chips(&self, pic: Arc<Pic>, ioapic: Arc<IoApic>) {
        self.chips.get_or_init(|| Chips { pic, ioapic });
    }

    pub(super) fn unclaimed(&self) -> Unclaimed {
        let (port_reads, port_writes) = self.ports.unclaimed();
        let (mmio_reads, mmio_writes) = self.mmio.unclaimed();
        Unclaimed {
            port_reads,
            port_writes,
            mmio_reads,
            mmio_writes,
        }
    }

    fn log_msr(&self, action: &str, vcpu: u32, msr: u32) {
        let mut logged = self
            .logged_msrs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if logged.len() < LOGGED_MSRS_MAX && logged.insert(msr) {
            let msr = format_args!("{msr:#x}");
            tracing::debug!(vcpu, %msr, action, "model-specific register that nobody knows");
        }
    }
}

impl GuestIo for MachineIo {
    fn port_in(&self, port: u16, data: &mut [u8]) {
        self.ports.read(u64::from(port), data);
    }

    fn port_out(&self, port: u16, data: &[u8]) {
        self.ports.write(u64::from(port), data);
    }

    fn mmio_read(&self, address: GuestAddress, data: &mut [u8]) {
        self.mmio.read(address.0, data);
    }

    fn mmio_write(&self, address: GuestAddress, data: &[u8]) {
        self.mmio.write(address.0, data);
    }

    /// Zero, as propolis answers: guests probe registers of real machines and cope with zero, but not all
    /// cope with #GP.
    fn rdmsr(&self, vcpu: u32, msr: u32) -> Option<u64> {
        self.log_msr("read", vcpu, msr);
        Some(0)
    }

    fn wrmsr(&self, vcpu: u32, msr: u32, _value: u64) -> bool {
        self.log_msr("write", vcpu, msr);
        true
    }

    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.chips.get().map(|chips| chips.pic.acknowledge())
    }

    fn end_of_interrupt(&self, vector: u8) {
        if let Some(chips) = self.chips.get() {
            chips.ioapic.end_of_interrupt(vector);
        }
    }
}

impl fmt::Debug for MachineIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineIo")
            .field("unclaimed", &self.unclaimed())
            .finish_non_exhaustive()
    }
}
