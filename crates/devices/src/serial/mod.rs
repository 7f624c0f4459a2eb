//! Serial ports, and the characters' way out of the machine and in.
//!
//! [`Uart`] is a 16550A. What it sends leaves through a [`SerialPeer`], gathered by a [`Batch`] so that a
//! guest's console costs one call for many characters; what the peer wants to send it offers with
//! [`Uart::push_input`], which takes as much as the FIFO has room for.

pub mod batch;
mod fifo;
pub mod uart;

pub use batch::Batch;
pub use uart::{Uart, UartConfig, UartPorts};

/// The other end of a serial line. Neither call may block; both may call `push_input`.
pub trait SerialPeer: Send + Sync {
    /// The guest has sent `bytes` (never empty). All of them are taken; a peer that is full drops
    /// what it thinks best.
    fn write(&self, bytes: &[u8]);

    /// There is room for input again; a peer that was refused some calls `push_input` now or later.
    fn input_wanted(&self) {}
}

/// A peer that swallows everything: a port with nothing plugged in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl SerialPeer for Discard {
    fn write(&self, _: &[u8]) {}
}

/// Where the four ports of a PC are: first port and interrupt of COM1 to COM4.
pub const COM_PORTS: [(u64, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Ports of one UART.
pub const UART_LENGTH: u64 = 8;
