//! The control socket: HTTP/1.1 with JSON over a unix socket, `[main] "control"`.
//!
//! Reading order: [`api`] (what is said, as types) → [`handle`] (what it is said to: two traits) → [`router`] (the
//! endpoints) → [`server`] (the socket and its bounds) → `machine`, `disks` (the traits over the real machine) →
//! [`metrics`] (Prometheus text) → [`openapi`] (the same for other languages). `standalone ctl` is the other end;
//! so is `curl --unix-socket ctl http://machine/machine`.
//!
//! A connection answers one request and closes. Nothing here waits for a guest or for storage without a bound.

pub mod api;

pub mod handle;

pub mod router;

pub mod server;

mod machine;

mod disks;

pub mod metrics;

pub mod openapi;

pub use disks::DiskHandles;
pub use machine::{About, MachineHandle};
pub use server::{ControlServer, ControlSocket};

/// One input of a fuzzer: a request's body, or an answer, from whoever. Panics are findings.
pub fn fuzz(bytes: &[u8]) {
    // Refusing is fine.
    drop(router::typed::<api::StopRequest>(bytes));
    drop(router::typed::<api::ReplaceRequest>(bytes));
    if let Ok(answer) = crate::ctl::http::parse(bytes) {
        answer.message();
        if let Ok(disk) = serde_json::from_slice(&answer.body) {
            crate::ctl::tables(&disk);
        }
    }
}

#[cfg(test)]
mod tests;
