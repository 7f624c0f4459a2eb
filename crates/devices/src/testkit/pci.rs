//! One device in a slot, with port and memory spaces, set up as firmware does it.

#![expect(
    clippy::unwrap_used,
    reason = "a test driver stops at the first surprise"
)]

use std::sync::Arc;

use vm_types::{MsiSink, RecordedMessages};

use crate::bus::AddressSpace;
use crate::pci::config::{command, reg};
use crate::pci::{Endpoint, NoIntx, PciAddress, SpaceMapper, Topology};

/// Where memory windows are put, one after the other.
const MEMORY_WINDOWS: u64 = 0xc000_0000;
/// Where port windows are put.
const PORT_WINDOWS: u64 = 0xc000;
/// Messages of vector `n` are recorded with this address and data `n`.
pub const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// A topology with one device at 0.4.0.
#[derive(Debug)]
pub struct Slot {
    /// The port space.
    pub ports: AddressSpace,
    /// The memory space.
    pub memory: AddressSpace,
    topology: Topology,
    at: PciAddress,
    /// First address of each window; zero where there is none.
    windows: [u64; 6],
    record: RecordedMessages,
}

impl Slot {
    /// A sink for the device's messages and the record that [`Slot::new`] wants.
    pub fn messages() -> (MsiSink, RecordedMessages) {
        MsiSink::recording()
    }

    /// Plugs `endpoint` in. Nothing is decoded yet.
    ///
    /// # Panics
    /// Never: the slot is free.
    pub fn new(endpoint: Arc<dyn Endpoint>, record: RecordedMessages) -> Self {
        let (ports, memory) = (AddressSpace::ports(), AddressSpace::mmio());
        let mapper = SpaceMapper::new(ports.clone(), memory.clone());
        let topology = Topology::new(Arc::new(mapper), Arc::new(NoIntx));
        let at = PciAddress::new(0, 4, 0).unwrap();
        topology.add(at, endpoint).unwrap();
        Self {
            ports,
            memory,
            topology,
            at,
            windows: [0; 6],
            record,
        }
    }

    /// Sizes and places all windows, turns decoding and bus mastering on, and lets vector `n` of MSI-X
    /// send data `n`.
    pub fn set_up(&mut self) {
        self.place_windows();
        self.set_command(command::MEMORY_SPACE | command::IO_SPACE | command::BUS_MASTER);
        self.set_up_msix();
    }

    fn place_windows(&mut self) {
        let (mut next_memory, mut next_port) = (MEMORY_WINDOWS, PORT_WINDOWS);
        let mut index = 0;
        while index < 6 {
            let offset = reg::BAR0 + index * 4;
            self.config_write(offset, u32::MAX);
            let low = self.config_read(offset);
            if low == 0 {
                index += 1;
                continue;
            }
            let is_port = low & 1 != 0;
            let wide = !is_port && low & 4 != 0;
            let flags = if is_port { 3 } else { 0xf };
            let next = if is_port {
                &mut next_port
            } else {
                &mut next_memory
            };
            let size = u64::from(!(low & !flags)) + 1;
            let base = next.next_multiple_of(size);
            *next = base + size;
            self.config_write(offset, base as u32);
            if wide {
                self.config_write(offset + 4, 0);
            }
            self.windows[usize::from(index)] = base;
            index += 1 + u16::from(wide);
        }
    }

    fn set_up_msix(&self) {
        let Some(offset) = self.capability(0x11) else {
            return;
        };
        let control = self.config_read(offset) >> 16;
        let table = self.config_read(offset + 4);
        let base = self.windows[table as usize & 7] + u64::from(table & !7);
        for vector in 0..(control & 0x7ff) + 1 {
            let entry = base + u64::from(vector) * 16;
            self.memory.write(entry, &MESSAGE_ADDRESS.to_le_bytes());
            self.memory.write(entry + 8, &vector.to_le_bytes());
            self.memory.write(entry + 12, &0u32.to_le_bytes());
        }
        self.set_msix_control(0x8000);
    }

    /// Writes the MSI-X message control word: bit 15 enables, bit 14 masks the function.
    pub fn set_msix_control(&self, control: u16) {
        if let Some(offset) = self.capability(0x11) {
            let word = self.config_read(offset) & 0xffff;
            self.config_write(offset, word | u32::from(control) << 16);
        }
    }

    /// Masks or unmasks one MSI-X vector.
    pub fn mask_vector(&self, vector: u16, masked: bool) {
        if let Some(offset) = self.capability(0x11) {
            let table = self.config_read(offset + 4);
            let base = self.windows[table as usize & 7] + u64::from(table & !7);
            let word = base + u64::from(vector) * 16 + 12;
            self.memory.write(word, &u32::from(masked).to_le_bytes());
        }
    }

    /// Writes the command register.
    pub fn set_command(&self, command: u16) {
        let data = command.to_le_bytes();
        self.topology.config_write(self.at, reg::COMMAND, &data);
    }

    /// The offset of the first capability of this id.
    pub fn capability(&self, id: u8) -> Option<u16> {
        let mut offset = self.config_read(reg::CAPABILITIES) as u16 & 0xfc;
        while offset != 0 {
            let word = self.config_read(offset);
            if word as u8 == id {
                return Some(offset);
            }
            offset = (word >> 8) as u16 & 0xfc;
        }
        None
    }

    /// Reads a word of configuration space.
    pub fn config_read(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.topology.config_read(self.at, offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a word of configuration space.
    pub fn config_write(&self, offset: u16, value: u32) {
        let data = value.to_le_bytes();
        self.topology.config_write(self.at, offset, &data);
    }

    /// Takes over where the windows of another slot are, after its device's state was moved here.
    pub fn adopt(&mut self, other: &Self) {
        self.windows = other.windows;
    }

    /// Where window `bar` begins.
    pub fn window(&self, bar: usize) -> u64 {
        self.windows[bar]
    }

    /// The vectors of the messages since the last call, oldest first.
    pub fn interrupts(&self) -> Vec<u32> {
        let messages = self.record.take();
        messages.iter().map(|message| message.data).collect()
    }
}
