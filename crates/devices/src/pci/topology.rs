//! Which functions there are, and how a configuration access finds one.
//!
//! Two numberings meet here. *Logical* bus numbers come from the configuration file and name the buses
//! for us; the guest routes with the numbers that it has written into the bridges.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use vm_types::IrqLine;

use super::address::PciAddress;
use super::bar::BarMapper;
use super::bridge::Bridge;
use super::endpoint::Endpoint;
use super::intx::{IntxPin, IntxRouter};

/// Why a function could not be plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// Something sits there already.
    #[error("PCI address {0} is taken")]
    Taken(PciAddress),
    /// No bridge leads to that bus.
    #[error("PCI address {0}: there is no bus {bus}", bus = .0.bus())]
    NoBus(PciAddress),
    /// Two bridges to one bus, or a bridge to bus 0.
    #[error("bus {0} has a bridge already")]
    BusTaken(u8),
}

/// All functions of a machine, by address.
pub struct Topology {
    mapper: Arc<dyn BarMapper>,
    router: Arc<dyn IntxRouter>,
    buses: RwLock<BTreeMap<u8, Bus>>,
}

#[derive(Default)]
struct Bus {
    /// The logical bus above and the bridge's slot on it; none for bus 0.
    upstream: Option<(u8, u8)>,
    /// By device and function.
    functions: BTreeMap<(u8, u8), Arc<dyn Endpoint>>,
    /// Bridges on this bus and the logical buses behind them.
    bridges: Vec<(Arc<Bridge>, u8)>,
}

impl Topology {
    /// An empty bus 0 whose windows go to `mapper` and whose interrupt pins go to `router`.
    pub fn new(mapper: Arc<dyn BarMapper>, router: Arc<dyn IntxRouter>) -> Self {
        Self {
            mapper,
            router,
            buses: RwLock::new(BTreeMap::from([(0, Bus::default())])),
        }
    }

    /// Plugs `endpoint` in at `at`, wires its interrupt pin and from now on maps its windows.
    pub fn add(&self, at: PciAddress, endpoint: Arc<dyn Endpoint>) -> Result<(), TopologyError> {
        let mut buses = self.buses.write().unwrap_or_else(PoisonError::into_inner);
        let bus = buses.get_mut(&at.bus()).ok_or(TopologyError::NoBus(at))?;
        let place = (at.device(), at.function());
        if bus.functions.contains_key(&place) {
            return Err(TopologyError::Taken(at));
        }
        bus.functions.insert(place, endpoint.clone());
        let of_device = (at.device(), 0)..=(at.device(), 7);
        let siblings: Vec<_> = bus.functions.range(of_device).map(|(_, f)| f).collect();
        // An operating system looks beyond function 0 only if that one says so.
        if siblings.len() > 1 || at.function() != 0 {
            for sibling in siblings {
                sibling.function().set_multifunction();
            }
        }
        let line = match endpoint.function().interrupt_pin() {
            Some(pin) => self.line(&buses, at.bus(), at.device(), pin),
            None => IrqLine::unconnected(),
        };
        endpoint
            .function()
            .connect(Arc::downgrade(&endpoint), self.mapper.clone(), line);
        Ok(())
    }

    /// Plugs in a bridge at `at`, with logical bus `bus` behind it.
    pub fn add_bridge(
        &self,
        at: PciAddress,
        bridge: Arc<Bridge>,
        bus: u8,
    ) -> Result<(), TopologyError> {
        {
            let mut buses = self.buses.write().unwrap_or_else(PoisonError::into_inner);
            if buses.contains_key(&bus) {
                return Err(TopologyError::BusTaken(bus));
            }
            let parent = buses.get_mut(&at.bus()).ok_or(TopologyError::NoBus(at))?;
            if parent.functions.contains_key(&(at.device(), at.function())) {
                return Err(TopologyError::Taken(at));
            }
            parent.bridges.push((bridge.clone(), bus));
            let behind = Bus {
                upstream: Some((at.bus(), at.device())),
                ..Bus::default()
            };
            buses.insert(bus, behind);
        }
        self.add(at, bridge)
    }

