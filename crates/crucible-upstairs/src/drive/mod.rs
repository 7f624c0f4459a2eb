//! The upstairs on real sockets: one thread for each set of three region servers, and on it one task that owns the
//! machine of [`crate::core`], hands it what happens and does what it says.
//!
//! Reading order: [`Region`] (the handle), `intake` (how requests reach the thread), `desk` (who takes a turn),
//! `driver` (one turn: take in all that is there, decide, seal, answer, send), `link` (a connection: many frames by one read, one vectored
//! write for all that a turn has to say), [`tls`].
//!
//! One thread does all of it, so that a request meets no queue between its arrival and its three sends. Large
//! sealing alone goes to other threads; and who asks for a single read or flush takes the turn for it, if nobody else
//! has the turn.

mod desk;
mod driver;
mod intake;
mod link;
mod region;
pub mod tls;

pub use region::{Region, Setup, StartError};
