//! What opening a region after a crash does: records of the journal are written to their place again, and in extents
//! that are marked dirty each block finds its context by hash.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use crucible_protocol::context::{hash, integrity_hash};
use crucible_protocol::layout::{
    ActiveSlots, ExtentLayout, ExtentMetadata, METADATA_LEN, SLOT_LEN, Slot, StoredContext,
};
use crucible_protocol::{ExtentId, Geometry};

use super::direct::PlacedRun;
use super::extent::{Extent, out_of_range, write_tail};
use super::journal::{Journal, Section, SectionKind, SlotEntry};
use crate::disk::DiskFile;

/// Blocks that are looked at in one go.
const STRIDE_BYTES: usize = 1 << 20;

/// What the journal says about one extent, all records taken together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    blocks: BTreeMap<u32, SlotEntry>,
    /// In their place already. What is in [`Plan::blocks`] as well came after it: only what was never written is
    /// placed.
    placed: Vec<PlacedRun>,
    last: ExtentMetadata,
    /// Metadata that the file may have.
    known: Vec<[u8; METADATA_LEN]>,
}

/// Puts the records together: of each block the last version counts.
pub(super) fn plan(sections: Vec<Section>) -> BTreeMap<ExtentId, Plan> {
    let mut plans: BTreeMap<ExtentId, Plan> = BTreeMap::new();
    for section in sections {
        match section.kind {
            SectionKind::Forget => {
                plans.remove(&section.extent);
            }
            SectionKind::Commit | SectionKind::Placed => {
                let plan = plans.entry(section.extent).or_default();
                for metadata in [section.before, section.after] {
                    let bytes = metadata.encode();
                    if plan.known.last() != Some(&bytes) {
                        plan.known.push(bytes);
                    }
                }
                plan.last = section.after;
                plan.placed.extend(section.placed);
                plan.blocks.extend(
                    section
                        .entries
                        .into_iter()
                        .map(|entry| (entry.block, entry)),
                );
            }
        }
    }
    plans
}

impl Plan {
    /// Whether somebody who does not know the journal has flushed this extent since: then it is theirs.
    ///
    /// Metadata may lie over the border of two sectors and be torn there, so what is compared is each side of it.
    pub(super) fn is_overtaken(&self, found: &[u8; METADATA_LEN], layout: &ExtentLayout) -> bool {
        const NUMBERS: std::ops::Range<usize> = 1..17;
        let begin = layout.metadata().start;
        let border = (begin.next_multiple_of(512) - begin).min(METADATA_LEN as u64) as usize;
        let numbers = |bytes: &[u8; METADATA_LEN]| {
            let state = ExtentMetadata::decode(bytes).ok()?.state;
            Some((state.generation, state.flush))
        };
        // The highest, not the last: a flush that failed after its record was durable may be followed by a commit with
        // the numbers from before it.
        if numbers(found) <= self.known.iter().filter_map(numbers).max() {
            return false;
        }
        let side = |range: std::ops::Range<usize>| {
            let range = range.start.max(NUMBERS.start)..range.end.min(NUMBERS.end);
            range.is_empty()
                || self
                    .known
                    .iter()
                    .any(|known| known.get(range.clone()) == found.get(range.clone()))
        };
        !(border > NUMBERS.start
            && border < NUMBERS.end
            && side(0..border)
            && side(border..METADATA_LEN))
    }

