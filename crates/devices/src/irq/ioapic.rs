//! The I/O APIC at 0xfec00000: 32 pins, each a message (82093AA data sheet; EOI register as in the
//! later chips, version 0x20).
//!
//! A redirection entry becomes an MSI: the local APIC side reads destination, modes, vector and
//! trigger from address and data, whether the message came from a pin or from a PCI function.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_types::{MsiMessage, MsiSink};

use crate::bus::{
    Access, AddressSpace, BusDevice, RegisterFile, RegisterMap, SpaceError, Width, row,
};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// Where a PC has it.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes of its window.
pub const IOAPIC_LENGTH: u64 = 0x1000;
/// Number of pins.
pub const IOAPIC_PINS: usize = 32;

/// Version 0x20: has the EOI register.
const VERSION: u32 = 0x20 | ((IOAPIC_PINS as u32 - 1) << 16);

const KIND: &str = "ioapic";

/// What the IOAPIC is connected to.
#[derive(Clone, Debug)]
pub struct IoApicPorts {
    /// The local APICs.
    pub msi: MsiSink,
}

/// How it is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoApicConfig {
    /// Its APIC id after reset, 0 to 15, as the MADT says.
    pub id: u8,
}

#[derive(Clone, Copy, Debug)]
enum Reg {
    Select,
    Window,
    Eoi,
}

static REGISTERS: RegisterMap<Reg> = RegisterMap::new(&[
    row(
        Reg::Select,
        0x00,
        Width::U32,
        Access::ReadWrite { mask: 0xff },
    ),
    row(Reg::Window, 0x10, Width::U32, Access::Volatile),
    row(Reg::Eoi, 0x40, Width::U32, Access::WriteOnly),
]);

/// The I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    msi: MsiSink,
    config: IoApicConfig,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    id: u8,
    select: u8,
    /// Redirection entries, as the guest reads them.
    entries: [u64; IOAPIC_PINS],
    /// The pins' levels.
    levels: u32,
    /// Edges that have not become a message: their pin is masked. Gone when the pin falls.
    latched: u32,
}

/// Redirection entry, 82093AA 3.2.4.
mod entry {
    pub(super) const VECTOR: u64 = 0xff;
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const MASKED: u64 = 1 << 16;
    /// What a guest can write: not delivery status, not remote IRR.
    pub(super) const WRITABLE: u64 = 0xff00_0000_0001_afff;

    pub(super) const fn delivery(entry: u64) -> u64 {
        (entry >> 8) & 7
    }

    /// Level-triggered for the pin's logic: only fixed and lowest-priority messages are ever ended.
    pub(super) const fn is_level(entry: u64) -> bool {
        entry & LEVEL != 0 && delivery(entry) <= 1
    }
}

fn message(entry: u64) -> MsiMessage {
    let destination = entry >> 56;
    let delivery = entry::delivery(entry);
    let logical = u64::from(entry & entry::LOGICAL != 0);
    // The redirection hint asks for one of several destinations.
    let hint = u64::from(delivery == 1);
    let level = u32::from(entry::is_level(entry));
    MsiMessage {
        address: 0xfee0_0000 | destination << 12 | hint << 3 | logical << 2,
        data: (entry & entry::VECTOR) as u32 | (delivery as u32) << 8 | 1 << 14 | level << 15,
    }
}

impl State {
    fn new(config: IoApicConfig) -> Self {
        Self {
            id: config.id & 0xf,
            select: 0,
            entries: [entry::MASKED; IOAPIC_PINS],
            levels: 0,
            latched: 0,
        }
    }

    /// The next message that is due, with its pin now answered for.
    fn next_message(&mut self) -> Option<MsiMessage> {
        let mut pins = self.levels;
        while pins != 0 {
            let pin = pins.trailing_zeros() as usize;
            let bit = 1 << pin;
            pins &= !bit;
            let entry = &mut self.entries[pin];
            if *entry & entry::MASKED != 0 {
                continue;
            }
            if entry::is_level(*entry) {
                if *entry & entry::REMOTE_IRR == 0 {
                    *entry |= entry::REMOTE_IRR;
                    self.latched &= !bit;
                    return Some(message(*entry));
                }
            } else if self.latched & bit != 0 {
                self.latched &= !bit;
                return Some(message(*entry));
            }
        }
        None
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if entry::is_level(*entry) && *entry & entry::VECTOR == u64::from(vector) {
                *entry &= !entry::REMOTE_IRR;
            }
        }
    }

    /// Entry and half that the select register names.
    fn selected(&mut self) -> Option<(&mut u64, u32)> {
        let index = self.select.checked_sub(0x10)?;
        let entry = self.entries.get_mut(usize::from(index / 2))?;
        Some((entry, u32::from(index % 2) * 32))
    }
}

