//! Extents from and for other region servers, over HTTP (spec: repair 6.1 to 6.3).
//!
//! Reading order: [`server`] (what others fetch here), [`client`] (what we fetch there and put in place).

pub mod client;
pub mod server;

pub use client::{CloneError, Source, clone_extent, copy_extent};
pub use server::serve;
