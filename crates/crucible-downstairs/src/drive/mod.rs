//! A region on the network: sockets, threads, the clock around the [`core`](crate::core).
//!
//! Reading order: [`serve`] (what starts it all), `hub` (where events meet the core), `connection` and `spares` (bytes
//! to messages), `link` (messages to bytes), `pool` and `execute` (work on the region), [`tls`].

mod connection;
mod execute;
mod hub;
mod link;
mod pool;
mod serve;
mod spares;
#[cfg(feature = "tls")]
pub mod tls;

pub use execute::Faults;
pub use serve::{Config, ServeError, Serving, TlsSettings, serve};
