//! The devices that the configuration adds to the board.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use block::Disk;
use devices::lifecycle::Lifecycle;
use devices::misc::{DebugExit, Pvpanic};
use devices::nvme::{Nvme, NvmeConfig, NvmePorts};
use devices::pci::{Endpoint, PciAddress, Topology, TopologyError};
use devices::virtio::{BlockConfig, Entropy, Interface, Virtio, VirtioPorts};
use vm_types::{Execution, GuestMemory, MsiSink};

use super::clockwork::Clockwork;
use super::config::{ClockMode, DeviceConfig, PciPath};
use super::error::BuildError;
use super::io::MachineIo;
use crate::lifecycle::{Ending, Event, EventSender};

/// Where the random bytes of a machine whose runs must repeat begin.
const ENTROPY_SEED: u64 = 0x5eed_0001;

/// Most request queues of a virtio disk; one for each vCPU as far as that goes.
const VIRTIO_QUEUES_MAX: u32 = 8;

/// What devices are joined to.
pub(super) struct ExtraPorts<'a> {
    pub(super) io: &'a Arc<MachineIo>,
    pub(super) memory: &'a GuestMemory,
    pub(super) msi: MsiSink,
    pub(super) clockwork: &'a Clockwork,
    pub(super) topology: &'a Topology,
    pub(super) disks: &'a BTreeMap<String, Disk>,
    pub(super) cpus: u32,
    pub(super) events: &'a EventSender,
}

impl ExtraPorts<'_> {
    /// Makes one device and plugs it in.
    pub(super) fn add(
        &self,
        name: &str,
        config: &DeviceConfig,
    ) -> Result<Arc<dyn Lifecycle>, BuildError> {
        match config {
            DeviceConfig::Nvme { disk, path } => {
                let uuid = NvmeConfig::uuid_from_seed(disk);
                let ports = NvmePorts {
                    memory: self.memory.clone(),
                    msi: self.msi.clone(),
                    clock: self.clockwork.clock.clone(),
                    timers: Some(self.clockwork.timers.clone()),
                    disk: self.disk(name, disk)?,
                    execution: self.execution(),
                };
                let nvme = Nvme::new(ports, NvmeConfig::new(name, disk, uuid));
                let nvme = nvme.map_err(BuildError::function(name))?;
                self.plug(*path, nvme.clone())?;
                Ok(nvme)
            }
            DeviceConfig::VirtioBlock { disk, path } => {
                let config = BlockConfig {
                    queues: self.cpus.min(VIRTIO_QUEUES_MAX) as u16,
                    ..BlockConfig::new(name, disk)
                };
                let disk = self.disk(name, disk)?;
                let device = Virtio::block(&self.virtio_ports(), &disk, &config)
                    .map_err(BuildError::function(name))?;
                self.plug(*path, device.clone())?;
                Ok(device)
            }
            DeviceConfig::VirtioRng { path } => {
                let device = Virtio::entropy(
                    &self.virtio_ports(),
                    self.entropy()?,
                    name,
                    Interface::default(),
                )
                .map_err(BuildError::function(name))?;
                self.plug(*path, device.clone())?;
                Ok(device)
            }
            DeviceConfig::Pvpanic => {
                let device =
                    Pvpanic::new(|event| tracing::error!(?event, "the guest says that it crashed"));
                device.attach(&self.io.ports)?;
                Ok(device)
            }
            DeviceConfig::DebugExit { port } => {
                let events = self.events.clone();
                let device = DebugExit::new(move |value| {
                    let code = DebugExit::code(value) as u8;
                    events.send(Event::Halt(Ending::Code(code)));
                });
                device.attach(&self.io.ports, u64::from(*port))?;
                Ok(device)
            }
        }
    }

    fn disk(&self, device: &str, disk: &str) -> Result<Disk, BuildError> {
        self.disks
            .get(disk)
            .cloned()
            .ok_or_else(|| BuildError::NoSuchDisk {
                device: device.to_owned(),
                disk: disk.to_owned(),
            })
    }

    fn virtio_ports(&self) -> VirtioPorts {
        VirtioPorts {
            memory: self.memory.clone(),
            msi: self.msi.clone(),
            clock: self.clockwork.clock.clone(),
            timers: Some(self.clockwork.timers.clone()),
            execution: self.execution(),
        }
    }

    /// In a machine whose runs must repeat, work is done on the thread that asks for it.
    fn execution(&self) -> Execution {
        match self.clockwork.mode {
            ClockMode::Host => Execution::Threads,
            ClockMode::Virtual => Execution::Inline,
        }
    }

    fn entropy(&self) -> Result<Entropy, BuildError> {
        if self.clockwork.mode == ClockMode::Virtual {
            return Ok(Entropy::seeded(ENTROPY_SEED));
        }
        let path = std::path::Path::new("/dev/urandom");
        let source = File::open(path).map_err(|source| BuildError::File {
            what: "source of random bytes",
            path: path.to_owned(),
            source,
        })?;
        Ok(Entropy::new(Arc::new(move |bytes| {
            (&source).read_exact(bytes)
        })))
    }

    fn plug(&self, path: PciPath, endpoint: Arc<dyn Endpoint>) -> Result<(), TopologyError> {
        // The configuration has checked the numbers; the mask only says so to the type.
        let id = u16::from(path.bus) << 8
            | u16::from(path.slot & 0x1f) << 3
            | u16::from(path.function & 7);
        self.topology.add(PciAddress::from_routing_id(id), endpoint)
    }
}
