//! Exercises, verifies and measures a volume.
//!
//! Reading order: [`core`] (data that proves itself, the write log, the workloads as operations; no I/O).

#![forbid(unsafe_code)]

pub mod core;
