//! Requests and replies of the transmission phase: what a client asks, whether it may, and the bytes of
//! the answer.

use crate::request::{Operation, Outcome};

use super::facts::Facts;
use super::handshake::Agreed;
use super::wire::{
    CHUNK_MAGIC, Errno, Put, REQUEST_BYTES, RawRequest, SIMPLE_REPLY_MAGIC, chunk, command,
    command_flag,
};

/// A request that the disk is to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// What to do.
    pub(super) operation: Operation,
    /// The client's name for it.
    pub(super) cookie: u64,
    /// First byte on the disk that the client means.
    pub(super) offset: u64,
    /// Bytes that the client means.
    pub(super) length: u32,
    /// Durable before it is answered.
    pub(super) durable: bool,
}

impl Order {
    /// The range that the disk is asked for, in whole blocks: more than the client means where a read
    /// begins or ends within a block.
    pub(super) fn range(&self, facts: &Facts) -> (u64, u64) {
        if self.operation == Operation::Flush {
            return (0, 0);
        }
        // Within the disk, whose size is a multiple of the block size: nothing overflows.
        let unit = u64::from(facts.block_size);
        let start = self.offset & !(unit - 1);
        let end = (self.offset + u64::from(self.length)).next_multiple_of(unit);
        (start, end - start)
    }

    /// Bytes of the client's that follow the request.
    pub(super) const fn payload(&self) -> u32 {
        match self.operation {
            Operation::Write => self.length,
            _ => 0,
        }
    }

    /// Nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0 && self.operation != Operation::Flush
    }

    /// Data go one way or the other.
    pub(super) const fn carries(&self) -> bool {
        matches!(self.operation, Operation::Read | Operation::Write)
    }
}

/// A request that is answered with an error at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) cookie: u64,
    pub(super) error: Errno,
    pub(super) why: &'static str,
    /// Bytes that follow the request all the same, to be thrown away.
    pub(super) payload: u32,
}

/// What the next bytes of a client mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Carry out.
    Order(Order),
    /// Answer with an error.
    Refusal(Refusal),
    /// The client says goodbye.
    Goodbye,
    /// Not a request; nothing that follows can be understood.
    Nonsense,
}

/// Reads one request; `None` if it has not come as a whole. It takes [`REQUEST_BYTES`].
pub(super) fn parse(facts: &Facts, bytes: &[u8]) -> Option<Incoming> {
    let bytes = bytes.get(..REQUEST_BYTES)?;
    let Some(raw) = RawRequest::decode(bytes) else {
        return Some(Incoming::Nonsense);
    };
    if raw.command == command::DISCONNECT {
        return Some(Incoming::Goodbye);
    }
    Some(match judge(facts, &raw) {
        Ok(operation) => Incoming::Order(Order {
            operation,
            cookie: raw.cookie,
            offset: raw.offset,
            length: raw.length,
            durable: raw.flags & command_flag::FUA != 0,
        }),
        Err((error, why)) => Incoming::Refusal(Refusal {
            cookie: raw.cookie,
            error,
            why,
            payload: if raw.command == command::WRITE {
                raw.length
            } else {
                0
            },
        }),
    })
}

fn judge(facts: &Facts, raw: &RawRequest) -> Result<Operation, (Errno, &'static str)> {
    let (operation, flags) = match raw.command {
        command::READ => (Operation::Read, command_flag::DONT_FRAGMENT),
        command::WRITE => (Operation::Write, 0),
        command::FLUSH => (Operation::Flush, 0),
        command::TRIM => (Operation::Discard, 0),
        command::WRITE_ZEROES => {
            let may_unmap = raw.flags & command_flag::NO_HOLE == 0;
            let operation = Operation::WriteZeroes { may_unmap };
            (operation, command_flag::NO_HOLE)
        }
        _ => return Err((Errno::Invalid, "unknown command")),
    };
    // FUA is no mistake with any command.
    if raw.flags & !(flags | command_flag::FUA) != 0 {
        return Err((Errno::Invalid, "flag does not belong to this command"));
    }
    if operation == Operation::Flush {
        // The protocol reserves both; some clients send a length.
        return Ok(operation);
    }
    let writes = operation != Operation::Read;
    if writes && facts.read_only {
        return Err((Errno::NotPermitted, "export is read-only"));
    }
    if operation == Operation::Discard && !facts.trim {
        return Err((Errno::Invalid, "trim was not offered"));
    }
    let carries = matches!(operation, Operation::Read | Operation::Write);
    if carries && raw.length > facts.request_max {
        let error = match operation {
            Operation::Read => Errno::Overflow,
            _ => Errno::Invalid,
        };
        return Err((error, "request is longer than the maximum block size"));
    }
    let inside = raw
        .offset
        .checked_add(u64::from(raw.length))
        .is_some_and(|end| end <= facts.size);
    if !inside {
        let error = match operation {
            Operation::Write | Operation::WriteZeroes { .. } => Errno::NoSpace,
            _ => Errno::Invalid,
        };
        return Err((error, "request goes beyond the end of the export"));
    }
    let unaligned = (raw.offset | u64::from(raw.length)) & u64::from(facts.block_size - 1) != 0;
    if writes && unaligned {
        return Err((
            Errno::Invalid,
            "offset and length must be multiples of the minimum block size",
        ));
    }
    Ok(operation)
}

/// The error that a client sees for an outcome; `None` for success.
pub(super) const fn errno(outcome: Outcome) -> Option<Errno> {
    Some(match outcome {
        Outcome::Ok => return None,
        Outcome::OutOfRange => Errno::Invalid,
        Outcome::ReadOnly => Errno::NotPermitted,
        Outcome::Unsupported => Errno::NotSupported,
        Outcome::Abandoned => Errno::Shutdown,
        Outcome::GuestMemory
        | Outcome::Miscompare
        | Outcome::ReadFailed
        | Outcome::WriteFailed
        | Outcome::Retry => Errno::Io,
    })
}

/// Appends what comes before the data of a successful read, or is all of another success.
pub(super) fn success(agreed: Agreed, order: &Order, out: &mut Vec<u8>) {
    if !agreed.structured || order.operation != Operation::Read {
        // Simple replies are allowed to all but reads.
        simple(order.cookie, 0, out);
    } else if order.length == 0 {
        head(chunk::NONE, order.cookie, 0, out);
    } else {
        // A request is at most 32 MiB long, so the sum fits.
        head(chunk::OFFSET_DATA, order.cookie, 8 + order.length, out);
        out.u64(order.offset);
    }
}

/// Appends an error, with its reason where replies are structured.
pub(super) fn failure(agreed: Agreed, refusal: &Refusal, out: &mut Vec<u8>) {
    if agreed.structured {
        head(
            chunk::ERROR,
            refusal.cookie,
            6 + refusal.why.len() as u32,
            out,
        );
        out.u32(refusal.error as u32);
        out.u16(refusal.why.len() as u16);
        out.extend_from_slice(refusal.why.as_bytes());
    } else {
        simple(refusal.cookie, refusal.error as u32, out);
    }
}

fn simple(cookie: u64, error: u32, out: &mut Vec<u8>) {
    out.u32(SIMPLE_REPLY_MAGIC);
    out.u32(error);
    out.u64(cookie);
}

fn head(kind: u16, cookie: u64, length: u32, out: &mut Vec<u8>) {
    out.u32(CHUNK_MAGIC);
    out.u16(chunk::DONE);
    out.u16(kind);
    out.u64(cookie);
    out.u32(length);
}
