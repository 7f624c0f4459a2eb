//! The management tables (SMBIOS 2.7, DMTF DSP0134): types 0, 1, 4, 16, 17, 32, 127 with the 32-bit entry
//! point.

use super::layout::MemoryLayout;

/// Where the entry point is put in machines without firmware; it is searched for from here in steps
/// of 16 bytes.
pub const SMBIOS_AT: u64 = 0xf_0000;

/// Bytes of the entry point.
const ANCHOR_BYTES: usize = 31;
/// Memory modules of this size at most; the field goes no further without an extension.
const MODULE_BYTES: u64 = 16 << 30;

/// What the tables say.
#[derive(Clone, Debug)]
pub struct SmbiosConfig {
    /// Firmware version, type 0.
    pub firmware_version: String,
    /// Product name, type 1.
    pub product: String,
    /// Serial number, type 1.
    pub serial: String,
    /// The machine's identity, type 1.
    pub uuid: uuid::Uuid,
    /// CPUs, one socket each.
    pub cpus: u32,
    /// Family, model and stepping as CPUID leaf 1 gives them in EAX, then its EDX.
    pub cpu_id: (u32, u32),
    /// The CPU's brand string.
    pub cpu_name: String,
    /// The machine's memory.
    pub layout: MemoryLayout,
}

/// Entry point and structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smbios {
    /// The structures, one after the other.
    pub tables: Vec<u8>,
    /// How many there are.
    count: u16,
    /// Length of the longest.
    longest: u16,
}

/// A structure while it is being made: its formatted part, then its strings.
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let mut formatted = vec![kind, 0];
        formatted.extend(handle.to_le_bytes());
        Self {
            formatted,
            strings: Vec::new(),
            count: 0,
        }
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.formatted.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.formatted.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.formatted.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.formatted.extend(value.to_le_bytes());
        self
    }

    /// A reference to a string, whose zeroes and overlength are cut off; an empty one is none.
    fn string(&mut self, text: &str) -> &mut Self {
        let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).take(64).collect();
        if bytes.is_empty() {
            return self.u8(0);
        }
        self.strings.extend(bytes);
        self.strings.push(0);
        self.count += 1;
        self.u8(self.count)
    }
}

impl Smbios {
    /// The tables of a machine.
    pub fn new(config: &SmbiosConfig) -> Self {
        let mut tables = Self {
            tables: Vec::new(),
            count: 0,
            longest: 0,
        };
        tables.add(firmware(config));
        tables.add(system(config));
        for cpu in 0..config.cpus {
            tables.add(processor(config, cpu));
        }
        let modules = modules(&config.layout);
        tables.add(memory_array(config, modules.len()));
        for (index, bytes) in modules.iter().enumerate() {
            tables.add(memory_device(index, *bytes));
        }
        tables.add(boot_status());
        tables.add(Structure::new(127, 0x7f00));
        tables
    }

    fn add(&mut self, mut structure: Structure) {
        structure.formatted[1] = structure.formatted.len() as u8;
        // A second zero ends the strings; without any there are two all the same.
        structure.strings.push(0);
        if structure.count == 0 {
            structure.strings.push(0);
        }
        let length = structure.formatted.len() + structure.strings.len();
        self.longest = self.longest.max(u16::try_from(length).unwrap_or(u16::MAX));
        self.count = self.count.saturating_add(1);
        self.tables.extend(structure.formatted);
        self.tables.extend(structure.strings);
    }

