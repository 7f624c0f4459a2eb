//! Sockets and threads around the core.
