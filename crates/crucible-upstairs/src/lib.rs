//! Client side of the replicated store: turns guest reads, writes and flushes into jobs on three replicas.
//!
//! Empty so far: the volume comes after the machine. Planned reading order: `core` (decisions, no I/O),
//! `crypt` (sealing), `volume` (layers), `drive` (sockets, timers), `adapter` (a `block` backend).
