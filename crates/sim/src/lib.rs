//! Deterministic simulation of the replicated store: world, network, disk, guest, oracles, scenarios.
//!
//! Empty so far: the volume comes after the machine.
