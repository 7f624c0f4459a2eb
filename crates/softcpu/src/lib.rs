//! x86-64 in software, with its local APIC: no privilege, no hardware, the same on any machine.
//!
//! Start at [`Package`], which makes the CPUs of a machine, and [`Cpu::run`]. Reading order:
//!
//! * [`cpu`]: the front door and everything a CPU holds. [`package`]: what CPUs share. [`bus`]: what
//!   lies outside.
//! * `state`: registers, deferred flags, segments, control registers.
//! * `trace`: guest bytes to cached blocks of [`op::Op`]s, and the loop that runs them.
//! * `lower`: one decoded instruction to one operation, a file for each family.
//! * `exec`: what the operations do, a file for each family.
//! * `mmu`: linear to physical to host; every access to guest memory.
//! * `event`: exceptions, interrupts, control transfers through descriptors.
//! * `softfloat`: IEEE and x87 arithmetic as pure functions.
//! * [`apic`]: the local APIC and the messages between CPUs.
//! * `cpuid`, `msr`: what is announced, as tables.
//! * [`testkit`]: guests for tests.
//!
//! Never here: devices, threads, the wall clock (time comes from a [`vm_types::Clock`]).
//!
//! Promises: a guest can do nothing that panics, hangs [`Cpu::run`] beyond its budget, or reaches host
//! memory outside guest RAM. An instruction that faults has changed nothing that the manual does not
//! say it changes.
#![deny(unsafe_code)]

pub mod cpu;

pub mod package;

pub mod bus;

pub mod state;

pub mod fault;

pub mod op;

mod trace;

mod lower;

mod exec;

mod mmu;

pub mod event;

pub mod cpuid;

pub mod msr;

pub mod softfloat;

pub mod apic;

pub mod testkit;

pub use bus::{Bus, NoBus};
pub use cpu::{Cpu, Exit};
pub use package::{Package, PackageConfig, Sleep, TimeBase, seeded_random};
