//! One region server of the replicated store.
//!
//! Reading order: [`disk`] (what a store needs of a file system: real files, or an image that crashes), [`store`]
//! (region, extents, contexts, recovery), [`core`] (sessions and work, without I/O), [`repair`] (extents from and
//! for other region servers), [`drive`] (sockets and threads).

pub mod core;
pub mod disk;
pub mod drive;
pub mod repair;
pub mod store;
