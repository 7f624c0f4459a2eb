//! The client side of the replicated store: turns reads, writes and flushes of a guest into jobs on three region
//! servers, and keeps the three equal.
//!
//! Reading order: [`core`] (every decision, no I/O: events and time in, actions out), [`crypt`] (sealing and
//! opening of blocks; the only place that sees keys).

#![forbid(unsafe_code)]

pub mod core;
pub mod crypt;
#[cfg(feature = "drive")]
pub mod options;
