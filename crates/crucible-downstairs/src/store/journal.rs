//! The journal: one file beside region.json, written round and round, in which each commit is one record and one
//! sync. The reference ignores it.
//!
//! ```text
//! 0       header, first copy      magic, serial, capacity, where the oldest record is and its number, hash
//! 4096    header, second copy     the one with the higher serial counts; they are written in turns
//! 8192    records                 each begins at a multiple of 4096 and has the next number
//!
//! record  magic u64, number u64, meta length u64, data length u64, hash of these and of the meta bytes u64
//!         meta     sections: extent, kind, metadata before and after, runs of blocks with their slots; of blocks that
//!                  are in their place already, only which slot is theirs
//!         data     the blocks, in the order of the slots; each is checked by the hash in its slot
//! ```
//!
//! A record never goes over the end of the file; who does not find the next one where the last one ended looks for
//! it at the beginning. Numbers never repeat, so what is left of older rounds is never taken for new.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use crucible_protocol::ExtentId;
use crucible_protocol::context::hash;
use crucible_protocol::layout::{ExtentMetadata, METADATA_LEN, SLOT_LEN, Slot};

use super::direct::PlacedRun;
use super::extent::LONG_BYTES;
use crate::disk::{Access, Disk, DiskFile};

/// The name of the journal in the region directory.
pub(super) const JOURNAL_FILE: &str = "trivet.journal";

/// Records begin at multiples of this, so that no two share what a disk writes in one piece.
const ALIGN: u64 = 4096;
const RECORDS_AT: u64 = 2 * ALIGN;
const HEADER_LEN: usize = 48;
const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"trvtjrn1");
const RECORD_MAGIC: u64 = u64::from_le_bytes(*b"trvtrec1");
const RECORD_HEAD: usize = 40;
/// The longest meta part that is read. Ours are shorter: of a quarter of the largest journal in the smallest blocks.
const META_MAX: u64 = 64 << 20;
/// No journal comes as far as this with its numbers.
const COUNT_MAX: u64 = u64::MAX / 2;
/// Bytes of a section before its runs.
const SECTION_HEAD: usize = 4 + 1 + 2 * METADATA_LEN + 4;
/// Bytes of a run before its slots.
const RUN_HEAD: usize = 8;
/// Bytes of a slot in a section: which of the two, and its content.
const SLOT_ENTRY: usize = 1 + SLOT_LEN;

/// The open journal. There is one for each region that is open for writing, behind a lock.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<dyn DiskFile>,
    capacity: u64,
    serial: u64,
    tail: Mark,
    head: Mark,
    /// The last append failed: its record may be there or not, and may only be followed once it cannot count.
    broken: bool,
}

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Where the next record begins, in bytes; unless it did not fit there.
    position: u64,
    /// Its number.
    number: u64,
}

/// What a section says about an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionKind {
    /// These blocks are to be as in the data of the record.
    Commit,
    /// These blocks and their contexts are in their place, durably, and count from now on.
    Placed,
    /// Everything about this extent before this record is settled and void: its file may be another one now.
    Forget,
}

/// One block of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotEntry {
    /// Within the extent.
    pub(super) block: u32,
    /// Which slot its context goes to.
    pub(super) slot: Slot,
    /// Its context, as stored.
    pub(super) stored: [u8; SLOT_LEN],
    /// Where its data are in the journal file; for [`SectionKind::Commit`].
    pub(super) data_at: u64,
}

/// What one record says about one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) extent: ExtentId,
    pub(super) kind: SectionKind,
    /// Metadata of the file before.
    pub(super) before: ExtentMetadata,
    /// And after.
    pub(super) after: ExtentMetadata,
    pub(super) entries: Vec<SlotEntry>,
    /// For [`SectionKind::Placed`].
    pub(super) placed: Vec<PlacedRun>,
}

/// Sections that are being put together.
#[derive(Debug, Default)]
pub(super) struct RecordBuilder {
    meta: Vec<u8>,
    run_count_at: usize,
    run_length_at: usize,
    next_block: Option<u32>,
}

impl RecordBuilder {
    pub(super) fn section(
        &mut self,
        extent: ExtentId,
        kind: SectionKind,
        before: ExtentMetadata,
        after: ExtentMetadata,
    ) {
        self.meta.extend_from_slice(&extent.0.to_le_bytes());
        self.meta.push(kind.code());
        self.meta.extend_from_slice(&before.encode());
        self.meta.extend_from_slice(&after.encode());
        self.run_count_at = self.meta.len();
        self.meta.extend_from_slice(&0u32.to_le_bytes());
        self.next_block = None;
    }

