//! Supervises three region servers on one machine, for tests and demonstrations.
//!
//! Empty so far: the volume comes after the machine.