impl RegisterFile<Reg> for State {
    fn read(&mut self, register: Reg) -> u64 {
        match register {
            Reg::Select => u64::from(self.select),
            Reg::Window => match self.select {
                // Id and arbitration id are the same number.
                0 | 2 => u64::from(self.id) << 24,
                1 => u64::from(VERSION),
                _ => self
                    .selected()
                    .map_or(0, |(entry, shift)| (*entry >> shift) & 0xffff_ffff),
            },
            Reg::Eoi => 0,
        }
    }

    fn write(&mut self, register: Reg, value: u64) {
        match register {
            Reg::Select => self.select = value as u8,
            Reg::Window if self.select == 0 => self.id = (value >> 24) as u8 & 0xf,
            Reg::Window => {
                if let Some((entry, shift)) = self.selected() {
                    let writable = entry::WRITABLE & (0xffff_ffff << shift);
                    *entry = (*entry & !writable) | ((value << shift) & writable);
                    if !entry::is_level(*entry) {
                        // Linux ends a stuck interrupt by making the pin edge-triggered for a moment.
                        *entry &= !entry::REMOTE_IRR;
                    }
                }
            }
            Reg::Eoi => self.end_of_interrupt(value as u8),
        }
    }
}

impl IoApic {
    /// An IOAPIC with all pins masked.
    pub fn new(ports: IoApicPorts, config: IoApicConfig) -> Self {
        Self {
            msi: ports.msi,
            config,
            state: Mutex::new(State::new(config)),
        }
    }

    /// Claims its window in the MMIO space.
    pub fn attach(self: &Arc<Self>, mmio: &AddressSpace) -> Result<(), SpaceError> {
        mmio.claim(self.name(), IOAPIC_BASE, IOAPIC_LENGTH, self.clone())
    }

    /// Drives a pin; pins past the last are ignored. The polarity bit is not looked at: `true` is
    /// the asserted state.
    pub fn set_pin(&self, pin: u32, level: bool) {
        if pin >= IOAPIC_PINS as u32 {
            return;
        }
        {
            let mut state = lock(&self.state);
            let bit = 1 << pin;
            if !level {
                state.levels &= !bit;
                state.latched &= !bit;
                return;
            }
            if state.levels & bit == 0 {
                state.levels |= bit;
                state.latched |= bit;
            }
        }
        self.deliver();
    }

    /// A local APIC has ended a level-triggered interrupt.
    pub fn end_of_interrupt(&self, vector: u8) {
        lock(&self.state).end_of_interrupt(vector);
        self.deliver();
    }

    /// Sends what is due, outside the lock. Each message answers for its pin, so there are at most
    /// as many as pins.
    fn deliver(&self) {
        for _ in 0..IOAPIC_PINS {
            let Some(message) = lock(&self.state).next_message() else {
                return;
            };
            self.msi.send(message);
        }
    }
}

impl BusDevice for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        REGISTERS.read(&mut *lock(&self.state), offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        REGISTERS.write(&mut *lock(&self.state), offset, data);
        self.deliver();
    }
}

