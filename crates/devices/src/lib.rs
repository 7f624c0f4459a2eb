//! The devices of a PC, each behind narrow handles, none aware of a hypervisor.

pub mod bus;

pub mod lifecycle;
