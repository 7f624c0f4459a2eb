//! The firmware configuration device at ports 0x510 to 0x51b, by which OVMF and SeaBIOS learn about the
//! machine (QEMU's docs/specs/fw_cfg).

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_types::{GuestAddress, GuestMemory};

use super::acpi::AcpiTables;
use super::e820::{E820Entry, E820Kind};
use super::layout::MemoryLayout;
use super::loader;
use super::smbios::Smbios;
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// First of its ports.
pub const FW_CFG_PORT: u64 = 0x510;
/// Number of its ports.
pub const FW_CFG_LENGTH: u64 = 12;

/// Well-known items.
mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const CPUS: u16 = 0x05;
    pub(super) const CPUS_MAX: u16 = 0x0f;
    pub(super) const DIRECTORY: u16 = 0x19;
    /// The first file; more follow.
    pub(super) const FILES: u16 = 0x20;
}

/// Files that fit into the directory.
const FILES_MAX: usize = 0x60;
/// Bytes of a file's name, with its zero.
const NAME_BYTES: usize = 56;
/// The longest file, and the longest transfer past the end of one.
const FILE_BYTES_MAX: usize = 64 << 20;

/// Bits of a DMA request.
mod dma {
    pub(super) const ERROR: u32 = 0x01;
    pub(super) const READ: u32 = 0x02;
    pub(super) const SKIP: u32 = 0x04;
    pub(super) const SELECT: u32 = 0x08;
    pub(super) const WRITE: u32 = 0x10;
}

/// What reading the DMA address gives: this kind of DMA is there.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

const KIND: &str = "fw-cfg";

/// What the device is connected to.
#[derive(Clone, Debug)]
pub struct FwCfgPorts {
    /// For DMA.
    pub memory: GuestMemory,
}

/// The items, by number.
#[derive(Clone, Debug, Default)]
pub struct FwCfgItems {
    fixed: Vec<(u16, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
}

impl FwCfgItems {
    /// The items that every machine has: signature, features, memory, CPUs.
    pub fn new(layout: &MemoryLayout, cpus: u32) -> Self {
        let cpus = u16::try_from(cpus).unwrap_or(u16::MAX).to_le_bytes();
        let fixed = vec![
            (key::SIGNATURE, b"QEMU".to_vec()),
            // The plain ports and DMA.
            (key::ID, 3u32.to_le_bytes().to_vec()),
            (key::RAM_SIZE, layout.low_bytes.to_le_bytes().to_vec()),
            (key::CPUS, cpus.to_vec()),
            (key::CPUS_MAX, cpus.to_vec()),
        ];
        let mut items = Self {
            fixed,
            files: Vec::new(),
        };
        let ram: Vec<u8> = layout
            .ram()
            .flat_map(|range| {
                let entry = E820Entry {
                    start: range.start,
                    length: range.end - range.start,
                    kind: E820Kind::Ram,
                };
                entry.to_bytes()
            })
            .collect();
        items.file("etc/e820", ram);
        items
    }

    /// Adds a file; one with the same name is replaced.
    ///
    /// Names are cut to 55 bytes. A file too many or longer than 64 MiB is left out, and said so in
    /// the log: the machine's builder gives few and short ones.
    pub fn file(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.retain(|(other, _)| other != name);
        if self.files.len() >= FILES_MAX || bytes.len() > FILE_BYTES_MAX {
            tracing::warn!(name, length = bytes.len(), "no room for a fw_cfg file");
            return;
        }
        self.files.push((name.to_owned(), bytes));
        // Firmware may search the directory as one that is sorted.
        self.files.sort();
    }

    /// Adds the ACPI tables and the script that puts them together.
    pub fn acpi(&mut self, tables: &AcpiTables) {
        self.file(loader::TABLES_FILE, tables.tables.bytes.clone());
        self.file(loader::RSDP_FILE, tables.rsdp.bytes.clone());
        self.file(loader::LOADER_FILE, loader::script(tables));
    }

    /// Adds the SMBIOS tables; the firmware fills in their address.
    pub fn smbios(&mut self, smbios: &Smbios) {
        self.file("etc/smbios/smbios-tables", smbios.tables.clone());
        self.file("etc/smbios/smbios-anchor", smbios.anchor(0));
    }

    /// Adds the order in which firmware tries devices: OpenFirmware paths.
    pub fn boot_order(&mut self, paths: &[String]) {
        let mut text: Vec<u8> = paths.join("\n").into_bytes();
        text.push(0);
        self.file("bootorder", text);
    }

