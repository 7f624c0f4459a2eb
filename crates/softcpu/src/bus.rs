//! What lies outside the CPU: ports, device memory, the interrupt controllers, randomness.

use vm_types::GuestAddress;

/// The machine around a CPU. Called on the CPU's thread in the middle of an instruction, so that no
/// instruction has to be undone and run again.
pub trait Bus: Send + Sync {
    /// IN: `data` is 1, 2 or 4 bytes.
    fn read_port(&self, port: u16, data: &mut [u8]);

    /// OUT: `data` is 1, 2 or 4 bytes.
    fn write_port(&self, port: u16, data: &[u8]);

    /// A load from an address that is not memory; 1, 2, 4 or 8 bytes.
    fn read_mmio(&self, address: GuestAddress, data: &mut [u8]);

    /// A store to an address that is not memory, or is ROM; 1, 2, 4 or 8 bytes.
    fn write_mmio(&self, address: GuestAddress, data: &[u8]);

    /// The INTA cycle of an external interrupt: the vector that the 8259 pair gives, if it has one.
    fn acknowledge_interrupt(&self) -> Option<u8>;

    /// The end of a level-triggered interrupt, as the local APIC broadcasts it to IOAPICs.
    fn end_of_interrupt(&self, vector: u8);
}

/// A bus with nothing on it: reads are all ones, writes vanish. For tests of the CPU alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBus;

impl Bus for NoBus {
    fn read_port(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_port(&self, _port: u16, _data: &[u8]) {}
    fn read_mmio(&self, _address: GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_mmio(&self, _address: GuestAddress, _data: &[u8]) {}
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}