    /// Writes everything to its place in the extent file. Answers the metadata it has then. `found`: those it had;
    /// once it is dirty it stays so, since there may be more in it than the journal knows of.
    pub(super) fn redo(
        &self,
        file: &dyn DiskFile,
        journal: &Journal,
        geometry: &Geometry,
        found: ExtentMetadata,
    ) -> io::Result<ExtentMetadata> {
        let layout = ExtentLayout::new(geometry);
        let mut bitmap = vec![0; (layout.bitmap().end - layout.bitmap().start) as usize];
        file.read_at(&mut bitmap, layout.bitmap().start)?;
        let mut active = ActiveSlots::from_bytes(&bitmap, layout.blocks())
            .ok_or_else(|| io::Error::other("no bitmap"))?;
        let mut block = vec![0; geometry.block_size() as usize];
        let elsewhere = || io::Error::other("the journal is of another region");
        for run in &self.placed {
            for block in run.blocks(&layout).ok_or_else(elsewhere)? {
                active.set(block, run.slot);
            }
        }
        for entry in self.blocks.values() {
            let (Some(slot), Some(data)) = (
                layout.slots(entry.slot, entry.block, 1),
                layout.data(entry.block, 1),
            ) else {
                return Err(elsewhere());
            };
            journal.read_data(&mut block, entry.data_at)?;
            file.write_at(&[IoSlice::new(&entry.stored)], slot.start)?;
            file.write_at(&[IoSlice::new(&block)], data.start)?;
            active.set(entry.block, entry.slot);
        }
        let mut metadata = self.last;
        metadata.state.dirty |= found.state.dirty;
        write_tail(file, &active, &metadata, &layout)?;
        Ok(metadata)
    }

