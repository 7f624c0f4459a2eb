//! Sealing and opening of blocks: AES-256-GCM-SIV and XXH64, in place, over as many cores as there are.
//!
//! Reading order: [`Key`] (the secret), [`Cipher`] (one block; two implementations that are tested against each
//! other), `nonce` (from the operating system, many at a time), [`Envelope`] (runs of blocks with their
//! contexts, sealed or plain), [`Crypt`] (large runs cut up and spread over threads, small ones done at once).
//!
//! Never here: sockets, clocks. Never elsewhere: the bytes of a key.

mod blocks;
mod cipher;
mod key;
mod nonce;
mod pool;
mod reuse;

#[cfg(feature = "aws-lc")]
mod aws;
mod portable;

pub use blocks::{Envelope, OpenError, OpenFault};
pub use cipher::{Cipher, CipherKind, SealError, TagMismatch};
pub use key::{Key, KeyError, KeyText};
pub use nonce::Nonces;
pub use pool::{Crypt, Done, INLINE_BYTES, Sealed};
