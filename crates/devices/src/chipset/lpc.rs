//! The PIIX3's ISA bridge: the PIRQ route registers, and storage for the rest (82371SB data sheet, 2.2).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{INTEL, SUBSYSTEM_VENDOR};
use crate::irq::PirqRouter;
use crate::irq::pirq::{PIRQ_COUNT, PIRQ_DISABLED};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::pci::{Endpoint, Function, FunctionError, FunctionState, Identity};

const KIND: &str = "piix3";

/// Configuration offset of PIRQA's route register; B to D follow.
pub const PIRQ_ROUTE: u16 = 0x60;

/// ISA interrupts that firmware routes PIRQA to PIRQD to.
const FIRMWARE_ROUTES: [u8; PIRQ_COUNT] = [10, 10, 11, 11];

/// The ISA bridge.
#[derive(Debug)]
pub struct Lpc {
    function: Function,
    router: Arc<PirqRouter>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    function: FunctionState,
    routes: [u8; PIRQ_COUNT],
}

impl Lpc {
    /// The bridge, whose route registers are those of `router`; errors are mistakes in its own
    /// declaration.
    pub fn new(router: Arc<PirqRouter>) -> Result<Arc<Self>, FunctionError> {
        let identity = Identity {
            vendor: INTEL,
            device: 0x7000,
            class: 0x06_01_00,
            revision: 0,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: 0xfffd,
        };
        let function = Function::builder(identity)
            // X-bus chip select, top of memory, and interrupt routes of devices that are not there.
            .register(0x4e, &[0x03, 0x00], &[0xff, 0x01])
            .register(0x69, &[0x02], &[0xfe])
            .register(0x70, &[0x80, 0x80], &[0xef, 0xef])
            .build()?;
        Ok(Arc::new(Self { function, router }))
    }

    /// Routes the PCI interrupts as firmware would have: for machines that boot a kernel without any,
    /// after each reset.
    pub fn route_as_firmware(&self) {
        for (pirq, route) in FIRMWARE_ROUTES.into_iter().enumerate() {
            self.router.set_register(pirq, route);
        }
    }
}

/// The route register at a configuration offset.
fn route_at(offset: u16) -> Option<usize> {
    let index = usize::from(offset.checked_sub(PIRQ_ROUTE)?);
    (index < PIRQ_COUNT).then_some(index)
}

impl Endpoint for Lpc {
    fn function(&self) -> &Function {
        &self.function
    }

    fn bar_read(&self, _: usize, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.function.config_read(offset, data);
        for (at, byte) in (offset..).zip(data) {
            if let Some(pirq) = route_at(at) {
                *byte = self.router.register(pirq);
            }
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function.config_write(offset, data);
        for (at, byte) in (offset..).zip(data) {
            if let Some(pirq) = route_at(at) {
                self.router.set_register(pirq, *byte);
            }
        }
    }
}

impl Lifecycle for Lpc {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        self.function.reset();
        for pirq in 0..PIRQ_COUNT {
            self.router.set_register(pirq, PIRQ_DISABLED);
        }
    }

    fn save(&self) -> Option<Snapshot> {
        let saved = Saved {
            function: self.function.save(),
            routes: std::array::from_fn(|pirq| self.router.register(pirq)),
        };
        Some(Snapshot::of(KIND, 1, &saved))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let saved = snapshot.open::<Saved>(KIND, KIND, 1)?;
        self.function
            .restore(&saved.function)
            .map_err(|reason| RestoreError::Damaged {
                device: KIND.to_owned(),
                reason,
            })?;
        for (pirq, route) in saved.routes.into_iter().enumerate() {
            self.router.set_register(pirq, route);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::IrqFabric;

    #[test]
    fn routes_are_read_back_and_saved() {
        let router = Arc::new(PirqRouter::new(Arc::new(IrqFabric::new(None, None))));
        let lpc = Lpc::new(router.clone()).unwrap();
        lpc.config_write(0x60, &[0x0a, 0x0b, 0xff, 0x05]);
        let mut routes = [0; 4];
        lpc.config_read(0x60, &mut routes);
        assert_eq!(routes, [0x0a, 0x0b, 0x8f, 0x05]);
        let saved = lpc.save().unwrap();
        lpc.reset();
        lpc.config_read(0x60, &mut routes);
        assert_eq!(routes, [0x80; 4]);
        lpc.restore(&saved).unwrap();
        assert_eq!(router.register(1), 0x0b);
        lpc.route_as_firmware();
        assert_eq!(router.register(3), 11);
    }
}