    /// Whether the extent file has everything already.
    pub(super) fn is_in_place(
        &self,
        file: &dyn DiskFile,
        geometry: &Geometry,
        found: &ExtentMetadata,
    ) -> io::Result<bool> {
        let layout = ExtentLayout::new(geometry);
        if found.state < self.last.state {
            return Ok(false);
        }
        let mut bitmap = vec![0; (layout.bitmap().end - layout.bitmap().start) as usize];
        file.read_at(&mut bitmap, layout.bitmap().start)?;
        let Some(active) = ActiveSlots::from_bytes(&bitmap, layout.blocks()) else {
            return Ok(false);
        };
        // A dirty extent's bitmap is not believed, so it does not matter.
        let says = |block, slot| found.state.dirty || active.get(block) == Some(slot);
        for run in &self.placed {
            // The rest of them was synced before the record.
            let Some(mut blocks) = run.blocks(&layout) else {
                return Ok(false);
            };
            if !blocks.all(|block| self.blocks.contains_key(&block) || says(block, run.slot)) {
                return Ok(false);
            }
        }
        let mut block = vec![0; geometry.block_size() as usize];
        for entry in self.blocks.values() {
            let (Some(slot), Some(data)) = (
                layout.slots(entry.slot, entry.block, 1),
                layout.data(entry.block, 1),
            ) else {
                return Ok(false);
            };
            if !says(entry.block, entry.slot) {
                return Ok(false);
            }
            let mut stored = [0; SLOT_LEN];
            file.read_at(&mut stored, slot.start)?;
            file.read_at(&mut block, data.start)?;
            let expected = StoredContext::decode(&entry.stored).ok().flatten();
            if stored != entry.stored
                || expected.is_none_or(|expected| expected.on_disk_hash != hash(&block))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What became of the blocks of a dirty extent.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) active: ActiveSlots,
    /// Fit neither context, and were written when the extent was last flushed.
    pub(super) damaged: BTreeSet<u32>,
    /// Fit neither context, and had never been written by then: they are to be unwritten again.
    pub(super) blank: BTreeSet<u32>,
    /// Fit a context whose nonce, tag or hash went bad.
    pub(super) unsound: BTreeSet<u32>,
}

/// Finds for each block of a dirty extent the context that fits it.
///
/// A slot whose hash is that of the block speaks for it. Where none does, the write was torn; the bitmap, which is as
/// of the last flush, then tells what was there before it: nothing (the block goes back to that), or something, which
/// is lost.
pub(super) fn recover_dirty(
    extent: &Extent,
    geometry: &Geometry,
    layout: &ExtentLayout,
) -> io::Result<Recovered> {
    let file = extent.file()?;
    let mut bitmap = vec![0; (layout.bitmap().end - layout.bitmap().start) as usize];
    file.read_at(&mut bitmap, layout.bitmap().start)?;
    let flushed = ActiveSlots::from_bytes(&bitmap, layout.blocks())
        .ok_or_else(|| io::Error::other("no bitmap"))?;
    let mut found = Recovered {
        active: ActiveSlots::new(layout.blocks()),
        damaged: BTreeSet::new(),
        blank: BTreeSet::new(),
        unsound: BTreeSet::new(),
    };
    let block_size = geometry.block_size() as usize;
    let stride = (STRIDE_BYTES / block_size).max(1) as u32;
    let mut data = Vec::new();
    let mut first = 0;
    while first < layout.blocks() {
        let range = first..(first + stride).min(layout.blocks());
        let a = extent.read_slots(Slot::A, &range, layout)?;
        let b = extent.read_slots(Slot::B, &range, layout)?;
        let count = range.end - range.start;
        let place = layout
            .data(first, count)
            .ok_or_else(|| io::Error::other("a block beyond its extent"))?;
        data.resize(count as usize * block_size, 0);
        file.read_at(&mut data, place.start)?;
        let blocks = data.chunks_exact(block_size);
        for (block, ((a, b), data)) in range.zip(a.iter().zip(b.iter()).zip(blocks)) {
            match judge(a, b, data, flushed.get(block)) {
                Judgement::Active(slot) => {
                    found.active.set(block, slot);
                    if !speaks_for(if slot == Slot::B { b } else { a }, data) {
                        found.unsound.insert(block);
                    }
                }
                Judgement::Blank(slot) => {
                    found.active.set(block, slot);
                    found.blank.insert(block);
                }
                Judgement::Damaged => {
                    found
                        .active
                        .set(block, flushed.get(block).unwrap_or_default());
                    found.damaged.insert(block);
                }
            }
        }
        first += count;
    }
    Ok(found)
}

/// The first block of a clean extent that its active slot does not speak for, if there is one.
pub(super) fn first_misfit(
    extent: &mut Extent,
    geometry: &Geometry,
    layout: &ExtentLayout,
) -> io::Result<Option<u32>> {
    let active = extent.load_active(layout)?.clone();
    let file = Arc::clone(extent.file()?);
    let block_size = geometry.block_size() as usize;
    let stride = (STRIDE_BYTES / block_size).max(1) as u32;
    let mut data = Vec::new();
    let mut first = 0;
    while first < layout.blocks() {
        let range = first..first.saturating_add(stride).min(layout.blocks());
        let count = range.end - range.start;
        let a = extent.read_slots(Slot::A, &range, layout)?;
        let b = extent.read_slots(Slot::B, &range, layout)?;
        let place = layout.data(first, count).ok_or_else(out_of_range)?;
        data.resize(count as usize * block_size, 0);
        file.read_at(&mut data, place.start)?;
        let mut blocks = range.zip(a.iter().zip(&b).zip(data.chunks_exact(block_size)));
        let misfit = blocks.find(|(block, ((a, b), data))| {
            let slot = match active.get(*block) {
                Some(Slot::B) => b,
                _ => a,
            };
            !speaks_for(slot, data)
        });
        if let Some((block, _)) = misfit {
            return Ok(Some(block));
        }
        first += count;
    }
    Ok(None)
}

/// Whether a block was written and is what its context says.
pub(super) fn is_good(
    extent: &mut Extent,
    block: u32,
    geometry: &Geometry,
    layout: &ExtentLayout,
) -> io::Result<bool> {
    let flushed = extent.load_active(layout)?.get(block);
    let range = block..block.saturating_add(1);
    let a = extent.read_slots(Slot::A, &range, layout)?;
    let b = extent.read_slots(Slot::B, &range, layout)?;
    let (Some(a), Some(b)) = (a.first(), b.first()) else {
        return Err(out_of_range());
    };
    let place = layout.data(block, 1).ok_or_else(out_of_range)?;
    let mut data = vec![0; geometry.block_size() as usize];
    extent.file()?.read_at(&mut data, place.start)?;
    let active = if extent.metadata.state.dirty {
        match judge(a, b, &data, flushed) {
            Judgement::Active(slot) => slot,
            Judgement::Blank(_) | Judgement::Damaged => return Ok(false),
        }
    } else {
        flushed.unwrap_or_default()
    };
    let slot = if active == Slot::B { b } else { a };
    let written = matches!(StoredContext::decode(slot), Ok(Some(_)));
    Ok(written && speaks_for(slot, &data))
}

/// Whether a slot is that of this block; an empty one, of a block that was never written. Both hashes must fit: the
/// nonce and the tag may have gone bad while the block has not.
pub(super) fn speaks_for(slot: &[u8; SLOT_LEN], data: &[u8]) -> bool {
    match StoredContext::decode(slot) {
        Ok(Some(StoredContext {
            context,
            on_disk_hash,
            ..
        })) => {
            on_disk_hash == hash(data)
                && context.hash == integrity_hash(context.encryption.as_ref(), data)
        }
        Ok(None) => is_zero(data),
        Err(_) => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Active(Slot),
    Blank(Slot),
    Damaged,
}

fn judge(a: &[u8; SLOT_LEN], b: &[u8; SLOT_LEN], data: &[u8], flushed: Option<Slot>) -> Judgement {
    let (a, b) = (StoredContext::decode(a), StoredContext::decode(b));
    let zero = || is_zero(data);
    if a == Ok(None) && b == Ok(None) {
        return if zero() {
            Judgement::Active(Slot::A)
        } else {
            Judgement::Blank(Slot::A)
        };
    }
    let found = hash(data);
    let fits = |slot: &Result<Option<StoredContext>, _>| matches!(slot, Ok(Some(stored)) if stored.on_disk_hash == found);
    if fits(&b) {
        return Judgement::Active(Slot::B);
    }
    if fits(&a) {
        return Judgement::Active(Slot::A);
    }
    let empty = [(Slot::A, a == Ok(None)), (Slot::B, b == Ok(None))]
        .into_iter()
        .find(|(_, empty)| *empty)
        .map(|(slot, _)| slot);
    match empty {
        Some(slot) if flushed == Some(slot) && zero() => Judgement::Active(slot),
        Some(slot) if flushed == Some(slot) => Judgement::Blank(slot),
        _ => Judgement::Damaged,
    }
}

pub(super) fn is_zero(data: &[u8]) -> bool {
    const ZEROS: [u8; 512] = [0; 512];
    data.chunks(ZEROS.len()).all(|part| ZEROS.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_protocol::BlockContext;

    fn slot(data: &[u8]) -> [u8; SLOT_LEN] {
        let context = BlockContext::plain(data);
        StoredContext::encode(Some(&StoredContext {
            context,
            on_disk_hash: context.hash,
            flush_id: 0,
        }))
    }

    #[test]
    fn a_block_finds_its_context_or_what_it_was_before() {
        let (old, new, torn, zero) = ([1; 512], [2; 512], [3; 512], [0; 512]);
        let none = StoredContext::encode(None);
        let broken = [7; SLOT_LEN];
        for (a, b, data, flushed, expected) in [
            (none, none, zero, Slot::A, Judgement::Active(Slot::A)),
            (none, none, torn, Slot::A, Judgement::Blank(Slot::A)),
            (none, slot(&new), new, Slot::A, Judgement::Active(Slot::B)),
            (none, slot(&new), zero, Slot::A, Judgement::Active(Slot::A)),
            (none, slot(&new), torn, Slot::A, Judgement::Blank(Slot::A)),
            (none, slot(&old), torn, Slot::B, Judgement::Damaged),
            (none, slot(&old), zero, Slot::B, Judgement::Damaged),
            (none, broken, torn, Slot::A, Judgement::Blank(Slot::A)),
            (
                slot(&new),
                slot(&old),
                old,
                Slot::B,
                Judgement::Active(Slot::B),
            ),
            (
                slot(&new),
                slot(&old),
                new,
                Slot::B,
                Judgement::Active(Slot::A),
            ),
            (
                slot(&old),
                slot(&old),
                old,
                Slot::A,
                Judgement::Active(Slot::B),
            ),
            (slot(&new), slot(&old), torn, Slot::B, Judgement::Damaged),
            (broken, slot(&old), old, Slot::B, Judgement::Active(Slot::B)),
            (broken, slot(&old), torn, Slot::B, Judgement::Damaged),
        ] {
            assert_eq!(judge(&a, &b, &data, Some(flushed)), expected);
        }
    }
}
