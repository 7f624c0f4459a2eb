//! The machine: hypervisor backends, memory, devices joined, vCPU threads, life cycle.

pub mod machine;
