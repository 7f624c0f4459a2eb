//! How an access reaches a device: one trait for ports and memory-mapped registers.
//!
//! * [`space`]: [`AddressSpace`], which window answers at an address; fixed windows and movable BARs.
//! * [`register`]: [`RegisterMap`], a device's registers as a table that splits and widens accesses.

pub mod register;
pub mod space;

pub use register::{Access, RegisterFile, RegisterMap, Row, Width, row};
pub use space::{AddressSpace, SpaceError, SpaceView, Window};

/// A device's window on a port or MMIO space.
///
/// `offset` counts from the window's start; `data` is 1, 2, 4 or 8 bytes (ports: at most 4), and the
/// access lies inside the window. Nothing that a guest does may panic or block here.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes; what is not there reads as all ones or zero, as the device's
    /// specification says.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data`.
    fn write(&self, offset: u64, data: &[u8]);
}
