//! Exercises, verifies and measures a volume.
//!
//! Empty so far: the volume comes after the machine.
