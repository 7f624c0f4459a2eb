//! One region server of the replicated store.
//!
//! Empty so far: the volume comes after the machine. Planned reading order: `core` (session, work),
//! `store` (region, extents, contexts, recovery), `disk` (real files, crash images), `repair`, `drive`.
