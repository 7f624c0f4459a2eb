//! The illumos `vmm` and `viona` device interfaces: numbers, structures and, on illumos, typed calls.
//!
//! Compiles everywhere; calls only on illumos. So far this is the map and its numbers: the first
//! backend that runs on bhyve adds the calls. Source of the numbers: illumos `sys/vmm_dev.h`,
//! interface version 18.
