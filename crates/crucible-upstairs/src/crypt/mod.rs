//! Sealing and opening of blocks.
