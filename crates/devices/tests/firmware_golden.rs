//! The tables as bytes, against committed dumps. `UPDATE_GOLDEN=1` writes them anew; the difference is
//! then reviewed. A dump can be turned back into a table with `xxd -r` and looked at with `iasl -d`.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fmt::Write as _;
use std::path::PathBuf;

use devices::firmware::{AcpiConfig, AcpiTables, MemoryLayout, Smbios, SmbiosConfig};

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        write!(text, "{:08x}:", row * 16).unwrap();
        for pair in chunk.chunks(2) {
            text.push(' ');
            for byte in pair {
                write!(text, "{byte:02x}").unwrap();
            }
        }
        let width = 9 + 5 * 8;
        let used = text.len() - text.rfind('\n').map_or(0, |at| at + 1);
        text.extend(std::iter::repeat_n(' ', width + 2 - used));
        text.extend(chunk.iter().map(|byte| match byte {
            0x20..0x7f => char::from(*byte),
            _ => '.',
        }));
        text.push('\n');
    }
    text
}

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let found = hex(bytes);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{name} differs from what is committed; look at it with UPDATE_GOLDEN=1:\n{found}"
    );
}

fn config() -> AcpiConfig {
    AcpiConfig {
        cpus: 2,
        ioapic_id: 0,
        layout: MemoryLayout {
            ecam_buses: 256,
            ..MemoryLayout::of(4 << 30)
        },
        serial_ports: vec![(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)],
        ps2: true,
        pvpanic: true,
        fw_cfg: true,
    }
}

#[test]
fn acpi_tables_are_as_committed() {
    let tables = AcpiTables::new(&config());
    let base = 0xe0000;
    let bytes = tables.place(base);
    check("acpi_rsdp.hex", &bytes[..36]);
    for (signature, offset, length) in &tables.index {
        let start = AcpiTables::ALIGNMENT as usize + offset;
        let name = String::from_utf8_lossy(signature).to_lowercase();
        check(&format!("acpi_{name}.hex"), &bytes[start..start + length]);
    }
}

#[test]
fn smbios_is_as_committed() {
    let smbios = Smbios::new(&SmbiosConfig {
        firmware_version: "v1".to_owned(),
        product: "Trivet PC".to_owned(),
        serial: "0001".to_owned(),
        uuid: uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        cpus: 2,
        cpu_id: (0x0006_0f01, 0x0781_abfd),
        cpu_name: "Trivet CPU".to_owned(),
        layout: MemoryLayout::of(4 << 30),
    });
    check("smbios.hex", &smbios.place(0xf0000));
}
