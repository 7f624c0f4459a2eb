//! The script by which firmware puts the ACPI tables into memory: allocate, patch addresses, make
//! checksums (`etc/table-loader`, as OVMF and SeaBIOS read it).

use super::acpi::{AcpiTables, Blob};

/// File names that the script refers to.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// The root pointer's file.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The script's own file.
pub const LOADER_FILE: &str = "etc/table-loader";

/// Bytes of a command; shorter ones are filled up.
const COMMAND_BYTES: usize = 128;
/// Bytes of a file name.
const NAME_BYTES: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Anywhere below 4 GiB, and between 0xf0000 and 1 MiB, where the root pointer is searched for.
const ZONE_HIGH: u8 = 1;
const ZONE_FSEG: u8 = 2;

/// The script for `tables`.
pub fn script(tables: &AcpiTables) -> Vec<u8> {
    let mut script = Vec::new();
    let alignment = AcpiTables::ALIGNMENT as u32;
    allocate(&mut script, TABLES_FILE, alignment, ZONE_HIGH);
    allocate(&mut script, RSDP_FILE, 16, ZONE_FSEG);
    for (file, blob) in [(TABLES_FILE, &tables.tables), (RSDP_FILE, &tables.rsdp)] {
        patch(&mut script, file, blob);
    }
    script
}

fn allocate(script: &mut Vec<u8>, file: &str, alignment: u32, zone: u8) {
    let body = [&name(file)[..], &alignment.to_le_bytes(), &[zone]].concat();
    command(script, ALLOCATE, &body);
}

/// Addresses first, then the sums over them. All addresses point into the tables.
fn patch(script: &mut Vec<u8>, file: &str, blob: &Blob) {
    for pointer in &blob.pointers {
        let offset = (pointer.offset as u32).to_le_bytes();
        let body = [
            &name(file)[..],
            &name(TABLES_FILE),
            &offset,
            &[pointer.size],
        ]
        .concat();
        command(script, ADD_POINTER, &body);
    }
    for sum in &blob.checksums {
        let mut body = name(file).to_vec();
        for value in [sum.offset, sum.start, sum.length] {
            body.extend((value as u32).to_le_bytes());
        }
        command(script, ADD_CHECKSUM, &body);
    }
}

fn command(script: &mut Vec<u8>, command: u32, body: &[u8]) {
    let end = script.len() + COMMAND_BYTES;
    script.extend(command.to_le_bytes());
    script.extend_from_slice(body);
    script.resize(end, 0);
}

fn name(file: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (into, from) in bytes.iter_mut().zip(file.bytes()) {
        *into = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::{AcpiConfig, MemoryLayout};
    use std::collections::HashMap;

    /// Runs the script as firmware does, with the files at given addresses.
    fn run(script: &[u8], files: &mut HashMap<String, (u64, Vec<u8>)>) {
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        for entry in script.chunks(128) {
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            let file = text(&entry[4..60]);
            match word(0) {
                1 => assert_eq!(files[&file].0 % u64::from(word(60)), 0),
                2 => {
                    let base = files[&text(&entry[60..116])].0;
                    let (at, size) = (word(116) as usize, usize::from(entry[120]));
                    let bytes = &mut files.get_mut(&file).unwrap().1[at..at + size];
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(bytes);
                    let moved = (u64::from_le_bytes(value) + base).to_le_bytes();
                    bytes.copy_from_slice(&moved[..size]);
                }
                3 => {
                    let bytes = &mut files.get_mut(&file).unwrap().1;
                    let (start, length) = (word(64) as usize, word(68) as usize);
                    let sum = bytes[start..start + length]
                        .iter()
                        .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    let at = word(60) as usize;
                    bytes[at] = bytes[at].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
    }

    #[test]
    fn the_script_gives_the_same_tables_as_placing_them() {
        let tables = AcpiTables::new(&AcpiConfig {
            cpus: 3,
            ioapic_id: 0,
            layout: MemoryLayout::of(1 << 30),
            serial_ports: vec![(0x3f8, 4)],
            ps2: true,
            pvpanic: false,
            fw_cfg: true,
        });
        let mut files = HashMap::from([
            (
                TABLES_FILE.to_owned(),
                (0xe0040, tables.tables.bytes.clone()),
            ),
            (RSDP_FILE.to_owned(), (0xf0000, tables.rsdp.bytes.clone())),
        ]);
        run(&script(&tables), &mut files);
        let placed = tables.place(0xe0000);
        assert_eq!(files[RSDP_FILE].1, placed[..36]);
        assert_eq!(files[TABLES_FILE].1, placed[64..]);
    }
}
