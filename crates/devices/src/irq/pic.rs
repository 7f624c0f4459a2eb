//! The pair of 8259A interrupt controllers at ports 0x20, 0xa0 and their edge/level registers at
//! 0x4d0 (8259A data sheet; PIIX3 data sheet, ELCR).
//!
//! The slave's output is the master's pin 2, taken as a level, so that a second interrupt of the slave
//! is seen after the first without a new edge.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_types::IrqLine;

use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// The ports of the pair: start and length.
pub const PIC_PORTS: [(u64, u64); 3] = [(0x20, 2), (0xa0, 2), (0x4d0, 2)];

/// The master's pin that the slave is on.
const CASCADE: u8 = 1 << 2;

/// Pins that can be made level-triggered, master and slave: not timer, keyboard, cascade, clock, FPU.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

const KIND: &str = "pic";

/// What the pair is connected to.
#[derive(Clone, Debug)]
pub struct PicPorts {
    /// The INTR output. Its sink must not call back into the PIC; it wakes a CPU, which then calls
    /// [`Pic::acknowledge`] when it takes the interrupt.
    pub intr: IrqLine,
}

/// Both 8259As.
#[derive(Debug)]
pub struct Pic {
    intr: IrqLine,
    /// Held while the output is brought up to date, so that two threads cannot leave the older level.
    output: Mutex<()>,
    chips: Mutex<Pair>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pair {
    /// Master, slave.
    chips: [Chip; 2],
}

/// One 8259A.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Chip {
    /// Rising edges not yet acknowledged (edge-triggered pins).
    latched: u8,
    /// The pins' levels.
    levels: u8,
    /// Interrupts in service.
    isr: u8,
    /// Interrupt mask.
    imr: u8,
    /// Level-triggered pins.
    elcr: u8,
    /// Vector of pin 0.
    base: u8,
    /// The pin with the highest priority.
    first: u8,
    /// Which initialisation word the data port expects.
    expects: Expects,
    /// ICW1 announced an ICW4.
    wants_icw4: bool,
    /// ICW1 said that there is no other chip.
    single: bool,
    /// Reads of the command port give ISR instead of IRR.
    read_isr: bool,
    /// The next read is a poll.
    poll: bool,
    special_mask: bool,
    special_fully_nested: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Expects {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

impl Chip {
    /// Requests, given what the cascade adds.
    fn irr(&self, cascade: u8) -> u8 {
        (self.latched & !self.elcr) | (self.levels & self.elcr) | cascade
    }

    /// The most urgent pin of `set`, and its rank (0 is the most urgent).
    fn most_urgent(&self, set: u8) -> Option<(u8, u8)> {
        let rotated = set.rotate_right(u32::from(self.first & 7));
        if rotated == 0 {
            return None;
        }
        let rank = rotated.trailing_zeros() as u8;
        Some(((rank + self.first) & 7, rank))
    }

    /// The pin that asks for the CPU now.
    fn request(&self, cascade: u8) -> Option<u8> {
        let (pin, rank) = self.most_urgent(self.irr(cascade) & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested {
            // A more urgent interrupt of the slave may interrupt another one of the slave.
            in_service &= !CASCADE;
        }
        match self.most_urgent(in_service) {
            Some((_, serving)) if serving <= rank => None,
            _ => Some(pin),
        }
    }

    fn acknowledge(&mut self, pin: u8) {
        let bit = 1 << pin;
        self.latched &= !bit;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (pin + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
    }

    fn set_pin(&mut self, pin: u8, level: bool) {
        let bit = 1 << pin;
        if level {
            if self.levels & bit == 0 {
                self.latched |= bit;
            }
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialise(value);
        } else if value & 0x08 != 0 {
            // OCW3.
            if value & 0x04 != 0 {
                self.poll = true;
            }
            if value & 0x02 != 0 {
                self.read_isr = value & 0x01 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end(value >> 5, value & 7);
        }
    }

    /// ICW1. The edge detectors are cleared too: a pin that is high must fall and rise again.
    fn initialise(&mut self, icw1: u8) {
        *self = Self {
            levels: self.levels,
            elcr: self.elcr,
            base: self.base,
            expects: Expects::Icw2,
            wants_icw4: icw1 & 0x01 != 0,
            single: icw1 & 0x02 != 0,
            ..Self::default()
        };
    }

    /// OCW2: end of interrupt and rotation.
    fn end(&mut self, command: u8, pin: u8) {
        match command {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                // In special mask mode, what is masked is not ended by a command without a pin.
                let masked = if self.special_mask { self.imr } else { 0 };
                if let Some((pin, _)) = self.most_urgent(self.isr & !masked) {
                    self.isr &= !(1 << pin);
                    if command == 5 {
                        self.first = (pin + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << pin),
            6 => self.first = (pin + 1) & 7,
            7 => {
                self.isr &= !(1 << pin);
                self.first = (pin + 1) & 7;
            }
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Mask => {
                self.imr = value;
                Expects::Mask
            }
            Expects::Icw2 => {
                self.base = value & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Expects::Icw3,
                    (true, true) => Expects::Icw4,
                    (true, false) => Expects::Mask,
                }
            }
            // The wiring of the cascade is fixed; what the guest says about it is not needed.
            Expects::Icw3 if self.wants_icw4 => Expects::Icw4,
            Expects::Icw3 => Expects::Mask,
            Expects::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                Expects::Mask
            }
        };
    }
}

impl Pair {
    fn cascade(&self) -> u8 {
        if self.chips[1].request(0).is_some() {
            CASCADE
        } else {
            0
        }
    }

    /// What the slave adds to a chip's requests.
    fn cascade_of(&self, chip: usize) -> u8 {
        if chip == 0 { self.cascade() } else { 0 }
    }

    fn request(&self) -> Option<u8> {
        self.chips[0].request(self.cascade())
    }

    fn acknowledge(&mut self) -> u8 {
        let Some(pin) = self.request() else {
            // The request went away before the CPU took it: spurious.
            return self.chips[0].base | 7;
        };
        if 1 << pin != CASCADE {
            self.chips[0].acknowledge(pin);
            return self.chips[0].base | pin;
        }
        let slave = match self.chips[1].request(0) {
            Some(pin) => {
                self.chips[1].acknowledge(pin);
                pin
            }
            None => 7,
        };
        self.chips[0].acknowledge(pin);
        self.chips[1].base | slave
    }

    fn read(&mut self, port: u64) -> u8 {
        let (chip, data) = match port {
            0x4d0 => return self.chips[0].elcr,
            0x4d1 => return self.chips[1].elcr,
            _ => (usize::from(port & 0x80 != 0), port & 1 != 0),
        };
        let cascade = self.cascade_of(chip);
        let chip = &mut self.chips[chip];
        if std::mem::take(&mut chip.poll) {
            return match chip.request(cascade) {
                Some(pin) => {
                    chip.acknowledge(pin);
                    0x80 | pin
                }
                None => 0,
            };
        }
        match (data, chip.read_isr) {
            (true, _) => chip.imr,
            (false, true) => chip.isr,
            (false, false) => chip.irr(cascade),
        }
    }

    fn write(&mut self, port: u64, value: u8) {
        match port {
            0x20 | 0xa0 => self.chips[usize::from(port == 0xa0)].write_command(value),
            0x21 | 0xa1 => self.chips[usize::from(port == 0xa1)].write_data(value),
            0x4d0 => self.chips[0].elcr = value & ELCR_MASK[0],
            0x4d1 => self.chips[1].elcr = value & ELCR_MASK[1],
            _ => {}
        }
    }
}

impl Pic {
    /// The pair after power-on: nothing masked, nothing requested.
    pub fn new(ports: PicPorts) -> Self {
        Self {
            intr: ports.intr,
            output: Mutex::new(()),
            chips: Mutex::default(),
        }
    }

    /// Claims the pair's ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim_all(self.name(), &PIC_PORTS, self.clone())
    }

    /// Drives pin 0 to 15; other pins and the cascade are ignored.
    pub fn set_pin(&self, pin: u32, level: bool) {
        if pin < 16 && pin != 2 {
            lock(&self.chips).chips[(pin / 8) as usize].set_pin((pin % 8) as u8, level);
            self.update();
        }
    }

    /// Whether the pair asks for the CPU.
    pub fn intr(&self) -> bool {
        lock(&self.chips).request().is_some()
    }

    /// The CPU's interrupt acknowledge: the vector, now in service. If the request has gone, the
    /// spurious vector (pin 7).
    pub fn acknowledge(&self) -> u8 {
        let vector = lock(&self.chips).acknowledge();
        self.update();
        vector
    }

    fn update(&self) {
        let _order = lock(&self.output);
        let level = self.intr();
        self.intr.set(level);
    }
}

impl BusDevice for Pic {
    /// `offset` is the port.
    fn read(&self, offset: u64, data: &mut [u8]) {
        {
            let mut chips = lock(&self.chips);
            for (port, byte) in (offset..).zip(data) {
                *byte = chips.read(port);
            }
        }
        // A poll acknowledges.
        self.update();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        {
            let mut chips = lock(&self.chips);
            for (port, byte) in (offset..).zip(data) {
                chips.write(port, *byte);
            }
        }
        self.update();
    }
}

impl Lifecycle for Pic {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        {
            let mut chips = lock(&self.chips);
            for chip in &mut chips.chips {
                // The wires keep their levels: they belong to other devices.
                *chip = Chip {
                    levels: chip.levels,
                    ..Chip::default()
                };
            }
        }
        self.update();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &*lock(&self.chips)))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        let result = snapshot.open::<Pair>(self.name(), KIND, 1);
        match result {
            Ok(mut pair) => {
                for (chip, mask) in pair.chips.iter_mut().zip(ELCR_MASK) {
                    chip.first &= 7;
                    chip.base &= 0xf8;
                    chip.elcr &= mask;
                }
                *lock(&self.chips) = pair;
                self.update();
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

    struct Rig {
        pic: Pic,
        intr: IrqLine,
    }

    impl Rig {
        /// Vectors 0x20 and 0x28, everything unmasked, `icw4` as given.
        fn new(icw4: u8) -> Self {
            let intr = IrqLine::unconnected();
            let rig = Self {
                pic: Pic::new(PicPorts { intr: intr.clone() }),
                intr,
            };
            for (port, base, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
                rig.out(port, 0x11);
                rig.out(port + 1, base);
                rig.out(port + 1, wiring);
                rig.out(port + 1, icw4);
            }
            rig
        }

        fn out(&self, port: u64, value: u8) {
            self.pic.write(port, &[value]);
        }

        fn port(&self, port: u64) -> u8 {
            let mut data = [0];
            self.pic.read(port, &mut data);
            data[0]
        }

        fn pulse(&self, pin: u32) {
            self.pic.set_pin(pin, true);
            self.pic.set_pin(pin, false);
        }
    }

    #[test]
    fn an_edge_is_kept_until_it_is_acknowledged() {
        let rig = Rig::new(1);
        rig.pulse(4);
        assert!(rig.intr.level());
        assert_eq!(rig.port(0x20), 0x10);
        assert_eq!(rig.pic.acknowledge(), 0x24);
        assert!(!rig.intr.level());
        rig.out(0x20, 0x0b);
        assert_eq!(rig.port(0x20), 0x10);
        rig.out(0x20, 0x20);
        assert_eq!(rig.port(0x20), 0);
    }

    #[test]
    fn the_slave_interrupts_through_pin_two() {
        let rig = Rig::new(1);
        rig.pulse(12);
        rig.pulse(8);
        assert_eq!(rig.pic.acknowledge(), 0x28);
        assert!(!rig.intr.level());
        rig.out(0xa0, 0x20);
        // The second one of the slave waits for the master's end of interrupt.
        assert!(!rig.intr.level());
        rig.out(0x20, 0x20);
        assert!(rig.intr.level());
        assert_eq!(rig.pic.acknowledge(), 0x2c);
    }

    #[test]
    fn a_request_that_vanishes_is_spurious() {
        let rig = Rig::new(1);
        rig.pulse(3);
        rig.out(0x21, 0xff);
        assert!(!rig.intr.level());
        assert_eq!(rig.pic.acknowledge(), 0x27);
        rig.out(0x20, 0x0b);
        assert_eq!(rig.port(0x20), 0);
    }

    #[test]
    fn a_level_pin_asks_again_while_it_is_high() {
        let rig = Rig::new(1);
        rig.out(0x4d1, 0xff);
        assert_eq!(rig.port(0x4d1), 0xde);
        rig.pic.set_pin(10, true);
        assert_eq!(rig.pic.acknowledge(), 0x2a);
        rig.out(0xa0, 0x20);
        rig.out(0x20, 0x20);
        assert_eq!(rig.pic.acknowledge(), 0x2a);
        rig.pic.set_pin(10, false);
        rig.out(0xa0, 0x20);
        rig.out(0x20, 0x20);
        assert!(!rig.intr.level());
    }

    #[test]
    fn a_lower_priority_waits_and_rotation_changes_the_order() {
        let rig = Rig::new(1);
        rig.pulse(3);
        rig.pic.acknowledge();
        rig.pulse(5);
        assert!(!rig.intr.level());
        rig.pulse(1);
        assert_eq!(rig.pic.acknowledge(), 0x21);
        rig.out(0x20, 0x61);
        rig.out(0x20, 0xa0); // rotate: pin 3 becomes the last
        rig.pulse(3);
        assert_eq!(rig.pic.acknowledge(), 0x25);
    }

    #[test]
    fn automatic_end_of_interrupt_leaves_nothing_in_service() {
        let rig = Rig::new(3);
        rig.pulse(3);
        rig.pulse(4);
        assert_eq!(rig.pic.acknowledge(), 0x23);
        assert_eq!(rig.pic.acknowledge(), 0x24);
        rig.out(0x20, 0x0b);
        assert_eq!(rig.port(0x20), 0);
    }

    #[test]
    fn a_poll_acknowledges() {
        let rig = Rig::new(1);
        rig.pulse(6);
        rig.out(0x20, 0x0c);
        assert_eq!(rig.port(0x20), 0x86);
        assert!(!rig.intr.level());
        rig.out(0x20, 0x0c);
        assert_eq!(rig.port(0x20), 0);
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_through() {
        let rig = Rig::new(1);
        rig.pulse(3);
        rig.pic.acknowledge();
        rig.out(0x21, 0x08);
        rig.pulse(5);
        assert!(!rig.intr.level());
        rig.out(0x20, 0x68);
        assert!(rig.intr.level());
        assert_eq!(rig.pic.acknowledge(), 0x25);
    }

    #[test]
    fn a_saved_state_comes_back() {
        let rig = Rig::new(1);
        rig.pulse(3);
        rig.pic.acknowledge();
        rig.pulse(12);
        let saved = rig.pic.save().unwrap();
        let other = Rig::new(3);
        other.pic.restore(&saved).unwrap();
        assert_eq!(other.pic.save(), Some(saved));
        assert!(other.intr.level());
        assert_eq!(other.pic.acknowledge(), 0x2c);
    }
}
