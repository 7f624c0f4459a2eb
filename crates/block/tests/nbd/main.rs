//! The NBD export, as clients see it: a scripted one, arbitrary bytes, and the programs that people use.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod client;

mod handshake;

mod transmission;

mod ending;

mod tools;
