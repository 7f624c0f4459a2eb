//! PCI interrupts A to D on their way through the PIIX3: to an ISA interrupt that the guest chooses,
//! and always to IOAPIC pins of their own.
//!
//! A guest that uses the PIC programs the route registers (or asks ACPI's link devices to) and sees the
//! ISA interrupt; one that uses the IOAPIC is told by `_PRT` of pins 16 to 19. Neither enables the
//! other's pin, so that driving both does no harm.

use std::fmt;
use std::sync::{Arc, Mutex};

use vm_types::{IrqLine, IrqSink};

use crate::pci::{IntxPin, IntxRouter};
use crate::sync::lock;

/// How many there are: PIRQA to PIRQD.
pub const PIRQ_COUNT: usize = 4;

/// Machine interrupt number of PIRQA's IOAPIC pin; B to D follow.
pub const PIRQ_FIRST_GSI: u32 = 16;

/// A route register that routes nowhere.
pub const PIRQ_DISABLED: u8 = 0x80;

/// Which PIRQ (0 is A) the pin `intx` (0 is INTA) of the device in `slot` of bus 0 is wired to.
pub const fn pirq_of(slot: u8, intx: u8) -> u32 {
    (slot as u32 + intx as u32 + 3) % PIRQ_COUNT as u32
}

/// The four PIRQs as an [`IrqSink`] with pins 0 to 3, on top of the machine's interrupt numbers.
pub struct PirqRouter {
    machine: Arc<dyn IrqSink>,
    pirqs: [Mutex<Pirq>; PIRQ_COUNT],
}

struct Pirq {
    asserted: u32,
    register: u8,
    direct: IrqLine,
    isa: Option<IrqLine>,
}

impl PirqRouter {
    /// A router whose registers route nowhere yet; `machine` counts as [`super::IrqFabric`] does.
    pub fn new(machine: Arc<dyn IrqSink>) -> Self {
        let pirqs = std::array::from_fn(|index| {
            Mutex::new(Pirq {
                asserted: 0,
                register: PIRQ_DISABLED,
                direct: IrqLine::new(machine.clone(), PIRQ_FIRST_GSI + index as u32),
                isa: None,
            })
        });
        Self { machine, pirqs }
    }

    /// The line for pin `intx` (0 is INTA) of the device in `slot` of bus 0.
    pub fn line(self: &Arc<Self>, slot: u8, intx: u8) -> IrqLine {
        IrqLine::new(self.clone(), pirq_of(slot, intx))
    }

    /// Route register `pirq` (0 to 3; others read as disabled).
    pub fn register(&self, pirq: usize) -> u8 {
        self.pirqs
            .get(pirq)
            .map_or(PIRQ_DISABLED, |pirq| lock(pirq).register)
    }

    /// Writes route register `pirq`: bit 7 disables, the low nibble is the ISA interrupt (PIIX3 data
    /// sheet, PIRQRC). Reserved interrupts route nowhere.
    pub fn set_register(&self, pirq: usize, value: u8) {
        let Some(pirq) = self.pirqs.get(pirq) else {
            return;
        };
        let mut pirq = lock(pirq);
        pirq.register = value & 0x8f;
        if let Some(old) = pirq.isa.take() {
            old.set(false);
        }
        let number = u32::from(value & 0xf);
        let routed = value & PIRQ_DISABLED == 0 && !matches!(number, 0..=2 | 8 | 13);
        if routed {
            let line = IrqLine::new(self.machine.clone(), number);
            line.set(pirq.asserted > 0);
            pirq.isa = Some(line);
        }
    }
}

impl IrqSink for PirqRouter {
    fn raise(&self, pin: u32) {
        if let Some(pirq) = self.pirqs.get(pin as usize) {
            let mut pirq = lock(pirq);
            pirq.asserted = pirq.asserted.saturating_add(1);
            pirq.drive();
        }
    }

    fn lower(&self, pin: u32) {
        if let Some(pirq) = self.pirqs.get(pin as usize) {
            let mut pirq = lock(pirq);
            pirq.asserted = pirq.asserted.saturating_sub(1);
            pirq.drive();
        }
    }
}

/// The root bus's slots, in the chipset's wiring.
impl IntxRouter for Arc<PirqRouter> {
    fn line(&self, device: u8, pin: IntxPin) -> IrqLine {
        PirqRouter::line(self, device, pin.index())
    }
}

impl Pirq {
    fn drive(&self) {
        let level = self.asserted > 0;
        self.direct.set(level);
        if let Some(isa) = &self.isa {
            isa.set(level);
        }
    }
}

impl fmt::Debug for PirqRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers: [u8; PIRQ_COUNT] = std::array::from_fn(|pirq| self.register(pirq));
        f.debug_struct("PirqRouter")
            .field("registers", &registers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Levels(Mutex<[i32; 32]>);
    impl IrqSink for Levels {
        fn raise(&self, pin: u32) {
            self.0.lock().unwrap()[pin as usize] += 1;
        }
        fn lower(&self, pin: u32) {
            self.0.lock().unwrap()[pin as usize] -= 1;
        }
    }
    impl Levels {
        fn high(&self) -> Vec<usize> {
            let levels = self.0.lock().unwrap();
            (0..32).filter(|pin| levels[*pin] > 0).collect()
        }
    }

    #[test]
    fn slots_take_turns() {
        assert_eq!(pirq_of(1, 0), 0);
        assert_eq!(pirq_of(1, 3), 3);
        assert_eq!(pirq_of(4, 0), 3);
        assert_eq!(pirq_of(5, 1), 1);
    }

    #[test]
    fn an_asserted_pin_follows_its_register() {
        let levels = Arc::new(Levels::default());
        let router = Arc::new(PirqRouter::new(levels.clone()));
        let (first, second) = (router.line(1, 0), router.line(5, 0));
        first.set(true);
        second.set(true);
        assert_eq!(levels.high(), [16]);
        router.set_register(0, 10);
        assert_eq!(levels.high(), [10, 16]);
        router.set_register(0, 11);
        assert_eq!(levels.high(), [11, 16]);
        router.set_register(0, 8);
        assert_eq!(levels.high(), [16]);
        router.set_register(0, 5);
        router.set_register(0, 0x85);
        assert_eq!(levels.high(), [16]);
        first.set(false);
        assert_eq!(levels.high(), [16]);
        second.set(false);
        assert!(levels.high().is_empty());
        assert_eq!(router.register(0), 0x85);
        router.set_register(4, 5);
    }
}