    fn into_list(mut self) -> Vec<(u16, Vec<u8>)> {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        let mut list = std::mem::take(&mut self.fixed);
        for (key, (name, bytes)) in (key::FILES..).zip(self.files) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME_BYTES];
            for (into, from) in field[..NAME_BYTES - 1].iter_mut().zip(name.bytes()) {
                *into = from;
            }
            directory.extend(field);
            list.push((key, bytes));
        }
        list.push((key::DIRECTORY, directory));
        list.sort_by_key(|(key, _)| *key);
        list
    }
}

/// The device.
#[derive(Debug)]
pub struct FwCfg {
    memory: GuestMemory,
    /// Sorted by number.
    items: Vec<(u16, Vec<u8>)>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    key: u16,
    /// Bytes of the item that have been read.
    position: u64,
    /// High half of the DMA address.
    dma_high: u32,
}

impl FwCfg {
    /// A device that offers `items`.
    pub fn new(ports: FwCfgPorts, items: FwCfgItems) -> Arc<Self> {
        Arc::new(Self {
            memory: ports.memory,
            items: items.into_list(),
            state: Mutex::default(),
        })
    }

    /// Claims its ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), FW_CFG_PORT, FW_CFG_LENGTH, self.clone())
    }

    /// The selected item; one that does not exist is empty.
    fn item(&self, key: u16) -> &[u8] {
        // Bit 14 asks to write, which nobody may.
        let key = key & !0x4000;
        let index = self.items.binary_search_by_key(&key, |(key, _)| *key);
        index.map_or(&[], |index| &self.items[index].1)
    }

    /// What is left of the selected item.
    fn rest(&self, state: &State) -> &[u8] {
        let item = self.item(state.key);
        let position = usize::try_from(state.position).unwrap_or(usize::MAX);
        item.get(position..).unwrap_or(&[])
    }

    fn read_byte(&self, state: &mut State) -> u8 {
        let byte = self.rest(state).first().copied().unwrap_or(0);
        state.position = state.position.saturating_add(1);
        byte
    }

    /// Does the request at `at`, and says so in its control word.
    fn transfer(&self, state: &mut State, at: u64) {
        let mut request = [0; 16];
        if self.memory.read(GuestAddress(at), &mut request).is_err() {
            return;
        }
        let word = |index: usize| {
            let bytes = [0, 1, 2, 3].map(|byte| request[index + byte]);
            u32::from_be_bytes(bytes)
        };
        let (control, length) = (word(0), word(4));
        let target = u64::from(word(8)) << 32 | u64::from(word(12));
        let outcome = self.perform(state, control, length, target);
        let result = if outcome { 0 } else { dma::ERROR };
        // A request in memory that cannot be written is not told; there is nowhere to.
        self.memory
            .write(GuestAddress(at), &result.to_be_bytes())
            .ok();
    }

    /// Returns whether the request made sense.
    fn perform(&self, state: &mut State, control: u32, length: u32, target: u64) -> bool {
        if control & dma::SELECT != 0 {
            state.key = (control >> 16) as u16;
            state.position = 0;
        }
        if control & dma::READ != 0 {
            let rest = self.rest(state);
            let count = rest.len().min(length as usize);
            let past = length as usize - count;
            if past > FILE_BYTES_MAX {
                return false;
            }
            let written = self.memory.write(GuestAddress(target), &rest[..count]);
            let padding = GuestAddress(target.wrapping_add(count as u64));
            let filled = match past {
                0 => Ok(()),
                past => self.memory.fill(padding, 0, past as u64),
            };
            state.position = state.position.saturating_add(u64::from(length));
            return written.is_ok() && filled.is_ok();
        }
        if control & dma::SKIP != 0 {
            state.position = state.position.saturating_add(u64::from(length));
            return true;
        }
        // Nothing can be written; a request without an operation only selects.
        control & dma::WRITE == 0
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        for (at, byte) in (offset..).zip(data) {
            *byte = match at {
                1 => self.read_byte(&mut state),
                4..12 => DMA_SIGNATURE[(at - 4) as usize],
                _ => 0,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        match (offset, data) {
            (0, &[low, high]) => {
                state.key = u16::from_le_bytes([low, high]);
                state.position = 0;
            }
            (4, &[a, b, c, d]) => state.dma_high = u32::from_be_bytes([a, b, c, d]),
            (8, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let high = std::mem::take(&mut state.dma_high);
                self.transfer(&mut state, u64::from(high) << 32 | u64::from(low));
            }
            _ => {}
        }
    }
}

impl Lifecycle for FwCfg {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        *lock(&self.state) = State::default();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &*lock(&self.state)))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        *lock(&self.state) = snapshot.open(self.name(), KIND, 1)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (Arc<FwCfg>, GuestMemory) {
        let memory = GuestMemory::flat(1 << 20).unwrap();
        let ports = FwCfgPorts {
            memory: memory.clone(),
        };
        let mut items = FwCfgItems::new(&MemoryLayout::of(5 << 30), 4);
        items.file("opt/test", b"contents".to_vec());
        items.boot_order(&["/pci@i0cf8/disk@4".to_owned()]);
        (FwCfg::new(ports, items), memory)
    }

    fn read(device: &FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(0, &key.to_le_bytes());
        let mut bytes = vec![0; length];
        for byte in &mut bytes {
            device.read(1, std::slice::from_mut(byte));
        }
        bytes
    }

    /// Number and length of a file, by the directory.
    fn find(device: &FwCfg, name: &str) -> Option<(u16, u32)> {
        let count = u32::from_be_bytes(read(device, 0x19, 4).try_into().unwrap());
        let directory = read(device, 0x19, 4 + 64 * count as usize);
        directory[4..].chunks(64).find_map(|entry| {
            let length = u32::from_be_bytes(entry[..4].try_into().unwrap());
            let key = u16::from_be_bytes(entry[4..6].try_into().unwrap());
            (entry[8..].starts_with(name.as_bytes()) && entry[8 + name.len()] == 0)
                .then_some((key, length))
        })
    }

    fn request(memory: &GuestMemory, device: &FwCfg, control: u32, length: u32, at: u64) -> u32 {
        let mut bytes = control.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(at.to_be_bytes());
        memory.write(GuestAddress(0x1000), &bytes).unwrap();
        device.write(8, &0x1000u32.to_be_bytes());
        let mut result = [0; 4];
        memory.read(GuestAddress(0x1000), &mut result).unwrap();
        u32::from_be_bytes(result)
    }

    #[test]
    fn firmware_finds_signature_features_and_files() {
        let (device, _) = device();
        assert_eq!(read(&device, 0, 4), b"QEMU");
        assert_eq!(read(&device, 1, 4), [3, 0, 0, 0]);
        assert_eq!(read(&device, 5, 2), [4, 0]);
        let mut signature = [0; 8];
        device.read(4, &mut signature[..4]);
        device.read(8, &mut signature[4..]);
        assert_eq!(&signature, b"QEMU CFG");
        let (key, length) = find(&device, "opt/test").unwrap();
        assert_eq!(read(&device, key, length as usize + 2), b"contents\0\0");
        let (key, length) = find(&device, "etc/e820").unwrap();
        assert_eq!(length, 40);
        assert_eq!(read(&device, key, 40)[20..28], (4u64 << 30).to_le_bytes());
        assert_eq!(read(&device, 0x1234, 1), [0]);
        assert!(find(&device, "bootorder").is_some());
    }

    #[test]
    fn dma_selects_skips_and_reads() {
        let (device, memory) = device();
        let (key, _) = find(&device, "opt/test").unwrap();
        let select = u32::from(key) << 16 | 0x08;
        assert_eq!(request(&memory, &device, select | 0x04, 3, 0), 0);
        assert_eq!(request(&memory, &device, 0x02, 8, 0x2000), 0);
        let mut bytes = [0xcc; 8];
        memory.read(GuestAddress(0x2000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"tents\0\0\0");
    }

    #[test]
    fn dma_that_makes_no_sense_is_an_error() {
        let (device, memory) = device();
        assert_eq!(request(&memory, &device, 0x02, 8, 1 << 40), 1);
        assert_eq!(request(&memory, &device, 0x10, 8, 0x2000), 1);
        assert_eq!(request(&memory, &device, 0x02, u32::MAX, 0), 1);
        // A request that is no memory goes nowhere.
        device.write(4, &[0xff; 4]);
        device.write(8, &[0xff; 4]);
    }

    #[test]
    fn a_saved_position_comes_back() {
        let (device, _) = device();
        read(&device, 0, 2);
        let saved = device.save().unwrap();
        device.reset();
        device.restore(&saved).unwrap();
        let mut byte = [0];
        device.read(1, &mut byte);
        assert_eq!(&byte, b"M");
    }
}
