//! Regions on disk.
