//! The client side of the replicated store: turns reads, writes and flushes of a guest into jobs on three region
//! servers, and keeps the three equal.
//!
//! Reading order: [`core`] (every decision, no I/O: events and time in, actions out), [`crypt`] (sealing and
//! opening of blocks; the only place that sees keys).

pub mod core;
pub mod crypt;
