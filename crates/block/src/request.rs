//! What a device asks of a disk, and how the answer finds its way back.

use std::ops::Range;

use vm_types::{GuestAddress, GuestMemory};

/// What to do with a byte range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Disk to guest memory.
    Read,
    /// Guest memory to disk.
    Write,
    /// Make all writes completed before this one durable. The range is ignored.
    Flush,
    /// The content of the range is no longer needed. Reads of it may return anything that was there
    /// before, or zeroes.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// The backend may free the space.
        may_unmap: bool,
    },
    /// Compare the range with guest memory; [`Outcome::Miscompare`] when they differ.
    Compare,
    /// Check that the range can be read; no data is moved.
    Verify,
}

/// Names one outstanding request to the device that made it. The backend hands it back unchanged.
///
/// `slot` is the device's own index, `generation` tells a late completion of an earlier life (before
/// a controller reset) from one of this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Index of the device's choosing.
    pub slot: u32,
    /// Life of that slot.
    pub generation: u32,
}

/// A run of guest memory that takes part in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub address: GuestAddress,
    /// Length in bytes.
    pub length: u32,
}

/// One request. Ranges are in bytes and have been checked by the device against the disk's size and
/// block size; a backend checks them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes on the disk. For transfers, the sum of the segments' lengths.
    pub length: u64,
    /// The write must be durable when it completes (force unit access).
    pub durable: bool,
    /// Handed back with the outcome.
    pub token: Token,
    /// Where the guest memory segments stand in [`Batch::segments`]. Empty without a transfer.
    pub segments: Range<u32>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done; for reads, the data are in guest memory.
    Ok,
    /// The range lies outside the disk or is not a multiple of its block size.
    OutOfRange,
    /// The disk is read-only.
    ReadOnly,
    /// This backend does not do that operation.
    Unsupported,
    /// Guest memory could not be read or written.
    GuestMemory,
    /// Compare found a difference.
    Miscompare,
    /// The medium failed on a read.
    ReadFailed,
    /// The medium failed on a write, flush or discard.
    WriteFailed,
    /// Could not be done now; the guest may try again.
    Retry,
    /// Given up without being carried out: the queue is being torn down.
    Abandoned,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's token.
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
}

/// Requests fetched in one go, with their segments in one arena. Reused, so that a busy queue does
/// not allocate.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The requests, in the order in which the guest made them.
    pub requests: Vec<Request>,
    /// The guest memory of all of them.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Forgets the requests, keeps the space.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.segments.clear();
    }

    /// The guest memory of `request`, which must be of this batch (else the result is empty).
    pub fn segments_of(&self, request: &Request) -> &[Segment] {
        let range = request.segments.start as usize..request.segments.end as usize;
        self.segments.get(range).unwrap_or(&[])
    }
}

/// The device's end of one queue, as a backend's worker sees it.
///
/// `fetch` and `complete` may be called from different threads, and `complete` may come while `fetch`
/// runs; each by itself is not called twice at once for the same source.
pub trait Source: Send + Sync {
    /// Appends up to `room` requests to `batch` and returns how many. For each the device has set aside
    /// what its completion needs. Zero means: ring again when there is more.
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize;

    /// Takes the answers to fetched requests, in any order. Each token is answered exactly once.
    fn complete(&self, completions: &[Completion]);

    /// The guest memory that the segments refer to.
    fn memory(&self) -> &GuestMemory;
}
