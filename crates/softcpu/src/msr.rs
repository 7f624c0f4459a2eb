//! Model-specific registers, as a table.
//!
//! A register that is not in [`TABLE`] raises #GP(0) on RDMSR and WRMSR, which is how software finds out
//! what exists. Reserved bits raise it too. Sources: SDM vol. 4; APM vol. 2, appendix A; for the
//! processor-specific AMD registers the kernel sources that touch them.

use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::fault::{Exception, Trap};
use crate::mmu::{PHYSICAL_BITS, is_canonical};
use crate::state::{Seg, cr0, efer};

/// Registers that hold what software writes and do nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// IA32_MTRR_PHYSBASE0, PHYSMASK0, PHYSBASE1, ...
    pub mtrr_variable: [u64; 16],
    /// 64K_00000, 16K_80000, 16K_A0000, then the eight 4K registers.
    pub mtrr_fixed: [u64; 11],
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_default: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MCG_STATUS.
    pub machine_check_status: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_DEBUGCTL.
    pub debug_control: u64,
    /// HWCR.
    pub hardware_configuration: u64,
    /// The chipset-like registers of AMD, in the order of [`AMD_STORED`].
    pub amd: [u64; 16],
}

impl Storage {
    /// As after power-up, with the memory types as PC firmware leaves them: everything is write-back, so
    /// that a kernel started without firmware finds sensible MTRRs.
    pub const fn new() -> Self {
        Self {
            mtrr_variable: [0; 16],
            mtrr_fixed: [0x0606_0606_0606_0606; 11],
            mtrr_default: 0xc06,
            tsc_adjust: 0,
            machine_check_status: 0,
            misc_enable: 1,
            debug_control: 0,
            // The time-stamp counter runs at the P0 frequency; Linux complains otherwise.
            hardware_configuration: 1 << 24,
            amd: [0; 16],
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::new()
    }
}

/// AMD registers that Linux or firmware reads and writes, kept as plain storage: SYSCFG, IORRs, TOP_MEM,
/// TOP_MEM2, NB_CFG, INT_PENDING, MMIO_CONF_BASE, LS_CFG, DC_CFG, BU_CFG2, BP_CFG.
const AMD_STORED: [u32; 14] = [
    0xc001_0010,
    0xc001_0016,
    0xc001_0017,
    0xc001_0018,
    0xc001_0019,
    0xc001_001a,
    0xc001_001d,
    0xc001_001f,
    0xc001_0055,
    0xc001_0058,
    0xc001_1020,
    0xc001_1022,
    0xc001_102a,
    0xc001_102e,
];

/// One register, or a run of them with the same behaviour.
struct Row {
    first: u32,
    last: u32,
    name: &'static str,
    read: fn(&mut Cpu, u32) -> Result<u64, Trap>,
    write: fn(&mut Cpu, u32, u64) -> Result<(), Trap>,
}

/// RDMSR, after the privilege check.
pub(crate) fn read(cpu: &mut Cpu, index: u32) -> Result<u64, Trap> {
    match find(index) {
        Some(row) => {
            let value = (row.read)(cpu, index);
            tracing::trace!(msr = row.name, ?value, "rdmsr");
            value
        }
        None => {
            tracing::debug!(cpu = cpu.id, "rdmsr {index:#x}: no such register");
            refuse(cpu)
        }
    }
}

/// WRMSR, after the privilege check.
pub(crate) fn write(cpu: &mut Cpu, index: u32, value: u64) -> Result<(), Trap> {
    match find(index) {
        Some(row) => {
            tracing::trace!(msr = row.name, value, "wrmsr");
            (row.write)(cpu, index, value)
        }
        None => {
            tracing::debug!(
                cpu = cpu.id,
                "wrmsr {index:#x} = {value:#x}: no such register"
            );
            refuse(cpu)
        }
    }
}

/// Name of a register, for traces.
pub fn name(index: u32) -> Option<&'static str> {
    find(index).map(|row| row.name)
}

fn find(index: u32) -> Option<&'static Row> {
    let at = TABLE.partition_point(|row| row.last < index);
    TABLE.get(at).filter(|row| row.first <= index)
}