    /// Blocks of a section come in ascending order.
    pub(super) fn block(&mut self, block: u32, slot: Slot, stored: &[u8; SLOT_LEN]) {
        if self.next_block != Some(block) {
            self.bump(self.run_count_at);
            self.meta.extend_from_slice(&block.to_le_bytes());
            self.run_length_at = self.meta.len();
            self.meta.extend_from_slice(&0u32.to_le_bytes());
        }
        self.bump(self.run_length_at);
        self.meta.push(slot as u8);
        self.meta.extend_from_slice(stored);
        self.next_block = block.checked_add(1);
    }

    /// Blocks of a section that are in their place.
    pub(super) fn placed(&mut self, run: PlacedRun) {
        self.bump(self.run_count_at);
        self.meta.extend_from_slice(&run.first.to_le_bytes());
        self.meta.extend_from_slice(&run.count.to_le_bytes());
        self.meta.push(run.slot as u8);
    }

    pub(super) fn meta(&self) -> &[u8] {
        &self.meta
    }

    pub(super) fn is_empty(&self) -> bool {
        self.meta.is_empty()
    }

    fn bump(&mut self, at: usize) {
        if let Some(field) = self.meta.get_mut(at..at + 4) {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(field);
            field.copy_from_slice(&u32::from_le_bytes(bytes).wrapping_add(1).to_le_bytes());
        }
    }
}

impl SectionKind {
    const fn code(self) -> u8 {
        match self {
            Self::Commit => 0,
            Self::Forget => 1,
            Self::Placed => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Commit,
            1 => Self::Forget,
            2 => Self::Placed,
            _ => return None,
        })
    }
}

impl Journal {
    /// Opens the journal of a region, or begins one, and reads the records that are in it.
    ///
    /// `block_size`: in bytes, of the region. A journal without a sound header is one whose making was broken off;
    /// it has no records.
    pub(super) fn open(
        disk: &dyn Disk,
        capacity: u64,
        block_size: u32,
    ) -> io::Result<(Self, Vec<Section>)> {
        let file = disk.open(JOURNAL_FILE, Access::CreateOrOpen)?;
        // Also when the file was there: an earlier try to make it may have come no further.
        disk.sync_directory("")?;
        let begin = Mark {
            position: RECORDS_AT,
            number: 1,
        };
        let Some(mut journal) = Self::read_header(&file)? else {
            let mut journal = Self {
                file,
                capacity: round_up(capacity).max(RECORDS_AT + 16 * ALIGN),
                serial: 0,
                tail: begin,
                head: begin,
                broken: false,
            };
            // Both copies, so that there is always a sound one from here on.
            journal.write_header(begin)?;
            journal.write_header(begin)?;
            return Ok((journal, Vec::new()));
        };
        let mut sections = Vec::new();
        while let Some(found) = journal.next_record(block_size)? {
            sections.extend(found);
        }
        Ok((journal, sections))
    }

    /// Reads the records of the journal of a region that is not to be changed.
    pub(super) fn peek(
        disk: &dyn Disk,
        block_size: u32,
    ) -> io::Result<Option<(Self, Vec<Section>)>> {
        if disk.kind(JOURNAL_FILE)?.is_none() {
            return Ok(None);
        }
        let file = disk.open(JOURNAL_FILE, Access::Read)?;
        let Some(mut journal) = Self::read_header(&file)? else {
            return Ok(None);
        };
        let mut sections = Vec::new();
        while let Some(found) = journal.next_record(block_size)? {
            sections.extend(found);
        }
        Ok(Some((journal, sections)))
    }

    /// The records from the oldest one on, once more.
    pub(super) fn reread(&self, block_size: u32) -> io::Result<Vec<Section>> {
        let mut reader = Self {
            file: Arc::clone(&self.file),
            head: self.tail,
            ..*self
        };
        let mut sections = Vec::new();
        while reader.head.number < self.head.number {
            match reader.next_record(block_size)? {
                Some(found) => sections.extend(found),
                None => return Err(io::Error::other("a record of the journal is gone")),
            }
        }
        Ok(sections)
    }

    /// Where the next record will begin.
    pub(super) const fn head(&self) -> Mark {
        self.head
    }

    /// Whether there are no records.
    pub(super) const fn is_empty(&self) -> bool {
        self.tail.number == self.head.number
    }

