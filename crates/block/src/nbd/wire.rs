//! Numbers and layouts of the NBD protocol. All integers on the wire are big-endian.
//!
//! Source: the protocol's own document ("The NBD protocol", sections "Values" and "Request message").

use vm_types::cursor::Reader;

/// Opens the server's greeting.
pub(super) const GREETING_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Stands in the greeting and before each option.
pub(super) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Before each answer to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a reply without structure.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before each chunk of a structured reply.
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request without its payload.
pub(super) const REQUEST_BYTES: usize = 28;

/// Handshake flags, of server and client alike.
pub(super) mod handshake_flag {
    pub(in crate::nbd) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(in crate::nbd) const NO_ZEROES: u16 = 1 << 1;
}

/// What the export can do, told at the end of the handshake.
pub(super) mod export_flag {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1 << 0;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const FUA: u16 = 1 << 3;
    pub(in crate::nbd) const TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const DONT_FRAGMENT: u16 = 1 << 7;
    pub(in crate::nbd) const MULTI_CONNECTION: u16 = 1 << 8;
}

/// Options of the handshake that are answered with more than "unsupported".
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options. Those with the top bit are refusals.
pub(super) mod answer {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const UNSUPPORTED: u32 = 0x8000_0001;
    pub(in crate::nbd) const INVALID: u32 = 0x8000_0003;
    pub(in crate::nbd) const UNKNOWN: u32 = 0x8000_0006;
    pub(in crate::nbd) const TOO_BIG: u32 = 0x8000_0009;
}

/// Kinds of information on an export.
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const DESCRIPTION: u16 = 2;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// Commands.
pub(super) mod command {
    pub(in crate::nbd) const READ: u16 = 0;
    pub(in crate::nbd) const WRITE: u16 = 1;
    pub(in crate::nbd) const DISCONNECT: u16 = 2;
    pub(in crate::nbd) const FLUSH: u16 = 3;
    pub(in crate::nbd) const TRIM: u16 = 4;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 6;
}

/// Flags of commands.
pub(super) mod command_flag {
    pub(in crate::nbd) const FUA: u16 = 1 << 0;
    pub(in crate::nbd) const NO_HOLE: u16 = 1 << 1;
    pub(in crate::nbd) const DONT_FRAGMENT: u16 = 1 << 2;
}

/// Chunks of structured replies.
pub(super) mod chunk {
    /// Flag: the last chunk of this reply.
    pub(in crate::nbd) const DONE: u16 = 1 << 0;
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const ERROR: u16 = 0x8001;
}

/// Errors of replies. The numbers are the protocol's, whatever the host calls its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    /// The export is read-only.
    NotPermitted = 1,
    /// The medium failed.
    Io = 5,
    /// The request makes no sense here.
    Invalid = 22,
    /// A write beyond the end.
    NoSpace = 28,
    /// A read of more than a reply may hold.
    Overflow = 75,
    /// The disk does not do that.
    NotSupported = 95,
    /// The server is about to stop.
    Shutdown = 108,
}

/// A request as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRequest {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl RawRequest {
    /// `None` if there are fewer than [`REQUEST_BYTES`], or the magic number is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u32_be()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: reader.u16_be()?,
            command: reader.u16_be()?,
            cookie: reader.u64_be()?,
            offset: reader.u64_be()?,
            length: reader.u32_be()?,
        })
    }
}

/// Appends big-endian numbers.
pub(super) trait Put {
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }
}
