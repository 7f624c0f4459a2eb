//! What a chain asks of a disk: header, data, status byte.
//!
//! Source: Virtio 1.2, 5.2.6. A driver may cut a chain into buffers as it likes, so header and status are
//! found by counting bytes.

use block::{DiskInfo, Operation, Outcome, Segment};
use vm_types::{GuestAddress, GuestMemory};

use crate::virtio::ring::Chain;

/// Bytes of a sector, the unit of the format whatever the disk's block size.
pub(super) const SECTOR: u64 = 512;

/// Segments of Discard and Write Zeroes that one request may carry.
pub(super) const RANGES_MAX: u32 = 1;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
/// In the flags of a range: unmap.
const FLAG_UNMAP: u32 = 1;

/// What is written into the status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed: the medium, the range, or guest memory.
    IoError = 1,
    /// No such request, or not on this disk.
    Unsupported = 2,
}

impl Status {
    pub(super) const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Ok,
            Outcome::Unsupported => Self::Unsupported,
            Outcome::OutOfRange
            | Outcome::ReadOnly
            | Outcome::GuestMemory
            | Outcome::Miscompare
            | Outcome::ReadFailed
            | Outcome::WriteFailed
            | Outcome::Retry
            | Outcome::Abandoned => Self::IoError,
        }
    }
}

/// A chain that has a place for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Where the status byte goes.
    pub(super) status: GuestAddress,
    /// Bytes of the writable buffers before it.
    pub(super) data_bytes: u32,
    pub(super) action: Action,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the disk; `segments` stand in the chain's readable or writable part.
    Disk {
        operation: Operation,
        offset: u64,
        length: u64,
    },
    /// Write the disk's name into the writable part.
    Identify,
    /// Nothing can be done.
    Refuse(Status),
}

/// Takes header and status out of `chain`, which afterwards holds the data only. `None`: there is no
/// place for the status, or no header; the driver is broken.
pub(super) fn parse(memory: &GuestMemory, info: &DiskInfo, chain: &mut Chain) -> Option<Command> {
    let status = take_last_byte(&mut chain.writable)?;
    let header: [u8; 16] = take_front(memory, &mut chain.readable)?;
    let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let kind = u32::from_le_bytes([t0, t1, t2, t3]);
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let data_bytes = total(&chain.writable)?;
    let action = match kind {
        TYPE_IN => transfer(Operation::Read, sector, u64::from(data_bytes)),
        TYPE_OUT => transfer(Operation::Write, sector, u64::from(total(&chain.readable)?)),
        TYPE_FLUSH => Action::Disk {
            operation: Operation::Flush,
            offset: 0,
            length: 0,
        },
        TYPE_GET_ID => Action::Identify,
        TYPE_DISCARD | TYPE_WRITE_ZEROES => range(memory, info, kind, chain),
        _ => Action::Refuse(Status::Unsupported),
    };
    Some(Command {
        status,
        data_bytes,
        action,
    })
}

fn transfer(operation: Operation, sector: u64, length: u64) -> Action {
    match sector.checked_mul(SECTOR) {
        Some(offset) if length.is_multiple_of(SECTOR) && length > 0 => Action::Disk {
            operation,
            offset,
            length,
        },
        _ => Action::Refuse(Status::IoError),
    }
}

/// Discard and Write Zeroes: one range of sectors.
fn range(memory: &GuestMemory, info: &DiskInfo, kind: u32, chain: &mut Chain) -> Action {
    let Some(range) = take_front::<16>(memory, &mut chain.readable) else {
        return Action::Refuse(Status::IoError);
    };
    if total(&chain.readable) != Some(0) {
        // More ranges than we said that we take.
        return Action::Refuse(Status::IoError);
    }
    chain.readable.clear();
    let [
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        n0,
        n1,
        n2,
        n3,
        f0,
        f1,
        f2,
        f3,
    ] = range;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let unmap = flags & FLAG_UNMAP != 0;
    let operation = match kind {
        // Discard always unmaps; the flag is for Write Zeroes (5.2.6.2).
        TYPE_DISCARD if flags == 0 && info.discard => Operation::Discard,
        TYPE_WRITE_ZEROES if flags & !FLAG_UNMAP == 0 => {
            Operation::WriteZeroes { may_unmap: unmap }
        }
        _ => return Action::Refuse(Status::Unsupported),
    };
    match sector.checked_mul(SECTOR) {
        Some(offset) => Action::Disk {
            operation,
            offset,
            length: sectors * SECTOR,
        },
        None => Action::Refuse(Status::IoError),
    }
}

fn total(segments: &[Segment]) -> Option<u32> {
    let sum: u64 = segments.iter().map(|s| u64::from(s.length)).sum();
    u32::try_from(sum).ok()
}

