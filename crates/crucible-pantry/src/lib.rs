//! Keeps volumes attached that no machine uses, and works on them when asked over HTTP: imports images, takes
//! snapshots, reads and writes in bulk, scrubs, checks digests (spec: volume layer 7).
//!
//! Reading order: [`api`] (what travels), [`error`] (what is refused, and with which status), [`jobs`] (work that goes
//! on after its request, bounded), [`pantry`] (volumes by name: attach, detach, replace), [`work`] (import, validate,
//! scrub, bulk), [`http`] (the endpoints).
//!
//! Whoever reaches the server can write to every volume in it: it listens on loopback unless told otherwise.

#![forbid(unsafe_code)]

pub mod api;
pub mod error;
pub mod http;
pub mod jobs;
pub mod pantry;
pub mod work;