    /// The function at a logical address.
    pub fn endpoint(&self, at: PciAddress) -> Option<Arc<dyn Endpoint>> {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        let bus = buses.get(&at.bus())?;
        bus.functions.get(&(at.device(), at.function())).cloned()
    }

    /// The logical addresses of all functions, in order.
    pub fn addresses(&self) -> Vec<PciAddress> {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        buses
            .iter()
            .flat_map(|(number, bus)| {
                bus.functions
                    .keys()
                    .filter_map(|(device, function)| PciAddress::new(*number, *device, *function))
            })
            .collect()
    }

    /// Reads configuration space at an address in the guest's numbering. `offset` is below 4096; where
    /// there is no function, all ones.
    pub fn config_read(&self, at: PciAddress, offset: u16, data: &mut [u8]) {
        let Some(endpoint) = self.route(at) else {
            data.fill(0xff);
            return;
        };
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let piece = natural_piece(offset + done as u16, rest.len());
            endpoint.config_read(offset + done as u16, &mut rest[..piece]);
            done += piece;
        }
    }

    /// Writes configuration space at an address in the guest's numbering.
    pub fn config_write(&self, at: PciAddress, offset: u16, data: &[u8]) {
        let Some(endpoint) = self.route(at) else {
            return;
        };
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let piece = natural_piece(offset + done as u16, rest.len());
            endpoint.config_write(offset + done as u16, &rest[..piece]);
            done += piece;
        }
    }

    /// Bridges lose their bus numbers. The devices reset themselves.
    pub fn reset(&self) {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        for (bridge, _) in buses.values().flat_map(|bus| &bus.bridges) {
            bridge.function().reset();
        }
    }

    /// The function that a configuration cycle with these numbers reaches: bus 0 is the root, any other
    /// goes down through the bridge whose range holds it (type 1 cycles).
    fn route(&self, at: PciAddress) -> Option<Arc<dyn Endpoint>> {
        let buses = self.buses.read().unwrap_or_else(PoisonError::into_inner);
        let mut bus = buses.get(&0)?;
        let mut number = 0;
        while number != at.bus() {
            // Each turn goes one level down in a tree, so the walk ends.
            let (next, logical) = bus.bridges.iter().find_map(|(bridge, logical)| {
                let (secondary, subordinate) = bridge.bus_numbers();
                let claims = secondary != 0 && (secondary..=subordinate).contains(&at.bus());
                claims.then_some((secondary, logical))
            })?;
            bus = buses.get(logical)?;
            number = next;
        }
        bus.functions.get(&(at.device(), at.function())).cloned()
    }

    /// The interrupt line of `pin` of a slot: up through the bridges, turning at each.
    fn line(&self, buses: &BTreeMap<u8, Bus>, bus: u8, device: u8, pin: IntxPin) -> IrqLine {
        let (mut bus, mut device, mut pin) = (bus, device, pin);
        while let Some((above, slot)) = buses.get(&bus).and_then(|bus| bus.upstream) {
            pin = pin.swizzled(device);
            (bus, device) = (above, slot);
        }
        self.router.line(device, pin)
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

/// How many of `length` bytes at `offset` make one naturally aligned access of at most 4.
fn natural_piece(offset: u16, length: usize) -> usize {
    match (offset % 4, length) {
        (0, 4..) => 4,
        (0 | 2, 2..) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_split_at_natural_boundaries() {
        assert_eq!(natural_piece(0, 8), 4);
        assert_eq!(natural_piece(2, 4), 2);
        assert_eq!(natural_piece(1, 4), 1);
        assert_eq!(natural_piece(3, 2), 1);
        assert_eq!(natural_piece(0, 3), 2);
    }
}
