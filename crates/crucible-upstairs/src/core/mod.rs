//! The upstairs as a machine without I/O.
