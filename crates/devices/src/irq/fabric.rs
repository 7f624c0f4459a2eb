//! From the machine's interrupt numbers to the pins of both chips, counting the sources of each.

use std::fmt;
use std::sync::{Arc, Mutex};

use vm_types::{IrqLine, IrqSink};

use super::{IoApic, Pic};
use crate::sync::lock;

/// How many interrupt numbers there are: 16 ISA, then the IOAPIC's own pins.
pub const IRQ_COUNT: usize = 32;

/// Wires interrupt numbers to PIC and IOAPIC. Number `n` below 16 is ISA interrupt `n` (PIC pin `n`
/// and IOAPIC pin `n`, but 0, the timer, is IOAPIC pin 2); from 16 on it is IOAPIC pin `n` alone.
/// 2, the cascade, is nobody's.
pub struct IrqFabric {
    pic: Option<Arc<Pic>>,
    ioapic: Option<Arc<IoApic>>,
    /// How many sources assert each number. Its lock is held while the pins follow.
    asserted: [Mutex<u32>; IRQ_COUNT],
}

impl IrqFabric {
    /// The wiring of a machine that has these chips.
    pub fn new(pic: Option<Arc<Pic>>, ioapic: Option<Arc<IoApic>>) -> Self {
        Self {
            pic,
            ioapic,
            asserted: Default::default(),
        }
    }

    /// A new source on interrupt `number`.
    pub fn line(self: &Arc<Self>, number: u32) -> IrqLine {
        IrqLine::new(self.clone(), number)
    }

    fn drive(&self, number: u32, level: bool) {
        if number == 2 {
            return;
        }
        if let Some(pic) = &self.pic {
            pic.set_pin(number, level);
        }
        if let Some(ioapic) = &self.ioapic {
            ioapic.set_pin(if number == 0 { 2 } else { number }, level);
        }
    }
}

impl IrqSink for IrqFabric {
    fn raise(&self, pin: u32) {
        if let Some(count) = self.asserted.get(pin as usize) {
            let mut count = lock(count);
            *count = count.saturating_add(1);
            if *count == 1 {
                self.drive(pin, true);
            }
        }
    }

    fn lower(&self, pin: u32) {
        if let Some(count) = self.asserted.get(pin as usize) {
            let mut count = lock(count);
            if *count == 1 {
                self.drive(pin, false);
            }
            *count = count.saturating_sub(1);
        }
    }
}

impl fmt::Debug for IrqFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqFabric")
            .field("asserted", &self.asserted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusDevice;
    use crate::irq::{IoApicConfig, IoApicPorts, PicPorts};
    use vm_types::MsiSink;

    #[test]
    fn a_shared_number_is_high_while_one_source_is() {
        let intr = IrqLine::unconnected();
        let pic = Arc::new(Pic::new(PicPorts { intr: intr.clone() }));
        let fabric = Arc::new(IrqFabric::new(Some(pic.clone()), None));
        pic.write(0x4d1, &[0x04]);
        let (first, second) = (fabric.line(10), fabric.line(10));
        first.set(true);
        second.set(true);
        first.set(false);
        assert!(intr.level());
        second.set(false);
        assert!(!intr.level());
    }

    #[test]
    fn the_timer_is_pin_two_of_the_ioapic() {
        let (msi, sent) = MsiSink::recording();
        let ioapic = Arc::new(IoApic::new(IoApicPorts { msi }, IoApicConfig::default()));
        let fabric = Arc::new(IrqFabric::new(None, Some(ioapic.clone())));
        ioapic.write(0, &[0x14, 0, 0, 0]);
        ioapic.write(0x10, &[0x30, 0, 0, 0]);
        fabric.line(0).pulse();
        assert_eq!(sent.take().len(), 1);
        fabric.line(2).pulse();
        fabric.line(99).pulse();
        assert_eq!(sent.take(), []);
    }
}
