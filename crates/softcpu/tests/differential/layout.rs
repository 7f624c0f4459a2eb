//! Where code and data lie: the same linear addresses natively and in the guest.

/// One page.
pub(crate) const PAGE: u64 = 4096;

/// The code page, readable and executable; its neighbours are not mapped.
pub(crate) const CODE: u64 = 0x1000_0000;
/// Bytes of code page.
pub(crate) const CODE_LEN: u64 = PAGE;

/// The data window: two writable pages and then a read-only one, no execution; its neighbours are not mapped.
pub(crate) const DATA: u64 = 0x2000_0000;
/// The same data pages once more, where only 64-bit addresses reach.
pub(crate) const DATA_HIGH: u64 = 0x1234_5678_9000;
/// Bytes of data window that can be written.
pub(crate) const DATA_WRITABLE: u64 = 2 * PAGE;
/// Bytes of data window.
pub(crate) const DATA_LEN: u64 = 3 * PAGE;

/// Selector of the 64-bit user code segment, as Linux lays out its table.
pub(crate) const CS64: u16 = 0x33;
/// Selector of the 32-bit user code segment.
pub(crate) const CS32: u16 = 0x23;
/// Selector of the user data segment.
pub(crate) const DS: u16 = 0x2b;
