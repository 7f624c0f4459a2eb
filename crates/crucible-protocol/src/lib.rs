//! The Crucible wire protocol and on-disk formats: frames, messages, errors, ids, geometry, region and
//! extent formats, block contexts.
//!
//! Empty so far: the volume comes after the machine. Wire version 13.