fn refuse<T>(cpu: &mut Cpu) -> Result<T, Trap> {
    Err(cpu.raise(Exception::protection(0)))
}

/// #GP(0) unless `allowed`.
fn require(cpu: &mut Cpu, allowed: bool) -> Result<(), Trap> {
    if allowed { Ok(()) } else { refuse(cpu) }
}

/// Whether `value` sets no bit outside `allowed`.
const fn fits(value: u64, allowed: u64) -> bool {
    value & !allowed == 0
}

fn read_only(cpu: &mut Cpu, _index: u32, _value: u64) -> Result<(), Trap> {
    refuse(cpu)
}

fn ignore(_cpu: &mut Cpu, _index: u32, _value: u64) -> Result<(), Trap> {
    Ok(())
}

/// A register that lives in a field: which one, and the bits that may be set.
macro_rules! field {
    ($index:literal, $name:literal, $($field:ident).+, $bits:expr) => {
        Row {
            first: $index,
            last: $index,
            name: $name,
            read: |cpu, _| Ok(cpu.$($field).+),
            write: |cpu, _, value| {
                require(cpu, fits(value, $bits))?;
                cpu.$($field).+ = value;
                Ok(())
            },
        }
    };
}

/// A field that holds a linear address.
macro_rules! address {
    ($index:literal, $name:literal, $($field:ident).+) => {
        Row {
            first: $index,
            last: $index,
            name: $name,
            read: |cpu, _| Ok(cpu.$($field).+),
            write: |cpu, _, value| {
                require(cpu, is_canonical(value))?;
                cpu.$($field).+ = value;
                Ok(())
            },
        }
    };
}

/// A register that always reads the same.
macro_rules! constant {
    ($first:literal..=$last:literal, $name:literal, $value:expr, $write:expr) => {
        Row {
            first: $first,
            last: $last,
            name: $name,
            read: |_, _| Ok($value),
            write: $write,
        }
    };
}

/// The base of FS or GS.
macro_rules! segment_base {
    ($index:literal, $name:literal, $seg:expr) => {
        Row {
            first: $index,
            last: $index,
            name: $name,
            read: |cpu, _| Ok(cpu.segments[$seg as usize].base),
            write: |cpu, _, value| {
                require(cpu, is_canonical(value))?;
                cpu.segments[$seg as usize].base = value;
                Ok(())
            },
        }
    };
}

