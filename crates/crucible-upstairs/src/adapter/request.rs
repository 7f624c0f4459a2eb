//! One request of a guest under way, the parts that it is cut into, and the guest memory that each part is about.

use block::request::{Operation, Outcome, Request as DiskRequest, Segment, Token};
use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use vm_types::GuestMemory;

use crate::core::Request;

/// Largest part that a request is cut into. Parts are sealed and sent side by side.
const PART_BYTES: u64 = 1 << 20;
/// A longer range is not discarded: writing its zeroes would hold the guest up for longer than the space is worth.
const DISCARD_MAX: u64 = 128 << 20;
/// Bits of a tag for the number of a part.
const PART_BITS: u32 = 32;

/// A request that is under way, or was, and has parts under way still.
pub(super) struct Slot {
    /// `None`: the request has been answered, or given up.
    pub(super) token: Option<Token>,
    pub(super) operation: Operation,
    pub(super) offset: u64,
    pub(super) durable: bool,
    /// Keeps its room from request to request.
    segments: Vec<Segment>,
    /// Parts without an answer, those that wait included.
    pub(super) left: u64,
    pub(super) failed: Option<Outcome>,
}

/// One part of a request, or a flush that makes several requests durable.
pub(super) struct Part {
    pub(super) owner: Owner,
    /// Bytes from the beginning of the request.
    pub(super) at: u64,
    /// In bytes; 0 is a flush.
    pub(super) length: u64,
}

/// Whose answer it will be.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Slot(usize),
    /// Of `flushes`.
    Flush(usize),
}

impl Owner {
    /// In a tag: set for [`Owner::Flush`].
    const FLUSH: u64 = 1 << 63;

    /// For the answer; `number` is that of the part.
    pub(super) fn tag(self, number: u64) -> u64 {
        match self {
            Self::Slot(slot) => (slot as u64) << PART_BITS | number,
            Self::Flush(flush) => Self::FLUSH | (flush as u64) << PART_BITS,
        }
    }

    pub(super) fn of(tag: u64) -> Self {
        let number = ((tag & !Self::FLUSH) >> PART_BITS) as usize;
        if tag & Self::FLUSH == 0 {
            Self::Slot(number)
        } else {
            Self::Flush(number)
        }
    }

    /// Where the part that a tag names begins, in bytes from the beginning of its request.
    pub(super) const fn part_at(tag: u64) -> u64 {
        (tag & ((1 << PART_BITS) - 1)) * PART_BYTES
    }
}

/// Into how many parts a request is cut. None: it is declined, and done.
pub(super) fn parts_of(request: &DiskRequest, encrypted: bool) -> u64 {
    match request.operation {
        Operation::Flush => 1,
        Operation::Discard if encrypted || request.length > DISCARD_MAX => 0,
        _ => request.length.div_ceil(PART_BYTES),
    }
}

impl Part {
    /// The part with this number.
    pub(super) fn new(owner: Owner, request: &DiskRequest, number: u64) -> Self {
        let at = number * PART_BYTES;
        let length = match request.operation {
            Operation::Flush => 0,
            _ => PART_BYTES.min(request.length.saturating_sub(at)),
        };
        Self { owner, at, length }
    }

    /// A flush that serves several requests.
    pub(super) const fn flush(owner: Owner) -> Self {
        Self {
            owner,
            at: 0,
            length: 0,
        }
    }

    /// For its answer.
    pub(super) fn tag(&self) -> u64 {
        self.owner.tag(self.at / PART_BYTES)
    }
}

impl Slot {
    /// Takes a request in, which comes in so many parts.
    pub(super) fn begin(&mut self, request: &DiskRequest, segments: &[Segment], parts: u64) {
        self.token = Some(request.token);
        self.operation = request.operation;
        self.offset = request.offset;
        // Advice that is declined leaves nothing to be made durable.
        let declined = request.operation == Operation::Discard && parts == 0;
        self.durable = request.durable && !declined;
        self.segments.clear();
        self.segments.extend_from_slice(segments);
        // Without a part there is one answer all the same, by the same way as all others.
        self.left = parts.max(1);
        self.failed = None;
    }

    /// What a part asks of the volume; guest bytes that are to be written are copied here.
    pub(super) fn ask(
        &self,
        part: &Part,
        block_size: u32,
        memory: Option<&GuestMemory>,
    ) -> Result<Request, Outcome> {
        let size = u64::from(block_size);
        let start = BlockIndex((self.offset + part.at) / size);
        let count = part.length / size;
        match self.operation {
            Operation::Read | Operation::Compare | Operation::Verify => {
                Ok(Request::Read { start, count })
            }
            Operation::Discard | Operation::WriteZeroes { .. } => Ok(Request::Write {
                start,
                data: BytesMut::zeroed(part.length as usize),
            }),
            Operation::Write => {
                let mut data = BytesMut::zeroed(part.length as usize);
                let memory = memory.ok_or(Outcome::GuestMemory)?;
                let mut done = 0;
                for piece in pieces(&self.segments, part.at, part.length) {
                    let piece = piece?;
                    let end = done + piece.length as usize;
                    let into = data.get_mut(done..end).ok_or(Outcome::GuestMemory)?;
                    memory
                        .read(piece.address, into)
                        .map_err(|_| Outcome::GuestMemory)?;
                    done = end;
                }
                Ok(Request::Write { start, data })
            }
            Operation::Flush => Ok(Request::Flush { snapshot: None }),
        }
    }

    /// Puts what was read where it belongs, or compares it with what is there. `at`: of the part.
    pub(super) fn deliver(
        &self,
        at: u64,
        data: &[u8],
        memory: Option<&GuestMemory>,
    ) -> Result<(), Outcome> {
        let compare = match self.operation {
            Operation::Read => false,
            Operation::Compare => true,
            _ => return Ok(()),
        };
        let memory = memory.ok_or(Outcome::GuestMemory)?;
        let mut done = 0;
        let mut guest = Vec::new();
        for piece in pieces(&self.segments, at, data.len() as u64) {
            let piece = piece?;
            let end = done + piece.length as usize;
            let from = data.get(done..end).ok_or(Outcome::ReadFailed)?;
            if compare {
                guest.resize(from.len(), 0);
                memory
                    .read(piece.address, &mut guest)
                    .map_err(|_| Outcome::GuestMemory)?;
                if guest != from {
                    return Err(Outcome::Miscompare);
                }
            } else {
                memory
                    .write(piece.address, from)
                    .map_err(|_| Outcome::GuestMemory)?;
            }
            done = end;
        }
        Ok(())
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            token: None,
            operation: Operation::Flush,
            offset: 0,
            durable: false,
            segments: Vec::new(),
            left: 0,
            failed: None,
        }
    }
}

/// The guest memory that bytes `at..at + length` of a request lie in.
fn pieces(
    segments: &[Segment],
    at: u64,
    length: u64,
) -> impl Iterator<Item = Result<Segment, Outcome>> + '_ {
    let end = at.saturating_add(length);
    let mut begin = 0_u64;
    segments.iter().filter_map(move |segment| {
        let (first, last) = (begin, begin + u64::from(segment.length));
        begin = last;
        let (from, to) = (first.max(at), last.min(end));
        (from < to).then(|| {
            let address = segment.address.0.checked_add(from - first);
            Ok(Segment {
                address: vm_types::GuestAddress(address.ok_or(Outcome::GuestMemory)?),
                length: (to - from) as u32,
            })
        })
    })
}
