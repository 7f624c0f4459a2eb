//! I/O commands: what each one asks of the disk.
//!
//! Source: NVM Express Base 1.4, chapter 6. Checks come in this order: reserved fields, namespace, the
//! command's own fields, size of the transfer, range, write protection, PRP entries.

use block::{Operation, Segment};
use vm_types::GuestMemory;

use super::command::{ALL_NAMESPACES, Command, io};
use super::namespace::Namespace;
use super::prp;
use super::registers::PAGE;
use super::status::Status;

/// MDTS: a transfer is at most 2^8 pages, or fewer if the disk wants less.
pub const MDTS: u8 = 8;
/// That in bytes.
pub const TRANSFER_BYTES_MAX: u64 = PAGE << MDTS;

/// The most ranges of one Dataset Management command.
pub(super) const RANGES_MAX: usize = 256;
const RANGE_BYTES: usize = 16;

/// What to do with a fetched command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One request to the disk. Its segments were appended to the arena.
    One(Need),
    /// One discard for each of the ranges that were put into the buffer; there is at least one.
    Ranges,
    /// Nothing to do: it succeeds at once.
    Nothing,
}

/// One request, but for token and segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) operation: Operation,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) durable: bool,
}

/// A range of a Dataset Management command, in bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Decodes `command`. On an error `segments` may have grown.
///
/// `write_through`: the guest has turned the volatile write cache off, so each write is durable.
pub(super) fn decode(
    command: &Command,
    namespace: &Namespace,
    memory: &GuestMemory,
    write_through: bool,
    segments: &mut Vec<Segment>,
    ranges: &mut Vec<Range>,
) -> Result<Work, Status> {
    command.check_common()?;
    match command.opcode() {
        io::READ => transfer(command, namespace, memory, segments, Operation::Read, false),
        io::WRITE => {
            // No directive type is supported.
            if command.dwords[12] >> 20 & 0xf != 0 {
                return Err(Status::INVALID_FIELD);
            }
            transfer(
                command,
                namespace,
                memory,
                segments,
                Operation::Write,
                write_through,
            )
        }
        io::COMPARE => transfer(
            command,
            namespace,
            memory,
            segments,
            Operation::Compare,
            false,
        ),
        io::FLUSH => {
            if command.namespace() != ALL_NAMESPACES {
                Namespace::check_id(command.namespace())?;
            }
            Ok(Work::One(Need {
                operation: Operation::Flush,
                offset: 0,
                length: 0,
                durable: false,
            }))
        }
        io::WRITE_ZEROES => {
            let may_unmap = command.dwords[12] & 1 << 25 != 0;
            let operation = Operation::WriteZeroes { may_unmap };
            blocks_only(command, namespace, operation, write_through)
        }
        io::VERIFY => blocks_only(command, namespace, Operation::Verify, false),
        io::DATASET_MANAGEMENT if namespace.info().discard => {
            dataset_management(command, namespace, memory, ranges)
        }
        _ => {
            // Which of the two is wrong first matters to nobody, but an unknown opcode is the older sin.
            Err(Status::INVALID_OPCODE)
        }
    }
}

/// First block and number of blocks: SLBA in words 10 and 11, NLB (from zero) in word 12.
fn block_range(command: &Command) -> (u64, u64) {
    let count = u64::from(command.dwords[12] & 0xffff) + 1;
    (command.pair(10), count)
}

fn is_durable(command: &Command) -> bool {
    command.dwords[12] & 1 << 30 != 0
}

fn transfer(
    command: &Command,
    namespace: &Namespace,
    memory: &GuestMemory,
    segments: &mut Vec<Segment>,
    operation: Operation,
    write_through: bool,
) -> Result<Work, Status> {
    Namespace::check_id(command.namespace())?;
    let (first, count) = block_range(command);
    if count << namespace.block_shift() > namespace.transfer_bytes_max() {
        return Err(Status::INVALID_FIELD);
    }
    let range = namespace.range(first, count)?;
    let writes = operation == Operation::Write;
    if writes {
        namespace.check_writable()?;
    }
    prp::walk(
        memory,
        command.prp1(),
        command.prp2(),
        range.length,
        segments,
    )?;
    Ok(Work::One(Need {
        operation,
        offset: range.offset,
        length: range.length,
        durable: writes && (write_through || is_durable(command)),
    }))
}

/// Commands about blocks that move no data: MDTS does not bound them.
fn blocks_only(
    command: &Command,
    namespace: &Namespace,
    operation: Operation,
    write_through: bool,
) -> Result<Work, Status> {
    Namespace::check_id(command.namespace())?;
    let (first, count) = block_range(command);
    let range = namespace.range(first, count)?;
    let writes = operation != Operation::Verify;
    if writes {
        namespace.check_writable()?;
    }
    Ok(Work::One(Need {
        operation,
        offset: range.offset,
        length: range.length,
        durable: writes && (write_through || is_durable(command)),
    }))
}

/// All ranges are checked before the first is discarded. Without the deallocate attribute the command is
/// advice that we do not take, and succeeds.
fn dataset_management(
    command: &Command,
    namespace: &Namespace,
    memory: &GuestMemory,
    ranges: &mut Vec<Range>,
) -> Result<Work, Status> {
    Namespace::check_id(command.namespace())?;
    let count = (command.dwords[10] & 0xff) as usize + 1;
    let deallocate = command.dwords[11] & 1 << 2 != 0;
    let mut bytes = [0; RANGES_MAX * RANGE_BYTES];
    let bytes = bytes.get_mut(..count * RANGE_BYTES).unwrap_or_default();
    prp::copy_from_guest(memory, command.prp1(), command.prp2(), bytes)?;
    ranges.clear();
    for range in bytes.chunks_exact(RANGE_BYTES) {
        let (length, start) = (word(range, 4), u64::from(word(range, 8)));
        let start = start | u64::from(word(range, 12)) << 32;
        let range = namespace.range(start, u64::from(length))?;
        if range.length > 0 {
            ranges.push(Range {
                offset: range.offset,
                length: range.length,
            });
        }
    }
    if !deallocate {
        return Ok(Work::Nothing);
    }
    namespace.check_writable()?;
    Ok(if ranges.is_empty() {
        Work::Nothing
    } else {
        Work::Ranges
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}
