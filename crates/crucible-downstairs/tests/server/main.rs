//! The region server over real sockets, against a small scripted peer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up fails"
)]

mod admin;
mod cli;
mod hostile;
mod io;
mod load;
mod mixed;
mod promotion;
mod recordings;
mod repair;
mod support;
mod tls;
