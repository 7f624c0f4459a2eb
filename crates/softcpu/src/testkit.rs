//! Guests for tests: a user program's seat for one instruction, and arbitrary bytes as code in any mode.

mod arbitrary;
mod seat;

pub use arbitrary::{Mode, run_arbitrary};
pub use seat::{End, Pages, Seat, UserState};
