//! The builder: from a configuration to a machine that stands ready.

use std::sync::Arc;

use devices::serial::SerialPeer;

use super::boot;
use super::clockwork::Clockwork;
use super::config::MachineConfig;
use super::disks::{self, Backends};
use super::error::BuildError;
use super::extras::ExtraPorts;
use super::firmware::{CpuIdentity, Tables};
use super::io::MachineIo;
use super::pc::Pc;
use super::platform::{Platform, PlatformPorts};
use crate::hypervisor::{Hypervisor, VmConfig};
use crate::lifecycle::EventSender;
use crate::memory::Layout;
use crate::vcpu::Crew;

/// What a machine is joined to outside.
#[derive(Clone)]
pub struct BuildPorts {
    /// The other end of COM1.
    pub console: Arc<dyn SerialPeer>,
    /// The other end of the debug console.
    pub debug: Arc<dyn SerialPeer>,
    /// Where the machine's events go: to the driver of its life.
    pub events: EventSender,
    /// Backends of the disks that are not opened here but [given](super::config::DiskKind::Given).
    pub backends: Backends,
}

impl std::fmt::Debug for BuildPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildPorts").finish_non_exhaustive()
    }
}

/// Builds the machine on `hypervisor`: memory, devices, boot images and vCPUs, all standing still.
///
/// Errors: whatever is missing or contradicts; nothing is left running.
pub fn build(
    hypervisor: &dyn Hypervisor,
    config: MachineConfig,
    ports: &BuildPorts,
) -> Result<Pc, BuildError> {
    let rom_bytes = match &config.boot.bootrom {
        None => 0,
        Some(path) => {
            let metadata = std::fs::metadata(path).map_err(|source| BuildError::File {
                what: "bootrom",
                path: path.clone(),
                source,
            })?;
            metadata.len()
        }
    };
    let layout = Layout::new(config.memory_bytes, rom_bytes)?;
    let io = MachineIo::new();
    let clockwork = Clockwork::new(config.clock).map_err(|source| BuildError::System {
        what: "timer thread",
        source,
    })?;
    let disks = disks::open(&config.disks, &ports.backends)?;
    tracing::info!(
        name = config.name,
        hypervisor = hypervisor.name(),
        vcpus = config.cpus,
        lowmem = format_args!("{:#x}", layout.lowmem()),
        highmem = format_args!("{:#x}", layout.highmem()),
        "creating machine"
    );
    let made = hypervisor.create(&VmConfig {
        name: config.name.clone(),
        cpus: config.cpus,
        memory: layout.ranges(),
        io: io.clone(),
        clock: clockwork.clock.clone(),
        clock_mode: config.clock,
        cpuid: config.cpuid.clone(),
    })?;
    let platform = Platform::new(&PlatformPorts {
        io: &io,
        vm: made.vm.as_ref(),
        capabilities: hypervisor.capabilities(),
        clockwork: &clockwork,
        layout: &layout,
        cpus: config.cpus,
        console: ports.console.clone(),
        debug: ports.debug.clone(),
        events: &ports.events,
    })?;
    let mut parts = platform.parts;
    let extras = ExtraPorts {
        io: &io,
        memory: &made.memory,
        msi: made.vm.msi_sink(),
        clockwork: &clockwork,
        topology: &platform.topology,
        disks: &disks,
        cpus: config.cpus,
        events: &ports.events,
    };
    for (name, device) in &config.devices {
        parts.push(extras.add(name, device)?);
        tracing::info!(
            device = name,
            at = device.pci_path().map(tracing::field::display),
            "device added"
        );
    }

    let mut vcpus = made.vcpus;
    let cpu = CpuIdentity {
        // EDX after reset.
        signature: vcpus
            .first()
            .map_or(0, |vcpu| vcpu.state().general[2] as u32),
        name: hypervisor.cpu_name(),
    };
    let tables = Tables::new(&config, &layout, cpu);
    parts.push(tables.fw_cfg(&config, &io, &made.memory)?);
    let state = boot::load(&config, &layout, &tables, &made.memory)?;
    for vcpu in &mut vcpus {
        boot::apply(vcpu.as_mut(), state.as_ref())?;
    }
    let crew = Crew::start(vcpus, clockwork.schedule(), &ports.events).map_err(|source| {
        BuildError::System {
            what: "vCPU threads",
            source,
        }
    })?;
    Ok(Pc {
        config,
        disks,
        layout,
        tables,
        memory: made.memory,
        vm: made.vm,
        crew,
        io,
        clockwork,
        topology: platform.topology,
        config_ports: platform.config_ports,
        power: platform.power,
        com1: platform.com1,
        parts,
    })
}
