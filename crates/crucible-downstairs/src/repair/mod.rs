//! Extents from and for other region servers.
