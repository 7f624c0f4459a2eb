//! A whole machine, as the life cycle moves it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use block::Disk;
use devices::chipset::PowerManagement;
use devices::lifecycle::Lifecycle;
use devices::pci::{ConfigPorts, Topology};
use devices::serial::Uart;
use vm_types::{Address, GuestMemory, MemoryError};

use super::boot;
use super::clockwork::Clockwork;
use super::config::MachineConfig;
use super::error::BuildError;
use super::firmware::Tables;
use super::io::{MachineIo, Unclaimed};
use crate::hypervisor::Vm;
use crate::lifecycle::Machine;
use crate::memory::Layout;
use crate::vcpu::Crew;

/// A PC: memory, vCPUs, devices. Made by [`super::build`].
pub struct Pc {
    pub(super) config: MachineConfig,
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) layout: Layout,
    pub(super) tables: Tables,
    pub(super) memory: GuestMemory,
    pub(super) vm: Arc<dyn Vm>,
    pub(super) crew: Crew,
    pub(super) io: Arc<MachineIo>,
    pub(super) clockwork: Clockwork,
    pub(super) topology: Arc<Topology>,
    pub(super) config_ports: Arc<ConfigPorts>,
    pub(super) power: Arc<PowerManagement>,
    pub(super) com1: Arc<Uart>,
    pub(super) parts: Vec<Arc<dyn Lifecycle>>,
}

/// Bytes hashed at a time.
const HASH_CHUNK: usize = 1 << 16;

/// The button on the case. Does not keep the machine.
#[derive(Clone, Debug)]
pub struct PowerButton(Weak<PowerManagement>);

impl PowerButton {
    /// Presses it. `false`: the guest does not listen, and nothing will come of it.
    pub fn press(&self) -> bool {
        self.0
            .upgrade()
            .is_some_and(|power| power.press_power_button())
    }
}

impl Pc {
    /// COM1, for input.
    pub fn com1(&self) -> &Arc<Uart> {
        &self.com1
    }

    /// The power button.
    pub fn power_button(&self) -> PowerButton {
        PowerButton(Arc::downgrade(&self.power))
    }

    /// What it was built from.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Its disks, by name: for statistics. They are the machine's to use.
    pub fn disks(&self) -> &BTreeMap<String, Disk> {
        &self.disks
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Accesses that found no device.
    pub fn unclaimed(&self) -> Unclaimed {
        self.io.unclaimed()
    }

    /// Instructions executed, by backends that count; while the vCPUs are held or ended.
    pub fn executed(&self) -> u64 {
        self.crew.executed()
    }

    /// A number that depends on every byte of guest memory and its place: equal for equal memories. To be
    /// asked when the vCPUs are ended; takes about a second for 4 GiB.
    pub fn memory_hash(&self) -> Result<u64, MemoryError> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut chunk = vec![0; HASH_CHUNK];
        for range in self.memory.regions() {
            let mut done = 0;
            while done < range.length {
                let length = (range.length - done).min(HASH_CHUNK as u64);
                let bytes = &mut chunk[..length as usize];
                self.memory.read(range.start.unchecked_add(done), bytes)?;
                for word in bytes.chunks_exact(8) {
                    // The chunk is whole pages, so each word is whole.
                    let word = word.try_into().map_or(0, u64::from_le_bytes);
                    hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
                }
                done += length;
            }
        }
        Ok(hash)
    }

    fn restart(&mut self) -> Result<(), BuildError> {
        self.topology.reset();
        self.config_ports.set_address(0);
        self.vm.reset()?;
        let state = boot::load(&self.config, &self.layout, &self.tables, &self.memory)?;
        let mut result = Ok(());
        self.crew.with_each(|vcpu| {
            if result.is_ok() {
                result = boot::apply(vcpu, state.as_ref());
            }
        });
        result
    }
}

impl Machine for Pc {
    fn start_devices(&mut self) {
        for part in &self.parts {
            part.start();
        }
    }

    fn resume_devices(&mut self) {
        self.vm.resume();
        for part in &self.parts {
            part.resume();
        }
    }

    fn release_vcpus(&mut self) {
        self.crew.release();
    }

    fn hold_vcpus(&mut self) {
        self.crew.hold();
    }

    fn pause_devices(&mut self) {
        // The latest first: what was built on something stops before it.
        for part in self.parts.iter().rev() {
            part.pause();
        }
        self.vm.pause();
    }

    fn reset_devices(&mut self) {
        for part in &self.parts {
            part.reset();
        }
    }

    fn reset_machine(&mut self) -> Result<(), String> {
        self.restart().map_err(|error| error.to_string())
    }

    fn save(&mut self) -> Result<(), String> {
        Err("snapshots are not in this build yet".to_owned())
    }

    fn halt_devices(&mut self) {
        self.com1.flush();
        for part in self.parts.iter().rev() {
            part.halt();
        }
        self.clockwork.stop();
    }

    fn stop_vcpus(&mut self) {
        self.crew.stop();
        // Windows hold devices and devices hold windows; here the circle ends.
        self.io.ports.clear();
        self.io.mmio.clear();
    }
}

impl fmt::Debug for Pc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pc")
            .field("name", &self.config.name)
            .field("crew", &self.crew)
            .finish_non_exhaustive()
    }
}
