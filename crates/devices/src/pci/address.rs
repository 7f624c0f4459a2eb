//! Where a function sits: bus, device, function.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Devices on a bus.
pub const DEVICES: u8 = 32;
/// Functions of a device.
pub const FUNCTIONS: u8 = 8;

/// Bus 0..=255, device 0..=31, function 0..=7. Written `bus.device.function`, in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The address, or `None` if the device or function number is too large.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < DEVICES && function < FUNCTIONS {
            Some(Self {
                bus,
                device,
                function,
            })
        } else {
            None
        }
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device (slot) number, below 32.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function number, below 8.
    pub const fn function(self) -> u8 {
        self.function
    }

    /// From a number as in ECAM offsets and configuration addresses: bus, 5 bits device, 3 bits
    /// function.
    pub const fn from_routing_id(id: u16) -> Self {
        Self {
            bus: (id >> 8) as u8,
            device: (id >> 3) as u8 & 0x1f,
            function: id as u8 & 7,
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.bus, self.device, self.function)
    }
}

/// A text that is no PCI path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is no PCI path: expected bus.device.function in decimal, such as 0.4.0")]
pub struct ParsePciAddressError(String);

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let mut next = || -> Option<u8> {
            let part = parts.next()?;
            // `parse` would take a sign.
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits { part.parse().ok() } else { None }
        };
        let address = (|| Self::new(next()?, next()?, next()?))();
        match (address, parts.next()) {
            (Some(address), None) => Ok(address),
            _ => Err(ParsePciAddressError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written_alike() {
        for text in ["0.0.0", "0.31.7", "255.4.1"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        for bad in [
            "", "0.4", "0.4.0.0", "0.32.0", "0.0.8", "256.0.0", "+0.1.2", "0:4.0",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn routing_ids_split_into_their_fields() {
        let address = PciAddress::from_routing_id(0x02ab);
        assert_eq!(address, PciAddress::new(2, 21, 3).unwrap());
    }
}
