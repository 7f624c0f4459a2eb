//! The client side of the replicated store: turns reads, writes and flushes of a guest into jobs on three region
//! servers, and keeps the three equal.
//!
//! Start at [`volume::Volume`], the handle that everybody uses. Reading order: [`core`] (every decision, no I/O:
//! events and time in, actions out), [`crypt`] (sealing and opening of blocks; the only place that sees keys),
//! [`store`] (submissions and their answers), [`drive`] (sockets, time, the thread of a region), [`volume`]
//! (handles, sub-volumes, read-only parents, other leaves), [`options`] (what users write), [`adapter`] (a disk
//! for devices), [`control`] (HTTP).
//!
//! Promises: a flush that was answered is on at least two disks; a read gives what a write put there, or zeroes.

#![forbid(unsafe_code)]

pub mod core;
pub mod crypt;

#[cfg(feature = "drive")]
pub mod store;

#[cfg(feature = "drive")]
pub mod drive;

#[cfg(feature = "drive")]
pub mod volume;

#[cfg(feature = "drive")]
pub mod options;

#[cfg(feature = "drive")]
pub mod adapter;

#[cfg(feature = "drive")]
pub mod control;