/// All registers, ascending.
static TABLE: &[Row] = &[
    Row {
        first: 0x10,
        last: 0x10,
        name: "TSC",
        read: |cpu, _| Ok(cpu.tsc()),
        write: |cpu, _, value| {
            let moved = value.wrapping_sub(cpu.tsc());
            move_tsc(cpu, moved);
            Ok(())
        },
    },
    constant!(0x17..=0x17, "PLATFORM_ID", 0, read_only),
    Row {
        first: 0x1b,
        last: 0x1b,
        name: "APIC_BASE",
        read: |cpu, _| Ok(cpu.apic.base()),
        write: |cpu, _, value| {
            if cpu.apic.set_base(value).is_err() {
                return refuse(cpu);
            }
            cpu.publish();
            // The register page may have moved over memory that is cached in the TLB.
            cpu.flush_translations();
            cpu.request_attention();
            Ok(())
        },
    },
    Row {
        first: 0x3b,
        last: 0x3b,
        name: "TSC_ADJUST",
        read: |cpu, _| Ok(cpu.msrs.tsc_adjust),
        write: |cpu, _, value| {
            let moved = value.wrapping_sub(cpu.msrs.tsc_adjust);
            move_tsc(cpu, moved);
            Ok(())
        },
    },
    constant!(0x8b..=0x8b, "PATCH_LEVEL", 0, ignore),
    // Eight variable ranges, the fixed ones, write-combining.
    constant!(0xfe..=0xfe, "MTRRCAP", 0x508, read_only),
    field!(0x174, "SYSENTER_CS", control.sysenter_cs, 0xffff_ffff),
    address!(0x175, "SYSENTER_ESP", control.sysenter_esp),
    address!(0x176, "SYSENTER_EIP", control.sysenter_eip),
    // No banks: machine checks do not happen.
    constant!(0x179..=0x179, "MCG_CAP", 0, read_only),
    field!(0x17a, "MCG_STATUS", msrs.machine_check_status, 0),
    field!(
        0x1a0,
        "MISC_ENABLE",
        msrs.misc_enable,
        1 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 22
    ),
    field!(0x1d9, "DEBUGCTL", msrs.debug_control, 0x3f),
    constant!(0x1db..=0x1de, "LAST_BRANCH", 0, read_only),
    Row {
        first: 0x200,
        last: 0x20f,
        name: "MTRR_PHYS",
        read: |cpu, index| Ok(cpu.msrs.mtrr_variable[(index & 15) as usize]),
        write: |cpu, index, value| {
            let low = if index & 1 == 0 { 0xff } else { 1 << 11 };
            let allowed = ((1 << PHYSICAL_BITS) - 1) & !0xfff | low;
            let kind_ok = index & 1 == 1 || is_mtrr_type(value);
            require(cpu, value & !allowed == 0 && kind_ok)?;
            cpu.msrs.mtrr_variable[(index & 15) as usize] = value;
            Ok(())
        },
    },
    Row {
        first: 0x250,
        last: 0x250,
        name: "MTRR_FIX64K",
        read: |cpu, _| Ok(cpu.msrs.mtrr_fixed[0]),
        write: |cpu, _, value| write_fixed(cpu, 0, value),
    },
    Row {
        first: 0x258,
        last: 0x259,
        name: "MTRR_FIX16K",
        read: |cpu, index| Ok(cpu.msrs.mtrr_fixed[1 + (index & 1) as usize]),
        write: |cpu, index, value| write_fixed(cpu, 1 + (index & 1) as usize, value),
    },
    Row {
        first: 0x268,
        last: 0x26f,
        name: "MTRR_FIX4K",
        read: |cpu, index| Ok(cpu.msrs.mtrr_fixed[3 + (index & 7) as usize]),
        write: |cpu, index, value| write_fixed(cpu, 3 + (index & 7) as usize, value),
    },
    Row {
        first: 0x277,
        last: 0x277,
        name: "PAT",
        read: |cpu, _| Ok(cpu.control.pat),
        write: |cpu, _, value| {
            let legal = value
                .to_le_bytes()
                .iter()
                .all(|kind| matches!(kind, 0 | 1 | 4..=7));
            require(cpu, legal)?;
            cpu.control.pat = value;
            Ok(())
        },
    },
    Row {
        first: 0x2ff,
        last: 0x2ff,
        name: "MTRR_DEF_TYPE",
        read: |cpu, _| Ok(cpu.msrs.mtrr_default),
        write: |cpu, _, value| {
            require(cpu, value & !0xcff == 0 && is_mtrr_type(value))?;
            cpu.msrs.mtrr_default = value;
            Ok(())
        },
    },
    Row {
        first: 0x6e0,
        last: 0x6e0,
        name: "TSC_DEADLINE",
        read: |cpu, _| {
            let now = cpu.now();
            Ok(cpu.apic.tsc_deadline(now))
        },
        write: |cpu, _, value| {
            let (now, tsc) = (cpu.now(), cpu.tsc());
            cpu.apic.set_tsc_deadline(now, value, tsc);
            cpu.request_attention();
            Ok(())
        },
    },
    Row {
        first: 0x800,
        last: 0x8ff,
        name: "X2APIC",
        read: |cpu, index| {
            let now = cpu.now();
            match cpu.apic.read_msr(now, index) {
                Ok(value) => Ok(value),
                Err(crate::apic::Refused) => refuse(cpu),
            }
        },
        write: |cpu, index, value| {
            let now = cpu.now();
            match cpu.apic.write_msr(now, index, value) {
                Ok(effect) => {
                    cpu.apply_apic(effect);
                    Ok(())
                }
                Err(crate::apic::Refused) => refuse(cpu),
            }
        },
    },
    Row {
        first: 0xc000_0080,
        last: 0xc000_0080,
        name: "EFER",
        read: |cpu, _| Ok(cpu.control.efer),
        write: |cpu, _, value| write_efer(cpu, value),
    },
    field!(0xc000_0081, "STAR", control.star, u64::MAX),
    address!(0xc000_0082, "LSTAR", control.lstar),
    address!(0xc000_0083, "CSTAR", control.cstar),
    field!(0xc000_0084, "FMASK", control.fmask, 0xffff_ffff),
    segment_base!(0xc000_0100, "FS_BASE", Seg::Fs),
    segment_base!(0xc000_0101, "GS_BASE", Seg::Gs),
    address!(0xc000_0102, "KERNEL_GS_BASE", control.kernel_gs_base),
    field!(0xc000_0103, "TSC_AUX", control.tsc_aux, 0xffff_ffff),
    amd_row(0),
    field!(0xc001_0015, "HWCR", msrs.hardware_configuration, u64::MAX),
    amd_row(1),
    amd_row(2),
    amd_row(3),
    amd_row(4),
    amd_row(5),
    amd_row(6),
    amd_row(7),
    amd_row(8),
    amd_row(9),
    // SMM base, and the SVM lock: SVM is off for good.
    constant!(0xc001_0111..=0xc001_0113, "SMM", 0, ignore),
    constant!(0xc001_0114..=0xc001_0114, "VM_CR", 1 << 4, ignore),
    amd_row(10),
    amd_row(11),
    // LFENCE is serialising, whatever is written.
    constant!(0xc001_1029..=0xc001_1029, "DE_CFG", 1 << 1, ignore),
    amd_row(12),
    amd_row(13),
];

