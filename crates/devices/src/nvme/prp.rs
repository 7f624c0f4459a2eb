//! Physical region pages: where a command's data lies.
//!
//! Source: NVM Express Base 1.4, 4.3. The first entry may start anywhere in a page; a second page or a
//! list of pages follows. The last entry of a list page points to the next list page when there is more.

use block::Segment;
use vm_types::{GuestAddress, GuestMemory};

use super::registers::PAGE;
use super::status::Status;

/// Entries of one page of a list.
const LIST_ENTRIES: usize = (PAGE / 8) as usize;

/// Appends the guest memory of a transfer of `length` bytes to `segments`, neighbours joined.
///
/// The walk reads at most one entry a page of data, so `length`, which the caller has bounded, bounds
/// it. Errors leave `segments` longer than it was; the caller cuts it back.
pub(super) fn walk(
    memory: &GuestMemory,
    prp1: u64,
    prp2: u64,
    length: u64,
    segments: &mut Vec<Segment>,
) -> Result<(), Status> {
    if !prp1.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let base = segments.len();
    let first = (PAGE - prp1 % PAGE).min(length);
    push(segments, base, prp1, first);
    let mut left = length - first;
    if left == 0 {
        return Ok(());
    }
    if left <= PAGE {
        return page(segments, base, prp2, left);
    }
    let mut list = prp2;
    if !list.is_multiple_of(8) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    while left > 0 {
        // All entries up to the end of the list's page, as far as they are needed.
        let in_page = ((PAGE - list % PAGE) / 8) as usize;
        let wanted = usize::try_from(left.div_ceil(PAGE)).unwrap_or(usize::MAX);
        let chained = wanted > in_page;
        let count = wanted.min(in_page);
        let mut bytes = [0; LIST_ENTRIES * 8];
        memory
            .read(GuestAddress(list), &mut bytes[..count * 8])
            .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let mut entries = bytes[..count * 8].chunks_exact(8).map(entry);
        let pages = if chained { count - 1 } else { count };
        for address in entries.by_ref().take(pages) {
            let size = left.min(PAGE);
            page(segments, base, address, size)?;
            left -= size;
        }
        if chained {
            list = entries.next().unwrap_or(0);
            // A pointer to a further list page is one to its start.
            if !list.is_multiple_of(PAGE) {
                return Err(Status::PRP_OFFSET_INVALID);
            }
        }
    }
    Ok(())
}

