//! Makes regions, and keeps the region servers ("downstairs") of a volume running on one machine: three of them, or
//! as many as are asked for.
//!
//! Reading order: [`args`] (what can be typed), [`plan`] (what it means: ports, directories, uuids),
//! [`core`] (every decision of the supervisor, no I/O: events and time in, actions out), [`regions`] (make, read and
//! remove region directories), [`process`] (one child: start, signals, logs), [`drive`] (the supervisor on
//! processes and timers), [`http`] (its control server), [`cmd`] (the client of that), [`perf`] (how long regions
//! take to make).
//!
//! Commands, flags, defaults, endpoints and names of states are those of the reference program of the same name
//! (spec: section 8.1). What differs: children listen on loopback unless told otherwise, a stop asks before it
//! kills, and a child that dies again and again is restarted more and more slowly.

#![deny(unsafe_code)]

pub mod args;
pub mod cmd;
pub mod core;
pub mod drive;
pub mod http;
pub mod perf;
pub mod plan;
pub mod process;
pub mod regions;
