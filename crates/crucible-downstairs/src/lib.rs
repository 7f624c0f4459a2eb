//! One region server of the replicated store: keeps a region on disk, does what one upstairs at a time asks for, and
//! hands extents to other region servers that have fallen behind.
//!
//! Reading order: [`disk`] (what a store needs of a file system: real files, or an image that crashes), [`store`]
//! (region, extents, contexts, recovery), [`core`] (sessions and work, without I/O), [`repair`] (extents from and
//! for other region servers), [`drive`] (sockets and threads). The program is `src/bin/crucible-downstairs`.
//!
//! Never here: keys, or anything that could open a sealed block; sockets, threads and clocks in `core`.
//!
//! Promises: a flush answered with Ok survives a power cut; a session that was displaced changes nothing any more
//! once its successor is told that it is active; whatever a peer sends costs at most its own connection; a ping is
//! answered whatever the disk does.

pub mod core;
pub mod disk;
pub mod drive;
pub mod repair;
pub mod store;
