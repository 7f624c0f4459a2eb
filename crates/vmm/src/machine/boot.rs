//! What is in memory and in the first vCPU's registers when the guest starts.

use std::path::Path;

use devices::firmware::boot::{self, BootImage, BootInput, BootState, Load};
use devices::firmware::layout::{MemoryLayout, TABLES_START};
use vm_types::{GuestAddress, GuestMemory};

use super::config::{KernelConfig, MachineConfig};
use super::error::BuildError;
use super::firmware::{Tables, memory_map};
use crate::hypervisor::state::{SegmentState, TableState};
use crate::hypervisor::{Vcpu, VcpuState};
use crate::memory::{Layout, release_freed};

/// Where the ACPI tables are, root pointer first.
const ACPI_AT: u64 = TABLES_START;
/// Where the SMBIOS entry point is, the structures behind it.
const SMBIOS_AT: u64 = TABLES_START + 0x1_0000;

/// Loads ROM, tables and kernel into memory; returns the first vCPU's state for a kernel that is started
/// directly. Files are read anew each time, so that they take no host memory while the guest runs.
pub(super) fn load(
    config: &MachineConfig,
    layout: &Layout,
    tables: &Tables,
    memory: &GuestMemory,
) -> Result<Option<VcpuState>, BuildError> {
    if let Some(path) = &config.boot.bootrom {
        layout.load_rom(memory, &read("bootrom", path)?)?;
    }
    let Some(kernel) = &config.boot.kernel else {
        return Ok(None);
    };
    // Firmware would do this; a kernel that is started directly finds them by searching, and is told.
    memory.load(GuestAddress(ACPI_AT), &tables.acpi.place(ACPI_AT))?;
    memory.load(GuestAddress(SMBIOS_AT), &tables.smbios.place(SMBIOS_AT))?;
    let state = start_kernel(kernel, &tables.map, memory)?;
    release_freed();
    Ok(Some(state))
}

/// Whether a machine with so much memory could start this kernel; nothing is kept.
pub fn check_kernel(kernel: &KernelConfig, memory_bytes: u64) -> Result<(), BuildError> {
    let map = memory_map(&Layout::new(memory_bytes, 0)?);
    let files = KernelFiles::read(kernel)?;
    files.load(kernel, &map).map(drop)
}

/// The files of a kernel that is started directly.
struct KernelFiles {
    image: Vec<u8>,
    initrd: Option<Vec<u8>>,
}

impl KernelFiles {
    fn read(kernel: &KernelConfig) -> Result<Self, BuildError> {
        let initrd = kernel.initrd.as_ref();
        Ok(Self {
            image: read("kernel", &kernel.image)?,
            initrd: initrd.map(|path| read("initrd", path)).transpose()?,
        })
    }

    fn load<'a>(
        &'a self,
        kernel: &'a KernelConfig,
        map: &'a MemoryLayout,
    ) -> Result<BootImage<'a>, BuildError> {
        boot::load(&BootInput {
            kernel: &self.image,
            initrd: self.initrd.as_deref(),
            command_line: &kernel.cmdline,
            layout: map,
            rsdp_at: Some(ACPI_AT),
        })
        .map_err(|source| BuildError::Boot {
            path: kernel.image.clone(),
            source,
        })
    }
}

fn start_kernel(
    kernel: &KernelConfig,
    map: &MemoryLayout,
    memory: &GuestMemory,
) -> Result<VcpuState, BuildError> {
    let files = KernelFiles::read(kernel)?;
    let boot = files.load(kernel, map)?;
    tracing::info!(protocol = ?boot.protocol, entry = format_args!("{:#x}", boot.state.rip), "kernel loaded");
    for load in &boot.loads {
        match load {
            Load::Bytes { at, data } => memory.load(GuestAddress(*at), data)?,
            Load::Zeroes { at, length } => memory.fill(GuestAddress(*at), 0, *length)?,
        }
    }
    Ok(first_state(&boot.state))
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| BuildError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Sets the first vCPU going; all others wait for their start-up message.
pub(super) fn apply(vcpu: &mut dyn Vcpu, state: Option<&VcpuState>) -> Result<(), BuildError> {
    vcpu.reset();
    match state {
        Some(state) if vcpu.id() == 0 => Ok(vcpu.set_state(state)?),
        _ => Ok(()),
    }
}

fn first_state(boot: &BootState) -> VcpuState {
    let segment = |segment: boot::Segment| SegmentState {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: segment.access,
    };
    let table = |(base, limit): (u64, u16)| TableState { base, limit };
    let mut general = [0; 16];
    general[0] = boot.rax;
    general[3] = boot.rbx;
    general[4] = boot.rsp;
    general[6] = boot.rsi;
    let data = segment(boot.data);
    VcpuState {
        general,
        rip: boot.rip,
        rflags: boot.rflags,
        segments: [data, segment(boot.cs), data, data, data, data],
        ldtr: segment(boot.ldt),
        tr: segment(boot.tr),
        gdt: table(boot.gdt),
        idt: table(boot.idt),
        cr0: boot.cr0,
        cr2: 0,
        cr3: boot.cr3,
        cr4: boot.cr4,
        efer: boot.efer,
        halted: false,
    }
}
