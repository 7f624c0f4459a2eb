//! The bytes of a configuration space and which of their bits a guest can change.
//!
//! Source: PCI Local Bus 3.0, chapter 6 (type 0 header); PCI-to-PCI Bridge 1.2, chapter 3 (type 1).

/// Bytes of a conventional configuration space.
pub const CONFIG_BYTES: usize = 256;

/// Offsets of the registers common to both headers, and of the few that are named elsewhere.
pub mod reg {
    /// Vendor id, 16 bits.
    pub const VENDOR: u16 = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE: u16 = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: u16 = 0x04;
    /// Status, 16 bits.
    pub const STATUS: u16 = 0x06;
    /// Revision and, above it, three bytes of class code.
    pub const REVISION: u16 = 0x08;
    /// Cache line size, in words.
    pub const CACHE_LINE: u16 = 0x0c;
    /// Latency timer.
    pub const LATENCY: u16 = 0x0d;
    /// Header type; bit 7 says that the device has more functions.
    pub const HEADER_TYPE: u16 = 0x0e;
    /// First base address register.
    pub const BAR0: u16 = 0x10;
    /// Subsystem vendor id (type 0), 16 bits.
    pub const SUBSYSTEM_VENDOR: u16 = 0x2c;
    /// Subsystem id (type 0), 16 bits.
    pub const SUBSYSTEM: u16 = 0x2e;
    /// Offset of the first capability.
    pub const CAPABILITIES: u16 = 0x34;
    /// Interrupt line: a note that firmware leaves for the operating system.
    pub const INTERRUPT_LINE: u16 = 0x3c;
    /// Interrupt pin: 0 none, 1 to 4 for A to D.
    pub const INTERRUPT_PIN: u16 = 0x3d;

    /// Primary bus number (type 1).
    pub const PRIMARY_BUS: u16 = 0x18;
    /// Secondary bus number (type 1).
    pub const SECONDARY_BUS: u16 = 0x19;
    /// Highest bus number behind the bridge (type 1).
    pub const SUBORDINATE_BUS: u16 = 0x1a;
    /// First of the window registers (type 1), up to the capability pointer.
    pub const BRIDGE_WINDOWS: u16 = 0x1c;
    /// Bridge control (type 1), 16 bits.
    pub const BRIDGE_CONTROL: u16 = 0x3e;
}

/// Bits of the command register.
pub mod command {
    /// Decodes the port windows.
    pub const IO_SPACE: u16 = 1 << 0;
    /// Decodes the memory windows.
    pub const MEMORY_SPACE: u16 = 1 << 1;
    /// May read and write memory by itself and send messages.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Reports parity errors.
    pub const PARITY: u16 = 1 << 6;
    /// Reports system errors.
    pub const SERR: u16 = 1 << 8;
    /// Keeps the interrupt pin low.
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// What a guest can set.
    pub const WRITABLE: u16 = IO_SPACE | MEMORY_SPACE | BUS_MASTER | PARITY | SERR | INTX_DISABLE;
}

/// Bits of the status register.
pub mod status {
    /// The device wants its interrupt pin raised, whether or not the pin is disabled.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES: u16 = 1 << 4;
}

/// 256 bytes and a mask of the bits that a guest can write.
#[derive(Clone)]
pub(super) struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
}

impl ConfigSpace {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
        }
    }

    /// Declares `value` at `offset`, with the bits of `writable` open to the guest. Bytes past the end
    /// are ignored.
    pub(super) fn define(&mut self, offset: u16, value: &[u8], writable: &[u8]) {
        for (index, byte) in value.iter().enumerate() {
            let at = usize::from(offset) + index;
            if let (Some(slot), Some(mask)) = (self.bytes.get_mut(at), self.writable.get_mut(at)) {
                *slot = *byte;
                *mask = writable.get(index).copied().unwrap_or(0);
            }
        }
    }

    /// Copies out from `offset`; past the end there are zeroes (no extended capabilities).
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let at = usize::from(offset).saturating_add(index);
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// A guest's write: only the open bits change.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) {
        for (index, byte) in data.iter().enumerate() {
            let at = usize::from(offset).saturating_add(index);
            if let (Some(slot), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *slot = *slot & !mask | byte & mask;
            }
        }
    }

    pub(super) fn u8(&self, offset: u16) -> u8 {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0]
    }

    pub(super) fn u16(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub(super) fn u32(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets or clears bits of a 16-bit register on the device's behalf.
    pub(super) fn set_bits(&mut self, offset: u16, bits: u16, on: bool) {
        let old = self.u16(offset);
        let new = if on { old | bits } else { old & !bits };
        for (slot, byte) in self
            .bytes
            .iter_mut()
            .skip(usize::from(offset))
            .zip(new.to_le_bytes())
        {
            *slot = byte;
        }
    }

    /// The bits that a guest has set, for snapshots.
    pub(super) fn guest_bits(&self) -> Vec<u8> {
        self.bytes
            .iter()
            .zip(&self.writable)
            .map(|(byte, mask)| byte & mask)
            .collect()
    }
}
