//! Sessions and work, without I/O.