    /// The entry point for structures at `tables_at`, which is below 4 GiB.
    pub fn anchor(&self, tables_at: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ANCHOR_BYTES);
        bytes.extend(b"_SM_\0");
        bytes.extend([ANCHOR_BYTES as u8, 2, 7]);
        bytes.extend(self.longest.to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(b"_DMI_\0");
        let length = u16::try_from(self.tables.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend((tables_at as u32).to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.push(0x27);
        bytes[21] = checksum(&bytes[16..]);
        bytes[4] = checksum(&bytes);
        bytes
    }

    /// Entry point and structures for direct boot, with the entry point at `base`.
    pub fn place(&self, base: u64) -> Vec<u8> {
        let mut bytes = self.anchor(base + 32);
        bytes.resize(32, 0);
        bytes.extend_from_slice(&self.tables);
        bytes
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// Type 0.
fn firmware(config: &SmbiosConfig) -> Structure {
    let mut structure = Structure::new(0, 0x0000);
    structure
        .string("Trivet")
        .string(&config.firmware_version)
        // Where its code starts; release date; size in 64 KiB less one.
        .u16(0xe800)
        .string("01/01/2026")
        .u8(0)
        // Characteristics: "not supported" is bit 3. Extension: ACPI; virtual machine.
        .u64(1 << 3)
        .u16(0x1001)
        // Releases of the firmware and of a controller: none.
        .u32(0xffff_ffff);
    structure
}

/// Type 1.
fn system(config: &SmbiosConfig) -> Structure {
    let mut structure = Structure::new(1, 0x0100);
    structure
        .string("Trivet")
        .string(&config.product)
        .string("1.0")
        .string(&config.serial);
    // The first three fields of the identity are little-endian since version 2.6.
    structure.formatted.extend(config.uuid.to_bytes_le());
    // Woken by the power switch; SKU and family.
    structure.u8(6).string("").string("");
    structure
}

/// Type 4.
fn processor(config: &SmbiosConfig, cpu: u32) -> Structure {
    let mut structure = Structure::new(4, 0x0400 + cpu as u16);
    structure
        .string(&format!("CPU {cpu}"))
        // A central processor; its family is in the extended field.
        .u8(3)
        .u8(0xfe)
        .string("Trivet")
        .u32(config.cpu_id.0)
        .u32(config.cpu_id.1)
        .string(&config.cpu_name)
        // Voltage, external clock, speeds: not known.
        .u8(0)
        .u16(0)
        .u16(0)
        .u16(0)
        // Socket populated, processor enabled; an unknown kind of socket.
        .u8(0x41)
        .u8(2)
        // No cache structures.
        .u16(0xffff)
        .u16(0xffff)
        .u16(0xffff)
        .string("")
        .string("")
        .string("")
        // One core, enabled, with one thread.
        .u8(1)
        .u8(1)
        .u8(1)
        // 64-bit capable.
        .u16(0x04)
        // Family: unknown.
        .u16(2);
    structure
}

/// The machine's RAM as modules, none larger than the field can say.
fn modules(layout: &MemoryLayout) -> Vec<u64> {
    let mut rest = layout.low_bytes.saturating_add(layout.high_bytes);
    let mut modules = Vec::new();
    // More than this many would not fit below 1 MiB; the last one takes the rest.
    while rest > MODULE_BYTES && modules.len() < 63 {
        modules.push(MODULE_BYTES);
        rest -= MODULE_BYTES;
    }
    modules.push(rest);
    modules
}

const ARRAY_HANDLE: u16 = 0x1000;

/// Type 16.
fn memory_array(config: &SmbiosConfig, modules: usize) -> Structure {
    let bytes = config
        .layout
        .low_bytes
        .saturating_add(config.layout.high_bytes);
    let kib = bytes >> 10;
    // 2 TiB and more are in the extended field.
    let capacity = u32::try_from(kib).ok().filter(|kib| *kib < 0x8000_0000);
    let mut structure = Structure::new(16, ARRAY_HANDLE);
    structure
        // Place: other. Use: system memory. No error correction, no error information.
        .u8(1)
        .u8(3)
        .u8(3)
        .u32(capacity.unwrap_or(0x8000_0000))
        .u16(0xfffe)
        .u16(modules as u16)
        .u64(if capacity.is_some() { 0 } else { bytes });
    structure
}

/// Type 17.
fn memory_device(index: usize, bytes: u64) -> Structure {
    let mib = bytes >> 20;
    let short = u16::try_from(mib).ok().filter(|mib| *mib < 0x7fff);
    let mut structure = Structure::new(17, 0x1100 + index as u16);
    structure
        .u16(ARRAY_HANDLE)
        .u16(0xfffe)
        // Widths: unknown.
        .u16(0xffff)
        .u16(0xffff)
        .u16(short.unwrap_or(0x7fff))
        // Form: DIMM; no set of modules.
        .u8(9)
        .u8(0)
        .string(&format!("DIMM {index}"))
        .string("")
        // RAM; type detail: other.
        .u8(7)
        .u16(2)
        .u16(0)
        .string("Trivet")
        .string("")
        .string("")
        .string("")
        // Rank unknown; extended size; configured speed unknown.
        .u8(0)
        .u32(if short.is_some() { 0 } else { mib as u32 })
        .u16(0);
    structure
}

/// Type 32: no errors.
fn boot_status() -> Structure {
    let mut structure = Structure::new(32, 0x2000);
    structure.formatted.extend([0; 7]);
    structure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bytes: u64, cpus: u32) -> SmbiosConfig {
        SmbiosConfig {
            firmware_version: "1".to_owned(),
            product: "PC".to_owned(),
            serial: String::new(),
            uuid: uuid::Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff),
            cpus,
            cpu_id: (0x600, 0x1),
            cpu_name: "CPU".to_owned(),
            layout: MemoryLayout::of(bytes),
        }
    }

    /// Kind, length of the formatted part and strings of each structure.
    fn walk(tables: &[u8]) -> Vec<(u8, usize, usize)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < tables.len() {
            let length = usize::from(tables[at + 1]);
            let rest = &tables[at + length..];
            let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
            found.push((
                tables[at],
                length,
                rest[..end + 1].split(|b| *b == 0).count() - 1,
            ));
            at += length + end + 2;
        }
        found
    }

    #[test]
    fn the_structures_have_the_lengths_of_version_2_7() {
        let smbios = Smbios::new(&config(20 << 30, 2));
        let found = walk(&smbios.tables);
        let expected = [
            (0, 24, 3),
            (1, 27, 3),
            (4, 42, 3),
            (4, 42, 3),
            (16, 23, 1),
            (17, 34, 2),
            (17, 34, 2),
            (32, 11, 1),
            (127, 4, 1),
        ];
        assert_eq!(found, expected);
        assert_eq!(smbios.count, 9);
    }

    #[test]
    fn both_sums_of_the_entry_point_are_zero() {
        let bytes = Smbios::new(&config(1 << 30, 1)).place(SMBIOS_AT);
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&bytes[..31]), sum(&bytes[16..31])), (0, 0));
        assert_eq!(bytes[24..28], 0xf0020u32.to_le_bytes());
        assert_eq!(bytes[33], 24);
    }

    #[test]
    fn the_tables_of_the_largest_machine_fit_below_1_mib() {
        let bytes = Smbios::new(&config(1 << 40, 254)).place(SMBIOS_AT);
        assert!(bytes.len() <= 0x1_0000);
    }
}
