//! What a store needs of a file system.
