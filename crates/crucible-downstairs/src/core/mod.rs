//! What a region server decides, without sockets, files, threads or clocks: events and time in, actions out.
//!
//! Reading order: [`Event`] and [`Action`] (the surface), [`Server`] (connections and who is active), then
//! `negotiation` (the first words), `promotion` (who may write), `session` and `request` (jobs), [`work`] (what
//! waits for what).

mod action;
pub mod completed;
mod limits;
mod negotiation;
mod promotion;
mod request;
mod server;
mod session;
pub mod work;

pub use action::{Action, ConnectionId, Event, Operation, Outcome, Reason, Ticket, WriteOperation};
pub use limits::Limits;
pub use negotiation::{Facts, Mode};
pub use server::Server;

#[cfg(test)]
mod tests;
