//! The four interrupt pins of a conventional device.

use vm_types::IrqLine;

/// An interrupt pin, numbered as in the Interrupt Pin register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum IntxPin {
    /// INTA#.
    A = 1,
    /// INTB#.
    B = 2,
    /// INTC#.
    C = 3,
    /// INTD#.
    D = 4,
}

impl IntxPin {
    /// The pins in order.
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::C, Self::D];

    /// 0 for A to 3 for D.
    pub const fn index(self) -> u8 {
        self as u8 - 1
    }

    /// The pin of the bridge above, for a device in slot `device` behind it.
    ///
    /// Source: PCI-to-PCI Bridge 1.2, table 9-1.
    #[must_use]
    pub const fn swizzled(self, device: u8) -> Self {
        Self::ALL[((self.index() + device) % 4) as usize]
    }

    /// The pin that the chipset's firmware tables expect of function `function`: A, B, C, D in turn.
    pub const fn for_function(function: u8) -> Self {
        Self::ALL[(function % 4) as usize]
    }
}

/// The chipset's side: which line a pin of a slot of the root bus is wired to.
pub trait IntxRouter: Send + Sync {
    /// A new source on the line for `pin` of slot `device`.
    fn line(&self, device: u8, pin: IntxPin) -> IrqLine;
}

/// A router that leaves all pins unconnected.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIntx;

impl IntxRouter for NoIntx {
    fn line(&self, _device: u8, _pin: IntxPin) -> IrqLine {
        IrqLine::unconnected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_turn_with_the_slot() {
        assert_eq!(IntxPin::A.swizzled(0), IntxPin::A);
        assert_eq!(IntxPin::A.swizzled(3), IntxPin::D);
        assert_eq!(IntxPin::D.swizzled(1), IntxPin::A);
        assert_eq!(IntxPin::C.swizzled(31), IntxPin::B);
    }
}
