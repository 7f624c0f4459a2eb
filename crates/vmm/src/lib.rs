//! The machine: hypervisor backends, memory, devices joined, vCPU threads, life cycle.
//!
//! Reading order: [`machine`] (what a machine is to be, and how it is put together) → [`memory`] (where
//! RAM and windows lie) → [`hypervisor`] (the traits, and the backends behind them) → [`vcpu`] (threads
//! that run vCPUs) → [`lifecycle`] (start, reset, halt as a pure state machine, and its driver).
//!
//! Never here: TOML, command lines, sockets, the environment. A device never sees this crate: the builder
//! in [`machine`] is the one place that holds both ends of each handle.
#![deny(unsafe_code)]

pub mod machine;

pub mod memory;

pub mod hypervisor;

pub mod vcpu;

pub mod lifecycle;
