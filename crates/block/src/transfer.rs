//! One request on one medium: segments to slices, and the operations that every medium gets for free.

use vm_types::{GuestMemory, GuestSlice};

use crate::engine::Medium;
use crate::request::{Operation, Outcome, Request, Segment};

/// Bytes of host memory that Compare, Verify and zeroing by hand use at a time.
const SCRATCH_BYTES: usize = 64 << 10;

/// Buffers for operations that cannot go straight to guest memory. Made at first use, then kept.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    disk: Vec<u8>,
    guest: Vec<u8>,
}

/// Carries out `request`, whose range has been checked. `slices` is only lent, to save allocations.
pub(crate) fn carry_out<'m, M: Medium + ?Sized>(
    medium: &M,
    memory: &'m GuestMemory,
    request: &Request,
    segments: &[Segment],
    slices: &mut Vec<GuestSlice<'m>>,
    scratch: &mut Scratch,
) -> Outcome {
    let result = match request.operation {
        Operation::Read => resolve(memory, segments, Access::Write, slices).and_then(|()| {
            let result = medium.read(request.offset, slices);
            // A read that failed half-way may have left bytes behind, too.
            note_writes(memory, segments);
            result
        }),
        Operation::Write => resolve(memory, segments, Access::Read, slices)
            .and_then(|()| medium.write(request.offset, slices, request.durable)),
        Operation::Flush => medium.flush(),
        Operation::Discard => medium.discard(request.offset, request.length),
        Operation::WriteZeroes { may_unmap } => zero(medium, request, may_unmap, scratch),
        Operation::Compare => resolve(memory, segments, Access::Read, slices)
            .and_then(|()| compare(medium, request.offset, slices, scratch)),
        Operation::Verify => verify(medium, request.offset, request.length, scratch),
    };
    slices.clear();
    match result {
        Ok(()) => Outcome::Ok,
        Err(outcome) => outcome,
    }
}

/// What the medium will do to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Turns guest addresses into host slices. Nothing is done to the bytes.
pub(crate) fn resolve<'m>(
    memory: &'m GuestMemory,
    segments: &[Segment],
    access: Access,
    slices: &mut Vec<GuestSlice<'m>>,
) -> Result<(), Outcome> {
    slices.clear();
    for segment in segments.iter().filter(|segment| segment.length > 0) {
        let length = u64::from(segment.length);
        let slice = match access {
            Access::Read => memory.slice(segment.address, length),
            Access::Write => memory.writable_slice(segment.address, length),
        };
        slices.push(slice.map_err(|_| Outcome::GuestMemory)?);
    }
    Ok(())
}

/// Tells memory's watchers that the segments have been written.
pub(crate) fn note_writes(memory: &GuestMemory, segments: &[Segment]) {
    for segment in segments {
        memory.note_write(segment.address, u64::from(segment.length));
    }
}

fn sized(buffer: &mut Vec<u8>) -> &mut [u8] {
    buffer.resize(SCRATCH_BYTES, 0);
    buffer.as_mut_slice()
}

fn compare<M: Medium + ?Sized>(
    medium: &M,
    offset: u64,
    slices: &[GuestSlice<'_>],
    scratch: &mut Scratch,
) -> Result<(), Outcome> {
    let disk = sized(&mut scratch.disk);
    let guest = sized(&mut scratch.guest);
    // A medium reads whole blocks only, while slices end anywhere: fill the guest side up to a whole
    // chunk (the total is a multiple of the block size, and so is the chunk), then compare.
    let mut at = offset;
    let mut filled = 0;
    let mut left: usize = slices.iter().map(GuestSlice::len).sum();
    for slice in slices {
        let mut taken = 0;
        while taken < slice.len() {
            let count = (slice.len() - taken).min(SCRATCH_BYTES - filled);
            let part = slice
                .subslice(taken, count)
                .map_err(|_| Outcome::GuestMemory)?;
            part.copy_to(&mut guest[filled..filled + count]);
            taken += count;
            filled += count;
            left -= count;
            if filled == SCRATCH_BYTES || left == 0 {
                medium.read(at, &[GuestSlice::from(&mut disk[..filled])])?;
                if disk[..filled] != guest[..filled] {
                    return Err(Outcome::Miscompare);
                }
                at += filled as u64;
                filled = 0;
            }
        }
    }
    Ok(())
}

fn verify<M: Medium + ?Sized>(
    medium: &M,
    offset: u64,
    length: u64,
    scratch: &mut Scratch,
) -> Result<(), Outcome> {
    let disk = sized(&mut scratch.disk);
    in_chunks(offset, length, |at, count| {
        medium.read(at, &[GuestSlice::from(&mut disk[..count])])
    })
}

fn zero<M: Medium + ?Sized>(
    medium: &M,
    request: &Request,
    may_unmap: bool,
    scratch: &mut Scratch,
) -> Result<(), Outcome> {
    match medium.write_zeroes(request.offset, request.length, may_unmap) {
        Err(Outcome::Unsupported) => {}
        Ok(()) if request.durable => return medium.flush(),
        done => return done,
    }
    let zeroes = sized(&mut scratch.disk);
    zeroes.fill(0);
    in_chunks(request.offset, request.length, |at, count| {
        medium.write(
            at,
            &[GuestSlice::from(&mut zeroes[..count])],
            request.durable,
        )
    })
}

/// Calls `body` with (offset, length) for each scratch-sized part of the range, until one fails.
fn in_chunks(
    offset: u64,
    length: u64,
    mut body: impl FnMut(u64, usize) -> Result<(), Outcome>,
) -> Result<(), Outcome> {
    let mut done = 0;
    while done < length {
        let count = (length - done).min(SCRATCH_BYTES as u64);
        body(offset + done, count as usize)?;
        done += count;
    }
    Ok(())
}
