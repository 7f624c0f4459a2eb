//! Why bytes are not a message: which field of which message, and what is wrong with it.

use super::{FRAME_MAX, FRAME_MIN};

/// Bytes of a peer that are not a message. A connection on which they came is of no further use: where the next
/// frame begins is anybody's guess.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than any message.
    #[error("frame of {length} bytes: the shortest has {FRAME_MIN}")]
    FrameShort {
        /// As it says of itself.
        length: u32,
    },
    /// Longer than this connection takes.
    #[error("frame of {length} bytes: at most {limit} are taken here, {FRAME_MAX} anywhere")]
    FrameLong {
        /// As it says of itself.
        length: u32,
        /// Of this connection.
        limit: u32,
    },
    /// A message that version 13 does not have.
    #[error("message number {0}: the last is 41")]
    UnknownMessage(u32),
    /// A field that cannot be.
    #[error("{message}: {field}: {fault}")]
    Field {
        /// The message, by its name in the protocol.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong.
        fault: FieldFault,
    },
}

/// What can be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldFault {
    /// The frame ends before the field does.
    #[error("needs {needed} more bytes where {left} are left")]
    Truncated {
        /// Bytes of the value.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A list of so many elements does not fit into what is left of the frame.
    #[error("{count} elements do not fit into the {left} bytes that are left")]
    Count {
        /// As the list says.
        count: u64,
        /// Bytes that are there.
        left: usize,
    },
    /// The data is not exactly what is left of the frame.
    #[error("{length} bytes of data where {left} are left")]
    DataLength {
        /// As the message says.
        length: u64,
        /// Bytes that are there.
        left: usize,
    },
    /// A truth value or the mark of an optional value that is neither 0 nor 1.
    #[error("flag of {0}: must be 0 or 1")]
    Flag(u8),
    /// An enumeration has no such variant.
    #[error("no variant {0}")]
    Variant(u32),
    /// A uuid has 16 bytes.
    #[error("uuid of {0} bytes: must be 16")]
    UuidLength(u64),
    /// Text is UTF-8.
    #[error("text is not UTF-8")]
    Text,
}