/// Takes the last byte of the buffers away and returns where it is.
fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    while let Some(last) = segments.last_mut() {
        if last.length > 0 {
            last.length -= 1;
            let address = last.address.0.checked_add(u64::from(last.length))?;
            if last.length == 0 {
                segments.pop();
            }
            return Some(GuestAddress(address));
        }
        segments.pop();
    }
    None
}

/// Reads the first `N` bytes of the buffers and takes them away. `None`: there are fewer, or they are
/// not in guest memory.
fn take_front<const N: usize>(
    memory: &GuestMemory,
    segments: &mut Vec<Segment>,
) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    let mut whole = 0;
    for segment in segments.iter_mut() {
        if filled == N {
            break;
        }
        let count = (segment.length as usize).min(N - filled);
        let into = bytes.get_mut(filled..filled + count)?;
        memory.read(segment.address, into).ok()?;
        filled += count;
        segment.length -= count as u32;
        segment.address = GuestAddress(segment.address.0.checked_add(count as u64)?);
        if segment.length == 0 {
            whole += 1;
        }
    }
    segments.drain(..whole);
    (filled == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(readable: &[(u64, u32)], writable: &[(u64, u32)]) -> Chain {
        let segments = |parts: &[(u64, u32)]| {
            parts
                .iter()
                .map(|&(address, length)| Segment {
                    address: GuestAddress(address),
                    length,
                })
                .collect()
        };
        let mut chain = Chain::default();
        chain.readable = segments(readable);
        chain.writable = segments(writable);
        chain
    }

    fn memory(kind: u32, sector: u64) -> GuestMemory {
        let memory = GuestMemory::flat(0x4000).unwrap();
        memory.write_value(GuestAddress(0x100), kind).unwrap();
        memory.write_value(GuestAddress(0x108), sector).unwrap();
        memory
    }

    const INFO: DiskInfo = DiskInfo::new(512, 1 << 20);

    #[test]
    fn header_and_status_are_found_however_the_chain_is_cut() {
        let memory = memory(TYPE_IN, 8);
        for (readable, writable, data, status) in [
            (
                vec![(0x100, 16)],
                vec![(0x1000, 512), (0x2000, 1)],
                1,
                0x2000,
            ),
            (vec![(0x100, 16)], vec![(0x1000, 513)], 1, 0x1200),
            (
                vec![(0x100, 3), (0x103, 0), (0x103, 13)],
                vec![(0x1000, 100), (0x1800, 413), (0, 0)],
                2,
                0x1800 + 412,
            ),
        ] {
            let mut chain = chain(&readable, &writable);
            let command = parse(&memory, &INFO, &mut chain).unwrap();
            assert_eq!(command.status, GuestAddress(status));
            assert_eq!(command.data_bytes, 512);
            assert_eq!(chain.writable.len(), data);
            assert_eq!(
                command.action,
                Action::Disk {
                    operation: Operation::Read,
                    offset: 4096,
                    length: 512
                }
            );
        }
    }

    #[test]
    fn chains_without_header_or_status_are_no_commands() {
        let memory = memory(TYPE_IN, 0);
        for (readable, writable) in [
            (vec![(0x100, 15)], vec![(0x1000, 513)]),
            (vec![(0x100, 16)], vec![]),
            (vec![(0x100, 16)], vec![(0x1000, 0)]),
            (vec![], vec![(0x1000, 1)]),
            (vec![(0x3fff, 16)], vec![(0x1000, 1)]),
            (vec![(0x100, 16)], vec![(0x1000, u32::MAX), (0, u32::MAX)]),
        ] {
            let mut chain = chain(&readable, &writable);
            assert_eq!(parse(&memory, &INFO, &mut chain), None);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_status() {
        let check = |kind, sector, readable: &[(u64, u32)], writable: &[(u64, u32)]| {
            let mut chain = chain(readable, writable);
            let command = parse(&memory(kind, sector), &INFO, &mut chain).unwrap();
            command.action
        };
        let header = [(0x100, 16)];
        let odd = [(0x1000, 100)];
        assert_eq!(
            check(TYPE_IN, 0, &header, &odd),
            Action::Refuse(Status::IoError)
        );
        assert_eq!(
            check(TYPE_IN, u64::MAX, &header, &[(0x1000, 513)]),
            Action::Refuse(Status::IoError)
        );
        assert_eq!(
            check(2, 0, &header, &odd),
            Action::Refuse(Status::Unsupported)
        );
        assert_eq!(
            check(TYPE_DISCARD, 0, &[(0x100, 16), (0x200, 16)], &odd),
            Action::Refuse(Status::Unsupported)
        );
        assert_eq!(
            check(TYPE_WRITE_ZEROES, 0, &[(0x100, 16), (0x200, 32)], &odd),
            Action::Refuse(Status::IoError)
        );
        assert_eq!(
            check(TYPE_WRITE_ZEROES, 0, &[(0x100, 16), (0x200, 8)], &odd),
            Action::Refuse(Status::IoError)
        );
    }
}
