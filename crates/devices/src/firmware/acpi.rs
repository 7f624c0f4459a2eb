//! The ACPI tables of the machine (ACPI 6.3, chapter 5): RSDP, XSDT, RSDT, FADT, FACS, MADT, HPET, MCFG,
//! DSDT.
//!
//! They are made once, with addresses that count from the start of the blob and a list of where those
//! stand. Direct boot adds the address of the blob ([`AcpiTables::place`]); firmware in ROM does the
//! same by a script made of the list ([`super::loader`]).

use super::dsdt;
use super::layout::{ECAM_BASE, MemoryLayout};
use crate::chipset::power::{GPE0_BASE, GPE0_LENGTH, PM_BASE, SCI_IRQ};
use crate::chipset::reset_register::RESET_VALUE;
use crate::irq::ioapic::IOAPIC_BASE;
use crate::timer::hpet::{HPET_BASE, HPET_BLOCK_ID, HPET_MIN_TICK};

/// What the tables describe.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// CPUs, with APIC ids 0 to `cpus - 1`; at most 254.
    pub cpus: u32,
    /// The IOAPIC's id.
    pub ioapic_id: u8,
    /// The machine's memory.
    pub layout: MemoryLayout,
    /// First port and interrupt of each serial port.
    pub serial_ports: Vec<(u16, u8)>,
    /// There is a keyboard controller.
    pub ps2: bool,
    /// There is a panic notice port.
    pub pvpanic: bool,
    /// There is a firmware configuration device.
    pub fw_cfg: bool,
}

/// A place in the blob that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where it stands.
    pub offset: usize,
    /// 4 or 8 bytes.
    pub size: u8,
}

/// A checksum: the bytes `start..start + length` add up to zero by the one at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where it stands.
    pub offset: usize,
    /// First byte that counts.
    pub start: usize,
    /// How many count.
    pub length: usize,
}

/// Bytes with the places that have to be put right once the address is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// The bytes; addresses count from the start of the tables' blob.
    pub bytes: Vec<u8>,
    /// All addresses.
    pub pointers: Vec<Pointer>,
    /// All checksums, to be made after the addresses.
    pub checksums: Vec<Checksum>,
}

/// All tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// All but the root pointer; to be aligned to [`AcpiTables::ALIGNMENT`].
    pub tables: Blob,
    /// The root pointer.
    pub rsdp: Blob,
    /// Where each table is in the blob: signature, offset, length.
    pub index: Vec<([u8; 4], usize, usize)>,
}

const RSDP_BYTES: usize = 36;
const OEM_ID: &[u8; 6] = b"TRIVET";
const OEM_TABLE_ID: &[u8; 8] = b"TRIVETPC";
const CREATOR: &[u8; 4] = b"TRVT";

/// FADT flags (5.2.9, table 5-34).
mod flags {
    /// WBINVD works.
    pub(super) const WBINVD: u32 = 1 << 0;
    /// All processors halt in C1.
    pub(super) const C1: u32 = 1 << 2;
    /// No fixed sleep button.
    pub(super) const NO_SLEEP_BUTTON: u32 = 1 << 5;
    /// The clock's alarm has no status in the fixed registers.
    pub(super) const NO_FIXED_CLOCK: u32 = 1 << 6;
    /// The timer has 32 bits.
    pub(super) const TIMER_32: u32 = 1 << 8;
    /// There is a reset register.
    pub(super) const RESET: u32 = 1 << 10;
}

/// Boot architecture: legacy devices, no VGA; 0x02 is the keyboard controller.
const LEGACY_DEVICES: u16 = 0x01;
const KEYBOARD_CONTROLLER: u16 = 0x02;
const NO_VGA: u16 = 0x04;