fn entry(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// A whole page, or its beginning.
fn page(segments: &mut Vec<Segment>, base: usize, at: u64, size: u64) -> Result<(), Status> {
    if !at.is_multiple_of(PAGE) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    push(segments, base, at, size);
    Ok(())
}

fn push(segments: &mut Vec<Segment>, base: usize, at: u64, length: u64) {
    if length == 0 {
        return;
    }
    // `length` is at most a page and a transfer at most a few MiB: the sum fits.
    let length = length as u32;
    let joined = segments.len() > base;
    if let Some(last) = segments.last_mut().filter(|_| joined)
        && last.address.0.checked_add(u64::from(last.length)) == Some(at)
    {
        last.length += length;
        return;
    }
    segments.push(Segment {
        address: GuestAddress(at),
        length,
    });
}

/// Copies `data` to where the command's PRP entries point.
pub(super) fn copy_to_guest(
    memory: &GuestMemory,
    prp1: u64,
    prp2: u64,
    data: &[u8],
) -> Result<(), Status> {
    let mut segments = Vec::new();
    walk(memory, prp1, prp2, data.len() as u64, &mut segments)?;
    let mut rest = data;
    for segment in segments {
        let (part, tail) = rest.split_at(rest.len().min(segment.length as usize));
        memory
            .write(segment.address, part)
            .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        rest = tail;
    }
    Ok(())
}

/// Fills `data` from where the command's PRP entries point.
pub(super) fn copy_from_guest(
    memory: &GuestMemory,
    prp1: u64,
    prp2: u64,
    data: &mut [u8],
) -> Result<(), Status> {
    let mut segments = Vec::new();
    walk(memory, prp1, prp2, data.len() as u64, &mut segments)?;
    let mut rest = data;
    for segment in segments {
        let cut = rest.len().min(segment.length as usize);
        let (part, tail) = rest.split_at_mut(cut);
        memory
            .read(segment.address, part)
            .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::flat(0x40_0000).unwrap()
    }

    fn walked(
        memory: &GuestMemory,
        prp1: u64,
        prp2: u64,
        length: u64,
    ) -> Result<Vec<(u64, u32)>, Status> {
        let mut segments = Vec::new();
        walk(memory, prp1, prp2, length, &mut segments)?;
        Ok(segments.iter().map(|s| (s.address.0, s.length)).collect())
    }

    fn list(memory: &GuestMemory, at: u64, entries: &[u64]) {
        for (index, entry) in entries.iter().enumerate() {
            let at = GuestAddress(at + index as u64 * 8);
            memory.write_value(at, *entry).unwrap();
        }
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        let memory = memory();
        assert_eq!(walked(&memory, 0x1000, 0, 512).unwrap(), [(0x1000, 512)]);
        assert_eq!(
            walked(&memory, 0x1e00, 0x8000, 0x1000).unwrap(),
            [(0x1e00, 0x200), (0x8000, 0xe00)]
        );
        assert_eq!(
            walked(&memory, 0x1000, 0x2000, 0x2000).unwrap(),
            [(0x1000, 0x2000)],
            "neighbours are joined"
        );
    }

    #[test]
    fn a_list_runs_on_into_the_next_page() {
        let memory = memory();
        // Two entries are left in the first list page: one page of data, one pointer.
        list(&memory, 0x1ff0, &[0x10_0000, 0x3000]);
        list(&memory, 0x3000, &[0x11_0000, 0x12_0000]);
        assert_eq!(
            walked(&memory, 0x8800, 0x1ff0, 0x800 + 0x2800).unwrap(),
            [
                (0x8800, 0x800),
                (0x10_0000, 0x1000),
                (0x11_0000, 0x1000),
                (0x12_0000, 0x800)
            ]
        );
    }

    #[test]
    fn the_last_entry_of_a_full_list_page_is_data_when_nothing_follows() {
        let memory = memory();
        list(&memory, 0x1ff0, &[0x10_0000, 0x20_0000]);
        assert_eq!(
            walked(&memory, 0x8000, 0x1ff0, 0x3000).unwrap(),
            [(0x8000, 0x1000), (0x10_0000, 0x1000), (0x20_0000, 0x1000)]
        );
    }

    #[test]
    fn misaligned_entries_and_absent_lists_are_refused() {
        let memory = memory();
        let offset = Err(Status::PRP_OFFSET_INVALID);
        assert_eq!(walked(&memory, 0x1001, 0, 512), offset);
        assert_eq!(walked(&memory, 0x1000, 0x2008, 0x2000), offset);
        assert_eq!(walked(&memory, 0x1000, 0x2004, 0x4000), offset);
        list(&memory, 0x2000, &[0x3000, 0x4010]);
        assert_eq!(walked(&memory, 0x1000, 0x2000, 0x3000), offset);
        list(&memory, 0x2ff8, &[0x3010]);
        assert_eq!(walked(&memory, 0x1000, 0x2ff8, 0x3000), offset);
        let unmapped = walked(&memory, 0x1000, 0x4000_0000, 0x3000);
        assert_eq!(unmapped, Err(Status::DATA_TRANSFER_ERROR));
    }

    #[test]
    fn a_list_that_points_to_itself_ends_with_the_transfer() {
        let memory = memory();
        list(&memory, 0x2ff8, &[0x2000]);
        list(&memory, 0x2000, &[0x9000; 511]);
        let segments = walked(&memory, 0x1000, 0x2ff8, 1 << 20).unwrap();
        assert_eq!(segments.len(), 256);
    }
}
