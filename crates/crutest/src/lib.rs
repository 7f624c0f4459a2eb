//! Exercises, verifies and measures a volume.
//!
//! Reading order: [`args`] (what can be typed), [`core`] (data that proves itself, the write log, the workloads as
//! operations; no I/O), [`attach`] (from arguments to an active volume), [`engine`] (operations on a volume),
//! [`trouble`] and [`dsc`] (workloads about region servers that go and come back), [`console`] (the workload that
//! takes commands), [`report`] (what came of it), [`session`] (one call of the program), [`program`] (signals and
//! log). [`copy`] is what the program `crudd` does.

#![forbid(unsafe_code)]

pub mod args;
pub mod attach;
pub mod console;
pub mod copy;
pub mod core;
pub mod dsc;
pub mod engine;
pub mod program;
pub mod report;
pub mod session;
pub mod trouble;
