//! The serial console on a unix socket: raw bytes both ways.
//!
//! [`Scrollback`](scrollback::Scrollback) keeps the newest output, so that a client that comes late sees
//! what it missed, and so that a slow client never holds up the guest. [`server::ConsoleServer`] is the
//! socket: any number of watchers, of which the one that has been there longest may type.
//! [`terminal`] is the other end, `standalone console PATH`.

pub mod scrollback;

pub mod server;

pub mod terminal;

pub(crate) mod socket;

pub use server::{ConsoleEvent, ConsoleServer};
pub use socket::SocketError;