impl Lifecycle for IoApic {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State {
            levels: state.levels,
            ..State::new(self.config)
        };
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &*lock(&self.state)))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        match snapshot.open::<State>(self.name(), KIND, 1) {
            Ok(mut state) => {
                state.id &= 0xf;
                for entry in &mut state.entries {
                    *entry &= entry::WRITABLE | entry::REMOTE_IRR;
                }
                *lock(&self.state) = state;
                Ok(())
            }
            Err(error) => {
                self.reset();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_types::RecordedMessages;

    struct Rig {
        chip: IoApic,
        sent: RecordedMessages,
    }

    impl Rig {
        fn new() -> Self {
            let (msi, sent) = MsiSink::recording();
            let chip = IoApic::new(IoApicPorts { msi }, IoApicConfig { id: 2 });
            Self { chip, sent }
        }

        fn get(&self, index: u8) -> u32 {
            self.chip.write(0, &[index, 0, 0, 0]);
            let mut data = [0; 4];
            self.chip.read(0x10, &mut data);
            u32::from_le_bytes(data)
        }

        fn set(&self, index: u8, value: u32) {
            self.chip.write(0, &[index, 0, 0, 0]);
            self.chip.write(0x10, &value.to_le_bytes());
        }

        fn program(&self, pin: u8, entry: u64) {
            self.set(0x11 + 2 * pin, (entry >> 32) as u32);
            self.set(0x10 + 2 * pin, entry as u32);
        }

        fn vectors(&self) -> Vec<u32> {
            let messages = self.sent.take();
            messages.iter().map(|m| m.data & 0xff).collect()
        }
    }

    #[test]
    fn it_says_who_it_is() {
        let rig = Rig::new();
        assert_eq!(rig.get(0), 2 << 24);
        assert_eq!(rig.get(1), 0x001f_0020);
        assert_eq!(rig.get(0x10), 0x0001_0000);
        assert_eq!(rig.get(0x4f), 0);
        rig.set(0, 0xffff_ffff);
        assert_eq!(rig.get(0), 0x0f00_0000);
        assert_eq!(rig.get(0xff), 0);
    }

    #[test]
    fn an_entry_becomes_a_message() {
        let rig = Rig::new();
        // Lowest priority, logical destination 0x03, vector 0x41, edge.
        rig.program(4, 0x0300_0000_0000_0941);
        rig.chip.set_pin(4, true);
        let expected = MsiMessage {
            address: 0xfee0_300c,
            data: 0x4141,
        };
        assert_eq!(rig.sent.take(), [expected]);
        // External interrupt (the PIC's vector), physical destination 0.
        rig.program(5, 0x0000_0000_0000_8700);
        rig.chip.set_pin(5, true);
        let expected = MsiMessage {
            address: 0xfee0_0000,
            data: 0x4700,
        };
        assert_eq!(rig.sent.take(), [expected]);
    }

    #[test]
    fn a_level_pin_waits_for_its_end_of_interrupt() {
        let rig = Rig::new();
        rig.program(16, 0x8050);
        rig.chip.set_pin(16, true);
        rig.chip.set_pin(16, false);
        rig.chip.set_pin(16, true);
        assert_eq!(rig.vectors(), [0x50]);
        assert_eq!(rig.get(0x30), 0xc050);
        rig.chip.end_of_interrupt(0x51);
        assert!(rig.vectors().is_empty());
        rig.chip.end_of_interrupt(0x50);
        assert_eq!(rig.vectors(), [0x50]);
        rig.chip.set_pin(16, false);
        rig.chip.write(0x40, &[0x50, 0, 0, 0]);
        assert!(rig.vectors().is_empty());
        assert_eq!(rig.get(0x30), 0x8050);
    }

    #[test]
    fn a_masked_pin_that_is_still_high_fires_when_unmasked() {
        let rig = Rig::new();
        rig.program(4, 0x0001_0041);
        rig.chip.set_pin(4, true);
        assert!(rig.vectors().is_empty());
        rig.program(4, 0x41);
        assert_eq!(rig.vectors(), [0x41]);
        rig.program(4, 0x0001_0041);
        rig.program(4, 0x41);
        assert!(rig.vectors().is_empty());
    }

    #[test]
    fn an_edge_that_came_and_went_while_masked_is_lost() {
        let rig = Rig::new();
        rig.chip.set_pin(4, true);
        rig.chip.set_pin(4, false);
        rig.program(4, 0x41);
        assert!(rig.vectors().is_empty());
    }

    #[test]
    fn going_through_edge_mode_ends_a_stuck_level_interrupt() {
        let rig = Rig::new();
        rig.program(9, 0x8049);
        rig.chip.set_pin(9, true);
        rig.chip.set_pin(9, false);
        rig.program(9, 0x0001_0049);
        rig.program(9, 0x8049);
        assert_eq!(rig.get(0x22), 0x8049);
    }

    #[test]
    fn pins_that_share_a_vector_are_ended_together() {
        let rig = Rig::new();
        rig.program(16, 0x8050);
        rig.program(17, 0x8050);
        rig.chip.set_pin(16, true);
        rig.chip.set_pin(17, true);
        assert_eq!(rig.vectors(), [0x50, 0x50]);
        rig.chip.end_of_interrupt(0x50);
        assert_eq!(rig.vectors(), [0x50, 0x50]);
    }

    #[test]
    fn a_saved_state_comes_back_and_a_foreign_one_is_refused() {
        let rig = Rig::new();
        rig.program(16, 0x8050);
        rig.chip.set_pin(16, true);
        let saved = rig.chip.save().unwrap();
        let other = Rig::new();
        other.chip.restore(&saved).unwrap();
        assert_eq!(other.chip.save(), Some(saved.clone()));
        let foreign = Snapshot {
            version: 7,
            ..saved
        };
        assert!(other.chip.restore(&foreign).is_err());
    }
}
