//! What a device implements to sit on a PCI bus.

use super::function::Function;

/// One device function. Everything common (configuration space, windows, MSI-X, gates) is in the
/// [`Function`] that it embeds; the rest is here.
///
/// All methods may be called from any vCPU's thread, several at once.
pub trait Endpoint: Send + Sync {
    /// The function's common part.
    fn function(&self) -> &Function;

    /// Reads from a window that is not the MSI-X one. `data` is 1, 2, 4 or 8 bytes and lies inside the
    /// window, but may be unaligned.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a window that is not the MSI-X one, as [`Endpoint::bar_read`].
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);

    /// Reads configuration space: 1, 2 or 4 bytes, naturally aligned, `offset` below 4096. A device
    /// with registers of its own answers for those and leaves the rest to [`Function::config_read`].
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.function().config_read(offset, data);
    }

    /// Writes configuration space, as [`Endpoint::config_read`].
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function().config_write(offset, data);
    }
}
