//! Messages as bytes and back: the layout of bincode 1.3, written out by hand (spec: wire 1.1 to 1.8).
//!
//! Reading order: `frame` (what a driver calls: [`encode_into`](crate::Message::encode_into),
//! [`encode_head`](crate::Message::encode_head),
//! [`Decoder`]), `tables` (which fields a message has, in which order), `field` (what fields are
//! made of), `error` (what is wrong with bytes that are no message).
//!
//! A message is head and data. The data of writes and of answers to reads is never copied: a sender sends the head
//! that it encodes and the data that it has, in one `writev`; a receiver gets a slice of the buffer that it read
//! into.

mod decode;
mod encode;
mod error;
mod field;
mod tables;

pub use decode::Decoder;
pub use error::{FieldFault, WireError};

/// The longest frame, in bytes, its length word included.
pub const FRAME_MAX: u32 = 100 << 20;
/// The shortest frame: a length and a number.
pub const FRAME_MIN: u32 = 8;
/// Bytes of the length word; it counts itself.
const LENGTH_LEN: usize = 4;
