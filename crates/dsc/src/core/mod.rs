//! The supervisor's decisions: what each child is in, when it is started again, who is stopped at random.
//!
//! [`child`] is one region server, [`fleet`] all of them. Both take events and the time, and return actions; the
//! driver performs them. No process, socket, clock or log is known here.

pub mod child;
pub mod fleet;

pub use child::{ExitKind, State};
pub use fleet::{Action, ChildId, Event, Fleet, RandomStop};
