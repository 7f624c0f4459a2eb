//! The machine's life: a pure state machine, and the loop that carries its decisions out.
//!
//! `state` decides (events in, actions out, no clock, no threads); `driver` waits for events, performs
//! the actions on a [`Machine`](driver::Machine) and returns the exit code.

pub mod state;

pub mod driver;

pub use driver::{EventSender, Machine, drive, drive_watched, event_queue};
pub use state::{Action, Ending, Event, Goal, Lifecycle, State};
