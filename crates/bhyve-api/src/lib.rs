//! The illumos `vmm` and `viona` device interfaces: numbers, structures and, on illumos, typed calls.
//!
//! Compiles everywhere. So far this is the map and its numbers; the backend that runs on bhyve adds the
//! calls. Reading order: [`node`] (the device nodes and the interface's version), [`ioctl`] (every request
//! number), [`run`] (the protocol of `VM_RUN`: entry, exit, why), [`register`] (register numbers),
//! [`state`] (arguments that carry vCPU and device state), [`viona`].
//!
//! Source of the numbers: illumos `sys/vmm.h`, `sys/vmm_dev.h`, `sys/viona_io.h`, interface version 18. It
//! is private to illumos and promises nothing between versions, which is why each structure's size is
//! asserted here and the version is checked before anything else is asked.
#![forbid(unsafe_code)]

pub mod node;

pub mod ioctl;

pub mod run;

pub mod register;

pub mod state;

pub mod viona;
