//! dsc over fake region servers: in one process ([`supervisor`]) and as a user types it ([`program`]).
//!
//! One test program for both, because it also plays the region servers ([`fake`]).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers fail loudly"
)]

mod fake;
mod program;
mod supervisor;