    /// Bytes in use, and bytes in all.
    pub(super) const fn usage(&self) -> (u64, u64) {
        let all = self.capacity - RECORDS_AT;
        let used = if self.is_empty() {
            0
        } else if self.head.position > self.tail.position {
            self.head.position - self.tail.position
        } else {
            all - (self.tail.position - self.head.position)
        };
        (used, all)
    }

    /// The largest record that should be made, in bytes: several fit.
    pub(super) const fn record_max(&self) -> u64 {
        Self::record_max_of(self.capacity)
    }

    /// The same of a journal that is not there yet.
    pub(super) const fn record_max_of(capacity: u64) -> u64 {
        capacity.saturating_sub(RECORDS_AT) / 4
    }

    /// Whether records of so many bytes of meta and data can be appended now, one after the other.
    pub(super) fn fits(&self, records: impl Iterator<Item = (usize, u64)>) -> bool {
        let mut ahead = Self {
            file: Arc::clone(&self.file),
            ..*self
        };
        for (meta, data) in records {
            let length = record_length(meta as u64, data);
            let Some(position) = ahead.place(length) else {
                return false;
            };
            ahead.head = Mark {
                position: position + length,
                number: ahead.head.number + 1,
            };
        }
        true
    }

    /// Appends a record and makes it durable. On an error it may or may not be
    /// there, and [`Journal::start_over`] must come before the next.
    pub(super) fn append(&mut self, meta: &[u8], data: &[IoSlice<'_>]) -> io::Result<()> {
        let data_length: u64 = data.iter().map(|slice| slice.len() as u64).sum();
        let length = record_length(meta.len() as u64, data_length);
        let Some(position) = self.place(length) else {
            return Err(io::Error::new(
                ErrorKind::StorageFull,
                "the journal is full",
            ));
        };
        let mut head = [0; RECORD_HEAD];
        head[0..8].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&self.head.number.to_le_bytes());
        head[16..24].copy_from_slice(&(meta.len() as u64).to_le_bytes());
        head[24..32].copy_from_slice(&data_length.to_le_bytes());
        let sum = record_hash(&head[..32], meta);
        head[32..40].copy_from_slice(&sum.to_le_bytes());
        let mut slices = Vec::with_capacity(data.len() + 3);
        slices.push(IoSlice::new(&head));
        slices.push(IoSlice::new(meta));
        slices.extend_from_slice(data);
        self.broken = true;
        // Up to where the next record begins: whole pages need not be read before they are written.
        let used = (RECORD_HEAD + meta.len()) as u64 + data_length;
        let zeros = [0; ALIGN as usize];
        let end = usize::try_from(length.saturating_sub(used)).unwrap_or_default();
        slices.push(IoSlice::new(zeros.get(..end).unwrap_or_default()));
        if length >= LONG_BYTES {
            self.file.write_long(&slices, position)?;
        } else {
            self.file.write_at(&slices, position)?;
        }
        self.file.sync_data()?;
        self.broken = false;
        self.head = Mark {
            position: position + length,
            number: self.head.number + 1,
        };
        Ok(())
    }

    /// Whether [`Journal::start_over`] is due, because an append failed.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Lets go of all records and skips a number, so that one whose append failed can never count. Everything in the
    /// records must be durable in its place.
    pub(super) fn start_over(&mut self) -> io::Result<()> {
        let mark = Mark {
            position: self.head.position,
            number: self.head.number + 1,
        };
        self.write_header(mark)?;
        self.head = mark;
        self.broken = false;
        Ok(())
    }

    /// Lets go of all records before `mark`; everything in them must be durable in its place.
    pub(super) fn release(&mut self, mark: Mark) -> io::Result<()> {
        // The tail may have gone further meanwhile; it never goes back.
        if mark.number <= self.tail.number {
            return Ok(());
        }
        self.write_header(mark)
    }

    /// Reads data of a record.
    pub(super) fn read_data(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_at(into, at)
    }

    /// Where a record of this length goes; `None` when there is no room.
    fn place(&self, length: u64) -> Option<u64> {
        let (head, tail) = (self.head.position, self.tail.position);
        if self.is_empty() {
            return if length <= self.capacity.saturating_sub(head) {
                Some(head)
            } else {
                // With nothing behind it, the tail is where the head is; a reader that finds nothing there goes on at
                // the beginning.
                (length <= self.capacity - RECORDS_AT).then_some(RECORDS_AT)
            };
        }
        if head > tail {
            if length <= self.capacity.saturating_sub(head) {
                Some(head)
            } else {
                (length <= tail - RECORDS_AT).then_some(RECORDS_AT)
            }
        } else {
            (length <= tail - head).then_some(head)
        }
    }