impl Blob {
    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn zeroes(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    fn pointer_32(&mut self, target: usize) {
        let offset = self.bytes.len();
        self.pointers.push(Pointer { offset, size: 4 });
        self.u32(target as u32);
    }

    fn pointer_64(&mut self, target: usize) {
        let offset = self.bytes.len();
        self.pointers.push(Pointer { offset, size: 8 });
        self.u64(target as u64);
    }

    /// A generic address structure for ports (5.2.3.2).
    fn port(&mut self, port: u16, bits: u8) {
        let (space, access) = match bits {
            0 => (0, 0),
            8 => (1, 1),
            16 => (1, 2),
            _ => (1, 3),
        };
        self.bytes.extend([space, bits, 0, access]);
        self.u64(u64::from(port));
    }

    fn align(&mut self, to: usize) {
        let end = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(end, 0);
    }

    /// Adds a table with a standard header; returns where it starts.
    fn table(&mut self, signature: &[u8; 4], revision: u8, body: impl FnOnce(&mut Self)) -> usize {
        self.align(16);
        let start = self.bytes.len();
        self.bytes.extend(signature);
        self.u32(0);
        self.bytes.extend([revision, 0]);
        self.bytes.extend(OEM_ID);
        self.bytes.extend(OEM_TABLE_ID);
        self.u32(1);
        self.bytes.extend(CREATOR);
        self.u32(1);
        body(self);
        let length = self.bytes.len() - start;
        self.bytes[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
        self.checksums.push(Checksum {
            offset: start + 9,
            start,
            length,
        });
        start
    }

    /// The bytes with all addresses moved on by `base` and all checksums made.
    pub fn at(&self, base: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for pointer in &self.pointers {
            let end = pointer.offset + usize::from(pointer.size.min(8));
            if let Some(field) = bytes.get_mut(pointer.offset..end) {
                let mut value = [0; 8];
                value[..field.len()].copy_from_slice(field);
                let moved = u64::from_le_bytes(value).wrapping_add(base).to_le_bytes();
                let length = field.len();
                field.copy_from_slice(&moved[..length]);
            }
        }
        for sum in &self.checksums {
            bytes[sum.offset] = 0;
            let total = bytes[sum.start..sum.start + sum.length]
                .iter()
                .fold(0u8, |total, byte| total.wrapping_add(*byte));
            bytes[sum.offset] = total.wrapping_neg();
        }
        bytes
    }
}

impl AcpiTables {
    /// What the blob's address has to be a multiple of: the FACS comes first.
    pub const ALIGNMENT: u64 = 64;

    /// The tables of a machine.
    pub fn new(config: &AcpiConfig) -> Self {
        let mut blob = Blob::default();
        facs(&mut blob);
        let dsdt = blob.table(b"DSDT", 2, |blob| {
            blob.bytes.extend(dsdt::body(config));
        });
        let mut tables = vec![
            blob.table(b"FACP", 4, |blob| fadt(blob, config, dsdt)),
            blob.table(b"APIC", 3, |blob| madt(blob, config)),
            blob.table(b"HPET", 1, hpet),
        ];
        if config.layout.ecam_buses > 0 {
            tables.push(blob.table(b"MCFG", 1, |blob| mcfg(blob, config)));
        }
        let rsdt = blob.table(b"RSDT", 1, |blob| {
            for table in &tables {
                blob.pointer_32(*table);
            }
        });
        let xsdt = blob.table(b"XSDT", 1, |blob| {
            for table in &tables {
                blob.pointer_64(*table);
            }
        });
        let mut index = vec![(*b"FACS", 0, 64)];
        index.extend(blob.checksums.iter().map(|sum| {
            let mut signature = [0; 4];
            signature.copy_from_slice(&blob.bytes[sum.start..sum.start + 4]);
            (signature, sum.start, sum.length)
        }));
        Self {
            rsdp: rsdp(rsdt, xsdt),
            tables: blob,
            index,
        }
    }

    /// The tables for a blob at `base`, a multiple of [`AcpiTables::ALIGNMENT`], with the root pointer
    /// first. Returns the bytes; the root pointer's address is `base`.
    pub fn place(&self, base: u64) -> Vec<u8> {
        let tables_at = base + Self::ALIGNMENT;
        let mut bytes = self.rsdp.at(tables_at);
        bytes.resize(Self::ALIGNMENT as usize, 0);
        bytes.extend(self.tables.at(tables_at));
        bytes
    }
}

/// The root pointer, revision 2, with its two checksums.
fn rsdp(rsdt: usize, xsdt: usize) -> Blob {
    let mut blob = Blob::default();
    blob.bytes.extend(b"RSD PTR \0");
    blob.bytes.extend(OEM_ID);
    blob.u8(2);
    blob.pointer_32(rsdt);
    blob.u32(RSDP_BYTES as u32);
    blob.pointer_64(xsdt);
    blob.zeroes(4);
    for (offset, length) in [(8, 20), (32, RSDP_BYTES)] {
        blob.checksums.push(Checksum {
            offset,
            start: 0,
            length,
        });
    }
    blob
}

/// The firmware control structure: a lock and wake vectors that nobody uses (5.2.10).
fn facs(blob: &mut Blob) {
    blob.bytes.extend(b"FACS");
    blob.u32(64);
    blob.zeroes(24);
    blob.u8(2);
    blob.zeroes(31);
}

/// The fixed description table, revision 4 (5.2.9).
fn fadt(blob: &mut Blob, config: &AcpiConfig, dsdt: usize) {
    let (events, control, timer) = (PM_BASE, PM_BASE + 4, PM_BASE + 8);
    // The FACS is at the start of the blob.
    blob.pointer_32(0);
    blob.pointer_32(dsdt);
    // Reserved; profile: unspecified.
    blob.zeroes(2);
    blob.u16(SCI_IRQ as u16);
    // No SMI command port: the machine is in ACPI mode and stays there.
    blob.u32(0);
    blob.zeroes(4);
    for port in [events, 0, control, 0, 0, timer, GPE0_BASE, 0] {
        blob.u32(u32::from(port));
    }
    // Lengths: events, control, second control, timer, general purpose events; then their base, _CST.
    blob.bytes.extend([4, 2, 0, 4, GPE0_LENGTH, 0, 0, 0]);
    // C2 and C3 are not there: latencies above what would be allowed. Then cache flush sizes.
    blob.u16(0x0fff);
    blob.u16(0x0fff);
    blob.zeroes(4);
    // Duty cycle, alarm's day and month are not there; the century is.
    blob.bytes.extend([0, 0, 0, 0, 0x32]);
    let keyboard = if config.ps2 { KEYBOARD_CONTROLLER } else { 0 };
    blob.u16(LEGACY_DEVICES | NO_VGA | keyboard);
    blob.u8(0);
    blob.u32(
        flags::WBINVD
            | flags::C1
            | flags::NO_SLEEP_BUTTON
            | flags::NO_FIXED_CLOCK
            | flags::TIMER_32
            | flags::RESET,
    );
    blob.port(0xcf9, 8);
    blob.u8(RESET_VALUE);
    blob.zeroes(3);
    // The same once more in 64 bits. The FACS is named once only, as the specification wants.
    blob.u64(0);
    blob.pointer_64(dsdt);
    for (port, bits) in [
        (events, 32),
        (0, 0),
        (control, 16),
        (0, 0),
        (0, 0),
        (timer, 32),
        (GPE0_BASE, GPE0_LENGTH * 8),
        (0, 0),
    ] {
        blob.port(port, bits);
    }
}

/// The interrupt controllers (5.2.12).
fn madt(blob: &mut Blob, config: &AcpiConfig) {
    blob.u32(0xfee0_0000);
    // There is a PIC pair too.
    blob.u32(1);
    for cpu in 0..config.cpus {
        // Local APIC, its processor's number and its id; enabled.
        blob.bytes.extend([0, 8, cpu as u8, cpu as u8]);
        blob.u32(1);
    }
    blob.bytes.extend([1, 12, config.ioapic_id, 0]);
    blob.u32(IOAPIC_BASE as u32);
    blob.u32(0);
    // The timer is on pin 2; the SCI is level-triggered and active high.
    for (source, pin, how) in [(0, 2, 0x0), (SCI_IRQ as u8, SCI_IRQ, 0xd)] {
        blob.bytes.extend([2, 10, 0, source]);
        blob.u32(pin);
        blob.u16(how);
    }
    // NMI on LINT1 of all processors.
    blob.bytes.extend([4, 6, 0xff, 0, 0, 1]);
}

/// The event timer (IA-PC HPET 1.0a, 3.2.4).
fn hpet(blob: &mut Blob) {
    blob.u32(HPET_BLOCK_ID);
    // In memory, 64 bits wide.
    blob.bytes.extend([0, 64, 0, 0]);
    blob.u64(HPET_BASE);
    blob.u8(0);
    blob.u16(HPET_MIN_TICK);
    blob.u8(0);
}

/// The configuration window (PCI Firmware 3.2, 4.1.2).
fn mcfg(blob: &mut Blob, config: &AcpiConfig) {
    blob.zeroes(8);
    blob.u64(ECAM_BASE);
    blob.u16(0);
    let last = config.layout.ecam_buses.clamp(1, 256) - 1;
    blob.bytes.extend([0, last as u8]);
    blob.zeroes(4);
}

// The root pointer goes in front of the tables, in as many bytes as their alignment.
const _: () = assert!(RSDP_BYTES <= AcpiTables::ALIGNMENT as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cpus: u32) -> AcpiConfig {
        AcpiConfig {
            cpus,
            ioapic_id: 0,
            layout: MemoryLayout {
                ecam_buses: 1,
                ..MemoryLayout::of(1 << 30)
            },
            serial_ports: vec![(0x3f8, 4)],
            ps2: true,
            pvpanic: false,
            fw_cfg: false,
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn tables_are_found_from_the_root_pointer_and_add_up() {
        let base = 0xe0000u64;
        let bytes = AcpiTables::new(&config(4)).place(base);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let xsdt = word(24) - base as usize;
        assert_eq!(&bytes[xsdt..xsdt + 4], b"XSDT");
        let mut seen = Vec::new();
        for entry in (xsdt + 36..xsdt + word(xsdt + 4)).step_by(8) {
            let table = word(entry) - base as usize;
            assert_eq!(sum(&bytes[table..table + word(table + 4)]), 0);
            seen.push(bytes[table..table + 4].to_vec());
        }
        assert_eq!(seen, [b"FACP", b"APIC", b"HPET", b"MCFG"]);
        let rsdt = word(16) - base as usize;
        let facp = word(rsdt + 36) - base as usize;
        assert_eq!(word(facp + 4), 244);
        let facs = word(facp + 36) - base as usize;
        assert_eq!((&bytes[facs..facs + 4], facs % 64), (&b"FACS"[..], 0));
        let dsdt = word(facp + 40) - base as usize;
        assert_eq!(&bytes[dsdt..dsdt + 4], b"DSDT");
        assert_eq!(word(facp + 140), word(facp + 40));
        assert_eq!(sum(&bytes[dsdt..dsdt + word(dsdt + 4)]), 0);
    }

    #[test]
    fn the_tables_of_the_largest_machine_fit_below_the_smbios_area() {
        let bytes = AcpiTables::new(&config(254)).place(0xe0000);
        assert!(bytes.len() <= 0x1_0000, "{:#x}", bytes.len());
    }
}