const fn amd_row(slot: usize) -> Row {
    Row {
        first: AMD_STORED[slot],
        last: AMD_STORED[slot],
        name: "AMD",
        read: |cpu, index| Ok(*amd_slot(cpu, index)),
        write: |cpu, index, value| {
            *amd_slot(cpu, index) = value;
            Ok(())
        },
    }
}

fn amd_slot(cpu: &mut Cpu, index: u32) -> &mut u64 {
    // The table's rows are made from the same list, so the fall-back is never taken.
    let slot = AMD_STORED
        .iter()
        .position(|stored| *stored == index)
        .unwrap_or(0);
    &mut cpu.msrs.amd[slot]
}

fn write_fixed(cpu: &mut Cpu, slot: usize, value: u64) -> Result<(), Trap> {
    let legal = value
        .to_le_bytes()
        .iter()
        .all(|kind| is_mtrr_type(u64::from(*kind)));
    require(cpu, legal)?;
    cpu.msrs.mtrr_fixed[slot] = value;
    Ok(())
}

fn is_mtrr_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4..=6)
}

/// Moves the time-stamp counter, and an armed deadline with it.
fn move_tsc(cpu: &mut Cpu, by: u64) {
    cpu.msrs.tsc_adjust = cpu.msrs.tsc_adjust.wrapping_add(by);
    cpu.control.tsc_offset = cpu.control.tsc_offset.wrapping_add(by);
    let (now, tsc) = (cpu.now(), cpu.tsc());
    cpu.apic.tsc_moved(now, tsc);
    cpu.request_attention();
}

/// EFER: automatic IBRS is stored and means nothing, as nothing is speculated here.
fn write_efer(cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
    const AUTOMATIC_IBRS: u64 = 1 << 21;
    let known = efer::SCE | efer::LME | efer::LMA | efer::NXE | AUTOMATIC_IBRS;
    let old = cpu.control.efer;
    let paging = cpu.control.cr0 & cr0::PG != 0;
    let switches = (old ^ value) & efer::LME != 0 && paging;
    require(cpu, value & !known == 0 && !switches)?;
    cpu.control.efer = value & !efer::LMA | old & efer::LMA;
    if (old ^ value) & efer::NXE != 0 {
        cpu.flush_translations();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_does_not_overlap() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].first <= pair[0].last);
            assert!(
                pair[0].last < pair[1].first,
                "{} {}",
                pair[0].name,
                pair[1].name
            );
        }
    }

    #[test]
    fn registers_are_found_by_number() {
        assert_eq!(name(0xc000_0080), Some("EFER"));
        assert_eq!(name(0x20f), Some("MTRR_PHYS"));
        assert_eq!(name(0x210), None);
        assert_eq!(name(0x48), None);
        assert_eq!(name(0x83f), Some("X2APIC"));
    }
}