    fn write_header(&mut self, tail: Mark) -> io::Result<()> {
        let serial = self.serial + 1;
        let mut header = [0; HEADER_LEN];
        let fields = [
            HEADER_MAGIC,
            serial,
            self.capacity,
            tail.position,
            tail.number,
        ];
        for (place, field) in header.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let sum = hash(&header[..HEADER_LEN - 8]);
        header[HEADER_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
        self.file
            .write_at(&[IoSlice::new(&header)], serial % 2 * ALIGN)?;
        self.file.sync_data()?;
        self.serial = serial;
        self.tail = tail;
        Ok(())
    }

    fn read_header(file: &Arc<dyn DiskFile>) -> io::Result<Option<Self>> {
        let length = file.length()?;
        let mut best: Option<Self> = None;
        for at in [0, ALIGN] {
            if length < at + HEADER_LEN as u64 {
                continue;
            }
            let mut header = [0; HEADER_LEN];
            file.read_at(&mut header, at)?;
            let mut fields = [0; HEADER_LEN / 8];
            for (field, bytes) in fields.iter_mut().zip(header.chunks_exact(8)) {
                *field = number(bytes);
            }
            let [magic, serial, capacity, position, number, sum] = fields;
            let sound = magic == HEADER_MAGIC
                && sum == hash(&header[..HEADER_LEN - 8])
                && capacity % ALIGN == 0
                && position % ALIGN == 0
                && (RECORDS_AT..=capacity).contains(&position)
                // They go up by one: whoever made this counted otherwise.
                && serial.max(number) <= COUNT_MAX;
            if sound && best.as_ref().is_none_or(|best| best.serial < serial) {
                let mark = Mark { position, number };
                best = Some(Self {
                    file: Arc::clone(file),
                    capacity,
                    serial,
                    tail: mark,
                    head: mark,
                    broken: false,
                });
            }
        }
        Ok(best)
    }

    /// Reads the record at the head and goes behind it.
    fn next_record(&mut self, block_size: u32) -> io::Result<Option<Vec<Section>>> {
        for position in [self.head.position, RECORDS_AT] {
            if let Some((sections, length)) = self.record_at(position, block_size)? {
                self.head = Mark {
                    position: position + length,
                    number: self.head.number + 1,
                };
                return Ok(Some(sections));
            }
        }
        Ok(None)
    }

    fn record_at(&self, position: u64, block_size: u32) -> io::Result<Option<(Vec<Section>, u64)>> {
        let end = self.file.length()?.min(self.capacity);
        if position + RECORD_HEAD as u64 > end {
            return Ok(None);
        }
        let mut head = [0; RECORD_HEAD];
        self.file.read_at(&mut head, position)?;
        let field = |at: usize| number(&head[at..at + 8]);
        let (meta_length, data_length) = (field(16), field(24));
        let room = end - position - RECORD_HEAD as u64;
        if field(0) != RECORD_MAGIC
            || field(8) != self.head.number
            || meta_length > room.min(META_MAX)
            || data_length > room - meta_length
        {
            return Ok(None);
        }
        let mut meta = vec![0; meta_length as usize];
        self.file
            .read_at(&mut meta, position + RECORD_HEAD as u64)?;
        if field(32) != record_hash(&head[..32], &meta) {
            return Ok(None);
        }
        let data_at = position + RECORD_HEAD as u64 + meta_length;
        let Some(sections) = decode(&meta, data_at, data_length, block_size) else {
            return Ok(None);
        };
        if !self.data_is_whole(&sections, block_size)? {
            return Ok(None);
        }
        Ok(Some((sections, record_length(meta_length, data_length))))
    }

    /// Whether all data of a record came to the disk: each block has the hash that its slot says.
    fn data_is_whole(&self, sections: &[Section], block_size: u32) -> io::Result<bool> {
        let mut block = vec![0; block_size as usize];
        for section in sections {
            if section.kind != SectionKind::Commit {
                continue;
            }
            for entry in &section.entries {
                self.file.read_at(&mut block, entry.data_at)?;
                let stored = crucible_protocol::layout::StoredContext::decode(&entry.stored);
                let expected = match stored {
                    Ok(Some(stored)) => stored.on_disk_hash,
                    _ => return Ok(false),
                };
                if hash(&block) != expected {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn decode(meta: &[u8], data_at: u64, data_length: u64, block_size: u32) -> Option<Vec<Section>> {
    let mut rest = meta;
    let mut sections = Vec::new();
    let mut next_data = 0u64;
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(SECTION_HEAD)?;
        rest = after;
        let extent = ExtentId(u32::from_le_bytes(head[0..4].try_into().ok()?));
        let kind = SectionKind::from_code(head[4])?;
        let before = head[5..5 + METADATA_LEN].try_into().ok()?;
        let after = head[5 + METADATA_LEN..5 + 2 * METADATA_LEN]
            .try_into()
            .ok()?;
        let runs = u32::from_le_bytes(head[SECTION_HEAD - 4..].try_into().ok()?);
        let mut section = Section {
            extent,
            kind,
            before: ExtentMetadata::decode(before).ok()?,
            after: ExtentMetadata::decode(after).ok()?,
            entries: Vec::new(),
            placed: Vec::new(),
        };
        for _ in 0..runs {
            let (run, after) = rest.split_at_checked(RUN_HEAD)?;
            let first = u32::from_le_bytes(run[0..4].try_into().ok()?);
            let count = u32::from_le_bytes(run[4..8].try_into().ok()?);
            if kind == SectionKind::Placed {
                let (letter, after) = after.split_first()?;
                rest = after;
                section.placed.push(PlacedRun {
                    first,
                    count,
                    slot: slot_of(*letter),
                });
                continue;
            }
            let (slots, after) = after.split_at_checked(SLOT_ENTRY.checked_mul(count as usize)?)?;
            rest = after;
            for (index, slot) in slots.chunks_exact(SLOT_ENTRY).enumerate() {
                let (letter, stored) = slot.split_first()?;
                section.entries.push(SlotEntry {
                    block: first.checked_add(u32::try_from(index).ok()?)?,
                    slot: slot_of(*letter),
                    stored: stored.try_into().ok()?,
                    data_at: data_at + next_data,
                });
                if kind == SectionKind::Commit {
                    next_data += u64::from(block_size);
                }
            }
        }
        sections.push(section);
    }
    (next_data == data_length).then_some(sections)
}

const fn slot_of(letter: u8) -> Slot {
    if letter == 0 { Slot::A } else { Slot::B }
}

fn record_hash(head: &[u8], meta: &[u8]) -> u64 {
    // The head is short: its hash is the seed of nothing, but part of the sum.
    hash(head) ^ hash(meta).rotate_left(1)
}

const fn record_length(meta: u64, data: u64) -> u64 {
    round_up(RECORD_HEAD as u64 + meta + data)
}

const fn round_up(length: u64) -> u64 {
    length.div_ceil(ALIGN) * ALIGN
}

fn number(bytes: &[u8]) -> u64 {
    let mut copy = [0; 8];
    copy.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::CrashDisk;

    fn put(disk: &CrashDisk, at: u64, fields: &[u64]) {
        let mut bytes: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        let sum = hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let file = disk.open(JOURNAL_FILE, Access::CreateOrOpen).unwrap();
        file.write_at(&[IoSlice::new(&bytes)], at).unwrap();
    }

    #[test]
    fn a_header_with_numbers_that_nobody_counts_to_is_none() {
        for (serial, number) in [(7, u64::MAX), (u64::MAX, 7), (COUNT_MAX + 1, 1)] {
            let disk = CrashDisk::new();
            put(
                &disk,
                0,
                &[HEADER_MAGIC, serial, 1 << 20, RECORDS_AT, number],
            );
            let (mut journal, sections) = Journal::open(&disk, 1 << 20, 512).unwrap();
            assert!(sections.is_empty() && journal.head.number == 1);
            journal.append(&[], &[]).unwrap();
        }
    }

    #[test]
    fn a_record_is_no_longer_than_its_file_and_no_longer_than_any() {
        for length in [u64::MAX, 1 << 40, META_MAX + 1, 4097] {
            let disk = CrashDisk::new();
            put(&disk, 0, &[HEADER_MAGIC, 2, 1 << 50, RECORDS_AT, 1]);
            put(&disk, RECORDS_AT, &[RECORD_MAGIC, 1, length, 0]);
            let file = disk.open(JOURNAL_FILE, Access::Write).unwrap();
            file.set_length(RECORDS_AT + 4096).unwrap();
            let (journal, sections) = Journal::open(&disk, 1 << 20, 512).unwrap();
            assert!(sections.is_empty() && journal.is_empty());
        }
    }
}
