//! The tables by which a guest learns what the machine is, and the device that hands them to firmware.

use std::sync::Arc;

use devices::firmware::{
    AcpiConfig, AcpiTables, FwCfg, FwCfgItems, FwCfgPorts, MemoryLayout, Smbios, SmbiosConfig,
};
use devices::nvme::NvmeConfig;
use devices::serial::COM_PORTS;
use vm_types::GuestMemory;

use super::config::{DeviceConfig, MachineConfig};
use super::error::BuildError;
use super::io::MachineIo;
use super::platform::IOAPIC_ID;
use crate::memory::Layout;

/// ACPI and SMBIOS of one machine.
pub(super) struct Tables {
    pub(super) acpi: AcpiTables,
    pub(super) smbios: Smbios,
    pub(super) map: MemoryLayout,
}

/// What the tables say of the CPU.
#[derive(Clone, Copy)]
pub(super) struct CpuIdentity {
    /// EAX of CPUID leaf 1, which is EDX after reset.
    pub(super) signature: u32,
    pub(super) name: &'static str,
}

/// The memory map in the words of the firmware tables.
pub(super) fn memory_map(layout: &Layout) -> MemoryLayout {
    MemoryLayout {
        rom_bytes: layout.rom().map_or(0, |rom| rom.end - rom.start),
        window_64: layout.dev64(),
        ..MemoryLayout::of(layout.lowmem() + layout.highmem())
    }
}

impl Tables {
    pub(super) fn new(config: &MachineConfig, layout: &Layout, cpu: CpuIdentity) -> Self {
        let map = memory_map(layout);
        let acpi = AcpiTables::new(&AcpiConfig {
            cpus: config.cpus,
            ioapic_id: IOAPIC_ID,
            layout: map.clone(),
            serial_ports: COM_PORTS
                .iter()
                .map(|(port, irq)| (*port as u16, *irq as u8))
                .collect(),
            ps2: true,
            pvpanic: config
                .devices
                .values()
                .any(|device| *device == DeviceConfig::Pvpanic),
            fw_cfg: true,
        });
        let smbios = Smbios::new(&SmbiosConfig {
            firmware_version: config.bootrom_version.clone(),
            product: "Trivet".to_owned(),
            serial: config.name.clone(),
            uuid: NvmeConfig::uuid_from_seed(&config.name),
            cpus: config.cpus,
            cpu_id: (cpu.signature, 0),
            cpu_name: cpu.name.to_owned(),
            layout: map.clone(),
        });
        Self { acpi, smbios, map }
    }

    /// The device at ports 0x510 and on, with everything that OVMF and SeaBIOS look for.
    pub(super) fn fw_cfg(
        &self,
        config: &MachineConfig,
        io: &MachineIo,
        memory: &GuestMemory,
    ) -> Result<Arc<FwCfg>, BuildError> {
        let mut items = FwCfgItems::new(&self.map, config.cpus);
        items.acpi(&self.acpi);
        items.smbios(&self.smbios);
        if let Some(order) = &config.boot_order {
            let paths: Vec<String> = order
                .iter()
                .filter_map(|name| open_firmware_path(config.devices.get(name)?))
                .collect();
            items.boot_order(&paths);
        }
        let ports = FwCfgPorts {
            memory: memory.clone(),
        };
        let device = FwCfg::new(ports, items);
        device.attach(&io.ports)?;
        Ok(device)
    }
}

/// A device's path as OVMF looks for it in `bootorder`. The NVMe node's name is that of QEMU's controller,
/// by which OVMF knows the kind, whatever the device's own numbers are.
fn open_firmware_path(device: &DeviceConfig) -> Option<String> {
    let at = device.pci_path()?;
    let place = match at.function {
        0 => format!("{:x}", at.slot),
        function => format!("{:x},{function:x}", at.slot),
    };
    match device {
        DeviceConfig::Nvme { .. } => Some(format!("/pci@i0cf8/pci8086,5845@{place}/namespace@1,0")),
        DeviceConfig::VirtioBlock { .. } => Some(format!("/pci@i0cf8/scsi@{place}/disk@0,0")),
        DeviceConfig::VirtioRng { .. } | DeviceConfig::Pvpanic | DeviceConfig::DebugExit { .. } => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::config::PciPath;

    #[test]
    fn boot_paths() {
        let path = |slot, function| PciPath {
            bus: 0,
            slot,
            function,
        };
        let disk = "root".to_owned();
        let nvme = DeviceConfig::Nvme {
            disk: disk.clone(),
            path: path(16, 0),
        };
        assert_eq!(
            open_firmware_path(&nvme).unwrap(),
            "/pci@i0cf8/pci8086,5845@10/namespace@1,0"
        );
        let block = DeviceConfig::VirtioBlock {
            disk,
            path: path(5, 1),
        };
        assert_eq!(
            open_firmware_path(&block).unwrap(),
            "/pci@i0cf8/scsi@5,1/disk@0,0"
        );
        assert_eq!(open_firmware_path(&DeviceConfig::Pvpanic), None);
    }
}
