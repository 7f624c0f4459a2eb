//! The keyboard controller with a keyboard and a mouse, at ports 0x60 and 0x64.
//!
//! * [`controller`]: the 8042: commands, output buffer, interrupts 1 and 12, reset.
//! * [`keyboard`]: an AT keyboard: commands, scan codes.
//! * [`mouse`]: a PS/2 wheel mouse: commands, movement.
//!
//! Every command that a driver may try is answered at once, so that its probing takes no time-outs.

pub mod controller;
pub mod keyboard;
pub mod mouse;
mod queue;

pub use controller::{Ps2, Ps2Ports};
pub use keyboard::Key;
