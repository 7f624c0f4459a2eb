//! Block requests and the backends that carry them out.
//!
//! A device owns the guest's queue; a backend owns the worker. The worker *pulls*: rung by a doorbell
//! it fetches a batch of [`Request`]s from the device's [`Source`], carries them out, and hands each
//! token back with an [`Outcome`]. A full backend fetches less, so the guest's own queue is the only
//! place where requests wait, and nothing is lost when a machine stops.

pub mod request;

pub use request::{Batch, Completion, Operation, Outcome, Request, Segment, Source, Token};
