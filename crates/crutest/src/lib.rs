//! Exercises, verifies and measures a volume.
//!
//! Reading order: [`core`] (data that proves itself, the write log, the workloads as operations; no I/O),
//! [`engine`] (operations on a volume), [`report`] (what came of them).

#![forbid(unsafe_code)]

pub mod args;
pub mod attach;
pub mod core;
pub mod dsc;
pub mod engine;
pub mod report;
pub mod trouble;
